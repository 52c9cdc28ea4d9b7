/*
 * collected.c
 *		The kept input rows of groups, for aggregates whose state can't be kept.
 *
 * Rows are MinimalTuples of the columns that such aggregates need, one behind the other in blocks that grow with the
 * group.
 */
#include "state/group_table.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/typcache.h"

#define FIRST_BLOCK 256
#define LAST_BLOCK (64 * 1024)

/* Set up what a table needs to keep rows, in its memory context, which must be the current one. */
void
collected_init(GroupTable *table)
{
	const GroupingSpec *spec = table->spec;

	table->collected_desc = CreateTemplateTupleDesc(spec->ncollected);
	table->collected_values = palloc(sizeof(Datum) * Max(spec->ncollected, 1));
	table->collected_nulls = palloc(sizeof(bool) * Max(spec->ncollected, 1));
	table->collected_records = palloc0(sizeof(Oid) * Max(spec->ncollected, 1));
	for (int i = 0; i < spec->ncollected; i++)
	{
		Oid type = TupleDescAttr(spec->input, spec->collected[i])->atttypid;

		TupleDescCopyEntry(table->collected_desc, i + 1, spec->input, spec->collected[i] + 1);
		if (!type_is_anonymous(type))
			continue;
		table->collected_records[i] = type;
		TupleDescInitEntry(table->collected_desc, i + 1, NULL, BYTEAOID, -1, 0);
	}
}

/* ------------------------------------------------------------------ anonymous records */

/*
 * The type of an anonymous record (ROW(a, b)) is a number that means something to this process only, so such values
 * are kept with their columns' types; arrays of them as well, for each element has a type of its own.
 */
typedef struct RecordColumn
{
	Oid type;
	int32 typmod;
	Oid collation;
} RecordColumn;

static void write_value(Oid type, Datum value, bool byval, int16 typlen, StringInfo out);
static Datum read_value(Oid type, bool byval, StringInfo in);

static void
write_record(HeapTupleHeader record, StringInfo out)
{
	TupleDesc desc =
		lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record), HeapTupleHeaderGetTypMod(record));
	Datum *values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	bool *nulls = palloc(sizeof(bool) * Max(desc->natts, 1));
	uint32 natts = desc->natts;
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	tuple.t_data = record;
	heap_deform_tuple(&tuple, desc, values, nulls);
	appendBinaryStringInfo(out, (char *) &natts, sizeof(natts));
	for (uint32 i = 0; i < natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		RecordColumn column = {attribute->atttypid, attribute->atttypmod, attribute->attcollation};

		appendBinaryStringInfo(out, (char *) &column, sizeof(column));
		datum_write(out, NameGetDatum(&attribute->attname), false, NAMEDATALEN);
		appendStringInfoCharMacro(out, nulls[i] ? 1 : 0);
		if (!nulls[i])
			write_value(attribute->atttypid, values[i], attribute->attbyval, attribute->attlen,
						out);
	}
	ReleaseTupleDesc(desc);
}

