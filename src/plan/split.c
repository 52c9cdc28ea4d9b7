/*
 * split.c
 *		From a ContinuousQuery to the plans that exec/ runs.
 *
 * A grouped query is cut in two at its aggregation.  What stands below it (FROM, WHERE, group keys, arguments) becomes
 * the input query; what stands above (HAVING, the SELECT list) the output query, over a relation that exists only while
 * it runs and holds the groups.  Both are ordinary queries and are planned as such.
 *
 * Views are expanded and row security is applied first, so that every part sees the query as PostgreSQL would run it.
 */
#include "plan/continuous.h"

#include "access/sysattr.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "jit/jit.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "plan/stream_path.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* A query being cut.  Columns are counted from 0 unless they are attribute numbers. */
typedef struct Splitter
{
	Query *query;
	WindowKey window;
	List *input;     /* of TargetEntry: the columns of the input query */
	List *key_items; /* of SortGroupClause: the group keys but the window */
	List *key_exprs; /* of Node, likewise; as seen from the query level that is being changed */
	List *aggrefs;   /* of Aggref: each once, as seen from the query itself */
	int level;       /* queries down while its output is being changed */
} Splitter;

/* attribute numbers of the relation of groups (exec.h, GroupedPlan) */
#define GROUPS_FIRST_KEY 2
#define GROUPS_WINDOW_START(splitter) (GROUPS_FIRST_KEY + list_length((splitter)->key_items))
#define GROUPS_WINDOW_END(splitter) (GROUPS_WINDOW_START(splitter) + 1)
#define GROUPS_FIRST_AGG(splitter) (GROUPS_WINDOW_END(splitter) + 1)

/* ------------------------------------------------------------------ the record of a row */

static Var *record_var(Query *query);

/* Make the record of a row a column of a sub-select over streams; returns its number. */
static AttrNumber
add_record_column(RangeTblEntry *rte)
{
	Query *query = rte->subquery;
	AttrNumber attnum = list_length(query->targetList) + 1;
	List *pending = list_make1(query->setOperations);
	Var *var = NULL;

	if (query->setOperations == NULL)
		var = record_var(query);
	else
	{
		while (pending != NIL)
		{
			Node *node = linitial(pending);

			pending = list_delete_first(pending);
			if (IsA(node, SetOperationStmt))
			{
				SetOperationStmt *operation = (SetOperationStmt *) node;

				operation->colTypes = lappend_oid(operation->colTypes, TIDOID);
				operation->colTypmods = lappend_int(operation->colTypmods, -1);
				operation->colCollations = lappend_oid(operation->colCollations, InvalidOid);
				pending = lcons(operation->larg, lcons(operation->rarg, pending));
			}
			else
			{
				int branch = castNode(RangeTblRef, node)->rtindex;
				AttrNumber column = add_record_column(rt_fetch(branch, query->rtable));

				/* the columns of a set operation are named by the first branch */
				if (var == NULL)
					var = makeVar(branch, column, TIDOID, -1, InvalidOid, 0);
			}
		}
	}
	query->targetList =
		lappend(query->targetList, makeTargetEntry((Expr *) var, attnum, pstrdup("record"), false));
	rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup("record")));
	return attnum;
}

/* The ctid of the stream's row that a row of the query comes from: it tells the record (exec.h, BatchSet). */
static Var *
record_var(Query *query)
{
	Index source = source_index(query);
	RangeTblEntry *rte = rt_fetch(source, query->rtable);

	if (rte->rtekind == RTE_SUBQUERY)
		return makeVar(source, add_record_column(rte), TIDOID, -1, InvalidOid, 0);
	return makeVar(source, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0);
}

/* ------------------------------------------------------------------ planning */

/* what a page of a look-up table costs, as a share of seq_page_cost: each batch reads it, so it is in memory */
#define CACHED_PAGE_COST 0.05

