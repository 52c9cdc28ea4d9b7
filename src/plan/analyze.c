/*
 * analyze.c
 *		From a text in the dialect, or from a stored query, to a ContinuousQuery.
 *
 * PostgreSQL's parse analysis does nearly all of it.  While it runs, window_start and window_end stand for parameters,
 * which no rule of grouping minds.  Afterwards they become lower() and upper() of the window, velo.tumble(...) or
 * velo.hop(...), which is put into GROUP BY: from then on a query in the dialect is one in plain SQL, and a stored one
 * is looked at in just the same way.
 */
#include "plan/continuous.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/analyze.h"
#include "parser/parse_clause.h"
#include "parser/parse_func.h"
#include "parser/parse_oper.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/scansup.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"

/* parameters that stand for the bounds of the window during parse analysis; no query has parameters of its own */
#define PARAM_WINDOW_START 1
#define PARAM_WINDOW_END 2

/* What is analysed. */
typedef struct Analysis
{
	ParseState *pstate;    /* for positions */
	RawStmt *raw;          /* NULL: a stored query */
	DialectQuery *dialect; /* NULL likewise */
	ContinuousQuery *result;
} Analysis;

/* ------------------------------------------------------------------ functions of velo's in a query */

static bool
is_velo_function(Node *expr, const char *name)
{
	Oid funcid;

	if (expr == NULL || !IsA(expr, FuncExpr))
		return false;
	funcid = ((FuncExpr *) expr)->funcid;
	return get_func_namespace(funcid) == get_namespace_oid(VELO_SCHEMA, false) &&
		   strcmp(get_func_name(funcid), name) == 0;
}

static bool
is_window_function(Node *expr)
{
	return is_velo_function(expr, "tumble") || is_velo_function(expr, "hop") ||
		   is_velo_function(expr, "session");
}

static Expr *
make_bound(Expr *window, bool is_upper)
{
	return (Expr *) makeFuncExpr(is_upper ? F_UPPER_ANYRANGE : F_LOWER_ANYRANGE, TIMESTAMPTZOID,
								 list_make1(copyObject(window)), InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/* The range whose bound "expr" is, by lower() or upper(); NULL: it is nobody's. */
static Node *
bound_of(Node *expr, bool *is_upper)
{
	FuncExpr *function = (FuncExpr *) expr;

	if (expr == NULL || !IsA(expr, FuncExpr) ||
		(function->funcid != F_LOWER_ANYRANGE && function->funcid != F_UPPER_ANYRANGE))
		return NULL;
	*is_upper = function->funcid == F_UPPER_ANYRANGE;
	return linitial(function->args);
}

bool
is_window_bound(const WindowKey *window, Node *expr, bool *is_upper)
{
	return window->expr != NULL && window->range && equal(bound_of(expr, is_upper), window->expr);
}

/* ------------------------------------------------------------------ parse analysis */

void
query_text_error_callback(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/* post-columnref hook: the bounds of the window */
static Node *
resolve_bound(ParseState *pstate, ColumnRef *ref, Node *var)
{
	char *name;
	Param *param;
	bool is_start;

	if (list_length(ref->fields) != 1 || !IsA(linitial(ref->fields), String))
		return NULL;
	name = strVal(linitial(ref->fields));
	is_start = strcmp(name, "window_start") == 0 || strcmp(name, "_window_start") == 0;
	if (!is_start && strcmp(name, "window_end") != 0 && strcmp(name, "_window_end") != 0)
		return NULL;
	if (var != NULL)
		ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_COLUMN),
						errmsg("column reference \"%s\" is ambiguous", name),
						errdetail("It could refer to a column or to a bound of the window."),
						errhint("Qualify the column by its table%s.",
								name[0] == '_' ? "" : ", or put _ before it to mean the bound"),
						parser_errposition(pstate, ref->location)));

	param = makeNode(Param);
	param->paramkind = PARAM_EXTERN;
	param->paramid = is_start ? PARAM_WINDOW_START : PARAM_WINDOW_END;
	param->paramtype = TIMESTAMPTZOID;
	param->paramtypmod = -1;
	param->location = ref->location;
	return (Node *) param;
}

