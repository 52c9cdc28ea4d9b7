/*
 * stored.c
 *		Groups outside of memory: all of a merged query, and the cold ones of a pipeline that is short of memory.
 *
 * They are stored in buckets: all groups of a window with the same hash.  A bucket's key is the pipeline (or that it is
 * shared), the start of its window and the hash, in an order of bytes that is the order of time.  A window with stored
 * groups has besides, under a key of its own, their number and the greatest of their bins, if the grouping has one: so
 * which windows there are, and what can't be stored, is known without reading the groups.
 *
 * Private groups are at one place only: what is fetched leaves the store at once, in the same transaction.  Shared ones
 * stay there while they are in memory, which is from the first use in a transaction to its checkpoint.  In both cases a
 * bucket is in memory as a whole or not at all.
 */
#include "state/group_table.h"

#include "catalog/velo_catalog.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

#define KIND_COUNT 'c'
#define KIND_GROUPS 'g'

/* what is saved or fetched in one go */
#define SAVE_BYTES (1024 * 1024)
#define SAVE_GROUPS 1000
/* cold groups that are put in order together: the more, the less they are scattered over the index */
#define MOVE_GROUPS 65536
/* stored groups of which the filter learns in one go, more or less */
#define LEARN_GROUPS 1000
/* how many times as long as a look for groups whose bin has passed took, until the next one */
#define LOOK_PAUSE 20

/* ------------------------------------------------------------------ keys */

typedef struct StoredKey
{
	uint32 pipeline; /* all in big-endian */
	char kind;
	uint64 window; /* sign flipped */
	uint64 hash;
} pg_attribute_packed() StoredKey;

static uint64
flip(TimestampTz start)
{
	return pg_hton64((uint64) start ^ (UINT64CONST(1) << 63));
}

/* "len" bytes of the key of a bucket: prefixes serve as bounds of ranges. */
static bytea *
make_key(const GroupTable *table, char kind, TimestampTz window, uint64 hash, Size len)
{
	bytea *result = palloc(VARHDRSZ + len);
	StoredKey key;

	key.pipeline = pg_hton32(table->shared ? PG_UINT32_MAX : (uint32) table->pipeline);
	key.kind = kind;
	key.window = flip(window);
	key.hash = pg_hton64(hash);
	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), &key, len);
	return result;
}

static bytea *
bucket_key(const GroupTable *table, TimestampTz window, uint64 hash)
{
	return make_key(table, KIND_GROUPS, window, hash, sizeof(StoredKey));
}

/* Behind all buckets of a window. */
static bytea *
end_key(const GroupTable *table, TimestampTz window)
{
	Datum last = PointerGetDatum(bucket_key(table, window, PG_UINT64_MAX));

	/* longer than the last key */
	return DatumGetByteaPP(DirectFunctionCall2(byteacat, last, last));
}

static bytea *
count_key(const GroupTable *table, TimestampTz window)
{
	return make_key(table, KIND_COUNT, window, 0, offsetof(StoredKey, hash));
}

static void
read_key(const bytea *from, TimestampTz *window, uint64 *hash)
{
	StoredKey key = {0};

	memcpy(&key, VARDATA_ANY(from), Min(VARSIZE_ANY_EXHDR(from), sizeof(key)));
	*window = (TimestampTz) (pg_ntoh64(key.window) ^ (UINT64CONST(1) << 63));
	*hash = pg_ntoh64(key.hash);
}

/* ------------------------------------------------------------------ saving */

/* Groups on their way into the store. */
typedef struct Saver
{
	GroupTable *table;
	bool absent; /* nothing of what is saved is stored */
	StoredGroup groups[SAVE_GROUPS];
	int ngroups;
	Size bytes;
	int64 moving; /* microseconds that move_groups() took */
	MemoryContext context;
} Saver;

