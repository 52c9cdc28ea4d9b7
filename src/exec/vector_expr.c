/*
 * vector_expr.c
 *		PostgreSQL's expressions as nodes that are evaluated a column at a time; see vector.h.
 *
 * What isn't known here (sub-selects, row values, user-defined functions ...) is left to PostgreSQL's executor, row by row,
 * but nothing above or beside it is.
 */
#include "exec/vector.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* a longer list is looked up in a hash table by PostgreSQL's executor */
#define MAX_LIST 8

typedef struct Builder
{
	Index relid;
	VectorExpr *bound; /* what CaseTestExpr stands for */
	List *to_start;
	/* something with a CaseTestExpr in it must be left to the executor, with what binds that */
	bool needs_executor;
} Builder;

static VectorExpr *build(Builder *builder, Expr *expr);

/* ------------------------------------------------------------------ evaluation: values */

static void
evaluate_column(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	self->values = run->batch->values[self->column] + run->first;
	self->nulls = run->batch->nulls[self->column] + run->first;
}

/* What stands for another node, which has been evaluated for these rows. */
static void
evaluate_alias(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	self->values = self->bound->values;
	self->nulls = self->bound->nulls;
	self->mask = self->bound->mask;
}

/* A value that a function has returned in run->temp, to stay until the next rows. */
static inline Datum
keep(const VectorExpr *self, const VectorRun *run, Datum value)
{
	if (!self->byval)
	{
		MemoryContextSwitchTo(run->scratch);
		value = datumCopy(value, false, self->typlen);
	}
	if (!run->temp->isReset)
		MemoryContextReset(run->temp);
	return value;
}

/* A built-in function, by PostgreSQL's own code. */
static void
evaluate_function(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	FunctionCallInfo call = self->call;

	for (int i = 0; i < self->nargs; i++)
		vector_evaluate(self->args[i], run, rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		int row = rows[i];
		bool anynull = false;
		Datum result;

		CHECK_FOR_INTERRUPTS();
		for (int a = 0; a < self->nargs; a++)
		{
			const VectorExpr *arg = self->args[a];

			call->args[a].value = arg->values[row & arg->mask];
			call->args[a].isnull = arg->nulls[row & arg->mask];
			anynull |= call->args[a].isnull;
		}
		self->nulls[row] = true;
		if (anynull && call->flinfo->fn_strict)
			continue;
		MemoryContextSwitchTo(run->temp);
		call->isnull = false;
		result = FunctionCallInvoke(call);
		self->nulls[row] = call->isnull;
		if (!call->isnull)
			self->values[row] = keep(self, run, result);
	}
	MemoryContextSwitchTo(run->scratch);
}

/* The scan's slot as the executor would see it. */
static void
fill_slot(const VectorExpr *self, const VectorRun *run, TupleTableSlot *slot, int row)
{
	const RecordBatch *batch = run->batch;
	int record = run->first + row;

	ExecClearTuple(slot);
	for (int column = 0; column < batch->natts; column++)
	{
		if (!self->reads[column])
			continue;
		slot->tts_values[column] = batch->values[column][record];
		slot->tts_isnull[column] = batch->nulls[column][record];
	}
	ExecStoreVirtualTuple(slot);
	ItemPointerSet(&slot->tts_tid, record, run->stream + 1);
	slot->tts_tableOid = RelationGetRelid(run->scan->ss.ss_currentRelation);
}

static void
evaluate_row_by_row(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	ExprContext *context = run->scan->ss.ps.ps_ExprContext;
	TupleTableSlot *slot = run->scan->ss.ss_ScanTupleSlot;

	context->ecxt_scantuple = slot;
	for (int i = 0; i < nrows; i++)
	{
		int row = rows[i];
		Datum value;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(context);
		fill_slot(self, run, slot, row);
		value = ExecEvalExprSwitchContext(self->state, context, &self->nulls[row]);
		if (!self->nulls[row])
			self->values[row] = self->byval ? value : datumCopy(value, false, self->typlen);
	}
	ExecClearTuple(slot);
}

