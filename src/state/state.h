/*
 * state.h
 *		The door of state/: windows, groups and their transition states, and how they survive.
 *
 * A GroupTable holds the groups of one pipeline: per window a memory context and a hash table of groups in it, so
 * that closing a window is freeing it.  Transition states are as PostgreSQL's own aggregates define them.
 *
 * Rows are evaluated before (exec/), so applying them can hardly fail.  Where it does, the caller aborts the
 * transaction, destroys the table and loads it again from the last checkpoint; and as a topic that has one such record
 * tends to have more, what a record does is from then on noted, so that it can be taken back.
 */
#ifndef VELO_STATE_H
#define VELO_STATE_H

#include "velo.h"

#include "access/tupdesc.h"
#include "dialect/dialect.h"
#include "nodes/primnodes.h"
#include "utils/timestamp.h"

/* ------------------------------------------------------------------ windows */

/*
 * How event time is cut into windows.  A window is [start, end), named by its start.  WINDOW_TUMBLING with
 * slide = size, WINDOW_HOPPING with any slide <= size or not.  With a zone, sizes are days of that zone's wall clock.
 */
typedef struct WindowSpec
{
	WindowKind kind;    /* WINDOW_NONE: one window without bounds */
	int64 size;         /* microseconds */
	int64 slide;        /* microseconds */
	TimestampTz origin; /* default: the Unix epoch */
	char *zone;         /* NULL: none (UTC, fixed length) */
	char *trunc;     /* field of a date_trunc that serves as window (hour, day, week); NULL: none */
	bool bare_start; /* a date_bin or date_trunc: nobody sees an end, which may be beyond time */
	int64 grace;     /* microseconds */
} WindowSpec;

/* the one window of an unwindowed query */
#define WINDOW_ALL ((TimestampTz) 0)

/* the Unix epoch */
#define WINDOW_EPOCH ((UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)

extern bool window_fits_near_ends(const WindowSpec *spec, TimestampTz time);

/*
 * Are the bounds of all windows that "time" falls into timestamps themselves?  A record for which they are not is bad.
 */
static inline bool
window_fits(const WindowSpec *spec, TimestampTz time)
{
	/* local time differs from UTC by up to a day, and so does the length of a window from its size */
	int64 margin = spec->size + 2 * USECS_PER_DAY;

	return (time >= MIN_TIMESTAMP + margin && time < END_TIMESTAMP - margin) ||
		   window_fits_near_ends(spec, time);
}
#define WINDOW_MISFIT_DETAIL "A window that it falls into begins or ends beyond all timestamps."
/*
 * First and last start of the windows that "time" falls into, of which each starts a slide after the one before; false
 * between windows whose slide is longer than their size.  Negative times floor, as in date_bin.  Only for times that fit.
 */
extern bool window_range(const WindowSpec *spec, TimestampTz time, TimestampTz *first,
						 TimestampTz *last);
/* In how many windows a time can be; ereport(ERROR) if the slide is so short that they are too many */
extern int window_max(const WindowSpec *spec);
/* DT_NOEND if that is beyond all timestamps */
extern TimestampTz window_end(const WindowSpec *spec, TimestampTz start);

/* An interval in microseconds (a day is 24 hours); ereport(ERROR) unless it is positive and of fixed length. */
extern int64 window_length(const Interval *interval, const char *what);
/* Would that return? */
extern bool window_has_length(const Interval *interval);
/* Cut by days of a zone's wall clock; ereport(ERROR) if there is no such zone or the size is not in days. */
extern void window_set_zone(WindowSpec *spec, const char *zone);

/* ------------------------------------------------------------------ grouping */

typedef struct KeySpec
{
	int column; /* of the input rows */
	Oid type;
	Oid collation;
	Oid eqop; /* grouping equality */
} KeySpec;

typedef struct AggSpec
{
	Aggref *aggref; /* for its function, types and collation; its arguments come as columns */
	int nargs;
	int *args;  /* input columns of the transition function's arguments */
	int filter; /* input column of FILTER, -1: none */

	/*
	 * True: the aggregate can't be kept as a transition state that checkpoints (DISTINCT, ORDER BY, WITHIN GROUP, no
	 * combine function, an internal state without serialisation, a final function that spoils its state, anonymous
	 * records as input): its input rows are kept instead.  Set by aggregate_is_collected().
	 */
	bool collected;

	/*
	 * True: DISTINCT, and nevertheless not collected: the distinct values are kept, and a transition is made for each
	 * new one.  Possible if aggregate_is_distinct() and no aggregate of the query is collected.
	 */
	bool distinct;
} AggSpec;

