/*
 * refuse.c
 *		What can't run continuously, and what to write instead.
 *
 * A stream has no end, so whatever needs all of its rows before it can answer is refused: some of it for good, some until
 * it is built.  Windows and EMIT are analyze.c's.
 */
#include "plan/continuous.h"

#include "access/sysattr.h"
#include "catalog/pg_inherits.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"

typedef struct Checker
{
	ParseState *pstate;
	RawStmt *raw; /* NULL: a stored query */
	int at;       /* where the text names what is looked at, for what has no position of its own */
} Checker;

static int check_subquery(Checker *checker, Query *query);

/* ------------------------------------------------------------------ positions */

typedef struct FindRelation
{
	const char *name;
	int location;
} FindRelation;

static bool
find_relation_walker(Node *node, FindRelation *find)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeVar))
	{
		RangeVar *relation = (RangeVar *) node;

		if (strcmp(relation->alias ? relation->alias->aliasname : relation->relname, find->name) ==
			0)
			find->location = relation->location;
		return false;
	}
	return raw_expression_tree_walker(node, find_relation_walker, find);
}

/* Where the text names an item of the range table; parse analysis does not keep it. */
static int
rte_location(Checker *checker, RangeTblEntry *rte)
{
	FindRelation find = {.name = rte->eref->aliasname, .location = -1};

	if (rte->rtekind == RTE_SUBQUERY)
		find.location = exprLocation((Node *) rte->subquery->targetList);
	if (find.location < 0 && checker->raw != NULL)
		find_relation_walker(checker->raw->stmt, &find);
	return find.location;
}

static bool
find_stream_sublink_walker(Node *node, int *location)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && streams_in(((SubLink *) node)->subselect) != NIL)
	{
		*location = ((SubLink *) node)->location;
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_stream_sublink_walker, location, 0);
	return expression_tree_walker(node, find_stream_sublink_walker, location);
}

/* ereport(ERROR), 0A000, with a hint and a position */
static void
refuse(Checker *checker, int location, const char *hint, const char *message)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg_internal("%s", message),
					errhint("%s", hint),
					parser_errposition(checker->pstate, location >= 0 ? location : checker->at)));
}

/* ------------------------------------------------------------------ FROM */

#define SUBSELECT_HINT                                                                             \
	"Make a query of its own of the sub-select, and read its result table or stream."

static void
refuse_stream_join(Checker *checker, Query *query, Node *second)
{
	int location = -1;

	if (IsA(second, RangeTblRef))
		location =
			rte_location(checker, rt_fetch(((RangeTblRef *) second)->rtindex, query->rtable));
	refuse(checker, location,
		   "Write one of the streams into a table by a query of its own, and join that.",
		   "joins of streams with streams are not supported yet");
}

/* Check what is no join; returns the number of streams in it. */
static int
check_item(Checker *checker, RangeTblEntry *rte, bool nullable)
{
	int outer = checker->at;
	int location;
	int nstreams;
	Query *subquery;

	if (streams_of_rte(rte) == NIL)
		return 0;
	location = rte_location(checker, rte);
	if (nullable)
		refuse(checker, location,
			   "Write the join so that the stream is on the side whose rows are all kept.",
			   "a stream on the optional side of an outer join is not supported");

	subquery = source_subquery(rte);
	if (subquery != NULL)
	{
		if (location >= 0)
			checker->at = location;
		nstreams = check_subquery(checker, subquery);
		checker->at = outer;
		return nstreams;
	}
	if (rte->rtekind != RTE_RELATION)
		refuse(checker, location, SUBSELECT_HINT,
			   "a stream inside a function in FROM or a recursive query is not supported");
	if (rte->inh && find_inheritance_children(rte->relid, NoLock) != NIL)
		refuse(checker, location, "Write FROM ONLY to read the stream without them.",
			   "streams with inheritance children are not supported");
	return 1;
}

/* Check an item of FROM; returns the number of streams in it that can be read record by record. */
static int
check_from(Checker *checker, Query *query, Node *item, bool nullable)
{
	int nstreams = 0;
	ListCell *cell;

	if (IsA(item, RangeTblRef))
		return check_item(checker, rt_fetch(((RangeTblRef *) item)->rtindex, query->rtable),
						  nullable);
	if (IsA(item, JoinExpr))
	{
		JoinExpr *join = (JoinExpr *) item;
		bool left_nullable = join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL;
		bool right_nullable = join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL;
		int nleft = check_from(checker, query, join->larg, nullable || left_nullable);
		int nright = check_from(checker, query, join->rarg, nullable || right_nullable);

		if (nleft > 0 && nright > 0)
			refuse_stream_join(checker, query, join->rarg);
		return nleft + nright;
	}
	foreach (cell, castNode(FromExpr, item)->fromlist)
	{
		int nitem = check_from(checker, query, lfirst(cell), nullable);

		if (nstreams > 0 && nitem > 0)
			refuse_stream_join(checker, query, lfirst(cell));
		nstreams += nitem;
	}
	return nstreams;
}