/* ------------------------------------------------------------------ evaluation: choosing rows */

int
vector_filter(VectorExpr *condition, const VectorRun *run, const uint16 *rows, int nrows,
			  uint16 *kept)
{
	int nkept = 0;

	vector_evaluate(condition, run, rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		uint16 row = rows[i];
		uint32 at = row & condition->mask;

		kept[nkept] = row;
		nkept += !condition->nulls[at] && DatumGetBool(condition->values[at]);
	}
	return nkept;
}

/* AND and OR: the next argument for those rows that are still open. */
static void
evaluate_bool(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	for (int i = 0; i < nrows; i++)
	{
		self->values[rows[i]] = BoolGetDatum(!self->is_or);
		self->nulls[rows[i]] = false;
	}
	for (int a = 0; a < self->nargs; a++)
	{
		VectorExpr *arg = self->args[a];
		int nrest = 0;

		vector_evaluate(arg, run, rows, nrows);
		for (int i = 0; i < nrows; i++)
		{
			uint16 row = rows[i];
			uint32 at = row & arg->mask;

			if (arg->nulls[at])
				self->nulls[row] = true;
			else if (DatumGetBool(arg->values[at]) == self->is_or)
			{
				/* decided */
				self->values[row] = BoolGetDatum(self->is_or);
				self->nulls[row] = false;
				continue;
			}
			self->rest[nrest++] = row;
		}
		rows = self->rest;
		nrows = nrest;
	}
}

static void
evaluate_not(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	const VectorExpr *arg = self->args[0];

	vector_evaluate(self->args[0], run, rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		int row = rows[i];

		self->nulls[row] = arg->nulls[row & arg->mask];
		self->values[row] = BoolGetDatum(!DatumGetBool(arg->values[row & arg->mask]));
	}
}

/* IS NULL, IS TRUE and their kin */
static void
evaluate_test(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	const VectorExpr *arg = self->args[0];

	vector_evaluate(self->args[0], run, rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		uint32 row = rows[i];
		bool result;

		if (arg->nulls[row & arg->mask])
			result = self->when_null;
		else if (self->when_true == self->when_false)
			result = self->when_true;
		else
			result =
				DatumGetBool(arg->values[row & arg->mask]) ? self->when_true : self->when_false;
		self->values[row] = BoolGetDatum(result);
		self->nulls[row] = false;
	}
}

static void
copy_values(VectorExpr *self, const VectorExpr *from, const uint16 *rows, int nrows)
{
	for (int i = 0; i < nrows; i++)
	{
		uint32 row = rows[i];

		self->values[row] = from->values[row & from->mask];
		self->nulls[row] = from->nulls[row & from->mask];
	}
}

/* Those of the rows that are not among "chosen", which ascend like them; returns their number. */
static int
others(const uint16 *rows, int nrows, const uint16 *chosen, int nchosen, uint16 *result)
{
	int n = 0;
	int c = 0;

	for (int i = 0; i < nrows; i++)
	{
		if (c < nchosen && chosen[c] == rows[i])
			c++;
		else
			result[n++] = rows[i];
	}
	return n;
}

/* The arguments are condition, result, condition, result ... and what it is else. */
static void
evaluate_case(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	int a = 0;

	if (self->bound != NULL)
		vector_evaluate(self->bound, run, rows, nrows);
	for (; a + 1 < self->nargs && nrows > 0; a += 2)
	{
		int nchosen = vector_filter(self->args[a], run, rows, nrows, self->chosen);

		vector_evaluate(self->args[a + 1], run, self->chosen, nchosen);
		copy_values(self, self->args[a + 1], self->chosen, nchosen);
		nrows = others(rows, nrows, self->chosen, nchosen, self->rest);
		rows = self->rest;
	}
	if (nrows > 0)
	{
		vector_evaluate(self->args[self->nargs - 1], run, rows, nrows);
		copy_values(self, self->args[self->nargs - 1], rows, nrows);
	}
}

