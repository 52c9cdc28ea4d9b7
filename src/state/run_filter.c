/*
 * run_filter.c
 *		Which groups are surely not in a run: a Bloom filter of each run over the hashes of its groups.
 *
 * Where there are more groups than memory has room for, most that turn up for the first time would be looked for among
 * millions of stored ones in vain, in one run after the other.  All bits of a hash are in one line of the processor's
 * cache, so that asking costs one access to memory.
 *
 * A filter is not kept itself: it is made along with its run, and after a start learns what is in it by and by
 * (runs_learn()), and knows nothing of the rest.
 */
#include "state/run_filter.h"

/* the filters' share of the memory for groups */
#define FILTER_SHARE 4
/* bits for each group: these make seven mistakes in a thousand; with less than those a filter is useless */
#define FILTER_BITS 12
#define MIN_FILTER_BITS 2

/*
 * Room for about "groups" of them.  When there are so many groups in all runs that filters would take too much, each gets
 * fewer bits, or no filter at all.
 */
void
run_filter_create(GroupTable *table, Run *run, int64 groups)
{
	/* a line is not divided between two of the processor's */
	Size line = sizeof(uint64) * FILTER_LINE;
	int64 all = table->in_runs + Max(groups, 1);
	int64 bits =
		Min(FILTER_BITS, (int64) (table->memory_limit / FILTER_SHARE * BITS_PER_BYTE) / all);

	if (bits < MIN_FILTER_BITS)
		return;
	run->filter_lines = (uint32) Min(groups * bits / (line * BITS_PER_BYTE) + 1, PG_INT32_MAX);
	run->filter_memory = MemoryContextAllocExtended(table->context, line * (run->filter_lines + 1),
													MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	run->filter = (uint64 *) TYPEALIGN(line, run->filter_memory);
}

void
run_filter_add(Run *run, uint64 hash)
{
	uint64 bits = run_filter_bits(hash);
	uint64 *line;

	if (run->filter == NULL)
		return;
	line = run_filter_line(run, hash);
	for (int i = 0; i < FILTER_PROBES; i++, bits <<= FILTER_PROBE_BITS)
		line[bits >> 61] |= UINT64CONST(1) << ((bits >> 55) & 63);
}
