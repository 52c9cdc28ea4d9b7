/*
 * vector_functions.c
 *		Built-in functions on arrays of values: comparison, arithmetic and conversion of numbers, times and text.
 *
 * Each does what PostgreSQL's function of that name does, to the bit; all are strict.  Where one is missing, PostgreSQL's
 * own is called row by row.
 */
#include "exec/vector.h"

#include "common/int.h"
#include "utils/date.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* A function of two arguments; "result" is an expression of a and b, of the C types "left" and "right". */
#define BINARY(name, left, get_left, right, get_right, result)                                     \
	static void name(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)        \
	{                                                                                              \
		const VectorExpr *arg0 = self->args[0];                                                    \
		const VectorExpr *arg1 = self->args[1];                                                    \
                                                                                                   \
		vector_evaluate(self->args[0], run, rows, nrows);                                          \
		vector_evaluate(self->args[1], run, rows, nrows);                                          \
		for (int i = 0; i < nrows; i++)                                                            \
		{                                                                                          \
			uint32 row = rows[i];                                                                  \
			bool isnull = arg0->nulls[row & arg0->mask] | arg1->nulls[row & arg1->mask];           \
                                                                                                   \
			self->nulls[row] = isnull;                                                             \
			if (!isnull)                                                                           \
			{                                                                                      \
				left a = get_left(arg0->values[row & arg0->mask]);                                 \
				right b = get_right(arg1->values[row & arg1->mask]);                               \
                                                                                                   \
				self->values[row] = (result);                                                      \
			}                                                                                      \
		}                                                                                          \
	}

/* Likewise of one argument, a. */
#define UNARY(name, type, get, result)                                                             \
	static void name(VectorExpr *self, const VectorRun *run, const uint16 *rows, int nrows)        \
	{                                                                                              \
		const VectorExpr *arg = self->args[0];                                                     \
                                                                                                   \
		vector_evaluate(self->args[0], run, rows, nrows);                                          \
		for (int i = 0; i < nrows; i++)                                                            \
		{                                                                                          \
			uint32 row = rows[i];                                                                  \
                                                                                                   \
			self->nulls[row] = arg->nulls[row & arg->mask];                                        \
			if (!self->nulls[row])                                                                 \
			{                                                                                      \
				type a = get(arg->values[row & arg->mask]);                                        \
                                                                                                   \
				self->values[row] = (result);                                                      \
			}                                                                                      \
		}                                                                                          \
	}

/* ------------------------------------------------------------------ comparison */