/* The first argument that isn't NULL. */
static void
evaluate_coalesce(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	for (int a = 0; a < self->nargs && nrows > 0; a++)
	{
		int nrest = 0;

		vector_evaluate(self->args[a], run, rows, nrows);
		copy_values(self, self->args[a], rows, nrows);
		for (int i = 0; i < nrows; i++)
		{
			uint16 row = rows[i];

			self->rest[nrest] = row;
			nrest += self->nulls[row];
		}
		rows = self->rest;
		nrows = nrest;
	}
}

/* NULLIF: the left side of a comparison that isn't true. */
static void
evaluate_nullif(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	const VectorExpr *equal = self->args[0];

	vector_evaluate(self->args[0], run, rows, nrows);
	copy_values(self, equal->args[0], rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		int row = rows[i];

		if (!equal->nulls[row] && DatumGetBool(equal->values[row]))
			self->nulls[row] = true;
	}
}

/* IS DISTINCT FROM: not equal, where NULLs are equal to each other and to nothing else. */
static void
evaluate_distinct(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	const VectorExpr *equal = self->args[0];

	vector_evaluate(self->args[0], run, rows, nrows);
	for (int i = 0; i < nrows; i++)
	{
		uint32 row = rows[i];
		const VectorExpr *left = equal->args[0];
		const VectorExpr *right = equal->args[1];
		bool left_null = left->nulls[row & left->mask];
		bool right_null = right->nulls[row & right->mask];
		bool distinct =
			left_null || right_null ? left_null != right_null : !DatumGetBool(equal->values[row]);

		self->values[row] = BoolGetDatum(distinct);
		self->nulls[row] = false;
	}
}

/* An expression of which another node, evaluated first, is a part more than once. */
static void
evaluate_bound(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)
{
	vector_evaluate(self->bound, run, rows, nrows);
	vector_evaluate(self->args[0], run, rows, nrows);
	self->values = self->args[0]->values;
	self->nulls = self->args[0]->nulls;
	self->mask = self->args[0]->mask;
}

/* ------------------------------------------------------------------ making nodes */

static VectorExpr *
make_node(Oid type, VectorEvaluate evaluate, int nargs)
{
	VectorExpr *result = palloc0_object(VectorExpr);

	get_typlenbyval(type, &result->typlen, &result->byval);
	result->evaluate = evaluate;
	result->nargs = nargs;
	result->args = palloc0_array(VectorExpr *, Max(nargs, 1));
	return result;
}

/* One with values of its own. */
static VectorExpr *
make_vector(Oid type, VectorEvaluate evaluate, int nargs)
{
	VectorExpr *result = make_node(type, evaluate, nargs);

	result->values = palloc0_array(Datum, VECTOR_SIZE);
	result->nulls = palloc0_array(bool, VECTOR_SIZE);
	result->mask = PG_UINT32_MAX;
	return result;
}

static VectorExpr *
make_chooser(Oid type, VectorEvaluate evaluate, int nargs)
{
	VectorExpr *result = make_vector(type, evaluate, nargs);

	result->rest = palloc_array(uint16, VECTOR_SIZE);
	result->chosen = palloc_array(uint16, VECTOR_SIZE);
	return result;
}

static VectorExpr *
make_alias(Oid type, VectorExpr *of)
{
	VectorExpr *result = make_node(type, evaluate_alias, 0);

	result->bound = of;
	return result;
}

static bool
has_case_test(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, CaseTestExpr) || expression_tree_walker(node, has_case_test, context);
}

