/*
 * plan.h
 *		The door of plan/: which SELECTs can run continuously, and how; the wrapper's planner half; EXPLAIN.
 *
 * A query is stored as the bound Query of a view (names are bound once).  Planning for a pipeline cuts it in two at
 * its aggregation; see exec/exec.h.
 */
#ifndef VELO_PLAN_H
#define VELO_PLAN_H

#include "velo.h"

#include "catalog/velo_catalog.h"
#include "dialect/dialect.h"
#include "exec/exec.h"
#include "nodes/parsenodes.h"

/* What analysing a SELECT over streams tells before anything is planned. */
typedef struct ContinuousQuery
{
	Query *query; /* bound, with windows as velo.tumble/velo.hop in GROUP BY: what the view holds */
	/* its text, the clauses of the dialect blanked; NULL if it was not analysed from one */
	const char *sql;
	List *streams; /* of Oid, each once, in order of appearance */
	bool grouped;  /* has GROUP BY or aggregates */
	bool windowed; /* the rule of lateness applies */
	EmitMode emit;
	WindowSpec window;
	Index window_ref; /* tleSortGroupRef of the window in the query's groupClause; 0: none */
	/* an unwindowed query's date_bin() or date_trunc() of the event time, and how it cuts it; 0: none */
	Index bin_ref;
	WindowSpec bin;
	/* columns of the result that make its unique key, window start first; NIL for an ungrouped one */
	List *key_columns; /* of int, 1-based */
	bool exclusive; /* GROUP BY covers the key of the only stream: no two pipelines share a group */
} ContinuousQuery;

/*
 * Analyse dialect text.  emit: 'changes', 'final' or NULL as create_query's argument; "stop_at_end" allows FINAL
 * without a window.  grace in microseconds, -1: the text's or the setting.  ereport(ERROR) with a position for what
 * can't run (yet).
 */
extern ContinuousQuery *continuous_analyze(const char *text, const char *emit, bool stop_at_end,
										   int64 grace);

/* The same of a stored query, from its view; as its owner and with its settings, whoever calls. */
extern ContinuousQuery *continuous_load(const QueryInfo *query);

typedef struct StreamUse
{
	Oid relid;
	Bitmapset *wanted; /* attributes that the plan reads */
} StreamUse;

typedef struct ContinuousPlan
{
	ContinuousQuery *query;
	int nstreams;
	StreamUse *streams; /* in the order of query->streams */
	PlannedStmt *input;
	int input_records; /* of each stream, that it was planned for */
	/* the same for INPUT_FEW records, for which a look-up table is better not hashed; NULL: nothing is joined */
	PlannedStmt *input_of_few;
	int record_column;    /* 1-based column of the input's target list */
	GroupedPlan *grouped; /* NULL: the input's rows are the result's */
	TupleDesc result;     /* the result's columns, without junk */
} ContinuousPlan;

/* Plan it, in the current memory context.  Locks what planning locks. */
extern ContinuousPlan *continuous_plan(ContinuousQuery *query);

/* The wrapper's planner half. */
extern void stream_plan_methods(FdwRoutine *routine);

extern void plan_init_hooks(void);

#endif /* VELO_PLAN_H */