static Saver *
saver_begin(GroupTable *table, bool absent)
{
	MemoryContext context =
		AllocSetContextCreate(table->context, "velo groups to store", ALLOCSET_DEFAULT_SIZES);
	Saver *saver = MemoryContextAllocZero(table->context, sizeof(Saver));

	saver->table = table;
	saver->absent = absent;
	saver->context = context;
	return saver;
}

static void
saver_flush(Saver *saver)
{
	if (saver->ngroups > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(saver->context);

		stored_groups_save(saver->table->query, saver->groups, saver->ngroups, saver->absent);
		MemoryContextSwitchTo(old);
	}
	saver->ngroups = 0;
	saver->bytes = 0;
	MemoryContextReset(saver->context);
}

static void
saver_end(Saver *saver)
{
	saver_flush(saver);
	MemoryContextDelete(saver->context);
	pfree(saver);
}

/* Takes both, which must lie in saver->context; state NULL deletes. */
static void
saver_add(Saver *saver, bytea *key, bytea *state)
{
	saver->groups[saver->ngroups].key = key;
	saver->groups[saver->ngroups].state = state;
	saver->ngroups++;
	saver->bytes += state != NULL ? VARSIZE(state) : 0;
	if (saver->ngroups == SAVE_GROUPS || saver->bytes >= SAVE_BYTES)
		saver_flush(saver);
}

static void
note_stored_bin(const GroupTable *table, Window *window, const Entry *entry)
{
	int key = table->spec->bin_key;

	if (table->spec->bin.kind != WINDOW_NONE && !entry->group.key_nulls[key])
		window->stored_to = Max(window->stored_to, DatumGetTimestampTz(entry->group.keys[key]));
}

/* Save a bucket as it is in memory; without groups it is deleted.  Returns the number of its groups. */
static int
save_bucket(Saver *saver, Window *window, uint64 hash)
{
	GroupTable *table = saver->table;
	MemoryContext old = MemoryContextSwitchTo(saver->context);
	bytea *key = bucket_key(table, window->start, hash);
	bytea *state = NULL;
	StringInfoData out;
	int n = 0;

	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	record_write_header(table, &out);
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
	{
		Entry *entry = window->slots[i].entry;
		uint64 rows = entry->rows == NULL ? 0 : entry->rows->end;

		if (window->slots[i].hash != hash || (entry->group.flags & ENTRY_GONE) != 0)
			continue;
		record_write_name(table, entry, &out);
		record_write_state(table, entry, &out);
		appendBinaryStringInfo(&out, (char *) &rows, sizeof(rows));
		if (rows > 0)
			collected_write(entry->rows, 0, rows, &out);
		note_stored_bin(table, window, entry);
		n++;
	}
	if (n > 0)
	{
		SET_VARSIZE(out.data, out.len);
		state = (bytea *) out.data;
	}
	saver_add(saver, key, state);
	MemoryContextSwitchTo(old);
	return n;
}

/* ------------------------------------------------------------------ reading */

/* Groups of a bucket into a window; returns their number.  The current memory context takes garbage. */
static int
read_bucket(GroupTable *table, Window *window, uint64 hash, const bytea *state, uint8 flags)
{
	StringInfoData in;
	int n = 0;

	in.data = VARDATA_ANY(unconstify(bytea *, state));
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(state);
	in.cursor = 0;
	record_check_header(table, &in);
	while (in.cursor < in.len)
	{
		Entry *entry;
		uint64 rows;

		if (record_read_name(table, &in) != window->start)
			record_damaged();
		entry = entry_create(table, window, hash, table->probe, table->probe_nulls);
		entry->group.flags |= flags;
		record_read_state(table, entry, &in);
		bytes_read(&in, &rows, sizeof(rows));
		if (rows > 0)
			collected_append(entry, bytes_skip(&in, rows), rows);
		n++;
	}
	return n;
}

