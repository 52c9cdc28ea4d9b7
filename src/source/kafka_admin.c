/*
 * kafka_admin.c
 *		Questions to a broker: partitions of a topic, their bounds, the offsets of a time.
 *
 * Each call takes a client of its own, for questions are rare and a backend should keep no connection.
 */
#include "source/kafka.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

static KafkaClient *
admin_open(const StreamInfo *stream)
{
	static const KafkaSetting owned[] = {
		{"isolation.level", "read_committed"},
		{"allow.auto.create.topics", "false"},
		{NULL},
	};

	return kafka_client_open(RD_KAFKA_CONSUMER, stream, NULL, owned);
}

/* Sets the question's npartitions.  Runs in a thread, see KafkaQuestion. */
static rd_kafka_resp_err_t
ask_partitions(KafkaQuestion *question, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err =
		rd_kafka_metadata(question->rk, 0, question->topic, &metadata, timeout_ms);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;
	if (metadata->topic_cnt != 1)
		err = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
	else
	{
		err = metadata->topics[0].err;
		question->npartitions = metadata->topics[0].partition_cnt;
	}
	rd_kafka_metadata_destroy(metadata);
	return err;
}

int
kafka_topic_partitions(KafkaClient *client, const char *topic, int timeout_ms)
{
	rd_kafka_resp_err_t err;
	int npartitions;

	if (client->topic == NULL)
		client->topic = rd_kafka_topic_new(client->rk, topic, NULL);
	if (client->topic == NULL)
		kafka_error(client, rd_kafka_last_error(), psprintf("use topic \"%s\"", topic));

	kafka_question_create(client, ask_partitions, 0);
	err = kafka_ask(client, timeout_ms);
	if (kafka_trouble_of(err) == SOURCE_NO_TOPIC)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("topic \"%s\" does not exist", topic),
				errdetail("The Kafka broker is \"%s\".", client->brokers));
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		kafka_error(client, err, psprintf("read the metadata of topic \"%s\"", topic));
	npartitions = client->question->npartitions;
	kafka_question_free(client);
	return npartitions;
}

