/*
 * bench.h
 *		What the benchmark's programs share: the records, and the measuring of a consumer.
 *
 * A record is JSON of about 95 bytes; record i is the same in every run:
 *		{"symbol":"S042","price":123.45,"volume":1000,"ts":"2026-01-01T00:00:00.123Z","trader":"T7"}
 * 100 symbols, prices from 50 to 200, event time 1 ms per record.
 */
#ifndef BENCH_H
#define BENCH_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define BATCH 1000
#define FIRST_TIME_MS INT64_C(1767225600000) /* 2026-01-01 */

static inline double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* CPU seconds of all threads of this process so far. */
static inline double
cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static inline void
bench_die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static inline void
conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, bool must)
{
	char error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) && must)
		bench_die(error);
}

/* Called with a batch of messages, all good; does not destroy them. */
typedef void (*BatchHandler)(rd_kafka_message_t **messages, size_t nmessages);

/*
 * Consume partition 0 of a topic from its beginning until its end of now, and print "records seconds cpu_seconds" as
 * counted from the first message on, so without connecting.  Messages are destroyed a batch at once: one by one, both
 * threads meet at the allocator's lock.
 */
static inline void
consume_all(const char *brokers, const char *topic, BatchHandler handler)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_message_t *messages[BATCH];
	char error[512];
	rd_kafka_t *rk;
	rd_kafka_topic_t *rkt;
	rd_kafka_queue_t *queue;
	int64_t low;
	int64_t end;
	int64_t count = 0;
	int64_t first_count = 0;
	double start = 0;
	double start_cpu = 0;

	conf_set(conf, "bootstrap.servers", brokers, true);
	conf_set(conf, "group.id", "bench", true);
	conf_set(conf, "enable.auto.commit", "false", true);
	conf_set(conf, "isolation.level", "read_committed", true);
	/* or else a queue that is full stops the fetcher for a second; the first is not known before librdkafka 2.2 */
	conf_set(conf, "fetch.queue.backoff.ms", "2", false);
	conf_set(conf, "queued.min.messages", "1000000", true);
	conf_set(conf, "queued.max.messages.kbytes", "65536", true);
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (!rk)
		bench_die(error);
	if (rd_kafka_query_watermark_offsets(rk, topic, 0, &low, &end, 10000))
		bench_die("no answer from the broker");
	rkt = rd_kafka_topic_new(rk, topic, NULL);
	queue = rd_kafka_queue_new(rk);
	if (rd_kafka_consume_start_queue(rkt, 0, low, queue))
		bench_die("could not start to consume");

	while (low + count < end)
	{
		ssize_t n = rd_kafka_consume_batch_queue(queue, 10, messages, BATCH);
		ssize_t ngood = 0;

		if (n <= 0)
			continue;
		if (count == 0)
		{
			start = now();
			start_cpu = cpu_seconds();
			first_count = n;
		}
		for (ssize_t i = 0; i < n; i++)
		{
			if (messages[i]->err)
				rd_kafka_message_destroy(messages[i]);
			else
				messages[ngood++] = messages[i];
		}
		if (handler)
			handler(messages, ngood);
		for (ssize_t i = 0; i < ngood; i++)
			rd_kafka_message_destroy(messages[i]);
		count += ngood;
	}
	printf("%lld %.6f %.6f\n", (long long) (count - first_count), now() - start,
		   cpu_seconds() - start_cpu);
}

#endif /* BENCH_H */