/* A StoredGroupReader: the count of a window, and its greatest bin. */
static void
read_count(const StoredGroup *stored, void *arg)
{
	GroupTable *table = arg;
	TimestampTz start;
	TimestampTz stored_to;
	uint64 hash;
	int64 count;
	StringInfoData in;
	Window *window;

	in.data = VARDATA_ANY(stored->state);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(stored->state);
	in.cursor = 0;
	record_check_header(table, &in);
	bytes_read(&in, &count, sizeof(count));
	bytes_read(&in, &stored_to, sizeof(stored_to));
	read_key(stored->key, &start, &hash);
	window = window_get(table, start);
	window->nstored = count;
	window->stored_to = stored_to;
	window->learnt = 0;
	table->nstored += count;
}

/*
 * Learn which windows have stored groups.  Nobody else can change that between the first time in a transaction and the
 * checkpoint, so it is asked once.
 */
void
stored_refresh(GroupTable *table)
{
	MemoryContext old;

	if (table->refreshed)
		return;
	table->refreshed = true;
	table->nstored = 0;
	for (int i = 0; i < table->nwindows; i++)
		table->windows[i]->nstored = 0;
	old = MemoryContextSwitchTo(table->temp);
	stored_groups_scan(table->query, make_key(table, KIND_COUNT, 0, 0, offsetof(StoredKey, window)),
					   make_key(table, KIND_COUNT + 1, 0, 0, offsetof(StoredKey, window)),
					   read_count, table);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
	for (int i = table->nwindows - 1; i >= 0; i--)
		if (table->windows[i]->nstored == 0 && table->windows[i]->nentries == 0)
			window_free(table, table->windows[i]);
}

/* A bucket that is wanted in memory. */
typedef struct Wanted
{
	TimestampTz window;
	uint64 hash;
} Wanted;

typedef struct WantedList
{
	Wanted *buckets; /* NULL: none so far */
	int64 n;
	int64 max;
} WantedList;

static int
compare_wanted(const void *a, const void *b)
{
	const Wanted *left = a;
	const Wanted *right = b;

	if (left->window != right->window)
		return left->window < right->window ? -1 : 1;
	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return 0;
}

/* Does memory have the bucket?  "gone": a bucket of groups that are gone counts, too. */
static bool
in_memory(const Window *window, uint64 hash, bool gone)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
		if (window->slots[i].hash == hash &&
			(gone || (window->slots[i].entry->group.flags & ENTRY_GONE) == 0))
			return true;
	return false;
}

static void
count_stored(GroupTable *table, Window *window, int64 n)
{
	window->nstored += n;
	table->nstored += n;
	window->stored_changed = true;
}