static PlannedStmt *
plan_query(Query *query)
{
	double set_seq_page_cost = seq_page_cost;
	double set_random_page_cost = random_page_cost;
	PlannedStmt *plan;

	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	PG_TRY();
	{
		seq_page_cost = random_page_cost = set_seq_page_cost * CACHED_PAGE_COST;
		/* no parallel workers: they don't see the batch */
		plan = pg_plan_query(query, "", 0, NULL);
	}
	PG_FINALLY();
	{
		seq_page_cost = set_seq_page_cost;
		random_page_cost = set_random_page_cost;
	}
	PG_END_TRY();
	plan->jitFlags = PGJIT_NONE; /* would be compiled anew for every batch */
	return plan;
}

/* Does a plan join what it reads of streams with anything else? */
static bool
joins_tables(const PlannedStmt *statement)
{
	ListCell *cell;

	if (IsA(statement->planTree, ForeignScan))
		return false;
	foreach (cell, statement->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

		if (rte->rtekind == RTE_RELATION && rte->relkind != RELKIND_VIEW && !stream_is(rte->relid))
			return true;
	}
	return false;
}

/* Plan the input, whose streams are marked as those of a continuous query. */
static void
plan_input(ContinuousPlan *result, Query *query)
{
	Query *of_few = copyObject(query);

	result->input_records = velo_batch_size;
	result->input = plan_query(query);
	if (!joins_tables(result->input))
		return;
	stream_path_mark_continuous(of_few, INPUT_FEW);
	result->input_of_few = plan_query(of_few);
}

/* The relation that is scanned; InvalidOid: a join that a wrapper has pushed down. */
static Oid
scan_relid(PlannedStmt *statement, Scan *scan)
{
	return scan->scanrelid > 0 ? rt_fetch(scan->scanrelid, statement->rtable)->relid : InvalidOid;
}

/* Note what attributes the continuous scans below a plan want. */
static void
note_scans(ContinuousPlan *result, PlannedStmt *statement, Plan *plan)
{
	List *children = NIL;
	List *scan;
	ListCell *cell;

	if (plan == NULL)
		return;
	switch (nodeTag(plan))
	{
		case T_ForeignScan:
			scan = ((ForeignScan *) plan)->fdw_private;
			if (!stream_is(scan_relid(statement, (Scan *) plan)) ||
				!boolVal(list_nth(scan, SCAN_PRIVATE_CONTINUOUS)))
				break;
			for (int i = 0; i < result->nstreams; i++)
			{
				StreamUse *stream = &result->streams[i];

				if (stream->relid != scan_relid(statement, (Scan *) plan))
					continue;
				foreach (cell, list_nth(scan, SCAN_PRIVATE_ATTRS))
					stream->wanted = bms_add_member(stream->wanted, lfirst_int(cell));
			}
			break;
		case T_Append:
			children = ((Append *) plan)->appendplans;
			break;
		case T_MergeAppend:
			children = ((MergeAppend *) plan)->mergeplans;
			break;
		case T_SubqueryScan:
			children = list_make1(((SubqueryScan *) plan)->subplan);
			break;
		case T_CustomScan:
			children = ((CustomScan *) plan)->custom_plans;
			break;
		default:
			break;
	}
	foreach (cell, children)
		note_scans(result, statement, lfirst(cell));
	note_scans(result, statement, outerPlan(plan));
	note_scans(result, statement, innerPlan(plan));
}

static void
note_statement(ContinuousPlan *result, PlannedStmt *statement)
{
	ListCell *cell;

	note_scans(result, statement, statement->planTree);
	foreach (cell, statement->subplans)
		note_scans(result, statement, lfirst(cell));
}

static void
note_stream_use(ContinuousPlan *result)
{
	ListCell *cell;

	result->nstreams = list_length(result->query->streams);
	result->streams = palloc0_array(StreamUse, result->nstreams);
	foreach (cell, result->query->streams)
		result->streams[foreach_current_index (cell)].relid = lfirst_oid(cell);
	note_statement(result, result->input);
	if (result->input_of_few != NULL)
		note_statement(result, result->input_of_few);
}

/* ------------------------------------------------------------------ relations that exist while a plan runs */

static void
define_column(TupleDesc desc, AttrNumber attnum, const char *name, Oid type, int32 typmod,
			  Oid collation)
{
	TupleDescInitEntry(desc, attnum, name, type, typmod, 0);
	TupleDescInitEntryCollation(desc, attnum, collation);
}

