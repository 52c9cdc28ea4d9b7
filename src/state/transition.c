/*
 * transition.c
 *		The commonest transitions of built-in aggregates, for many rows at once and without a call for each.
 *
 * Each does to the transition value what PostgreSQL's function of that name does, to the bit.  Only for aggregates of
 * PostgreSQL itself: what others make of the same function as a state may not be what it expects.
 */
#include "state/group_table.h"

#include "access/transam.h"
#include "utils/array.h"
#include "utils/float.h"
#include "utils/fmgroids.h"

/* ------------------------------------------------------------------ count */

/* Of rows, or of arguments that aren't NULL; nobody can count to where a bigint ends. */
static void
count(const Transition *trans, int index, const Entrance *entrances, int n, InputRows *rows)
{
	const bool *nulls = trans->nargs > 0 ? rows->nulls[trans->args[0]] : NULL;

	for (int i = 0; i < n; i++)
	{
		TransValue *value = &entrances[i].entry->values[index];
		int row = entrances[i].row;

		if ((nulls != NULL && nulls[row]) || is_filtered_out(trans, rows, row))
			continue;
		value->value = Int64GetDatum(DatumGetInt64(value->value) + 1);
	}
}

/* ------------------------------------------------------------------ functions of one argument that pass over NULLs */

/* "step" is done to the TransValue "value" for the Datum "argument" of a row. */
#define TRANSITION(name, step)                                                                     \
	static void name(const Transition *trans, int index, const Entrance *entrances, int n,         \
					 InputRows *rows)                                                              \
	{                                                                                              \
		const Datum *values = rows->values[trans->args[0]];                                        \
		const bool *nulls = rows->nulls[trans->args[0]];                                           \
                                                                                                   \
		for (int i = 0; i < n; i++)                                                                \
		{                                                                                          \
			TransValue *value = &entrances[i].entry->values[index];                                \
			int row = entrances[i].row;                                                            \
			Datum argument = values[row];                                                          \
                                                                                                   \
			if (nulls[row] || is_filtered_out(trans, rows, row))                                   \
				continue;                                                                          \
			rows->applied = row;                                                                   \
			step;                                                                                  \
		}                                                                                          \
	}

/* ------------------------------------------------------------------ those that are strict and begin with the first value */