/* Bring buckets into memory that are not there; "wanted" is sorted and holds each once. */
static void
fetch(GroupTable *table, const Wanted *wanted, int nwanted)
{
	MemoryContext context =
		AllocSetContextCreate(table->context, "velo stored groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int done = 0; done < nwanted; done += SAVE_GROUPS)
	{
		int n = Min(nwanted - done, SAVE_GROUPS);
		bytea **keys = palloc(sizeof(bytea *) * n);
		ListCell *cell;

		for (int i = 0; i < n; i++)
			keys[i] = bucket_key(table, wanted[done + i].window, wanted[done + i].hash);
		foreach (cell, stored_groups_fetch(table->query, keys, n, !table->shared))
		{
			StoredGroup *stored = lfirst(cell);
			TimestampTz start;
			uint64 hash;
			Window *window;
			int count;

			read_key(stored->key, &start, &hash);
			window = window_get(table, start);
			MemoryContextSwitchTo(table->temp);
			count =
				read_bucket(table, window, hash, stored->state, table->shared ? ENTRY_STORED : 0);
			MemoryContextReset(table->temp);
			if (!table->shared)
			{
				for (uint64 i = hash & window->mask; window->slots[i].entry != NULL;
					 i = (i + 1) & window->mask)
					if (window->slots[i].hash == hash)
						entry_unsaved(window->slots[i].entry);
				count_stored(table, window, -count);
			}
			MemoryContextSwitchTo(context);
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Sort what is wanted and keep each bucket once. */
static void
settle_wanted(WantedList *list)
{
	int64 unique = 0;

	if (list->n > 1)
		qsort(list->buckets, list->n, sizeof(Wanted), compare_wanted);
	for (int64 i = 0; i < list->n; i++)
		if (i == 0 || compare_wanted(&list->buckets[i], &list->buckets[i - 1]) != 0)
			list->buckets[unique++] = list->buckets[i];
	list->n = unique;
}

static void
enlarge_wanted(WantedList *list)
{
	list->max = Max(1024, list->max * 2);
	list->buckets = list->buckets == NULL
						? palloc(sizeof(Wanted) * list->max)
						: repalloc_huge(list->buckets, sizeof(Wanted) * list->max);
}

/* Note that a bucket is wanted, if it is stored and not in memory. */
static void
want(const GroupTable *table, WantedList *list, const Window *window, uint64 hash)
{
	if (window->nstored == 0 || stored_filter_lacks(table, window, hash) ||
		in_memory(window, hash, false))
		return;
	/* rows that enter many windows want the same ones over and over: what is noted must not grow with the rows */
	if (list->n == list->max)
	{
		settle_wanted(list);
		if (list->n > list->max / 2 || list->max == 0)
			enlarge_wanted(list);
	}
	list->buckets[list->n].window = window->start;
	list->buckets[list->n++].hash = hash;
}

/* Bring what is wanted into memory, in the order of the keys. */
static void
fetch_wanted(GroupTable *table, WantedList *list)
{
	if (list->n == 0)
		return;
	settle_wanted(list);
	fetch(table, list->buckets, list->n);
	pfree(list->buckets);
}

/* A StoredGroupReader: a bucket of which the filter didn't know. */
static void
learn_bucket(const StoredGroup *stored, void *arg)
{
	TimestampTz start;
	uint64 hash;

	read_key(stored->key, &start, &hash);
	stored_filter_add(arg, window_find(arg, start), hash);
}

/* Tell the filter of some stored groups of which it doesn't know, for there is always something else to do. */
static void
learn_stored(GroupTable *table)
{
	stored_filter_renew(table);
	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];
		uint64 step;
		uint64 next;
		MemoryContext old;

		if (window->nstored == 0 || window->learnt == PG_UINT64_MAX)
			continue;
		step = PG_UINT64_MAX / (window->nstored / LEARN_GROUPS + 1);
		next = window->learnt < PG_UINT64_MAX - step ? window->learnt + step : PG_UINT64_MAX;
		old = MemoryContextSwitchTo(table->temp);
		stored_groups_scan_keys(table->query, bucket_key(table, window->start, window->learnt),
								next < PG_UINT64_MAX ? bucket_key(table, window->start, next)
													 : end_key(table, window->start),
								learn_bucket, table);
		MemoryContextSwitchTo(old);
		MemoryContextReset(table->temp);
		window->learnt = next;
		return;
	}
}

/* Is the bin of a row later than all that are stored? */
static inline bool
is_beyond_stored(const GroupTable *table, const Window *window, const InputRows *rows, int row)
{
	int column;

	if (table->spec->bin.kind == WINDOW_NONE)
		return false;
	column = table->spec->keys[table->spec->bin_key].column;
	return !rows->nulls[column][row] &&
		   DatumGetTimestampTz(rows->values[column][row]) > window->stored_to;
}

/* Bring the groups that these rows will enter into memory, where they are stored. */
void
stored_fetch(GroupTable *table, const InputRows *rows, TimestampTz closed)
{
	WantedList wanted = {0};

	if (table->shared)
		stored_refresh(table);
	else
		learn_stored(table);
	for (int row = 0; row < rows->nrows && table->nstored > 0; row++)
	{
		bool late;
		int n = windows_for_row(table, rows, row, closed, &late);

		for (int k = 0; k < n; k++)
			if (!is_beyond_stored(table, table->entered[k], rows, row))
				want(table, &wanted, table->entered[k], table->hashes[row]);
	}
	fetch_wanted(table, &wanted);
}

/* Bring the groups that another table has into the memory of this one, where they are stored. */
void
stored_fetch_like(GroupTable *table, const GroupTable *source)
{
	WantedList wanted = {0};

	if (table->shared)
		stored_refresh(table);
	for (int w = 0; w < source->nwindows && table->nstored > 0; w++)
	{
		const Window *like = source->windows[w];
		const Window *window = window_find(table, like->start);

		for (uint64 i = 0; window != NULL && i <= like->mask; i++)
			if (like->slots[i].entry != NULL)
				want(table, &wanted, window, like->slots[i].hash);
	}
	fetch_wanted(table, &wanted);
}

/* The same for one bucket. */
void
stored_fetch_one(GroupTable *table, TimestampTz start, uint64 hash)
{
	Wanted wanted = {start, hash};
	Window *window;

	if (table->shared)
		stored_refresh(table);
	window = window_find(table, start);
	if (window != NULL && window->nstored > 0 && !in_memory(window, hash, false))
		fetch(table, &wanted, 1);
}

/* ------------------------------------------------------------------ closing */

typedef struct TakeState
{
	GroupTable *table;
	Window *window;
	Window *taken;
} TakeState;

/* A StoredGroupReader: a bucket of a window that closes. */
static void
take_bucket(const StoredGroup *stored, void *arg)
{
	TakeState *state = arg;
	GroupTable *table = state->table;
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	TimestampTz start;
	uint64 hash;

	read_key(stored->key, &start, &hash);
	/* what memory has of a merged query is newer, and was taken before */
	if (!(table->shared && in_memory(state->window, hash, true)))
		read_bucket(table, state->taken, hash, stored->state, ENTRY_UNSAVED);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

static uint64
window_slices(const Window *window)
{
	return UINT64CONST(1) << window->slice_bits;
}

/* Before the first slice: make them as long as "max" groups are, about. */
static void
choose_slices(const GroupTable *table, Window *window, int max)
{
	if (window->slice == 0 && window->slice_bits == 0 && table->hashable)
		while ((window->nstored >> window->slice_bits) > max && window->slice_bits < 62)
			window->slice_bits++;
}

/* The key at which a slice of a window's buckets begins, or behind all slices. */
static bytea *
slice_start(const GroupTable *table, const Window *window, uint64 slice)
{
	if (slice == 0)
		return bucket_key(table, window->start, 0);
	if (slice < window_slices(window))
		return bucket_key(table, window->start, slice << (64 - window->slice_bits));
	return end_key(table, window->start);
}

/* Delete the next slice, that of groups included which memory has as well. */
static void
delete_slice(GroupTable *table, Window *window)
{
	stored_groups_delete_range(table->query, slice_start(table, window, window->slice),
							   slice_start(table, window, window->slice + 1));
	window->slice++;
}

/*
 * Take about "max" stored groups of a window that closes, by slices of the hash; into table->result, and into
 * window->taken, a window of their own.  They are not marked unsaved when touched, for they are about to go.
 */
void
stored_take(GroupTable *table, Window *window, int max)
{
	choose_slices(table, window, max);
	while (window->slice < window_slices(window))
	{
		TakeState state = {table, window, window_copy(table, window)};

		/* the bounds are not in table->temp, which take_bucket() empties while the scan still needs them */
		stored_groups_scan(table->query, slice_start(table, window, window->slice),
						   slice_start(table, window, window->slice + 1), take_bucket, &state);
		for (uint64 i = 0; i <= state.taken->mask; i++)
			if (state.taken->slots[i].entry != NULL)
				result_add(table, state.taken->slots[i].entry);
		if (table->nresult > 0)
		{
			window->taken = state.taken;
			return;
		}
		window_discard(state.taken);
		delete_slice(table, window);
	}
}

/* Delete what stored_take() took. */
void
stored_drop_taken(GroupTable *table, Window *window)
{
	delete_slice(table, window);
	count_stored(table, window, -window->taken->nentries);
	window_discard(window->taken);
	window->taken = NULL;
}

/*
 * Delete about "max" stored groups of a window that closes, which nobody wants to see.  Their count stays as it is
 * until the window goes.  Returns false when there are no more.
 */
bool
stored_drop_slice(GroupTable *table, Window *window, int max)
{
	choose_slices(table, window, max);
	if (window->slice == window_slices(window))
		return false;
	delete_slice(table, window);
	return true;
}

/* Delete all stored groups of a window. */
void
stored_drop_window(GroupTable *table, Window *window)
{
	StoredGroup count = {count_key(table, window->start), NULL};

	/* those that were deleted by slices are not looked for again, which takes long */
	if (window->nstored > 0 && window->slice < window_slices(window))
		stored_groups_delete_range(table->query, slice_start(table, window, window->slice),
								   slice_start(table, window, window_slices(window)));
	stored_groups_save(table->query, &count, 1, false);
	table->nstored -= window->nstored;
	window->nstored = 0;
}

/* ------------------------------------------------------------------ checkpoints */

static int
compare_slots(const void *a, const void *b)
{
	const HashSlot *left = a;
	const HashSlot *right = b;

	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return 0;
}

/* Save the buckets of a window that changed, in the order of their keys. */
static void
save_window(Saver *saver, Window *window)
{
	int64 n = 0;
	int64 max = window->nentries;
	HashSlot *slots = MemoryContextAllocHuge(saver->table->context, sizeof(HashSlot) * max);

	for (Entry *entry = window->unsaved.head; entry != NULL; entry = entry->next_unsaved)
	{
		slots[n].hash = entry->group.hash;
		slots[n++].entry = entry;
	}
	qsort(slots, n, sizeof(HashSlot), compare_slots);
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

/* Save what changed of a merged query, and forget all groups: others may change them after the commit. */
void
stored_save_shared(GroupTable *table)
{
	Saver *saver = saver_begin(table, false);

	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->unsaved.head != NULL)
			save_window(saver, table->windows[i]);
	saver_end(saver);
	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->nentries > 0)
			window_empty(table, table->windows[i]);
	table->refreshed = false;
}

/* Save how many groups are stored of each window, and their greatest bin. */
void
stored_save_counts(GroupTable *table)
{
	Saver *saver = NULL;

	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];
		MemoryContext old;
		StringInfoData out;

		if (!window->stored_changed)
			continue;
		window->stored_changed = false;
		if (saver == NULL)
			saver = saver_begin(table, false);
		old = MemoryContextSwitchTo(saver->context);
		initStringInfo(&out);
		appendStringInfoSpaces(&out, VARHDRSZ);
		record_write_header(table, &out);
		appendBinaryStringInfo(&out, (char *) &window->nstored, sizeof(window->nstored));
		appendBinaryStringInfo(&out, (char *) &window->stored_to, sizeof(window->stored_to));
		SET_VARSIZE(out.data, out.len);
		saver_add(saver, count_key(table, window->start),
				  window->nstored > 0 ? (bytea *) out.data : NULL);
		MemoryContextSwitchTo(old);
	}
	if (saver != NULL)
		saver_end(saver);
}

