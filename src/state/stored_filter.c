/*
 * stored_filter.c
 *		Which groups are surely not stored: a Bloom filter over the buckets of stored.c.
 *
 * Where there are more groups than memory has room for, most that turn up for the first time would be looked for among
 * millions of stored ones in vain.  The filter is of private groups only, for what is stored of shared ones others
 * change, too.  It is not kept itself: after a start it learns the buckets of each window by and by, in the order of
 * their hash, and knows nothing of the rest.  Nor does it forget what has left the store: when it was told of too many,
 * a new one takes its place.
 */
#include "state/group_table.h"

/* the filter's share of the pipeline's memory, and what it has at most, in kB */
#define FILTER_SHARE 16
#define FILTER_MAX (64 * 1024)

typedef struct FilterElement
{
	TimestampTz window;
	uint64 hash;
} FilterElement;

/* Its size in kB; a filter has at least a megabyte. */
static int
filter_size(const GroupTable *table)
{
	/* memory_limit is half of the pipeline's memory */
	return Max(1024, Min(table->memory_limit * 2 / 1024 / FILTER_SHARE, FILTER_MAX));
}

/* A byte for each group: as many as can be told apart with few mistakes. */
static int64
filter_room(const GroupTable *table)
{
	return (int64) filter_size(table) * 1024;
}

void
stored_filter_add(GroupTable *table, const Window *window, uint64 hash)
{
	FilterElement element = {window->start, hash};

	if (table->stored_filter == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(table->context);

		table->stored_filter = bloom_create(filter_room(table), filter_size(table), 0);
		MemoryContextSwitchTo(old);
	}
	bloom_add_element(table->stored_filter, (unsigned char *) &element, sizeof(element));
	table->filter_told++;
}

void
stored_filter_renew(GroupTable *table)
{
	/* the new one has to learn what is stored: not before as much has left */
	if (table->filter_told <= Max(filter_room(table), 2 * table->nstored))
		return;
	bloom_free(table->stored_filter);
	table->stored_filter = NULL;
	table->filter_told = 0;
	for (int i = 0; i < table->nwindows; i++)
		table->windows[i]->learnt = table->windows[i]->nstored > 0 ? 0 : PG_UINT64_MAX;
}

bool
stored_filter_lacks(const GroupTable *table, const Window *window, uint64 hash)
{
	FilterElement element = {window->start, hash};

	return !table->shared && table->stored_filter != NULL && hash < window->learnt &&
		   bloom_lacks_element(table->stored_filter, (unsigned char *) &element, sizeof(element));
}
