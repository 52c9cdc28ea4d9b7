/*
 * closing.c
 *		Windows that are over: their groups leave, a set at a time, until nothing of a window is left.
 *
 * A window of many groups is closed in the course of several transactions, so that records need not wait for it: see
 * pipeline/emit.c.  What is in memory leaves in the order of its keys: a result that is written in the order of its
 * index costs half of what it costs in any other order, and the log needs no record of each group that has left, but one
 * of how far the closing has come.  What is stored leaves in the order of its hashes (stored.c).
 *
 * Which of them goes first is not for choice.  Of a pipeline's own groups it is the stored ones, while memory still tells
 * which copies in runs are stale.  Shared groups are in memory only until the transaction ends, so those go first.
 *
 * To put all groups of a window in order at once would take as long as a transaction may last, so no more of them are
 * sorted than are wanted next: the quicksort below leaves what is behind them in stretches, of which none has a group
 * that belongs into another.
 */
#include "state/group_table.h"

#include "miscadmin.h"

/* a stretch that is not divided any more before it is sorted */
#define SORTED_AT_ONCE 4096
#define MAX_STRETCHES 100

/* how many slots ahead their groups are fetched */
#define PREFETCH_SLOTS 16

/* A group that is to leave, with what nearly all comparisons need of it. */
typedef struct Leaving
{
	Entry *entry;
	Datum lead;
	bool no_lead;
} Leaving;

struct ClosingOrder
{
	Leaving *groups;
	int64 ngroups;
	int64 taken;  /* those before it have left or are about to */
	int64 sorted; /* those before it are in their places */
	/* where stretches end, the nearest last */
	int64 ends[MAX_STRETCHES];
	int nends;
};

/* ------------------------------------------------------------------ the order */

static inline int
compare_leaving(GroupTable *table, const Leaving *a, const Leaving *b)
{
	int result = keys_compare_leads(table, a->lead, a->no_lead, b->lead, b->no_lead);

	return result != 0 ? result : keys_compare(table, a->entry, b->entry);
}

/* For qsort_arg(). */
static int
compare_for_qsort(const void *a, const void *b, void *table)
{
	return compare_leaving(table, a, b);
}

static inline void
swap(Leaving *a, Leaving *b)
{
	Leaving other = *a;

	*a = *b;
	*b = other;
}

/* The middle one of the first, the middle and the last of a stretch, to its front. */
static void
choose_pivot(GroupTable *table, Leaving *groups, int64 n)
{
	Leaving *first = groups;
	Leaving *middle = groups + n / 2;
	Leaving *last = groups + n - 1;

	if (compare_leaving(table, middle, last) > 0)
		swap(middle, last);
	if (compare_leaving(table, first, middle) < 0)
		swap(first, middle);
	if (compare_leaving(table, first, last) > 0)
		swap(first, last);
}

/* Divide a stretch in two, neither of them empty; returns the number of groups in the first. */
static int64
divide(GroupTable *table, Leaving *groups, int64 n)
{
	int64 i = -1;
	int64 j = n;
	Leaving pivot;

	choose_pivot(table, groups, n);
	pivot = groups[0];
	for (;;)
	{
		do
			i++;
		while (compare_leaving(table, &groups[i], &pivot) < 0);
		do
			j--;
		while (compare_leaving(table, &groups[j], &pivot) > 0);
		if (i >= j)
			return j + 1;
		swap(&groups[i], &groups[j]);
	}
}

/* Put the next groups in their places: those of the nearest stretch, once it is short. */
static void
sort_more(GroupTable *table, ClosingOrder *order)
{
	Leaving *stretch = &order->groups[order->sorted];
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	int64 n;

	while ((n = order->ends[order->nends - 1] - order->sorted) > SORTED_AT_ONCE &&
		   order->nends < MAX_STRETCHES)
	{
		CHECK_FOR_INTERRUPTS();
		order->ends[order->nends++] = order->sorted + divide(table, stretch, n);
		MemoryContextReset(table->temp);
	}
	qsort_arg(stretch, n, sizeof(Leaving), compare_for_qsort, table);
	order->sorted = order->ends[--order->nends];
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
}

/* The groups that a window has in memory, on their way out of it. */
static ClosingOrder *
order_create(GroupTable *table, Window *window)
{
	MemoryContext context = window->context->ecxt_per_tuple_memory;
	ClosingOrder *order = MemoryContextAllocZero(context, sizeof(ClosingOrder));
	MemoryContext old;

	keys_order_init(table);
	/* a type's abbreviation may enlarge its buffers in the current context, and wants them to stay */
	old = MemoryContextSwitchTo(table->context);
	order->groups =
		MemoryContextAllocHuge(context, sizeof(Leaving) * Max(1, window->nentries - window->ngone));
	for (uint64 i = 0; i <= window->mask; i++)
	{
		Entry *entry = window->slots[i].entry;
		const char *ahead = (char *) window->slots[(i + PREFETCH_SLOTS) & window->mask].entry;
		Leaving *leaving = &order->groups[order->ngroups];

		__builtin_prefetch(ahead);
		__builtin_prefetch(ahead + table->keys_offset);
		CHECK_FOR_INTERRUPTS();
		if (entry == NULL || (entry->group.flags & ENTRY_GONE) != 0)
			continue;
		leaving->entry = entry;
		leaving->lead = keys_lead(table, entry, &leaving->no_lead);
		order->ngroups++;
	}
	order->ends[order->nends++] = order->ngroups;
	MemoryContextSwitchTo(old);
	return order;
}

