/*
 * stream.c
 *		What a stream is: reading a foreign table of velo's wrapper into a StreamInfo.
 *
 * Everything is read and checked anew at each call, for every ALTER of table, server or user mapping may have
 * changed it; the catalog caches make that cheap.
 */
#include "stream_options.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* of a JSON number read as timestamptz: milliseconds */
#define DEFAULT_UNIT 1000

bool
server_is_for_streams(const ForeignServer *server)
{
	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, VELO_FDW) == 0;
}

bool
stream_is(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE &&
		   server_is_for_streams(GetForeignServer(GetForeignServerIdByRelId(relid)));
}

/* The attribute number of a column that option "option" names. */
static AttrNumber
named_column(const StreamInfo *stream, const char *option, const char *name)
{
	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(stream->tupdesc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	ereport(
		ERROR,
		(errcode(ERRCODE_UNDEFINED_COLUMN),
		 errmsg("column \"%s\" in option \"%s\" of stream \"%s\" does not exist", name, option,
				stream->name),
		 errhint("Names are read as in SQL: one that is not all lower case needs double quotes. "
				 "ALTER FOREIGN TABLE ... OPTIONS (SET %s ...) changes the option.",
				 option)));
}

/* Check that the type of a column suits its metadata. */
static void
check_metadata_type(const StreamInfo *stream, Form_pg_attribute att, MetadataKind kind)
{
	Oid needed = att->atttypid;

	switch (kind)
	{
		case META_TOPIC:
			needed = TEXTOID;
			break;
		case META_PARTITION:
			needed = INT4OID;
			break;
		case META_OFFSET:
			needed = INT8OID;
			break;
		case META_TIMESTAMP:
			needed = TIMESTAMPTZOID;
			break;
		case META_HEADERS:
			needed = JSONBOID;
			break;
		case META_NONE:
		case META_KEY:
		case META_VALUE:
			break; /* any type */
	}
	if (att->atttypid != needed)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of stream \"%s\" with metadata \"%s\" must be of type %s",
						NameStr(att->attname), stream->name, metadata_name(kind),
						format_type_be(needed))));
}

/* Read the options of all columns. */
static void
read_columns(StreamInfo *stream)
{
	int nvalue = 0; /* columns that come from the value */

	stream->columns = palloc0(sizeof(StreamColumn) * Max(stream->tupdesc->natts, 1));
	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(stream->tupdesc, i);
		StreamColumn *column = &stream->columns[i];
		List *options;

		if (att->attisdropped)
			continue;
		options = GetForeignColumnOptions(stream->relid, att->attnum);
		column_options_read(options, column);
		check_metadata_type(stream, att, column->metadata);
		if (column->metadata != META_NONE)
			continue;

		nvalue++;
		if (options != NIL && stream->format == FORMAT_RAW)
			ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
							errmsg("column \"%s\" of stream \"%s\" has an option that is not for "
								   "format \"raw\"",
								   NameStr(att->attname), stream->name),
							errhint("Valid options are: metadata.")));
		if (column->unit != 0 && att->atttypid != TIMESTAMPTZOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of stream \"%s\" with option \"unit\" must be of "
							"type %s",
							NameStr(att->attname), stream->name, format_type_be(TIMESTAMPTZOID))));
		if (column->unit == 0)
			column->unit = DEFAULT_UNIT;
		if (column->path == NULL)
		{
			column->path = palloc(sizeof(char *));
			column->path[0] = pstrdup(NameStr(att->attname));
			column->npath = 1;
		}
	}
	if (stream->format == FORMAT_RAW && nvalue != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("stream \"%s\" of format \"raw\" must have exactly one column without "
						"metadata",
						stream->name),
				 errdetail("It has %d.", nvalue),
				 errhint("Columns other than the one for the value need option \"metadata\".")));
}

static void
read_event_time(StreamInfo *stream, const StreamOptions *options)
{
	Form_pg_attribute att;

	if (options->event_time == NULL)
		return;
	stream->event_time = named_column(stream, "event_time", options->event_time);
	att = TupleDescAttr(stream->tupdesc, stream->event_time - 1);
	if (att->atttypid != TIMESTAMPTZOID)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("event-time column \"%s\" of stream \"%s\" must be of type %s",
							   options->event_time, stream->name, format_type_be(TIMESTAMPTZOID)),
						errdetail("It is of type %s.", format_type_be(att->atttypid))));
}