static void
define_column_of(TupleDesc desc, AttrNumber attnum, const char *name, Node *expr)
{
	define_column(desc, attnum, name, exprType(expr), exprTypmod(expr), exprCollation(expr));
}

static Var *
column_var(TupleDesc desc, AttrNumber attnum, Index level)
{
	Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);

	return makeVar(1, attnum, att->atttypid, att->atttypmod, att->attcollation, level);
}

/* A query over such a relation, without a target list. */
static Query *
make_relation_query(const char *name, TupleDesc desc)
{
	Query *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->enrname = pstrdup(name);
	rte->enrtuples = velo_batch_size;
	rte->eref = makeAlias(name, NIL);
	rte->inFromCl = true;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		rte->eref->colnames =
			lappend(rte->eref->colnames, makeString(pstrdup(NameStr(att->attname))));
		rte->coltypes = lappend_oid(rte->coltypes, att->atttypid);
		rte->coltypmods = lappend_int(rte->coltypmods, att->atttypmod);
		rte->colcollations = lappend_oid(rte->colcollations, att->attcollation);
	}
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	return query;
}

/* ------------------------------------------------------------------ input */

/* The input column of an expression, added if no other has it; returns its index. */
static int
input_column(Splitter *splitter, Node *expr, const char *name)
{
	ListCell *cell;

	if (!contain_volatile_functions(expr))
	{
		foreach (cell, splitter->input)
		{
			if (equal(lfirst_node(TargetEntry, cell)->expr, expr))
				return foreach_current_index (cell);
		}
	}
	splitter->input = lappend(splitter->input, makeTargetEntry((Expr *) copyObject(expr),
															   list_length(splitter->input) + 1,
															   pstrdup(name), false));
	return list_length(splitter->input) - 1;
}

static int
argument_column(Splitter *splitter, Node *expr)
{
	return input_column(splitter, expr, "argument");
}

/* What is asked of all records: the query below its aggregation. */
static Query *
make_input_query(Splitter *splitter)
{
	Query *query = copyObject(splitter->query);

	query->targetList = lappend(splitter->input, makeTargetEntry((Expr *) record_var(query),
																 list_length(splitter->input) + 1,
																 pstrdup("record"), false));
	query->hasTargetSRFs = expression_returns_set((Node *) query->targetList);
	query->hasAggs = false;
	query->groupClause = NIL;
	query->havingQual = NULL;
	return query;
}

/* ------------------------------------------------------------------ output */

static Var *
group_var(Splitter *splitter, AttrNumber attnum, Node *expr)
{
	return makeVar(1, attnum, exprType(expr), exprTypmod(expr), exprCollation(expr),
				   splitter->level);
}

static Var *
bound_var(Splitter *splitter, bool is_upper)
{
	return makeVar(1, is_upper ? GROUPS_WINDOW_END(splitter) : GROUPS_WINDOW_START(splitter),
				   TIMESTAMPTZOID, -1, InvalidOid, splitter->level);
}

/* The index of an aggregate among those of the query, added if it is new. */
static int
aggregate_index(Splitter *splitter, Aggref *aggref)
{
	ListCell *cell;

	/* as it looks from the query itself */
	aggref = copyObject(aggref);
	if (splitter->level > 0)
		IncrementVarSublevelsUp((Node *) aggref, -splitter->level, splitter->level);
	if (!contain_volatile_functions((Node *) aggref))
	{
		foreach (cell, splitter->aggrefs)
		{
			if (equal(lfirst(cell), aggref))
				return foreach_current_index (cell);
		}
	}
	splitter->aggrefs = lappend(splitter->aggrefs, aggref);
	return list_length(splitter->aggrefs) - 1;
}

