/*
 * input_rows.c
 *		Evaluated rows, column by column, on their way from the input plan into the groups.
 */
#include "state/state.h"

#include <limits.h>

#include "storage/shmem.h"
#include "utils/memutils.h"

/* Rows without any yet.  rows->context, which holds values by reference, is emptied by input_rows_reset(). */
InputRows *
input_rows_create(MemoryContext parent, TupleDesc desc)
{
	InputRows *rows = MemoryContextAllocZero(parent, sizeof(InputRows));

	rows->context = AllocSetContextCreate(parent, "velo input rows", ALLOCSET_DEFAULT_SIZES);
	rows->natts = desc->natts;
	rows->values = MemoryContextAllocZero(parent, sizeof(Datum *) * Max(desc->natts, 1));
	rows->nulls = MemoryContextAllocZero(parent, sizeof(bool *) * Max(desc->natts, 1));
	return rows;
}

/* Forget all rows; the arrays stay. */
void
input_rows_reset(InputRows *rows)
{
	MemoryContextReset(rows->context);
	rows->nrows = 0;
}

static void *
grow(InputRows *rows, void *array, Size width, int capacity)
{
	Size size = mul_size(width, capacity);

	if (array == NULL)
		return MemoryContextAllocHuge(MemoryContextGetParent(rows->context), size);
	return repalloc_huge(array, size);
}

/* Make room for "capacity" rows in all; at least doubles what there was, so it may be called row by row. */
void
input_rows_reserve(InputRows *rows, int capacity)
{
	if (capacity <= rows->capacity)
		return;
	if (rows->capacity < INT_MAX / 2)
		capacity = Max(capacity, rows->capacity * 2);
	for (int i = 0; i < rows->natts; i++)
	{
		rows->values[i] = grow(rows, rows->values[i], sizeof(Datum), capacity);
		rows->nulls[i] = grow(rows, rows->nulls[i], sizeof(bool), capacity);
	}
	rows->record = grow(rows, rows->record, sizeof(int), capacity);
	rows->stream = grow(rows, rows->stream, sizeof(int), capacity);
	rows->time = grow(rows, rows->time, sizeof(TimestampTz), capacity);
	rows->watermark = grow(rows, rows->watermark, sizeof(TimestampTz), capacity);
	rows->late = grow(rows, rows->late, sizeof(bool), capacity);
	rows->capacity = capacity;
}
