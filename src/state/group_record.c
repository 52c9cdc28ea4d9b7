/*
 * group_record.c
 *		Groups as bytes: what the log and the stored groups have in common.
 *
 * Values are written as they lie in memory, as tuples on disk are, so bytes are good for one kind of machine, and, with
 * types that CREATE TYPE made, for the database and its copies by pg_upgrade, which keeps the OIDs of types and of the
 * values of enums.  Some are good for one major version only (aggregates_are_portable()).  Whatever is read is checked against
 * its length, so that damage ends in an error.
 */
#include "state/group_table.h"

#include "common/hashfn.h"

#define STATE_MAGIC 0x6f6c6576 /* "velo" */
#define STATE_FORMAT 2

typedef struct RecordHeader
{
	uint32 magic;
	uint16 format;
	uint16 major; /* of PostgreSQL */
	uint32 fingerprint;
} RecordHeader;

/* Complain of bytes that this code can't have written. */
void
record_damaged(void)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("state of the query is damaged"),
					errhint("Use velo.restart_query() with a start to build it anew.")));
}

/* Compute what the bytes depend on beyond the versions: types of keys, states and kept columns. */
void
record_init(GroupTable *table)
{
	const GroupingSpec *spec = table->spec;
	uint32 result = aggregates_fingerprint(table);

	for (int i = 0; i < spec->nkeys; i++)
		result = hash_combine(result, spec->keys[i].type);
	for (int i = 0; i < spec->ncollected; i++)
		result = hash_combine(result, TupleDescAttr(table->collected_desc, i)->atttypid);
	table->fingerprint = result;
}

void
record_write_header(const GroupTable *table, StringInfo out)
{
	RecordHeader header;

	header.magic = STATE_MAGIC;
	header.format = STATE_FORMAT;
	header.major = PG_VERSION_NUM / 10000;
	header.fingerprint = table->fingerprint;
	appendBinaryStringInfo(out, (char *) &header, sizeof(header));
}

/* Read a header; ereport(ERROR) if what follows can't be read by this server and this query. */
void
record_check_header(const GroupTable *table, StringInfo in)
{
	RecordHeader header;
	bool other_major;

	bytes_read(in, &header, sizeof(header));
	if (header.magic != STATE_MAGIC)
		record_damaged();
	other_major = header.major != PG_VERSION_NUM / 10000;
	if (header.format != STATE_FORMAT ||
		(other_major &&
		 (header.fingerprint != table->fingerprint || !aggregates_are_portable(table))))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("state of the query was written by another version"),
				 errdetail("It has format %u of PostgreSQL %u; this server reads format %u of "
						   "PostgreSQL %u.",
						   header.format, header.major, STATE_FORMAT, PG_VERSION_NUM / 10000),
				 errhint("Use velo.restart_query() with a start to build it anew.")));
	if (header.fingerprint != table->fingerprint)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("state of the query does not fit the query"),
				 errdetail("The type of a group key or of an aggregate's state has changed "
						   "since it was written, or was made anew by a dump's restoration."),
				 errhint("Use velo.restart_query() with a start to build it anew.")));
}

/* Copy "len" bytes from where "in" stands. */
void
bytes_read(StringInfo in, void *to, Size len)
{
	if (len > (Size) (in->len - in->cursor))
		record_damaged();
	memcpy(to, in->data + in->cursor, len);
	in->cursor += len;
}

/* The same without copying. */
char *
bytes_skip(StringInfo in, Size len)
{
	char *result = in->data + in->cursor;

	if (len > (Size) (in->len - in->cursor))
		record_damaged();
	in->cursor += len;
	return result;
}

void
record_write_keys(GroupTable *table, const Entry *entry, StringInfo out)
{
	const StateGroup *group = &entry->group;

	for (int i = 0; i < table->spec->nkeys; i++)
	{
		appendStringInfoCharMacro(out, group->key_nulls[i] ? 1 : 0);
		if (!group->key_nulls[i])
			datum_write(out, group->keys[i], table->keys[i].byval, table->keys[i].typlen);
	}
}

/* Puts the keys into table->probe, in the current memory context. */
void
record_read_keys(GroupTable *table, StringInfo in)
{
	for (int i = 0; i < table->spec->nkeys; i++)
	{
		char isnull;

		bytes_read(in, &isnull, 1);
		table->probe_nulls[i] = isnull != 0;
		table->probe[i] = isnull ? (Datum) 0 : datum_read(in, table->keys[i].byval);
	}
}

/* Window and keys. */
void
record_write_name(GroupTable *table, const Entry *entry, StringInfo out)
{
	appendBinaryStringInfo(out, (char *) &entry->group.window, sizeof(entry->group.window));
	record_write_keys(table, entry, out);
}

/* Returns the window; puts the keys into table->probe, in the current memory context. */
TimestampTz
record_read_name(GroupTable *table, StringInfo in)
{
	TimestampTz window;

	bytes_read(in, &window, sizeof(window));
	record_read_keys(table, in);
	return window;
}

/* Flags and transition values, after their length.  The current memory context takes garbage. */
void
record_write_state(GroupTable *table, Entry *entry, StringInfo out)
{
	int start = out->len;
	uint32 len = 0;

	appendBinaryStringInfo(out, (char *) &len, sizeof(len));
	appendStringInfoCharMacro(out, (entry->group.out ? 1 : 0) | (entry->group.failed ? 2 : 0));
	aggregates_write(table, entry, out);
	len = out->len - start - sizeof(len);
	memcpy(out->data + start, &len, sizeof(len));
}

/* Into an entry without transition values.  The current memory context takes garbage. */
void
record_read_state(GroupTable *table, Entry *entry, StringInfo in)
{
	uint32 len;
	char flags;

	bytes_read(in, &len, sizeof(len));
	bytes_read(in, &flags, 1);
	entry->group.out = (flags & 1) != 0;
	entry->group.failed = (flags & 2) != 0;
	aggregates_read(table, entry, in);
}
