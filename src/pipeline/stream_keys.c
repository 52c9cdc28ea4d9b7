/*
 * stream_keys.c
 *		Is the stream's key true?  No two pipelines of an exclusive query may meet the same value of it.
 *
 * Each pipeline notes the values that it meets for the first time, by their hash, in a table that they share
 * (velo.query_key), in the transaction that commits what it made of them.  Who finds a value noted by another pipeline
 * turns the query into a merged one before it commits anything of it, so no window has closed without it by then.
 */
#include "pipeline/worker.h"

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* values kept in memory: 32 MB of them */
#define MAX_MET (1 << 20)

typedef struct MetValue
{
	uint64 hash;
	char status;
} MetValue;

#define SH_PREFIX met
#define SH_ELEMENT_TYPE MetValue
#define SH_KEY_TYPE uint64
#define SH_KEY hash
#define SH_HASH_KEY(table, key) ((uint32) (key))
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct StreamKeys
{
	int nkeys;
	int *columns; /* of the input rows */
	Oid *collations;
	TypeCacheEntry **types;
	met_hash *met; /* noted by this pipeline, in this transaction or before */
};

/* In the current memory context. */
StreamKeys *
stream_keys_create(const GroupedPlan *plan)
{
	StreamKeys *keys = palloc0_object(StreamKeys);

	keys->nkeys = plan->nstream_keys;
	keys->columns = palloc_array(int, keys->nkeys + 1);
	keys->collations = palloc_array(Oid, keys->nkeys + 1);
	keys->types = palloc_array(TypeCacheEntry *, keys->nkeys + 1);
	for (int i = 0; i < keys->nkeys; i++)
	{
		const KeySpec *key = &plan->grouping->keys[plan->stream_keys[i]];

		keys->columns[i] = key->column;
		keys->collations[i] = key->collation;
		keys->types[i] = lookup_type_cache(key->type, TYPECACHE_HASH_EXTENDED_PROC_FINFO);
	}
	keys->met = met_create(CurrentMemoryContext, 1024, NULL);
	return keys;
}

void
stream_keys_forget(StreamKeys *keys)
{
	met_reset(keys->met);
}

/* Values of a type that can't be hashed count as one, which another pipeline will have met as well. */
static uint64
hash_row(const StreamKeys *keys, const InputRows *rows, int row)
{
	uint64 hash = 0;

	for (int i = 0; i < keys->nkeys; i++)
	{
		FmgrInfo *function = &keys->types[i]->hash_extended_proc_finfo;
		uint64 part = 0;

		if (!rows->nulls[keys->columns[i]][row] && OidIsValid(function->fn_oid))
			part = DatumGetUInt64(FunctionCall2Coll(function, keys->collations[i],
													rows->values[keys->columns[i]][row],
													Int64GetDatum(0)));
		hash = hash_combine64(hash, part);
	}
	return hash;
}

bool
stream_keys_check(Pipeline *pipeline)
{
	StreamKeys *keys = pipeline->stream_keys;
	InputRows *rows = pipeline->rows;
	uint64 *hashes = NULL;
	int nhashes = 0;

	for (int row = 0; row < rows->nrows; row++)
	{
		uint64 hash = hash_row(keys, rows, row);
		bool found;

		(void) met_insert(keys->met, hash, &found);
		if (found)
			continue;
		if (hashes == NULL)
			hashes = palloc_array(uint64, rows->nrows);
		hashes[nhashes++] = hash;
	}
	if (nhashes == 0)
		return true;
	/* what is noted can always be looked up again */
	if (keys->met->members > MAX_MET)
		stream_keys_forget(keys);
	take_turn(pipeline);
	return stream_keys_claim(pipeline->id, pipeline->number, hashes, nhashes);
}
