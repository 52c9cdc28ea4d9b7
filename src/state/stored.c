/*
 * stored.c
 *		Groups outside of memory: all of a merged query, and the cold ones of a pipeline that is short of memory.
 *
 * The unit is the bucket: all groups of a window with the same hash.  It is in memory as a whole or not at all.  How
 * buckets are stored differs:
 *
 *	stored_shared.c	those of a merged query one by one, for all of its pipelines fetch them and change them
 *	stored_runs.c	those of one pipeline many at once, and never again: what is fetched is as good as gone
 *
 * Here is what both have in common: which windows have stored groups, which of them rows want, and how they leave a
 * window that closes, or all windows.  A window with stored groups has a row of its own, with their number and their runs.
 */
#include "state/stored.h"

#include "miscadmin.h"
#include "port/pg_bswap.h"

/* rows ahead of which is looked what of them is in memory, and what in runs */
#define PREFETCH_ROWS 16
/* the part of the memory for groups that those may take, as bytes, which leave a window together */
#define SLICE_SHARE 4

/* ------------------------------------------------------------------ keys */

static uint64
flip(TimestampTz start)
{
	return pg_hton64((uint64) start ^ (UINT64CONST(1) << 63));
}

bytea *
stored_key(uint32 pipeline, char kind, TimestampTz window, uint64 hash, Size len)
{
	bytea *result = palloc(VARHDRSZ + len);
	StoredKey key;

	key.pipeline = pg_hton32(pipeline);
	key.kind = kind;
	key.window = flip(window);
	key.hash = pg_hton64(hash);
	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), &key, len);
	return result;
}

void
stored_read_key(const bytea *from, TimestampTz *window, uint64 *hash)
{
	StoredKey key = {0};

	memcpy(&key, VARDATA_ANY(from), Min(VARSIZE_ANY_EXHDR(from), sizeof(key)));
	*window = (TimestampTz) (pg_ntoh64(key.window) ^ (UINT64CONST(1) << 63));
	*hash = pg_ntoh64(key.hash);
}

static uint32
key_pipeline(const GroupTable *table)
{
	return table->shared ? SHARED_GROUPS : (uint32) table->pipeline;
}

static bytea *
window_key(const GroupTable *table, TimestampTz window)
{
	return stored_key(key_pipeline(table), KIND_WINDOW, window, 0, offsetof(StoredKey, hash));
}

/* ------------------------------------------------------------------ rows */

StoredSaver *
stored_saver_begin(GroupTable *table)
{
	MemoryContext context =
		AllocSetContextCreate(table->context, "velo groups to store", ALLOCSET_DEFAULT_SIZES);
	StoredSaver *saver = MemoryContextAllocZero(table->context, sizeof(StoredSaver));

	saver->table = table;
	saver->context = context;
	return saver;
}

static void
flush(StoredSaver *saver)
{
	if (saver->nrows > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(saver->context);

		stored_groups_save(saver->table->query, saver->rows, saver->nrows);
		MemoryContextSwitchTo(old);
	}
	saver->nrows = 0;
	saver->bytes = 0;
	MemoryContextReset(saver->context);
}

void
stored_saver_add(StoredSaver *saver, bytea *key, bytea *state)
{
	saver->rows[saver->nrows].key = key;
	saver->rows[saver->nrows].state = state;
	saver->nrows++;
	saver->bytes += state != NULL ? VARSIZE(state) : 0;
	if (saver->nrows == SAVE_GROUPS || saver->bytes >= SAVE_BYTES)
		flush(saver);
}

void
stored_saver_end(StoredSaver *saver)
{
	flush(saver);
	MemoryContextDelete(saver->context);
	pfree(saver);
}

/* ------------------------------------------------------------------ buckets as bytes */

