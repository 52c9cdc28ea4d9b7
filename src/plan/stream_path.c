/*
 * stream_path.c
 *		The planner half of velo's wrapper: one path and one plan for the scan of a stream.
 *
 * PostgreSQL checks every condition itself.  Those on a record's offset, partition and timestamp are passed on as
 * bounds as well, so that an ad-hoc scan does not read what they exclude.  Planning never asks a broker.
 */
#include "stream_path.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "exec/exec.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "plan.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

/* records of a stream that has never been told about (pg_class.reltuples) */
#define DEFAULT_RECORDS 1000000
/* connecting to a broker and waiting for its first answer */
#define AD_HOC_STARTUP_COST 100.0

/* Marks a stream's item of the range table, which to the planner is as good as an ephemeral named relation: a batch. */
#define BATCH_RELATION "velo_batch"

PG_FUNCTION_INFO_V1(velo_fdw_handler);

static bool
mark_walker(Node *node, double *rows)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, mark_walker, rows, QTW_EXAMINE_RTES_BEFORE);
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && stream_is(rte->relid))
		{
			rte->enrname = pstrdup(BATCH_RELATION);
			rte->enrtuples = *rows;
		}
		return false;
	}
	return expression_tree_walker(node, mark_walker, rows);
}

void
stream_path_mark_continuous(Query *query, double rows)
{
	(void) mark_walker((Node *) query, &rows);
}

static bool
is_continuous(PlannerInfo *root, RelOptInfo *rel)
{
	return planner_rt_fetch(rel->relid, root)->enrname != NULL;
}

static void
get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	if (is_continuous(root, rel))
		rel->tuples = planner_rt_fetch(rel->relid, root)->enrtuples;
	else if (rel->tuples <= 0)
		rel->tuples = DEFAULT_RECORDS;
	set_baserel_size_estimates(root, rel);
}

static void
get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	Cost startup_cost =
		rel->baserestrictcost.startup + (is_continuous(root, rel) ? 0 : AD_HOC_STARTUP_COST);
	Cost row_cost = cpu_tuple_cost + rel->baserestrictcost.per_tuple;

	add_path(rel, (Path *) compat_create_foreignscan_path(root, rel, rel->rows, startup_cost,
														  startup_cost + row_cost * rel->tuples));
}

/* The attribute numbers that a scan has to deliver. */
static List *
wanted_attributes(RelOptInfo *rel, const StreamInfo *stream)
{
	Bitmapset *used = NULL;
	List *wanted = NIL;
	bool whole_row;
	ListCell *cell;

	pull_varattnos((Node *) rel->reltarget->exprs, rel->relid, &used);
	foreach (cell, rel->baserestrictinfo)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, cell)->clause, rel->relid, &used);

	whole_row = bms_is_member(-FirstLowInvalidHeapAttributeNumber, used);
	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(stream->tupdesc, i);

		if (!att->attisdropped &&
			(whole_row || bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, used)))
			wanted = lappend_int(wanted, att->attnum);
	}
	return wanted;
}

/*
 * If "clause" compares a metadata column with something that is known before the scan begins, append that to *exprs
 * and what the comparison is (see SCAN_PRIVATE_BOUNDS) to *bounds.
 */
