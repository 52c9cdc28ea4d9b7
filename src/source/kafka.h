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

#include <pthread.h>

#include "lib/ilist.h"
#include "port/atomics.h"

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
typedef struct KafkaQuestion KafkaQuestion;

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

	KafkaQuestion *question; /* that is being asked; NULL: none */

	SourceTrouble trouble; /* of the connection, as of the last event */
	char message[512];     /* what librdkafka said last about it, "" if nothing */

	MemoryContextCallback callback;
	dlist_node link;
};

/*
 * Make a client of the stream's brokers.  Settings, from weak to strong: "defaults" (those that this librdkafka
 * does not know are skipped; NULL: none), the stream's properties, "owned".  Both arrays end with a NULL name.  Never
 * waits; ereport if librdkafka refuses a property.
 */
extern KafkaClient *kafka_client_open(rd_kafka_type_t type, const StreamInfo *stream,
									  const KafkaSetting *defaults, const KafkaSetting *owned);
extern void kafka_client_close(KafkaClient *client);
/*
 * Close a handle with what belongs to it; topic may be NULL.  Waits some seconds at most; false if librdkafka's threads are
 * left behind then.  May be called in any thread.
 */
extern bool kafka_handle_close(rd_kafka_t *rk, rd_kafka_topic_t *topic, rd_kafka_queue_t *events);

/* As pthread_create(), for a thread in which no signal handler of PostgreSQL's runs.  May be called in any thread. */
extern int kafka_thread_create(pthread_t *thread, void *(*run)(void *), void *arg);

/* Take logs, errors and reports from the client; waits at most timeout_ms for the first.  true: there was one. */
extern bool kafka_client_serve(KafkaClient *client, int timeout_ms);

/* The trouble of the connection as it is now: asks librdkafka whether a lost broker is back.  Never waits. */
extern SourceTrouble kafka_client_trouble(KafkaClient *client);

/* true if the stream's broker is the development broker of this server */
extern bool kafka_is_dev_broker(const char *brokers);

extern SourceTrouble kafka_trouble_of(rd_kafka_resp_err_t err);
extern int kafka_sqlstate_of(rd_kafka_resp_err_t err);

/* Text from outside as one line of printable ASCII, whatever the database's encoding, without a full stop at its end. */
extern void kafka_clean_text(char *dst, Size size, const char *src);

/* ereport(ERROR) for what a broker or librdkafka answered; "doing" as in "could not %s" */
extern void kafka_error(const KafkaClient *client, rd_kafka_resp_err_t err, const char *doing)
	pg_attribute_noreturn();

/*
 * Wait until the broker tells the number of partitions of the client's one topic; ereport on failure.  Sets
 * client->topic.
 */
extern int kafka_topic_partitions(KafkaClient *client, const char *topic, int timeout_ms);

/*
 * Ask for the id of a topic; the answer comes as an event.  false: this librdkafka can't.
 */
extern bool kafka_topic_id_ask(KafkaClient *client, const char *topic);
/*
 * Is the event such an answer?  Then it is either an error or an id, of TOPIC_ID_SIZE bytes, "" if the broker knows none.
 */
extern bool kafka_topic_id_answer(rd_kafka_event_t *event, char *id, rd_kafka_resp_err_t *err);

/* ------------------------------------------------------------------ kafka_ask.c */

/* A question to a broker for which librdkafka has blocking calls only; malloc'ed, for a thread works on it. */
struct KafkaQuestion
{
	/*
	 * Ask once, and wait at most timeout_ms.  Called in a thread of its own: must call nothing but librdkafka.
	 */
	rd_kafka_resp_err_t (*ask)(KafkaQuestion *question, int timeout_ms);
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic;
	int npartitions; /* of the topic: known, or the answer */
	int64 time;      /* what offsets are asked for */
	int64 *offsets;  /* [npartitions], the answer */

	/* private to kafka_ask.c */
	rd_kafka_queue_t *events;
	rd_kafka_resp_err_t err;
	int timeout_ms;
	int answered_fd; /* an event descriptor, readable when there is an answer */
	pg_atomic_uint32 state;
	bool running; /* there is a thread, not joined yet */
	pthread_t thread;
	dlist_node link;
};

/*
 * Make a question, about the client's handle and topic, with room for the offsets of "npartitions".  It is the client's,
 * which can have one at a time, until kafka_question_free().
 */
extern KafkaQuestion *kafka_question_create(KafkaClient *client,
											rd_kafka_resp_err_t (*ask)(KafkaQuestion *question,
																	   int timeout_ms),
											int npartitions);
/*
 * Ask the client's question, again where a broker is not able to answer yet, for timeout_ms at most.  Answers interrupts.
 * After an error the client must not be used any more but to report that.
 */
extern rd_kafka_resp_err_t kafka_ask(KafkaClient *client, int timeout_ms);
extern void kafka_question_free(KafkaClient *client);

/* The client goes.  true: a thread still asks its question, and will close the handle. */
extern bool kafka_question_abandon(KafkaClient *client);
/* Clean up after threads whose question was abandoned: those that have ended, or, with "wait", all. */
extern void kafka_questions_reap(bool wait);

#endif /* VELO_KAFKA_H */