static void
setup_parser(ParseState *pstate, void *arg)
{
	if (((DialectQuery *) arg)->window != WINDOW_NONE)
		pstate->p_post_columnref_hook = resolve_bound;
}

/* SELECT * FROM (a set operation), so that a query always has a FROM to look into */
static Query *
wrap_set_operation(Query *inner)
{
	Query *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List *names = NIL;
	ListCell *cell;

	foreach (cell, inner->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);
		AttrNumber attnum = list_length(query->targetList) + 1;

		if (tle->resjunk)
			continue;
		names = lappend(names, makeString(pstrdup(tle->resname)));
		query->targetList =
			lappend(query->targetList, makeTargetEntry((Expr *) makeVarFromTargetEntry(1, tle),
													   attnum, pstrdup(tle->resname), false));
	}
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = inner;
	rte->alias = makeAlias("streams", NIL);
	rte->eref = makeAlias("streams", names);
	rte->inFromCl = true;
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->stmt_location = inner->stmt_location;
	query->stmt_len = inner->stmt_len;
	inner->stmt_location = inner->stmt_len = 0;
	return query;
}

/* ------------------------------------------------------------------ a window of the dialect */

/* The column of the source that the clause names, or that is the event time if it names none. */
static AttrNumber
find_time_column(Analysis *analysis, Query *query, Index source)
{
	DialectQuery *dialect = analysis->dialect;
	RangeTblEntry *rte = rt_fetch(source, query->rtable);
	char *name = NULL;
	char *relation = NULL;
	AttrNumber attnum = 0;
	bool exists = false;
	ListCell *cell;

	if (dialect->time_column != NULL)
	{
		List *names = compat_string_to_name_list(dialect->time_column);

		name = strVal(llast(names));
		if (list_length(names) > 1)
			relation = strVal(list_nth(names, list_length(names) - 2));
	}
	if (relation != NULL && strcmp(relation, rte->eref->aliasname) != 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("\"%s\" is not the stream of the query", relation),
						errhint("Name a column of \"%s\".", rte->eref->aliasname),
						parser_errposition(analysis->pstate, dialect->time_location)));

	foreach (cell, rte->eref->colnames)
	{
		AttrNumber current = foreach_current_index (cell) + 1;
		Var *var;

		if (name != NULL && strcmp(name, strVal(lfirst(cell))) != 0)
			continue;
		exists = true;
		var = makeVar(source, current, TIMESTAMPTZOID, -1, InvalidOid, 0);
		if (attnum == 0 && is_event_time(query, (Node *) var))
			attnum = current;
	}
	if (attnum != 0)
		return attnum;

	if (name != NULL && !exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of \"%s\" does not exist", name, rte->eref->aliasname),
				 parser_errposition(analysis->pstate, dialect->time_location)));
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a window over \"%s\" is not supported", name),
				 errdetail("It is not the event time of the stream."),
				 errhint("Leave the column out, or define the stream with event_time '%s'.", name),
				 parser_errposition(analysis->pstate, dialect->time_location)));
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("a window needs the event time of \"%s\"", rte->eref->aliasname),
					errdetail("No column of it is the event time of its stream."),
					errhint("Set the option event_time of the stream, and select that column in a "
							"sub-select or view over it."),
					parser_errposition(analysis->pstate, dialect->window_location)));
}

static Const *
make_interval_const(int64 microseconds)
{
	Interval *interval = palloc0_object(Interval);

	interval->time = microseconds;
	return makeConst(INTERVALOID, -1, InvalidOid, sizeof(Interval), IntervalPGetDatum(interval),
					 false, false);
}

