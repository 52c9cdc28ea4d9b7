/*
 * stream_bounds.c
 *		From conditions on metadata to the offsets that an ad-hoc scan reads.
 *
 * The conditions stay in the plan's filter, so a range may be too wide, never too narrow.  plan/stream_path.c finds
 * them; of those on the timestamp only lower bounds arrive here.
 */
#include "stream_scan.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* "value" is of one of the integer types. */
static int64
integer_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		case INT8OID:
			return DatumGetInt64(value);
	}
	elog(ERROR, "unexpected type %u in a bound of a stream", type);
}

/* "value" is of one of the types that compare with timestamptz. */
static TimestampTz
timestamp_value(Datum value, Oid type)
{
	int overflow;

	switch (type)
	{
		case TIMESTAMPTZOID:
			return DatumGetTimestampTz(value);
		case TIMESTAMPOID:
			return timestamp2timestamptz_opt_overflow(DatumGetTimestamp(value), &overflow);
		case DATEOID:
			return date2timestamptz_opt_overflow(DatumGetDateADT(value), &overflow);
	}
	elog(ERROR, "unexpected type %u in a bound of a stream", type);
}

static bool
satisfies(int64 left, StrategyNumber strategy, int64 right)
{
	switch (strategy)
	{
		case BTLessStrategyNumber:
			return left < right;
		case BTLessEqualStrategyNumber:
			return left <= right;
		case BTEqualStrategyNumber:
			return left == right;
		case BTGreaterEqualStrategyNumber:
			return left >= right;
		case BTGreaterStrategyNumber:
			return left > right;
	}
	elog(ERROR, "unexpected strategy %d in a bound of a stream", strategy);
}

/* Leave nothing of the partitions whose number is none of the array's elements. */
static void
keep_listed_partitions(ArrayType *array, PartitionRange *ranges, int npartitions)
{
	Oid type = ARR_ELEMTYPE(array);
	int16 typlen;
	bool typbyval;
	char typalign;
	Datum *elements;
	bool *nulls;
	int nelements;

	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(array, type, typlen, typbyval, typalign, &elements, &nulls, &nelements);
	for (int p = 0; p < npartitions; p++)
	{
		bool found = false;

		for (int i = 0; i < nelements && !found; i++)
			found = !nulls[i] && integer_value(elements[i], type) == p;
		if (!found)
			ranges[p].to = ranges[p].from;
	}
}

static void
narrow_offsets(StrategyNumber strategy, int64 value, PartitionRange *range)
{
	if (strategy == BTGreaterStrategyNumber || strategy == BTLessEqualStrategyNumber)
	{
		/* greater than it means at least the next one, at most it means less than the next one */
		if (value == PG_INT64_MAX)
		{
			if (strategy == BTGreaterStrategyNumber)
				range->to = range->from;
			return;
		}
		value++;
	}
	if (strategy >= BTEqualStrategyNumber)
		range->from = Max(range->from, value);
	if (strategy < BTEqualStrategyNumber)
		range->to = Min(range->to, value);
	else if (strategy == BTEqualStrategyNumber && value < PG_INT64_MAX)
		range->to = Min(range->to, value + 1);
}

/* Begin each partition at its first record of "since" or later. */
static void
narrow_timestamps(const StreamInfo *stream, TimestampTz since, PartitionRange *ranges,
				  int npartitions)
{
	int64 *offsets;
	int noffsets;

	/* to a broker, times before 1970 mean something else */
	if (since < SetEpochTimestamp())
		return;
	offsets = source_offsets_at(stream, since, &noffsets, BROKER_TIMEOUT_MS);
	for (int p = 0; p < Min(npartitions, noffsets); p++)
		ranges[p].from = Max(ranges[p].from, offsets[p]);
}

void
stream_bounds_apply(const StreamInfo *stream, List *bounds, List *exprs, ExprContext *econtext,
					PartitionRange *ranges, int npartitions)
{
	TimestampTz since = DT_NOBEGIN;
	ListCell *bound_cell;
	ListCell *expr_cell;

	forboth(bound_cell, bounds, expr_cell, exprs)
	{
		List *bound = lfirst(bound_cell);
		MetadataKind kind = linitial_int(bound);
		StrategyNumber strategy = lsecond_int(bound);
		Oid type = (Oid) lthird_int(bound);
		bool is_any = lfourth_int(bound);
		bool isnull;
		Datum value = ExecEvalExprSwitchContext(lfirst(expr_cell), econtext, &isnull);

		if (isnull)
		{
			/* nothing compares with NULL */
			for (int p = 0; p < npartitions; p++)
				ranges[p].to = ranges[p].from;
			return;
		}
		if (is_any)
			keep_listed_partitions(DatumGetArrayTypeP(value), ranges, npartitions);
		else if (kind == META_TIMESTAMP)
			since = Max(since, timestamp_value(value, type));
		else
			for (int p = 0; p < npartitions; p++)
			{
				int64 number = integer_value(value, type);

				if (kind == META_OFFSET)
					narrow_offsets(strategy, number, &ranges[p]);
				else if (!satisfies(p, strategy, number))
					ranges[p].to = ranges[p].from;
			}
	}
	if (!TIMESTAMP_IS_NOBEGIN(since))
		narrow_timestamps(stream, since, ranges, npartitions);
}
