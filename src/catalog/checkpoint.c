/*
 * checkpoint.c
 *		What a pipeline keeps of its state: chunks in velo.query_state, single groups in velo.query_group (for runs of
 *		many see run_blocks.c); and which values of the stream's key it has met, in velo.query_key.
 *
 * Their content is state/'s business.  Chunks are stored out of line without compression, so that appending one costs
 * little more than its bytes.
 */
#include "catalog/rows.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/velo_catalog.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* columns of velo.query_state */
enum
{
	STATE_QUERY = 1,
	STATE_PIPELINE,
	STATE_SEQ,
	STATE_DATA,
	STATE_NATTS = STATE_DATA
};

/* columns of velo.query_group */
enum
{
	GROUP_QUERY = 1,
	GROUP_KEY,
	GROUP_STATE,
	GROUP_NATTS = GROUP_STATE
};

/* columns of velo.query_key */
enum
{
	KEY_QUERY = 1,
	KEY_GENERATION,
	KEY_HASH,
	KEY_PIPELINE,
	KEY_NATTS = KEY_PIPELINE
};

void
state_delete_all(Oid query)
{
	rows_delete("query_state", NULL, STATE_QUERY, query);
	rows_delete("query_group", NULL, GROUP_QUERY, query);
	run_blocks_delete_all(query);
	rows_delete("query_key", NULL, KEY_QUERY, query);
}

/* ------------------------------------------------------------------ chunks */

/* Scan by query, pipeline and, unless NULL, seq. */
static SysScanDesc
scan_chunks(Relation rel, ScanKey keys, Oid query, int pipeline, const int64 *seq)
{
	rows_key_oid(&keys[0], STATE_QUERY, query);
	rows_key_int4(&keys[1], STATE_PIPELINE, pipeline);
	if (seq != NULL)
		ScanKeyInit(&keys[2], STATE_SEQ, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(*seq));
	return rows_scan(rel, keys, seq ? 3 : 2);
}