/* Append a group to the bytes of its bucket.  The current memory context takes garbage. */
void
bucket_write(GroupTable *table, Entry *entry, StringInfo out)
{
	record_write_keys(table, entry, out);
	record_write_state(table, entry, out);
	if (keeps_rows(table))
	{
		uint64 rows = entry->rows == NULL ? 0 : entry->rows->end;

		appendBinaryStringInfo(out, (char *) &rows, sizeof(rows));
		if (rows > 0)
			collected_write(entry->rows, 0, rows, out);
	}
}

/*
 * The groups of a bucket, all that "in" has left, into a window, with these flags; returns their number.  The current
 * memory context takes garbage.
 */
int
bucket_read(GroupTable *table, Window *window, uint64 hash, StringInfo in, uint8 flags)
{
	int n = 0;

	while (in->cursor < in->len)
	{
		Entry *entry;
		uint64 rows = 0;

		record_read_keys(table, in);
		entry = entry_create(table, window, hash, table->probe, table->probe_nulls);
		entry->group.flags |= flags;
		record_read_state(table, entry, in);
		if (keeps_rows(table))
			bytes_read(in, &rows, sizeof(rows));
		if (rows > 0)
			collected_append(entry, bytes_skip(in, rows), rows);
		n++;
	}
	return n;
}

/* Does memory have the bucket?  "gone": a bucket of groups that are gone counts, too. */
bool
in_memory(const Window *window, uint64 hash, bool gone)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
		if (window->slots[i].hash == hash &&
			(gone || (window->slots[i].entry->group.flags & ENTRY_GONE) == 0))
			return true;
	return false;
}

/* ------------------------------------------------------------------ windows */

/* So many groups more are stored of a window. */
void
count_stored(GroupTable *table, Window *window, int64 n)
{
	window->nstored += n;
	table->nstored += n;
	window->stored_changed = true;
}

/* A StoredGroupReader: what is known of the stored groups of a window. */
static void
read_window(const StoredGroup *stored, void *arg)
{
	GroupTable *table = arg;
	TimestampTz start;
	uint64 hash;
	StringInfoData in;
	Window *window;

	stored_read_key(stored->key, &start, &hash);
	window = window_get(table, start);
	in.data = VARDATA_ANY(stored->state);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(stored->state);
	in.cursor = 0;
	record_check_header(table, &in);
	bytes_read(&in, &window->nstored, sizeof(window->nstored));
	while (in.cursor < in.len)
	{
		int64 id;
		Run *run;

		bytes_read(&in, &id, sizeof(id));
		run = run_add(table, window, window->nruns, id);
		bytes_read(&in, &run->groups, sizeof(run->groups));
		bytes_read(&in, &run->bytes, sizeof(run->bytes));
		bytes_read(&in, &run->from, sizeof(run->from));
		table->in_runs += run->groups;
	}
	table->nstored += window->nstored;
	window->stored_changed = false;
}

/*
 * Learn which windows have stored groups.  Nobody else can change that between the first time in a transaction and the
 * checkpoint, so it is asked once.
 */
void
stored_refresh(GroupTable *table)
{
	MemoryContext old;
	uint32 pipeline = key_pipeline(table);

	if (table->refreshed)
		return;
	table->refreshed = true;
	table->nstored = 0;
	for (int i = 0; i < table->nwindows; i++)
		table->windows[i]->nstored = 0;
	old = MemoryContextSwitchTo(table->temp);
	stored_groups_scan(table->query, stored_key(pipeline, KIND_WINDOW, 0, 0, KEY_KIND_LEN),
					   stored_key(pipeline, KIND_WINDOW + 1, 0, 0, KEY_KIND_LEN), read_window,
					   table);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
	for (int i = table->nwindows - 1; i >= 0; i--)
		if (table->windows[i]->nstored == 0 && table->windows[i]->nruns == 0 &&
			table->windows[i]->nentries == 0)
			window_free(table, table->windows[i]);
}