/* Put columns of the relation of groups where group expressions and aggregates stand. */
static Node *
output_mutator(Node *node, Splitter *splitter)
{
	bool is_upper;
	ListCell *cell;

	if (node == NULL)
		return NULL;
	if (is_window_bound(&splitter->window, node, &is_upper))
		return (Node *) bound_var(splitter, is_upper);
	if (splitter->window.expr != NULL && equal(node, splitter->window.expr))
	{
		if (!splitter->window.range)
			return (Node *) bound_var(splitter, false);
		return (Node *) makeFuncExpr(
			F_TSTZRANGE_TIMESTAMPTZ_TIMESTAMPTZ, TSTZRANGEOID,
			list_make2(bound_var(splitter, false), bound_var(splitter, true)), InvalidOid,
			InvalidOid, COERCE_EXPLICIT_CALL);
	}
	foreach (cell, splitter->key_exprs)
	{
		if (!IsA(node, Const) && equal(node, lfirst(cell)))
			return (Node *) group_var(splitter, GROUPS_FIRST_KEY + foreach_current_index (cell),
									  node);
	}
	if (IsA(node, Aggref) && (int) ((Aggref *) node)->agglevelsup == splitter->level)
		return (Node *) group_var(
			splitter, GROUPS_FIRST_AGG(splitter) + aggregate_index(splitter, (Aggref *) node),
			node);
	if (IsA(node, Var) && (int) ((Var *) node)->varlevelsup == splitter->level)
		elog(ERROR, "column that is neither grouped nor aggregated");
	if (IsA(node, Query))
	{
		Splitter outer = *splitter;
		Query *query;

		splitter->level++;
		splitter->window.expr = copyObject(outer.window.expr);
		splitter->key_exprs = copyObject(outer.key_exprs);
		IncrementVarSublevelsUp((Node *) splitter->window.expr, 1, 0);
		IncrementVarSublevelsUp((Node *) splitter->key_exprs, 1, 0);
		query = query_tree_mutator((Query *) node, output_mutator, splitter, 0);
		splitter->level = outer.level;
		splitter->window = outer.window;
		splitter->key_exprs = outer.key_exprs;
		return (Node *) query;
	}
	return expression_tree_mutator(node, output_mutator, splitter);
}

/*
 * The query above the aggregation.  Finds the aggregates on the way; its relation is described when all of them are
 * known.
 */
static Query *
make_output_query(Splitter *splitter, TupleDesc *relation)
{
	List *targets = NIL;
	Node *having = output_mutator(splitter->query->havingQual, splitter);
	Query *query;
	TupleDesc desc;
	ListCell *cell;

	foreach (cell, splitter->query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);

		if (tle->resjunk)
			continue;
		targets = lappend(targets,
						  makeTargetEntry((Expr *) output_mutator((Node *) tle->expr, splitter),
										  list_length(targets) + 1, pstrdup(tle->resname), false));
	}

	desc = CreateTemplateTupleDesc(GROUPS_FIRST_AGG(splitter) - 1 + list_length(splitter->aggrefs));
	define_column(desc, 1, "group_number", INT4OID, -1, InvalidOid);
	foreach (cell, splitter->key_exprs)
		define_column_of(desc, GROUPS_FIRST_KEY + foreach_current_index (cell), "key",
						 lfirst(cell));
	define_column(desc, GROUPS_WINDOW_START(splitter), "window_start", TIMESTAMPTZOID, -1,
				  InvalidOid);
	define_column(desc, GROUPS_WINDOW_END(splitter), "window_end", TIMESTAMPTZOID, -1, InvalidOid);
	foreach (cell, splitter->aggrefs)
		define_column_of(desc, GROUPS_FIRST_AGG(splitter) + foreach_current_index (cell),
						 "aggregate", lfirst(cell));

	query = make_relation_query(OUTPUT_RELATION, desc);
	query->targetList =
		lappend(targets, makeTargetEntry((Expr *) column_var(desc, 1, 0), list_length(targets) + 1,
										 pstrdup("group_number"), false));
	query->jointree->quals = having;
	query->hasSubLinks = splitter->query->hasSubLinks;
	if (query->hasSubLinks)
		query->cteList = copyObject(splitter->query->cteList);
	query->hasRowSecurity = splitter->query->hasRowSecurity;
	*relation = desc;
	return query;
}

/* ------------------------------------------------------------------ aggregates */

