/*
 * analyze.c
 *		From a text in the dialect, or from a stored query, to a ContinuousQuery.
 *
 * PostgreSQL's parse analysis does nearly all of it.  A window of the dialect becomes one of plain SQL (windows.c), so
 * a stored query is looked at in just the same way.
 */
#include "plan/continuous.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/tlist.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

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
	if (strcmp(emit, "changes") == 0)
		mode = EMIT_CHANGES;
	else if (strcmp(emit, "final") == 0)
		mode = EMIT_FINAL;
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"emit\": \"%s\"", emit),
						errhint("Valid values are: changes, final.")));
	if ((clause == EMIT_SAID_FINAL && mode == EMIT_CHANGES) ||
		(clause == EMIT_SAID_CHANGES && mode == EMIT_FINAL))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"emit\" is %s, but the query says EMIT %s", emit,
							   mode == EMIT_FINAL ? "CHANGES" : "FINAL"),
						errhint("Leave one of them out."),
						parser_errposition(analysis->pstate, analysis->dialect->emit_location)));
	return mode;
}

AttrNumber
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

/* The unique key of the result is an index. */
static void
check_key_type(Analysis *analysis, Expr *expr)
{
	Oid type = exprType((Node *) expr);

	if (!OidIsValid(lookup_type_cache(type, TYPECACHE_CMP_PROC)->cmp_proc))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("groups of type %s are not supported", format_type_be(type)),
						errdetail("The type has no order, which the index on the groups needs."),
						errhint("Group by the expression cast to another type, such as text."),
						parser_errposition(analysis->pstate, exprLocation((Node *) expr))));
}

/* The columns of the result must be such as a table can have. */
static void
check_result_types(Analysis *analysis, Query *query)
{
	ListCell *cell;

	foreach (cell, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, cell);
		Oid type = exprType((Node *) tle->expr);

		if (!tle->resjunk && get_typtype(type) == TYPTYPE_PSEUDO)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" of the result would be of the pseudo-type %s",
							tle->resname, format_type_be(type)),
					 errhint("Cast the expression to a type that a table can hold, such as text or "
							 "a composite type of your own."),
					 parser_errposition(analysis->pstate, exprLocation((Node *) tle->expr))));
	}
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
			column = result_column(query, (Node *) make_window_bound(window.expr, false));
			if (column == 0)
				column = result_column(query, (Node *) make_window_bound(window.expr, true));
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
		check_key_type(analysis, tle->expr);
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

/* What cuts event time in GROUP BY without being a window. */
static void
find_bin(Analysis *analysis)
{
	ContinuousQuery *result = analysis->result;
	ListCell *cell;

	foreach (cell, result->query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		Node *expr = get_sortgroupclause_expr(item, result->query->targetList);

		if (describe_date_bin(analysis, result->query, expr, &result->bin))
		{
			result->bin_ref = item->tleSortGroupRef;
			return;
		}
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

	window = find_window(analysis, query);
	if (analysis->dialect != NULL)
		result->emit = emit_mode(analysis, emit, window != NULL ? EMIT_FINAL : EMIT_CHANGES);

	foreach (cell, query->groupClause)
	{
		SortGroupClause *item = lfirst_node(SortGroupClause, cell);
		Node *expr = get_sortgroupclause_expr(item, query->targetList);

		if (window != NULL ? equal(expr, window)
						   : (result->emit == EMIT_FINAL &&
							  describe_date_window(analysis, query, expr, &result->window)))
		{
			result->window_ref = item->tleSortGroupRef;
			break;
		}
	}
	result->windowed = result->window_ref != 0;

	if (!result->windowed)
		find_bin(analysis);

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
	check_result_types(analysis, query);
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
	RawStmt *raw;
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
	raw = linitial_node(RawStmt, statements);
	refuse_statement(analysis.pstate, raw);

	/* parse analysis may change the parse tree, which is still wanted for positions */
	query = parse_analyze_withcb(copyObject(raw), analysis.dialect->sql, setup_window_bounds,
								 analysis.dialect, NULL);
	if (query->setOperations != NULL)
		query = wrap_set_operation(query);
	inline_stream_ctes(query);
	refuse_query(analysis.pstate, raw, query);
	if (analysis.dialect->window != WINDOW_NONE)
		apply_window_clause(&analysis, query);

	result->query = query;
	result->sql = analysis.dialect->sql;
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

static ContinuousQuery *
load_query(const QueryInfo *info)
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

/*
 * Windows are found by folding constants, and so by calling what the query's owner calls immutable.  Whoever asks, it is
 * the owner's code, and runs as in a pipeline: with the owner's rights, in a security-restricted operation, and with the
 * settings of the query, lest somebody else's search_path put another function in its place.
 */
ContinuousQuery *
continuous_load(const QueryInfo *info)
{
	int level = NewGUCNestLevel();
	ContinuousQuery *result;
	UserState caller;
	ListCell *lc;

	become_owner(info->owner, &caller);
	foreach (lc, info->settings)
	{
		DefElem *setting = lfirst_node(DefElem, lc);

		(void) set_config_option(setting->defname, defGetString(setting), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	result = load_query(info);
	AtEOXact_GUC(false, level);
	become_caller(&caller);
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
