/*
 * kafka_consumer.c
 *		Records in: a Source reads an explicit set of partitions of one topic.
 *
 * librdkafka's broker threads fetch into one bounded queue; source_poll() moves what is there into a batch
 * without waiting.  The records point into librdkafka's messages, which the source holds until
 * source_release() destroys them all in one loop: freeing them one by one between other work makes both
 * threads meet at the lock of malloc's arena, at a quarter of the rate.
 *
 * Where a partition ends: librdkafka reports an end of partition only after the broker has waited in vain for
 * more (fetch.wait.max.ms).  So a partition is also at its end when everything below the high watermark of
 * the last answer has been handed out.  The event is still needed past control records and below the open
 * transactions that read_committed hides.
 */
#include "source/kafka.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Records taken from librdkafka's queue at once */
#define POLL_CHUNK 1000

/* librdkafka's own memory of a queued message beyond its value, in bytes (measured) */
#define QUEUED_MESSAGE_OVERHEAD 300

/* How often the offsets of partitions without new records are looked at, in ms */
#define OFFSETS_INTERVAL 500

/* How often a fetcher that sleeps because the queue was full is looked after, in ms */
#define WAKE_FETCHER_INTERVAL 5

/* How often to ask again for the topic's id, in ms: while nothing can be read without it; and else */
#define TOPIC_ID_RETRY 500
#define TOPIC_ID_INTERVAL 10000

/* Waits of 20 ms for the consumer group's answer before the source closes */
#define GROUP_COMMIT_WAITS 10

/* What only the source itself knows of a partition */
typedef struct PartitionState
{
	int64 seen_position; /* as of the last refresh of the offsets */
	int64 eof;           /* offset of the last end-of-partition event; -1: none */
	SourceTrouble trouble;
	char *message; /* in the client's context; NULL: none */
} PartitionState;

struct Source
{
	KafkaClient *client;
	rd_kafka_queue_t *queue;
	char *topic;

	int npartitions;
	SourcePartition *partitions;
	PartitionState *states;
	int32 *numbers;  /* the broker's partition numbers */
	int32 *index_of; /* by the broker's number, -1: not ours */
	int32 nindex_of;
	int ntroubles; /* partitions in trouble */

	/* handed out, not given back */
	rd_kafka_message_t **held;
	int nheld;
	int held_capacity;

	int wakeup_fd;
	TimestampTz offsets_checked_at;

	/* for wake_fetcher() */
	bool fetcher_sleeps;  /* this librdkafka knows no fetch.queue.backoff.ms */
	bool fetcher_stopped; /* the queue was full since it was woken */
	TimestampTz fetcher_woken_at;
	char *username;
	char *password;

	/* which topic it is; see check_topic_id() */
	bool checks_topic_id;
	char topic_id[TOPIC_ID_SIZE]; /* "": not known yet */
	bool topic_id_asked;          /* and not answered */
	bool topic_id_told;           /* it is that one, as the broker says */
	bool is_other_topic;          /* it is another one */
	TimestampTz topic_id_asked_at;
	bool assigned; /* librdkafka reads */

	char *group_id;        /* NULL: none */
	int64 *group_offsets;  /* to tell the consumer group */
	bool group_wanted;     /* it has not been told of them */
	bool group_committing; /* librdkafka is about it */

	/* figures */
	int64 queue_limit;       /* records */
	int64 queue_bytes_limit; /* of values */
	int64 queue_high_water;
	int64 backpressure_events;
	bool queue_full;
	int64 value_size; /* of late, in bytes */
};

static void commit_group(Source *source);
static Jsonb *kafka_headers(const Record *record);

/* Did the consumer group fail to take its offsets, for a reason that passes? */
static bool
group_is_unready(rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		size_t nresults;
		const rd_kafka_group_result_t **results = rd_kafka_AlterConsumerGroupOffsets_result_groups(
			rd_kafka_event_AlterConsumerGroupOffsets_result(event), &nresults);
		const rd_kafka_error_t *error = rd_kafka_group_result_error(results[0]);
		const rd_kafka_topic_partition_list_t *list = rd_kafka_group_result_partitions(results[0]);

		if (error != NULL)
			err = rd_kafka_error_code(error);
		for (int i = 0; list != NULL && i < list->cnt && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
			err = list->elems[i].err;
	}
	return err == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS ||
		   err == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
		   err == RD_KAFKA_RESP_ERR_NOT_COORDINATOR || kafka_trouble_of(err) == SOURCE_UNREACHABLE;
}

