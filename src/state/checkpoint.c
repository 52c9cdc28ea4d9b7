/*
 * checkpoint.c
 *		The log that makes the groups of one pipeline durable.
 *
 * Each checkpoint appends a chunk (or some, if it is much) of records: the groups that changed, and of their kept rows
 * only the new ones.  The latest record of each thing is live, which memory keeps track of: entries and row segments
 * know their chunk, chunks count what is live in them.  A chunk without anything live is deleted.  When the log is much
 * longer than what is live in it, its oldest chunks are read and what is live there is written anew: a bounded amount
 * of work for each commit, proportional to what it appends, and never a stop.
 *
 * A group or window that leaves the table while older records of it stand in the log is taken back by a record of its
 * own; of the groups of a window that closes one says it for all of them up to some key.  Such a record is needed as
 * long as older chunks exist.  As compaction goes from the oldest chunk on, it is enough to keep a chunk with such
 * records until it is the oldest.
 *
 * All of this runs in the transaction that commits it; if that fails, the table is destroyed with its bookkeeping.
 */
#include "state/group_table.h"

#include "catalog/velo_catalog.h"
#include "miscadmin.h"

#define CHUNK_TARGET (256 * 1024)
/* garbage that is not worth the trouble */
#define LOG_SLACK (1024 * 1024)
#define MAX_SMALL_CHUNKS 256
/* buckets in a record of groups that have moved */
#define MOVED_AT_ONCE 8192

#define RECORD_GROUP 'G'  /* name, state */
#define RECORD_ROWS 'R'   /* name, position, length, rows */
#define RECORD_FORGET 'F' /* name */
#define RECORD_FORGET_MOVED                                                                        \
	'M' /* start, number, hashes: the groups of that window that have them */
#define RECORD_FORGET_THROUGH 'T' /* name: the groups of its window up to it, by keys */
#define RECORD_FORGET_WINDOW 'W'  /* start */

void
log_init(GroupTable *table)
{
	dlist_init(&table->chunks);
	initStringInfo(&table->buffer);
	table->next_seq = 1;
}

/* ------------------------------------------------------------------ writing */

static LogChunk *
add_chunk(GroupTable *table, int64 seq)
{
	LogChunk *chunk = MemoryContextAllocZero(table->context, sizeof(LogChunk));

	chunk->seq = seq;
	dlist_push_tail(&table->chunks, &chunk->node);
	table->nchunks++;
	return chunk;
}

static void
flush(GroupTable *table)
{
	LogChunk *chunk = table->open_chunk;

	if (chunk == NULL)
		return;
	state_chunk_append(table->query, table->pipeline, chunk->seq, table->buffer.data,
					   table->buffer.len);
	chunk->bytes = table->buffer.len;
	table->log_bytes += chunk->bytes;
	table->open_chunk = NULL;
	resetStringInfo(&table->buffer);
	/* a group of unusual size should not be remembered for ever */
	if (table->buffer.maxlen > 4 * CHUNK_TARGET)
	{
		pfree(table->buffer.data);
		table->buffer.data = MemoryContextAlloc(table->context, CHUNK_TARGET);
		table->buffer.maxlen = CHUNK_TARGET;
		resetStringInfo(&table->buffer);
	}
}

/* Begin a record; returns where. */
static int
begin_record(GroupTable *table, char kind)
{
	int start;

	if (table->buffer.len >= CHUNK_TARGET)
		flush(table);
	if (table->open_chunk == NULL)
	{
		table->open_chunk = add_chunk(table, table->next_seq++);
		record_write_header(table, &table->buffer);
	}
	start = table->buffer.len;
	appendStringInfoCharMacro(&table->buffer, kind);
	return start;
}

static void
set_place(GroupTable *table, LogPlace *place, LogChunk *chunk, uint32 bytes)
{
	place->chunk = chunk;
	place->bytes = bytes;
	chunk->live++;
	table->live_bytes += bytes;
}

static void
release_place(GroupTable *table, LogPlace *place)
{
	if (place->chunk == NULL)
		return;
	place->chunk->live--;
	table->live_bytes -= place->bytes;
	place->chunk = NULL;
}

static void
release_entry(GroupTable *table, Entry *entry)
{
	release_place(table, &entry->place);
	for (int i = 0; entry->rows != NULL && i < entry->rows->nsegments; i++)
		release_place(table, &entry->rows->segments[i].place);
}