/* "result" is the next transition value, of the old one a and the argument b. */
#define REDUCE(name, type, get, result)                                                            \
	static inline void name##_step(TransValue *value, Datum argument)                              \
	{                                                                                              \
		if (value->unset)                                                                          \
		{                                                                                          \
			value->value = argument;                                                               \
			value->isnull = value->unset = false;                                                  \
		}                                                                                          \
		else                                                                                       \
		{                                                                                          \
			type a = get(value->value);                                                            \
			type b = get(argument);                                                                \
                                                                                                   \
			value->value = (result);                                                               \
		}                                                                                          \
	}                                                                                              \
	TRANSITION(name, name##_step(value, argument))

REDUCE(larger_int2, int16, DatumGetInt16, Int16GetDatum(Max(a, b)))
REDUCE(smaller_int2, int16, DatumGetInt16, Int16GetDatum(Min(a, b)))
REDUCE(larger_int4, int32, DatumGetInt32, Int32GetDatum(Max(a, b)))
REDUCE(smaller_int4, int32, DatumGetInt32, Int32GetDatum(Min(a, b)))
REDUCE(larger_int8, int64, DatumGetInt64, Int64GetDatum(Max(a, b)))
REDUCE(smaller_int8, int64, DatumGetInt64, Int64GetDatum(Min(a, b)))
REDUCE(larger_float4, float4, DatumGetFloat4, Float4GetDatum(float4_gt(a, b) ? a : b))
REDUCE(smaller_float4, float4, DatumGetFloat4, Float4GetDatum(float4_lt(a, b) ? a : b))
REDUCE(larger_float8, float8, DatumGetFloat8, Float8GetDatum(float8_gt(a, b) ? a : b))
REDUCE(smaller_float8, float8, DatumGetFloat8, Float8GetDatum(float8_lt(a, b) ? a : b))
REDUCE(sum_float4, float4, DatumGetFloat4, Float4GetDatum(float4_pl(a, b)))
REDUCE(sum_float8, float8, DatumGetFloat8, Float8GetDatum(float8_pl(a, b)))
REDUCE(every, bool, DatumGetBool, BoolGetDatum(a &&b))
REDUCE(some, bool, DatumGetBool, BoolGetDatum(a || b))

/* ------------------------------------------------------------------ sums of integers */

/* int2_sum() and int4_sum(): a bigint, NULL until there is a value */
static inline void
add_to_sum(TransValue *value, int64 argument)
{
	int64 sum = value->isnull ? 0 : DatumGetInt64(value->value);

	value->value = Int64GetDatum(sum + argument);
	value->isnull = value->unset = false;
}

TRANSITION(sum_int2, add_to_sum(value, DatumGetInt16(argument)))
TRANSITION(sum_int4, add_to_sum(value, DatumGetInt32(argument)))

/* int2_avg_accum() and int4_avg_accum(): an array of count and sum */
static inline void
add_to_average(TransValue *value, int64 argument)
{
	int64 *state = (int64 *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(value->value));

	state[0]++;
	state[1] += argument;
}

TRANSITION(average_int2, add_to_average(value, DatumGetInt16(argument)))
TRANSITION(average_int4, add_to_average(value, DatumGetInt32(argument)))

/* ------------------------------------------------------------------ moments of floats */

/*
 * float8_accum(): an array of the count, the sum, and the sum of the squares of the distances from the mean, which is
 * carried on as Youngs and Cramer do.
 */
static inline void
accumulate(TransValue *value, float8 argument)
{
	float8 *state = (float8 *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(value->value));
	float8 count = state[0] + 1.0;
	float8 sum = state[1] + argument;
	float8 squares = state[2];

	if (state[0] > 0.0)
	{
		float8 distance = argument * count - sum;

		squares += distance * distance / (count * state[0]);
		/* it is an error when finite values lead to something infinite */
		if (isinf(sum) || isinf(squares))
		{
			if (!isinf(state[1]) && !isinf(argument))
				float_overflow_error();
			squares = get_float8_nan();
		}
	}
	else if (isnan(argument) || isinf(argument))
		squares = get_float8_nan();
	state[0] = count;
	state[1] = sum;
	state[2] = squares;
}

TRANSITION(moments_float4, accumulate(value, DatumGetFloat4(argument)))
TRANSITION(moments_float8, accumulate(value, DatumGetFloat8(argument)))

/* ------------------------------------------------------------------ which function is which */

static const struct
{
	Oid function;
	KnownTransition transition;
} known_transitions[] = {
	{F_INT8INC, count},
	{F_INT8INC_ANY, count},
	{F_INT2LARGER, larger_int2},
	{F_INT2SMALLER, smaller_int2},
	{F_INT4LARGER, larger_int4},
	{F_INT4SMALLER, smaller_int4},
	{F_INT8LARGER, larger_int8},
	{F_INT8SMALLER, smaller_int8},
	{F_FLOAT4LARGER, larger_float4},
	{F_FLOAT4SMALLER, smaller_float4},
	{F_FLOAT8LARGER, larger_float8},
	{F_FLOAT8SMALLER, smaller_float8},
	{F_DATE_LARGER, larger_int4},
	{F_DATE_SMALLER, smaller_int4},
	{F_TIMESTAMP_LARGER, larger_int8},
	{F_TIMESTAMP_SMALLER, smaller_int8},
	{F_TIMESTAMPTZ_LARGER, larger_int8},
	{F_TIMESTAMPTZ_SMALLER, smaller_int8},
	{F_FLOAT4PL, sum_float4},
	{F_FLOAT8PL, sum_float8},
	{F_BOOLAND_STATEFUNC, every},
	{F_BOOLOR_STATEFUNC, some},
	{F_INT2_SUM, sum_int2},
	{F_INT4_SUM, sum_int4},
	{F_INT2_AVG_ACCUM, average_int2},
	{F_INT4_AVG_ACCUM, average_int4},
	{F_FLOAT4_ACCUM, moments_float4},
	{F_FLOAT8_ACCUM, moments_float8},
};

KnownTransition
known_transition(Oid aggregate, Oid function)
{
	if (aggregate >= FirstNormalObjectId)
		return NULL;
	for (int i = 0; i < (int) lengthof(known_transitions); i++)
		if (known_transitions[i].function == function)
			return known_transitions[i].transition;
	return NULL;
}
