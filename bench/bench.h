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
#define QUEUE_KBYTES "8192"
#define QUEUE_FULL 50000                     /* records, somewhat fewer than fit */
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
 * What a consumer is measured by, and how.  Time counts from the first record on, so without connecting; CPU from the
 * start of the process, so that nothing fetched ahead is missed.  The second half is for those who need to warm up.
 */
typedef struct Progress
{
	int64_t total;
	int64_t done;
	int64_t first_done;
	int64_t half_done; /* 0: not there yet */
	double first_time;
	double half_time;
	double half_cpu;
} Progress;

static inline void
progress_add(Progress *progress, int64_t n)
{
	progress->done += n;
	if (progress->done == n)
	{
		progress->first_done = n;
		progress->first_time = now();
	}
	if (progress->half_done == 0 && 2 * progress->done >= progress->total)
	{
		progress->half_done = progress->done;
		progress->half_time = now();
		progress->half_cpu = cpu_seconds();
	}
}

/* Prints "RECORDS_PER_SECOND ..._OF_THE_SECOND_HALF CPU_SECONDS_PER_MILLION ..._OF_THE_SECOND_HALF". */
static inline void
progress_print(const Progress *progress)
{
	double end_time = now();
	double end_cpu = cpu_seconds();
	int64_t half = progress->done - progress->half_done;

	printf("%.0f %.0f %.4f %.4f\n",
		   (progress->done - progress->first_done) / (end_time - progress->first_time),
		   half / (end_time - progress->half_time), end_cpu / progress->done * 1e6,
		   (end_cpu - progress->half_cpu) / half * 1e6);
}

/*
 * Consume partition 0 of a topic from its beginning until its end of now, and print the progress.
 *
 * Three things matter here.  Messages are destroyed a batch at once: one by one, both threads meet at the allocator's
 * lock.  The fetch queue is small, so that a record is still in the cache when its turn comes.  And a fetcher that
 * found the queue full is woken: librdkafka before 2.2 lets it sleep for a second.
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
	bool fetcher_stopped = false;
	Progress progress = {0};

	conf_set(conf, "bootstrap.servers", brokers, true);
	conf_set(conf, "group.id", "bench", true);
	conf_set(conf, "enable.auto.commit", "false", true);
	conf_set(conf, "isolation.level", "read_committed", true);
	conf_set(conf, "fetch.queue.backoff.ms", "1", false); /* since 2.2 */
	conf_set(conf, "queued.min.messages", "1000000", true);
	conf_set(conf, "queued.max.messages.kbytes", QUEUE_KBYTES, true);
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (!rk)
		bench_die(error);
	if (rd_kafka_query_watermark_offsets(rk, topic, 0, &low, &end, 10000))
		bench_die("no answer from the broker");
	progress.total = end - low;
	rkt = rd_kafka_topic_new(rk, topic, NULL);
	queue = rd_kafka_queue_new(rk);
	if (rd_kafka_consume_start_queue(rkt, 0, low, queue))
		bench_die("could not start to consume");

	while (progress.done < progress.total)
	{
		size_t depth = rd_kafka_queue_length(queue);
		ssize_t n;
		ssize_t ngood = 0;

		if (depth > QUEUE_FULL)
			fetcher_stopped = true;
		else if (fetcher_stopped && depth < QUEUE_FULL / 2)
		{
			fetcher_stopped = false;
			/* wakes all of librdkafka's threads, and does nothing else */
			rd_kafka_error_destroy(rd_kafka_sasl_set_credentials(rk, "", ""));
		}
		n = rd_kafka_consume_batch_queue(queue, 10, messages, BATCH);
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
		if (ngood > 0)
			progress_add(&progress, ngood);
	}
	progress_print(&progress);
}

#endif /* BENCH_H */
