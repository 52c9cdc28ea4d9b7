/*
 * stream_insert.c
 *		INSERT and COPY into a stream: each row becomes a record of its topic.
 *
 * The statement ends only when the broker has acknowledged every record.  Records do not wait for the transaction's
 * commit, and neither an error nor ROLLBACK takes back those that were sent.
 */
#include "stream_scan.h"

#include "executor/executor.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct StreamInsert
{
	StreamInfo *stream;
	Producer *producer;
	Encoder *encoder;
	/* [natts]: output functions of the key columns and those with metadata key */
	FmgrInfo *key_output;
	TupleDesc key_desc; /* of several key columns; NULL otherwise */
	MemoryContext row;  /* emptied after each row */
} StreamInsert;

/* What a row says about its record, apart from the value. */
typedef struct RecordMeta
{
	const char *key; /* NULL: none */
	Size key_len;
	int32 partition; /* -1: by key */
	TimestampTz timestamp;
	ProducerHeader *headers;
	int nheaders;
} RecordMeta;

static bool
is_key_column(const StreamInfo *stream, AttrNumber attnum)
{
	for (int i = 0; i < stream->nkeys; i++)
		if (stream->keys[i] == attnum)
			return true;
	return stream->columns[attnum - 1].metadata == META_KEY;
}

/* The row type of the key columns, whose JSON is the key when there are several. */
static TupleDesc
make_key_desc(const StreamInfo *stream)
{
	TupleDesc desc = CreateTemplateTupleDesc(stream->nkeys);

	for (int i = 0; i < stream->nkeys; i++)
		TupleDescCopyEntry(desc, i + 1, stream->tupdesc, stream->keys[i]);
	return BlessTupleDesc(desc);
}

static StreamInsert *
insert_create(ResultRelInfo *rel, EState *estate)
{
	MemoryContext caller_context = MemoryContextSwitchTo(estate->es_query_cxt);
	StreamInsert *insert = palloc0(sizeof(StreamInsert));
	StreamInfo *stream = stream_get_connectable(RelationGetRelid(rel->ri_RelationDesc),
												compat_insert_user(rel, estate));

	insert->stream = stream;
	insert->encoder = encoder_create(stream);
	insert->key_output = palloc0(sizeof(FmgrInfo) * Max(stream->tupdesc->natts, 1));
	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		Oid function;
		bool is_varlena;

		if (TupleDescAttr(stream->tupdesc, i)->attisdropped || !is_key_column(stream, i + 1))
			continue;
		getTypeOutputInfo(TupleDescAttr(stream->tupdesc, i)->atttypid, &function, &is_varlena);
		fmgr_info(function, &insert->key_output[i]);
	}
	if (stream->nkeys > 1)
		insert->key_desc = make_key_desc(stream);
	insert->row =
		AllocSetContextCreate(estate->es_query_cxt, "velo row to insert", ALLOCSET_DEFAULT_SIZES);
	insert->producer = producer_open(stream);
	MemoryContextSwitchTo(caller_context);
	return insert;
}

/* The key is a text in the server's encoding. */
static void
set_key_text(RecordMeta *meta, const char *text, int len)
{
	meta->key = text_to_utf8(text, len, &meta->key_len);
}

/* The key is a column's value: the very bytes of a bytea, the text of anything else. */
static void
set_key(StreamInsert *insert, RecordMeta *meta, AttrNumber attnum, Datum value)
{
	Form_pg_attribute att = TupleDescAttr(insert->stream->tupdesc, attnum - 1);

	if (att->atttypid == BYTEAOID && insert->stream->columns[attnum - 1].metadata == META_KEY)
	{
		bytea *bytes = DatumGetByteaPP(value);

		meta->key = VARDATA_ANY(bytes);
		meta->key_len = VARSIZE_ANY_EXHDR(bytes);
	}
	else
	{
		char *text = OutputFunctionCall(&insert->key_output[attnum - 1], value);

		set_key_text(meta, text, strlen(text));
	}
}

/* The key as option "key" has it: the text of one column, none if that is NULL, or a JSON object of several. */
static void
set_key_from_columns(StreamInsert *insert, RecordMeta *meta, TupleTableSlot *slot)
{
	const StreamInfo *stream = insert->stream;

	if (stream->nkeys == 1)
	{
		AttrNumber attnum = stream->keys[0];

		if (!slot->tts_isnull[attnum - 1])
			set_key(insert, meta, attnum, slot->tts_values[attnum - 1]);
	}
	else if (stream->nkeys > 1)
	{
		Datum *values = palloc(sizeof(Datum) * stream->nkeys);
		bool *nulls = palloc(sizeof(bool) * stream->nkeys);
		HeapTuple tuple;
		text *json;

		for (int i = 0; i < stream->nkeys; i++)
		{
			values[i] = slot->tts_values[stream->keys[i] - 1];
			nulls[i] = slot->tts_isnull[stream->keys[i] - 1];
		}
		tuple = heap_form_tuple(insert->key_desc, values, nulls);
		json = DatumGetTextPP(DirectFunctionCall1(row_to_json, HeapTupleGetDatum(tuple)));
		set_key_text(meta, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
	}
}

static void
pg_attribute_noreturn() bad_headers(const char *column)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid headers in column \"%s\"", column),
					errdetail("Headers are a JSON array of objects like "
							  "{\"key\": \"name\", \"value\": \"text\"}; a value may be null.")));
}

