/*
 * explain.c
 *		EXPLAIN of queries over streams, and velo.explain() for those in the dialect.
 *
 * A grouped SELECT that can run continuously is shown as it would be run: the input plan below a node that stands for
 * state/.  That node is for display; nothing executes it.  EXPLAIN ANALYZE shows the ordinary plan, for that is what it
 * runs, followed by what running it continuously would mean; so does velo.explain() of a query that is not grouped.
 */
#include "plan/continuous.h"
#include "plan/stream_path.h"

#include <math.h>

#include "access/xact.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "optimizer/tlist.h"
#include "parser/parser.h"
#include "portability/instr_time.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/ruleutils.h"
#include "utils/tuplestore.h"

#define NODE_NAME "Velo Stream Aggregate"

/* The node, and what it shows. */
typedef struct DisplayState
{
	CustomScanState css;
	ContinuousPlan *plan;
} DisplayState;

/* What velo.explain() is explaining, for the hook to know what its query in plain SQL doesn't say. */
static const ContinuousQuery *explained = NULL;
/* The plan for which a display node is being made. */
static ContinuousPlan *displayed = NULL;

static ExplainOneQuery_hook_type previous_hook = NULL;

PG_FUNCTION_INFO_V1(velo_explain);

/* ------------------------------------------------------------------ properties */

static char *
show_duration(int64 microseconds)
{
	Interval interval = {.time = microseconds};
	Datum justified = DirectFunctionCall1(interval_justify_hours, IntervalPGetDatum(&interval));

	return DatumGetCString(DirectFunctionCall1(interval_out, justified));
}

static char *
show_window(const WindowSpec *window)
{
	StringInfoData text;

	initStringInfo(&text);
	if (window->trunc != NULL)
		appendStringInfo(&text, "date_trunc %s", window->trunc);
	else if (window->kind == WINDOW_HOPPING)
		appendStringInfo(&text, "hopping, %s every %s", show_duration(window->size),
						 show_duration(window->slide));
	else
		appendStringInfo(&text, "tumbling, %s", show_duration(window->size));
	if (window->zone != NULL)
		appendStringInfo(&text, " of %s", window->zone);
	if (window->trunc == NULL && window->origin != WINDOW_EPOCH)
		appendStringInfo(&text, ", origin %s", timestamptz_to_str(window->origin));
	return text.data;
}

static char *
show_emit(const ContinuousQuery *query)
{
	const char *what;

	if (query->grouped && query->emit == EMIT_FINAL)
		return query->windowed ? "final: each group of a window once, when the window closes"
							   : "final: each group once, when the query stops at its end";
	what = query->grouped ? "changes: each group that changed, at each commit"
						  : "each row, at the commit of its record";
	return psprintf("%s (every %d ms under load, at once otherwise)", what, velo_commit_interval);
}

/* Have all streams of the query the same bound of disorder? */
static bool
delay_is_same(const ContinuousQuery *query, int64 *delay)
{
	ListCell *cell;

	*delay = stream_get(linitial_oid(query->streams))->watermark;
	foreach (cell, query->streams)
		if (stream_get(lfirst_oid(cell))->watermark != *delay)
			return false;
	return true;
}

/* When a window closes and what is late: in event time if one number says it, else in watermarks. */
static void
explain_closing(const ContinuousQuery *query, ExplainState *es)
{
	int64 delay;
	bool same = delay_is_same(query, &delay);
	int64 distance = query->window.grace + (same ? delay : 0);
	const char *clock = same ? "event time" : "watermark";
	const char *own_clock = same ? "the greatest event time that its own partition had already"
								 : "the watermark of its own partition";
	char *past = distance > 0 ? psprintf("%s past its end", show_duration(distance)) : "its end";
	char *ended = distance > 0 ? psprintf("ended %s or more before", show_duration(distance))
							   : "had ended by";

	ExplainPropertyText(
		"Window Closes",
		psprintf("when the %s of every partition that is not idle has reached %s", clock, past),
		es);
	ExplainPropertyText(
		"Late",
		psprintf("a record %s %s %s",
				 query->window.kind == WINDOW_HOPPING ? "all of whose windows" : "whose window",
				 ended, own_clock),
		es);
}

