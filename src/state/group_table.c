/*
 * group_table.c
 *		Windows, the groups in them, and the rows into the groups.
 *
 * Each window has memory of its own, in which its groups and all that belongs to them lie; nothing of it is freed
 * before the window is.  A group that is closed or moved out earlier is only marked as gone.
 */
#include "state/group_table.h"

#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"

#define FIRST_SLOTS 16
#define FIRST_ARENA_BLOCK 1024
#define ARENA_BLOCK (64 * 1024)

/* ------------------------------------------------------------------ windows */

/* Is there nothing any more to enter or leave it, by this watermark? */
bool
window_is_closed(const Window *window, TimestampTz watermark)
{
	return window->close <= watermark;
}

static TimestampTz
close_time(const WindowSpec *spec, TimestampTz end)
{
	TimestampTz close;

	if (end >= DT_NOEND || pg_add_s64_overflow(end, spec->grace, &close))
		return DT_NOEND;
	return close;
}

/* Index of the first window that starts at or after "start". */
static int
window_index(const GroupTable *table, TimestampTz start)
{
	int low = 0;
	int high = table->nwindows;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (table->windows[middle]->start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* NULL if there is none. */
Window *
window_find(GroupTable *table, TimestampTz start)
{
	int i;

	if (table->last != NULL && table->last->start == start)
		return table->last;
	i = window_index(table, start);
	if (i == table->nwindows || table->windows[i]->start != start)
		return NULL;
	return table->last = table->windows[i];
}

/* A window's memory, without groups. */
static void
window_init(GroupTable *table, Window *window)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);

	window->context = CreateStandaloneExprContext();
	window->slots = MemoryContextAllocZero(window->context->ecxt_per_tuple_memory,
										   sizeof(HashSlot) * FIRST_SLOTS);
	window->mask = FIRST_SLOTS - 1;
	window->nentries = window->ngone = 0;
	window->arena_left = 0;
	window->arena_next = FIRST_ARENA_BLOCK;
	window->order = NULL;
	window->changed.head = window->changed.tail = NULL;
	window->unsaved.head = window->unsaved.tail = NULL;
	MemoryContextSwitchTo(old);
}

/* The window that starts there, made if need be. */
Window *
window_get(GroupTable *table, TimestampTz start)
{
	const WindowSpec *spec = &table->spec->window;
	Window *window = window_find(table, start);
	int i;

	if (window != NULL)
		return window;
	window = MemoryContextAllocZero(table->context, sizeof(Window));
	window->start = start;
	window->end = spec->kind == WINDOW_NONE ? DT_NOEND : window_end(spec, start);
	window->close = close_time(spec, window->end);
	window_init(table, window);

	if (table->nwindows == table->max_windows)
	{
		table->max_windows *= 2;
		table->windows = repalloc(table->windows, sizeof(Window *) * table->max_windows);
	}
	i = window_index(table, start);
	memmove(&table->windows[i + 1], &table->windows[i], sizeof(Window *) * (table->nwindows - i));
	table->windows[i] = window;
	table->nwindows++;
	return table->last = window;
}

/* A window for stored groups of another one, which the table doesn't know; see window_discard(). */
Window *
window_copy(GroupTable *table, const Window *window)
{
	Window *copy = MemoryContextAllocZero(table->context, sizeof(Window));

	copy->start = window->start;
	copy->end = window->end;
	copy->close = window->close;
	window_init(table, copy);
	return copy;
}

void
window_discard(Window *window)
{
	FreeExprContext(window->context, true);
	pfree(window);
}

/* Let all groups of a window go, with what aggregates registered for this moment. */
void
window_empty(GroupTable *table, Window *window)
{
	FreeExprContext(window->context, true);
	window_init(table, window);
}

void
window_free(GroupTable *table, Window *window)
{
	int i = window_index(table, window->start);

	Assert(table->windows[i] == window);
	table->nwindows--;
	memmove(&table->windows[i], &table->windows[i + 1], sizeof(Window *) * (table->nwindows - i));
	if (table->last == window)
		table->last = NULL;
	window_discard(window);
}