static Datum
read_record(StringInfo in)
{
	TupleDesc desc;
	Datum *values;
	bool *nulls;
	uint32 natts;

	bytes_read(in, &natts, sizeof(natts));
	desc = CreateTemplateTupleDesc(natts);
	values = palloc0(sizeof(Datum) * Max(natts, 1));
	nulls = palloc(sizeof(bool) * Max(natts, 1));
	for (uint32 i = 0; i < natts; i++)
	{
		RecordColumn column;
		Name name;
		char isnull;

		bytes_read(in, &column, sizeof(column));
		name = DatumGetName(datum_read(in, false));
		TupleDescInitEntry(desc, i + 1, NameStr(*name), column.type, column.typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, column.collation);
		bytes_read(in, &isnull, 1);
		nulls[i] = isnull != 0;
		if (!nulls[i])
			values[i] = read_value(column.type, TupleDescAttr(desc, i)->attbyval, in);
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

static void
write_records(ArrayType *array, StringInfo out)
{
	uint32 ndim = ARR_NDIM(array);
	Datum *values;
	bool *nulls;
	int n;

	appendBinaryStringInfo(out, (char *) &ndim, sizeof(ndim));
	appendBinaryStringInfo(out, (char *) ARR_DIMS(array), sizeof(int) * ndim);
	appendBinaryStringInfo(out, (char *) ARR_LBOUND(array), sizeof(int) * ndim);
	deconstruct_array(array, RECORDOID, -1, false, TYPALIGN_DOUBLE, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		appendStringInfoCharMacro(out, nulls[i] ? 1 : 0);
		if (!nulls[i])
			write_record(DatumGetHeapTupleHeader(values[i]), out);
	}
}

static Datum
read_records(StringInfo in)
{
	uint32 ndim;
	int dims[MAXDIM];
	int lower[MAXDIM];
	Datum *values;
	bool *nulls;
	int n;

	bytes_read(in, &ndim, sizeof(ndim));
	if (ndim > MAXDIM)
		record_damaged();
	bytes_read(in, dims, sizeof(int) * ndim);
	bytes_read(in, lower, sizeof(int) * ndim);
	n = ArrayGetNItems(ndim, dims);
	values = palloc0(sizeof(Datum) * Max(n, 1));
	nulls = palloc(sizeof(bool) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		char isnull;

		bytes_read(in, &isnull, 1);
		nulls[i] = isnull != 0;
		if (!nulls[i])
			values[i] = read_record(in);
	}
	return PointerGetDatum(construct_md_array(values, nulls, ndim, dims, lower, RECORDOID, -1,
											  false, TYPALIGN_DOUBLE));
}

static void
write_value(Oid type, Datum value, bool byval, int16 typlen, StringInfo out)
{
	if (type == RECORDOID)
		write_record(DatumGetHeapTupleHeader(value), out);
	else if (type == RECORDARRAYOID)
		write_records(DatumGetArrayTypeP(value), out);
	else
		datum_write(out, value, byval, typlen);
}

static Datum
read_value(Oid type, bool byval, StringInfo in)
{
	if (type == RECORDOID)
		return read_record(in);
	if (type == RECORDARRAYOID)
		return read_records(in);
	return datum_read(in, byval);
}

static Datum
records_to_bytes(Oid type, Datum value)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	write_value(type, value, false, -1, &out);
	SET_VARSIZE(out.data, out.len);
	return PointerGetDatum(out.data);
}

static Datum
bytes_to_records(Oid type, Datum value)
{
	bytea *bytes = DatumGetByteaPP(value);
	StringInfoData in;

	in.data = VARDATA_ANY(bytes);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(bytes);
	in.cursor = 0;
	return read_value(type, false, &in);
}

/* ------------------------------------------------------------------ rows */

/* Append whole rows, "len" bytes of MinimalTuples. */
void
collected_append(Entry *entry, const char *data, Size len)
{
	MemoryContext context = entry->window->context->ecxt_per_tuple_memory;
	RowList *list = entry->rows;
	RowBlock *block;

	if (list == NULL)
		list = entry->rows = MemoryContextAllocZero(context, sizeof(RowList));
	block = list->tail;
	if (block == NULL || len > block->size - block->used)
	{
		Size size = block == NULL ? FIRST_BLOCK : Min((Size) block->size * 2, LAST_BLOCK);
		RowBlock *next;

		size = Max(size, len);
		next = MemoryContextAllocHuge(context, offsetof(RowBlock, data) + size);
		next->next = NULL;
		next->start = list->end;
		next->used = 0;
		next->size = size;
		if (block == NULL)
			list->head = next;
		else
			block->next = next;
		list->tail = block = next;
	}
	memcpy(block->data + block->used, data, len);
	block->used += len;
	list->end += len;
}

/* Give a group without rows those of another one, which stands for the same in the log. */
void
collected_copy(const Entry *from, Entry *to)
{
	const RowList *list = from->rows;
	Size size = sizeof(RowSegment) * list->max_segments;

	for (const RowBlock *block = list->head; block != NULL; block = block->next)
		collected_append(to, block->data, block->used);
	to->rows->nsegments = list->nsegments;
	to->rows->max_segments = list->max_segments;
	to->rows->resave = list->resave;
	if (list->segments != NULL)
	{
		to->rows->segments =
			MemoryContextAllocHuge(to->window->context->ecxt_per_tuple_memory, size);
		memcpy(to->rows->segments, list->segments, sizeof(RowSegment) * list->nsegments);
	}
}

/* Does any collected aggregate want this row? */
static bool
wanted(const GroupTable *table, const InputRows *rows, int row)
{
	for (int i = 0; i < table->spec->naggs; i++)
	{
		const AggSpec *agg = &table->spec->aggs[i];

		if (agg->collected && (agg->filter < 0 || (!rows->nulls[agg->filter][row] &&
												   DatumGetBool(rows->values[agg->filter][row]))))
			return true;
	}
	return false;
}

/*
 * Keep a row.  The first of a group is kept even if no filter lets it through, so that the plan of the collected
 * aggregates has a row for every group.  The current memory context takes garbage.
 */
void
collected_advance(GroupTable *table, Entry *entry, const InputRows *rows, int row)
{
	const GroupingSpec *spec = table->spec;
	MinimalTuple tuple;
	Size size;

	if (entry->rows != NULL && !wanted(table, rows, row))
		return;
	for (int i = 0; i < spec->ncollected; i++)
	{
		int column = spec->collected[i];
		Datum value = rows->values[column][row];

		table->collected_nulls[i] = rows->nulls[column][row];
		if (table->collected_nulls[i])
			continue;
		/* what stands in a TOAST table may be gone after this transaction */
		if (OidIsValid(table->collected_records[i]))
			value = records_to_bytes(table->collected_records[i], value);
		else if (TupleDescAttr(table->collected_desc, i)->attlen == -1 &&
				 VARATT_IS_EXTERNAL(DatumGetPointer(value)))
			value = PointerGetDatum(PG_DETOAST_DATUM(value));
		table->collected_values[i] = value;
	}
	tuple = heap_form_minimal_tuple(table->collected_desc, table->collected_values,
									table->collected_nulls);
	size = MAXALIGN(tuple->t_len);
	if (size > tuple->t_len)
	{
		Size len = tuple->t_len;

		/* what is stored is to be the same for the same rows, so the gap, too */
		tuple = repalloc(tuple, size);
		memset((char *) tuple + len, 0, size - len);
	}
	collected_append(entry, (char *) tuple, size);
}

void
group_collected(GroupTable *table, StateGroup *group, CollectedReader reader, void *arg)
{
	RowList *list = ((Entry *) group)->rows;

	if (list == NULL)
		return;
	for (RowBlock *block = list->head; block != NULL; block = block->next)
	{
		for (uint32 at = 0; at < block->used;)
		{
			MinimalTuple minimal = (MinimalTuple) (block->data + at);
			HeapTupleData tuple;

			tuple.t_len = minimal->t_len + MINIMAL_TUPLE_OFFSET;
			tuple.t_data = (HeapTupleHeader) ((char *) minimal - MINIMAL_TUPLE_OFFSET);
			heap_deform_tuple(&tuple, table->collected_desc, table->collected_values,
							  table->collected_nulls);
			for (int i = 0; i < table->spec->ncollected; i++)
				if (OidIsValid(table->collected_records[i]) && !table->collected_nulls[i])
					table->collected_values[i] =
						bytes_to_records(table->collected_records[i], table->collected_values[i]);
			reader(table->collected_values, table->collected_nulls, arg);
			at += MAXALIGN(minimal->t_len);
		}
	}
}

RowMark
collected_mark(const Entry *entry)
{
	RowMark mark = {0};

	if (entry->rows != NULL && entry->rows->tail != NULL)
	{
		mark.tail = entry->rows->tail;
		mark.used = mark.tail->used;
	}
	return mark;
}

/* Forget the rows that a group got since "mark", none of which stands in the log. */
void
collected_cut_back(Entry *entry, const RowMark *mark)
{
	RowList *list = entry->rows;

	if (mark->tail == NULL)
	{
		entry->rows = NULL;
		return;
	}
	if (list->tail == mark->tail && mark->tail->used == mark->used)
		return;
	distinct_forget(list);
	mark->tail->used = mark->used;
	mark->tail->next = NULL;
	list->tail = mark->tail;
	list->end = mark->tail->start + mark->used;
}

/* Where to end a piece of about "target" bytes that begins at "from": after a row, at least one, at most the list. */
Size
collected_cut(const RowList *list, Size from, Size to, Size target)
{
	if (to - from <= target)
		return to;
	for (RowBlock *block = list->head; block != NULL; block = block->next)
	{
		uint32 at;

		if (block->start + block->used <= from)
			continue;
		at = from > block->start ? from - block->start : 0;
		while (at < block->used)
		{
			at += MAXALIGN(((MinimalTuple) (block->data + at))->t_len);
			if (block->start + at >= from + target || block->start + at >= to)
				return block->start + at;
		}
	}
	return to;
}

/* Append the bytes [from, to) of a group's rows. */
void
collected_write(const RowList *list, Size from, Size to, StringInfo out)
{
	RowBlock *block = from >= list->tail->start ? list->tail : list->head;

	for (; block != NULL && block->start < to; block = block->next)
	{
		Size end = Min(block->start + block->used, to);

		if (end > from)
		{
			Size begin = Max(block->start, from);

			appendBinaryStringInfo(out, block->data + (begin - block->start), end - begin);
		}
	}
}