static VectorExpr *
make_row_by_row(Builder *builder, Expr *expr)
{
	VectorExpr *result = make_vector(exprType((Node *) expr), evaluate_row_by_row, 0);

	if (builder->bound != NULL && has_case_test((Node *) expr, NULL))
		builder->needs_executor = true;
	pull_varattnos((Node *) expr, builder->relid, &result->columns);
	result->expr = expr;
	builder->to_start = lappend(builder->to_start, result);
	return result;
}

static VectorExpr *
build_column(Var *var)
{
	VectorExpr *result = make_node(var->vartype, evaluate_column, 0);

	result->column = var->varattno - 1;
	result->mask = PG_UINT32_MAX;
	result->lasting = true;
	return result;
}

static VectorExpr *
build_constant(Const *constant)
{
	VectorExpr *result = make_node(constant->consttype, NULL, 0);

	result->values = palloc_object(Datum);
	result->nulls = palloc_object(bool);
	result->values[0] = constant->constisnull
							? (Datum) 0
							: datumCopy(constant->constvalue, result->byval, result->typlen);
	result->nulls[0] = constant->constisnull;
	result->lasting = true;
	return result;
}

static void
build_args(Builder *builder, VectorExpr *result, List *args)
{
	ListCell *cell;

	foreach (cell, args)
		result->args[foreach_current_index (cell)] = build(builder, lfirst(cell));
}

/* PostgreSQL's own code, which behaves the same for whoever calls it. */
static bool
is_builtin(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	result = form->prolang == INTERNALlanguageId && !form->prosecdef && !form->proretset &&
			 heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL);
	ReleaseSysCache(tuple);
	return result;
}

static VectorExpr *
build_function(Builder *builder, Expr *expr, Oid function, List *args, Oid collation)
{
	VectorExpr *result;
	VectorEvaluate known = vector_function(function, collation);

	if (known == NULL && !is_builtin(function))
		return make_row_by_row(builder, expr);
	result =
		make_vector(exprType((Node *) expr), known ? known : evaluate_function, list_length(args));
	build_args(builder, result, args);
	if (known != NULL)
		return result;
	result->function = function;
	result->expr = expr;
	result->call = palloc0(SizeForFunctionCallInfo(result->nargs));
	InitFunctionCallInfoData(*result->call, palloc0_object(FmgrInfo), result->nargs, collation,
							 NULL, NULL);
	builder->to_start = lappend(builder->to_start, result);
	return result;
}

static VectorExpr *
build_bool(Builder *builder, BoolExpr *expr)
{
	VectorExpr *result;

	if (expr->boolop == NOT_EXPR)
		result = make_vector(BOOLOID, evaluate_not, 1);
	else
		result = make_chooser(BOOLOID, evaluate_bool, list_length(expr->args));
	result->is_or = expr->boolop == OR_EXPR;
	build_args(builder, result, expr->args);
	return result;
}

static VectorExpr *
build_test(Builder *builder, Expr *arg, bool when_null, bool when_true, bool when_false)
{
	VectorExpr *result = make_vector(BOOLOID, evaluate_test, 1);

	result->when_null = when_null;
	result->when_true = when_true;
	result->when_false = when_false;
	result->args[0] = build(builder, arg);
	return result;
}

static VectorExpr *
build_boolean_test(Builder *builder, BooleanTest *test)
{
	switch (test->booltesttype)
	{
		case IS_TRUE:
			return build_test(builder, test->arg, false, true, false);
		case IS_NOT_TRUE:
			return build_test(builder, test->arg, true, false, true);
		case IS_FALSE:
			return build_test(builder, test->arg, false, false, true);
		case IS_NOT_FALSE:
			return build_test(builder, test->arg, true, true, false);
		case IS_UNKNOWN:
			return build_test(builder, test->arg, true, false, false);
		case IS_NOT_UNKNOWN:
			return build_test(builder, test->arg, false, true, true);
	}
	return make_row_by_row(builder, (Expr *) test);
}