bool
windows_of_row(const GroupTable *table, const InputRows *rows, int row, TimestampTz closed,
			   TimestampTz *first, TimestampTz *last, bool *late)
{
	const WindowSpec *spec = &table->spec->window;
	TimestampTz watermark = Max(rows->watermark[row], closed);

	*late = false;
	/* between windows it is in none, which makes nothing late */
	if (!window_range(spec, rows->time[row], first, last))
		return false;
	while (close_time(spec, window_end(spec, *first)) <= watermark)
	{
		if (*first == *last)
		{
			*late = true;
			return false;
		}
		*first += spec->slide;
	}
	return true;
}

int
windows_for_row(GroupTable *table, const InputRows *rows, int row, TimestampTz closed, bool *late)
{
	const WindowSpec *spec = &table->spec->window;
	Window *window = table->last;
	TimestampTz first;
	TimestampTz last;
	int at;
	int result = 0;

	*late = false;
	if (spec->kind == WINDOW_NONE)
	{
		table->entered[0] = window_get(table, WINDOW_ALL);
		return 1;
	}

	/* where clocks are turned back, date_trunc() may put a time into another window than the one that spans it */
	if (spec->kind == WINDOW_TUMBLING && spec->trunc == NULL && window != NULL &&
		rows->time[row] >= window->start && rows->time[row] < window->end)
	{
		table->entered[0] = window;
		*late = window_is_closed(window, Max(rows->watermark[row], closed));
		return *late ? 0 : 1;
	}
	if (!windows_of_row(table, rows, row, closed, &first, &last, late))
		return 0;
	for (at = window_index(table, first);; at++, first += spec->slide)
	{
		if (at == table->nwindows || table->windows[at]->start != first)
			(void) window_get(table, first);
		table->entered[result++] = table->last = table->windows[at];
		if (first == last)
			return result;
	}
}

/* ------------------------------------------------------------------ entries */

static void
list_append(EntryList *list, Entry *entry, Size link)
{
	if (list->tail == NULL)
		list->head = entry;
	else
		*(Entry **) ((char *) list->tail + link) = entry;
	list->tail = entry;
}

/* The next group_table_take_changed() is to return this group. */
void
entry_changed(Entry *entry)
{
	if (entry->group.flags & ENTRY_CHANGED)
		return;
	entry->group.flags |= ENTRY_CHANGED;
	entry->next_changed = NULL;
	list_append(&entry->window->changed, entry, offsetof(Entry, next_changed));
}

/* The next checkpoint is to write this group. */
void
entry_unsaved(Entry *entry)
{
	if (entry->group.flags & ENTRY_UNSAVED)
		return;
	entry->group.flags |= ENTRY_UNSAVED;
	entry->next_unsaved = NULL;
	list_append(&entry->window->unsaved, entry, offsetof(Entry, next_unsaved));
}

/*
 * The group with these keys, NULL if there is none (or it is gone).  The current memory context takes garbage.
 */
Entry *
entry_find(GroupTable *table, Window *window, uint64 hash, const Datum *keys, const bool *nulls)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
	{
		HashSlot *slot = &window->slots[i];

		if (slot->hash == hash && (slot->entry->group.flags & ENTRY_GONE) == 0 &&
			keys_equal(table, slot->entry->group.keys, slot->entry->group.key_nulls, keys, nulls))
			return slot->entry;
	}
	return NULL;
}

static void
insert(Window *window, uint64 hash, Entry *entry)
{
	uint64 i = hash & window->mask;

	while (window->slots[i].entry != NULL)
		i = (i + 1) & window->mask;
	window->slots[i].hash = hash;
	window->slots[i].entry = entry;
}