void
state_chunk_append(Oid query, int pipeline, int64 seq, const char *data, Size len)
{
	Relation rel = rows_open("query_state", RowExclusiveLock);
	Datum values[STATE_NATTS + 1];
	bool nulls[STATE_NATTS + 1] = {0};
	bytea *bytes = palloc(VARHDRSZ + len);
	HeapTuple tuple;

	SET_VARSIZE(bytes, VARHDRSZ + len);
	memcpy(VARDATA(bytes), data, len);
	values[STATE_QUERY] = ObjectIdGetDatum(query);
	values[STATE_PIPELINE] = Int32GetDatum(pipeline);
	values[STATE_SEQ] = Int64GetDatum(seq);
	values[STATE_DATA] = PointerGetDatum(bytes);
	tuple = heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	pfree(bytes);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
state_chunk_delete(Oid query, int pipeline, const int64 *seqs, int nseqs)
{
	Relation rel = rows_open("query_state", RowExclusiveLock);

	for (int i = 0; i < nseqs; i++)
	{
		ScanKeyData keys[3];
		SysScanDesc scan = scan_chunks(rel, keys, query, pipeline, &seqs[i]);
		HeapTuple tuple = systable_getnext(scan);

		if (HeapTupleIsValid(tuple))
			CatalogTupleDelete(rel, &tuple->t_self);
		systable_endscan(scan);
	}
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
state_chunk_scan(Oid query, int pipeline, StateChunkReader reader, void *arg)
{
	Relation rel = rows_open("query_state", AccessShareLock);
	Relation index = index_open(RelationGetPrimaryKeyIndex(rel), AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	rows_key_oid(&keys[0], STATE_QUERY, query);
	rows_key_int4(&keys[1], STATE_PIPELINE, pipeline);
	scan = systable_beginscan_ordered(rel, index, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool isnull;
		int64 seq = DatumGetInt64(heap_getattr(tuple, STATE_SEQ, RelationGetDescr(rel), &isnull));
		Datum stored = heap_getattr(tuple, STATE_DATA, RelationGetDescr(rel), &isnull);
		bytea *data = DatumGetByteaPP(stored);

		reader(seq, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), arg);
		if (PointerGetDatum(data) != stored)
			pfree(data);
		CHECK_FOR_INTERRUPTS();
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

bool
state_chunk_exists(Oid query, int pipeline)
{
	Relation rel = rows_open("query_state", AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan = scan_chunks(rel, keys, query, pipeline, NULL);
	bool exists = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return exists;
}

bytea *
state_chunk_read(Oid query, int pipeline, int64 seq)
{
	Relation rel = rows_open("query_state", AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan = scan_chunks(rel, keys, query, pipeline, &seq);
	HeapTuple tuple = systable_getnext(scan);
	bytea *data = NULL;

	if (HeapTupleIsValid(tuple))
	{
		bool isnull;

		data = DatumGetByteaPCopy(heap_getattr(tuple, STATE_DATA, RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return data;
}

/* ------------------------------------------------------------------ single groups */

static SysScanDesc
scan_group(Relation rel, ScanKey keys, Oid query, bytea *key)
{
	rows_key_oid(&keys[0], GROUP_QUERY, query);
	ScanKeyInit(&keys[1], GROUP_KEY, BTEqualStrategyNumber, F_BYTEAEQ, PointerGetDatum(key));
	return rows_scan(rel, keys, 2);
}

/* A copy of a column in the current memory context. */
static bytea *
read_column(HeapTuple tuple, Relation rel, AttrNumber column)
{
	bool isnull;

	return DatumGetByteaPCopy(heap_getattr(tuple, column, RelationGetDescr(rel), &isnull));
}

List *
stored_groups_fetch(Oid query, bytea **keys, int nkeys)
{
	Relation rel = rows_open("query_group", AccessShareLock);
	List *groups = NIL;

	for (int i = 0; i < nkeys; i++)
	{
		ScanKeyData scankeys[2];
		SysScanDesc scan = scan_group(rel, scankeys, query, keys[i]);
		HeapTuple tuple = systable_getnext(scan);

		if (HeapTupleIsValid(tuple))
		{
			StoredGroup *group = palloc(sizeof(StoredGroup));

			group->key = read_column(tuple, rel, GROUP_KEY);
			group->state = read_column(tuple, rel, GROUP_STATE);
			groups = lappend(groups, group);
		}
		systable_endscan(scan);
		CHECK_FOR_INTERRUPTS();
	}
	table_close(rel, AccessShareLock);
	return groups;
}

static HeapTuple
form_group(Relation rel, Oid query, const StoredGroup *group)
{
	Datum values[GROUP_NATTS + 1];
	bool nulls[GROUP_NATTS + 1] = {0};

	values[GROUP_QUERY] = ObjectIdGetDatum(query);
	values[GROUP_KEY] = PointerGetDatum(group->key);
	values[GROUP_STATE] = PointerGetDatum(group->state);
	return heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1);
}

/* Bring what is stored under a key up to date. */
static void
save_group(Relation rel, CatalogIndexState indexes, Oid query, const StoredGroup *group)
{
	ScanKeyData keys[2];
	SysScanDesc scan = scan_group(rel, keys, query, group->key);
	HeapTuple old = systable_getnext(scan);

	if (HeapTupleIsValid(old) && group->state == NULL)
		CatalogTupleDelete(rel, &old->t_self);
	else if (HeapTupleIsValid(old))
		CatalogTupleUpdateWithInfo(rel, &old->t_self, form_group(rel, query, group), indexes);
	else if (group->state != NULL)
		CatalogTupleInsertWithInfo(rel, form_group(rel, query, group), indexes);
	systable_endscan(scan);
}

void
stored_groups_save(Oid query, const StoredGroup *groups, int ngroups)
{
	Relation rel = rows_open("query_group", RowExclusiveLock);
	CatalogIndexState indexes = CatalogOpenIndexes(rel);

	for (int i = 0; i < ngroups; i++)
	{
		save_group(rel, indexes, query, &groups[i]);
		CHECK_FOR_INTERRUPTS();
	}
	CatalogCloseIndexes(indexes);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Ordered scan of the groups with key in [from, to); a NULL bound is open.  "keys" has room for three. */
static SysScanDesc
scan_groups(Relation rel, Relation index, ScanKey keys, Oid query, bytea *from, bytea *to)
{
	int nkeys = 0;

	rows_key_oid(&keys[nkeys++], GROUP_QUERY, query);
	if (from != NULL)
		ScanKeyInit(&keys[nkeys++], GROUP_KEY, BTGreaterEqualStrategyNumber, F_BYTEAGE,
					PointerGetDatum(from));
	if (to != NULL)
		ScanKeyInit(&keys[nkeys++], GROUP_KEY, BTLessStrategyNumber, F_BYTEALT,
					PointerGetDatum(to));
	return systable_beginscan_ordered(rel, index, NULL, nkeys, keys);
}

void
stored_groups_scan(Oid query, bytea *from, bytea *to, StoredGroupReader reader, void *arg)
{
	Relation rel = rows_open("query_group", AccessShareLock);
	Relation index = index_open(RelationGetPrimaryKeyIndex(rel), AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan = scan_groups(rel, index, keys, query, from, to);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		StoredGroup group;

		group.key = read_column(tuple, rel, GROUP_KEY);
		group.state = read_column(tuple, rel, GROUP_STATE);
		reader(&group, arg);
		pfree(group.key);
		pfree(group.state);
		CHECK_FOR_INTERRUPTS();
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

void
stored_groups_delete_range(Oid query, bytea *from, bytea *to)
{
	Relation rel = rows_open("query_group", RowExclusiveLock);
	Relation index = index_open(RelationGetPrimaryKeyIndex(rel), AccessShareLock);
	ScanKeyData keys[3];
	SysScanDesc scan = scan_groups(rel, index, keys, query, from, to);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		CatalogTupleDelete(rel, &tuple->t_self);
		CHECK_FOR_INTERRUPTS();
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* ------------------------------------------------------------------ stream keys */

/* The pipeline that has made a claim, by what is committed or its own; -1: none. */
static int
find_claimant(IndexScanDesc scan, TupleTableSlot *slot, Oid query, const StreamKeyClaim *claim)
{
	ScanKeyData keys[3];
	int pipeline = -1;

	/* of the index's columns */
	rows_key_oid(&keys[0], 1, query);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(claim->generation));
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) claim->hash));
	index_rescan(scan, keys, lengthof(keys), NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		pipeline = DatumGetInt32(slot_getattr(slot, KEY_PIPELINE, &isnull));
		ExecClearTuple(slot);
	}
	return pipeline;
}

static void
insert_claim(Relation rel, CatalogIndexState indexes, Oid query, int pipeline,
			 const StreamKeyClaim *claim)
{
	Datum values[KEY_NATTS + 1];
	bool nulls[KEY_NATTS + 1] = {0};
	HeapTuple tuple;

	values[KEY_QUERY] = ObjectIdGetDatum(query);
	values[KEY_GENERATION] = Int64GetDatum(claim->generation);
	values[KEY_HASH] = Int64GetDatum((int64) claim->hash);
	values[KEY_PIPELINE] = Int32GetDatum(pipeline);
	tuple = heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1);
	CatalogTupleInsertWithInfo(rel, tuple, indexes);
	heap_freetuple(tuple);
}

void
stream_keys_claim(Oid query, int pipeline, const StreamKeyClaim *claims, int nclaims)
{
	Relation rel = rows_open("query_key", RowExclusiveLock);
	Relation index = index_open(RelationGetPrimaryKeyIndex(rel), RowExclusiveLock);
	CatalogIndexState indexes = CatalogOpenIndexes(rel);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = index_beginscan(rel, index, snapshot, 3, 0);

	for (int i = 0; i < nclaims; i++)
	{
		int claimant = find_claimant(scan, slot, query, &claims[i]);

		if (claimant < 0)
			insert_claim(rel, indexes, query, pipeline, &claims[i]);
		else if (claimant != pipeline)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("key of the stream is not true: pipelines %d and %d have met the "
							"same value",
							claimant, pipeline)));
		CHECK_FOR_INTERRUPTS();
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	CatalogCloseIndexes(indexes);
	index_close(index, NoLock);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
stream_keys_delete(Oid query, int64 first)
{
	Relation rel = rows_open("query_key", RowExclusiveLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	rows_key_oid(&keys[0], KEY_QUERY, query);
	ScanKeyInit(&keys[1], KEY_GENERATION, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(first));
	scan = rows_scan(rel, keys, 2);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CatalogTupleDelete(rel, &tuple->t_self);
		CHECK_FOR_INTERRUPTS();
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
