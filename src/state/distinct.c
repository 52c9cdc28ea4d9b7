/*
 * distinct.c
 *		The distinct values of aggregates such as count(DISTINCT x).
 *
 * Where the order of its input is nothing to an aggregate, DISTINCT is a transition for each value that the group
 * hasn't had.  Those that it has had are kept like the input rows of collected aggregates (collected.c): one behind
 * the other, so that the log takes each once.  Which there are is told by a hash set of them, which is made when it is
 * first asked, and anew after the group was loaded, fetched or moved.
 */
#include "state/group_table.h"

#include "common/hashfn.h"
#include "utils/datum.h"

#define FIRST_SLOTS 4

/* A kept value. */
typedef struct DistinctValue
{
	uint32 len;        /* of all of it; must be first, as in a MinimalTuple */
	uint32 transition; /* its number */
	char data[FLEXIBLE_ARRAY_MEMBER];
} DistinctValue;

typedef struct DistinctSlot
{
	uint64 hash;
	const DistinctValue *value; /* NULL: free */
} DistinctSlot;

struct DistinctSet
{
	uint64 nvalues;
	uint64 mask; /* number of slots - 1 */
	DistinctSlot *slots;
};

/* How the values of its transition are told apart. */
static const Key *
key_of(const GroupTable *table, const DistinctValue *value)
{
	if (value->transition >= (uint32) table->ntransitions ||
		table->transitions[value->transition].distinct == NULL)
		record_damaged();
	return table->transitions[value->transition].distinct;
}

static inline Datum
value_datum(const Key *key, const DistinctValue *value)
{
	return key->byval ? *(const Datum *) value->data : PointerGetDatum(value->data);
}

static uint64
hash_value(const Key *key, int transition, Datum value)
{
	return hash_combine64(transition, key_hash(key, value));
}

/* ------------------------------------------------------------------ the set */

static DistinctSlot *
find_free(const DistinctSet *set, uint64 hash)
{
	uint64 i = hash & set->mask;

	while (set->slots[i].value != NULL)
		i = (i + 1) & set->mask;
	return &set->slots[i];
}

static void
enlarge(DistinctSet *set, MemoryContext context)
{
	DistinctSlot *old = set->slots;
	uint64 nold = set->mask + 1;

	set->slots = MemoryContextAllocExtended(context, sizeof(DistinctSlot) * nold * 2,
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	set->mask = nold * 2 - 1;
	for (uint64 i = 0; i < nold; i++)
		if (old[i].value != NULL)
			*find_free(set, old[i].hash) = old[i];
	pfree(old);
}

/* Add a value that the set doesn't have. */
static void
add(DistinctSet *set, MemoryContext context, uint64 hash, const DistinctValue *value)
{
	DistinctSlot *slot;

	if (set->nvalues >= (set->mask + 1) / 4 * 3)
		enlarge(set, context);
	slot = find_free(set, hash);
	slot->hash = hash;
	slot->value = value;
	set->nvalues++;
}

/* The set of a group's values. */
static DistinctSet *
make_set(GroupTable *table, Entry *entry)
{
	MemoryContext context = entry->window->context->ecxt_per_tuple_memory;
	DistinctSet *set = MemoryContextAllocZero(context, sizeof(DistinctSet));

	set->slots = MemoryContextAllocZero(context, sizeof(DistinctSlot) * FIRST_SLOTS);
	set->mask = FIRST_SLOTS - 1;
	for (RowBlock *block = entry->rows->head; block != NULL; block = block->next)
		for (uint32 at = 0; at < block->used;)
		{
			const DistinctValue *value = (DistinctValue *) (block->data + at);
			const Key *key = key_of(table, value);

			add(set, context, hash_value(key, value->transition, value_datum(key, value)), value);
			at += MAXALIGN(value->len);
		}
	return set;
}

static bool
contains(const DistinctSet *set, const Key *key, int transition, uint64 hash, Datum value)
{
	for (uint64 i = hash & set->mask; set->slots[i].value != NULL; i = (i + 1) & set->mask)
	{
		const DistinctSlot *slot = &set->slots[i];

		if (slot->hash == hash && slot->value->transition == (uint32) transition &&
			key_equal(key, value_datum(key, slot->value), value))
			return true;
	}
	return false;
}

/* ------------------------------------------------------------------ values */

/* Append a value to those of a group; returns where it lies.  The current memory context takes garbage. */
static const DistinctValue *
keep_value(Entry *entry, const Key *key, int transition, Datum value)
{
	Size len = key->byval ? sizeof(Datum) : datumGetSize(value, false, key->typlen);
	Size size = MAXALIGN(offsetof(DistinctValue, data) + len);
	DistinctValue *kept = palloc_extended(size, MCXT_ALLOC_ZERO | MCXT_ALLOC_HUGE);
	const RowBlock *block;

	kept->len = offsetof(DistinctValue, data) + len;
	kept->transition = transition;
	memcpy(kept->data, key->byval ? (const char *) &value : DatumGetPointer(value), len);
	collected_append(entry, (char *) kept, size);
	block = entry->rows->tail;
	return (const DistinctValue *) (block->data + block->used - size);
}

bool
distinct_add(GroupTable *table, Entry *entry, int transition, Datum value)
{
	MemoryContext context = entry->window->context->ecxt_per_tuple_memory;
	const Key *key = table->transitions[transition].distinct;
	const DistinctValue *kept;
	uint64 hash;

	if (key->typlen == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
	hash = hash_value(key, transition, value);
	if (entry->rows != NULL)
	{
		if (entry->rows->set == NULL)
			entry->rows->set = make_set(table, entry);
		if (contains(entry->rows->set, key, transition, hash, value))
			return false;
	}
	kept = keep_value(entry, key, transition, value);
	if (entry->rows->set == NULL)
		entry->rows->set = make_set(table, entry);
	else
		add(entry->rows->set, context, hash, kept);
	return true;
}

void
distinct_forget(RowList *list)
{
	if (list->set == NULL)
		return;
	pfree(list->set->slots);
	pfree(list->set);
	list->set = NULL;
}

/* The values of a group of another table, of the same aggregates, into one of this table, with their transitions. */
void
distinct_fold(GroupTable *table, Entry *into, const Entry *from)
{
	if (from->rows == NULL)
		return;
	for (const RowBlock *block = from->rows->head; block != NULL; block = block->next)
		for (uint32 at = 0; at < block->used;)
		{
			const DistinctValue *value = (const DistinctValue *) (block->data + at);
			const Key *key = key_of(table, value);
			Datum datum = value_datum(key, value);

			if (distinct_add(table, into, value->transition, datum))
				aggregates_advance_one(table, into, value->transition, datum);
			at += MAXALIGN(value->len);
		}
}