/* A string member of a header's object; NULL if it is missing or null. */
static JsonbValue *
header_member(JsonbContainer *object, const char *name, const char *column)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, strlen(name), NULL);

	if (value == NULL || value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		bad_headers(column);
	return value;
}

/* A string as the bytes that a record holds, and as a C string. */
static const char *
string_to_utf8(const JsonbValue *value, Size *len)
{
	return text_to_utf8(pnstrdup(value->val.string.val, value->val.string.len),
						value->val.string.len, len);
}

static void
set_headers(RecordMeta *meta, Jsonb *jsonb, const char *column)
{
	if (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb))
		bad_headers(column);
	meta->nheaders = JB_ROOT_COUNT(jsonb);
	meta->headers = palloc0(sizeof(ProducerHeader) * Max(meta->nheaders, 1));
	for (int i = 0; i < meta->nheaders; i++)
	{
		ProducerHeader *header = &meta->headers[i];
		JsonbValue *element = getIthJsonbValueFromContainer(&jsonb->root, i);
		JsonbValue *name;
		JsonbValue *value;
		Size name_len;

		if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
			bad_headers(column);
		name = header_member(element->val.binary.data, "key", column);
		if (name == NULL)
			bad_headers(column);
		header->name = string_to_utf8(name, &name_len);
		value = header_member(element->val.binary.data, "value", column);
		if (value != NULL)
			header->value = string_to_utf8(value, &header->value_len);
	}
}

/* Take what the row's metadata columns say; NULL says nothing. */
static void
read_metadata(StreamInsert *insert, TupleTableSlot *slot, RecordMeta *meta)
{
	const StreamInfo *stream = insert->stream;

	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(stream->tupdesc, i)->attname);
		MetadataKind kind = stream->columns[i].metadata;
		Datum value = slot->tts_values[i];

		if (kind == META_NONE || slot->tts_isnull[i])
			continue;
		switch (kind)
		{
			case META_KEY:
				set_key(insert, meta, i + 1, value);
				break;
			case META_PARTITION:
				meta->partition = DatumGetInt32(value);
				if (meta->partition < 0)
					ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
									errmsg("invalid partition %d in column \"%s\"", meta->partition,
										   name)));
				break;
			case META_TIMESTAMP:
				meta->timestamp = DatumGetTimestampTz(value);
				if (TIMESTAMP_NOT_FINITE(meta->timestamp))
					ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
									errmsg("timestamp in column \"%s\" must be finite", name)));
				break;
			case META_HEADERS:
				set_headers(meta, DatumGetJsonbP(value), name);
				break;
			case META_TOPIC:
			case META_OFFSET:
				ereport(ERROR,
						(errcode(ERRCODE_GENERATED_ALWAYS),
						 errmsg("cannot insert a value into column \"%s\"", name),
						 errdetail(kind == META_TOPIC
									   ? "The topic of a record is that of the stream."
									   : "The offset of a record is assigned by the broker.")));
				break;
			case META_VALUE:
				ereport(ERROR, (errcode(ERRCODE_GENERATED_ALWAYS),
								errmsg("cannot insert a value into column \"%s\"", name),
								errdetail("The value of a record is made from the columns without "
										  "metadata.")));
				break;
			case META_NONE:
				break;
		}
	}
}

static TupleTableSlot *
insert_row(EState *estate, ResultRelInfo *rel, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	StreamInsert *insert = rel->ri_FdwState;
	MemoryContext caller_context = MemoryContextSwitchTo(insert->row);
	RecordMeta meta = {.partition = -1, .timestamp = DT_NOBEGIN};
	StringInfoData value;
	bool tombstone = false;

	slot_getallattrs(slot);
	read_metadata(insert, slot, &meta);
	if (meta.key == NULL)
		set_key_from_columns(insert, &meta, slot);
	initStringInfo(&value);
	encoder_encode(insert->encoder, slot, &value, &tombstone);
	producer_send(insert->producer, meta.partition, meta.key, meta.key_len,
				  tombstone ? NULL : value.data, tombstone ? 0 : value.len, meta.timestamp,
				  meta.headers, meta.nheaders);

	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(insert->row);
	return slot;
}

/* Only appending is possible, so there is no way to honour ON CONFLICT. */
static List *
plan_insert(PlannerInfo *root, ModifyTable *plan, Index relid, int subplan)
{
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("INSERT with ON CONFLICT clause is not supported for streams")));
	return NIL;
}

static void
begin_insert(ModifyTableState *state, ResultRelInfo *rel, List *fdw_private, int subplan,
			 int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		rel->ri_FdwState = insert_create(rel, state->ps.state);
}

/* COPY, and INSERT into a partitioned table of which the stream is a partition */
static void
begin_routed_insert(ModifyTableState *state, ResultRelInfo *rel)
{
	rel->ri_FdwState = insert_create(rel, state->ps.state);
}

static void
end_insert(EState *estate, ResultRelInfo *rel)
{
	StreamInsert *insert = rel->ri_FdwState;

	if (insert == NULL)
		return;
	producer_flush(insert->producer);
	producer_close(insert->producer);
}

static int
updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

void
stream_insert_methods(FdwRoutine *routine)
{
	routine->PlanForeignModify = plan_insert;
	routine->BeginForeignModify = begin_insert;
	routine->ExecForeignInsert = insert_row;
	routine->EndForeignModify = end_insert;
	routine->BeginForeignInsert = begin_routed_insert;
	routine->EndForeignInsert = end_insert;
	routine->IsForeignRelUpdatable = updatable;
}