/* The window clause as a call of velo.tumble or velo.hop. */
static Expr *
make_window(Analysis *analysis, Query *query)
{
	static const Oid tumble_types[] = {TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID, TEXTOID};
	static const Oid hop_types[] = {TIMESTAMPTZOID, INTERVALOID, INTERVALOID, TIMESTAMPTZOID};
	DialectQuery *dialect = analysis->dialect;
	bool hop = dialect->window == WINDOW_HOPPING;
	Index source = source_index(query);
	AttrNumber attnum = find_time_column(analysis, query, source);
	Var *time = makeVar(source, attnum, TIMESTAMPTZOID, -1, InvalidOid, 0);
	List *args = list_make2(time, make_interval_const(dialect->size));
	FuncExpr *window;

	/* as if the text had named the column */
	if (rt_fetch(source, query->rtable)->rtekind == RTE_RELATION)
	{
		Bitmapset **selected = compat_selected_columns(query, rt_fetch(source, query->rtable));

		*selected = bms_add_member(*selected, attnum - FirstLowInvalidHeapAttributeNumber);
	}

	if (hop)
		args = lappend(args, make_interval_const(dialect->slide));
	window = makeFuncExpr(
		LookupFuncName(list_make2(makeString(VELO_SCHEMA), makeString(hop ? "hop" : "tumble")), 4,
					   hop ? hop_types : tumble_types, false),
		TSTZRANGEOID, args, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	window->funcretset = hop;
	window->location = dialect->window_location;
	return (Expr *) window;
}

typedef struct BoundsMutator
{
	Analysis *analysis;
	Expr *window;
	int level; /* queries down */
	bool in_hop_aggregate;
} BoundsMutator;

/* Put the bounds of the window where their parameters stand. */
static Node *
bounds_mutator(Node *node, BoundsMutator *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
	{
		Param *param = (Param *) node;
		Expr *bound;

		if (context->in_hop_aggregate)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("bounds of overlapping windows are not supported inside aggregates"),
					 errhint("Use the bound outside of the aggregate, or a tumbling window."),
					 parser_errposition(context->analysis->pstate, param->location)));
		bound = make_bound(context->window, param->paramid == PARAM_WINDOW_END);
		((FuncExpr *) bound)->location = param->location;
		IncrementVarSublevelsUp((Node *) bound, context->level, 0);
		return (Node *) bound;
	}
	if (IsA(node, Query))
	{
		Query *query;

		context->level++;
		query = query_tree_mutator((Query *) node, bounds_mutator, context, 0);
		context->level--;
		return (Node *) query;
	}
	if (IsA(node, Aggref) && context->analysis->dialect->window == WINDOW_HOPPING &&
		!context->in_hop_aggregate)
	{
		Node *result;

		context->in_hop_aggregate = true;
		result = expression_tree_mutator(node, bounds_mutator, context);
		context->in_hop_aggregate = false;
		return result;
	}
	return expression_tree_mutator(node, bounds_mutator, context);
}

static bool
find_bound_walker(Node *node, int *location)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
	{
		*location = ((Param *) node)->location;
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_bound_walker, location, 0);
	return expression_tree_walker(node, find_bound_walker, location);
}

/* Put an expression into GROUP BY, first, as a junk column. */
static void
add_group_item(Query *query, Expr *expr)
{
	TargetEntry *tle = makeTargetEntry(expr, list_length(query->targetList) + 1, NULL, true);
	SortGroupClause *item = makeNode(SortGroupClause);

	query->targetList = lappend(query->targetList, tle);
	item->tleSortGroupRef = assignSortGroupRef(tle, query->targetList);
	get_sort_group_operators(exprType((Node *) expr), true, true, false, &item->sortop, &item->eqop,
							 NULL, &item->hashable);
	query->groupClause = lcons(item, query->groupClause);
}