/* A group has left the table. */
void
log_forget(GroupTable *table, Entry *entry)
{
	if (entry->place.chunk == NULL)
		return;
	release_entry(table, entry);
	begin_record(table, RECORD_FORGET);
	record_write_name(table, entry, &table->buffer);
	table->open_chunk->forgets = true;
}

/* Groups of a window, whole buckets sorted by hash, have moved to the stored ones. */
void
log_forget_moved(GroupTable *table, Window *window, const HashSlot *slots, int64 n)
{
	uint64 *hashes = palloc(sizeof(uint64) * MOVED_AT_ONCE);
	uint32 count = 0;

	for (int64 i = 0; i < n; i++)
	{
		bool is_logged = slots[i].entry->place.chunk != NULL;

		release_entry(table, slots[i].entry);
		if (is_logged && (count == 0 || hashes[count - 1] != slots[i].hash))
			hashes[count++] = slots[i].hash;
		if (count == 0 || (count < MOVED_AT_ONCE && i + 1 < n))
			continue;
		begin_record(table, RECORD_FORGET_MOVED);
		appendBinaryStringInfo(&table->buffer, (char *) &window->start, sizeof(window->start));
		appendBinaryStringInfo(&table->buffer, (char *) &count, sizeof(count));
		appendBinaryStringInfo(&table->buffer, (char *) hashes, sizeof(uint64) * count);
		table->open_chunk->forgets = true;
		count = 0;
	}
	pfree(hashes);
}

/*
 * The next groups of a window that closes have left the table, in the order of their keys.  None comes back, so what is
 * saved of the window from now on is of later ones.
 */
void
log_forget_through(GroupTable *table, Window *window, StateGroup **groups, int n)
{
	Size live = table->live_bytes;

	if (!window->logged)
		return;
	for (int i = 0; i < n; i++)
		release_entry(table, (Entry *) groups[i]);
	table->leaving_bytes += live - table->live_bytes;
	begin_record(table, RECORD_FORGET_THROUGH);
	record_write_name(table, (Entry *) groups[n - 1], &table->buffer);
	table->open_chunk->forgets = true;
}

/* A window is about to leave the table with all that is still in it. */
void
log_forget_window(GroupTable *table, Window *window)
{
	if (!window->logged)
		return;
	for (uint64 i = 0; i <= window->mask; i++)
		if (window->slots[i].entry != NULL)
			release_entry(table, window->slots[i].entry);
	begin_record(table, RECORD_FORGET_WINDOW);
	appendBinaryStringInfo(&table->buffer, (char *) &window->start, sizeof(window->start));
	table->open_chunk->forgets = true;
	table->leaving_bytes = 0;
	window->logged = false;
}

static RowSegment *
add_segment(Entry *entry, Size from, Size to)
{
	RowList *list = entry->rows;
	RowSegment *segment;

	if (list->nsegments == list->max_segments)
	{
		list->max_segments = Max(4, list->max_segments * 2);
		if (list->segments == NULL)
			list->segments = MemoryContextAlloc(entry->window->context->ecxt_per_tuple_memory,
												sizeof(RowSegment) * list->max_segments);
		else
			list->segments = repalloc_huge(list->segments, sizeof(RowSegment) * list->max_segments);
	}
	segment = &list->segments[list->nsegments++];
	segment->from = from;
	segment->to = to;
	segment->place.chunk = NULL;
	return segment;
}

static void
write_rows(GroupTable *table, Entry *entry, Size from, Size end)
{
	while (from < end)
	{
		Size to = collected_cut(entry->rows, from, end, CHUNK_TARGET);
		RowSegment *segment = add_segment(entry, from, to);
		int start = begin_record(table, RECORD_ROWS);
		uint64 position = from;
		uint32 len = to - from;

		record_write_name(table, entry, &table->buffer);
		appendBinaryStringInfo(&table->buffer, (char *) &position, sizeof(position));
		appendBinaryStringInfo(&table->buffer, (char *) &len, sizeof(len));
		collected_write(entry->rows, from, to, &table->buffer);
		set_place(table, &segment->place, table->open_chunk, table->buffer.len - start);
		from = to;
	}
}