typedef struct GroupingSpec
{
	WindowSpec window;
	int nkeys;
	KeySpec *keys;
	/*
	 * How keys[bin_key], a timestamptz, cuts event time, without being a window: nothing closes by it, but groups that
	 * the watermark has passed need no memory.  WINDOW_NONE: there is no such key.
	 */
	WindowSpec bin;
	int bin_key;
	int naggs;
	AggSpec *aggs;

	/* columns of the input rows that collected aggregates need, in the order in which they are kept */
	int ncollected;
	int *collected;
	TupleDesc input; /* all input columns */
} GroupingSpec;

extern bool aggregate_is_collected(const Aggref *aggref);
extern bool aggregate_is_distinct(const Aggref *aggref);

/*
 * ereport(ERROR) if the current user may not call one of the aggregates.  What they give comes to the output plan as
 * values, so that the executor has nothing to check.
 */
extern void aggregates_check_rights(const GroupingSpec *spec);

/* What an aggregate gives for no input at all; in the current memory context. */
extern Datum aggregate_of_nothing(Aggref *aggref, bool *isnull);

/*
 * Evaluated rows on their way into the groups, column by column.  Values by reference live at least until the
 * transaction's batch is applied.
 */
typedef struct InputRows
{
	MemoryContext context;
	int natts;
	int nrows;
	int capacity;
	Datum **values; /* [natts][capacity] */
	bool **nulls;
	int *record;            /* [capacity] record index in its batch */
	int *stream;            /* [capacity] index of the stream in the query */
	TimestampTz *time;      /* [capacity] event time; set only for windowed queries */
	TimestampTz *watermark; /* [capacity] of its partition before the record; DT_NOBEGIN: none */
	bool *late;             /* [capacity] out: all of its windows were closed */
	bool *created;          /* [capacity] out: was the first of some group */
	int applied;            /* out: the row at which group_table_apply() is, or threw; -1: none */
} InputRows;

extern InputRows *input_rows_create(MemoryContext parent, TupleDesc desc);
extern void input_rows_reset(InputRows *rows);
extern void input_rows_reserve(InputRows *rows, int capacity);
/* Put the rows in the order of their streams and records, so that those of one record stand together. */
extern void input_rows_sort(InputRows *rows);
/* The same as the numbers of the rows, palloc'd. */
extern int *input_rows_order(InputRows *rows);

static inline bool
input_rows_same_record(const InputRows *rows, int a, int b)
{
	return rows->stream[a] == rows->stream[b] && rows->record[a] == rows->record[b];
}

/* ------------------------------------------------------------------ the group table */

typedef struct GroupTable GroupTable;

/* One group.  Opaque but for what emission needs. */
typedef struct StateGroup
{
	TimestampTz window; /* start; WINDOW_ALL */
	Datum *keys;        /* [nkeys] */
	bool *key_nulls;
	bool out;    /* a row of it stands in the sink; set by the emitter, kept by checkpoints */
	bool failed; /* a dead letter stands for it; likewise */
	/* private to state/ */
	uint8 flags;
	uint32 touched; /* the checkpoint before which it was touched last; see also log_load() */
	uint64 hash;
} StateGroup;

/* Fetch what is about to be asked of a group into the processor's cache. */
static inline void
group_prefetch(const StateGroup *group)
{
	/* its keys and values are right behind it */
	for (int line = 0; line < 3; line++)
		__builtin_prefetch((const char *) group + 64 * line);
}

/*
 * A table for one pipeline of a query, empty.  "shared": the groups are those of a merged query, all kept in the
 * stored groups of catalog/: the caller holds the query's lock from apply to commit, groups touched are fetched first
 * and forgotten after the commit.  Lives in a child of the current memory context.
 */
extern GroupTable *group_table_create(const GroupingSpec *spec, Oid query, int pipeline,
									  int memory_kb, bool shared);
extern void group_table_destroy(GroupTable *table);

/* Read the last checkpoint.  Once, into an empty table, before anything else. */
extern void group_table_load(GroupTable *table);