/* An argument of an aggregate as it is evaluated: only where FILTER lets the row through, for elsewhere it may fail. */
static Node *
guarded(const Aggref *aggref, Node *argument)
{
	CaseWhen *when;
	CaseExpr *guard;

	if (aggref->aggfilter == NULL || IsA(argument, Var) || IsA(argument, Const) ||
		contain_volatile_functions((Node *) aggref->aggfilter))
		return argument;
	when = makeNode(CaseWhen);
	when->expr = aggref->aggfilter;
	when->result = (Expr *) argument;
	when->location = -1;
	guard = makeNode(CaseExpr);
	guard->casetype = exprType(argument);
	guard->casecollid = exprCollation(argument);
	guard->args = list_make1(when);
	guard->defresult =
		(Expr *) makeNullConst(exprType(argument), exprTypmod(argument), exprCollation(argument));
	guard->location = -1;
	return (Node *) guard;
}

/* What is collected, while it is being found. */
typedef struct Collector
{
	Splitter *splitter;
	List *columns; /* integers: input columns, in the order in which they are kept */
} Collector;

static bool
is_same_for_all_rows(Node *expr)
{
	return expr == NULL || (!contain_var_clause(expr) && !contain_mutable_functions(expr) &&
							!checkExprHasSubLink(expr));
}

/* An expression as a column of the relation of collected rows. */
static Node *
collect(Collector *collector, Node *expr)
{
	int column;
	int position = 0;
	ListCell *cell;

	column = argument_column(collector->splitter, expr);
	foreach (cell, collector->columns)
	{
		if (lfirst_int(cell) == column)
			break;
		position++;
	}
	if (cell == NULL)
		collector->columns = lappend_int(collector->columns, column);
	return (Node *) makeVar(1, position + 2, exprType(expr), exprTypmod(expr), exprCollation(expr),
							0);
}

/* An aggregate over the relation of collected rows. */
static Aggref *
collect_aggregate(Collector *collector, Aggref *aggref)
{
	ListCell *cell;

	aggref = copyObject(aggref);
	foreach (cell, aggref->args)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);

		if (!is_same_for_all_rows((Node *) tle->expr))
			tle->expr = (Expr *) collect(collector, guarded(aggref, (Node *) tle->expr));
	}
	/* these are group expressions, or the same for all rows */
	foreach (cell, aggref->aggdirectargs)
		if (!is_same_for_all_rows(lfirst(cell)))
			lfirst(cell) = collect(collector, lfirst(cell));
	if (!is_same_for_all_rows((Node *) aggref->aggfilter))
		aggref->aggfilter = (Expr *) collect(collector, (Node *) aggref->aggfilter);
	return aggref;
}

/* The query that computes the collected aggregates of many groups at once. */
static Query *
make_collected_query(Collector *collector, List *aggrefs, TupleDesc *relation)
{
	TupleDesc desc = CreateTemplateTupleDesc(list_length(collector->columns) + 1);
	SortGroupClause *item = makeNode(SortGroupClause);
	TargetEntry *number;
	Query *query;
	ListCell *cell;

	define_column(desc, 1, "group_number", INT4OID, -1, InvalidOid);
	foreach (cell, collector->columns)
	{
		TargetEntry *tle = list_nth(collector->splitter->input, lfirst_int(cell));

		define_column_of(desc, foreach_current_index (cell) + 2, tle->resname, (Node *) tle->expr);
	}
	query = make_relation_query(COLLECTED_RELATION, desc);

	number = makeTargetEntry((Expr *) column_var(desc, 1, 0), 1, pstrdup("group_number"), false);
	number->ressortgroupref = 1;
	item->tleSortGroupRef = 1;
	item->eqop = Int4EqualOperator;
	item->sortop = Int4LessOperator;
	item->hashable = true;
	query->targetList = list_make1(number);
	query->groupClause = list_make1(item);
	foreach (cell, aggrefs)
		query->targetList = lappend(query->targetList,
									makeTargetEntry(lfirst(cell), foreach_current_index (cell) + 2,
													pstrdup("aggregate"), false));
	query->hasAggs = true;
	*relation = desc;
	return query;
}