#define COMPARISONS(name, left, get_left, right, get_right)                                        \
	BINARY(name##_eq, left, get_left, right, get_right, BoolGetDatum(a == b))                      \
	BINARY(name##_ne, left, get_left, right, get_right, BoolGetDatum(a != b))                      \
	BINARY(name##_lt, left, get_left, right, get_right, BoolGetDatum(a < b))                       \
	BINARY(name##_le, left, get_left, right, get_right, BoolGetDatum(a <= b))                      \
	BINARY(name##_gt, left, get_left, right, get_right, BoolGetDatum(a > b))                       \
	BINARY(name##_ge, left, get_left, right, get_right, BoolGetDatum(a >= b))

COMPARISONS(cmp_int2, int16, DatumGetInt16, int16, DatumGetInt16)
COMPARISONS(cmp_int24, int16, DatumGetInt16, int32, DatumGetInt32)
COMPARISONS(cmp_int28, int16, DatumGetInt16, int64, DatumGetInt64)
COMPARISONS(cmp_int42, int32, DatumGetInt32, int16, DatumGetInt16)
COMPARISONS(cmp_int4, int32, DatumGetInt32, int32, DatumGetInt32)
COMPARISONS(cmp_int48, int32, DatumGetInt32, int64, DatumGetInt64)
COMPARISONS(cmp_int82, int64, DatumGetInt64, int16, DatumGetInt16)
COMPARISONS(cmp_int84, int64, DatumGetInt64, int32, DatumGetInt32)
COMPARISONS(cmp_int8, int64, DatumGetInt64, int64, DatumGetInt64)
COMPARISONS(cmp_bool, bool, DatumGetBool, bool, DatumGetBool)

/* NaN is equal to itself and greater than all others */
#define FLOAT_COMPARISONS(name, left, get_left, right, get_right)                                  \
	BINARY(name##_eq, left, get_left, right, get_right, BoolGetDatum(float8_eq(a, b)))             \
	BINARY(name##_ne, left, get_left, right, get_right, BoolGetDatum(float8_ne(a, b)))             \
	BINARY(name##_lt, left, get_left, right, get_right, BoolGetDatum(float8_lt(a, b)))             \
	BINARY(name##_le, left, get_left, right, get_right, BoolGetDatum(float8_le(a, b)))             \
	BINARY(name##_gt, left, get_left, right, get_right, BoolGetDatum(float8_gt(a, b)))             \
	BINARY(name##_ge, left, get_left, right, get_right, BoolGetDatum(float8_ge(a, b)))

FLOAT_COMPARISONS(cmp_float4, float4, DatumGetFloat4, float4, DatumGetFloat4)
FLOAT_COMPARISONS(cmp_float48, float4, DatumGetFloat4, float8, DatumGetFloat8)
FLOAT_COMPARISONS(cmp_float84, float8, DatumGetFloat8, float4, DatumGetFloat4)
FLOAT_COMPARISONS(cmp_float8, float8, DatumGetFloat8, float8, DatumGetFloat8)

/* of a collation for which equal means the same bytes */
static inline bool
same_text(const text *a, const text *b)
{
	Size len = VARSIZE_ANY_EXHDR(a);

	return len == VARSIZE_ANY_EXHDR(b) && memcmp(VARDATA_ANY(a), VARDATA_ANY(b), len) == 0;
}

BINARY(text_same, text *, DatumGetTextPP, text *, DatumGetTextPP, BoolGetDatum(same_text(a, b)))
BINARY(text_differs, text *, DatumGetTextPP, text *, DatumGetTextPP, BoolGetDatum(!same_text(a, b)))

/* ------------------------------------------------------------------ arithmetic */

static void
out_of_range(const char *type)
{
	ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("%s out of range", type)));
}

#define CHECKED(name, type, operation, type_name)                                                  \
	static inline type name(type a, type b)                                                        \
	{                                                                                              \
		type result;                                                                               \
                                                                                                   \
		if (unlikely(operation(a, b, &result)))                                                    \
			out_of_range(type_name);                                                               \
		return result;                                                                             \
	}

CHECKED(add4, int32, pg_add_s32_overflow, "integer")
CHECKED(sub4, int32, pg_sub_s32_overflow, "integer")
CHECKED(mul4, int32, pg_mul_s32_overflow, "integer")
CHECKED(add8, int64, pg_add_s64_overflow, "bigint")
CHECKED(sub8, int64, pg_sub_s64_overflow, "bigint")
CHECKED(mul8, int64, pg_mul_s64_overflow, "bigint")

BINARY(calc_int4_add, int32, DatumGetInt32, int32, DatumGetInt32, Int32GetDatum(add4(a, b)))
BINARY(calc_int4_sub, int32, DatumGetInt32, int32, DatumGetInt32, Int32GetDatum(sub4(a, b)))
BINARY(calc_int4_mul, int32, DatumGetInt32, int32, DatumGetInt32, Int32GetDatum(mul4(a, b)))

#define INT8_ARITHMETIC(name, left, get_left, right, get_right)                                    \
	BINARY(name##_add, left, get_left, right, get_right, Int64GetDatum(add8(a, b)))                \
	BINARY(name##_sub, left, get_left, right, get_right, Int64GetDatum(sub8(a, b)))                \
	BINARY(name##_mul, left, get_left, right, get_right, Int64GetDatum(mul8(a, b)))

INT8_ARITHMETIC(calc_int8, int64, DatumGetInt64, int64, DatumGetInt64)
INT8_ARITHMETIC(calc_int48, int32, DatumGetInt32, int64, DatumGetInt64)
INT8_ARITHMETIC(calc_int84, int64, DatumGetInt64, int32, DatumGetInt32)

/* these check their results themselves */
#define FLOAT8_ARITHMETIC(name, left, get_left, right, get_right)                                  \
	BINARY(name##_add, left, get_left, right, get_right, Float8GetDatum(float8_pl(a, b)))          \
	BINARY(name##_sub, left, get_left, right, get_right, Float8GetDatum(float8_mi(a, b)))          \
	BINARY(name##_mul, left, get_left, right, get_right, Float8GetDatum(float8_mul(a, b)))         \
	BINARY(name##_div, left, get_left, right, get_right, Float8GetDatum(float8_div(a, b)))

FLOAT8_ARITHMETIC(calc_float8, float8, DatumGetFloat8, float8, DatumGetFloat8)
FLOAT8_ARITHMETIC(calc_float48, float4, DatumGetFloat4, float8, DatumGetFloat8)
FLOAT8_ARITHMETIC(calc_float84, float8, DatumGetFloat8, float4, DatumGetFloat4)

/* ------------------------------------------------------------------ conversion */

UNARY(int2_to_int4, int16, DatumGetInt16, Int32GetDatum(a))
UNARY(int2_to_int8, int16, DatumGetInt16, Int64GetDatum(a))
UNARY(int4_to_int8, int32, DatumGetInt32, Int64GetDatum(a))
UNARY(int2_to_float8, int16, DatumGetInt16, Float8GetDatum(a))
UNARY(int4_to_float8, int32, DatumGetInt32, Float8GetDatum(a))
UNARY(int8_to_float8, int64, DatumGetInt64, Float8GetDatum(a))
UNARY(float4_to_float8, float4, DatumGetFloat4, Float8GetDatum(a))

/* ------------------------------------------------------------------ which function is which */

typedef struct KnownFunction
{
	Oid oid;
	VectorEvaluate evaluate;
} KnownFunction;

#define SIX(prefix, name)                                                                          \
	{prefix##EQ, name##_eq}, {prefix##NE, name##_ne}, {prefix##LT, name##_lt},                     \
		{prefix##LE, name##_le}, {prefix##GT, name##_gt},                                          \
	{                                                                                              \
		prefix##GE, name##_ge                                                                      \
	}

static const KnownFunction known_functions[] = {
	SIX(F_INT2, cmp_int2),
	SIX(F_INT24, cmp_int24),
	SIX(F_INT28, cmp_int28),
	SIX(F_INT42, cmp_int42),
	SIX(F_INT4, cmp_int4),
	SIX(F_INT48, cmp_int48),
	SIX(F_INT82, cmp_int82),
	SIX(F_INT84, cmp_int84),
	SIX(F_INT8, cmp_int8),
	SIX(F_BOOL, cmp_bool),
	SIX(F_FLOAT4, cmp_float4),
	SIX(F_FLOAT48, cmp_float48),
	SIX(F_FLOAT84, cmp_float84),
	SIX(F_FLOAT8, cmp_float8),
	SIX(F_DATE_, cmp_int4),
	SIX(F_TIMESTAMP_, cmp_int8),
	SIX(F_TIMESTAMPTZ_, cmp_int8),
	{F_INT4PL, calc_int4_add},
	{F_INT4MI, calc_int4_sub},
	{F_INT4MUL, calc_int4_mul},
	{F_INT8PL, calc_int8_add},
	{F_INT8MI, calc_int8_sub},
	{F_INT8MUL, calc_int8_mul},
	{F_INT48PL, calc_int48_add},
	{F_INT48MI, calc_int48_sub},
	{F_INT48MUL, calc_int48_mul},
	{F_INT84PL, calc_int84_add},
	{F_INT84MI, calc_int84_sub},
	{F_INT84MUL, calc_int84_mul},
	{F_FLOAT8PL, calc_float8_add},
	{F_FLOAT8MI, calc_float8_sub},
	{F_FLOAT8MUL, calc_float8_mul},
	{F_FLOAT8DIV, calc_float8_div},
	{F_FLOAT48PL, calc_float48_add},
	{F_FLOAT48MI, calc_float48_sub},
	{F_FLOAT48MUL, calc_float48_mul},
	{F_FLOAT48DIV, calc_float48_div},
	{F_FLOAT84PL, calc_float84_add},
	{F_FLOAT84MI, calc_float84_sub},
	{F_FLOAT84MUL, calc_float84_mul},
	{F_FLOAT84DIV, calc_float84_div},
	{F_INT4_INT2, int2_to_int4},
	{F_INT8_INT2, int2_to_int8},
	{F_INT8_INT4, int4_to_int8},
	{F_FLOAT8_INT2, int2_to_float8},
	{F_FLOAT8_INT4, int4_to_float8},
	{F_FLOAT8_INT8, int8_to_float8},
	{F_FLOAT8_FLOAT4, float4_to_float8},
};

VectorEvaluate
vector_function(Oid function, Oid collation)
{
	if (function == F_TEXTEQ || function == F_TEXTNE)
	{
		if (!OidIsValid(collation) || !get_collation_isdeterministic(collation))
			return NULL;
		return function == F_TEXTEQ ? text_same : text_differs;
	}
	for (int i = 0; i < (int) lengthof(known_functions); i++)
		if (known_functions[i].oid == function)
			return known_functions[i].evaluate;
	return NULL;
}
