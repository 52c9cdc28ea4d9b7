/*
 * explain.c
 *		EXPLAIN of queries over streams, and velo.explain() for those in the dialect.
 *
 * A grouped SELECT that can run continuously is shown as it would be run: the input plan below a node that stands for
 * state/.  That node is for display; nothing executes it.  EXPLAIN ANALYZE shows the ordinary plan, for that is what it
 * runs, followed by what running it continuously would mean; so does velo.explain() of a query that is not grouped.
 */
#include "plan/continuous.h"

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

static const char *
show_emit(const ContinuousQuery *query)
{
	if (!query->grouped)
		return "each row, at the commit after its record";
	if (query->emit == EMIT_CHANGES)
		return "changes: groups that changed, at each commit";
	return query->windowed ? "final: groups of a window, once, when it closes"
						   : "final: all groups, once, when the query stops at its end";
}

/* What does not depend on the plan. */
static void
explain_query(const ContinuousQuery *query, ExplainState *es)
{
	if (query->window.kind != WINDOW_NONE)
		ExplainPropertyText("Window", show_window(&query->window), es);
	if (query->windowed)
		ExplainPropertyText("Grace", show_duration(query->window.grace), es);
	if (query->grouped)
		ExplainPropertyText(
			"Late",
			query->windowed ? "records of closed windows, by the watermark of their own partition"
							: "never",
			es);
	ExplainPropertyText("Emit", show_emit(query), es);
	if (query->grouped)
		ExplainPropertyText("Mode",
							query->exclusive
								? "exclusive: the groups include the key of the stream"
								: "merged, with more than one pipeline: they share groups",
							es);
}

/* ------------------------------------------------------------------ the display node */

/* An expression of the query; its range table is the beginning of the plan's. */
static char *
show_expression(Node *expr, List *context, ExplainState *es)
{
	return deparse_expression(expr, context, list_length(es->rtable) > 1 || es->verbose, false);
}

static void
explain_node(CustomScanState *node, List *ancestors, ExplainState *es)
{
	ContinuousPlan *plan = ((DisplayState *) node)->plan;
	const ContinuousQuery *query = plan->query;
	List *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);
	List *keys = NIL;
	List *kept = NIL;
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
	}
	if (kept != NIL)
		ExplainPropertyList("Kept As Rows", kept, es);
	if (es->costs)
		ExplainPropertyText("State Estimate",
							psprintf("%.0f groups of %d bytes", node->ss.ps.plan->plan_rows,
									 node->ss.ps.plan->plan_width),
							es);
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
explain_display_plan(ContinuousPlan *plan, Query *query, ExplainState *es, const char *text,
					 ParamListInfo params, QueryEnvironment *environment, instr_time start)
{
	PlannedStmt *ordinary = pg_plan_query(query, text, 0, params);
	instr_time duration;

	displayed = plan;
	PG_TRY();
	{
		PlannedStmt *display = make_display_plan(plan, ordinary->planTree);

		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);
		compat_explain_one_plan(display, es, text, params, environment, &duration);
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

	if (previous_hook)
		previous_hook(query, options, into, es, text, params, environment);
	else
		compat_explain_one_query(query, options, into, es, text, params, environment);
	/* of an ungrouped SELECT there is nothing to say, unless somebody asked */
	if (plan == NULL || (plan->grouped == NULL && like == NULL))
		return;

	/* a group of its own after the query's; without a label, for it is an item of a list */
	ExplainOpenGroup("Continuous Query", NULL, true, es);
	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		appendStringInfoString(es->str, "Continuous Query:\n");
		es->indent++;
	}
	explain_query(plan->query, es);
	if (es->format == EXPLAIN_FORMAT_TEXT)
		es->indent--;
	ExplainCloseGroup("Continuous Query", NULL, true, es);
}

/* The options of EXPLAIN, as it reads them between its parentheses. */
static List *
parse_options(const char *options)
{
	char *text;
	List *statements;
	ExplainStmt *statement;
	ErrorContextCallback callback;

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
	return statement->options;
}

/* velo.explain(query, options): EXPLAIN (options) of a query in the dialect */
Datum
velo_explain(PG_FUNCTION_ARGS)
{
	char *source = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ExplainStmt *statement = makeNode(ExplainStmt);
	ContinuousQuery *query;
	DestReceiver *receiver;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	statement->options = parse_options(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	/* whether it will be told to stop at the end is not known here */
	query = continuous_analyze(source, NULL, true, -1);
	statement->query = (Node *) copyObject(query->query);

	receiver = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(receiver, rsinfo->setResult,
									rsinfo->econtext->ecxt_per_query_memory, false, NULL, NULL);
	explained = query;
	PG_TRY();
	{
		ExplainQuery(make_parsestate(NULL), statement, NULL, receiver);
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
}
