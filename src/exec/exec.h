/*
 * exec.h
 *		The door of exec/: running the two plans of a continuous query, and the scan of a stream.
 *
 * A continuous query is cut in two at its aggregation.  The input plan (scan, WHERE, look-ups, group keys, arguments)
 * is an ordinary plan that is run over each batch of records and yields InputRows; state/ folds them into groups; the
 * output plan (HAVING, SELECT list) is an ordinary plan that is run over the groups to be emitted.  Both plans are
 * PostgreSQL's, so whatever PostgreSQL can evaluate works.  A query without aggregation has only the first.
 */
#ifndef VELO_EXEC_H
#define VELO_EXEC_H

#include "velo.h"

#include "catalog/velo_catalog.h"
#include "foreign/fdwapi.h"
#include "format/format.h"
#include "nodes/plannodes.h"
#include "state/state.h"
#include "utils/tuplestore.h"

/* ------------------------------------------------------------------ the scan of a stream */

/*
 * fdw_private of a stream's ForeignScan: a list of
 *	  0  integer list of wanted attribute numbers
 *	  1  Boolean: continuous
 *	  2  list of bounds for an ad-hoc scan, NIL: none; parallel to fdw_exprs, which holds what metadata is compared
 *		 with.  A bound is an integer list: MetadataKind, btree strategy number, type of the expression, and 1 if
 *		 that is an array of which any element may be equal.
 */
#define SCAN_PRIVATE_ATTRS 0
#define SCAN_PRIVATE_CONTINUOUS 1
#define SCAN_PRIVATE_BOUNDS 2

/* Fill in the executor half of the wrapper's routine: scan, explain, insert. */
extern void stream_scan_methods(FdwRoutine *routine);
extern void stream_insert_methods(FdwRoutine *routine);

/*
 * What the scans of a continuous plan read: for each stream of the query the records [from, to) of its batch.  A row's
 * ctid tells its record: block number = record index, offset number = stream index + 1.
 */
typedef struct BatchSet
{
	int nstreams;
	Oid *relids;
	RecordBatch **batches;
	AttrNumber *event_time; /* of the streams; 0: none */
	int *from;
	int *to;
	int current_stream; /* out: where a scan stood, for the search after a failure; -1: nowhere */
	int current_record;
} BatchSet;

/* What continuous scans started from now on read; NULL: nothing.  "set" must live as long as they run. */
extern void stream_scan_set_batches(BatchSet *set);

/* ------------------------------------------------------------------ the input plan */

typedef struct InputPlan InputPlan;

/* how many records of each stream a plan for few is made for */
#define INPUT_FEW 10

/*
 * Prepare to run a plan over batches: "plan", made for "records" of each stream, or "of_few" (NULL: none), whichever is
 * cheaper for a batch.  "record_column" is the (1-based) column of their target lists that carries the record's ctid.
 */
extern InputPlan *input_plan_create(PlannedStmt *plan, int records, PlannedStmt *of_few,
									int record_column, bool windowed);
extern TupleDesc input_plan_desc(InputPlan *plan);

/*
 * Run the plan over "set", appending to "rows" (values copied where they would not live as long as rows->context).
 * Throws what an expression throws; then the rows appended so far are still there and belong to records before the
 * one at set->current_*, if input_plan_in_order().
 *
 * "vectorized", if the plan can be: a column at a time, which yields the same rows sooner.  What is thrown then need not be
 * of the first record that fails, and the rows appended so far are to be forgotten.
 */
extern void input_plan_run(InputPlan *plan, BatchSet *set, bool vectorized, InputRows *rows);
extern bool input_plan_in_order(InputPlan *plan);
extern bool input_plan_can_vectorize(InputPlan *plan);
/* Of one that can: the expressions, or parts of expressions, that PostgreSQL's executor evaluates row by row all the same. */
extern List *input_plan_row_by_row(InputPlan *plan);

/* ------------------------------------------------------------------ emission */

typedef struct Emitter Emitter;

/* What the emitter makes of one group. */
typedef struct EmittedRow
{
	StateGroup *group;
	bool has_row;  /* false: HAVING is not satisfied (or an error, see below) */
	Datum *values; /* of the result's columns */
	bool *nulls;
	ErrorData *error; /* evaluation failed for this group */
} EmittedRow;

typedef struct GroupedPlan
{
	GroupingSpec *grouping;

	/*
	 * Plan of the output, over the ephemeral named relation OUTPUT_RELATION: columns group_number int4, the group
	 * keys, window_start and window_end (timestamptz, always there), the aggregates.  Its target list: the result's
	 * columns, then group_number.
	 */
	PlannedStmt *output;
	TupleDesc output_relation;

	/*
	 * Plan of the collected aggregates, NULL if there are none; over COLLECTED_RELATION: group_number int4 and the
	 * collected columns.  Its target list: group_number, then the collected aggregates in order.
	 */
	PlannedStmt *collected;
	TupleDesc collected_relation;
	TupleDesc result; /* the result's columns */

	/* what the result's unique key is made of: columns of the result, and where their values come from */
	int nresult_keys;
	int *result_keys;        /* 0-based columns of "result" */
	int *result_key_sources; /* index of a group key, or one of the two below */

	/* of an exclusive query: which group keys are the key of its stream */
	int nstream_keys;
	int *stream_keys; /* indexes of group keys */
} GroupedPlan;

#define KEY_IS_WINDOW_START (-1)
#define KEY_IS_WINDOW_END (-2)

#define OUTPUT_RELATION "velo_groups"
#define COLLECTED_RELATION "velo_collected"

extern Emitter *emitter_create(GroupedPlan *plan);

/*
 * The rows of "groups", one EmittedRow each in the same order, in the current memory context.  An error that an
 * expression throws for a group is put into its row; the others are not harmed.
 */
extern EmittedRow *emitter_run(Emitter *emitter, GroupTable *table, StateGroup **groups,
							   int ngroups);

/* Lock every relation of a plan as the executor expects; false if one is gone. */
extern bool plan_lock_relations(PlannedStmt *plan);

/*
 * Call a function in a subtransaction, in the current memory context.  Returns NULL, or what it threw, a copy in that
 * context, after the subtransaction was rolled back.
 */
extern ErrorData *try_in_subtransaction(void (*step)(void *arg), void *arg);

/*
 * True for errors that a record or row causes (it is set aside); false for those that come from outside and would hit
 * the next one as well (a missing table, a full disk: the pipeline waits and tries again).
 */
extern bool error_is_of_record(int sqlerrcode);

#endif /* VELO_EXEC_H */