/* Is the topic the one that the positions are of? */
static void
take_topic_id(Source *source, const char *id, rd_kafka_resp_err_t err)
{
	KafkaClient *client = source->client;

	source->topic_id_asked = false;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		/* it is asked again; while nothing is read, nothing else would say why */
		if (!source->assigned && err != RD_KAFKA_RESP_ERR__DESTROY)
		{
			client->trouble = kafka_trouble_of(err);
			snprintf(client->message, sizeof(client->message), "topic \"%s\": %s", source->topic,
					 rd_kafka_err2str(err));
		}
		return;
	}
	if (id[0] == '\0')
		source->checks_topic_id = false;
	else if (source->topic_id[0] == '\0')
		strlcpy(source->topic_id, id, TOPIC_ID_SIZE);
	else if (strcmp(source->topic_id, id) != 0)
		source->is_other_topic = true;
	source->topic_id_told = !source->is_other_topic;
}

/* The group has an answer: tell it what came meanwhile, or, in a while, the same again. */
static void
source_on_event(void *owner, rd_kafka_event_t *event)
{
	Source *source = owner;
	char topic_id[TOPIC_ID_SIZE];
	rd_kafka_resp_err_t err;

	if (kafka_topic_id_answer(event, topic_id, &err))
		take_topic_id(source, topic_id, err);
	if (rd_kafka_event_type(event) != RD_KAFKA_EVENT_ALTERCONSUMERGROUPOFFSETS_RESULT)
		return;
	source->group_committing = false;
	if (group_is_unready(event))
		source->group_wanted = true;
	else if (source->group_wanted)
		commit_group(source);
}

/* Give librdkafka back what it would wait for; the client calls it before it closes, or the source itself. */
static void
source_give_back(void *owner)
{
	Source *source = owner;

	source_release(source);

	/* whoever looks at the group's lag shall see where we stopped, but a broker that hangs must not keep us */
	for (int i = 0; source->group_committing && i < GROUP_COMMIT_WAITS; i++)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(source->client->events, 20);

		source_on_event(source, event);
		rd_kafka_event_destroy(event);
	}

	if (source->queue != NULL)
	{
		/* no more wake-ups into a closed descriptor */
		rd_kafka_queue_io_event_enable(source->queue, -1, NULL, 0);
		rd_kafka_queue_io_event_enable(source->client->events, -1, NULL, 0);
		rd_kafka_queue_destroy(source->queue);
		source->queue = NULL;
	}
	if (source->wakeup_fd >= 0)
	{
		close(source->wakeup_fd);
		source->wakeup_fd = -1;
		ReleaseExternalFD();
	}
}

/* (Re)start reading all partitions at their positions; drops what is queued. */
static void
assign(Source *source)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(source->npartitions);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < source->npartitions; i++)
	{
		SourcePartition *p = &source->partitions[i];
		rd_kafka_topic_partition_t *elem =
			rd_kafka_topic_partition_list_add(list, source->topic, p->partition);

		if (p->position == SOURCE_OFFSET_BEGINNING)
			elem->offset = RD_KAFKA_OFFSET_BEGINNING;
		else if (p->position == SOURCE_OFFSET_END)
			elem->offset = RD_KAFKA_OFFSET_END;
		else
			elem->offset = p->position;
	}
	err = rd_kafka_assign(source->client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		kafka_error(source->client, err, "read from Kafka");
	source->assigned = true;
}

static void
ask_topic_id(Source *source, TimestampTz now)
{
	source->topic_id_asked_at = now;
	source->checks_topic_id = kafka_topic_id_ask(source->client, source->topic);
	source->topic_id_asked = source->checks_topic_id;
}

