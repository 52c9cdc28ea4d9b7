/*
 * record_batch.c
 *		Memory and errors of a RecordBatch.
 */
#include "format/internal.h"

#include "utils/memutils.h"

#define ARENA_CHUNK_SIZE (64 * 1024)

RecordBatch *
record_batch_create(MemoryContext parent, int capacity, int natts, const Bitmapset *wanted)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(parent);
	RecordBatch *batch = palloc0(sizeof(RecordBatch));
	int attnum = -1;

	batch->context = AllocSetContextCreate(parent, "velo record batch", ALLOCSET_DEFAULT_SIZES);
	batch->capacity = capacity;
	batch->records = palloc_extended(sizeof(Record) * capacity, MCXT_ALLOC_HUGE);
	batch->status = palloc(capacity);
	batch->natts = natts;
	batch->values = palloc0(sizeof(Datum *) * natts);
	batch->nulls = palloc0(sizeof(bool *) * natts);
	while ((attnum = bms_next_member(wanted, attnum)) > 0)
	{
		Assert(attnum <= natts);
		batch->values[attnum - 1] = palloc_extended(sizeof(Datum) * capacity, MCXT_ALLOC_HUGE);
		batch->nulls[attnum - 1] = palloc(capacity);
	}
	batch->arena = palloc(ARENA_CHUNK_SIZE);
	MemoryContextSwitchTo(oldcontext);
	record_batch_reset(batch);
	return batch;
}

void
record_batch_reset(RecordBatch *batch)
{
	MemoryContextReset(batch->context);
	batch->arena_next = batch->arena;
	batch->arena_limit = batch->arena + ARENA_CHUNK_SIZE;
	batch->nrecords = 0;
	batch->errors = NIL;
}

/*
 * The slow path of record_batch_alloc(): "size" bytes, MAXALIGNed by the caller, from a new chunk, or from
 * a chunk of their own if they are many.
 */
char *
record_batch_new_chunk(RecordBatch *batch, Size size)
{
	char *result;

	if (size > ARENA_CHUNK_SIZE / 8)
		return MemoryContextAlloc(batch->context, size);

	result = MemoryContextAlloc(batch->context, ARENA_CHUNK_SIZE);
	batch->arena_next = result + size;
	batch->arena_limit = result + ARENA_CHUNK_SIZE;
	return result;
}

void
record_batch_set_error(RecordBatch *batch, int record, int sqlerrcode, const char *message,
					   const char *detail)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(batch->context);
	RecordError *error = palloc(sizeof(RecordError));
	int pos = list_length(batch->errors);

	Assert(record >= 0 && record < batch->capacity);
	error->record = record;
	error->sqlerrcode = sqlerrcode;
	error->message = pstrdup(message);
	error->detail = detail ? pstrdup(detail) : NULL;

	/* nearly always the last; errors of evaluation come after those of decoding */
	while (pos > 0 && ((RecordError *) list_nth(batch->errors, pos - 1))->record > record)
		pos--;
	batch->errors = list_insert_nth(batch->errors, pos, error);
	batch->status[record] = RECORD_BAD;
	MemoryContextSwitchTo(oldcontext);
}