/* Write the rows of a group that stand in no segment, or in one that compaction wants anew. */
static void
save_rows(GroupTable *table, Entry *entry)
{
	RowList *list = entry->rows;
	RowSegment *old = list->segments;
	int nold = list->nsegments;

	if (list->resave)
	{
		list->segments = NULL;
		list->nsegments = list->max_segments = 0;
		for (int i = 0; i < nold; i++)
		{
			Size from = old[i].from;

			if (old[i].place.chunk != NULL)
			{
				*add_segment(entry, from, old[i].to) = old[i];
				continue;
			}
			while (i + 1 < nold && old[i + 1].place.chunk == NULL)
				i++;
			write_rows(table, entry, from, i + 1 < nold ? old[i].to : list->end);
		}
		pfree(old);
		list->resave = false;
	}
	write_rows(table, entry, list->nsegments > 0 ? list->segments[list->nsegments - 1].to : 0,
			   list->end);
}

static void
save_entry(GroupTable *table, Entry *entry)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	int start = begin_record(table, RECORD_GROUP);

	record_write_name(table, entry, &table->buffer);
	record_write_state(table, entry, &table->buffer);
	release_place(table, &entry->place);
	set_place(table, &entry->place, table->open_chunk, table->buffer.len - start);
	if (entry->rows != NULL)
		save_rows(table, entry);
	entry->window->logged = true;
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

static void
save_unsaved(GroupTable *table)
{
	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];
		Entry *next;

		for (Entry *entry = window->unsaved.head; entry != NULL; entry = next)
		{
			next = entry->next_unsaved;
			entry->next_unsaved = NULL;
			entry->group.flags &= ~ENTRY_UNSAVED;
			if ((entry->group.flags & ENTRY_GONE) == 0)
				save_entry(table, entry);
		}
		window->unsaved.head = window->unsaved.tail = NULL;
	}
}

/* ------------------------------------------------------------------ compaction */

/* The entry whose name comes next in a record, if the table has it. */
static Entry *
read_entry(GroupTable *table, StringInfo in)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	Window *window = window_find(table, record_read_name(table, in));
	Entry *entry = NULL;

	if (window != NULL)
		entry = entry_find(table, window, keys_hash(table, table->probe, table->probe_nulls),
						   table->probe, table->probe_nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
	return entry;
}

static void
resave_segment(GroupTable *table, Entry *entry, const LogChunk *chunk, Size from)
{
	RowList *list = entry->rows;
	int low = 0;
	int high = list->nsegments;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (list->segments[middle].from < from)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < list->nsegments && list->segments[low].from == from &&
		list->segments[low].place.chunk == chunk)
	{
		release_place(table, &list->segments[low].place);
		list->resave = true;
		entry_unsaved(entry);
	}
}

/* Make what is live in a chunk unsaved, so that it can be deleted once that is saved. */
static void
empty_chunk(GroupTable *table, LogChunk *chunk)
{
	bytea *data = state_chunk_read(table->query, table->pipeline, chunk->seq);
	StringInfoData in;

	in.data = VARDATA_ANY(data);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(data);
	in.cursor = 0;
	record_check_header(table, &in);
	while (in.cursor < in.len)
	{
		char kind = *bytes_skip(&in, 1);
		Entry *entry;
		uint64 position;
		uint32 len;

		switch (kind)
		{
			case RECORD_GROUP:
				entry = read_entry(table, &in);
				bytes_read(&in, &len, sizeof(len));
				bytes_skip(&in, len);
				if (entry != NULL && entry->place.chunk == chunk)
					entry_unsaved(entry);
				break;
			case RECORD_ROWS:
				entry = read_entry(table, &in);
				bytes_read(&in, &position, sizeof(position));
				bytes_read(&in, &len, sizeof(len));
				bytes_skip(&in, len);
				if (entry != NULL && entry->rows != NULL)
					resave_segment(table, entry, chunk, position);
				break;
			case RECORD_FORGET:
			case RECORD_FORGET_THROUGH:
				read_entry(table, &in);
				break;
			case RECORD_FORGET_MOVED:
				bytes_skip(&in, sizeof(TimestampTz));
				bytes_read(&in, &len, sizeof(len));
				bytes_skip(&in, sizeof(uint64) * (Size) len);
				break;
			case RECORD_FORGET_WINDOW:
				bytes_skip(&in, sizeof(TimestampTz));
				break;
			default:
				record_damaged();
		}
	}
	pfree(data);
}