/* A property of the client as it is in effect, palloc'd; "" where it has none. */
static char *
client_property(KafkaClient *client, const char *name)
{
	const rd_kafka_conf_t *conf = rd_kafka_conf(client->rk);
	size_t size = 0;
	char *value;

	if (rd_kafka_conf_get(conf, name, NULL, &size) != RD_KAFKA_CONF_OK)
		return pstrdup("");
	value = palloc(size);
	rd_kafka_conf_get(conf, name, value, &size);
	return value;
}

Source *
source_open(const StreamInfo *stream, const char *group_id, const SourcePartition *partitions,
			int npartitions, int queue_kb, const char *topic_id)
{
	char kbytes[16];
	char messages[16];
	int64 half = Max((int64) queue_kb, 1024) * 1024 / 2; /* of values; of overhead */
	KafkaSetting defaults[] = {
		{"check.crcs", "true"},
		/* the mock answers a fetch at the end of the log only after this time, Kafka when records come */
		{"fetch.wait.max.ms", kafka_is_dev_broker(stream->brokers) ? "10" : "100"},
		{"fetch.queue.backoff.ms", "5"},
		{"reconnect.backoff.max.ms", "2000"},
		{"topic.metadata.propagation.max.ms", "2000"},
		{"topic.metadata.refresh.interval.ms", "60000"},
		{NULL},
	};
	KafkaSetting owned[] = {
		/* librdkafka wants a name even where nothing is committed to the group */
		{"group.id", group_id != NULL ? group_id : "velo"},
		{"enable.auto.commit", "false"},
		{"enable.auto.offset.store", "false"},
		{"auto.offset.reset", "error"},
		{"isolation.level", "read_committed"},
		{"enable.partition.eof", "true"},
		{"allow.auto.create.topics", "false"},
		{"queued.min.messages", messages},
		{"queued.max.messages.kbytes", kbytes},
		{NULL},
	};
	static const uint64 wakeup = 1;
	KafkaClient *client;
	MemoryContext oldcontext;
	Source *source;
	int32 max_partition = -1;

	snprintf(kbytes, sizeof(kbytes), INT64_FORMAT, Min(half / 1024, 2097151));
	snprintf(messages, sizeof(messages), INT64_FORMAT,
			 Min(half / QUEUED_MESSAGE_OVERHEAD, 10000000));

	client = kafka_client_open(RD_KAFKA_CONSUMER, stream, defaults, owned);
	oldcontext = MemoryContextSwitchTo(client->context);

	source = palloc0(sizeof(Source));
	source->client = client;
	source->topic = pstrdup(stream->topic);
	source->group_id = group_id != NULL ? pstrdup(group_id) : NULL;
	source->wakeup_fd = -1;
	source->queue_limit = half / QUEUED_MESSAGE_OVERHEAD;
	source->queue_bytes_limit = half;
	client->owner = source;
	client->before_close = source_give_back;
	client->on_event = source_on_event;

	source->npartitions = npartitions;
	source->partitions = palloc(npartitions * sizeof(SourcePartition));
	source->states = palloc0(npartitions * sizeof(PartitionState));
	source->numbers = palloc(npartitions * sizeof(int32));
	source->group_offsets = palloc(npartitions * sizeof(int64));
	for (int i = 0; i < npartitions; i++)
	{
		SourcePartition *p = &source->partitions[i];

		p->partition = partitions[i].partition;
		p->position = partitions[i].position;
		p->low = -1;
		p->end = -1;
		p->at_end = false;
		source->states[i].seen_position = p->position;
		source->states[i].eof = -1;
		source->numbers[i] = p->partition;
		max_partition = Max(max_partition, p->partition);
	}
	source->nindex_of = max_partition + 1;
	source->index_of = palloc(source->nindex_of * sizeof(int32));
	for (int i = 0; i < source->nindex_of; i++)
		source->index_of[i] = -1;
	for (int i = 0; i < npartitions; i++)
		source->index_of[source->numbers[i]] = i;
	MemoryContextSwitchTo(oldcontext);

	if (!AcquireExternalFD())
		ereport(ERROR, errcode_for_file_access(),
				errmsg("could not open a Kafka source for stream \"%s\": %m", stream->name));
	source->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (source->wakeup_fd < 0)
	{
		ReleaseExternalFD();
		ereport(ERROR, errcode_for_file_access(),
				errmsg("could not create an event descriptor: %m"));
	}
	source->queue = rd_kafka_queue_get_consumer(client->rk);
	rd_kafka_queue_io_event_enable(source->queue, source->wakeup_fd, &wakeup, sizeof(wakeup));
	rd_kafka_queue_io_event_enable(client->events, source->wakeup_fd, &wakeup, sizeof(wakeup));

	source->fetcher_sleeps =
		source_property_kind("fetch.queue.backoff.ms", NULL) == PROPERTY_UNKNOWN;
	oldcontext = MemoryContextSwitchTo(client->context);
	source->username = client_property(client, "sasl.username");
	source->password = client_property(client, "sasl.password");
	MemoryContextSwitchTo(oldcontext);

	if (topic_id != NULL)
	{
		strlcpy(source->topic_id, topic_id, TOPIC_ID_SIZE);
		ask_topic_id(source, GetCurrentTimestamp());
	}
	/* where we have been before, nothing is read before the answer */
	if (!source->checks_topic_id || source->topic_id[0] == '\0')
		assign(source);
	return source;
}

