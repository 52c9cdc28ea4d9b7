/*
 * stored_filter.c
 *		Which groups are surely not stored: a Bloom filter over the buckets of stored.c.
 *
 * Where there are more groups than memory has room for, most that turn up for the first time would be looked for among
 * millions of stored ones in vain.  The filter is of private groups only, for what is stored of shared ones others
 * change, too.  It is not kept itself: after a start it learns the buckets of each window by and by, in the order of
 * their hash, and knows nothing of the rest.
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

static bloom_filter *
get_filter(GroupTable *table)
{
	if (table->stored_filter == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(table->context);
		/* memory_limit is half of the pipeline's memory */
		int size = Min(table->memory_limit * 2 / 1024 / FILTER_SHARE, FILTER_MAX);

		/* a byte for each: as many as can be told apart with few mistakes */
		table->stored_filter = bloom_create((int64) Max(size, 1024) * 1024, size, 0);
		MemoryContextSwitchTo(old);
	}
	return table->stored_filter;
}

void
stored_filter_add(GroupTable *table, const Window *window, uint64 hash)
{
	FilterElement element = {window->start, hash};

	bloom_add_element(get_filter(table), (unsigned char *) &element, sizeof(element));
}

bool
stored_filter_lacks(const GroupTable *table, const Window *window, uint64 hash)
{
	FilterElement element = {window->start, hash};

	return !table->shared && table->stored_filter != NULL && hash < window->learnt &&
		   bloom_lacks_element(table->stored_filter, (unsigned char *) &element, sizeof(element));
}