static bool
log_too_long(const GroupTable *table)
{
	/* chunks that a window leaves group by group are soon gone as a whole */
	Size live = table->live_bytes + table->leaving_bytes;

	return table->log_bytes > 2 * live + LOG_SLACK ||
		   (Size) table->nchunks > MAX_SMALL_CHUNKS + 4 * (live / CHUNK_TARGET);
}

static void
delete_dead_chunks(GroupTable *table)
{
	int64 *seqs = NULL;
	int nseqs = 0;
	dlist_mutable_iter iter;

	dlist_foreach_modify (iter, &table->chunks)
	{
		LogChunk *chunk = dlist_container(LogChunk, node, iter.cur);

		if (chunk->live > 0 || (chunk->forgets && dlist_has_prev(&table->chunks, iter.cur)))
			continue;
		if (seqs == NULL)
			seqs = palloc(sizeof(int64) * table->nchunks);
		seqs[nseqs++] = chunk->seq;
		table->log_bytes -= chunk->bytes;
		table->nchunks--;
		dlist_delete(&chunk->node);
		pfree(chunk);
	}
	if (nseqs > 0)
		state_chunk_delete(table->query, table->pipeline, seqs, nseqs);
}

/* Delete the whole log. */
void
log_delete(GroupTable *table)
{
	int64 *seqs = palloc(sizeof(int64) * Max(table->nchunks, 1));
	int nseqs = 0;
	dlist_iter iter;

	dlist_foreach (iter, &table->chunks)
		seqs[nseqs++] = dlist_container(LogChunk, node, iter.cur)->seq;
	state_chunk_delete(table->query, table->pipeline, seqs, nseqs);
	pfree(seqs);
}

/* Append what changed since the last checkpoint, and compact; returns how many bytes were appended for that. */
Size
log_checkpoint(GroupTable *table)
{
	Size before = table->log_bytes;
	Size appended;
	Size budget;

	save_unsaved(table);
	flush(table);
	appended = table->log_bytes - before;
	delete_dead_chunks(table);

	budget = CHUNK_TARGET + 2 * (table->log_bytes > before ? table->log_bytes - before : 0);
	while (log_too_long(table))
	{
		LogChunk *oldest = dlist_head_element(LogChunk, node, &table->chunks);
		Size oldest_bytes = oldest->bytes;

		/* written just now: nothing older is left to compact */
		if (oldest == table->open_chunk)
			break;
		VELO_INJECTION_POINT("before-compaction");
		empty_chunk(table, oldest);
		VELO_INJECTION_POINT("in-compaction");
		save_unsaved(table);
		delete_dead_chunks(table);
		VELO_INJECTION_POINT("after-compaction");
		if (oldest_bytes >= budget)
			break;
		budget -= oldest_bytes;
	}
	flush(table);
	return appended;
}

/* ------------------------------------------------------------------ loading */

/* Rows found in the log, to be put in order when all of it was read. */
typedef struct LoadedRows
{
	Entry *entry;
	Size from;
	const char *data;
	uint32 len;
	LogPlace place; /* not yet counted */
} LoadedRows;

/* The latest state of a group, and what it belongs to. */
typedef struct LoadedState
{
	Entry *entry;
	const char *bytes; /* NULL: none so far */
} LoadedState;

/*
 * The log is read in order, later records going before earlier ones.  Only names are looked at then: states and rows
 * are pointers into copies of the chunks until it is clear which are the latest.  Meanwhile StateGroup.touched is an
 * index into states.
 */
typedef struct Loader
{
	GroupTable *table;
	MemoryContext context;
	LoadedState *states;
	uint32 nstates;
	uint32 max_states;
	LoadedRows *rows;
	uint64 nrows;
	uint64 max_rows;
} Loader;

static void *
grow(Loader *loader, void *array, Size size)
{
	if (array == NULL)
		return MemoryContextAllocHuge(loader->context, size);
	return repalloc_huge(array, size);
}

