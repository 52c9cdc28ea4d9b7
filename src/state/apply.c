/*
 * apply.c
 *		Rows into the groups.
 *
 * First the group of a row is found, or made; the row into the group is an entrance.  When there are enough of those,
 * the transitions are made, each for all of them, which is quicker than all of them for each.
 */
#include "state/group_table.h"

#include "miscadmin.h"

/* how many rows ahead the groups of rows are fetched */
#define PREFETCH_ROWS 8

void
keys_of_row(const GroupTable *table, const InputRows *rows, int row, Datum *keys, bool *nulls)
{
	for (int i = 0; i < table->spec->nkeys; i++)
	{
		const Key *key = &table->keys[i];
		Datum value = rows->values[key->column][row];

		nulls[i] = rows->nulls[key->column][row];
		if (key->typlen == -1 && !nulls[i])
			value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
		keys[i] = value;
	}
}

/*
 * The group that a row is about to enter, made if need be, which "created" says.  The current memory context takes
 * garbage.
 */
Entry *
entry_enter(GroupTable *table, Window *window, uint64 hash, const Datum *keys, const bool *nulls,
			bool undoable, bool *created)
{
	Entry *entry = entry_find(table, window, hash, keys, nulls);

	*created = entry == NULL;
	if (*created)
	{
		entry = entry_create(table, window, hash, keys, nulls);
		if (undoable)
			undo_note_made(table, entry);
		aggregates_begin(table, entry);
	}
	else if (undoable)
		undo_note_change(table, entry);
	entry->group.touched = table->checkpoint;
	entry_changed(entry);
	entry_unsaved(entry);
	return entry;
}

void
entrances_advance(GroupTable *table, InputRows *rows)
{
	int n = table->nentrances;

	CHECK_FOR_INTERRUPTS();
	table->nentrances = 0;
	aggregates_advance(table, table->entrances, n, rows);
	VELO_INJECTION_POINT("in-apply");
	if (!table->collects)
		return;
	for (int i = 0; i < n; i++)
	{
		rows->applied = table->entrances[i].row;
		collected_advance(table, table->entrances[i].entry, rows, rows->applied);
	}
}

void
group_table_prepare(GroupTable *table, InputRows *rows, TimestampTz closed)
{
	rows->applied = -1;
	keys_hash_rows(table, rows);
	if (table->shared || table->nstored > 0)
		stored_fetch(table, rows, closed);
}

/* What the rows soon to come will look for, into the processor's cache. */
static inline void
prefetch(const GroupTable *table, const InputRows *rows, int row)
{
	const Window *window = table->last;

	if (window == NULL || row + 2 * PREFETCH_ROWS >= rows->nrows)
		return;
	window_prefetch(window, table->hashes[row + 2 * PREFETCH_ROWS],
					table->hashes[row + PREFETCH_ROWS]);
}

/* Row by row.  With "undoable" what each record does is noted before it is done. */
static void
apply_rows(GroupTable *table, InputRows *rows, int from, TimestampTz closed, bool undoable)
{
	for (int i = from; i < rows->nrows; i++)
	{
		int n;

		rows->applied = i;
		prefetch(table, rows, i);
		if (undoable && (i == from || !input_rows_same_record(rows, i - 1, i)))
			undo_begin_record(table);
		n = windows_for_row(table, rows, i, closed, &rows->late[i]);
		rows->created[i] = false;
		if (n > 0)
			keys_of_row(table, rows, i, table->probe, table->probe_nulls);
		for (int k = 0; k < n; k++)
		{
			bool created;
			Entry *entry = entry_enter(table, table->entered[k], table->hashes[i], table->probe,
									   table->probe_nulls, undoable, &created);

			rows->created[i] |= created;
			entrance_add(table, entry, i);
		}
		if (!table->temp->isReset)
			MemoryContextReset(table->temp);
		if (undoable || table->nentrances >= ENTRANCES)
			entrances_advance(table, rows);
	}
	entrances_advance(table, rows);
}

void
group_table_apply(GroupTable *table, InputRows *rows, int from, TimestampTz closed, bool undoable)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);

	table->nentrances = 0;
	if (table->max_entered > 1 && !undoable)
		hopping_apply(table, rows, from, closed);
	else
		apply_rows(table, rows, from, closed, undoable);
	rows->applied = -1;
	MemoryContextSwitchTo(old);
}