/* Make the query's window clause an item of GROUP BY, and its bounds those of that. */
static void
apply_window_clause(Analysis *analysis, Query *query)
{
	DialectQuery *dialect = analysis->dialect;
	BoundsMutator context = {.analysis = analysis};
	int location = -1;

	if (dialect->window == WINDOW_SESSION)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("session windows are not supported yet"),
						errhint("Use WINDOW TUMBLING, HOPPING or SLIDING."),
						parser_errposition(analysis->pstate, dialect->window_location)));
	if (!query->hasAggs && query->groupClause == NIL && query->havingQual == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("WINDOW without an aggregate or GROUP BY is not supported"),
						errhint("Add an aggregate such as count(*), or leave WINDOW out."),
						parser_errposition(analysis->pstate, dialect->window_location)));

	context.window = make_window(analysis, query);
	query->targetList = (List *) bounds_mutator((Node *) query->targetList, &context);
	query->havingQual = bounds_mutator(query->havingQual, &context);
	if (query_tree_walker(query, find_bound_walker, &location, 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("bounds of the window are not available before grouping"),
				 errhint("Use them in the SELECT list and in HAVING; in WHERE, use the event "
						 "time."),
				 parser_errposition(analysis->pstate, location)));
	if (dialect->window == WINDOW_HOPPING)
		query->hasTargetSRFs = true;
	add_group_item(query, context.window);
}

/* ------------------------------------------------------------------ windows in GROUP BY */

/* Number the columns anew after some were added or taken away. */
static void
renumber(Query *query)
{
	ListCell *cell;

	foreach (cell, query->targetList)
		lfirst_node(TargetEntry, cell)->resno = foreach_current_index (cell) + 1;
}

/*
 * Find the window among the items of GROUP BY: a call of velo.tumble or velo.hop, or a bound of one.  Leaves the call
 * itself there and takes bounds of it away, for they don't divide any further.
 */
static Expr *
normalise_window(Analysis *analysis, Query *query)
{
	Expr *window = NULL;
	bool present = false;
	bool is_upper;
	List *items = NIL;
	ListCell *cell;

	foreach (cell, query->groupClause)
	{
		Node *expr = get_sortgroupclause_expr(lfirst(cell), query->targetList);
		Node *call = is_window_function(expr) ? expr : bound_of(expr, &is_upper);

		if (!is_window_function(call))
			continue;
		if (window != NULL && !equal(window, call))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a query can have only one window"), errhint("Make a query of each."),
					 parser_errposition(analysis->pstate, exprLocation(call))));
		window = (Expr *) call;
		present |= (call == expr);
	}
	if (window == NULL)
		return NULL;

	window = copyObject(window);
	foreach (cell, query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		TargetEntry *tle = get_sortgroupclause_tle(item, query->targetList);

		if (!equal(bound_of((Node *) tle->expr, &is_upper), window))
		{
			items = lappend(items, item);
			continue;
		}
		tle->ressortgroupref = 0;
		if (tle->resjunk)
			query->targetList = list_delete_ptr(query->targetList, tle);
	}
	query->groupClause = items;
	renumber(query);
	if (!present)
		add_group_item(query, window);
	return window;
}

/* An argument of a window function that must be the same for all records. */
static Datum
constant_argument(Analysis *analysis, FuncExpr *call, int n, const char *what)
{
	Node *arg = list_nth(call->args, n);

	if (!IsA(arg, Const) || ((Const *) arg)->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s of a window must be a constant", what),
				 errhint("Write it as a literal."),
				 parser_errposition(analysis->pstate,
									exprLocation(arg) >= 0 ? exprLocation(arg) : call->location)));
	return ((Const *) arg)->constvalue;
}

