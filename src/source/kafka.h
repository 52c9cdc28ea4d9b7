/*
 * kafka.h
 *		What the files of source/ share: a client of librdkafka that PostgreSQL's memory contexts own.
 *
 * Private to the room; its door is source.h.
 */
#ifndef VELO_KAFKA_H
#define VELO_KAFKA_H

#include "source/source.h"

#include <librdkafka/rdkafka.h>

#include "lib/ilist.h"

/* Longest wait inside librdkafka between two looks at interrupts, in ms */
#define KAFKA_WAIT_SLICE 50

/* Time that INSERT waits for the topic's metadata, in ms */
#define KAFKA_METADATA_TIMEOUT 5000

typedef struct KafkaSetting
{
	const char *name;
	const char *value;
} KafkaSetting;

typedef struct KafkaClient KafkaClient;

/*
 * A librdkafka handle.  Lives in a memory context of its own, a child of the one that was current when it was
 * opened; the handle is closed when that context goes, and at the latest when the process exits.
 */
struct KafkaClient
{
	rd_kafka_t *rk;
	rd_kafka_queue_t *events; /* logs, errors and reports of librdkafka */
	rd_kafka_topic_t *topic;  /* made by kafka_topic_partitions(), else NULL */
	MemoryContext context;
	char *brokers;

	/* Called before the handle closes, to give back what librdkafka would wait for; must not throw. */
	void (*before_close)(void *owner);
	/* Takes a delivery report or the like; must not throw.  NULL: such events are dropped. */
	void (*on_event)(void *owner, rd_kafka_event_t *event);
	void *owner;

	SourceTrouble trouble; /* of the connection, as of the last event */
	char message[512];     /* what librdkafka said last about it, "" if nothing */

	MemoryContextCallback callback;
	dlist_node link;
};

/*
 * Make a client of the stream's brokers.  Settings, from weak to strong: "defaults" (those that this librdkafka
 * does not know are skipped), the stream's properties, "owned".  Both arrays end with a NULL name.  Never waits;
 * ereport if librdkafka refuses a property.
 */
extern KafkaClient *kafka_client_open(rd_kafka_type_t type, const StreamInfo *stream,
									  const KafkaSetting *defaults, const KafkaSetting *owned);
extern void kafka_client_close(KafkaClient *client);

/* Take logs, errors and reports from the client; waits at most timeout_ms for the first.  true: there was one. */
extern bool kafka_client_serve(KafkaClient *client, int timeout_ms);

/* The trouble of the connection as it is now: asks librdkafka whether a lost broker is back.  Never waits. */
extern SourceTrouble kafka_client_trouble(KafkaClient *client);

/* true if the stream's broker is the development broker of this server */
extern bool kafka_is_dev_broker(const char *brokers);

extern SourceTrouble kafka_trouble_of(rd_kafka_resp_err_t err);
extern int kafka_sqlstate_of(rd_kafka_resp_err_t err);

/* Text from outside as one line of printable ASCII, whatever the database's encoding. */
extern void kafka_clean_text(char *dst, Size size, const char *src);

/* ereport(ERROR) for what a broker or librdkafka answered; "doing" as in "could not %s" */
extern void kafka_error(const KafkaClient *client, rd_kafka_resp_err_t err, const char *doing)
	pg_attribute_noreturn();

/*
 * Wait until the broker tells the number of partitions of the client's one topic; ereport on failure.  Sets
 * client->topic.
 */
extern int kafka_topic_partitions(KafkaClient *client, const char *topic, int timeout_ms);

#endif /* VELO_KAFKA_H */