static const char *
show_mode(const ContinuousQuery *query)
{
	if (query->exclusive)
		return "exclusive: the groups include the key of the stream, so each is of one pipeline "
			   "alone";
	if (list_length(query->streams) > 1)
		return "merged: pipelines share groups, which are of several streams";
	return stream_get(linitial_oid(query->streams))->nkeys > 0
			   ? "merged: pipelines share groups, which don't include the key of the stream"
			   : "merged: pipelines share groups, for the stream has no key";
}

/* What does not depend on the plan. */
static void
explain_query(const ContinuousQuery *query, ExplainState *es)
{
	if (query->window.kind != WINDOW_NONE)
		ExplainPropertyText("Window", show_window(&query->window), es);
	if (query->windowed)
		ExplainPropertyText("Grace", show_duration(query->window.grace), es);
	ExplainPropertyText("Emit", show_emit(query), es);
	if (query->windowed)
		explain_closing(query, es);
	else
		ExplainPropertyText("Late", "never, for there is no window", es);
	if (query->grouped)
		ExplainPropertyText("Mode", show_mode(query), es);
}

/* ------------------------------------------------------------------ the display node */

/* An expression of the query; its range table is the beginning of the plan's. */
static char *
show_expression(Node *expr, List *context, ExplainState *es)
{
	return deparse_expression(expr, context, list_length(es->rtable) > 1 || es->verbose, false);
}

/* The groups that the planner expects of what it believes to be in the topics, without what the hash table adds. */
static void
explain_state(const Plan *plan, ExplainState *es)
{
	double kb = ceil(plan->plan_rows * plan->plan_width / 1024.0);

	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		ExplainPropertyText(
			"State Estimate",
			psprintf("%.0f groups of %d bytes, %.0fkB", plan->plan_rows, plan->plan_width, kb), es);
		return;
	}
	ExplainOpenGroup("State Estimate", "State Estimate", true, es);
	ExplainPropertyFloat("Groups", NULL, plan->plan_rows, 0, es);
	ExplainPropertyInteger("Group Width", "B", plan->plan_width, es);
	ExplainPropertyFloat("Size", "kB", kb, 0, es);
	ExplainCloseGroup("State Estimate", "State Estimate", true, es);
}

/* What of the input plan is not evaluated a column at a time. */
static void
explain_evaluation(ContinuousPlan *plan, List *context, ExplainState *es)
{
	InputPlan *input = input_plan_create(plan->input, plan->input_records, NULL,
										 plan->record_column, plan->query->windowed);
	List *shown = NIL;
	ListCell *cell;

	if (!velo_vectorized || !input_plan_can_vectorize(input))
	{
		ExplainPropertyText("Row by Row", "all expressions", es);
		return;
	}
	foreach (cell, input_plan_row_by_row(input))
		shown = list_append_unique(shown, makeString(show_expression(lfirst(cell), context, es)));
	foreach (cell, shown)
		lfirst(cell) = strVal(lfirst(cell));
	if (shown != NIL)
		ExplainPropertyList("Row by Row", shown, es);
}

static void
explain_node(CustomScanState *node, List *ancestors, ExplainState *es)
{
	ContinuousPlan *plan = ((DisplayState *) node)->plan;
	const ContinuousQuery *query = plan->query;
	List *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);
	List *keys = NIL;
	List *kept = NIL;
	List *distinct = NIL;
	ListCell *cell;

	foreach (cell, query->query->groupClause)
		keys = lappend(
			keys, show_expression(get_sortgroupclause_expr(lfirst(cell), query->query->targetList),
								  context, es));
	if (keys != NIL)
		ExplainPropertyList("Group Key", keys, es);
	if (query->query->havingQual != NULL)
		ExplainPropertyText("Filter", show_expression(query->query->havingQual, context, es), es);
	explain_query(query, es);

	for (int i = 0; i < plan->grouped->grouping->naggs; i++)
	{
		AggSpec *agg = &plan->grouped->grouping->aggs[i];

		if (agg->collected)
			kept = lappend(kept, show_expression((Node *) agg->aggref, context, es));
		if (agg->distinct)
			distinct = lappend(distinct, show_expression((Node *) agg->aggref, context, es));
	}
	if (kept != NIL)
		ExplainPropertyList("Kept As Rows", kept, es);
	if (distinct != NIL)
		ExplainPropertyList("Kept As Distinct Values", distinct, es);
	explain_evaluation(plan, context, es);
	if (es->costs)
		explain_state(node->ss.ps.plan, es);
}