/* Check a branch of a set operation over streams. */
static int
check_set_operation(Checker *checker, Query *query, Node *node)
{
	if (IsA(node, SetOperationStmt))
	{
		SetOperationStmt *operation = (SetOperationStmt *) node;

		if (operation->op != SETOP_UNION || !operation->all)
			refuse(checker, exprLocation((Node *) query->targetList),
				   "Use UNION ALL; drop duplicates by GROUP BY over it.",
				   "UNION, INTERSECT and EXCEPT of streams are not supported");
		return check_set_operation(checker, query, operation->larg) +
			   check_set_operation(checker, query, operation->rarg);
	}
	else
	{
		RangeTblEntry *rte = rt_fetch(castNode(RangeTblRef, node)->rtindex, query->rtable);
		int nstreams = check_subquery(checker, rte->subquery);

		if (nstreams == 0)
			refuse(checker, exprLocation((Node *) rte->subquery->targetList),
				   "Join the table with the stream instead, or copy it into the result once.",
				   "every branch of a UNION ALL with streams must read a stream");
		return nstreams;
	}
}

typedef struct SystemColumnWalk
{
	Query *query;
	int level;    /* queries down from it */
	int location; /* out */
} SystemColumnWalk;

/* Finds a system column of one of the query's own streams.  The table's OID is what it is for any table. */
static bool
find_system_column_walker(Node *node, SystemColumnWalk *walk)
{
	Var *var = (Var *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Var) && (int) var->varlevelsup == walk->level && var->varattno < 0 &&
		var->varattno != TableOidAttributeNumber)
	{
		RangeTblEntry *rte = rt_fetch(var->varno, walk->query->rtable);

		walk->location = var->location;
		return rte->rtekind == RTE_RELATION && stream_is(rte->relid);
	}
	if (IsA(node, Query))
	{
		bool found;

		walk->level++;
		found = query_tree_walker((Query *) node, find_system_column_walker, walk, 0);
		walk->level--;
		return found;
	}
	return expression_tree_walker(node, find_system_column_walker, walk);
}

/* What neither the query itself nor a sub-select over a stream may have. */
static void
check_clauses(Checker *checker, Query *query)
{
	SystemColumnWalk walk = {.query = query};
	ListCell *cell;

	if (query_tree_walker(query, find_system_column_walker, &walk, 0))
		refuse(checker, walk.location,
			   "Declare columns of the stream with the options metadata 'partition' and metadata "
			   "'offset' to tell records apart.",
			   "system columns of streams are not supported");

	foreach (cell, query->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, cell);

		/* others have become sub-selects */
		if (cte->cterecursive && streams_in(cte->ctequery) != NIL)
			refuse(checker, cte->location, SUBSELECT_HINT,
				   "recursive queries over streams are not supported");
	}
	if (query->hasModifyingCTE)
		refuse(checker, exprLocation((Node *) linitial(query->cteList)),
			   "A query writes its result only.",
			   "data-modifying statements in WITH are not supported over streams");
	if (query->rowMarks != NIL)
	{
		RowMarkClause *mark = linitial_node(RowMarkClause, query->rowMarks);

		refuse(checker, rte_location(checker, rt_fetch(mark->rti, query->rtable)),
			   "Look-ups in tables see the rows that are committed when a batch is evaluated.",
			   "FOR UPDATE and FOR SHARE are not supported over streams");
	}
	if (query->hasWindowFuncs || query->windowClause != NIL)
		refuse(checker, locate_windowfunc((Node *) query->targetList),
			   "Aggregate by WINDOW TUMBLING, HOPPING or SLIDING and GROUP BY; OVER works on the "
			   "result table.",
			   "window functions (OVER) are not supported over streams yet");
	if (query->distinctClause != NIL)
		refuse(checker, exprLocation((Node *) query->targetList),
			   "Use GROUP BY with the same columns.", "DISTINCT is not supported over streams yet");
	if (query->limitCount != NULL || query->limitOffset != NULL)
		refuse(checker,
			   exprLocation(query->limitCount != NULL ? query->limitCount : query->limitOffset),
			   "A stream has no end; use LIMIT when you read the result table.",
			   "LIMIT and OFFSET are not supported over streams");
	if (query->sortClause != NIL)
	{
		TargetEntry *tle = get_sortgroupclause_tle(linitial(query->sortClause), query->targetList);

		refuse(checker, exprLocation((Node *) tle->expr),
			   "A stream has no end; use ORDER BY when you read the result table.",
			   "ORDER BY is not supported over streams");
	}
	if (query->groupingSets != NIL)
		refuse(checker, exprLocation((Node *) linitial(query->groupingSets)),
			   "Make a query of each grouping.",
			   "GROUPING SETS, CUBE and ROLLUP are not supported over streams yet");
}

