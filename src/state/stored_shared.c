/*
 * stored_shared.c
 *		The groups of a merged query: a row of velo.query_group for each bucket.
 *
 * They stay there while they are in memory, which is from the first use in a transaction to its checkpoint.
 */
#include "state/stored.h"

#include "utils/builtins.h"

/* ------------------------------------------------------------------ keys */

static bytea *
bucket_key(TimestampTz window, uint64 hash)
{
	return stored_key(SHARED_GROUPS, KIND_BUCKET, window, hash, sizeof(StoredKey));
}

/* Behind the bucket of that hash. */
static bytea *
end_key(TimestampTz window, uint64 hash)
{
	Datum last = PointerGetDatum(bucket_key(window, hash));

	/* longer than that */
	return DatumGetByteaPP(DirectFunctionCall2(byteacat, last, last));
}

/* ------------------------------------------------------------------ saving */

/* Save a bucket as it is in memory; without groups it is deleted. */
static void
save_bucket(StoredSaver *saver, Window *window, uint64 hash)
{
	GroupTable *table = saver->table;
	MemoryContext old = MemoryContextSwitchTo(saver->context);
	StringInfoData out;
	int empty;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	record_write_header(table, &out);
	empty = out.len;
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
	{
		Entry *entry = window->slots[i].entry;

		if (window->slots[i].hash != hash || (entry->group.flags & ENTRY_GONE) != 0)
			continue;
		bucket_write(table, entry, &out);
	}
	SET_VARSIZE(out.data, out.len);
	stored_saver_add(saver, bucket_key(window->start, hash),
					 out.len > empty ? (bytea *) out.data : NULL);
	MemoryContextSwitchTo(old);
}

/* Save the buckets of a window that changed, in the order of their keys. */
static void
save_window(StoredSaver *saver, Window *window)
{
	int64 n = 0;
	int64 max = window->nentries;
	HashSlot *slots = MemoryContextAllocHuge(saver->table->context, sizeof(HashSlot) * max);

	for (Entry *entry = window->unsaved.head; entry != NULL; entry = entry->next_unsaved)
	{
		slots[n].hash = entry->group.hash;
		slots[n++].entry = entry;
	}
	sort_by_hash(slots, n);
	for (int64 i = 0; i < n; i++)
	{
		bool is_stored = (slots[i].entry->group.flags & ENTRY_STORED) != 0;
		bool is_gone = (slots[i].entry->group.flags & ENTRY_GONE) != 0;

		if (i == 0 || slots[i].hash != slots[i - 1].hash)
			save_bucket(saver, window, slots[i].hash);
		if (is_stored && is_gone)
			count_stored(saver->table, window, -1);
		else if (!is_stored && !is_gone)
			count_stored(saver->table, window, 1);
	}
	pfree(slots);
}

/* Save what changed, and forget all groups: others may change them after the commit. */
void
shared_save(GroupTable *table)
{
	StoredSaver *saver = stored_saver_begin(table);

	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->unsaved.head != NULL)
			save_window(saver, table->windows[i]);
	stored_saver_end(saver);
	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->nentries > 0)
			window_empty(table, table->windows[i]);
	table->refreshed = false;
}

/* ------------------------------------------------------------------ reading */

/* A bucket into a window. */
static void
read_stored(GroupTable *table, Window *window, uint64 hash, const bytea *state, uint8 flags)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	StringInfoData in;

	in.data = VARDATA_ANY(unconstify(bytea *, state));
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(state);
	in.cursor = 0;
	record_check_header(table, &in);
	(void) bucket_read(table, window, hash, &in, flags);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

/* Bring buckets into memory that are not there; "wanted" is sorted and holds each once. */
void
shared_fetch(GroupTable *table, const Wanted *wanted, int64 nwanted)
{
	MemoryContext context =
		AllocSetContextCreate(table->context, "velo stored groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int64 done = 0; done < nwanted; done += SAVE_GROUPS)
	{
		int n = Min(nwanted - done, SAVE_GROUPS);
		bytea **keys = palloc(sizeof(bytea *) * n);
		ListCell *cell;

		for (int i = 0; i < n; i++)
			keys[i] = bucket_key(wanted[done + i].window, wanted[done + i].hash);
		foreach (cell, stored_groups_fetch(table->query, keys, n))
		{
			StoredGroup *stored = lfirst(cell);
			TimestampTz start;
			uint64 hash;

			stored_read_key(stored->key, &start, &hash);
			read_stored(table, window_get(table, start), hash, stored->state, ENTRY_STORED);
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ------------------------------------------------------------------ closing */

typedef struct TakeState
{
	GroupTable *table;
	Window *window;
} TakeState;

/* A StoredGroupReader: a bucket of a window that closes. */
static void
take_bucket(const StoredGroup *stored, void *arg)
{
	TakeState *state = arg;
	TimestampTz start;
	uint64 hash;

	stored_read_key(stored->key, &start, &hash);
	/* what memory has is newer, and was taken before */
	if (!in_memory(state->window, hash, true))
		read_stored(state->table, state->window->taken, hash, stored->state, ENTRY_UNSAVED);
}

/* The buckets of a window's next slice, which ends at hash "to", into window->taken. */
void
shared_take_slice(GroupTable *table, Window *window, uint64 to)
{
	TakeState state = {table, window};

	/* the bounds are not in table->temp, which take_bucket() empties while the scan still needs them */
	stored_groups_scan(table->query, bucket_key(window->start, window->slice_from),
					   end_key(window->start, to), take_bucket, &state);
}

void
shared_delete_slice(GroupTable *table, Window *window, uint64 to)
{
	stored_groups_delete_range(table->query, bucket_key(window->start, window->slice_from),
							   end_key(window->start, to));
}
