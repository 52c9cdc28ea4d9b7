/*
 * worker.h
 *		What the files of a pipeline's worker share: worker.c (the loop), process.c (records to rows to groups) and
 *		emit.c (groups to rows of the sink, windows closing).  Private to pipeline/.
 */
#ifndef VELO_WORKER_H
#define VELO_WORKER_H

#include "pipeline/pipeline.h"
#include "plan/plan.h"
#include "sink/sink.h"
#include "source/source.h"

/* One partition of a stream that this pipeline reads. */
typedef struct PipelinePartition
{
	PartitionInfo committed;     /* as in the catalog */
	int64 next_offset;           /* of the running transaction */
	TimestampTz watermark;       /* of the running transaction */
	TimestampTz round_watermark; /* as it was before the current batch */
	bool idle;                   /* of the running transaction */
	/* wall clock; if later, the start of the pipeline or the end of an outage */
	TimestampTz last_record_at;
} PipelinePartition;

typedef struct PipelineStream
{
	StreamInfo *info;
	Source *source;
	Decoder *decoder;
	RecordBatch *batch;
	int npartitions;
	PipelinePartition *partitions; /* in the order of the source's */
	int64 idle_timeout;            /* ms; 0: never */
	bool group_told;               /* of the offsets, by this source */
	TimestampTz refresh_at;        /* when to look for new partitions */
} PipelineStream;

/* A record that could not be processed, on its way to the dead letters. */
typedef struct Failure
{
	const char *kind;
	int stream;
	int record;
	int sqlerrcode;
	char *message;
	char *detail;
} Failure;

/*
 * Where in a transaction an error was thrown: what fails to apply or to fold is replayed with more care, and a failing
 * claim means that the stream's key is not true.
 */
typedef enum PipelineStage
{
	STAGE_NONE,
	STAGE_EVALUATE,
	STAGE_APPLY,
	STAGE_CLAIM,
	STAGE_FOLD,
	STAGE_WRITE,
	STAGE_COMMIT
} PipelineStage;

typedef struct StreamKeys StreamKeys;

typedef struct Pipeline
{
	Oid id;
	int number;
	MemoryContext context;        /* as long as this run */
	MemoryContext plan_context;   /* plans and what hangs on them */
	List *locked;                 /* of Oid: the query, its target, and what the plan reads */
	MemoryContext groups_context; /* that of the plan that the groups were loaded under */
	MemoryContext round_context;  /* reset per batch */
	MemoryContext emit_context;   /* reset per set of emitted groups */

	QueryInfo *query;
	ContinuousPlan *plan;
	InputPlan *input;
	Emitter *emitter;
	Sink *sink;
	GroupTable *groups;      /* NULL: ungrouped */
	GroupTable *partial;     /* of a merged query: of the running transaction; else NULL */
	StreamKeys *stream_keys; /* NULL: nobody else can have a group of this pipeline's */
	InputRows *rows;
	BatchSet set;
	Size batch_budget; /* bytes that the current batches may still take */
	int nstreams;
	PipelineStream *streams;
	WaitEventSet *events;
	PipelineCounters counters; /* of the running transaction, committed with it */
	PipelineCounters committed_counters;

	/* event time */
	TimestampTz closed;   /* the query's watermark as last acted on */
	TimestampTz written;  /* up to which closed windows are written as well; at most "closed" */
	TimestampTz advanced; /* velo.advance_watermark(): event time is at least this */
	TimestampTz all_idle_since; /* wall clock; DT_NOBEGIN: some partition is active */
	TimestampTz idle_stand;     /* the query's watermark when all became idle */

	/* errors */
	PipelineStage stage;
	List *failures;    /* of Failure, this batch, in round_context */
	ErrorData *failed; /* on_error => 'fail': why the query ends after this transaction */
	bool group_failed; /* on_error => 'fail': the error thrown is that of a group */
	int64 careful;     /* records to apply so that each can be taken back, for some have thrown */

	SourceTrouble trouble; /* as the query's error says it */
	/* velo.query_error speaks of a run that has achieved nothing, or of trouble that may be over */
	bool unproven;
	bool due;     /* a transaction is wanted though no record came */
	bool closing; /* so is another one, for the last has written a part of what closes */
	bool behind;  /* and more than one window waits for that: no records are read meanwhile */
	bool folded;  /* of a merged query: no pipeline has groups of its own any more */
	bool in_shared_groups; /* see enter_shared_groups(); of the running transaction */
	bool outdated;         /* the last transaction was: this one enters the shared groups first */
	bool all_stopped;      /* every partition has reached its stop offset */
} Pipeline;

