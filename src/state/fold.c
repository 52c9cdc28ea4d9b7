/*
 * fold.c
 *		One table into another: the partial groups of pipelines that turn out to share them.
 *
 * Each pipeline of an exclusive query keeps groups of its own.  When it becomes a merged one (the stream's key is not
 * true, or the number of pipelines changes), every such private table is folded into the shared one, with the
 * aggregates' own combine functions; kept rows are put together.
 */
#include "state/group_table.h"

#include "catalog/velo_catalog.h"

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

	stored_fetch_one(table, group->window, group->hash);
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
	}
	else
	{
		aggregates_combine(table, into, source, from);
		into->group.out |= group->out;
		into->group.failed |= group->failed;
		entry_changed(into);
	}
	fold_rows(from, into, buffer);
	entry_unsaved(into);
	MemoryContextReset(table->temp);
}

bool
group_state_is_private(Oid query, int pipeline)
{
	return state_chunk_exists(query, pipeline) || !stored_is_empty(query, pipeline);
}

void
group_table_fold(GroupTable *table, GroupTable *source)
{
	MemoryContext caller = CurrentMemoryContext;
	StringInfoData buffer;

	Assert(!source->shared);
	initStringInfo(&buffer);
	stored_take_all(source);
	for (int w = 0; w < source->nwindows; w++)
	{
		Window *window = source->windows[w];

		for (uint64 i = 0; i <= window->mask; i++)
		{
			Entry *entry = window->slots[i].entry;

			if (entry != NULL && (entry->group.flags & ENTRY_GONE) == 0)
				fold_entry(table, source, entry, &buffer);
		}
	}
	MemoryContextSwitchTo(caller);
	pfree(buffer.data);
	log_delete(source);
}