/* Check a sub-select over streams; returns their number. */
static int
check_subquery(Checker *checker, Query *query)
{
	check_clauses(checker, query);
	if (query->setOperations != NULL)
		return check_set_operation(checker, query, query->setOperations);
	if (query->hasAggs || query->groupClause != NIL || query->havingQual != NULL)
		refuse(checker, exprLocation((Node *) query->targetList), SUBSELECT_HINT,
			   "aggregation of a stream in a sub-select is not supported yet");
	return check_from(checker, query, (Node *) query->jointree, false);
}

/* ------------------------------------------------------------------ grouping */

typedef struct GroupedWalk
{
	Query *query;
	int location; /* out */
} GroupedWalk;

static bool
is_group_item(Query *query, Node *node)
{
	ListCell *cell;

	foreach (cell, query->groupClause)
	{
		if (equal(node, get_sortgroupclause_expr(lfirst(cell), query->targetList)))
			return true;
	}
	return false;
}

/* Finds a column that is neither grouped nor aggregated. */
static bool
find_ungrouped_walker(Node *node, GroupedWalk *walk)
{
	if (node == NULL || IsA(node, Aggref) || IsA(node, Query) || is_group_item(walk->query, node))
		return false;
	if (IsA(node, Var))
	{
		walk->location = ((Var *) node)->location;
		return true;
	}
	return expression_tree_walker(node, find_ungrouped_walker, walk);
}

/* Finds a set-returning function that is not one of the groups. */
static bool
find_set_returning_walker(Node *node, GroupedWalk *walk)
{
	if (node == NULL || IsA(node, Query) || is_group_item(walk->query, node))
		return false;
	if ((IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
	{
		walk->location = exprLocation(node);
		return true;
	}
	return expression_tree_walker(node, find_set_returning_walker, walk);
}

static bool
find_grouping_walker(Node *node, int *location)
{
	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc))
	{
		*location = ((GroupingFunc *) node)->location;
		return true;
	}
	return expression_tree_walker(node, find_grouping_walker, location);
}

/* What a grouped query may not have beyond the above. */
static void
check_grouping(Checker *checker, Query *query)
{
	GroupedWalk walk = {.query = query, .location = -1};

	if (query->constraintDeps != NIL)
	{
		if (!find_ungrouped_walker((Node *) query->targetList, &walk))
			find_ungrouped_walker(query->havingQual, &walk);
		refuse(checker, walk.location, "Add the column to GROUP BY.",
			   "columns that depend on a primary key in GROUP BY are not supported");
	}
	if (find_grouping_walker((Node *) query->targetList, &walk.location) ||
		find_grouping_walker(query->havingQual, &walk.location))
		refuse(checker, walk.location, "Leave it out: without grouping sets it is always 0.",
			   "GROUPING is not supported over streams");
	/* a group is one row */
	if (find_set_returning_walker((Node *) query->targetList, &walk))
		refuse(checker, walk.location,
			   "Name the function in GROUP BY, or use it when you read the result table.",
			   "set-returning functions over groups are not supported");
}

/* ------------------------------------------------------------------ doors */

void
refuse_statement(ParseState *pstate, RawStmt *raw)
{
	SelectStmt *select = (SelectStmt *) raw->stmt;
	Checker checker = {pstate, raw, raw != NULL ? Max(raw->stmt_location, 0) : -1};

	if (!IsA(select, SelectStmt))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a continuous query must be a SELECT"),
						errhint("Use INSERT, UPDATE and DELETE on the result table."),
						parser_errposition(pstate, Max(raw->stmt_location, 0))));
	/* of a set operation, it stands in the first branch */
	while (select->larg != NULL)
		select = select->larg;
	if (select->intoClause != NULL)
		refuse(&checker, select->intoClause->rel->location,
			   "The query's result is a table already: name it by the query's name or its target.",
			   "SELECT INTO is not supported over streams");
}

void
refuse_query(ParseState *pstate, RawStmt *raw, Query *query)
{
	Checker checker = {pstate, raw, raw != NULL ? Max(raw->stmt_location, 0) : -1};
	int nstreams;
	int location = -1;

	check_clauses(&checker, query);
	nstreams = check_from(&checker, query, (Node *) query->jointree, false);
	if (list_length(streams_in((Node *) query)) > nstreams)
	{
		find_stream_sublink_walker((Node *) query, &location);
		refuse(&checker, location, SUBSELECT_HINT,
			   "streams in sub-selects of expressions are not supported");
	}
	if (nstreams == 0)
		refuse(&checker, exprLocation((Node *) query->targetList),
			   "Name a stream in FROM, or use a view or a materialized view.",
			   "a continuous query must read a stream");
	if (query->hasAggs || query->groupClause != NIL || query->havingQual != NULL)
		check_grouping(&checker, query);
}
