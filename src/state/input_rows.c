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
	rows->created = grow(rows, rows->created, sizeof(bool), capacity);
	rows->capacity = capacity;
}

/* ------------------------------------------------------------------ order */

/* By stream and record, and as they were within a record. */
static int
compare_rows(const void *a, const void *b, void *arg)
{
	const InputRows *rows = arg;
	int left = *(const int *) a;
	int right = *(const int *) b;

	if (rows->stream[left] != rows->stream[right])
		return rows->stream[left] < rows->stream[right] ? -1 : 1;
	if (rows->record[left] != rows->record[right])
		return rows->record[left] < rows->record[right] ? -1 : 1;
	return left < right ? -1 : left > right;
}

/* Put the items of an array in another order, by way of "scratch". */
static void
permute(void *array, Size width, const int *order, int n, char *scratch)
{
	for (int i = 0; i < n; i++)
		memcpy(scratch + i * width, (char *) array + order[i] * width, width);
	memcpy(array, scratch, n * width);
}

int *
input_rows_order(InputRows *rows)
{
	int *order = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int) * Max(rows->nrows, 1));

	for (int i = 0; i < rows->nrows; i++)
		order[i] = i;
	qsort_arg(order, rows->nrows, sizeof(int), compare_rows, rows);
	return order;
}

void
input_rows_sort(InputRows *rows)
{
	int n = rows->nrows;
	bool sorted = true;
	int *order;
	char *scratch;

	/* as they are, unless a join has mixed them */
	for (int i = 1; i < n && sorted; i++)
		sorted = rows->stream[i - 1] < rows->stream[i] ||
				 (rows->stream[i - 1] == rows->stream[i] && rows->record[i - 1] <= rows->record[i]);
	if (sorted)
		return;
	order = input_rows_order(rows);
	scratch = MemoryContextAllocHuge(rows->context, sizeof(Datum) * n);
	for (int a = 0; a < rows->natts; a++)
	{
		permute(rows->values[a], sizeof(Datum), order, n, scratch);
		permute(rows->nulls[a], sizeof(bool), order, n, scratch);
	}
	permute(rows->record, sizeof(int), order, n, scratch);
	permute(rows->stream, sizeof(int), order, n, scratch);
	permute(rows->time, sizeof(TimestampTz), order, n, scratch);
	permute(rows->watermark, sizeof(TimestampTz), order, n, scratch);
	pfree(scratch);
	pfree(order);
}
