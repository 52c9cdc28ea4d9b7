/*
 * pipeline.h
 *		The door of pipeline/: the launcher, the schedulers, the pipelines, and what they share in memory.
 *
 * One launcher per server (no database), one scheduler per database with queries, one worker per pipeline.  The launcher
 * and the schedulers decide what should run; a pipeline runs until it is told to stop or its query is no longer what it
 * was started for.  Nothing here holds a lock while it waits.
 */
#ifndef VELO_PIPELINE_H
#define VELO_PIPELINE_H

#include "velo.h"

#include "catalog/velo_catalog.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

typedef enum MetricStage
{
	METRIC_BATCH_RECORDS,
	METRIC_POLL, /* this and the following in microseconds */
	METRIC_DECODE,
	METRIC_EVAL,
	METRIC_WRITE,
	METRIC_COMMIT,
	METRIC_STAGES
} MetricStage;

/* Fading histogram of a stage, in logarithmic buckets: for p50, p95 and p99. */
#define METRIC_BUCKETS 64
#define METRIC_FADE 10000 /* a bucket's count at which all are halved */
typedef struct Histogram
{
	pg_atomic_uint32 buckets[METRIC_BUCKETS];
} Histogram;

extern void histogram_add(Histogram *histogram, uint64 value);
/* The value that "fraction" of all do not exceed; 0 if there is none. */
extern double histogram_percentile(Histogram *histogram, double fraction);

typedef enum PipelineState
{
	PIPELINE_FREE, /* the slot is nobody's */
	PIPELINE_STARTING,
	PIPELINE_RUNNING,
	PIPELINE_WAITING, /* for a broker, a topic, a retry */
	PIPELINE_STOPPING
} PipelineState;

/*
 * A worker slot.  Taken and freed under the lock; figures are written by its worker alone, and read by anybody without
 * a lock (64-bit atomics: each is right by itself).
 */
typedef struct PipelineSlot
{
	/* under VeloShared.lock */
	Oid database; /* InvalidOid: free */
	Oid query;
	int pipeline;
	int generation; /* of the query, when this worker was started */
	pid_t pid;
	Latch *latch; /* of the worker, NULL until it has attached */
	PipelineState state;
	bool stop;                /* told to end */
	TimestampTz interrupt_at; /* if it has not by then, or has not yielded */
	bool changed; /* some query of the database did: query_enter() soon; the worker resets it */
	/* somebody is about to wait for its transaction, which is to end soon; the worker resets it */
	bool yield;
	bool done; /* the worker ends on purpose; what there is to say about it has been said */
	TimestampTz started_at;
	int restarts;

	/* figures that are of this run alone; what is committed, counters and offsets, is in the catalog */
	pg_atomic_uint64 last_commit_at;     /* TimestampTz; DT_NOBEGIN: none */
	pg_atomic_uint64 records_per_second; /* times 1000 */
	pg_atomic_uint64 queue_depth;
	pg_atomic_uint64 queue_capacity;
	pg_atomic_uint64 queue_high_water;
	pg_atomic_uint64 backpressure_events;
	pg_atomic_uint64 groups;
	pg_atomic_uint64 open_windows;
	pg_atomic_uint64 state_bytes;
	pg_atomic_uint64 memory_bytes;
	Histogram stages[METRIC_STAGES];
} PipelineSlot;

/* From _PG_init, when preloaded: shared memory, launcher, development broker. */
extern void pipeline_init(void);
/* true if the library was preloaded, so that pipelines can run */
extern bool pipeline_available(void);

/*
 * Does something keep all queries of this database from running?  If so, *error is filled with what velo.queries shows
 * of it.
 */
extern bool pipelines_are_kept(QueryError *error);

/* Something about the queries of this database changed: tell the scheduler when the transaction commits. */
extern void pipeline_notify_at_commit(void);

/* Copies of the slots of a query (all of this database with InvalidOid), palloc'd. */
extern PipelineSlot *pipeline_slots(Oid query, int *nslots);

/* The caller's own slot, in a pipeline worker; NULL elsewhere. */
extern PipelineSlot *pipeline_my_slot(void);
/* Tell the world what the caller's pipeline is doing. */
extern void pipeline_set_state(PipelineState state);
/* Wake the other pipelines of a query (its watermark moved). */
extern void pipeline_wake_siblings(Oid query);

/*
 * Ask the query's pipelines to end their transactions after the batch at hand, for somebody is about to wait for what they
 * have locked.  A batch that takes too long is interrupted, and read again later.
 */
extern void pipeline_ask_to_yield(Oid query);
/* Does a pipeline run, and has it committed anything since it was started? */
extern bool pipeline_has_committed(Oid query, int pipeline);

extern PGDLLEXPORT void velo_launcher_main(Datum arg);
extern PGDLLEXPORT void velo_scheduler_main(Datum arg);
extern PGDLLEXPORT void velo_pipeline_main(Datum arg);

/*
 * The worker's body: run pipeline "pipeline" of the query until it should end (pipeline/worker.c).  Called by
 * velo_pipeline_main() with the slot attached and the database connected as the query's owner.  Returns to end
 * cleanly; errors that should be retried are thrown.
 */
extern void pipeline_run(Oid query, int pipeline, int generation);

#endif /* VELO_PIPELINE_H */
