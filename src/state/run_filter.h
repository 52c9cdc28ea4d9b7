/*
 * run_filter.h
 *		Asking the filter of a run; see run_filter.c.
 */
#ifndef VELO_RUN_FILTER_H
#define VELO_RUN_FILTER_H

#include "state/group_table.h"

#define FILTER_LINE 8 /* words */
#define FILTER_PROBES 6
#define FILTER_PROBE_BITS 9 /* a word of the line and a bit of the word */

/* Lines are in the order of hashes, so that a run, which is sorted by them, fills one after the other. */
static inline uint64 *
run_filter_line(const Run *run, uint64 hash)
{
	return &run->filter[FILTER_LINE * (((hash >> 32) * run->filter_lines) >> 32)];
}

/* Its leading bits are those of the first probe. */
static inline uint64
run_filter_bits(uint64 hash)
{
	return hash * UINT64CONST(0x9e3779b97f4a7c15);
}

/* Is the hash surely not in the run? */
static inline bool
run_filter_lacks(const Run *run, uint64 hash)
{
	uint64 bits;
	const uint64 *line;

	if (run->filter == NULL || !(run->learnt || hash < run->learnt_to))
		return false;
	bits = run_filter_bits(hash);
	line = run_filter_line(run, hash);
	for (int i = 0; i < FILTER_PROBES; i++, bits <<= FILTER_PROBE_BITS)
		if ((line[bits >> 61] & (UINT64CONST(1) << ((bits >> 55) & 63))) == 0)
			return true;
	return false;
}

#endif /* VELO_RUN_FILTER_H */