/* ------------------------------------------------------------------ grouping */

static void
describe_keys(Splitter *splitter, const ContinuousQuery *query, GroupingSpec *grouping)
{
	ListCell *cell;

	grouping->bin = query->bin;
	grouping->nkeys = list_length(splitter->key_items);
	grouping->keys = palloc0_array(KeySpec, grouping->nkeys);
	foreach (cell, splitter->key_items)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		TargetEntry *tle = get_sortgroupclause_tle(item, splitter->query->targetList);
		KeySpec *key = &grouping->keys[foreach_current_index (cell)];

		key->column =
			input_column(splitter, (Node *) tle->expr, tle->resname ? tle->resname : "key");
		key->type = exprType((Node *) tle->expr);
		key->collation = exprCollation((Node *) tle->expr);
		key->eqop = item->eqop;
		if (item->tleSortGroupRef == query->bin_ref)
			grouping->bin_key = foreach_current_index (cell);
	}
}

/* Must the input rows of some aggregate be kept, of which distinct values are not enough? */
static bool
keeps_rows(List *aggrefs)
{
	ListCell *cell;

	foreach (cell, aggrefs)
	{
		Aggref *aggref = lfirst_node(Aggref, cell);

		if (aggregate_is_collected(aggref) && !aggregate_is_distinct(aggref))
			return true;
	}
	return false;
}

/* Describe the aggregates and plan the collected ones. */
static void
describe_aggregates(Splitter *splitter, GroupedPlan *plan)
{
	GroupingSpec *grouping = plan->grouping;
	Collector collector = {.splitter = splitter};
	List *collected = NIL;
	bool rows = keeps_rows(splitter->aggrefs);
	ListCell *cell;

	grouping->naggs = list_length(splitter->aggrefs);
	grouping->aggs = palloc0_array(AggSpec, grouping->naggs);
	foreach (cell, splitter->aggrefs)
	{
		Aggref *aggref = lfirst_node(Aggref, cell);
		AggSpec *agg = &grouping->aggs[foreach_current_index (cell)];
		ListCell *arg;

		agg->aggref = aggref;
		agg->filter = -1;
		agg->distinct = !rows && aggregate_is_distinct(aggref);
		agg->collected = !agg->distinct && aggregate_is_collected(aggref);
		if (agg->collected)
		{
			collected = lappend(collected, collect_aggregate(&collector, aggref));
			continue;
		}
		agg->nargs = list_length(aggref->args);
		agg->args = palloc_array(int, agg->nargs);
		foreach (arg, aggref->args)
			agg->args[foreach_current_index (arg)] = argument_column(
				splitter, guarded(aggref, (Node *) lfirst_node(TargetEntry, arg)->expr));
		if (aggref->aggfilter != NULL)
			agg->filter = argument_column(splitter, (Node *) aggref->aggfilter);
	}

	grouping->ncollected = list_length(collector.columns);
	grouping->collected = palloc_array(int, grouping->ncollected);
	foreach (cell, collector.columns)
		grouping->collected[foreach_current_index (cell)] = lfirst_int(cell);
	if (collected != NIL)
		plan->collected =
			plan_query(make_collected_query(&collector, collected, &plan->collected_relation));
}

/* Which group keys are the stream's key. */
static void
describe_stream_keys(Splitter *splitter, ContinuousQuery *query, GroupedPlan *plan)
{
	StreamInfo *stream;
	ListCell *cell;

	if (!query->exclusive)
		return;
	stream = stream_get(linitial_oid(query->streams));
	plan->stream_keys = palloc_array(int, list_length(splitter->key_items));
	foreach (cell, splitter->key_items)
	{
		Node *expr = get_sortgroupclause_expr(lfirst(cell), splitter->query->targetList);
		List *columns = stream_columns(splitter->query, expr);

		if (columns == NIL)
			continue;
		for (int k = 0; k < stream->nkeys; k++)
			if (((StreamColumnRef *) linitial(columns))->attnum == stream->keys[k])
				plan->stream_keys[plan->nstream_keys++] = foreach_current_index (cell);
	}
}