/* Sets the question's offsets, with one request to each leader.  Runs in a thread, see KafkaQuestion. */
static rd_kafka_resp_err_t
ask_offsets(KafkaQuestion *question, int timeout_ms)
{
	const char *topic = rd_kafka_topic_name(question->topic);
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(question->npartitions);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < question->npartitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = question->time;
	err = rd_kafka_offsets_for_times(question->rk, list, timeout_ms);
	for (int i = 0; i < question->npartitions && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		/* a partition without a leader has no answer, which is not the same as none */
		err = list->elems[i].err;
		question->offsets[list->elems[i].partition] = list->elems[i].offset;
	}
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

/*
 * The offsets that the broker knows for a time of every partition of the client's topic: a time in ms since 1970, or
 * one of librdkafka's logical offsets for the ends of the log.  -1 where there is none.
 */
static int64 *
list_offsets(KafkaClient *client, int npartitions, int64 time, int timeout_ms)
{
	int64 *offsets = palloc(npartitions * sizeof(int64));
	KafkaQuestion *question = kafka_question_create(client, ask_offsets, npartitions);
	rd_kafka_resp_err_t err;

	question->time = time;
	err = kafka_ask(client, timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		kafka_error(
			client, err,
			psprintf("read the offsets of topic \"%s\"", rd_kafka_topic_name(client->topic)));
	memcpy(offsets, question->offsets, npartitions * sizeof(int64));
	kafka_question_free(client);
	return offsets;
}

int
source_partition_count(const StreamInfo *stream, int timeout_ms)
{
	KafkaClient *client = admin_open(stream);
	int npartitions = kafka_topic_partitions(client, stream->topic, timeout_ms);

	kafka_client_close(client);
	return npartitions;
}

/* source_bounds() by a client that is open */
static SourceBounds *
read_bounds(KafkaClient *client, const char *topic, int *npartitions, int timeout_ms)
{
	SourceBounds *bounds;
	int64 *low;
	int64 *end;

	*npartitions = kafka_topic_partitions(client, topic, timeout_ms);
	low = list_offsets(client, *npartitions, RD_KAFKA_OFFSET_BEGINNING, timeout_ms);
	end = list_offsets(client, *npartitions, RD_KAFKA_OFFSET_END, timeout_ms);
	bounds = palloc(*npartitions * sizeof(SourceBounds));
	for (int i = 0; i < *npartitions; i++)
	{
		bounds[i].low = low[i];
		bounds[i].end = Max(end[i], low[i]);
	}
	return bounds;
}

SourceBounds *
source_bounds(const StreamInfo *stream, int *npartitions, int timeout_ms)
{
	KafkaClient *client = admin_open(stream);
	SourceBounds *bounds = read_bounds(client, stream->topic, npartitions, timeout_ms);

	kafka_client_close(client);
	return bounds;
}

/*
 * Find the first record at or after a time in each partition by reading, for brokers that keep no index by
 * time: librdkafka's mock, and logs older than Kafka 0.10.  Sets offsets[] of those partitions that are -1.
 */
static void
search_offsets(const StreamInfo *stream, TimestampTz at, const SourceBounds *bounds,
			   int npartitions, int64 *offsets, int timeout_ms)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "velo offset search", ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	TimestampTz start = GetCurrentTimestamp();
	SourcePartition *partitions = palloc(npartitions * sizeof(SourcePartition));
	RecordBatch batch = {.capacity = 1000};
	int nsearched = 0;
	Source *source;
	bool done = false;

	for (int i = 0; i < npartitions; i++)
	{
		if (offsets[i] != -1)
			continue;
		partitions[nsearched].partition = i;
		partitions[nsearched++].position = bounds[i].low;
	}
	batch.records = palloc(batch.capacity * sizeof(Record));
	source = source_open(stream, NULL, partitions, nsearched,
						 velo_pipeline_memory / SOURCE_QUEUE_SHARE, NULL);
	partitions = source_partitions(source, &nsearched);
	while (!done)
	{
		const char *message;
		SourceTrouble trouble;
		Size unlimited = SIZE_MAX;
		int n;

		batch.nrecords = 0;
		n = source_poll(source, &batch, batch.capacity, &unlimited);
		for (int i = 0; i < n; i++)
		{
			const Record *record = &batch.records[i];
			int partition = batch.partitions[record->partition];

			if (offsets[partition] == -1 && record->timestamp >= at &&
				record->offset < bounds[partition].end)
				offsets[partition] = record->offset;
		}
		source_release(source);

		done = true;
		for (int i = 0; i < nsearched; i++)
		{
			int partition = partitions[i].partition;

			if (offsets[partition] == -1 && partitions[i].position >= bounds[partition].end)
				offsets[partition] = bounds[partition].end;
			done = done && offsets[partition] != -1;
		}

		CHECK_FOR_INTERRUPTS();
		trouble = source_trouble(source, &message);
		if (!done && (trouble != SOURCE_FINE ||
					  TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms)))
			ereport(ERROR, errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					errmsg("could not read topic \"%s\" in time", stream->topic),
					message != NULL ? errdetail("%s.", message) : 0);
		if (!done && n == 0)
		{
			(void) WaitLatchOrSocket(
				MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				source_wakeup_fd(source), KAFKA_WAIT_SLICE, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
	}
	source_close(source);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

int64 *
source_offsets_at(const StreamInfo *stream, TimestampTz at, int *npartitions, int timeout_ms)
{
	KafkaClient *client = admin_open(stream);
	SourceBounds *bounds = read_bounds(client, stream->topic, npartitions, timeout_ms);
	int64 *offsets;
	int64 *oldest;
	int64 ms = 0;
	bool search = false;

	/*
	 * Kafka's times are ms since 1970, none before: round up to the first that is not before "at".  (In microseconds
	 * since 1970 the last timestamps, and infinity, would overflow.)
	 */
	if (at >= SetEpochTimestamp())
		ms = at / 1000 + (at % 1000 > 0) - SetEpochTimestamp() / 1000;
	offsets = list_offsets(client, *npartitions, ms, timeout_ms);
	oldest = list_offsets(client, *npartitions, 0, timeout_ms);
	kafka_client_close(client);

	for (int i = 0; i < *npartitions; i++)
	{
		if (offsets[i] >= 0)
			continue;
		/* none at or after "at"; but one that knows none since 1970 either keeps no times */
		if (bounds[i].low < bounds[i].end && oldest[i] < 0)
			search = true;
		else
			offsets[i] = bounds[i].end;
	}
	if (search)
		search_offsets(stream, at, bounds, *npartitions, offsets, timeout_ms);
	return offsets;
}