/* ------------------------------------------------------------------ leaving */

/* A window leaves, with what is still in it and of it. */
static void
drop_window(GroupTable *table, Window *window)
{
	/* even without groups left, their count is stored until it is taken back */
	if (window->nstored > 0 || window->nruns > 0 || window->stored_changed)
		stored_drop_window(table, window);
	log_forget_window(table, window);
	if (window->order != NULL)
		table->move_at = table->memory_limit;
	window_free(table, window);
}

/* The first window, if it is closed; else NULL. */
static Window *
first_closed(GroupTable *table, TimestampTz watermark)
{
	if (table->shared)
		stored_refresh(table);
	if (table->nwindows > 0 && window_is_closed(table->windows[0], watermark))
		return table->windows[0];
	return NULL;
}

int
group_table_count_closed(GroupTable *table, TimestampTz watermark)
{
	int n = 0;

	if (first_closed(table, watermark) != NULL)
		while (n < table->nwindows && window_is_closed(table->windows[n], watermark))
			n++;
	return n;
}

/* The next groups of a window in memory, into table->result; none only if there are none left. */
static void
take(GroupTable *table, Window *window, int max)
{
	ClosingOrder *order = window->order;

	if (order == NULL)
		order = window->order = order_create(table, window);
	while (table->nresult < max && order->taken < order->ngroups)
	{
		Entry *entry;

		if (order->taken == order->sorted)
			sort_more(table, order);
		entry = order->groups[order->taken++].entry;
		/* it may have been moved to the stored ones meanwhile */
		if ((entry->group.flags & ENTRY_GONE) != 0)
			continue;
		/* as if it were already in that list: whatever its emission touches, there is nothing to save */
		if (!table->shared)
			entry->group.flags |= ENTRY_UNSAVED;
		result_add(table, entry);
	}
}

bool
group_table_take_closed(GroupTable *table, TimestampTz watermark, int max, StateGroup ***groups,
						int *ngroups)
{
	Window *window;

	Assert(table->closing == NULL);
	table->nresult = 0;
	while ((window = first_closed(table, watermark)) != NULL)
	{
		/* groups that are about to leave are not worth moving, nor is what this takes for a while a reason to */
		table->move_at = Max(table->move_at, table->memory_limit + table->memory_limit / 4);
		if (!table->shared && window->nruns > 0)
			stored_take(table, window, max);
		if (table->nresult == 0)
			take(table, window, max);
		if (table->nresult == 0 && table->shared && window->nstored > 0)
			stored_take(table, window, max);
		if (table->nresult > 0)
		{
			table->closing = window;
			break;
		}
		drop_window(table, window);
	}
	*groups = table->result;
	*ngroups = table->nresult;
	return table->nresult > 0;
}

/* The groups of a window that were taken from memory are gone. */
static void
leave(GroupTable *table, Window *window)
{
	for (int i = 0; i < table->nresult; i++)
	{
		Entry *entry = (Entry *) table->result[i];

		if (table->shared)
			entry_gone(table, entry);
		else
			entry_left(entry);
	}
	if (!table->shared)
		log_forget_through(table, window, table->result, table->nresult);
}

void
group_table_drop_closed(GroupTable *table)
{
	Window *window = table->closing;

	if (window == NULL)
		return;
	table->closing = NULL;
	if (window->taken != NULL)
		stored_drop_taken(table, window);
	else if (window->order->taken == window->order->ngroups && window->nstored == 0 &&
			 window->nruns == 0)
		drop_window(table, window);
	else
		leave(table, window);
	table->nresult = 0;
}

bool
group_table_drop_unseen(GroupTable *table, TimestampTz watermark, int max)
{
	Window *window = first_closed(table, watermark);

	if (window == NULL)
		return false;
	/* stored ones go by slices, and none may be in memory then, from where it could be moved behind them */
	if (window->nstored > max)
	{
		log_forget_window(table, window);
		window_empty(table, window);
		if (stored_drop_slice(table, window, max))
			return true;
	}
	drop_window(table, window);
	return true;
}

TimestampTz
group_table_next_close(GroupTable *table)
{
	return table->nwindows > 0 ? table->windows[0]->close : DT_NOEND;
}