void
source_close(Source *source)
{
	kafka_client_close(source->client);
}

/* Set or, with SOURCE_FINE, clear the trouble of a partition. */
static void
set_partition_trouble(Source *source, int index, SourceTrouble trouble, const char *message)
{
	PartitionState *state = &source->states[index];

	if (state->trouble != SOURCE_FINE)
		source->ntroubles--;
	if (trouble != SOURCE_FINE)
		source->ntroubles++;
	state->trouble = trouble;
	if (state->message != NULL)
		pfree(state->message);
	state->message = message != NULL ? MemoryContextStrdup(source->client->context, message) : NULL;
}

/* A partition in trouble delivers again.  false: too late, for what librdkafka failed to read is missing. */
static bool
partition_recovered(Source *source, int index)
{
	SourceTrouble trouble = source->states[index].trouble;

	if (trouble == SOURCE_FAILED || trouble == SOURCE_OUT_OF_RANGE)
		return false;
	if (trouble != SOURCE_FINE)
		set_partition_trouble(source, index, SOURCE_FINE, NULL);
	return true;
}

/* An error or the end of a partition, which librdkafka reports as a message without a record. */
static void
handle_error(Source *source, const rd_kafka_message_t *message)
{
	SourceTrouble trouble = kafka_trouble_of(message->err);
	char text[400];
	char reason[512];
	SourcePartition *p;
	int index;

	/* the group only shows our offsets to others; librdkafka tells it of every partition */
	if (message->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
		return;
	kafka_clean_text(text, sizeof(text), rd_kafka_message_errstr(message));
	if (message->partition < 0 || message->partition >= source->nindex_of ||
		source->index_of[message->partition] < 0)
	{
		/* of the connection */
		source->client->trouble = trouble;
		strlcpy(source->client->message, text, sizeof(source->client->message));
		return;
	}
	index = source->index_of[message->partition];
	p = &source->partitions[index];

	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		if (!partition_recovered(source, index))
			return;
		p->position = message->offset;
		source->states[index].eof = message->offset;
		trouble = SOURCE_FINE;
		source->client->trouble = SOURCE_FINE;
	}
	else if (trouble == SOURCE_OUT_OF_RANGE)
		snprintf(reason, sizeof(reason),
				 "offset " INT64_FORMAT " of partition %d of topic \"%s\" is not in the log",
				 message->offset >= 0 ? message->offset : p->position, p->partition, source->topic);
	else
		snprintf(reason, sizeof(reason), "partition %d of topic \"%s\": %s", p->partition,
				 source->topic, text);

	if (trouble != SOURCE_FINE || source->states[index].trouble != SOURCE_FINE)
		set_partition_trouble(source, index, trouble, trouble != SOURCE_FINE ? reason : NULL);
}

/*
 * librdkafka tells that a topic or partition does not exist as an error of the client, which names the
 * partition at the start of its text.  Make it the partition's trouble, so that another one's records don't
 * hide it.
 */