static void
enlarge(Window *window)
{
	HashSlot *old = window->slots;
	uint64 nold = window->mask + 1;

	window->slots =
		MemoryContextAllocExtended(window->context->ecxt_per_tuple_memory,
								   sizeof(HashSlot) * nold * 2, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	window->mask = nold * 2 - 1;
	for (uint64 i = 0; i < nold; i++)
		if (old[i].entry != NULL)
			insert(window, old[i].hash, old[i].entry);
	pfree(old);
}

/*
 * Memory for what stays as long as its window: without the allocator's headers and roundings, which would be nearly
 * half of it.
 */
void *
window_alloc(Window *window, Size size)
{
	char *result;

	size = MAXALIGN(size);
	if (size > ARENA_BLOCK / 8)
		return MemoryContextAllocHuge(window->context->ecxt_per_tuple_memory, size);
	if (size > window->arena_left)
	{
		window->arena_left = Max(window->arena_next, size);
		window->arena =
			MemoryContextAlloc(window->context->ecxt_per_tuple_memory, window->arena_left);
		window->arena_next = Min(window->arena_next * 2, ARENA_BLOCK);
	}
	result = window->arena;
	window->arena += size;
	window->arena_left -= size;
	return result;
}

/* A copy of a value that stays as long as its window. */
Datum
window_copy_value(Window *window, Datum value, bool byval, int16 typlen)
{
	Size size;
	void *copy;

	if (byval)
		return value;
	size = datumGetSize(value, false, typlen);
	copy = window_alloc(window, size);
	memcpy(copy, DatumGetPointer(value), size);
	return PointerGetDatum(copy);
}

/* Memory for a group of a window, with its keys, which nobody can find. */
Entry *
entry_alloc(GroupTable *table, Window *window, uint64 hash, const Datum *keys, const bool *nulls)
{
	int nkeys = table->spec->nkeys;
	Entry *entry = window_alloc(window, table->entry_size);

	memset(entry, 0, table->entry_size);
	entry->group.window = window->start;
	entry->group.hash = hash;
	entry->group.keys = (Datum *) ((char *) entry + table->keys_offset);
	entry->group.key_nulls = (bool *) (entry->group.keys + nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		entry->group.key_nulls[i] = nulls[i];
		if (!nulls[i])
			entry->group.keys[i] =
				window_copy_value(window, keys[i], table->keys[i].byval, table->keys[i].typlen);
	}
	entry->window = window;
	return entry;
}

/* A new group of a window, without transition values.  Keys by reference must be detoasted. */
Entry *
entry_create(GroupTable *table, Window *window, uint64 hash, const Datum *keys, const bool *nulls)
{
	Entry *entry = entry_alloc(table, window, hash, keys, nulls);

	if ((uint64) window->nentries >= (window->mask + 1) / 4 * 3)
		enlarge(window);
	insert(window, hash, entry);
	window->nentries++;
	return entry;
}

/* Nobody finds the group any more; its memory goes with the window. */
void
entry_left(Entry *entry)
{
	entry->group.flags |= ENTRY_GONE;
	entry->window->ngone++;
}

/* A group leaves, which the next checkpoint is to know. */
void
entry_gone(GroupTable *table, Entry *entry)
{
	entry_left(entry);
	if (table->shared)
		entry_unsaved(entry);
	else
		log_forget(table, entry);
}

/* At a checkpoint: free the memory of the groups of a window that are gone, by moving the others into new memory. */
void
window_rebuild(GroupTable *table, Window *window)
{
	Window old = *window;
	StringInfoData buffer;

	initStringInfo(&buffer);
	window_init(table, window);
	for (uint64 i = 0; i <= old.mask; i++)
	{
		Entry *from = old.slots[i].entry;
		MemoryContext caller;
		Entry *to;

		CHECK_FOR_INTERRUPTS();
		if (from == NULL || (from->group.flags & ENTRY_GONE) != 0)
			continue;
		to =
			entry_create(table, window, old.slots[i].hash, from->group.keys, from->group.key_nulls);
		caller = MemoryContextSwitchTo(table->temp);
		resetStringInfo(&buffer);
		record_write_state(table, from, &buffer);
		record_read_state(table, to, &buffer);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(table->temp);
		to->place = from->place;
		to->group.touched = from->group.touched;
		if (from->rows != NULL)
			collected_copy(from, to);
		if (from->group.flags & ENTRY_UNSAVED)
			entry_unsaved(to);
	}
	FreeExprContext(old.context, true);
	pfree(buffer.data);
}

/* ------------------------------------------------------------------ the table */

GroupTable *
group_table_create(const GroupingSpec *spec, Oid query, int pipeline, int memory_kb, bool shared)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "velo groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	GroupTable *table = palloc0(sizeof(GroupTable));

	if (spec->window.kind == WINDOW_SESSION)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("session windows are not supported yet")));

	table->spec = spec;
	table->query = query;
	table->pipeline = pipeline;
	table->memory_limit = table->move_at = (Size) memory_kb * 1024 / 2;
	table->passes_at = table->look_at = DT_NOBEGIN;
	table->shared = shared;
	table->context = context;
	table->temp = AllocSetContextCreate(context, "velo groups, temporary", ALLOCSET_DEFAULT_SIZES);

	keys_init(table);
	table->probe = palloc(sizeof(Datum) * Max(spec->nkeys, 1));
	table->probe_nulls = palloc(sizeof(bool) * Max(spec->nkeys, 1));
	aggregates_init(table);
	collected_init(table);
	record_init(table);
	log_init(table);
	undo_init(table);
	table->keys_offset = offsetof(Entry, values) + sizeof(TransValue) * table->ntransitions;
	table->entry_size = table->keys_offset + (sizeof(Datum) + sizeof(bool)) * spec->nkeys;

	table->max_windows = 16;
	table->windows = palloc(sizeof(Window *) * table->max_windows);
	table->max_entered = window_max(&spec->window);
	table->entered = palloc(sizeof(Window *) * table->max_entered);
	table->entrances = palloc(sizeof(Entrance) * Max(ENTRANCES, table->max_entered));
	hopping_init(table);
	MemoryContextSwitchTo(old);
	return table;
}