/* May several nodes look at the same value?  If it can be an expanded object, the first may change it. */
static bool
can_be_shared(Oid type)
{
	return get_typlen(type) != -1 || type == TEXTOID || type == VARCHAROID || type == BPCHAROID ||
		   type == NUMERICOID;
}

static VectorExpr *
build_case(Builder *builder, CaseExpr *expr)
{
	VectorExpr *outer = builder->bound;
	int nto_start = list_length(builder->to_start);
	VectorExpr *result;
	ListCell *cell;
	int n = 0;

	if (expr->arg != NULL && !can_be_shared(exprType((Node *) expr->arg)))
		return make_row_by_row(builder, (Expr *) expr);
	result = make_chooser(exprType((Node *) expr), evaluate_case, 2 * list_length(expr->args) + 1);
	if (expr->arg != NULL)
		builder->bound = result->bound = build(builder, expr->arg);
	foreach (cell, expr->args)
	{
		CaseWhen *when = lfirst_node(CaseWhen, cell);

		result->args[n++] = build(builder, when->expr);
		result->args[n++] = build(builder, when->result);
	}
	result->args[n] = build(builder, expr->defresult);
	builder->bound = outer;
	if (!builder->needs_executor || expr->arg == NULL)
		return result;
	builder->needs_executor = false;
	builder->to_start = list_truncate(builder->to_start, nto_start);
	return make_row_by_row(builder, (Expr *) expr);
}

/* One that looks at a comparison and its two sides. */
static VectorExpr *
build_comparison(Builder *builder, OpExpr *expr, VectorEvaluate evaluate)
{
	OpExpr *equal;
	VectorExpr *result;

	if (!is_builtin(expr->opfuncid) || !func_strict(expr->opfuncid))
		return make_row_by_row(builder, (Expr *) expr);
	equal = copyObject(expr);
	result = make_vector(exprType((Node *) expr), evaluate, 1);
	NodeSetTag(equal, T_OpExpr);
	equal->opresulttype = BOOLOID;
	result->args[0] =
		build_function(builder, (Expr *) equal, equal->opfuncid, equal->args, equal->inputcollid);
	return result;
}

static VectorExpr *
build_coalesce(Builder *builder, CoalesceExpr *expr)
{
	VectorExpr *result =
		make_chooser(expr->coalescetype, evaluate_coalesce, list_length(expr->args));

	build_args(builder, result, expr->args);
	return result;
}

/* x = ANY (list) and x <> ALL (list), of a short list of constants: comparisons that are joined by OR, or AND. */
static VectorExpr *
build_list_test(Builder *builder, ScalarArrayOpExpr *expr)
{
	Const *list = lsecond(expr->args);
	Oid type = exprType(linitial(expr->args));
	VectorExpr *outer = builder->bound;
	VectorExpr *result;
	VectorExpr *test;
	ArrayType *array;
	Oid element_type;
	int16 typlen;
	bool byval;
	char align;
	Datum *values;
	bool *nulls;
	int n;

	if (!IsA(list, Const) || list->constisnull || !can_be_shared(type))
		return make_row_by_row(builder, (Expr *) expr);
	array = DatumGetArrayTypeP(list->constvalue);
	element_type = ARR_ELEMTYPE(array);
	get_typlenbyvalalign(element_type, &typlen, &byval, &align);
	deconstruct_array(array, element_type, typlen, byval, align, &values, &nulls, &n);
	if (n > MAX_LIST || !func_strict(get_opcode(expr->opno)) || !is_builtin(get_opcode(expr->opno)))
		return make_row_by_row(builder, (Expr *) expr);

	result = make_node(BOOLOID, evaluate_bound, 1);
	result->bound = build(builder, linitial(expr->args));
	test = make_chooser(BOOLOID, evaluate_bool, n);
	test->is_or = expr->useOr;
	builder->bound = result->bound;
	for (int i = 0; i < n; i++)
	{
		CaseTestExpr *left = makeNode(CaseTestExpr);
		Const *right = makeConst(element_type, -1, exprCollation((Node *) list), typlen, values[i],
								 nulls[i], byval);
		OpExpr *comparison;

		left->typeId = type;
		left->typeMod = -1;
		left->collation = exprCollation(linitial(expr->args));
		comparison = (OpExpr *) make_opclause(expr->opno, BOOLOID, false, (Expr *) left,
											  (Expr *) right, InvalidOid, expr->inputcollid);
		set_opfuncid(comparison);
		test->args[i] = build(builder, (Expr *) comparison);
	}
	builder->bound = outer;
	result->args[0] = test;
	return result;
}