static void
note_missing_partition(Source *source)
{
	KafkaClient *client = source->client;
	Size len = strlen(source->topic);
	char reason[512];
	int partition;

	if (strncmp(client->message, source->topic, len) != 0 ||
		sscanf(client->message + len, " [%d]:", &partition) != 1 || partition < 0 ||
		partition >= source->nindex_of || source->index_of[partition] < 0)
		return;
	snprintf(reason, sizeof(reason), "topic \"%s\" does not exist or has no partition %d",
			 source->topic, partition);
	set_partition_trouble(source, source->index_of[partition], SOURCE_NO_TOPIC, reason);
	client->trouble = SOURCE_FINE;
	client->message[0] = '\0';
}

/*
 * Positions mean something only in the topic that they are of, and one that was deleted and made anew looks no different.
 * So nothing is read before the broker has told its id, neither at first nor after the topic was missing.  One that goes
 * and comes between two looks is noticed at the next.
 */
static void
check_topic_id(Source *source, TimestampTz now)
{
	bool missing = false;

	if (!source->checks_topic_id)
		return;
	for (int i = 0; i < source->npartitions && source->ntroubles > 0; i++)
		missing |= source->states[i].trouble == SOURCE_NO_TOPIC;
	if (source->assigned && missing && source->topic_id[0] != '\0')
	{
		rd_kafka_assign(source->client->rk, NULL);
		source->assigned = source->topic_id_told = false;
	}
	if (!source->topic_id_asked &&
		TimestampDifferenceExceeds(source->topic_id_asked_at, now,
								   source->topic_id_told ? TOPIC_ID_INTERVAL : TOPIC_ID_RETRY))
		ask_topic_id(source, now);
}

/* The topic is the right one: read it, if that was waited for. */
static void
read_if_told(Source *source)
{
	if (source->assigned || (source->checks_topic_id && !source->topic_id_told))
		return;
	for (int i = 0; i < source->npartitions; i++)
		set_partition_trouble(source, i, SOURCE_FINE, NULL);
	source->client->trouble = SOURCE_FINE;
	source->client->message[0] = '\0';
	assign(source);
}

/* Bring low, end and at_end of the partitions up to date: of all now and then, else of those that moved. */
static void
refresh_offsets(Source *source, TimestampTz now)
{
	bool all = TimestampDifferenceExceeds(source->offsets_checked_at, now, OFFSETS_INTERVAL);

	if (all)
	{
		source->offsets_checked_at = now;
		if (source->group_wanted && !source->group_committing)
			commit_group(source);
	}
	for (int i = 0; i < source->npartitions; i++)
	{
		SourcePartition *p = &source->partitions[i];
		PartitionState *state = &source->states[i];
		int64 low;
		int64 high;

		if (!all && p->position == state->seen_position && p->position != state->eof)
			continue;
		state->seen_position = p->position;

		if (rd_kafka_get_watermark_offsets(source->client->rk, source->topic, p->partition, &low,
										   &high) != RD_KAFKA_RESP_ERR_NO_ERROR)
			continue;
		if (low >= 0)
			p->low = low;
		p->at_end = state->trouble == SOURCE_FINE && p->position >= 0 &&
					(p->position == high || p->position == state->eof);
		if (p->at_end)
			p->end = p->position;
		else if (high >= 0)
			p->end = high;
	}
}

/* Records in the queue at which fetching stops; what is on its way then still comes. */
static int64
queue_capacity(const Source *source)
{
	/* librdkafka's limit in bytes counts values only */
	return Min(source->queue_limit, source->queue_bytes_limit / Max(source->value_size, 1));
}

/*
 * Wake librdkafka's fetching threads once there is room in the queue again.
 *
 * Before 2.2 a fetcher that found the queue full sleeps for a second, which makes a reader that is slower than
 * the fetcher, as ours is under load, three to ten times slower still.  Setting the SASL credentials, to what
 * they are, is the one harmless call that makes all those threads look again.
 */
static void
wake_fetcher(Source *source, TimestampTz now)
{
	/* the capacity is an estimate, so a fetcher may also have stopped without our noticing */
	if (!source->fetcher_sleeps ||
		(!source->fetcher_stopped &&
		 !TimestampDifferenceExceeds(source->fetcher_woken_at, now, WAKE_FETCHER_INTERVAL)))
		return;
	if ((int64) rd_kafka_queue_length(source->queue) > queue_capacity(source) / 2)
		return;
	source->fetcher_stopped = false;
	source->fetcher_woken_at = now;
	(void) rd_kafka_sasl_set_credentials(source->client->rk, source->username, source->password);
}