static void
add_bound(const StreamInfo *stream, Index relid, Node *clause, List **bounds, List **exprs)
{
	Oid opno;
	Node *left;
	Node *right;
	bool is_any = IsA(clause, ScalarArrayOpExpr);
	Var *var;
	MetadataKind kind;
	Oid opfamily;
	int strategy;
	Oid lefttype;
	Oid righttype;

	if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr *op = (OpExpr *) clause;

		opno = op->opno;
		left = linitial(op->args);
		right = lsecond(op->args);
		if (!IsA(left, Var))
		{
			Node *swap = left;

			left = right;
			right = swap;
			opno = get_commutator(opno);
		}
	}
	else if (is_any && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		opno = op->opno;
		left = linitial(op->args);
		right = lsecond(op->args);
	}
	else
		return;

	if (!IsA(left, Var) || !OidIsValid(opno))
		return;
	var = (Var *) left;
	if ((Index) var->varno != relid || var->varlevelsup != 0 || var->varattno <= 0)
		return;
	kind = stream->columns[var->varattno - 1].metadata;
	if (kind != META_OFFSET && kind != META_PARTITION && kind != META_TIMESTAMP)
		return;
	if (contain_var_clause(right) || contain_volatile_functions(right) || contain_subplans(right))
		return;

	opfamily = get_opclass_family(GetDefaultOpClass(var->vartype, BTREE_AM_OID));
	if (!op_in_opfamily(opno, opfamily))
		return;
	get_op_opfamily_properties(opno, opfamily, false, &strategy, &lefttype, &righttype);
	if (is_any && (kind != META_PARTITION || strategy != BTEqualStrategyNumber))
		return;
	/* timestamps need not ascend: behind a later record there may be an earlier one */
	if (kind == META_TIMESTAMP && strategy < BTEqualStrategyNumber)
		return;

	*bounds = lappend(*bounds, list_make4_int(kind, strategy, (int) righttype, is_any));
	*exprs = lappend(*exprs, right);
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *targetlist,
		 List *clauses, Plan *outer_plan)
{
	StreamInfo *stream = stream_get(relid);
	List *wanted = wanted_attributes(rel, stream);
	List *bounds = NIL;
	List *exprs = NIL;
	bool continuous = is_continuous(root, rel);
	ListCell *cell;

	clauses = extract_actual_clauses(clauses, false);
	if (!continuous)
		foreach (cell, clauses)
			add_bound(stream, rel->relid, lfirst(cell), &bounds, &exprs);
	return make_foreignscan(targetlist, clauses, rel->relid, exprs,
							list_make3(wanted, makeBoolean(continuous), bounds), NIL, NIL,
							outer_plan);
}

void
stream_plan_methods(FdwRoutine *routine)
{
	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
}

/*
 * velo.velo_fdw_handler()
 */
Datum
velo_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	stream_plan_methods(routine);
	stream_scan_methods(routine);
	stream_insert_methods(routine);
	PG_RETURN_POINTER(routine);
}

/* ------------------------------------------------------------------ statistics */

/* share of a batch's records whose value of a column is new in it, as far as one can tell */
#define DISTINCT_SHARE 0.1

static get_relation_stats_hook_type previous_stats_hook = NULL;

/*
 * The planner takes the number of values in a column for unknown where nobody has analysed it, and then expects no look-up
 * to be made twice.  But records of one batch tend to have values in common: tell it so, and it remembers what it found.
 */
static bool
batch_stats(PlannerInfo *root, RangeTblEntry *rte, AttrNumber attnum, VariableStatData *vardata)
{
	Size offset = HEAPTUPLESIZE + MAXALIGN(SizeofHeapTupleHeader);
	HeapTuple tuple;

	if (rte->rtekind != RTE_RELATION || rte->enrname == NULL ||
		bms_membership(root->all_baserels) != BMS_MULTIPLE)
		return previous_stats_hook != NULL && previous_stats_hook(root, rte, attnum, vardata);

	tuple = palloc0(offset + sizeof(FormData_pg_statistic));
	tuple->t_len = offset - HEAPTUPLESIZE + sizeof(FormData_pg_statistic);
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	tuple->t_data->t_hoff = MAXALIGN(SizeofHeapTupleHeader);
	((Form_pg_statistic) GETSTRUCT(tuple))->stadistinct = -DISTINCT_SHARE;
	vardata->statsTuple = tuple;
	vardata->freefunc = heap_freetuple;
	vardata->acl_ok = true;
	return true;
}

void
stream_path_init_hooks(void)
{
	previous_stats_hook = get_relation_stats_hook;
	get_relation_stats_hook = batch_stats;
}