static VectorExpr *
build(Builder *builder, Expr *expr)
{
	check_stack_depth();
	switch (nodeTag(expr))
	{
		case T_Var:
			/* the record of a row, or the row as a whole */
			if (((Var *) expr)->varattno <= 0)
				break;
			return build_column((Var *) expr);
		case T_Const:
			return build_constant((Const *) expr);
		case T_RelabelType:
			return build(builder, ((RelabelType *) expr)->arg);
		case T_FuncExpr:
		{
			FuncExpr *call = (FuncExpr *) expr;

			return build_function(builder, expr, call->funcid, call->args, call->inputcollid);
		}
		case T_OpExpr:
		{
			OpExpr *operation = (OpExpr *) expr;

			return build_function(builder, expr, operation->opfuncid, operation->args,
								  operation->inputcollid);
		}
		case T_NullIfExpr:
			return build_comparison(builder, (NullIfExpr *) expr, evaluate_nullif);
		case T_DistinctExpr:
			return build_comparison(builder, (DistinctExpr *) expr, evaluate_distinct);
		case T_BoolExpr:
			return build_bool(builder, (BoolExpr *) expr);
		case T_NullTest:
		{
			NullTest *test = (NullTest *) expr;
			bool is_null = test->nulltesttype == IS_NULL;

			if (test->argisrow)
				break;
			return build_test(builder, test->arg, is_null, !is_null, !is_null);
		}
		case T_BooleanTest:
			return build_boolean_test(builder, (BooleanTest *) expr);
		case T_CaseExpr:
			return build_case(builder, (CaseExpr *) expr);
		case T_CaseTestExpr:
			return make_alias(((CaseTestExpr *) expr)->typeId, builder->bound);
		case T_CoalesceExpr:
			return build_coalesce(builder, (CoalesceExpr *) expr);
		case T_ScalarArrayOpExpr:
			return build_list_test(builder, (ScalarArrayOpExpr *) expr);
		default:
			break;
	}
	return make_row_by_row(builder, expr);
}

VectorExpr *
vector_expr_create(Expr *expr, Index relid, List **to_start)
{
	Builder builder = {.relid = relid, .to_start = *to_start};
	VectorExpr *result = build(&builder, expr);

	*to_start = builder.to_start;
	return result;
}

/* The executor's state of an expression, and what that reads of the scan. */
static void
start_row_by_row(VectorExpr *expr, ForeignScanState *scan, const RecordBatch *batch)
{
	bool whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, expr->columns);

	expr->state = ExecInitExpr(expr->expr, &scan->ss.ps);
	expr->reads = palloc_array(bool, batch->natts);
	for (int i = 0; i < batch->natts; i++)
		expr->reads[i] =
			batch->values[i] != NULL &&
			(whole_row || bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, expr->columns));
}

void
vector_expr_start(VectorExpr *expr, ForeignScanState *scan, const RecordBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(scan->ss.ps.state->es_query_cxt);

	if (expr->call == NULL)
		start_row_by_row(expr, scan, batch);
	else
	{
		/* a function remembers nothing from one execution to the next, such as what a type was then */
		fmgr_info(expr->function, expr->call->flinfo);
		fmgr_info_set_expr((Node *) expr->expr, expr->call->flinfo);
	}
	MemoryContextSwitchTo(old);
}