/* Describe a call of velo.tumble or velo.hop. */
static void
describe_window(Analysis *analysis, Query *query, Expr *window)
{
	WindowSpec *spec = &analysis->result->window;
	Node *simple =
		eval_const_expressions(NULL, (Node *) window); /* adds defaults, folds constants */
	FuncExpr *call = (FuncExpr *) simple;

	if (is_velo_function((Node *) window, "session"))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("session windows are not supported yet"),
						errhint("Use velo.tumble or velo.hop."),
						parser_errposition(analysis->pstate, exprLocation((Node *) window))));
	if (!IsA(simple, FuncExpr) || !is_event_time(query, linitial(call->args)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a window over anything but the event time of the stream is not supported"),
				 errhint("Name the column of the stream's option event_time."),
				 parser_errposition(analysis->pstate, exprLocation((Node *) window))));

	spec->size = window_length(DatumGetIntervalP(constant_argument(analysis, call, 1, "the size")),
							   "window size");
	if (is_velo_function((Node *) window, "hop"))
	{
		spec->kind = WINDOW_HOPPING;
		spec->slide = window_length(
			DatumGetIntervalP(constant_argument(analysis, call, 2, "the slide")), "window slide");
		spec->origin = DatumGetTimestampTz(constant_argument(analysis, call, 3, "the origin"));
	}
	else
	{
		spec->kind = WINDOW_TUMBLING;
		spec->slide = spec->size;
		spec->origin = DatumGetTimestampTz(constant_argument(analysis, call, 2, "the origin"));
		window_set_zone(spec,
						TextDatumGetCString(constant_argument(analysis, call, 3, "the zone")));
	}
	window_max(spec); /* complains about too many */
}

/* A zone that date_trunc() takes for a name, not for an abbreviation that has no history. */
static bool
is_zone_name(const char *zone)
{
	return strchr(zone, '/') != NULL || pg_strcasecmp(zone, "UTC") == 0;
}

/* Describe date_trunc(field, ...) of a fixed length; false if it has none. */
static bool
describe_truncation(WindowSpec *spec, const char *field, const char *zone)
{
	static const struct
	{
		int unit;
		const char *name;
		int64 length;
	} units[] = {
		{DTK_MICROSEC, "microseconds", 1},     {DTK_MILLISEC, "milliseconds", 1000},
		{DTK_SECOND, "second", USECS_PER_SEC}, {DTK_MINUTE, "minute", USECS_PER_MINUTE},
		{DTK_HOUR, "hour", USECS_PER_HOUR},    {DTK_DAY, "day", USECS_PER_DAY},
		{DTK_WEEK, "week", 7 * USECS_PER_DAY},
	};
	char *lower = downcase_truncate_identifier(field, strlen(field), false);
	int unit;

	if (DecodeUnits(0, lower, &unit) != UNITS)
		return false;
	for (int i = 0; i < (int) lengthof(units); i++)
	{
		if (unit != units[i].unit)
			continue;
		spec->kind = WINDOW_TUMBLING;
		spec->size = spec->slide = units[i].length;
		/* weeks begin on Mondays, such as the 3rd of January 2000 */
		spec->origin = unit == DTK_WEEK ? 2 * USECS_PER_DAY : 0;
		spec->trunc = pstrdup(units[i].name);
		spec->zone = pstrdup(zone);
		return true;
	}
	return false;
}

/*
 * If "expr" is date_bin() or date_trunc() of the event time that cuts it into windows, describe them and return true.
 * Anything else is left to be an ordinary expression.
 */
static bool
describe_date_function(Query *query, Node *expr, WindowSpec *spec)
{
	FuncExpr *call = (FuncExpr *) eval_const_expressions(NULL, expr);
	Const *first;
	Const *third = NULL;

	if (!IsA(call, FuncExpr) || list_length(call->args) < 2 || !IsA(linitial(call->args), Const) ||
		!is_event_time(query, lsecond(call->args)))
		return false;
	first = linitial_node(Const, call->args);
	if (list_length(call->args) > 2)
	{
		if (!IsA(lthird(call->args), Const))
			return false;
		third = lthird_node(Const, call->args);
	}

	switch (call->funcid)
	{
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			spec->kind = WINDOW_TUMBLING;
			spec->size = spec->slide =
				window_length(DatumGetIntervalP(first->constvalue), "stride of date_bin");
			spec->origin = DatumGetTimestampTz(third->constvalue);
			return true;
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
			return describe_truncation(spec, TextDatumGetCString(first->constvalue),
									   pg_get_timezone_name(session_timezone));
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
			return is_zone_name(TextDatumGetCString(third->constvalue)) &&
				   describe_truncation(spec, TextDatumGetCString(first->constvalue),
									   TextDatumGetCString(third->constvalue));
		default:
			return false;
	}
}

