/*
 * stream_keys.c
 *		Is the stream's key true?  No two pipelines of an exclusive query may have groups of the same value of it.
 *
 * Each pipeline claims the values of which it makes groups, by their hash, in a table that they share (velo.query_key),
 * in the transaction that commits the groups.  The table's unique index lets no value be claimed twice; who meets a value
 * that another pipeline has claimed turns the query into a merged one before it commits anything of it, so no window has
 * closed without it by then.  Nobody waits for anybody as long as the key is true.
 *
 * Only a record that makes a group needs a look at the claims.  In a windowed query a claim is good for the windows that
 * start within one generation of event time, and is forgotten when all of those have closed in every pipeline: what is
 * kept is proportional to the groups that are open, or were a few windows ago.
 */
#include "pipeline/worker.h"

#include "common/hashfn.h"
#include "common/int.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

/* length of a generation in windows: how often a value that stays is claimed anew */
#define GENERATION_WINDOWS 8

struct StreamKeys
{
	int nkeys;
	int *columns; /* of the input rows */
	Oid *collations;
	TypeCacheEntry **types;
	WindowSpec window;
	int64 generation; /* length of one in microseconds */
	int64 forgotten;  /* generations before this one are */
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
	/* a copy, for the plan may be made anew */
	keys->window = plan->grouping->window;
	keys->window.zone = keys->window.zone ? pstrdup(keys->window.zone) : NULL;
	keys->window.trunc = keys->window.trunc ? pstrdup(keys->window.trunc) : NULL;
	keys->forgotten = PG_INT64_MIN;
	if (keys->window.kind != WINDOW_NONE)
	{
		if (pg_mul_s64_overflow(keys->window.size, GENERATION_WINDOWS, &keys->generation))
			keys->generation = PG_INT64_MAX;
	}
	return keys;
}

/* ---------------------------------------------------------------- claiming */

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

/* The generation that a time lies in. */
static int64
generation_of(const StreamKeys *keys, TimestampTz time)
{
	int64 result = time / keys->generation;

	return time % keys->generation < 0 ? result - 1 : result;
}

/* The generations of the windows that a row is in: at most two, for they are longer than windows. */
static int
generations_of_row(const StreamKeys *keys, const InputRows *rows, int row, int64 generations[2])
{
	TimestampTz first;
	TimestampTz last;
	int n = 0;

	if (keys->window.kind == WINDOW_NONE)
	{
		generations[0] = 0;
		return 1;
	}
	if (!window_range(&keys->window, rows->time[row], &first, &last))
		return 0;
	generations[n++] = generation_of(keys, first);
	generations[n] = generation_of(keys, last);
	return generations[n] == generations[0] ? n : n + 1;
}

static int
compare_claims(const void *a, const void *b)
{
	const StreamKeyClaim *left = a;
	const StreamKeyClaim *right = b;

	if (left->generation != right->generation)
		return left->generation < right->generation ? -1 : 1;
	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return 0;
}

void
stream_keys_check(Pipeline *pipeline)
{
	StreamKeys *keys = pipeline->stream_keys;
	InputRows *rows = pipeline->rows;
	StreamKeyClaim *claims;
	int ncreated = 0;
	int nclaims = 0;
	int unique = 0;

	for (int row = 0; row < rows->nrows; row++)
		ncreated += rows->created[row];
	if (ncreated == 0)
		return;
	claims = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(StreamKeyClaim) * 2 * ncreated);
	for (int row = 0; row < rows->nrows; row++)
	{
		int64 generations[2];
		int n = rows->created[row] ? generations_of_row(keys, rows, row, generations) : 0;

		for (int i = 0; i < n; i++)
		{
			claims[nclaims].generation = generations[i];
			claims[nclaims++].hash = hash_row(keys, rows, row);
		}
	}
	/* in order, so that two pipelines that claim the same values rarely wait for each other */
	qsort(claims, nclaims, sizeof(StreamKeyClaim), compare_claims);
	for (int i = 0; i < nclaims; i++)
		if (i == 0 || compare_claims(&claims[i], &claims[i - 1]) != 0)
			claims[unique++] = claims[i];
	stream_keys_claim(pipeline->id, pipeline->number, claims, unique);
	pfree(claims);
}

/* ---------------------------------------------------------------- forgetting */

/* The first generation with a window that may be open when all that close by "closed" are closed. */
static int64
first_open_generation(const StreamKeys *keys, TimestampTz closed)
{
	TimestampTz start;

	/* a window of wall-clock days may be some hours longer */
	if (pg_sub_s64_overflow(closed, keys->window.size, &start) ||
		pg_sub_s64_overflow(start, keys->window.grace, &start) ||
		pg_sub_s64_overflow(start, USECS_PER_DAY, &start))
		return PG_INT64_MIN;
	return generation_of(keys, start);
}

void
stream_keys_forget(Pipeline *pipeline)
{
	StreamKeys *keys = pipeline->stream_keys;
	int64 first;

	/* one pipeline does it for all, when it has itself got so far */
	if (keys->window.kind == WINDOW_NONE || pipeline->number != 0 ||
		first_open_generation(keys, pipeline->closed) <= keys->forgotten)
		return;
	first =
		first_open_generation(keys, query_closed_by_all(pipeline->id, pipeline->query->npipelines));
	if (first <= keys->forgotten)
		return;
	stream_keys_delete(pipeline->id, first);
	keys->forgotten = first;
}
