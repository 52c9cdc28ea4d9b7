/*
 * run_block.h
 *		What stored_runs.c and run_merge.c share: blocks of runs as they are read.
 */
#ifndef VELO_RUN_BLOCK_H
#define VELO_RUN_BLOCK_H

#include "state/group_table.h"

#include "catalog/velo_catalog.h"

/* Points into the bytes that it was read from. */
typedef struct Block
{
	int n;
	const char *hashes; /* uint64 [n], ascending; not aligned */
	const char *ends;   /* uint32 [n]; not aligned */
	const char *bytes;
	Size len;
} Block;

#define MAX_BLOCK_BUCKETS 512
/* its length as it is stored, before the buckets */
#define BLOCK_HEADER (VARHDRSZ + 12 + sizeof(uint32))
/* and for each of them beyond its bytes */
#define BLOCK_BUCKET_OVERHEAD (sizeof(uint64) + sizeof(uint32))

/* ereport(ERROR) if it is none of this query */
extern void block_open(const GroupTable *table, Block *block, const RunBlock *stored);
extern int block_find(const Block *block, uint64 hash);
extern void block_bucket(const Block *block, int i, StringInfo in);

static inline uint64
block_hash(const Block *block, int i)
{
	uint64 hash;

	memcpy(&hash, block->hashes + sizeof(hash) * i, sizeof(hash));
	return hash;
}

static inline uint32
block_end(const Block *block, int i)
{
	uint32 end;

	memcpy(&end, block->ends + sizeof(end) * i, sizeof(end));
	return end;
}

#endif /* VELO_RUN_BLOCK_H */