/* worker.c */
/* Does somebody wait for what this transaction has locked, and that may be meant to last for long? */
extern bool is_waited_for(const Pipeline *pipeline);
/* Read a stream anew from its partitions' next offsets on; records of it that were not processed are read again. */
extern void reopen_source(Pipeline *pipeline, PipelineStream *stream);

/* trouble.c */
extern bool watch_sources(Pipeline *pipeline);
/* End the query with an error.  Outside of any transaction. */
extern void fail_query(Pipeline *pipeline, ErrorData *error);

/* Where the rows of the current batch go. */
static inline GroupTable *
groups_to_apply(const Pipeline *pipeline)
{
	return pipeline->partial != NULL && pipeline->careful == 0 ? pipeline->partial
															   : pipeline->groups;
}

/* process.c */
extern void process_round(Pipeline *pipeline);
/* Make a failure of a record of the current batch. */
extern void fail_record(Pipeline *pipeline, const char *kind, int stream, int record,
						const ErrorData *error);
extern bool cut_at_failures(Pipeline *pipeline);
extern void keep_good_rows(Pipeline *pipeline);
/* From now on apply is prepared for records that throw; those of the running transaction are to be replayed. */
extern void be_careful(Pipeline *pipeline);

/* worker.c */
/* The pipelines of a query take turns, until they commit, at what they share. */
extern void take_turn(Pipeline *pipeline);
/*
 * From here to the commit this pipeline alone touches the groups of a merged query.  To be called before it does, and
 * not earlier, for the others wait: what comes before, decoding and evaluating, they do side by side.  Nothing to do
 * for a query that is not merged.
 */
extern void enter_shared_groups(Pipeline *pipeline);

/* stream_keys.c */
extern StreamKeys *stream_keys_create(const GroupedPlan *plan);
/*
 * Claim the stream keys of the groups that the current batch has made.  ereport(ERROR) if another pipeline has claimed
 * one of them, in STAGE_CLAIM.
 */
extern void stream_keys_check(Pipeline *pipeline);
/* Forget claims of windows that are closed everywhere. */
extern void stream_keys_forget(Pipeline *pipeline);

/* bad_groups.c */
extern void fail_bad_groups(Pipeline *pipeline);

/* emit.c */
/* The rows of the current batch, of an ungrouped query. */
extern void emit_appended(Pipeline *pipeline);
/* EMIT CHANGES: the groups that changed since the last call. */
extern void emit_changed(Pipeline *pipeline);
/*
 * Close the windows that the watermark has passed; EMIT FINAL writes them.  DT_NOEND closes all there is.  When "until"
 * has come (DT_NOEND: never), or somebody waits, it stops at the next set of groups and returns whether nothing is
 * left; if there is, call it again in another transaction.  Windows that have begun to close are closed for records, so
 * pipeline->closed must be committed with them.
 */
extern bool close_windows(Pipeline *pipeline, TimestampTz watermark, TimestampTz until);

/* metrics.c */
/* Records a second, for velo.pipelines: falls to 0 when none come.  When to call it again; DT_NOEND: after a commit. */
extern void publish_rate(Pipeline *pipeline);
extern TimestampTz next_rate_at(void);
/* Show what is committed in the worker's slot. */
extern void publish_figures(Pipeline *pipeline);
/* Add to the histogram of a stage. */
extern void record_stage(MetricStage stage, uint64 value);

/* event_time.c */
/*
 * The query's watermark: the least of all active partitions of all pipelines, or the wall clock's pace.  Never falls.
 */
extern TimestampTz query_watermark(Pipeline *pipeline, TimestampTz now);
/* An outage is over: that no record came during it makes no partition idle. */
extern void restart_idle_clocks(Pipeline *pipeline, TimestampTz now);
/* Notice which partitions have become idle, or are not any more. */
extern void update_idleness(Pipeline *pipeline, TimestampTz now);
/* When the wall clock has something to do next; DT_NOEND: nothing. */
extern TimestampTz next_event_time_action(Pipeline *pipeline);

#endif /* VELO_WORKER_H */