static void
begin_node(CustomScanState *node, EState *estate, int eflags)
{
	outerPlanState(node) = ExecInitNode(outerPlan(node->ss.ps.plan), estate, eflags);
}

static TupleTableSlot *
execute_node(CustomScanState *node)
{
	elog(ERROR, NODE_NAME " cannot be executed");
}

static void
end_node(CustomScanState *node)
{
	ExecEndNode(outerPlanState(node));
}

static void
rescan_node(CustomScanState *node)
{
	ExecReScan(outerPlanState(node));
}

static const CustomExecMethods node_exec_methods = {
	.CustomName = NODE_NAME,
	.BeginCustomScan = begin_node,
	.ExecCustomScan = execute_node,
	.EndCustomScan = end_node,
	.ReScanCustomScan = rescan_node,
	.ExplainCustomScan = explain_node,
};

static Node *
create_node_state(CustomScan *scan)
{
	DisplayState *state = (DisplayState *) newNode(sizeof(DisplayState), T_CustomScanState);

	state->css.methods = &node_exec_methods;
	state->plan = displayed;
	return (Node *) state;
}

static const CustomScanMethods node_methods = {
	.CustomName = NODE_NAME,
	.CreateCustomScanState = create_node_state,
};

/* The input plan with a display node on top; rows and width are those of the ordinary plan, which has an estimate. */
static PlannedStmt *
make_display_plan(ContinuousPlan *plan, const Plan *ordinary)
{
	PlannedStmt *statement = copyObject(plan->input);
	CustomScan *scan = makeNode(CustomScan);
	Plan *node = &scan->scan.plan;
	ListCell *cell;

	foreach (cell, plan->query->query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);
		AttrNumber attnum = list_length(node->targetlist) + 1;

		if (tle->resjunk)
			continue;
		scan->custom_scan_tlist =
			lappend(scan->custom_scan_tlist,
					makeTargetEntry(copyObject(tle->expr), attnum, tle->resname, false));
		node->targetlist = lappend(node->targetlist,
								   makeTargetEntry((Expr *) makeVarFromTargetEntry(
													   INDEX_VAR, llast(scan->custom_scan_tlist)),
												   attnum, tle->resname, false));
	}
	node->lefttree = statement->planTree;
	node->startup_cost = statement->planTree->total_cost;
	node->total_cost = Max(ordinary->total_cost, node->startup_cost);
	node->plan_rows = ordinary->plan_rows;
	node->plan_width = ordinary->plan_width;
	scan->methods = &node_methods;
	statement->planTree = node;
	return statement;
}

/* ------------------------------------------------------------------ EXPLAIN */

/*
 * What a query would be that EXPLAIN was asked about; NULL if it can't run continuously, which is no error here unless
 * velo.explain() has found that it can.
 */
static ContinuousPlan *
plan_if_continuous(Query *query, const ContinuousQuery *like)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ContinuousPlan *volatile plan = NULL;

	if (query->commandType != CMD_SELECT || query->utilityStmt != NULL ||
		streams_in((Node *) query) == NIL)
		return NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		plan = continuous_plan_rewritten(continuous_describe(query, like));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (like != NULL || error->sqlerrcode != ERRCODE_FEATURE_NOT_SUPPORTED)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return plan;
}

static void
explain_statement(PlannedStmt *statement, ExplainState *es, const char *text, ParamListInfo params,
				  QueryEnvironment *environment, instr_time start)
{
	instr_time duration;

	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	compat_explain_one_plan(statement, es, text, params, environment, &duration);
}

static void
explain_display_plan(ContinuousPlan *plan, Query *query, ExplainState *es, const char *text,
					 ParamListInfo params, QueryEnvironment *environment, instr_time start)
{
	PlannedStmt *ordinary = pg_plan_query(query, text, 0, params);

	displayed = plan;
	PG_TRY();
	{
		explain_statement(make_display_plan(plan, ordinary->planTree), es, text, params,
						  environment, start);
	}
	PG_FINALLY();
	{
		displayed = NULL;
	}
	PG_END_TRY();
}

