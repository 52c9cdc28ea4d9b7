/*
 * vector.h
 *		Expressions evaluated a column at a time; private to exec/.
 *
 * Records are taken up to VECTOR_SIZE at a time.  Each node of an expression has an array of values and one of nulls, by row:
 * the number of a record among those.  A node is evaluated for a list of rows, and a condition makes that list shorter
 * for what comes after it, so that nothing is evaluated for a row for which PostgreSQL would not evaluate it.  What may
 * differ is the order: all rows of one node before those of the next.  So whoever catches an error knows neither
 * which record caused it nor whether it is the first; the plan is run row by row then, and PostgreSQL's executor tells.
 *
 *	vector_expr.c		from PostgreSQL's expressions to nodes, and those that choose rows: AND, CASE and the like
 *	vector_functions.c	built-in functions on arrays: comparison and arithmetic
 *	vector_plan.c		a scan of a stream with its conditions and target list
 */
#ifndef VELO_VECTOR_H
#define VELO_VECTOR_H

#include "velo.h"

#include "exec/exec.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

#define VECTOR_SIZE 1024
/* fewer, if they are long: what functions make of them is in memory for all of them at once */
#define VECTOR_BYTES (1024 * 1024)

typedef struct VectorExpr VectorExpr;

/* What is being evaluated. */
typedef struct VectorRun
{
	ForeignScanState *scan;
	RecordBatch *batch;
	int stream; /* its index in the BatchSet */
	int first;  /* record of row 0 */
	/* for values of one condition or target; the current one while evaluating */
	MemoryContext scratch;
	/* for what a function leaves behind */
	MemoryContext temp;
} VectorRun;

/* Sets values and nulls of the rows, which ascend.  Throws what the expression throws. */
typedef void (*VectorEvaluate)(VectorExpr *self, const VectorRun *run, const uint16 *rows,
							   int nrows);

struct VectorExpr
{
	VectorEvaluate evaluate; /* NULL: nothing to do, it is a constant */
	/* by row & mask; of a column they are the batch's */
	Datum *values;
	bool *nulls;
	uint32 mask; /* 0: the same value for all rows */
	bool byval;
	int16 typlen;
	bool lasting; /* the values live as long as the batch, or the plan */

	int nargs;
	VectorExpr **args;
	uint16 *rest;          /* [VECTOR_SIZE] those that choose rows: what is left of them */
	uint16 *chosen;        /* likewise */
	AttrNumber column;     /* of a column */
	Oid function;          /* that is called row by row */
	FunctionCallInfo call; /* of it; what it looks up is of the run */
	/* evaluated before, for those that stand for it in args; of those, what they stand for */
	VectorExpr *bound;
	bool is_or;     /* of AND and OR */
	bool when_null; /* of IS tests: the result for NULL, and for true and false */
	bool when_true;
	bool when_false;

	/* what is left to PostgreSQL's executor, row by row */
	Expr *expr;
	ExprState *state;   /* of the run */
	Bitmapset *columns; /* that it reads, as pull_varattnos() has them */
	bool *reads;        /* of the run: the same by attribute number - 1, of those decoded */
};

/* vector_expr.c */

/* Lives in the current memory context.  Appends the nodes that each run must get ready to *to_start. */
extern VectorExpr *vector_expr_create(Expr *expr, Index relid, List **to_start);

/* Get one of those ready for a run over such batches; until the executor ends. */
extern void vector_expr_start(VectorExpr *expr, ForeignScanState *scan, const RecordBatch *batch);

static inline void
vector_evaluate(VectorExpr *expr, const VectorRun *run, const uint16 *rows, int nrows)
{
	if (expr->evaluate != NULL)
		expr->evaluate(expr, run, rows, nrows);
}

/* Keep the rows for which the condition is true; returns their number.  "kept" may be "rows". */
extern int vector_filter(VectorExpr *condition, const VectorRun *run, const uint16 *rows, int nrows,
						 uint16 *kept);

/* vector_functions.c */

/* NULL if there is none for this function. */
extern VectorEvaluate vector_function(Oid function, Oid collation);

/* vector_plan.c */
typedef struct VectorPlan VectorPlan;

/*
 * Prepare the plan of a continuous scan; NULL if it is another kind of plan.  "record_column" is the (0-based) column
 * of its target list that nobody computes.  Lives in the current memory context.
 */
extern VectorPlan *vector_plan_create(Plan *plan, int record_column);

/* What is left to the executor, as expressions. */
extern List *vector_plan_row_by_row(const VectorPlan *plan);

/*
 * Append the rows that a started scan makes of records [from, to) of the batch.
 */
extern void vector_plan_run(VectorPlan *plan, ForeignScanState *scan, const BatchSet *set,
							bool windowed, InputRows *rows);

#endif /* VELO_VECTOR_H */
