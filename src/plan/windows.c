/*
 * windows.c
 *		The window of a query: where it comes from, and what WindowSpec it is.
 *
 * While PostgreSQL's parse analysis runs, window_start and window_end stand for parameters, which no rule of grouping
 * minds.  Afterwards a WINDOW clause becomes velo.tumble(...) or velo.hop(...) in GROUP BY, and the parameters lower() and
 * upper() of it: from then on a query in the dialect is one in plain SQL.  All windows are then found in GROUP BY.
 */
#include "plan/continuous.h"

#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_clause.h"
#include "parser/parse_func.h"
#include "parser/parse_oper.h"
#include "parser/parse_relation.h"
#include "parser/scansup.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

/* parameters that stand for the bounds of the window during parse analysis; no query has parameters of its own */
#define PARAM_WINDOW_START 1
#define PARAM_WINDOW_END 2

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

Expr *
make_window_bound(Expr *window, bool is_upper)
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

/* ------------------------------------------------------------------ bounds during parse analysis */

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

void
setup_window_bounds(ParseState *pstate, void *dialect)
{
	if (((DialectQuery *) dialect)->window != WINDOW_NONE)
		pstate->p_post_columnref_hook = resolve_bound;
}

/* ------------------------------------------------------------------ a window of the dialect */

/* Do the names before that of a column, [schema,] relation, mean this item of FROM? */
static bool
names_item(List *names, RangeTblEntry *rte)
{
	int nqualifiers = list_length(names) - 1;

	if (nqualifiers > 0 &&
		strcmp(strVal(list_nth(names, nqualifiers - 1)), rte->eref->aliasname) != 0)
		return false;
	if (nqualifiers < 2)
		return true;
	/* an alias has no schema */
	return nqualifiers == 2 && rte->rtekind == RTE_RELATION && rte->alias == NULL &&
		   strcmp(strVal(linitial(names)), get_namespace_name(get_rel_namespace(rte->relid))) == 0;
}

/* The column of the source that the clause names, or that is the event time if it names none. */
static AttrNumber
find_time_column(Analysis *analysis, Query *query, Index source)
{
	DialectQuery *dialect = analysis->dialect;
	RangeTblEntry *rte = rt_fetch(source, query->rtable);
	char *name = NULL;
	AttrNumber attnum = 0;
	bool exists = false;
	ListCell *cell;

	if (dialect->time_column != NULL)
	{
		List *names = compat_string_to_name_list(dialect->time_column);

		name = strVal(llast(names));
		if (!names_item(names, rte))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
							errmsg("\"%s\" is not the stream of the query",
								   NameListToString(list_truncate(names, list_length(names) - 1))),
							errhint("Name a column of \"%s\".", rte->eref->aliasname),
							parser_errposition(analysis->pstate, dialect->time_location)));
	}

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
		bound = make_window_bound(context->window, param->paramid == PARAM_WINDOW_END);
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

void
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
 * itself there, once, and takes bounds of it away, for they don't divide any further.
 */
static Expr *
normalise_window(Analysis *analysis, Query *query)
{
	Expr *window = NULL;
	bool present;
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
	}
	if (window == NULL)
		return NULL;

	window = copyObject(window);
	present = false;
	foreach (cell, query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		TargetEntry *tle = get_sortgroupclause_tle(item, query->targetList);
		bool is_window = equal(tle->expr, window);

		if (is_window ? !present : !equal(bound_of((Node *) tle->expr, &is_upper), window))
		{
			items = lappend(items, item);
			present |= is_window;
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
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("%s must be a constant", what),
				 errhint("Write it as a literal."),
				 parser_errposition(analysis->pstate,
									exprLocation(arg) >= 0 ? exprLocation(arg) : call->location)));
	return ((Const *) arg)->constvalue;
}

