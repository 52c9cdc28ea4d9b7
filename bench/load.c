/*
 * load.c
 *		Fill a topic with the benchmark's records.
 *
 *	load BROKERS TOPIC COUNT			all at once, event time 1 ms per record from 2026-01-01 on
 *	load BROKERS TOPIC COUNT RATE	so many records a second, with the time at which each is produced as event time
 */
#include "bench.h"

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

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	uint64_t random = 42;
	char error[512];
	char ts[64];
	int64_t count;
	int64_t rate;
	double start;
	rd_kafka_t *rk;
	rd_kafka_topic_t *rkt;

	if (argc < 4)
		bench_die("usage: load BROKERS TOPIC COUNT [RATE]");
	count = atoll(argv[3]);
	rate = argc > 4 ? atoll(argv[4]) : 0;
	conf_set(conf, "bootstrap.servers", argv[1], true);
	conf_set(conf, "enable.idempotence", "true", true);
	conf_set(conf, "linger.ms", rate ? "0" : "50", true);
	conf_set(conf, "batch.size", "1000000", true);
	conf_set(conf, "batch.num.messages", "10000", true);
	conf_set(conf, "queue.buffering.max.messages", "500000", true);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (!rk)
		bench_die(error);
	rkt = rd_kafka_topic_new(rk, argv[2], NULL);

	start = now();
	for (int64_t i = 0; i < count; i++)
	{
		char key[8];
		char value[160];
		int len;

		if (rate)
		{
			double ahead = start + (double) i / rate - now();

			if (ahead > 0)
				nanosleep(&(struct timespec){0, (long) (ahead * 1e9)}, NULL);
			format_time(ts, sizeof(ts), wall_clock_us());
		}
		else
		{
			format_time(ts, sizeof(ts), (FIRST_TIME_MS + i) * 1000);
			strcpy(ts + 23, "Z"); /* milliseconds are enough */
		}
		random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		snprintf(key, sizeof(key), "S%03u", (unsigned) (random >> 33) % 100);
		len = snprintf(value, sizeof(value),
					   "{\"symbol\":\"%s\",\"price\":%u.%02u,\"volume\":%u,\"ts\":\"%s\","
					   "\"trader\":\"T%u\"}",
					   key, 50 + (unsigned) (random >> 40) % 150, (unsigned) (random >> 20) % 100,
					   100 + (unsigned) (random >> 45) % 9900, ts, (unsigned) (random >> 50) % 10);
		while (rd_kafka_produce(rkt, 0, RD_KAFKA_MSG_F_COPY, value, len, key, strlen(key), NULL))
			rd_kafka_poll(rk, 10);
		if (rate || i % 1000 == 0)
			rd_kafka_poll(rk, 0);
	}
	if (rd_kafka_flush(rk, 600000))
		bench_die("not everything was acknowledged");
	return 0;
}