/* ------------------------------------------------------------------ cold groups */

#define SAMPLE 1000

static int
compare_ages(const void *a, const void *b)
{
	uint32 left = *(const uint32 *) a;
	uint32 right = *(const uint32 *) b;

	return left < right ? -1 : left > right;
}

/* The checkpoint before which about half of the groups were touched last. */
static uint32
median_age(const GroupTable *table)
{
	uint32 ages[SAMPLE];
	uint64 slots = 0;
	uint64 stride;
	int n = 0;

	for (int i = 0; i < table->nwindows; i++)
		slots += table->windows[i]->mask + 1;
	stride = slots / SAMPLE + 1;
	for (int i = 0; i < table->nwindows; i++)
	{
		const Window *window = table->windows[i];

		for (uint64 slot = 0; slot <= window->mask && n < SAMPLE; slot += stride)
			if (window->slots[slot].entry != NULL)
				ages[n++] = window->slots[slot].entry->group.touched;
	}
	if (n == 0)
		return table->checkpoint;
	qsort(ages, n, sizeof(uint32), compare_ages);
	return ages[n / 2];
}

/* Which groups are cold. */
typedef struct ColdRule
{
	int64 age; /* those touched last before this checkpoint or one before; -1: none for that */
	TimestampTz watermark; /* those whose bin ends by then; DT_NOBEGIN: none for that */
} ColdRule;