/*
 * Rows into the groups, in two steps.  First get ready for all of them, which reads and writes stored groups; then
 * apply them in order, which touches nothing but memory (and what transition functions do).
 *
 * Apply sets rows->late[] and rows->created[].  A row is late when it falls into windows, but into none with end +
 * grace > its watermark, or all of those are closed already by "closed", the query's watermark as last acted on.
 *
 * When a transition throws, rows->applied is its row.  With "undoable", which costs some time and wants sorted rows,
 * group_table_undo() can then take back what the rows of its record have done; it returns the first row behind them,
 * from which applying can go on.  Else the table is good for nothing but group_table_destroy().
 */
extern void group_table_prepare(GroupTable *table, InputRows *rows, TimestampTz closed);
extern void group_table_apply(GroupTable *table, InputRows *rows, int from, TimestampTz closed,
							  bool undoable);
extern int group_table_undo(GroupTable *table, InputRows *rows);

/* The one group of a global aggregate (no keys, no window), made if it isn't there. */
extern StateGroup *group_table_global(GroupTable *table);

/*
 * Groups touched since the last call, once each.  The array is the table's and valid until the next apply.
 */
extern StateGroup **group_table_take_changed(GroupTable *table, int *ngroups);

/*
 * Groups of windows with end + grace <= watermark, window by window in order of start, about "max" at once; those of a
 * window that are in memory in the order of their keys.  They stay until group_table_drop_closed(); call again after
 * that, or in a later transaction.  Returns false when there is nothing (more) to close.  A window that has begun to
 * close must get no more rows.
 */
extern bool group_table_take_closed(GroupTable *table, TimestampTz watermark, int max,
									StateGroup ***groups, int *ngroups);
extern void group_table_drop_closed(GroupTable *table);

/*
 * Drop groups of such windows that nobody wants to see: one window, or about "max" of the stored groups of one that has
 * more.  Returns false when there is nothing (more) to drop.
 */
extern bool group_table_drop_unseen(GroupTable *table, TimestampTz watermark, int max);

/* Of how many windows with end + grace <= watermark is anything left? */
extern int group_table_count_closed(GroupTable *table, TimestampTz watermark);

/* The least time at which a window of the table closes; DT_NOEND if none is open. */
extern TimestampTz group_table_next_close(GroupTable *table);

/* Value of aggregate "agg" (not a collected one) in a group; allocated in the current memory context. */
extern Datum group_final(GroupTable *table, StateGroup *group, int agg, bool *isnull);

/*
 * The kept input rows of a group, in order: calls "reader" with the values of spec->collected columns.  The current
 * memory context takes garbage.
 */
typedef void (*CollectedReader)(const Datum *values, const bool *nulls, void *arg);
extern void group_collected(GroupTable *table, StateGroup *group, CollectedReader reader,
							void *arg);

/* Mark that "out" or "failed" of a group was changed by the emitter, so that the checkpoint keeps it. */
extern void group_touch(GroupTable *table, StateGroup *group);

/*
 * Make the table durable in the running transaction: append what changed since the last checkpoint, compact some of
 * what is old, move cold groups out: those whose bin the query's watermark has passed, and others when memory is short.
 * Call just before the commit, when nothing has changed since group_table_take_changed(); and of a shared table, whose
 * groups all leave memory then, whenever that is wanted.
 */
extern void group_table_checkpoint(GroupTable *table, TimestampTz watermark);

/* true if a pipeline of the query has groups of its own, outside of the shared ones, by what is committed */
extern bool group_state_is_private(Oid query, int pipeline);

/*
 * Fold the groups of "source", a table of one pipeline, into another of the same grouping, and delete what makes
 * "source" durable.  Groups whose row this changes, or that have none yet, count as changed.  Returns false when that was
 * all, and "source" is to be destroyed; until then call again, after a checkpoint of "table", for memory has no room for
 * all cold groups at once.  Within one transaction.
 */
extern bool group_table_fold(GroupTable *table, GroupTable *source);

/*
 * The same for partial groups that are nowhere but in memory; "source" is empty afterwards, to be filled again.  May
 * throw what a combine function throws: then both tables are good for nothing but to be destroyed.
 */
extern void group_table_fold_partial(GroupTable *table, GroupTable *source);

typedef struct GroupTableStats
{
	int64 groups; /* open, in memory and stored */
	int64 open_windows;
	int64 state_bytes; /* of the last checkpoint, live */
	int64 memory_bytes;
} GroupTableStats;

extern void group_table_stats(GroupTable *table, GroupTableStats *stats);

#endif /* VELO_STATE_H */