/* One that is a length, in microseconds. */
static int64
length_argument(Analysis *analysis, FuncExpr *call, int n, const char *what)
{
	Interval *interval = DatumGetIntervalP(constant_argument(analysis, call, n, what));
	ParseCallbackState state;
	int64 length;

	setup_parser_errposition_callback(&state, analysis->pstate, exprLocation((Node *) call));
	length = window_length(interval, what);
	cancel_parser_errposition_callback(&state);
	return length;
}

static TimestampTz
origin_argument(Analysis *analysis, FuncExpr *call, int n)
{
	TimestampTz origin = DatumGetTimestampTz(constant_argument(analysis, call, n, "window origin"));

	if (TIMESTAMP_NOT_FINITE(origin))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("window origin must be finite"),
						parser_errposition(analysis->pstate, exprLocation((Node *) call))));
	return origin;
}

/* Describe a call of velo.tumble or velo.hop. */
static void
describe_window(Analysis *analysis, Query *query, Expr *window)
{
	WindowSpec *spec = &analysis->result->window;
	Node *simple =
		eval_const_expressions(NULL, (Node *) window); /* adds defaults, folds constants */
	FuncExpr *call = (FuncExpr *) simple;
	const char *zone = NULL;
	ParseCallbackState state;

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

	spec->size = length_argument(analysis, call, 1, "window size");
	if (is_velo_function((Node *) window, "hop"))
	{
		spec->kind = WINDOW_HOPPING;
		spec->slide = length_argument(analysis, call, 2, "window slide");
		spec->origin = origin_argument(analysis, call, 3);
	}
	else
	{
		spec->kind = WINDOW_TUMBLING;
		spec->slide = spec->size;
		spec->origin = origin_argument(analysis, call, 2);
		zone = TextDatumGetCString(constant_argument(analysis, call, 3, "window time zone"));
	}

	setup_parser_errposition_callback(&state, analysis->pstate, exprLocation((Node *) window));
	if (zone != NULL)
		window_set_zone(spec, zone);
	window_max(spec); /* complains about too many */
	cancel_parser_errposition_callback(&state);
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

Expr *
find_window(Analysis *analysis, Query *query)
{
	Expr *window = normalise_window(analysis, query);

	if (window == NULL)
		return NULL;
	describe_window(analysis, query, window);
	if (analysis->result->window.kind == WINDOW_HOPPING)
		refuse_sets_beside_hop(analysis, query, window);
	return window;
}

/* ------------------------------------------------------------------ date_bin and date_trunc */

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
		spec->bare_start = true;
		spec->zone = pstrdup(zone);
		return true;
	}
	return false;
}

bool
describe_date_window(Analysis *analysis, Query *query, Node *expr, WindowSpec *spec)
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
			spec->size = spec->slide = length_argument(analysis, call, 0, "stride of date_bin");
			spec->origin = origin_argument(analysis, call, 2);
			spec->bare_start = true;
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

bool
describe_date_bin(Analysis *analysis, Query *query, Node *expr, WindowSpec *spec)
{
	FuncExpr *call = (FuncExpr *) eval_const_expressions(NULL, expr);

	/* date_bin() itself will refuse what has no fixed length, record by record */
	if (IsA(call, FuncExpr) && call->funcid == F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ)
	{
		Node *stride = linitial(call->args);
		Node *origin = lthird(call->args);

		if (!IsA(stride, Const) || !IsA(origin, Const) ||
			!window_has_length(DatumGetIntervalP(((Const *) stride)->constvalue)) ||
			TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(((Const *) origin)->constvalue)))
			return false;
	}
	return describe_date_window(analysis, query, expr, spec);
}

/* ------------------------------------------------------------------ an analysed query's */

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

void
add_missing_bounds(Query *query, Expr *window)
{
	Expr *start = make_window_bound(window, false);
	Expr *end = make_window_bound(window, true);

	if (result_column(query, (Node *) start) != 0 || result_column(query, (Node *) end) != 0)
		return;
	query->targetList =
		lcons(makeTargetEntry(start, 1, pstrdup("window_start"), false),
			  lcons(makeTargetEntry(end, 2, pstrdup("window_end"), false), query->targetList));
	renumber(query);
}
