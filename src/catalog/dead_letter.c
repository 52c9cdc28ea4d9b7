/*
 * dead_letter.c
 *		Records that could not be processed, as rows of velo.dead_letter.
 *
 * A letter belongs to a record of a stream, or (stream NULL) to a group, which its detail names.
 */
#include "catalog/rows.h"

#include "access/xact.h"
#include "catalog/velo_catalog.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* columns of velo.dead_letter */
enum
{
	LETTER_ID = 1,
	LETTER_QUERY,
	LETTER_KIND,
	LETTER_STREAM,
	LETTER_TOPIC,
	LETTER_PARTITION,
	LETTER_OFFSET,
	LETTER_TIMESTAMP,
	LETTER_KEY,
	LETTER_VALUE,
	LETTER_HEADERS,
	LETTER_SQLSTATE,
	LETTER_MESSAGE,
	LETTER_DETAIL,
	LETTER_CORRELATION_ID,
	LETTER_AT,
	LETTER_GROUP_HASH,
	LETTER_NATTS = LETTER_GROUP_HASH
};

#define LETTER_INDEX "dead_letter_query_idx"

void
dead_letter_delete_all(Oid query)
{
	rows_delete("dead_letter", LETTER_INDEX, LETTER_QUERY, query);
}

static void
set_bytes(const char *data, Size len, Datum *value, bool *isnull)
{
	*isnull = (data == NULL);
	if (data != NULL)
	{
		bytea *bytes = palloc(VARHDRSZ + len);

		SET_VARSIZE(bytes, VARHDRSZ + len);
		memcpy(VARDATA(bytes), data, len);
		*value = PointerGetDatum(bytes);
	}
}

static int64
hash_group(const char *detail)
{
	return (int64) hash_bytes_extended((const unsigned char *) detail, strlen(detail), 0);
}

static void
set_text(const char *text, Datum *value, bool *isnull)
{
	*isnull = (text == NULL);
	if (text != NULL)
		*value = CStringGetTextDatum(text);
}

void
dead_letter_add(const QueryInfo *query, const DeadLetter *letters, int nletters)
{
	Relation rel = rows_open("dead_letter", RowExclusiveLock);
	CatalogIndexState indexes = CatalogOpenIndexes(rel);
	Oid sequence = get_relname_relid("dead_letter_id_seq", RelationGetNamespace(rel));
	TimestampTz now = GetCurrentTimestamp();
	Oid stream = InvalidOid;
	char *topic = NULL;
	MemoryContext letter_context =
		AllocSetContextCreate(CurrentMemoryContext, "velo dead letter", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < nletters; i++)
	{
		const DeadLetter *letter = &letters[i];
		Datum values[LETTER_NATTS + 1];
		bool nulls[LETTER_NATTS + 1] = {0};
		bool of_record = OidIsValid(letter->stream);
		MemoryContext old_context;
		char *correlation_id = query->name;

		if (of_record && letter->stream != stream)
		{
			stream = letter->stream;
			topic = stream_get(stream)->topic;
		}
		old_context = MemoryContextSwitchTo(letter_context);
		if (of_record)
			correlation_id = psprintf("%s/%s/%d/" INT64_FORMAT, query->name, topic,
									  letter->partition, letter->offset);
		values[LETTER_ID] = Int64GetDatum(nextval_internal(sequence, false));
		values[LETTER_QUERY] = ObjectIdGetDatum(query->id);
		values[LETTER_KIND] = CStringGetTextDatum(letter->kind);
		values[LETTER_STREAM] = ObjectIdGetDatum(letter->stream);
		nulls[LETTER_STREAM] = !of_record;
		set_text(of_record ? topic : NULL, &values[LETTER_TOPIC], &nulls[LETTER_TOPIC]);
		values[LETTER_PARTITION] = Int32GetDatum(letter->partition);
		nulls[LETTER_PARTITION] = !of_record;
		values[LETTER_OFFSET] = Int64GetDatum(letter->offset);
		nulls[LETTER_OFFSET] = !of_record;
		values[LETTER_TIMESTAMP] = TimestampTzGetDatum(letter->timestamp);
		nulls[LETTER_TIMESTAMP] = !of_record || letter->timestamp == DT_NOBEGIN;
		set_bytes(letter->key, letter->key_len, &values[LETTER_KEY], &nulls[LETTER_KEY]);
		set_bytes(letter->value, letter->value_len, &values[LETTER_VALUE], &nulls[LETTER_VALUE]);
		values[LETTER_HEADERS] = PointerGetDatum(letter->headers);
		nulls[LETTER_HEADERS] = letter->headers == NULL;
		set_text(letter->sqlerrcode ? unpack_sql_state(letter->sqlerrcode) : NULL,
				 &values[LETTER_SQLSTATE], &nulls[LETTER_SQLSTATE]);
		set_text(letter->message, &values[LETTER_MESSAGE], &nulls[LETTER_MESSAGE]);
		set_text(letter->detail, &values[LETTER_DETAIL], &nulls[LETTER_DETAIL]);
		values[LETTER_CORRELATION_ID] = CStringGetTextDatum(correlation_id);
		values[LETTER_AT] = TimestampTzGetDatum(now);
		values[LETTER_GROUP_HASH] =
			of_record ? (Datum) 0 : Int64GetDatum(hash_group(letter->detail));
		nulls[LETTER_GROUP_HASH] = of_record;
		CatalogTupleInsertWithInfo(
			rel, heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1), indexes);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(letter_context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(letter_context);
	CatalogCloseIndexes(indexes);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
dead_letter_remove_group(Oid query, const char *detail)
{
	Relation rel = rows_open("dead_letter", RowExclusiveLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	rows_key_oid(&keys[0], LETTER_QUERY, query);
	ScanKeyInit(&keys[1], LETTER_GROUP_HASH, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(hash_group(detail)));
	scan = rows_scan_index(rel, LETTER_INDEX, keys, 2);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Datum stored = heap_getattr(tuple, LETTER_DETAIL, RelationGetDescr(rel), &isnull);

		if (!isnull && strcmp(TextDatumGetCString(stored), detail) == 0)
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