WindowKey
window_key(const ContinuousQuery *query)
{
	WindowKey key = {0};

	if (query->window_ref != 0)
	{
		key.expr = get_sortgroupref_tle(query->window_ref, query->query->targetList)->expr;
		key.range = is_window_function((Node *) key.expr);
	}
	return key;
}

/* ------------------------------------------------------------------ what it all amounts to */

/* The mode that text and argument agree on; "preset" if neither says any. */
static EmitMode
emit_mode(Analysis *analysis, const char *emit, EmitMode preset)
{
	EmitClause clause = analysis->dialect->emit;
	EmitMode mode;

	if (emit == NULL)
		return clause == EMIT_UNSAID ? preset
									 : (clause == EMIT_SAID_FINAL ? EMIT_FINAL : EMIT_CHANGES);
	if (pg_strcasecmp(emit, "changes") == 0)
		mode = EMIT_CHANGES;
	else if (pg_strcasecmp(emit, "final") == 0)
		mode = EMIT_FINAL;
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"emit\": \"%s\"", emit),
						errhint("Valid values are changes and final.")));
	if ((clause == EMIT_SAID_FINAL && mode == EMIT_CHANGES) ||
		(clause == EMIT_SAID_CHANGES && mode == EMIT_FINAL))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"emit\" is %s, but the query says EMIT %s", emit,
							   mode == EMIT_FINAL ? "CHANGES" : "FINAL"),
						errhint("Leave one of them out."),
						parser_errposition(analysis->pstate, analysis->dialect->emit_location)));
	return mode;
}

/* The first column of the result that is this expression; 0: none. */
static AttrNumber
result_column(Query *query, Node *expr)
{
	ListCell *cell;

	foreach (cell, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);

		if (!tle->resjunk && equal(tle->expr, expr))
			return tle->resno;
	}
	return 0;
}

/* Put the bounds of the window in front of the SELECT list if it names neither. */
static void
add_missing_bounds(Query *query, Expr *window)
{
	Expr *start = make_bound(window, false);
	Expr *end = make_bound(window, true);

	if (result_column(query, (Node *) start) != 0 || result_column(query, (Node *) end) != 0)
		return;
	query->targetList =
		lcons(makeTargetEntry(start, 1, pstrdup("window_start"), false),
			  lcons(makeTargetEntry(end, 2, pstrdup("window_end"), false), query->targetList));
	renumber(query);
}

/* An item of GROUP BY, for a message. */
static char *
describe_item(Query *query, Expr *expr)
{
	Var *var = (Var *) expr;

	if (!IsA(var, Var))
		return "this expression";
	return quote_qualified_identifier(
		NULL, get_rte_attribute_name(rt_fetch(var->varno, query->rtable), var->varattno));
}

/* The columns of the result's unique key. */
static void
find_key_columns(Analysis *analysis)
{
	ContinuousQuery *result = analysis->result;
	Query *query = result->query;
	WindowKey window = window_key(result);
	ListCell *cell;

	foreach (cell, query->groupClause)
	{
		TargetEntry *tle = get_sortgroupclause_tle(lfirst(cell), query->targetList);
		AttrNumber column;

		if (window.range && tle->ressortgroupref == result->window_ref)
		{
			column = result_column(query, (Node *) make_bound(window.expr, false));
			if (column == 0)
				column = result_column(query, (Node *) make_bound(window.expr, true));
		}
		else
			column = result_column(query, (Node *) tle->expr);
		if (column == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("every group column must be in the SELECT list"),
					 errdetail("The rows of the result are told apart by them."),
					 errhint("Add %s to the SELECT list.", describe_item(query, tle->expr)),
					 parser_errposition(analysis->pstate, exprLocation((Node *) tle->expr))));
		if (tle->ressortgroupref == result->window_ref)
			result->key_columns = lcons_int(column, result->key_columns);
		else
			result->key_columns = lappend_int(result->key_columns, column);
	}
}

