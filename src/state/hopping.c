/*
 * hopping.c
 *		Rows into windows that overlap, one window after the other.
 *
 * A row that enters hundreds of windows finds its group in each of them: row by row, that is a search in as many hash
 * tables, none of which is in the processor's cache any more when the next row comes.  So a stretch of rows is taken
 * through the first window, then through the next, and so on.  The distinct keys of the stretch are numbered before,
 * so that a window is searched for each key, not for each row.  Each group still gets its rows in their order.
 */
#include "state/group_table.h"

#include "common/int.h"
#include "miscadmin.h"

/* the more, the less often all windows come by; the fewer, the less memory */
#define STRETCH_ROWS 8192
#define STRETCH_SLOTS (2 * STRETCH_ROWS)
/* of a stretch, beyond twice those of one row */
#define SPARE_WINDOWS 16
/* how many keys ahead their groups are fetched into the processor's cache */
#define PREFETCH_KEYS 8

typedef struct StretchRow
{
	int row;
	int key;           /* its number */
	TimestampTz first; /* starts of the windows that it enters */
	TimestampTz last;
} StretchRow;

/* The distinct keys of a stretch, with their groups in the window at hand. */
typedef struct StretchKey
{
	uint64 hash;
	int row; /* the first with it */
	int slot;
	int window; /* number of the window that "entry" is of; -1: none */
	Entry *entry;
} StretchKey;

struct Stretch
{
	MemoryContext context; /* for detoasted keys */
	int nrows;
	TimestampTz first; /* of the windows that some row enters */
	TimestampTz last;
	TimestampTz all_first; /* of those that all rows enter */
	TimestampTz all_last;
	StretchRow rows[STRETCH_ROWS];
	int nkeys;
	StretchKey keys[STRETCH_ROWS];
	int slots[STRETCH_SLOTS]; /* numbers of keys, by hash; -1: free */
	Datum *values;            /* [STRETCH_ROWS][nkeys of the grouping] */
	bool *nulls;
};

/* In the table's memory context, which must be the current one. */
void
hopping_init(GroupTable *table)
{
	int nkeys = table->spec->nkeys;
	Stretch *stretch;

	if (table->max_entered == 1)
		return;
	stretch = table->stretch = palloc(sizeof(Stretch));
	stretch->context =
		AllocSetContextCreate(table->context, "velo keys of a stretch", ALLOCSET_DEFAULT_SIZES);
	stretch->nrows = stretch->nkeys = 0;
	for (int i = 0; i < STRETCH_SLOTS; i++)
		stretch->slots[i] = -1;
	stretch->values = palloc(sizeof(Datum) * STRETCH_ROWS * Max(nkeys, 1));
	stretch->nulls = palloc(sizeof(bool) * STRETCH_ROWS * Max(nkeys, 1));
}

static inline Datum *
key_values(const GroupTable *table, int key)
{
	return table->stretch->values + (Size) key * table->spec->nkeys;
}

static inline bool *
key_nulls(const GroupTable *table, int key)
{
	return table->stretch->nulls + (Size) key * table->spec->nkeys;
}

/* The number of a row's key, a new one if it is the first with it. */
static int
number_key(GroupTable *table, const InputRows *rows, int row)
{
	Stretch *stretch = table->stretch;
	int number = stretch->nkeys;
	Datum *values = key_values(table, number);
	bool *nulls = key_nulls(table, number);
	uint64 hash = table->hashes[row];
	MemoryContext old = MemoryContextSwitchTo(stretch->context);
	int slot;

	keys_of_row(table, rows, row, values, nulls);
	for (slot = hash % STRETCH_SLOTS; stretch->slots[slot] >= 0; slot = (slot + 1) % STRETCH_SLOTS)
	{
		int other = stretch->slots[slot];

		if (stretch->keys[other].hash == hash &&
			keys_equal(table, key_values(table, other), key_nulls(table, other), values, nulls))
		{
			number = other;
			break;
		}
	}
	if (number == stretch->nkeys)
	{
		stretch->slots[slot] = number;
		stretch->keys[number].hash = hash;
		stretch->keys[number].row = row;
		stretch->keys[number].slot = slot;
		stretch->keys[number].window = -1;
		stretch->nkeys++;
	}
	MemoryContextSwitchTo(old);
	return number;
}

