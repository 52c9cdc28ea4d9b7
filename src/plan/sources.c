/*
 * sources.c
 *		Where the streams of a query stand, and which of their columns an expression is.
 *
 * Views are looked into, for PostgreSQL will expand them.  Only what FROM names counts: the range table of a stored
 * query holds other entries, too.
 */
#include "plan/continuous.h"

#include "access/relation.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/tlist.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/rel.h"

/* ------------------------------------------------------------------ where streams are */

typedef struct StreamWalk
{
	Query *query; /* whose range table RangeTblRefs mean */
	List *streams;
} StreamWalk;

Query *
source_subquery(RangeTblEntry *rte)
{
	Relation view;
	Query *query;

	if (rte->rtekind == RTE_SUBQUERY)
		return rte->subquery;
	if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_VIEW)
		return NULL;
	view = relation_open(rte->relid, AccessShareLock);
	query = copyObject(get_view_query(view));
	relation_close(view, NoLock);
	inline_stream_ctes(query);
	return query;
}

static bool
streams_walker(Node *node, StreamWalk *walk)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblRef) && walk->query != NULL)
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) node)->rtindex, walk->query->rtable);
		Query *subquery = source_subquery(rte);

		if (rte->rtekind == RTE_RELATION && stream_is(rte->relid))
			walk->streams = lappend_oid(walk->streams, rte->relid);
		else if (subquery != NULL)
			streams_walker((Node *) subquery, walk);
		else
			range_table_entry_walker(rte, streams_walker, walk, 0);
		return false;
	}
	if (IsA(node, Query))
	{
		Query *outer = walk->query;

		walk->query = (Query *) node;
		query_tree_walker((Query *) node, streams_walker, walk, QTW_IGNORE_RANGE_TABLE);
		walk->query = outer;
		return false;
	}
	return expression_tree_walker(node, streams_walker, walk);
}

List *
streams_in(Node *node)
{
	StreamWalk walk = {0};

	streams_walker(node, &walk);
	return walk.streams;
}

List *
streams_of_rte(RangeTblEntry *rte)
{
	Query query = {.type = T_Query, .rtable = list_make1(rte)};
	RangeTblRef ref = {.type = T_RangeTblRef, .rtindex = 1};
	StreamWalk walk = {.query = &query};

	streams_walker((Node *) &ref, &walk);
	return walk.streams;
}

static Index
source_index_in(Query *query, Node *item)
{
	Index found = 0;
	ListCell *cell;

	if (IsA(item, RangeTblRef))
	{
		Index index = ((RangeTblRef *) item)->rtindex;

		return streams_of_rte(rt_fetch(index, query->rtable)) != NIL ? index : 0;
	}
	if (IsA(item, JoinExpr))
	{
		found = source_index_in(query, ((JoinExpr *) item)->larg);
		return found != 0 ? found : source_index_in(query, ((JoinExpr *) item)->rarg);
	}
	foreach (cell, castNode(FromExpr, item)->fromlist)
	{
		found = source_index_in(query, lfirst(cell));
		if (found != 0)
			break;
	}
	return found;
}

Index
source_index(Query *query)
{
	return source_index_in(query, (Node *) query->jointree);
}

/* ------------------------------------------------------------------ WITH */

typedef struct InlineWalk
{
	CommonTableExpr *cte;
	int level; /* how many queries down from the one that has the WITH */
} InlineWalk;

static bool
inline_walker(Node *node, InlineWalk *walk)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		walk->level++;
		query_tree_walker((Query *) node, inline_walker, walk, QTW_EXAMINE_RTES_AFTER);
		walk->level--;
		return false;
	}
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_CTE && (int) rte->ctelevelsup == walk->level &&
			strcmp(rte->ctename, walk->cte->ctename) == 0)
		{
			rte->rtekind = RTE_SUBQUERY;
			rte->subquery = castNode(Query, copyObject(walk->cte->ctequery));
			rte->security_barrier = false;
			IncrementVarSublevelsUp((Node *) rte->subquery, walk->level, 1);
			rte->ctename = NULL;
			rte->ctelevelsup = 0;
			rte->self_reference = false;
			rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
		}
		return false;
	}
	return expression_tree_walker(node, inline_walker, walk);
}

static bool
inline_all_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query *query = (Query *) node;
		List *kept = NIL;
		ListCell *cell;

		foreach (cell, query->cteList)
		{
			InlineWalk walk = {.cte = lfirst_node(CommonTableExpr, cell), .level = -1};

			if (walk.cte->cterecursive || !IsA(walk.cte->ctequery, Query) ||
				((Query *) walk.cte->ctequery)->commandType != CMD_SELECT ||
				streams_in(walk.cte->ctequery) == NIL)
			{
				kept = lappend(kept, walk.cte);
				continue;
			}
			inline_walker((Node *) query, &walk);
		}
		query->cteList = kept;
		return query_tree_walker(query, inline_all_walker, context, 0);
	}
	return expression_tree_walker(node, inline_all_walker, context);
}

/* Each is looked for in the later ones as well, so they are taken in order. */
void
inline_stream_ctes(Query *query)
{
	inline_all_walker((Node *) query, NULL);
}

/* ------------------------------------------------------------------ what column it is */

/* What column "resno" of a sub-select is, as stream_columns(). */
static List *
output_columns(Query *query, AttrNumber resno)
{
	List *pending = list_make1(query->setOperations);
	List *columns = NIL;

	if (query->setOperations == NULL)
	{
		TargetEntry *tle = get_tle_by_resno(query->targetList, resno);

		return tle != NULL && !tle->resjunk ? stream_columns(query, (Node *) tle->expr) : NIL;
	}

	/* every branch must have one */
	while (pending != NIL)
	{
		Node *node = linitial(pending);

		pending = list_delete_first(pending);
		if (IsA(node, SetOperationStmt))
			pending = lcons(((SetOperationStmt *) node)->larg,
							lcons(((SetOperationStmt *) node)->rarg, pending));
		else
		{
			RangeTblEntry *rte = rt_fetch(castNode(RangeTblRef, node)->rtindex, query->rtable);
			List *branch = output_columns(rte->subquery, resno);

			if (branch == NIL)
				return NIL;
			columns = list_concat(columns, branch);
		}
	}
	return columns;
}

List *
stream_columns(Query *query, Node *expr)
{
	Var *var = (Var *) expr;
	RangeTblEntry *rte;
	Query *subquery;

	if (expr == NULL || !IsA(expr, Var) || var->varlevelsup != 0 || var->varattno <= 0)
		return NIL;
	rte = rt_fetch(var->varno, query->rtable);
	if (rte->rtekind == RTE_JOIN)
		return stream_columns(query, list_nth(rte->joinaliasvars, var->varattno - 1));
	if (rte->rtekind == RTE_RELATION && stream_is(rte->relid))
	{
		StreamColumnRef *column = palloc_object(StreamColumnRef);

		column->relid = rte->relid;
		column->attnum = var->varattno;
		return list_make1(column);
	}
	subquery = source_subquery(rte);
	return subquery != NULL ? output_columns(subquery, var->varattno) : NIL;
}

bool
is_event_time(Query *query, Node *expr)
{
	List *columns = stream_columns(query, expr);
	ListCell *cell;

	foreach (cell, columns)
	{
		StreamColumnRef *column = lfirst(cell);

		if (stream_get(column->relid)->event_time != column->attnum)
			return false;
	}
	return columns != NIL;
}