/* Do the groups include the key by which the topic is partitioned? */
static bool
groups_cover_key(ContinuousQuery *result)
{
	Bitmapset *grouped = NULL;
	StreamInfo *stream;
	ListCell *cell;

	if (list_length(result->streams) != 1)
		return false;
	stream = stream_get(linitial_oid(result->streams));
	foreach (cell, result->query->groupClause)
	{
		List *columns = stream_columns(
			result->query, get_sortgroupclause_expr(lfirst(cell), result->query->targetList));
		ListCell *column;
		Bitmapset *attnums = NULL;

		foreach (column, columns)
			attnums = bms_add_member(attnums, ((StreamColumnRef *) lfirst(column))->attnum);
		/* the same column in every branch of a UNION ALL */
		if (bms_membership(attnums) == BMS_SINGLETON)
			grouped = bms_add_members(grouped, attnums);
	}
	for (int i = 0; i < stream->nkeys; i++)
	{
		if (!bms_is_member(stream->keys[i], grouped))
			return false;
	}
	return stream->nkeys > 0;
}

/* The windows of a record are told apart by its state; nothing else may multiply or look at them before. */
static void
refuse_sets_beside_hop(Analysis *analysis, Query *query, Expr *window)
{
	ListCell *cell;

	foreach (cell, query->groupClause)
	{
		Node *expr = get_sortgroupclause_expr(lfirst(cell), query->targetList);

		if (!equal(expr, window) && expression_returns_set(expr))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("overlapping windows beside another set-returning GROUP BY item are "
							"not supported"),
					 errhint("Call the function in a sub-select over the stream."),
					 parser_errposition(analysis->pstate, exprLocation(expr))));
	}
}

/* Describe a query in plain SQL.  "emit" is the argument of create_query; a stored query's mode is set already. */
static void
describe(Analysis *analysis, const char *emit, bool stop_at_end)
{
	ContinuousQuery *result = analysis->result;
	Query *query = result->query;
	Expr *window;
	ListCell *cell;

	foreach (cell, streams_in((Node *) query))
		result->streams = list_append_unique_oid(result->streams, lfirst_oid(cell));
	result->grouped = query->hasAggs || query->groupClause != NIL || query->havingQual != NULL;

	window = normalise_window(analysis, query);
	if (window != NULL)
		describe_window(analysis, query, window);
	if (analysis->dialect != NULL)
		result->emit = emit_mode(analysis, emit, window != NULL ? EMIT_FINAL : EMIT_CHANGES);

	foreach (cell, query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		Node *expr = get_sortgroupclause_expr(item, query->targetList);

		if (window != NULL ? equal(expr, window)
						   : (result->emit == EMIT_FINAL &&
							  describe_date_function(query, expr, &result->window)))
		{
			result->window_ref = item->tleSortGroupRef;
			break;
		}
	}
	result->windowed = result->window_ref != 0;
	if (result->window.kind == WINDOW_HOPPING)
		refuse_sets_beside_hop(analysis, query, window);

	if (result->emit == EMIT_FINAL && !result->windowed && !stop_at_end)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("EMIT FINAL without a window is not supported"),
						errdetail("The groups of a stream without end are never final."),
						errhint("Add WINDOW TUMBLING(...), use EMIT CHANGES, or end the query with "
								"stop => 'end'."),
						analysis->dialect != NULL
							? parser_errposition(analysis->pstate, analysis->dialect->emit_location)
							: 0));

	if (window != NULL)
		add_missing_bounds(query, window);
	find_key_columns(analysis);
	result->exclusive = !result->grouped || groups_cover_key(result);
}

