/*
 * undo.c
 *		Taking back what one record has done to the groups.
 *
 * A transition that throws (overflow of a sum) leaves its group in the middle: earlier transitions of the row have
 * been made, earlier rows and windows of the record have got theirs.  To load the table anew for each such record would
 * be far too dear where they are many.  So apply can be asked to note, before each row, what the groups that it enters
 * are: new, or their transition values as bytes.  Notes are kept until the next record begins.
 *
 * Values that are put back leave the memory of what was there before to its window, as nobody can know what a function
 * that threw has made of it; when that has become much, the windows are moved into new memory.
 */
#include "state/group_table.h"

/* abandoned memory that is not worth the trouble */
#define ABANDONED_SLACK (1024 * 1024)

/* In the table's memory context, which must be the current one. */
void
undo_init(GroupTable *table)
{
	initStringInfo(&table->undo_values);
	table->max_undo_steps = 16;
	table->undo_steps = palloc(sizeof(UndoStep) * table->max_undo_steps);
}

/* What was done before is done. */
void
undo_begin_record(GroupTable *table)
{
	table->nundo_steps = 0;
	resetStringInfo(&table->undo_values);
}

static UndoStep *
add_step(GroupTable *table, Entry *entry)
{
	UndoStep *step;

	if (table->nundo_steps == table->max_undo_steps)
	{
		table->max_undo_steps *= 2;
		table->undo_steps =
			repalloc_huge(table->undo_steps, sizeof(UndoStep) * table->max_undo_steps);
	}
	step = &table->undo_steps[table->nundo_steps++];
	step->entry = entry;
	return step;
}

/* A group was made, and has no transition values yet. */
void
undo_note_made(GroupTable *table, Entry *entry)
{
	add_step(table, entry)->values = -1;
}

/* A group is about to change.  The current memory context takes garbage. */
void
undo_note_change(GroupTable *table, Entry *entry)
{
	int values = table->undo_values.len;
	UndoStep *step;

	/* first what may throw: a step must be whole */
	aggregates_write(table, entry, &table->undo_values);
	step = add_step(table, entry);
	step->values = values;
	step->rows = collected_mark(entry);
}

int
group_table_undo(GroupTable *table, InputRows *rows)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	int first = rows->applied;
	int behind = rows->applied + 1;

	for (int i = table->nundo_steps - 1; i >= 0; i--)
	{
		const UndoStep *step = &table->undo_steps[i];
		StringInfoData in = table->undo_values;

		if (step->values < 0)
		{
			entry_gone(table, step->entry);
			table->abandoned += table->entry_size;
			continue;
		}
		in.cursor = step->values;
		aggregates_read(table, step->entry, &in);
		collected_cut_back(step->entry, &step->rows);
		MemoryContextReset(table->temp);
	}
	table->abandoned += table->undo_values.len;
	undo_begin_record(table);
	MemoryContextSwitchTo(old);

	while (first > 0 && input_rows_same_record(rows, first - 1, first))
		first--;
	while (behind < rows->nrows && input_rows_same_record(rows, behind - 1, behind))
		behind++;
	for (int i = first; i < behind; i++)
		rows->late[i] = rows->created[i] = false;
	rows->applied = -1;
	return behind;
}

/* Before a checkpoint: free what was abandoned, when it has become much. */
void
undo_reclaim(GroupTable *table)
{
	if (table->abandoned < ABANDONED_SLACK ||
		table->abandoned < MemoryContextMemAllocated(table->context, true) / 8)
		return;
	table->abandoned = 0;
	for (int i = 0; i < table->nwindows; i++)
		window_rebuild(table, table->windows[i]);
}