/* Look at the fetch queue; called before a poll empties it. */
static void
measure_queue(Source *source)
{
	int64 depth = rd_kafka_queue_length(source->queue);
	int64 capacity = queue_capacity(source);

	source->queue_high_water = Max(source->queue_high_water, depth);
	if (depth >= capacity && !source->queue_full)
		source->backpressure_events++;
	source->queue_full = depth >= capacity;
	if (depth >= capacity / 4 * 3)
		source->fetcher_stopped = true;
}

int
source_poll(Source *source, RecordBatch *batch, int max, Size *budget)
{
	Size value_bytes = 0;
	int taken = 0;
	TimestampTz now;
	uint64 wakeups;

	batch->headers = kafka_headers;
	batch->topic = source->topic;
	batch->partitions = source->numbers;
	max = Min(max, batch->capacity - batch->nrecords);

	/* before the queues are looked at, so that no wake-up is lost; nothing to read is fine */
	if (read(source->wakeup_fd, &wakeups, sizeof(wakeups)) < 0)
		Assert(errno == EAGAIN || errno == EINTR);
	kafka_client_serve(source->client, 0);
	if (source->is_other_topic)
		return 0;
	read_if_told(source);
	measure_queue(source);

	while (taken<max && * budget> 0)
	{
		int chunk = Min(POLL_CHUNK, max - taken);
		rd_kafka_message_t **messages;
		int n;

		if (source->nheld + chunk > source->held_capacity)
		{
			source->held_capacity = source->nheld + Max(chunk, max);
			if (source->held == NULL)
				source->held = MemoryContextAllocHuge(source->client->context,
													  source->held_capacity * sizeof(void *));
			else
				source->held = repalloc_huge(source->held, source->held_capacity * sizeof(void *));
		}
		messages = source->held + source->nheld;
		n = (int) rd_kafka_consume_batch_queue(source->queue, 0, messages, chunk);
		if (n <= 0)
			break;
		source->nheld += n;

		for (int i = 0; i < n; i++)
		{
			rd_kafka_message_t *message = messages[i];
			rd_kafka_timestamp_type_t type;
			Record *record;
			int64 ms;
			int index;

			if (unlikely(message->err != RD_KAFKA_RESP_ERR_NO_ERROR))
			{
				handle_error(source, message);
				continue;
			}
			index = source->index_of[message->partition];
			if (unlikely(source->ntroubles > 0) && !partition_recovered(source, index))
				continue;
			record = &batch->records[batch->nrecords + taken];
			record->value = message->payload;
			record->value_len = message->len;
			record->key = message->key;
			record->key_len = message->key_len;
			record->offset = message->offset;
			ms = rd_kafka_message_timestamp(message, &type);
			record->timestamp =
				ms < 0 || type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
					? DT_NOBEGIN
					: ms * 1000 - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
			record->partition = index;
			record->handle = message;
			source->partitions[index].position = message->offset + 1;
			*budget -= Min(*budget, message->len + message->key_len);
			value_bytes += message->len;
			taken++;
		}
		if (n < chunk)
			break;
	}

	if (source->client->trouble == SOURCE_NO_TOPIC)
		note_missing_partition(source);

	now = GetCurrentTimestamp();
	if (taken > 0)
	{
		source->value_size = (3 * source->value_size + value_bytes / taken) / 4;
		source->client->trouble = SOURCE_FINE;
		batch->nrecords += taken;
		/* with room in the queue, fetching goes on until it stops once more */
		source->queue_full &=
			(int64) rd_kafka_queue_length(source->queue) >= queue_capacity(source);
		wake_fetcher(source, now);
	}
	check_topic_id(source, now);
	refresh_offsets(source, now);
	return taken;
}

void
source_release(Source *source)
{
	for (int i = 0; i < source->nheld; i++)
		rd_kafka_message_destroy(source->held[i]);
	source->nheld = 0;
}

int
source_wakeup_fd(Source *source)
{
	return source->wakeup_fd;
}

SourcePartition *
source_partitions(Source *source, int *npartitions)
{
	if (npartitions != NULL)
		*npartitions = source->npartitions;
	return source->partitions;
}