static bool
has_passed(const GroupTable *table, const Entry *entry, TimestampTz watermark)
{
	const GroupingSpec *spec = table->spec;

	return watermark != DT_NOBEGIN && !entry->group.key_nulls[spec->bin_key] &&
		   window_end(&spec->bin, DatumGetTimestampTz(entry->group.keys[spec->bin_key])) <=
			   watermark;
}

/* May a bucket leave memory?  Not before what changed in it was taken for emission. */
static bool
is_cold(const GroupTable *table, const Window *window, uint64 hash, const ColdRule *rule)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
	{
		const Entry *entry = window->slots[i].entry;

		if (window->slots[i].hash == hash && (entry->group.flags & ENTRY_GONE) == 0 &&
			((entry->group.touched > rule->age && !has_passed(table, entry, rule->watermark)) ||
			 (table->takes_changed && (entry->group.flags & ENTRY_CHANGED) != 0)))
			return false;
	}
	return true;
}

/* Move the buckets of these groups into the store, in the order of their keys. */
static void
move_groups(Saver *saver, Window *window, HashSlot *cold, int n)
{
	GroupTable *table = saver->table;
	TimestampTz begin = GetCurrentTimestamp();

	qsort(cold, n, sizeof(HashSlot), compare_slots);
	for (int k = 0; k < n; k++)
	{
		uint64 hash = cold[k].hash;

		if (k > 0 && hash == cold[k - 1].hash)
			continue;
		count_stored(table, window, save_bucket(saver, window, hash));
		stored_filter_add(table, window, hash);
		for (uint64 i = hash & window->mask; window->slots[i].entry != NULL;
			 i = (i + 1) & window->mask)
			if (window->slots[i].hash == hash &&
				(window->slots[i].entry->group.flags & ENTRY_GONE) == 0)
				entry_gone(table, window->slots[i].entry);
	}
	saver->moving += GetCurrentTimestamp() - begin;
}

