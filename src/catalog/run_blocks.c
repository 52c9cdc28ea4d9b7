/*
 * run_blocks.c
 *		The cold groups of pipelines, in velo.query_run: runs, sorted by hash and cut into blocks, a row each.
 *
 * What is in a block is state/'s business.  A block fills about a page.  Groups are found by the greatest hash of their
 * block, so that the index has one entry for many of them, and new entries of a run stand side by side.
 */
#include "catalog/rows.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/velo_catalog.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

/* columns of velo.query_run; all but the last are its primary key */
enum
{
	RUN_QUERY = 1,
	RUN_PIPELINE,
	RUN_RUN,
	RUN_HASH,
	RUN_DATA,
	RUN_NATTS = RUN_DATA
};

/* Hashes as bigint, in their order without sign. */
static Datum
hash_datum(uint64 hash)
{
	return Int64GetDatum((int64) (hash ^ (UINT64CONST(1) << 63)));
}

static uint64
datum_hash(Datum datum)
{
	return (uint64) DatumGetInt64(datum) ^ (UINT64CONST(1) << 63);
}

void
run_blocks_delete_all(Oid query)
{
	rows_delete("query_run", NULL, RUN_QUERY, query);
}

/* ------------------------------------------------------------------ writing */

struct RunAppender
{
	Oid query;
	int pipeline;
	Relation rel;
	CatalogIndexState indexes;
};

RunAppender *
run_appender_begin(Oid query, int pipeline)
{
	RunAppender *appender = palloc(sizeof(RunAppender));

	appender->query = query;
	appender->pipeline = pipeline;
	appender->rel = rows_open("query_run", RowExclusiveLock);
	appender->indexes = CatalogOpenIndexes(appender->rel);
	return appender;
}

void
run_appender_add(RunAppender *appender, int64 run, uint64 hash, bytea *data)
{
	Datum values[RUN_NATTS + 1];
	bool nulls[RUN_NATTS + 1] = {0};
	HeapTuple tuple;

	values[RUN_QUERY] = ObjectIdGetDatum(appender->query);
	values[RUN_PIPELINE] = Int32GetDatum(appender->pipeline);
	values[RUN_RUN] = Int64GetDatum(run);
	values[RUN_HASH] = hash_datum(hash);
	values[RUN_DATA] = PointerGetDatum(data);
	tuple = heap_form_tuple(RelationGetDescr(appender->rel), values + 1, nulls + 1);
	CatalogTupleInsertWithInfo(appender->rel, tuple, appender->indexes);
	heap_freetuple(tuple);
	CHECK_FOR_INTERRUPTS();
}

void
run_appender_end(RunAppender *appender)
{
	CatalogCloseIndexes(appender->indexes);
	table_close(appender->rel, NoLock);
	CommandCounterIncrement();
	pfree(appender);
}

/* ------------------------------------------------------------------ reading */

struct RunReader
{
	Oid query;
	int pipeline;
	bool deletes;
	Relation rel;
	Relation index;
	Snapshot snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	bytea *copy; /* of the present block, if it stands out of line */
};

RunReader *
run_reader_begin(Oid query, int pipeline, bool deletes)
{
	LOCKMODE lock = deletes ? RowExclusiveLock : AccessShareLock;
	RunReader *reader = palloc0(sizeof(RunReader));

	reader->query = query;
	reader->pipeline = pipeline;
	reader->deletes = deletes;
	reader->rel = rows_open("query_run", lock);
	reader->index = index_open(RelationGetPrimaryKeyIndex(reader->rel), AccessShareLock);
	reader->snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader->slot = table_slot_create(reader->rel, NULL);
	reader->scan = index_beginscan(reader->rel, reader->index, reader->snapshot, RUN_HASH + 1, 0);
	return reader;
}

static void
forget_block(RunReader *reader)
{
	if (reader->copy != NULL)
		pfree(reader->copy);
	reader->copy = NULL;
}

void
run_reader_seek(RunReader *reader, int64 run, uint64 from, uint64 to)
{
	ScanKeyData keys[RUN_HASH + 1];

	forget_block(reader);
	/* of the index's columns, which are the table's first */
	rows_key_oid(&keys[0], RUN_QUERY, reader->query);
	rows_key_int4(&keys[1], RUN_PIPELINE, reader->pipeline);
	ScanKeyInit(&keys[2], RUN_RUN, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(run));
	ScanKeyInit(&keys[3], RUN_HASH, BTGreaterEqualStrategyNumber, F_INT8GE, hash_datum(from));
	ScanKeyInit(&keys[4], RUN_HASH, BTLessEqualStrategyNumber, F_INT8LE, hash_datum(to));
	index_rescan(reader->scan, keys, lengthof(keys), NULL, 0);
}

bool
run_reader_next(RunReader *reader, RunBlock *block)
{
	bool isnull;
	Datum stored;
	bytea *data;

	CHECK_FOR_INTERRUPTS();
	forget_block(reader);
	if (!index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot))
		return false;
	block->hash = datum_hash(slot_getattr(reader->slot, RUN_HASH, &isnull));
	stored = slot_getattr(reader->slot, RUN_DATA, &isnull);
	data = DatumGetByteaPP(stored);
	if (PointerGetDatum(data) != stored)
		reader->copy = data;
	block->data = VARDATA_ANY(data);
	block->len = VARSIZE_ANY_EXHDR(data);
	return true;
}

void
run_reader_delete(RunReader *reader)
{
	Assert(reader->deletes);
	CatalogTupleDelete(reader->rel, &reader->slot->tts_tid);
}

void
run_reader_end(RunReader *reader)
{
	forget_block(reader);
	index_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	UnregisterSnapshot(reader->snapshot);
	index_close(reader->index, AccessShareLock);
	table_close(reader->rel, reader->deletes ? NoLock : AccessShareLock);
	if (reader->deletes)
		CommandCounterIncrement();
	pfree(reader);
}
