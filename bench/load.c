/*
 * load.c
 *		Fill a topic with the benchmark's records.
 *
 *	load BROKERS TOPIC COUNT [OPTION=VALUE]...
 *
 *	rate=N			so many records a second, with the time at which each is produced as event time; else all at once,
 *					with event times from 2026-01-01 on
 *	step=MS			event time from one record to the next (1)
 *	disorder=S		an event time lies up to so many seconds before that (0)
 *	symbols=N		so many different symbols, each as likely as any other (100)
 *	shuffled=1		each symbol once, in no order, before any comes again (0)
 *	bad=N			so many records of a thousand are no JSON (0)
 *	fields=N		so many fields in a record, those beyond the five behind them (5)
 *	partitions=N	of the topic, by symbol (1)
 *	compression=C	of the batches (none)
 *	log=FILE		with a rate, how well the producer itself kept time: for each record its event time, how many ms later than
 *					planned it was handed to librdkafka, and how many after that the broker had acknowledged it
 *
 * It prints the bytes of all records (their values) together.
 */
#include "bench.h"

typedef struct Options
{
	int64_t rate; /* 0: as fast as it gets */
	unsigned step;
	unsigned disorder;
	unsigned symbols;
	bool shuffled;
	unsigned bad;
	unsigned fields;
	unsigned partitions;
	const char *compression;
	const char *log;
} Options;

#define MAX_FIELDS 1000
/* a prime, so that its multiples, modulo any smaller number, are all numbers below that */
#define SHUFFLE UINT64_C(2147483647)

/* When things happened to a record: in us since 1970, and in s as now() tells it. */
typedef struct Timing
{
	int64_t event_time;
	double due;
	double produced;
	double acknowledged;
} Timing;

static int64_t count;
static int64_t nfailed;

static void
parse_option(Options *options, const char *argument)
{
	const char *value = strchr(argument, '=');

	if (value && strncmp(argument, "rate=", 5) == 0)
		options->rate = atoll(value + 1);
	else if (value && strncmp(argument, "step=", 5) == 0)
		options->step = atoi(value + 1);
	else if (value && strncmp(argument, "disorder=", 9) == 0)
		options->disorder = atoi(value + 1);
	else if (value && strncmp(argument, "symbols=", 8) == 0)
		options->symbols = atoi(value + 1);
	else if (value && strncmp(argument, "shuffled=", 9) == 0)
		options->shuffled = atoi(value + 1);
	else if (value && strncmp(argument, "bad=", 4) == 0)
		options->bad = atoi(value + 1);
	else if (value && strncmp(argument, "fields=", 7) == 0 && atoi(value + 1) <= MAX_FIELDS)
		options->fields = atoi(value + 1);
	else if (value && strncmp(argument, "partitions=", 11) == 0)
		options->partitions = atoi(value + 1);
	else if (value && strncmp(argument, "compression=", 12) == 0)
		options->compression = value + 1;
	else if (value && strncmp(argument, "log=", 4) == 0)
		options->log = value + 1;
	else
		bench_die("no such option");
}

static void
format_time(char *buffer, size_t size, int64_t us)
{
	time_t seconds = us / 1000000;
	struct tm tm;
	size_t len;

	gmtime_r(&seconds, &tm);
	len = strftime(buffer, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buffer + len, size - len, ".%06dZ", (int) (us % 1000000));
}

static int64_t
wall_clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	Timing *timing = message->_private;

	(void) rk;
	(void) opaque;
	if (message->err)
		nfailed++;
	if (timing)
		timing->acknowledged = now();
}

/* One more field into an object of "len" bytes: a number, a string and a Boolean in turn. */
static int
append_field(char *object, int len, unsigned field, unsigned value)
{
	char *end = object + len - 1;

	if (field % 3 == 0)
		return len - 1 + sprintf(end, ",\"field_%u\":%u.5}", field, value);
	if (field % 3 == 1)
		return len - 1 + sprintf(end, ",\"field_%u\":\"text %u\"}", field, value);
	return len - 1 + sprintf(end, ",\"field_%u\":%s}", field, value % 2 ? "true" : "false");
}

