/*
 * kafka_producer.c
 *		Records out, for INSERT: idempotent, acknowledged by all replicas.
 *
 * A record counts as written only when its delivery report says so; producer_flush() waits for all of them.
 * A failure is raised by the next call that can throw.
 */
#include "source/kafka.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

struct Producer
{
	KafkaClient *client;
	char *topic;
	int npartitions;
	int64 unacknowledged;
	int64 failed;
	rd_kafka_resp_err_t error; /* of the first that failed */
	int32 error_partition;
};

/* Takes delivery reports; they come in the calling thread. */
static void
producer_on_event(void *owner, rd_kafka_event_t *event)
{
	Producer *producer = owner;
	const rd_kafka_message_t *message;

	if (rd_kafka_event_type(event) != RD_KAFKA_EVENT_DR)
		return;
	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		producer->unacknowledged--;
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			continue;
		if (producer->failed++ == 0)
		{
			producer->error = message->err;
			producer->error_partition = message->partition;
		}
	}
}

/* ereport(ERROR) for a record that librdkafka or the broker refused */
static void
producer_error(const Producer *producer, rd_kafka_resp_err_t err, int32 partition)
{
	if (kafka_trouble_of(err) == SOURCE_UNREACHABLE)
		ereport(
			ERROR, errcode(ERRCODE_CONNECTION_FAILURE),
			errmsg("could not write to topic \"%s\": %s", producer->topic, rd_kafka_err2str(err)),
			errdetail("The Kafka broker is \"%s\".%s%s", producer->client->brokers,
					  producer->client->message[0] != '\0' ? " It said: " : "",
					  producer->client->message));
	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("record is too large for topic \"%s\"", producer->topic),
				errhint("Raise \"message.max.bytes\" of the server, and of the topic."));
	ereport(ERROR, errcode(kafka_sqlstate_of(err)),
			errmsg("could not write to topic \"%s\": %s", producer->topic, rd_kafka_err2str(err)),
			partition >= 0 ? errdetail("The partition is %d, the Kafka broker is \"%s\".",
									   partition, producer->client->brokers)
						   : errdetail("The Kafka broker is \"%s\".", producer->client->brokers));
}

static void
check_failures(const Producer *producer)
{
	if (producer->client->trouble == SOURCE_FAILED)
		ereport(ERROR, errcode(ERRCODE_FDW_ERROR),
				errmsg("could not write to topic \"%s\"", producer->topic),
				errdetail("%s.", producer->client->message));
	if (producer->failed > 0)
		producer_error(producer, producer->error, producer->error_partition);
}

Producer *
producer_open(const StreamInfo *stream)
{
	static const KafkaSetting defaults[] = {
		{"linger.ms", "5"},
		{"message.timeout.ms", "30000"},
		{"queue.buffering.max.kbytes", "65536"},
		/* what Java's producers do, so that equal keys meet in a partition whoever wrote them */
		{"partitioner", "murmur2_random"},
		{NULL},
	};
	static const KafkaSetting owned[] = {
		{"enable.idempotence", "true"},
		{"acks", "all"},
		{"allow.auto.create.topics", "false"},
		{NULL},
	};
	KafkaClient *client = kafka_client_open(RD_KAFKA_PRODUCER, stream, defaults, owned);
	Producer *producer = MemoryContextAllocZero(client->context, sizeof(Producer));

	producer->client = client;
	producer->topic = MemoryContextStrdup(client->context, stream->topic);
	client->owner = producer;
	client->on_event = producer_on_event;

	/* a topic that does not exist must be an error now, not a time-out later */
	producer->npartitions = kafka_topic_partitions(client, stream->topic, KAFKA_METADATA_TIMEOUT);
	return producer;
}

/* Give librdkafka a copy of a record; ms: since 1970, 0 for its own clock. */
static rd_kafka_resp_err_t
produce(Producer *producer, int32 partition, const char *key, Size key_len, const char *value,
		Size value_len, int64 ms, const ProducerHeader *headers, int nheaders)
{
	rd_kafka_headers_t *kafka_headers = rd_kafka_headers_new(nheaders);
	rd_kafka_vu_t args[] = {
		{.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = producer->client->topic},
		{.vtype = RD_KAFKA_VTYPE_PARTITION,
		 .u.i32 = partition == -1 ? RD_KAFKA_PARTITION_UA : partition},
		{.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
		{.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {unconstify(char *, key), key_len}},
		{.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {unconstify(char *, value), value_len}},
		{.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = ms},
		{.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = kafka_headers},
	};
	rd_kafka_error_t *error;
	rd_kafka_resp_err_t err;

	for (int i = 0; i < nheaders; i++)
		rd_kafka_header_add(kafka_headers, headers[i].name, -1, headers[i].value,
							headers[i].value_len);

	/* the headers become librdkafka's if it takes the record */
	error = rd_kafka_produceva(producer->client->rk, args,
							   nheaders > 0 ? lengthof(args) : lengthof(args) - 1);
	err = error == NULL ? RD_KAFKA_RESP_ERR_NO_ERROR : rd_kafka_error_code(error);
	if (error != NULL)
		rd_kafka_error_destroy(error);
	if (error != NULL || nheaders == 0)
		rd_kafka_headers_destroy(kafka_headers);
	return err;
}

void
producer_send(Producer *producer, int32 partition, const char *key, Size key_len, const char *value,
			  Size value_len, TimestampTz timestamp, const ProducerHeader *headers, int nheaders)
{
	int64 ms = 0; /* librdkafka's clock */
	rd_kafka_resp_err_t err;

	CHECK_FOR_INTERRUPTS();
	check_failures(producer);
	if (partition != -1 && (partition < 0 || partition >= producer->npartitions))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("partition %d of topic \"%s\" does not exist", partition, producer->topic),
				errdetail("The topic has %d partitions.", producer->npartitions));
	if (!TIMESTAMP_IS_NOBEGIN(timestamp))
	{
		if (!TIMESTAMP_IS_NOEND(timestamp) && timestamp > SetEpochTimestamp())
			ms = (timestamp - SetEpochTimestamp()) / 1000;
		if (ms == 0)
			ereport(ERROR, errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					errmsg("timestamp of a record must be finite and after 1970-01-01"));
	}

	while ((err = produce(producer, partition, key, key_len, value, value_len, ms, headers,
						  nheaders)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
	{
		CHECK_FOR_INTERRUPTS();
		check_failures(producer);
		kafka_client_serve(producer->client, KAFKA_WAIT_SLICE);
	}
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		producer_error(producer, err, partition);
	producer->unacknowledged++;
	kafka_client_serve(producer->client, 0);
}

void
producer_flush(Producer *producer)
{
	while (producer->unacknowledged > 0)
	{
		CHECK_FOR_INTERRUPTS();
		kafka_client_serve(producer->client, KAFKA_WAIT_SLICE);
	}
	check_failures(producer);
}

void
producer_close(Producer *producer)
{
	kafka_client_close(producer->client);
}
