/*
 * bad_groups.c
 *		Records whose group there can't be, for its key is too long for the unique index of the result, or its window
 *		leaves the range of timestamps: bad records, like those that an expression fails for, so that all others of a
 *		batch go on.
 */
#include "pipeline/worker.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/itup.h"
#include "access/nbtree.h"
#include "access/toast_internals.h"

/* as PostgreSQL's BTMaxItemSize, which is spelt differently from 18 on */
#define MAX_INDEX_ENTRY                                                                            \
	MAXALIGN_DOWN(                                                                                 \
		(BLCKSZ -                                                                                  \
		 MAXALIGN(SizeOfPageHeaderData + 3 * sizeof(ItemIdData) + 3 * sizeof(ItemPointerData)) -   \
		 MAXALIGN(sizeof(BTPageOpaqueData))) /                                                     \
		3)
/* shorter values fit whatever else is in the key */
#define SURELY_FITS (MAX_INDEX_ENTRY / 2)

/* The row's value of a group key as an index would hold it; garbage is left in the current memory context. */
static Datum
indexed_value(Datum value, Form_pg_attribute att)
{
	Datum compressed;

	if (att->attlen != -1)
		return value;
	value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
	if (VARSIZE_ANY_EXHDR(DatumGetPointer(value)) <= TOAST_INDEX_TARGET ||
		(att->attstorage != TYPSTORAGE_EXTENDED && att->attstorage != TYPSTORAGE_MAIN))
		return value;
	compressed = toast_compress_datum(value, InvalidCompressionMethod);
	return DatumGetPointer(compressed) != NULL ? compressed : value;
}

/* Size of the index entry of a row's group, in bytes. */
static Size
index_entry_size(const GroupedPlan *plan, const InputRows *rows, int row)
{
	TupleDesc desc = CreateTemplateTupleDesc(plan->nresult_keys);
	Datum *values = palloc0_array(Datum, plan->nresult_keys);
	bool *nulls = palloc0_array(bool, plan->nresult_keys);
	bool any_null = false;

	for (int i = 0; i < plan->nresult_keys; i++)
	{
		int source = plan->result_key_sources[i];

		TupleDescCopyEntry(desc, i + 1, plan->result, plan->result_keys[i] + 1);
		if (source >= 0) /* or a bound of the window, of fixed length */
		{
			int column = plan->grouping->keys[source].column;

			nulls[i] = rows->nulls[column][row];
			any_null |= nulls[i];
			if (!nulls[i])
				values[i] = indexed_value(rows->values[column][row], TupleDescAttr(desc, i));
		}
	}
	return MAXALIGN(IndexInfoFindDataOffset(any_null ? INDEX_NULL_MASK : 0) +
					heap_compute_data_size(desc, values, nulls));
}

static bool
is_too_long(const GroupedPlan *plan, const InputRows *rows, int row, Size *size)
{
	*size = 0;
	for (int i = 0; i < plan->grouping->nkeys; i++)
	{
		int column = plan->grouping->keys[i].column;

		if (TupleDescAttr(plan->grouping->input, column)->attlen == -1 && !rows->nulls[column][row])
			*size += toast_raw_datum_size(rows->values[column][row]);
	}
	if (*size <= SURELY_FITS)
		return false;
	*size = index_entry_size(plan, rows, row);
	return *size > MAX_INDEX_ENTRY;
}

/* Forget the rows of records that are no good any more. */
static void
keep_good_rows(Pipeline *pipeline)
{
	InputRows *rows = pipeline->rows;
	int n = 0;

	for (int i = 0; i < rows->nrows; i++)
	{
		if (pipeline->streams[rows->stream[i]].batch->status[rows->record[i]] != RECORD_OK)
			continue;
		for (int a = 0; a < rows->natts; a++)
		{
			rows->values[a][n] = rows->values[a][i];
			rows->nulls[a][n] = rows->nulls[a][i];
		}
		rows->record[n] = rows->record[i];
		rows->stream[n] = rows->stream[i];
		rows->time[n] = rows->time[i];
		rows->watermark[n] = rows->watermark[i];
		rows->late[n] = rows->late[i];
		n++;
	}
	rows->nrows = n;
}

/* What is wrong with the group of a row; false if nothing is. */
static bool
group_is_bad(const GroupedPlan *plan, const InputRows *rows, int row, ErrorData *error)
{
	const WindowSpec *window = &plan->grouping->window;
	Size size;

	if (window->kind != WINDOW_NONE && !window_fits(window, rows->time[row]))
	{
		error->sqlerrcode = ERRCODE_DATETIME_VALUE_OUT_OF_RANGE;
		error->message = "timestamp out of range";
		error->detail = WINDOW_MISFIT_DETAIL;
		return true;
	}
	if (is_too_long(plan, rows, row, &size))
	{
		error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		error->message = "group key is too long for an index";
		error->detail = psprintf("Its entry of %zu bytes exceeds the maximum of %zu.", size,
								 (Size) MAX_INDEX_ENTRY);
		return true;
	}
	return false;
}

/* Make failures of the records of the current batch whose group there can't be, and forget their rows. */
void
fail_bad_groups(Pipeline *pipeline)
{
	InputRows *rows = pipeline->rows;
	ErrorData error = {0};
	bool any = false;

	if (pipeline->plan->grouped == NULL)
		return;
	for (int i = 0; i < rows->nrows; i++)
	{
		uint8 *status = &pipeline->streams[rows->stream[i]].batch->status[rows->record[i]];

		if (*status != RECORD_OK || !group_is_bad(pipeline->plan->grouped, rows, i, &error))
			continue;
		fail_record(pipeline, "evaluate", rows->stream[i], rows->record[i], &error);
		*status = RECORD_BAD;
		any = true;
	}
	if (any)
		keep_good_rows(pipeline);
}
