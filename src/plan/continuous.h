/*
 * continuous.h
 *		What the files of plan/ that deal with continuous queries share; private to plan/.
 *
 *		sources.c	where a query's streams stand, and which of their columns an expression is
 *		refuse.c	what can't run continuously
 *		windows.c	the window of a query
 *		analyze.c	text, or a stored query, to ContinuousQuery
 *		split.c		ContinuousQuery to the two plans of exec/exec.h
 *		explain.c	EXPLAIN
 *
 * "The source" of a query is the one item of its FROM that streams come from: a stream, a view or plain sub-select over
 * one, or a UNION ALL of such.
 */
#ifndef VELO_CONTINUOUS_H
#define VELO_CONTINUOUS_H

#include "velo.h"

#include "nodes/parsenodes.h"
#include "parser/parse_node.h"
#include "plan/plan.h"

/* A column of a stream. */
typedef struct StreamColumnRef
{
	Oid relid;
	AttrNumber attnum;
} StreamColumnRef;

/* Oids of the streams that are mentioned anywhere in a query (or an expression), once for each mention. */
extern List *streams_in(Node *node);
/* Oids of the streams that an item of the range table stands for. */
extern List *streams_of_rte(RangeTblEntry *rte);
/* Make sub-selects of the WITH queries over streams, so that nobody need look for them again. */
extern void inline_stream_ctes(Query *query);
/* The sub-select behind an item of the range table, a view's included; NULL if it is none. */
extern Query *source_subquery(RangeTblEntry *rte);
/* Index of the query's source in its range table; 0: none.  The first if there are several. */
extern Index source_index(Query *query);

/*
 * If an expression is a column of streams, carried through unchanged: what column of what stream it is, one
 * StreamColumnRef for each branch of a UNION ALL; NIL if it is anything else.
 */
extern List *stream_columns(Query *query, Node *expr);
/* Is the expression the event time of every stream that it comes from? */
extern bool is_event_time(Query *query, Node *expr);

/*
 * ereport(ERROR) for what can't run continuously, windows and EMIT apart.  "raw" is the parse tree for positions, NULL
 * for a stored query, as is the source text of "pstate".
 */
extern void refuse_statement(ParseState *pstate, RawStmt *raw);
extern void refuse_query(ParseState *pstate, RawStmt *raw, Query *query);

/*
 * Error context callback: show errors at a place in a text, the argument, as what they are, for the text is a string in
 * another statement.
 */
extern void query_text_error_callback(void *text);

/*
 * Analyse a query in plain SQL, which is changed.  "like" is what it was in the dialect and tells emit and grace; NULL:
 * the defaults.
 */
extern ContinuousQuery *continuous_describe(Query *query, const ContinuousQuery *like);

/* continuous_plan() of a query that is rewritten already */
extern ContinuousPlan *continuous_plan_rewritten(ContinuousQuery *query);

/* What is analysed. */
typedef struct Analysis
{
	ParseState *pstate;    /* for positions */
	DialectQuery *dialect; /* NULL: a stored query */
	ContinuousQuery *result;
} Analysis;

/* ParserSetupHook: resolve the bounds of the window; the argument is a DialectQuery. */
extern void setup_window_bounds(ParseState *pstate, void *dialect);
/* Make the WINDOW clause an item of GROUP BY, and the bounds those of that. */
extern void apply_window_clause(Analysis *analysis, Query *query);
/*
 * Find and describe the call of velo.tumble or velo.hop in GROUP BY, or a bound of one, for which the call is put there;
 * NULL: there is none.
 */
extern Expr *find_window(Analysis *analysis, Query *query);
/*
 * If "expr" is date_bin() or date_trunc() of the event time that cuts it into windows, describe them and return true.
 * Anything else is left to be an ordinary expression.
 */
extern bool describe_date_window(Analysis *analysis, Query *query, Node *expr, WindowSpec *spec);
/* The same for an expression that is not to be a window: what can't be described is left alone instead of refused. */
extern bool describe_date_bin(Analysis *analysis, Query *query, Node *expr, WindowSpec *spec);
/* Put the bounds of the window in front of the SELECT list if it names neither. */
extern void add_missing_bounds(Query *query, Expr *window);
/* lower() or upper() of a window */
extern Expr *make_window_bound(Expr *window, bool is_upper);

/* The first column of the result that is this expression; 0: none. */
extern AttrNumber result_column(Query *query, Node *expr);

/* What the window of a query is, as an expression. */
typedef struct WindowKey
{
	Expr *expr; /* an item of GROUP BY; NULL: no window */
	/* velo.tumble, velo.hop: bounds are lower() and upper() of it; otherwise it is the start itself */
	bool range;
} WindowKey;

/* The window of an analysed query. */
extern WindowKey window_key(const ContinuousQuery *query);

/* true if "expr" is lower() or upper() (*is_upper) of the window */
extern bool is_window_bound(const WindowKey *window, Node *expr, bool *is_upper);

#endif /* VELO_CONTINUOUS_H */