/* Move the cold buckets of a window into the store; true if there were any. */
static bool
move_window(Saver *saver, Window *window, const ColdRule *rule)
{
	GroupTable *table = saver->table;
	HashSlot *cold = MemoryContextAlloc(table->context, sizeof(HashSlot) * MOVE_GROUPS);
	bool moved = false;
	int n = 0;

	for (uint64 slot = 0; slot <= window->mask; slot++)
	{
		Entry *entry = window->slots[slot].entry;

		if (entry == NULL || (entry->group.flags & ENTRY_GONE) != 0 ||
			!is_cold(table, window, window->slots[slot].hash, rule))
			continue;
		cold[n++] = window->slots[slot];
		moved = true;
		if (n < MOVE_GROUPS)
			continue;
		move_groups(saver, window, cold, n);
		n = 0;
	}
	move_groups(saver, window, cold, n);
	pfree(cold);
	return moved;
}

/* The end of the bin that a time falls into. */
static TimestampTz
bin_end(const WindowSpec *bin, TimestampTz time)
{
	TimestampTz start;
	TimestampTz last;

	if (TIMESTAMP_NOT_FINITE(time) || !window_fits(bin, time) ||
		!window_range(bin, time, &start, &last))
		return DT_NOEND;
	return window_end(bin, start);
}