const char *
source_topic_id(Source *source)
{
	return source->topic_id;
}

SourceTrouble
source_trouble(Source *source, const char **message)
{
	SourceTrouble trouble;
	const char *ignored;

	if (message == NULL)
		message = &ignored;
	*message = NULL;
	if (source->is_other_topic)
		return SOURCE_OTHER_TOPIC;
	if (source->ntroubles > 0)
	{
		for (int i = 0; i < source->npartitions; i++)
		{
			PartitionState *state = &source->states[i];

			if (state->trouble != SOURCE_FINE)
			{
				*message = state->message;
				return state->trouble;
			}
		}
	}
	trouble = kafka_client_trouble(source->client);
	if (trouble != SOURCE_FINE)
		*message = source->client->message;
	return trouble;
}

void
source_stats(Source *source, SourceStats *stats)
{
	stats->queue_depth = rd_kafka_queue_length(source->queue);
	stats->queue_capacity = queue_capacity(source);
	stats->queue_high_water = Max(source->queue_high_water, stats->queue_depth);
	stats->backpressure_events = source->backpressure_events;
	stats->queue_bytes = stats->queue_depth * source->value_size;
}

/*
 * Tell the group what is wanted, one request at a time.  A courtesy: its failure changes nothing.
 *
 * Not by rd_kafka_commit_queue(), for a handle with such a commit under way can't be closed before its answer, or the
 * time-out for a broker that hangs, which is a minute.
 */
static void
commit_group(Source *source)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(source->npartitions);
	rd_kafka_AlterConsumerGroupOffsets_t *request;

	for (int i = 0; i < source->npartitions; i++)
		rd_kafka_topic_partition_list_add(list, source->topic, source->numbers[i])->offset =
			source->group_offsets[i];
	source->group_wanted = false;
	source->group_committing = true;
	request = rd_kafka_AlterConsumerGroupOffsets_new(source->group_id, list);
	rd_kafka_AlterConsumerGroupOffsets(source->client->rk, &request, 1, NULL,
									   source->client->events);
	rd_kafka_AlterConsumerGroupOffsets_destroy(request);
	rd_kafka_topic_partition_list_destroy(list);
}

void
source_commit_group(Source *source, const int64 *committed)
{
	Assert(source->group_id != NULL);
	if (source->npartitions == 0)
		return;
	memcpy(source->group_offsets, committed, source->npartitions * sizeof(int64));
	source->group_wanted = true;
	if (!source->group_committing)
		commit_group(source);
}

/* Bytes of a header as text; as hex, in bytea's way, where they are no UTF-8. */
static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *bytes, Size len)
{
	JsonbValue value;

	value.type = jbvString;
	if (!pg_verify_mbstr(PG_UTF8, bytes, len, true))
	{
		value.val.string.val = palloc(2 + 2 * len);
		value.val.string.val[0] = '\\';
		value.val.string.val[1] = 'x';
		value.val.string.len = 2 + hex_encode(bytes, len, value.val.string.val + 2);
	}
	else
	{
		value.val.string.val = pg_any_to_server(bytes, len, PG_UTF8);
		value.val.string.len = value.val.string.val == bytes ? len : strlen(value.val.string.val);
	}
	pushJsonbValue(state, token, &value);
}

/* A record's headers as a jsonb array of {"key": ..., "value": ...}; NULL when it has none. */
static Jsonb *
kafka_headers(const Record *record)
{
	rd_kafka_headers_t *headers;
	JsonbParseState *state = NULL;
	JsonbValue null_value = {.type = jbvNull};
	const char *name;
	const void *value;
	size_t len;

	if (rd_kafka_message_headers(record->handle, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (size_t i = 0;
		 rd_kafka_header_get_all(headers, i, &name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR;
		 i++)
	{
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		push_text(&state, WJB_KEY, "key", strlen("key"));
		push_text(&state, WJB_VALUE, name, strlen(name));
		push_text(&state, WJB_KEY, "value", strlen("value"));
		if (value == NULL)
			pushJsonbValue(&state, WJB_VALUE, &null_value);
		else
			push_text(&state, WJB_VALUE, value, len);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}