static void
explain_one_query(Query *query, int options, IntoClause *into, ExplainState *es, const char *text,
				  ParamListInfo params, QueryEnvironment *environment)
{
	const ContinuousQuery *like = explained;
	ContinuousPlan *plan = NULL;
	instr_time start;

	INSTR_TIME_SET_CURRENT(start);
	explained = NULL; /* not what functions of the query explain, while they run */
	if (into == NULL)
		plan = plan_if_continuous(copyObject(query), like);
	if (plan != NULL && plan->grouped != NULL && !es->analyze)
	{
		explain_display_plan(plan, query, es, text, params, environment, start);
		return;
	}

	if (plan != NULL && like != NULL && !es->analyze)
		explain_statement(plan->input, es, text, params, environment, start);
	else if (previous_hook)
		previous_hook(query, options, into, es, text, params, environment);
	else
		compat_explain_one_query(query, options, into, es, text, params, environment);
	/* of an ungrouped SELECT there is nothing to say, unless somebody asked */
	if (plan == NULL || (plan->grouped == NULL && like == NULL))
		return;

	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		appendStringInfoString(es->str, "Continuous Query:\n");
		es->indent++;
		explain_query(plan->query, es);
		es->indent--;
		return;
	}
	/* what is explained is a list, of which this is one more item; items have no labels */
	ExplainOpenGroup("Query", NULL, true, es);
	ExplainOpenGroup("Continuous Query", "Continuous Query", true, es);
	explain_query(plan->query, es);
	ExplainCloseGroup("Continuous Query", "Continuous Query", true, es);
	ExplainCloseGroup("Query", NULL, true, es);
}

/* The options of EXPLAIN, as it reads them between its parentheses. */
static List *
parse_options(const char *options)
{
	char *text;
	List *statements;
	ExplainStmt *statement;
	ErrorContextCallback callback;
	ListCell *lc;

	if (options[strspn(options, " \t\r\n")] == '\0')
		return NIL;
	text = psprintf("EXPLAIN (%s) SELECT", options);
	callback.callback = query_text_error_callback;
	callback.arg = text;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;
	statement = (ExplainStmt *) linitial_node(RawStmt, statements)->stmt;
	if (list_length(statements) != 1 || !IsA(statement, ExplainStmt) ||
		((SelectStmt *) statement->query)->targetList != NIL)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("invalid options of EXPLAIN: \"%s\"", options),
						errhint("Write them as between the parentheses of EXPLAIN.")));
	/* their places are in this text and not in the query's */
	foreach (lc, statement->options)
		lfirst_node(DefElem, lc)->location = -1;
	return statement->options;
}

/* velo.explain(query, options): EXPLAIN (options) of a query in the dialect */
Datum
velo_explain(PG_FUNCTION_ARGS)
{
	char *source = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ExplainStmt *statement = makeNode(ExplainStmt);
	ParseState *pstate = make_parsestate(NULL);
	ContinuousQuery *query;
	DestReceiver *receiver;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	statement->options = parse_options(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	/* whether it will be told to stop at the end is not known here */
	query = continuous_analyze(source, NULL, true, -1);
	statement->query = (Node *) copyObject(query->query);
	/* other extensions read it again, and know no dialect */
	pstate->p_sourcetext = query->sql;

	receiver = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(receiver, rsinfo->setResult,
									rsinfo->econtext->ecxt_per_query_memory, false, NULL, NULL);
	explained = query;
	PG_TRY();
	{
		ExplainQuery(pstate, statement, NULL, receiver);
	}
	PG_FINALLY();
	{
		explained = NULL;
	}
	PG_END_TRY();
	receiver->rDestroy(receiver);
	return (Datum) 0;
}

void
plan_init_hooks(void)
{
	RegisterCustomScanMethods(&node_methods);
	previous_hook = ExplainOneQuery_hook;
	ExplainOneQuery_hook = explain_one_query;
	stream_path_init_hooks();
}