/* The row of a window; a window that has nothing stored has none. */
static bytea *
write_window(GroupTable *table, const Window *window)
{
	StringInfoData out;

	if (window->nstored == 0 && window->nruns == 0)
		return NULL;
	initStringInfo(&out);
	appendStringInfoSpaces(&out, VARHDRSZ);
	record_write_header(table, &out);
	appendBinaryStringInfo(&out, (char *) &window->nstored, sizeof(window->nstored));
	for (int i = 0; i < window->nruns; i++)
	{
		const Run *run = window->runs[i];

		appendBinaryStringInfo(&out, (char *) &run->id, sizeof(run->id));
		appendBinaryStringInfo(&out, (char *) &run->groups, sizeof(run->groups));
		appendBinaryStringInfo(&out, (char *) &run->bytes, sizeof(run->bytes));
		appendBinaryStringInfo(&out, (char *) &run->from, sizeof(run->from));
	}
	SET_VARSIZE(out.data, out.len);
	return (bytea *) out.data;
}

/* Save what has changed of that. */
void
stored_save_windows(GroupTable *table)
{
	StoredSaver *saver = NULL;

	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];
		MemoryContext old;

		if (!window->stored_changed)
			continue;
		window->stored_changed = false;
		if (saver == NULL)
			saver = stored_saver_begin(table);
		old = MemoryContextSwitchTo(saver->context);
		stored_saver_add(saver, window_key(table, window->start), write_window(table, window));
		MemoryContextSwitchTo(old);
	}
	if (saver != NULL)
		stored_saver_end(saver);
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

	stored_groups_scan(query, stored_key(pipeline, KIND_WINDOW, 0, 0, KEY_KIND_LEN),
					   stored_key(pipeline, KIND_WINDOW + 1, 0, 0, KEY_KIND_LEN), note_stored,
					   &empty);
	return empty;
}

/* ------------------------------------------------------------------ what rows want */

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
	if (window->nstored == 0 || in_memory(window, hash, false) ||
		(!table->shared && !runs_may_have(window, hash)))
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

/* Bring what is wanted into memory, in the order of windows and hashes. */
static void
fetch_wanted(GroupTable *table, WantedList *list)
{
	if (list->n == 0)
		return;
	settle_wanted(list);
	if (table->shared)
		shared_fetch(table, list->buckets, list->n);
	else
		runs_fetch(table, list->buckets, list->n);
	pfree(list->buckets);
}

/* What want() will look at for a row soon to come, into the processor's cache. */
static inline void
prefetch(const GroupTable *table, const InputRows *rows, int row)
{
	const Window *window = table->last;
	uint64 hash;

	if (window == NULL || row + PREFETCH_ROWS >= rows->nrows)
		return;
	hash = table->hashes[row + PREFETCH_ROWS];
	slot_prefetch(window, hash);
	runs_prefetch(window, hash);
}

/* Bring the groups that these rows will enter into memory, where they are stored. */
void
stored_fetch(GroupTable *table, const InputRows *rows, TimestampTz closed)
{
	WantedList wanted = {0};

	if (table->shared)
		stored_refresh(table);
	else
		runs_learn(table);
	for (int row = 0; row < rows->nrows && table->nstored > 0; row++)
	{
		bool late;
		int n;

		CHECK_FOR_INTERRUPTS();
		prefetch(table, rows, row);
		n = windows_for_row(table, rows, row, closed, &late);
		for (int k = 0; k < n; k++)
			want(table, &wanted, table->entered[k], table->hashes[row]);
	}
	fetch_wanted(table, &wanted);
}

/* The same for the groups that a window of another table has, into this one, which is shared. */
void
stored_fetch_like(GroupTable *table, const Window *like)
{
	WantedList wanted = {0};
	const Window *window;

	Assert(table->shared);
	stored_refresh(table);
	window = window_find(table, like->start);
	for (uint64 i = 0; window != NULL && i <= like->mask; i++)
		if (like->slots[i].entry != NULL)
			want(table, &wanted, window, like->slots[i].hash);
	fetch_wanted(table, &wanted);
}

