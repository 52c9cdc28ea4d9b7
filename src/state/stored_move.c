/*
 * stored_move.c
 *		Which groups of a pipeline are cold, and how they move out of memory.
 */
#include "state/group_table.h"

#define ST_SORT sort_by_hash
#define ST_ELEMENT_TYPE HashSlot
#define ST_COMPARE(a, b) ((a)->hash < (b)->hash ? -1 : (a)->hash > (b)->hash)
#define ST_SCOPE extern
#define ST_DEFINE
#include "lib/sort_template.h"

#define SAMPLE 1000

/* how many times as long as a look for groups whose bin has passed took, until the next one */
#define LOOK_PAUSE 20
/* how many slots, or groups, ahead those are fetched into the processor's cache */
#define PREFETCH 16
/* the part of the memory for groups that is kept for what the next transaction brings, at most */
#define GROWTH_SHARE 6
/* groups of a window, cold or not, that are looked at together */
#define RANGE_GROUPS (256 * 1024)

/* ------------------------------------------------------------------ which */

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

/* May a bucket leave memory? */
static bool
is_cold(const GroupTable *table, const Window *window, uint64 hash, const ColdRule *rule)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
	{
		const Entry *entry = window->slots[i].entry;

		if (window->slots[i].hash == hash && (entry->group.flags & ENTRY_GONE) == 0 &&
			entry->group.touched > rule->age && !has_passed(table, entry, rule->watermark))
			return false;
	}
	return true;
}

/* Groups that are to move, of whole buckets. */
typedef struct ColdGroups
{
	HashSlot *slots;
	int64 n;
	int64 max;
} ColdGroups;

/* The groups of cold buckets of a window with hashes in [from, to]. */
static void
find_cold(const GroupTable *table, const Window *window, const ColdRule *rule, uint64 from,
		  uint64 to, ColdGroups *cold)
{
	cold->n = 0;
	for (uint64 slot = 0; slot <= window->mask; slot++)
	{
		const Entry *entry = window->slots[slot].entry;
		const HashSlot *ahead = &window->slots[(slot + PREFETCH) & window->mask];
		uint64 hash = window->slots[slot].hash;

		if (ahead->hash >= from && ahead->hash <= to)
			__builtin_prefetch(ahead->entry);
		if (entry == NULL || hash < from || hash > to || (entry->group.flags & ENTRY_GONE) != 0 ||
			!is_cold(table, window, hash, rule))
			continue;
		if (cold->n == cold->max)
		{
			cold->max *= 2;
			cold->slots = repalloc_huge(cold->slots, sizeof(HashSlot) * cold->max);
		}
		cold->slots[cold->n++] = window->slots[slot];
	}
}

/* ------------------------------------------------------------------ moving */

/* Append these groups to a run, in the order of their hashes. */
static void
write_cold(GroupTable *table, RunWriter *writer, const ColdGroups *cold)
{
	const HashSlot *slots = cold->slots;
	MemoryContext old = MemoryContextSwitchTo(table->temp);

	for (int64 i = 0; i < cold->n; i++)
	{
		if (i + PREFETCH < cold->n)
			group_prefetch(&slots[i + PREFETCH].entry->group);
		bucket_write(table, slots[i].entry, run_writer_bytes(writer));
		if (i + 1 == cold->n || slots[i + 1].hash != slots[i].hash)
			run_writer_add(writer, slots[i].hash);
		MemoryContextReset(table->temp);
	}
	MemoryContextSwitchTo(old);
}

/* A run for what is about to move out of a window. */
static RunWriter *
begin_run(GroupTable *table, Window *window)
{
	Run *run = run_add(table, window, 0, table->next_run);

	/* about half of the groups are cold, those of a bin that has passed more; too few bits are still of use */
	run_filter_create(table, run, (window->nentries - window->ngone) / 2 + 1);
	return run_writer_begin(table, run);
}

/*
 * Move the cold buckets of a window into a run; true if there were any.  Adds to *looked how many microseconds it took to
 * look for them.  They are taken by ranges of the hash, for which all are looked through each time: that costs less than
 * memory for as many as there may be, just when it is short.
 */
static bool
move_window(GroupTable *table, Window *window, const ColdRule *rule, int64 *looked)
{
	ColdGroups cold = {.max = 1024};
	int64 nranges = (window->nentries - window->ngone) / RANGE_GROUPS + 1;
	RunWriter *writer = NULL;

	cold.slots = MemoryContextAlloc(table->context, sizeof(HashSlot) * cold.max);
	for (int64 i = 0; i < nranges; i++)
	{
		TimestampTz begin = GetCurrentTimestamp();
		uint64 width = PG_UINT64_MAX / nranges;

		find_cold(table, window, rule, width * i + (i > 0),
				  i + 1 < nranges ? width * (i + 1) : PG_UINT64_MAX, &cold);
		*looked += GetCurrentTimestamp() - begin;
		if (cold.n == 0)
			continue;
		if (writer == NULL)
		{
			VELO_INJECTION_POINT("before-move");
			writer = begin_run(table, window);
		}
		sort_by_hash(cold.slots, cold.n);
		write_cold(table, writer, &cold);
		count_stored(table, window, cold.n);
		VELO_INJECTION_POINT("in-move");
		log_forget_moved(table, window, cold.slots, cold.n);
		for (int64 k = 0; k < cold.n; k++)
			entry_left(cold.slots[k].entry);
	}
	if (writer != NULL)
		run_writer_end(writer);
	pfree(cold.slots);
	return writer != NULL;
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
	int64 looked = 0;

	if (table->spec->bin.kind == WINDOW_NONE || !table->hashable || watermark == DT_NOBEGIN ||
		watermark < table->passes_at)
		return;
	begin = GetCurrentTimestamp();
	if (begin < table->look_at)
		return;
	for (int i = 0; i < table->nwindows; i++)
		(void) move_window(table, table->windows[i], &rule, &looked);
	table->passes_at = bin_end(&table->spec->bin, watermark);
	table->look_at = begin + LOOK_PAUSE * looked;
	/* moving the others into new memory is worth its while when they are the fewer */
	for (int i = 0; i < table->nwindows; i++)
		if (table->windows[i]->ngone > table->windows[i]->nentries / 2)
			window_rebuild(table, table->windows[i]);
}

/*
 * When the groups take more than half of the pipeline's memory, or are about to, move about half of them into the store:
 * those that were not touched for longest.
 */
void
stored_move_cold(GroupTable *table)
{
	ColdRule rule = {.watermark = DT_NOBEGIN};
	Size allocated = MemoryContextMemAllocated(table->context, true);
	Size growth = allocated > table->allocated ? allocated - table->allocated : 0;
	int64 looked = 0;

	table->allocated = allocated;
	/* the next transaction may bring as much as this one; what brings most of all at once is rather a beginning */
	if (!table->hashable || table->spec->nkeys == 0 ||
		allocated + Min(growth, table->memory_limit / GROWTH_SHARE) <= table->move_at)
		return;
	rule.age = median_age(table);
	for (int i = 0; i < table->nwindows; i++)
		if (move_window(table, table->windows[i], &rule, &looked))
			window_rebuild(table, table->windows[i]);
	VELO_INJECTION_POINT("after-move");
	table->allocated = MemoryContextMemAllocated(table->context, true);
	/* where little could be moved, don't try again at once */
	table->move_at = Max(table->memory_limit, table->allocated + table->allocated / 4);
}