/* Find the group of a key in a window, or make it; "row" is the first to enter it, whose form of the key stays. */
static void
find_group(GroupTable *table, Window *window, InputRows *rows, int key, int row)
{
	StretchKey *found = &table->stretch->keys[key];
	const Datum *values = key_values(table, key);
	const bool *nulls = key_nulls(table, key);
	bool created;

	rows->applied = row;
	if (row != found->row && entry_find(table, window, found->hash, values, nulls) == NULL)
	{
		keys_of_row(table, rows, row, table->probe, table->probe_nulls);
		values = table->probe;
		nulls = table->probe_nulls;
	}
	found->entry = entry_enter(table, window, found->hash, values, nulls, false, &created);
	rows->created[row] |= created;
}

/* All rows of the stretch into a window. */
static void
enter_all(GroupTable *table, InputRows *rows, TimestampTz start)
{
	Stretch *stretch = table->stretch;
	Window *window = window_get(table, start);

	for (int i = 0; i < stretch->nkeys; i++)
	{
		if (i + 2 * PREFETCH_KEYS < stretch->nkeys)
			window_prefetch(window, stretch->keys[i + 2 * PREFETCH_KEYS].hash,
							stretch->keys[i + PREFETCH_KEYS].hash);
		find_group(table, window, rows, i, stretch->keys[i].row);
	}
	for (int i = 0; i < stretch->nrows; i++)
	{
		if (table->nentrances == ENTRANCES)
			entrances_advance(table, rows);
		entrance_add(table, stretch->keys[stretch->rows[i].key].entry, stretch->rows[i].row);
	}
}

/* Those rows of the stretch that enter a window, the "number"th of the stretch. */
static void
enter_some(GroupTable *table, InputRows *rows, TimestampTz start, int number)
{
	Stretch *stretch = table->stretch;
	Window *window = NULL;

	for (int i = 0; i < stretch->nrows; i++)
	{
		const StretchRow *row = &stretch->rows[i];
		StretchKey *key = &stretch->keys[row->key];

		if (start < row->first || start > row->last)
			continue;
		if (window == NULL)
			window = window_get(table, start);
		if (key->window != number)
		{
			key->window = number;
			find_group(table, window, rows, row->key, row->row);
		}
		if (table->nentrances == ENTRANCES)
			entrances_advance(table, rows);
		entrance_add(table, key->entry, row->row);
	}
}

/* Take the stretch through its windows, and begin a new one. */
static void
finish_stretch(GroupTable *table, InputRows *rows)
{
	Stretch *stretch = table->stretch;
	TimestampTz start = stretch->first;
	int number = 0;

	if (stretch->nrows == 0)
		return;
	for (; start <= stretch->last; start += table->spec->window.slide)
	{
		CHECK_FOR_INTERRUPTS();
		if (start >= stretch->all_first && start <= stretch->all_last)
			enter_all(table, rows, start);
		else
			enter_some(table, rows, start, number);
		if (!table->temp->isReset)
			MemoryContextReset(table->temp);
		number++;
	}
	for (int i = 0; i < stretch->nkeys; i++)
		stretch->slots[stretch->keys[i].slot] = -1;
	stretch->nrows = stretch->nkeys = 0;
	if (!stretch->context->isReset)
		MemoryContextReset(stretch->context);
}

/* Does a row with windows from "first" to "last" belong into the stretch? */
static bool
has_room(const GroupTable *table, TimestampTz first, TimestampTz last)
{
	const Stretch *stretch = table->stretch;
	int64 span;

	/* all of time is more than an int64 holds */
	if (stretch->nrows == STRETCH_ROWS ||
		pg_sub_s64_overflow(Max(stretch->last, last), Min(stretch->first, first), &span))
		return false;
	/* rows are asked about each window of the stretch, those included that they are not in */
	return span / table->spec->window.slide < 2 * table->max_entered + SPARE_WINDOWS;
}

void
hopping_apply(GroupTable *table, InputRows *rows, int from, TimestampTz closed)
{
	Stretch *stretch = table->stretch;

	for (int i = from; i < rows->nrows; i++)
	{
		StretchRow row = {.row = i};

		rows->applied = i;
		rows->created[i] = false;
		if (!windows_of_row(table, rows, i, closed, &row.first, &row.last, &rows->late[i]))
			continue;
		if (stretch->nrows > 0 && !has_room(table, row.first, row.last))
			finish_stretch(table, rows);
		row.key = number_key(table, rows, i);
		if (stretch->nrows == 0)
		{
			stretch->first = stretch->all_first = row.first;
			stretch->last = stretch->all_last = row.last;
		}
		stretch->first = Min(stretch->first, row.first);
		stretch->last = Max(stretch->last, row.last);
		stretch->all_first = Max(stretch->all_first, row.first);
		stretch->all_last = Min(stretch->all_last, row.last);
		stretch->rows[stretch->nrows++] = row;
	}
	finish_stretch(table, rows);
	entrances_advance(table, rows);
}
