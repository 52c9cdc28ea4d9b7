/*
 * source.h
 *		The door of source/: records in, from Kafka; records out, for INSERT; and questions to a broker.
 *
 * librdkafka's threads never run code of PostgreSQL's: no callback of velo's runs in them; logs, errors,
 * statistics and delivery reports are taken from queues by the calling thread.  Every function that may wait
 * answers interrupts within 100 ms.  Handles close when their memory context goes, so an ereport(ERROR)
 * anywhere leaks neither threads nor sockets.
 */
#ifndef VELO_SOURCE_H
#define VELO_SOURCE_H

#include "velo.h"

#include "catalog/velo_catalog.h"
#include "format/format.h"

#define SOURCE_OFFSET_BEGINNING (-2)
#define SOURCE_OFFSET_END (-1)

/* The fetch queue's part of a pipeline's memory, and of that of an ad-hoc scan: one in so many */
#define SOURCE_QUEUE_SHARE 4

typedef struct Source Source;

/* What is read of one partition.  The source keeps "position" up to date as it hands records out. */
typedef struct SourcePartition
{
	int32 partition; /* the broker's number */
	int64 position;  /* next offset to hand out; moves past control records at the end, too */
	int64 low;       /* low offset as last seen, -1: not yet */
	int64 end;       /* end offset, or last stable one, as last seen; -1: not yet */
	bool at_end;     /* everything up to "end" has been handed out */
} SourcePartition;

typedef enum SourceTrouble
{
	SOURCE_FINE,
	SOURCE_UNREACHABLE, /* no broker answers */
	SOURCE_NO_TOPIC,
	SOURCE_NOT_AUTHORIZED,
	SOURCE_OUT_OF_RANGE, /* a position is no longer (or not yet) in the log: see the message */
	SOURCE_OTHER_TOPIC,  /* the topic was made anew: positions mean nothing */
	SOURCE_FAILED        /* anything else that librdkafka calls fatal */
} SourceTrouble;

typedef struct SourceStats
{
	int64 queue_depth;    /* records waiting in the fetch queue */
	int64 queue_capacity; /* records at which fetching stops; what is on its way then still comes */
	int64 queue_high_water;
	int64 backpressure_events; /* times that fetching stopped because the queue was full */
	int64 queue_bytes;
} SourceStats;

/*
 * Open a consumer for the partitions of the stream's topic, each at its "position".  Owns no consumer group's
 * rebalancing: the assignment is explicit, offsets are PostgreSQL's.  "queue_kb" bounds the fetch queue.
 * group_id may be NULL (ad-hoc scan).  Connects in the background: never waits.
 * topic_id says which topic the positions are of: nothing is read of another one of its name.  "": not known yet, see
 * source_topic_id(); NULL: it doesn't matter.
 * Runs as the current user: the user mapping is theirs.
 */
extern Source *source_open(const StreamInfo *stream, const char *group_id,
						   const SourcePartition *partitions, int npartitions, int queue_kb,
						   const char *topic_id);

/*
 * Take what is there, at most "max" records into batch->records from batch->nrecords on; never waits.
 * Returns the number taken.  The records' memory is valid until source_release().  The size of keys and
 * values is taken from *budget (bytes); stops early when that is used up, which the last record may exceed.
 */
extern int source_poll(Source *source, RecordBatch *batch, int max, Size *budget);

/* Give all records handed out so far back to librdkafka, together (one by one costs a quarter of the rate). */
extern void source_release(Source *source);

/* A file descriptor that becomes readable when there is something to poll; reset by source_poll() */
extern int source_wakeup_fd(Source *source);

/* true if everything that the broker is known to have of this partition was handed out */
static inline bool
source_caught_up(const SourcePartition *partition)
{
	return partition->at_end || (partition->end >= 0 && partition->position >= partition->end);
}

/* The array is the source's; npartitions may be NULL. */
extern SourcePartition *source_partitions(Source *source, int *npartitions);
/* The id of the topic that is read; "" as long as nobody has told it, and for ever where nobody can. */
extern const char *source_topic_id(Source *source);
/* What keeps the source from reading now; *message is for the user and lives until the next call (may be NULL). */
extern SourceTrouble source_trouble(Source *source, const char **message);
extern void source_stats(Source *source, SourceStats *stats);

/*
 * Tell the consumer group, after the fact and without waiting, how far PostgreSQL has committed: the next
 * offset to read of each assigned partition.  (Positions run ahead of what is committed.)
 */
extern void source_commit_group(Source *source, const int64 *committed);

extern void source_close(Source *source);

/* --- questions to a broker; all wait at most timeout_ms, answer interrupts, and ereport on failure --- */

/* Number of partitions of the stream's topic. */
extern int source_partition_count(const StreamInfo *stream, int timeout_ms);

typedef struct SourceBounds
{
	int64 low;
	int64 end; /* last stable offset */
} SourceBounds;

/* Low and end offsets of partitions 0..n-1; palloc'd array; *npartitions is set. */
extern SourceBounds *source_bounds(const StreamInfo *stream, int *npartitions, int timeout_ms);

/* First offset of each partition whose record is at or after "at"; the end offset where there is none. */
extern int64 *source_offsets_at(const StreamInfo *stream, TimestampTz at, int *npartitions,
								int timeout_ms);

/* --- producing --- */
typedef struct Producer Producer;

typedef struct ProducerHeader
{
	const char *name;
	const char *value; /* NULL: null */
	Size value_len;
} ProducerHeader;

extern Producer *producer_open(const StreamInfo *stream);
/* key/value may be NULL; partition -1: by key; timestamp DT_NOBEGIN: the broker's clock.  Copies. */
extern void producer_send(Producer *producer, int32 partition, const char *key, Size key_len,
						  const char *value, Size value_len, TimestampTz timestamp,
						  const ProducerHeader *headers, int nheaders);
/* Wait for every acknowledgement; ereport(ERROR) if one failed. */
extern void producer_flush(Producer *producer);
extern void producer_close(Producer *producer);

/* --- options --- */
typedef enum PropertyKind
{
	PROPERTY_UNKNOWN,   /* librdkafka does not know it */
	PROPERTY_OWNED,     /* velo's own business: refused */
	PROPERTY_SUPERUSER, /* known, but for superusers */
	PROPERTY_PUBLIC,    /* on the allow list */
	PROPERTY_SECRET     /* on the allow list, in user mappings only */
} PropertyKind;

/* What kind of option a librdkafka property is.  *reason (may be NULL) says why an owned one is refused. */
extern PropertyKind source_property_kind(const char *name, const char **reason);
/* ereport(ERROR) if librdkafka refuses the value. */
extern void source_check_property(const char *name, const char *value);
/* The allow list, comma-separated, for hints. */
extern const char *source_property_list(bool secrets);

/* the body of the development broker's background worker */
extern PGDLLEXPORT void velo_dev_broker_main(Datum arg);

#endif /* VELO_SOURCE_H */