static void
write_log(const char *path, const Timing *timings)
{
	FILE *file = fopen(path, "w");

	for (int64_t i = 0; file && i < count; i++)
	{
		char ts[64];

		format_time(ts, sizeof(ts), timings[i].event_time);
		fprintf(file, "%s\t%.3f\t%.3f\n", ts, 1000 * (timings[i].produced - timings[i].due),
				1000 * (timings[i].acknowledged - timings[i].produced));
	}
	if (!file || fclose(file))
		bench_die("cannot write the log");
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	Options options = {
		.step = 1, .symbols = 100, .fields = 5, .partitions = 1, .compression = "none"};
	uint64_t random = 42;
	int64_t bytes = 0;
	char error[512];
	char ts[64];
	double start;
	Timing *timings = NULL;
	rd_kafka_t *rk;
	rd_kafka_topic_t *rkt;

	if (argc < 4 || atoll(argv[3]) < 1)
		bench_die("usage: load BROKERS TOPIC COUNT [OPTION=VALUE]...");
	count = atoll(argv[3]);
	for (int i = 4; i < argc; i++)
		parse_option(&options, argv[i]);
	conf_set(conf, "bootstrap.servers", argv[1], true);
	conf_set(conf, "enable.idempotence", "true", true);
	conf_set(conf, "linger.ms", options.rate ? "0" : "50", true);
	conf_set(conf, "batch.size", "1000000", true);
	conf_set(conf, "batch.num.messages", "10000", true);
	conf_set(conf, "queue.buffering.max.messages", "500000", true);
	conf_set(conf, "compression.codec", options.compression, true);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	if (options.rate)
	{
		timings = calloc(count, sizeof(Timing));
		if (!timings)
			bench_die("out of memory");
	}
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (!rk)
		bench_die(error);
	rkt = rd_kafka_topic_new(rk, argv[2], NULL);

	start = now();
	for (int64_t i = 0; i < count; i++)
	{
		char key[16];
		char value[160 + 32 * MAX_FIELDS];
		unsigned symbol;
		int len;

		random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		if (options.shuffled)
			symbol = i * SHUFFLE % options.symbols;
		else
			symbol = (unsigned) (random >> 33) % options.symbols;
		if (options.rate)
		{
			double due = start + (double) i / options.rate;
			double ahead = due - now();

			if (ahead > 0)
				nanosleep(&(struct timespec){0, (long) (ahead * 1e9)}, NULL);
			timings[i] = (Timing){.event_time = wall_clock_us(), .due = due, .produced = now()};
			format_time(ts, sizeof(ts), timings[i].event_time);
		}
		else
		{
			int64_t time = FIRST_TIME_MS + i * options.step;

			if (options.disorder)
				time -= (random >> 24) % (options.disorder * UINT64_C(1000));
			format_time(ts, sizeof(ts), time * 1000);
			strcpy(ts + 23, "Z"); /* milliseconds are enough */
		}
		snprintf(key, sizeof(key), "S%03u", symbol);
		len = snprintf(value, sizeof(value),
					   "{\"symbol\":\"%s\",\"price\":%u.%02u,\"volume\":%u,\"ts\":\"%s\","
					   "\"trader\":\"T%u\"}",
					   key, 50 + (unsigned) (random >> 40) % 150, (unsigned) (random >> 20) % 100,
					   100 + (unsigned) (random >> 45) % 9900, ts, (unsigned) (random >> 50) % 10);
		for (unsigned field = 5; field < options.fields; field++)
			len = append_field(value, len, field, (unsigned) (random >> 37) % 100000);
		if ((random >> 35) % 1000 < options.bad)
			value[len - 1] = ']';
		bytes += len;
		while (rd_kafka_produce(rkt, symbol % options.partitions, RD_KAFKA_MSG_F_COPY, value, len,
								key, strlen(key), timings ? &timings[i] : NULL))
			rd_kafka_poll(rk, 10);
		if (options.rate || i % 1000 == 0)
			rd_kafka_poll(rk, 0);
	}
	if (rd_kafka_flush(rk, 600000) || nfailed > 0)
		bench_die("not everything was acknowledged");
	if (timings && options.log)
		write_log(options.log, timings);
	printf("%lld\n", (long long) bytes);
	return 0;
}
