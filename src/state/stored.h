/*
 * stored.h
 *		What stored.c and stored_shared.c share: keys and rows of velo.query_group.
 *
 * A key is the pipeline (or that it is shared), what the row is about, the start of a window and a hash, in an order of
 * bytes that is the order of time.
 */
#ifndef VELO_STORED_H
#define VELO_STORED_H

#include "state/group_table.h"

#include "catalog/velo_catalog.h"

typedef struct StoredKey
{
	uint32 pipeline; /* all in big-endian */
	char kind;
	uint64 window; /* sign flipped */
	uint64 hash;
} pg_attribute_packed() StoredKey;

/* in place of a pipeline */
#define SHARED_GROUPS PG_UINT32_MAX

#define KIND_WINDOW 'c'
#define KIND_BUCKET 'g'

/* the length of a key's prefix that all of a kind have in common */
#define KEY_KIND_LEN offsetof(StoredKey, window)

/* "len" bytes of a key: prefixes serve as bounds of ranges. */
extern bytea *stored_key(uint32 pipeline, char kind, TimestampTz window, uint64 hash, Size len);
extern void stored_read_key(const bytea *from, TimestampTz *window, uint64 *hash);

/* what is saved or fetched in one go */
#define SAVE_BYTES (1024 * 1024)
#define SAVE_GROUPS 1000

/* Rows on their way into velo.query_group. */
typedef struct StoredSaver
{
	GroupTable *table;
	StoredGroup rows[SAVE_GROUPS];
	int nrows;
	Size bytes;
	MemoryContext context;
} StoredSaver;

extern StoredSaver *stored_saver_begin(GroupTable *table);
/* Takes both, which must lie in saver->context; state NULL deletes. */
extern void stored_saver_add(StoredSaver *saver, bytea *key, bytea *state);
extern void stored_saver_end(StoredSaver *saver);

#endif /* VELO_STORED_H */