void
group_table_destroy(GroupTable *table)
{
	MemoryContextDelete(table->context);
}

void
group_table_load(GroupTable *table)
{
	if (!table->shared)
		log_load(table);
	stored_refresh(table);
	/* the query's lock isn't held here: ask again when it is */
	table->refreshed = !table->shared;
}

/* ------------------------------------------------------------------ groups */

StateGroup *
group_table_global(GroupTable *table)
{
	Window *window;
	Entry *entry;

	Assert(table->spec->nkeys == 0 && table->spec->window.kind == WINDOW_NONE);
	if (table->shared)
		stored_fetch_one(table, WINDOW_ALL, 0);
	window = window_get(table, WINDOW_ALL);
	entry = entry_find(table, window, 0, table->probe, table->probe_nulls);
	if (entry == NULL)
	{
		entry = entry_create(table, window, 0, table->probe, table->probe_nulls);
		aggregates_begin(table, entry);
		entry_changed(entry);
		entry_unsaved(entry);
	}
	return &entry->group;
}

void
group_touch(GroupTable *table pg_attribute_unused(), StateGroup *group)
{
	entry_unsaved((Entry *) group);
}

/* ------------------------------------------------------------------ what changed */

/* Append to table->result. */
void
result_add(GroupTable *table, Entry *entry)
{
	if (table->nresult == table->max_result)
	{
		table->max_result = Max(1024, table->max_result * 2);
		if (table->result == NULL)
			table->result =
				MemoryContextAlloc(table->context, sizeof(StateGroup *) * table->max_result);
		else
			table->result = repalloc_huge(table->result, sizeof(StateGroup *) * table->max_result);
	}
	table->result[table->nresult++] = &entry->group;
}

StateGroup **
group_table_take_changed(GroupTable *table, int *ngroups)
{
	table->nresult = 0;
	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];

		for (Entry *entry = window->changed.head; entry != NULL; entry = entry->next_changed)
		{
			entry->group.flags &= ~ENTRY_CHANGED;
			if ((entry->group.flags & ENTRY_GONE) == 0)
				result_add(table, entry);
		}
		window->changed.head = window->changed.tail = NULL;
	}
	*ngroups = table->nresult;
	return table->result;
}

/* ------------------------------------------------------------------ durability */

void
group_table_checkpoint(GroupTable *table, TimestampTz watermark)
{
	for (int i = 0; i < table->nwindows; i++)
		Assert(table->windows[i]->changed.head == NULL);
	if (table->shared)
		shared_save(table);
	else
	{
		stored_move_passed(table, watermark);
		stored_move_cold(table);
		undo_reclaim(table);
		runs_merge(table, log_checkpoint(table));
	}
	stored_save_windows(table);
	table->checkpoint++;
}

void
group_table_stats(GroupTable *table, GroupTableStats *stats)
{
	stats->groups = table->nstored;
	stats->open_windows = table->spec->window.kind != WINDOW_NONE ? table->nwindows : 0;
	stats->state_bytes = table->live_bytes;
	stats->memory_bytes = MemoryContextMemAllocated(table->context, true);
	for (int i = 0; i < table->nwindows; i++)
		stats->groups += table->windows[i]->nentries - table->windows[i]->ngone;
}