static void
read_keys(StreamInfo *stream, const StreamOptions *options)
{
	ListCell *cell;

	stream->keys = palloc(sizeof(AttrNumber) * Max(list_length(options->keys), 1));
	foreach (cell, options->keys)
	{
		AttrNumber key = named_column(stream, "key", lfirst(cell));
		MetadataKind kind = stream->columns[key - 1].metadata;

		if (kind != META_NONE && kind != META_KEY)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("column \"%s\" with metadata \"%s\" cannot be a key of stream "
							"\"%s\"",
							(char *) lfirst(cell), metadata_name(kind), stream->name),
					 errdetail("A key column comes from the record's value or from its key.")));
		for (int i = 0; i < stream->nkeys; i++)
			if (stream->keys[i] == key)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" appears twice in option \"key\" of stream \"%s\"",
								(char *) lfirst(cell), stream->name)));
		stream->keys[stream->nkeys++] = key;
	}
}

/* Take brokers and librdkafka's properties from server and user mapping. */
static void
read_connection(StreamInfo *stream, Oid userid)
{
	ForeignServer *server = GetForeignServer(stream->serverid);
	ListCell *cell;

	foreach (cell, server->options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "brokers") != 0)
			stream->properties = lappend(stream->properties, def);
		else if (stream->brokers_own)
			ereport(
				ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("stream \"%s\" must not name brokers", stream->name),
				 errdetail("Its server \"%s\" names them.", server->servername),
				 errhint("Use ALTER FOREIGN TABLE %s OPTIONS (DROP brokers), or another server.",
						 stream->name)));
		else
			stream->brokers = defGetString(def);
	}

	/* whoever makes a stream must not lead other people's secrets to brokers of their own */
	if (!stream->brokers_own &&
		(SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							   ObjectIdGetDatum(server->serverid)) ||
		 SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid))))
		stream->properties =
			list_concat(stream->properties, GetUserMapping(userid, server->serverid)->options);
}

StreamInfo *
stream_get_as(Oid relid, Oid userid)
{
	StreamInfo *stream = palloc0(sizeof(StreamInfo));
	ForeignTable *table;
	StreamOptions *options;
	Relation rel;

	if (!stream_is(relid))
	{
		char *name = get_rel_name(relid);

		if (name == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
							errmsg("stream with OID %u does not exist", relid)));
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a stream", name),
						errdetail("A stream is a foreign table of foreign-data wrapper \"%s\".",
								  VELO_FDW)));
	}
	table = GetForeignTable(relid);
	options = stream_options_read(table->options);

	stream->relid = relid;
	stream->serverid = table->serverid;
	stream->name = DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relid)));
	rel = table_open(relid, AccessShareLock);
	stream->owner = rel->rd_rel->relowner;
	stream->tupdesc = CreateTupleDescCopy(RelationGetDescr(rel));
	stream->topic = options->topic ? options->topic : pstrdup(RelationGetRelationName(rel));
	table_close(rel, AccessShareLock);
	stream_topic_check(stream->topic);

	stream->format = options->format;
	stream->brokers = options->brokers;
	stream->brokers_own = options->brokers != NULL;
	stream->has_watermark = options->has_watermark;
	stream->watermark = options->watermark;
	stream->idle_timeout = options->idle_timeout;
	stream->max_future = options->max_future;
	stream->partitions_refresh = options->partitions_refresh;
	stream->skip_errors = options->skip_errors;
	read_columns(stream);
	read_event_time(stream, options);
	read_keys(stream, options);
	read_connection(stream, userid);
	return stream;
}

StreamInfo *
stream_get(Oid relid)
{
	return stream_get_as(relid, GetUserId());
}

char *
stream_topic(Oid relid)
{
	ListCell *cell;

	if (!stream_is(relid))
		return NULL;
	foreach (cell, GetForeignTable(relid)->options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "topic") == 0)
			return defGetString(def);
	}
	return get_rel_name(relid);
}