/* The entry that a record is about; without "make" NULL if there is none. */
static Entry *
load_entry(Loader *loader, StringInfo in, bool make)
{
	GroupTable *table = loader->table;
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	Window *window = window_get(table, record_read_name(table, in));
	uint64 hash = keys_hash(table, table->probe, table->probe_nulls);
	Entry *entry = entry_find(table, window, hash, table->probe, table->probe_nulls);

	if (entry == NULL && make)
	{
		entry = entry_create(table, window, hash, table->probe, table->probe_nulls);
		if (loader->nstates == loader->max_states)
		{
			loader->max_states = Max(1024, loader->max_states * 2);
			loader->states = grow(loader, loader->states, sizeof(LoadedState) * loader->max_states);
		}
		entry->group.touched = loader->nstates;
		loader->states[loader->nstates].entry = entry;
		loader->states[loader->nstates++].bytes = NULL;
		window->logged = true;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
	return entry;
}

static void
load_rows(Loader *loader, Entry *entry, LogChunk *chunk, uint64 from, const char *data, uint32 len,
		  uint32 bytes)
{
	LoadedRows *rows;

	if (loader->nrows == loader->max_rows)
	{
		loader->max_rows = Max(1024, loader->max_rows * 2);
		loader->rows = grow(loader, loader->rows, sizeof(LoadedRows) * loader->max_rows);
	}
	rows = &loader->rows[loader->nrows++];
	rows->entry = entry;
	rows->from = from;
	rows->data = data;
	rows->len = len;
	rows->place.chunk = chunk;
	rows->place.bytes = bytes;
}

static void
unload(GroupTable *table, Entry *entry)
{
	release_place(table, &entry->place);
	entry->group.flags |= ENTRY_GONE;
	entry->window->ngone++;
}

/* Unload the groups of buckets that have moved to the stored ones. */
static void
unload_moved(GroupTable *table, StringInfo in)
{
	TimestampTz start;
	uint32 n;
	Window *window;

	bytes_read(in, &start, sizeof(start));
	bytes_read(in, &n, sizeof(n));
	window = window_find(table, start);
	for (uint32 k = 0; k < n; k++)
	{
		uint64 hash;

		bytes_read(in, &hash, sizeof(hash));
		if (window == NULL)
			continue;
		for (uint64 i = hash & window->mask; window->slots[i].entry != NULL;
			 i = (i + 1) & window->mask)
			if (window->slots[i].hash == hash &&
				(window->slots[i].entry->group.flags & ENTRY_GONE) == 0)
				unload(table, window->slots[i].entry);
	}
}

static void
unload_window(GroupTable *table, TimestampTz start)
{
	Window *window = window_find(table, start);

	if (window == NULL)
		return;
	for (uint64 i = 0; i <= window->mask; i++)
	{
		Entry *entry = window->slots[i].entry;

		if (entry != NULL && (entry->group.flags & ENTRY_GONE) == 0)
			unload(table, entry);
	}
	window->left_through = NULL;
}

/* Note how far the closing of a window had come; a later record of the same goes before it. */
static void
load_left_through(GroupTable *table, StringInfo in)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	Window *window = window_find(table, record_read_name(table, in));

	if (window != NULL)
		window->left_through = entry_alloc(table, window, 0, table->probe, table->probe_nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

/* Unload the groups that have left a window which was closing. */
static void
unload_left(GroupTable *table, Window *window)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);

	keys_order_init(table);
	for (uint64 i = 0; i <= window->mask; i++)
	{
		Entry *entry = window->slots[i].entry;

		if (entry != NULL && (entry->group.flags & ENTRY_GONE) == 0 &&
			keys_compare(table, entry, window->left_through) <= 0)
			unload(table, entry);
		MemoryContextReset(table->temp);
	}
	window->left_through = NULL;
	MemoryContextSwitchTo(old);
}