static int64
choose_grace(Analysis *analysis, int64 grace)
{
	DialectQuery *dialect = analysis->dialect;

	if (dialect->grace >= 0 && grace >= 0 && dialect->grace != grace)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("option \"grace\" contradicts the GRACE of the query"),
						errhint("Leave one of them out."),
						parser_errposition(analysis->pstate, dialect->window_location)));
	if (dialect->grace >= 0)
		return dialect->grace;
	return grace >= 0 ? grace : velo_grace * INT64CONST(1000);
}

/* ------------------------------------------------------------------ doors */

ContinuousQuery *
continuous_analyze(const char *text, const char *emit, bool stop_at_end, int64 grace)
{
	ContinuousQuery *result = palloc0_object(ContinuousQuery);
	Analysis analysis = {.result = result};
	ErrorContextCallback callback;
	List *statements;
	Query *query;

	callback.callback = query_text_error_callback;
	callback.arg = (void *) text;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	analysis.pstate = make_parsestate(NULL);
	analysis.pstate->p_sourcetext = text;
	analysis.dialect = dialect_parse(text);
	statements = raw_parser(analysis.dialect->sql, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("a query must be a single SELECT")));
	analysis.raw = linitial_node(RawStmt, statements);
	refuse_statement(analysis.pstate, analysis.raw);

	/* parse analysis may change the parse tree, which is still wanted for positions */
	query =
		parse_analyze_withcb(copyObject(analysis.raw), text, setup_parser, analysis.dialect, NULL);
	if (query->setOperations != NULL)
		query = wrap_set_operation(query);
	inline_stream_ctes(query);
	refuse_query(analysis.pstate, analysis.raw, query);
	if (analysis.dialect->window != WINDOW_NONE)
		apply_window_clause(&analysis, query);

	result->query = query;
	result->window.grace = choose_grace(&analysis, grace);
	describe(&analysis, emit, stop_at_end);

	error_context_stack = callback.previous;
	return result;
}

/*
 * DROP locks what a query uses before its view.  So that who runs or plans the query doesn't lock them the other way
 * round, forget that the stored SELECT (up to PostgreSQL 15) has the view in its range table, as OLD and NEW of a rule.
 */
static void
forget_view(Query *query, Oid view)
{
	ListCell *lc;

	foreach (lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && rte->relid == view)
		{
			rte->rtekind = RTE_RESULT;
			rte->relid = InvalidOid;
		}
	}
}

ContinuousQuery *
continuous_load(const QueryInfo *info)
{
	ContinuousQuery *result = palloc0_object(ContinuousQuery);
	Analysis analysis = {.result = result, .pstate = make_parsestate(NULL)};
	Relation view = relation_open(info->id, AccessShareLock);

	result->query = copyObject(get_view_query(view));
	relation_close(view, AccessShareLock);
	forget_view(result->query, info->id);
	result->emit = info->emit;
	result->window.grace = info->options.grace;
	/* views and streams may have changed since it was stored */
	inline_stream_ctes(result->query);
	refuse_query(analysis.pstate, NULL, result->query);
	describe(&analysis, NULL, info->stop_at_end);
	return result;
}

ContinuousQuery *
continuous_describe(Query *query, const ContinuousQuery *like)
{
	ContinuousQuery *result = palloc0_object(ContinuousQuery);
	DialectQuery unsaid = {.emit = EMIT_UNSAID};
	Analysis analysis = {.result = result, .pstate = make_parsestate(NULL)};

	if (query->setOperations != NULL)
		query = wrap_set_operation(query);
	result->query = query;
	if (like != NULL)
		result->emit = like->emit;
	else
		analysis.dialect = &unsaid;
	result->window.grace = like != NULL ? like->window.grace : velo_grace * INT64CONST(1000);
	inline_stream_ctes(query);
	refuse_query(analysis.pstate, NULL, query);
	describe(&analysis, NULL, like != NULL);
	return result;
}
