/*
 * fold.c
 *		One table into another, with the aggregates' own combine functions; kept rows are put together.
 *
 * The pipelines of a merged query aggregate what they read in a transaction into partial groups of their own, in memory
 * alone, and fold those into the shared ones at its end.  And each pipeline of an exclusive query keeps groups of its
 * own: when the query becomes a merged one (the stream's key is not true, or the number of pipelines changes), they are
 * folded into the shared ones once and for all.
 */
#include "state/group_table.h"

#include "catalog/velo_catalog.h"
#include "miscadmin.h"

/* cold groups that are folded at once, about */
#define FOLD_GROUPS 10000

static void
fold_rows(const Entry *from, Entry *into, StringInfo buffer)
{
	if (from->rows == NULL || from->rows->end == 0)
		return;
	resetStringInfo(buffer);
	collected_write(from->rows, 0, from->rows->end, buffer);
	collected_append(into, buffer->data, buffer->len);
}

static void
fold_entry(GroupTable *table, GroupTable *source, Entry *from, StringInfo buffer)
{
	const StateGroup *group = &from->group;
	Window *window;
	Entry *into;

	window = window_get(table, group->window);
	MemoryContextSwitchTo(table->temp);
	into = entry_find(table, window, group->hash, group->keys, group->key_nulls);
	if (into == NULL)
	{
		into = entry_create(table, window, group->hash, group->keys, group->key_nulls);
		resetStringInfo(buffer);
		record_write_state(source, from, buffer);
		buffer->cursor = 0;
		record_read_state(table, into, buffer);
		fold_rows(from, into, buffer);
		if (!group->out)
			entry_changed(into);
	}
	else
	{
		aggregates_combine(table, into, source, from);
		if (table->distinct)
			distinct_fold(table, into, from);
		else
			fold_rows(from, into, buffer);
		into->group.out |= group->out;
		into->group.failed |= group->failed;
		entry_changed(into);
	}
	entry_unsaved(into);
	MemoryContextReset(table->temp);
}

bool
group_state_is_private(Oid query, int pipeline)
{
	return state_chunk_exists(query, pipeline) || !stored_is_empty(query, pipeline);
}

/* The groups of one window of the source. */
static void
fold_window(GroupTable *table, GroupTable *source, const Window *window)
{
	MemoryContext caller = CurrentMemoryContext;
	StringInfoData buffer;

	Assert(!source->shared);
	stored_fetch_like(table, window);
	initStringInfo(&buffer);
	for (uint64 i = 0; i <= window->mask; i++)
	{
		Entry *entry = window->slots[i].entry;

		if (entry != NULL && (entry->group.flags & ENTRY_GONE) == 0)
			fold_entry(table, source, entry, &buffer);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	pfree(buffer.data);
}

/* Some of the cold groups of the source, which they leave; false if there are no more. */
static bool
fold_cold(GroupTable *table, GroupTable *source)
{
	source->nresult = 0;
	for (int w = 0; w < source->nwindows; w++)
	{
		Window *window = source->windows[w];

		if (window->nruns == 0)
			continue;
		stored_take(source, window, FOLD_GROUPS);
		if (window->taken == NULL)
			continue;
		fold_window(table, source, window->taken);
		stored_drop_taken(source, window);
		return true;
	}
	return false;
}

bool
group_table_fold(GroupTable *table, GroupTable *source)
{
	/* those first, while memory tells which copies in runs are stale */
	if (fold_cold(table, source))
		return true;
	for (int w = 0; w < source->nwindows; w++)
	{
		fold_window(table, source, source->windows[w]);
		stored_drop_window(source, source->windows[w]);
	}
	log_delete(source);
	return false;
}

void
group_table_fold_partial(GroupTable *table, GroupTable *source)
{
	for (int w = 0; w < source->nwindows; w++)
		fold_window(table, source, source->windows[w]);
	while (source->nwindows > 0)
		window_free(source, source->windows[source->nwindows - 1]);
}