/* A StateChunkReader. */
static void
load_chunk(int64 seq, const char *data, Size len, void *arg)
{
	Loader *loader = arg;
	GroupTable *table = loader->table;
	LogChunk *chunk = add_chunk(table, seq);
	StringInfoData in;

	in.data = MemoryContextAllocHuge(loader->context, len);
	memcpy(in.data, data, len);
	in.len = in.maxlen = len;
	in.cursor = 0;
	chunk->bytes = len;
	table->log_bytes += len;
	table->next_seq = seq + 1;

	record_check_header(table, &in);
	while (in.cursor < in.len)
	{
		int start = in.cursor;
		char kind = *bytes_skip(&in, 1);
		Entry *entry;
		TimestampTz window;
		const char *bytes;
		uint64 position;
		uint32 size;

		switch (kind)
		{
			case RECORD_GROUP:
				entry = load_entry(loader, &in, true);
				bytes = in.data + in.cursor;
				bytes_read(&in, &size, sizeof(size));
				bytes_skip(&in, size);
				loader->states[entry->group.touched].bytes = bytes;
				release_place(table, &entry->place);
				set_place(table, &entry->place, chunk, in.cursor - start);
				break;
			case RECORD_ROWS:
				entry = load_entry(loader, &in, true);
				bytes_read(&in, &position, sizeof(position));
				bytes_read(&in, &size, sizeof(size));
				bytes = bytes_skip(&in, size);
				load_rows(loader, entry, chunk, position, bytes, size, in.cursor - start);
				break;
			case RECORD_FORGET:
				chunk->forgets = true;
				entry = load_entry(loader, &in, false);
				if (entry != NULL)
					unload(table, entry);
				break;
			case RECORD_FORGET_THROUGH:
				chunk->forgets = true;
				load_left_through(table, &in);
				break;
			case RECORD_FORGET_MOVED:
				chunk->forgets = true;
				unload_moved(table, &in);
				break;
			case RECORD_FORGET_WINDOW:
				chunk->forgets = true;
				bytes_read(&in, &window, sizeof(window));
				unload_window(table, window);
				break;
			default:
				record_damaged();
		}
	}
}

/* In the order in which the groups were found: by hash, each would be somewhere else in memory. */
static void
load_states(Loader *loader)
{
	GroupTable *table = loader->table;
	MemoryContext old = MemoryContextSwitchTo(table->temp);

	for (uint32 i = 0; i < loader->nstates; i++)
	{
		Entry *entry = loader->states[i].entry;
		const char *bytes = loader->states[i].bytes;
		StringInfoData in;
		uint32 len;

		CHECK_FOR_INTERRUPTS();
		if ((entry->group.flags & ENTRY_GONE) != 0)
			continue;
		if (bytes == NULL)
			record_damaged();
		memcpy(&len, bytes, sizeof(len));
		in.data = unconstify(char *, bytes);
		in.len = in.maxlen = sizeof(len) + len;
		in.cursor = 0;
		record_read_state(table, entry, &in);
		entry->group.touched = 0;
		MemoryContextReset(table->temp);
	}
	MemoryContextSwitchTo(old);
	for (int i = table->nwindows - 1; i >= 0; i--)
		if (table->windows[i]->ngone == table->windows[i]->nentries)
			window_free(table, table->windows[i]);
}

static int
compare_loaded_rows(const void *a, const void *b)
{
	const LoadedRows *left = a;
	const LoadedRows *right = b;

	if (left->entry != right->entry)
		return left->entry < right->entry ? -1 : 1;
	if (left->from != right->from)
		return left->from < right->from ? -1 : 1;
	return 0;
}

static void
load_segments(Loader *loader)
{
	GroupTable *table = loader->table;
	uint64 kept = 0;

	for (uint64 i = 0; i < loader->nrows; i++)
		if ((loader->rows[i].entry->group.flags & ENTRY_GONE) == 0)
			loader->rows[kept++] = loader->rows[i];
	if (kept > 1)
		qsort(loader->rows, kept, sizeof(LoadedRows), compare_loaded_rows);
	for (uint64 i = 0; i < kept; i++)
	{
		LoadedRows *rows = &loader->rows[i];
		Size end = rows->entry->rows == NULL ? 0 : rows->entry->rows->end;
		RowSegment *segment;

		if (rows->from != end)
			record_damaged();
		collected_append(rows->entry, rows->data, rows->len);
		segment = add_segment(rows->entry, end, end + rows->len);
		set_place(table, &segment->place, rows->place.chunk, rows->place.bytes);
	}
}

/* Fill an empty table from the log. */
void
log_load(GroupTable *table)
{
	Loader loader = {0};

	loader.table = table;
	loader.context =
		AllocSetContextCreate(table->context, "velo state log", ALLOCSET_DEFAULT_SIZES);
	state_chunk_scan(table->query, table->pipeline, load_chunk, &loader);
	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->left_through != NULL)
			unload_left(table, table->windows[i]);
	load_segments(&loader);
	load_states(&loader);
	MemoryContextDelete(loader.context);
}