/* Where the values of the result's unique key come from. */
static void
describe_result_key(Splitter *splitter, ContinuousQuery *query, GroupedPlan *plan)
{
	ListCell *cell;

	plan->nresult_keys = list_length(query->key_columns);
	plan->result_keys = palloc_array(int, plan->nresult_keys);
	plan->result_key_sources = palloc_array(int, plan->nresult_keys);
	foreach (cell, query->key_columns)
	{
		int i = foreach_current_index (cell);
		Node *expr = (Node *) get_tle_by_resno(splitter->query->targetList, lfirst_int(cell))->expr;
		bool is_upper = false;
		ListCell *key;

		plan->result_keys[i] = lfirst_int(cell) - 1;
		if (i == 0 && splitter->window.expr != NULL)
		{
			is_window_bound(&splitter->window, expr, &is_upper);
			plan->result_key_sources[i] = is_upper ? KEY_IS_WINDOW_END : KEY_IS_WINDOW_START;
			continue;
		}
		foreach (key, splitter->key_exprs)
		{
			if (equal(expr, lfirst(key)))
				plan->result_key_sources[i] = foreach_current_index (key);
		}
	}
}

static void
plan_grouped(ContinuousPlan *result, Query *query)
{
	ContinuousQuery *continuous = result->query;
	GroupedPlan *plan = palloc0_object(GroupedPlan);
	GroupingSpec *grouping = palloc0_object(GroupingSpec);
	Splitter splitter = {.query = query, .window = window_key(continuous)};
	Query *output;
	ListCell *cell;

	if (splitter.window.expr != NULL)
		splitter.window.expr =
			get_sortgroupref_tle(continuous->window_ref, query->targetList)->expr;
	foreach (cell, query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);

		if (item->tleSortGroupRef == continuous->window_ref)
			continue;
		splitter.key_items = lappend(splitter.key_items, item);
		splitter.key_exprs =
			lappend(splitter.key_exprs, get_sortgroupclause_expr(item, query->targetList));
	}

	plan->grouping = grouping;
	plan->result = result->result;
	grouping->window = continuous->window;
	describe_keys(&splitter, continuous, grouping);
	output = make_output_query(&splitter, &plan->output_relation);
	describe_aggregates(&splitter, plan);
	describe_result_key(&splitter, continuous, plan);
	describe_stream_keys(&splitter, continuous, plan);
	plan->output = plan_query(output);

	plan_input(result, make_input_query(&splitter));
	result->grouped = plan;
	grouping->input = ExecTypeFromTL(result->input->planTree->targetlist);
}

/* ------------------------------------------------------------------ the door */

ContinuousPlan *
continuous_plan_rewritten(ContinuousQuery *continuous)
{
	ContinuousPlan *result = palloc0_object(ContinuousPlan);
	Query *query = copyObject(continuous->query);

	inline_stream_ctes(query);
	stream_path_mark_continuous(query, velo_batch_size);
	if (continuous->grouped)
	{
		/* so that expressions which are equal look equal */
		query->targetList = (List *) compat_flatten_join_aliases(query, (Node *) query->targetList);
		query->havingQual = compat_flatten_join_aliases(query, query->havingQual);
	}

	result->query = continuous;
	result->result = ExecCleanTypeFromTL(continuous->query->targetList);
	if (continuous->grouped)
		plan_grouped(result, query);
	else
	{
		query->targetList =
			lappend(query->targetList,
					makeTargetEntry((Expr *) record_var(query), list_length(query->targetList) + 1,
									pstrdup("record"), false));
		plan_input(result, query);
	}
	result->record_column = list_length(result->input->planTree->targetlist);
	note_stream_use(result);
	return result;
}

ContinuousPlan *
continuous_plan(ContinuousQuery *continuous)
{
	Query *query = copyObject(continuous->query);
	ContinuousQuery *rewritten = palloc_object(ContinuousQuery);

	AcquireRewriteLocks(query, true, false);
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	*rewritten = *continuous;
	rewritten->query = linitial_node(Query, QueryRewrite(query));
	return continuous_plan_rewritten(rewritten);
}