/*
 * Move the groups whose bin the watermark has passed into the store: nothing is likely to change them any more.  They
 * are looked for among all in memory, when the watermark goes from one bin to the next; but not again before much more
 * time has gone than that takes.
 */
void
stored_move_passed(GroupTable *table, TimestampTz watermark)
{
	ColdRule rule = {.age = -1, .watermark = watermark};
	TimestampTz begin;
	Saver *saver;

	if (table->spec->bin.kind == WINDOW_NONE || !table->hashable || watermark == DT_NOBEGIN ||
		watermark < table->passes_at)
		return;
	begin = GetCurrentTimestamp();
	if (begin < table->look_at)
		return;
	saver = saver_begin(table, true);
	for (int i = 0; i < table->nwindows; i++)
		move_window(saver, table->windows[i], &rule);
	table->passes_at = bin_end(&table->spec->bin, watermark);
	table->look_at = begin + LOOK_PAUSE * (GetCurrentTimestamp() - begin - saver->moving);
	saver_end(saver);
	/* moving the others into new memory is worth its while when they are the fewer */
	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->ngone > table->windows[i]->nentries / 2)
			window_rebuild(table, table->windows[i]);
}

/*
 * When the groups take more than half of the pipeline's memory, move about half of them into the store: those that
 * were not touched for longest.
 */
void
stored_move_cold(GroupTable *table)
{
	ColdRule rule = {.watermark = DT_NOBEGIN};
	Saver *saver;
	Size left;

	if (!table->hashable || table->spec->nkeys == 0 ||
		MemoryContextMemAllocated(table->context, true) <= table->move_at)
		return;
	rule.age = median_age(table);
	/* private groups are at one place only */
	saver = saver_begin(table, true);
	for (int i = 0; i < table->nwindows; i++)
		if (move_window(saver, table->windows[i], &rule))
			window_rebuild(table, table->windows[i]);
	saver_end(saver);
	/* where little could be moved, don't try again at once */
	left = MemoryContextMemAllocated(table->context, true);
	table->move_at = Max(table->memory_limit, left + left / 4);
}

/* ------------------------------------------------------------------ leaving */

/* Prefixes of the keys of all that one pipeline (or, as PG_UINT32_MAX, a merged query) has stored. */
static bytea *
pipeline_key(uint32 pipeline, char kind)
{
	Size len = offsetof(StoredKey, window);
	bytea *result = palloc(VARHDRSZ + len);
	StoredKey key = {.pipeline = pg_hton32(pipeline), .kind = kind};

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), &key, len);
	return result;
}

/* A StoredGroupReader: a bucket that nobody has in memory. */
static void
take_stored(const StoredGroup *stored, void *arg)
{
	GroupTable *table = arg;
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	TimestampTz start;
	uint64 hash;

	read_key(stored->key, &start, &hash);
	read_bucket(table, window_get(table, start), hash, stored->state, 0);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

/* Bring all cold groups of a table of one pipeline into memory and delete them from the store. */
void
stored_take_all(GroupTable *table)
{
	bytea *end = pipeline_key(table->pipeline, KIND_GROUPS + 1);

	stored_groups_scan(table->query, pipeline_key(table->pipeline, KIND_GROUPS), end, take_stored,
					   table);
	stored_groups_delete_range(table->query, pipeline_key(table->pipeline, KIND_COUNT), end);
}

/* A StoredGroupReader: there is something. */
static void
note_stored(const StoredGroup *stored, void *arg)
{
	*(bool *) arg = false;
}

/* true if a pipeline of its own has stored nothing */
bool
stored_is_empty(Oid query, int pipeline)
{
	bool empty = true;

	stored_groups_scan(query, pipeline_key(pipeline, KIND_COUNT),
					   pipeline_key(pipeline, KIND_COUNT + 1), note_stored, &empty);
	return empty;
}