/* The same for one bucket. */
void
stored_fetch_one(GroupTable *table, TimestampTz start, uint64 hash)
{
	WantedList wanted = {0};
	Window *window;

	Assert(table->shared);
	stored_refresh(table);
	window = window_find(table, start);
	if (window != NULL)
		want(table, &wanted, window, hash);
	fetch_wanted(table, &wanted);
}

/* ------------------------------------------------------------------ closing */

/*
 * Stored groups leave a window that closes by slices of the hash: into how many are those cut that are still there, if
 * one is to have "max" groups at most, about, and not to take too much of the memory?
 */
static uint64
slices_left(const GroupTable *table, const Window *window, int max)
{
	int64 slice_bytes = table->memory_limit / SLICE_SHARE;
	int64 bytes = 0;

	if (!table->hashable)
		return 1;
	for (int i = 0; i < window->nruns; i++)
		bytes += window->runs[i]->bytes;
	return Max(window->nstored / max, bytes / slice_bytes) + 1;
}

/* The last hash of the next slice. */
static uint64
slice_end(const GroupTable *table, const Window *window, int max)
{
	uint64 slices = slices_left(table, window, max);

	return slices == 1 ? PG_UINT64_MAX
					   : window->slice_from + (PG_UINT64_MAX - window->slice_from) / slices;
}

/* Delete the next slice, that of groups included which memory has as well. */
static void
delete_slice(GroupTable *table, Window *window, uint64 to)
{
	if (table->shared)
		shared_delete_slice(table, window, to);
	else
		runs_delete_slice(table, window, to);
	window->stored_changed = true;
	if (to == PG_UINT64_MAX)
		window->stored_left = true;
	else
		window->slice_from = to + 1;
}

/*
 * Take about "max" stored groups of a window that closes, by slices of the hash; into table->result, and into
 * window->taken, a window of their own.  They are not marked unsaved when touched, for they are about to go.
 */
void
stored_take(GroupTable *table, Window *window, int max)
{
	while (!window->stored_left)
	{
		uint64 to = slice_end(table, window, max);
		Window *taken = window->taken = window_copy(table, window);

		if (table->shared)
			shared_take_slice(table, window, to);
		else
			runs_take_slice(table, window, to);
		for (uint64 i = 0; i <= taken->mask; i++)
			if (taken->slots[i].entry != NULL)
				result_add(table, taken->slots[i].entry);
		if (table->nresult > 0)
		{
			window->slice_to = to;
			return;
		}
		window_discard(taken);
		window->taken = NULL;
		delete_slice(table, window, to);
	}
}

/* Delete what stored_take() took. */
void
stored_drop_taken(GroupTable *table, Window *window)
{
	count_stored(table, window, -window->taken->nentries);
	delete_slice(table, window, window->slice_to);
	window_discard(window->taken);
	window->taken = NULL;
}

/*
 * Delete about "max" stored groups of a window that closes, which nobody wants to see.  Returns false when there are no
 * more.
 */
bool
stored_drop_slice(GroupTable *table, Window *window, int max)
{
	uint64 to = slice_end(table, window, max);

	if (window->stored_left)
		return false;
	count_stored(table, window, -(window->nstored / (int64) slices_left(table, window, max)));
	delete_slice(table, window, to);
	return true;
}

/* Delete all stored groups of a window, and what is known of them. */
void
stored_drop_window(GroupTable *table, Window *window)
{
	StoredGroup row = {window_key(table, window->start), NULL};

	/* those that were deleted by slices are not looked for again, which takes long */
	if (!window->stored_left && (window->nstored > 0 || window->nruns > 0))
		delete_slice(table, window, PG_UINT64_MAX);
	stored_groups_save(table->query, &row, 1);
	table->nstored -= window->nstored;
	window->nstored = 0;
}
