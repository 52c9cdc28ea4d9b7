/*
 * decoder.c
 *		Records to columns: formats json and raw, metadata columns, the event time.
 *
 * What a record's value says is found by json_scanner.c and converted by json_values.c and native_types.c;
 * this file goes over the records and puts the pieces together.
 */
#include "format/internal.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * Objects and arrays nested deeper than this are shown to PostgreSQL's own parser, whose limit is the stack.
 * Far below what max_stack_depth can be set to, and far above what is usual.
 */
#define UNUSUAL_DEPTH 100

/* A record longer than this would not fit into a text with all that is around it. */
#define MAX_VALUE_LEN (MaxAllocSize / 4)

typedef struct DecoderColumn
{
	AttrNumber attnum;
	MetadataKind metadata;
	const JsonSlot *slot; /* of format json */
	ValueReader reader;
	/* of the batch being decoded; event time alone may be NULL, if its value is not wanted */
	Datum *values;
	bool *nulls;
} DecoderColumn;

struct Decoder
{
	StreamFormat format;
	Oid owner; /* of the stream */
	int natts;
	int ncolumns;
	DecoderColumn *columns;    /* wanted ones */
	DecoderColumn *event_time; /* one of them, or NULL */
	int64 max_future;
	JsonScanner *scanner;
	ValueReader json; /* of type json: PostgreSQL's own parser */
	ValueContext context;
	/* of the batch being decoded */
	Datum topic;        /* 0: not made yet */
	TimestampTz latest; /* event times beyond this are bad */
};

Decoder *
decoder_create(const StreamInfo *stream, const Bitmapset *wanted)
{
	Decoder *decoder = palloc0(sizeof(Decoder));
	int natts = stream->tupdesc->natts;
	char ***paths = palloc(sizeof(char **) * natts);
	int *npaths = palloc(sizeof(int) * natts);
	DecoderColumn **from_json = palloc(sizeof(DecoderColumn *) * natts);
	const JsonSlot **slots = palloc(sizeof(JsonSlot *) * natts);
	int njson = 0;

	decoder->format = stream->format;
	decoder->owner = stream->owner;
	decoder->natts = natts;
	decoder->max_future = stream->max_future;
	decoder->columns = palloc0(sizeof(DecoderColumn) * natts);
	decoder->context.scratch =
		AllocSetContextCreate(CurrentMemoryContext, "velo decoder", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(stream->tupdesc, i);
		const StreamColumn *source = &stream->columns[i];
		DecoderColumn *column;

		if (attr->attisdropped ||
			(attr->attnum != stream->event_time && !bms_is_member(attr->attnum, wanted)))
			continue;

		column = &decoder->columns[decoder->ncolumns++];
		column->attnum = attr->attnum;
		column->metadata = source->metadata;
		value_reader_init(&column->reader, attr->atttypid, attr->atttypmod, source->unit);
		if (attr->attnum == stream->event_time)
			decoder->event_time = column;
		if (source->metadata == META_NONE && stream->format == FORMAT_JSON)
		{
			paths[njson] = source->path;
			npaths[njson] = source->npath;
			from_json[njson++] = column;
		}
	}

	decoder->scanner = json_scanner_create(njson, paths, npaths, slots);
	for (int i = 0; i < njson; i++)
		from_json[i]->slot = slots[i];
	value_reader_init(&decoder->json, JSONOID, -1, 1);
	return decoder;
}

/* ------------------------------------------------------------------ values */

/* Are all bytes ASCII?  (NUL passes.) */
static inline bool
is_ascii(const char *p, Size len)
{
	const char *end = p + len;
	uint64 bits = 0;

	for (; end - p >= (ptrdiff_t) sizeof(uint64); p += sizeof(uint64))
	{
		uint64 word;

		memcpy(&word, p, sizeof(word));
		bits |= word;
	}
	for (; p < end; p++)
		bits |= (unsigned char) *p;
	return (bits & UINT64CONST(0x8080808080808080)) == 0;
}

static bool
check_encoding(ValueContext *context, const char *str, int len)
{
	int valid = pg_encoding_verifymbstr(PG_UTF8, str, len);
	StringInfoData message;
	MemoryContext oldcontext;
	int nbytes;

	if (valid == len)
		return true;

	/* the words of report_invalid_encoding() */
	str += valid;
	len -= valid;
	nbytes = Min(pg_encoding_mblen(PG_UTF8, str), len);
	oldcontext = MemoryContextSwitchTo(context->scratch);
	initStringInfo(&message);
	appendStringInfo(&message,
					 "invalid byte sequence for encoding \"%s\":", pg_encoding_to_char(PG_UTF8));
	for (int i = 0; i < nbytes; i++)
		appendStringInfo(&message, " 0x%02x", (unsigned char) str[i]);
	MemoryContextSwitchTo(oldcontext);
	return value_error(context, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, message.data, NULL);
}

/*
 * Text comes as UTF-8.  Check it, and convert it if the database has another encoding (that may throw).
 * With "json" NUL may pass in ASCII text: the syntax has no place for it.
 */
static inline bool
to_server_encoding(ValueContext *context, const char **str, int *len, bool json)
{
	char *converted;

	if (likely(GetDatabaseEncoding() == PG_UTF8))
		return (json && is_ascii(*str, *len)) || check_encoding(context, *str, *len);

	if (!check_encoding(context, *str, *len))
		return false;
	converted = pg_any_to_server(*str, *len, PG_UTF8);
	if (converted != *str)
	{
		*str = converted;
		*len = strlen(converted);
	}
	return true;
}

/* Bytes as a value of a column's type: of bytea as they are, else as text for the input function. */
static bool
value_from_bytes(ValueContext *context, ValueReader *reader, const char *bytes, Size nbytes,
				 Datum *value)
{
	int len = nbytes;

	if (nbytes > MAX_VALUE_LEN)
		return value_error(context, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "record is too long", NULL);
	if (reader->typid == BYTEAOID)
	{
		*value = value_varlena(context, bytes, len);
		return true;
	}
	return to_server_encoding(context, &bytes, &len, false) &&
		   value_from_text(context, reader, bytes, len, value);
}

/* Let PostgreSQL's parser say whether, and why not, this is JSON.  In the server's encoding, checked. */
static bool
check_json(Decoder *decoder, const char *str, int len)
{
	Datum json;

	return value_from_text(&decoder->context, &decoder->json, str, len, &json);
}

/* Find the wanted values of a record; false: it is bad, error set. */
static inline bool
scan_record(Decoder *decoder, const Record *record)
{
	ValueContext *context = &decoder->context;
	const char *str = record->value;
	int len = record->value_len;
	int depth;

	if (record->value_len > MAX_VALUE_LEN)
		return value_error(context, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "record is too long", NULL);
	if (!to_server_encoding(context, &str, &len, true))
		return false;

	switch (json_scan(decoder->scanner, str, len, &depth))
	{
		case JSON_IS_OBJECT:
			return likely(depth <= UNUSUAL_DEPTH) || check_json(decoder, str, len);
		case JSON_IS_ARRAY:
			return (depth <= UNUSUAL_DEPTH || check_json(decoder, str, len)) &&
				   value_error(context, ERRCODE_INVALID_PARAMETER_VALUE,
							   "record is a JSON array, not an object", NULL);
		case JSON_IS_SCALAR:
			return value_error(context, ERRCODE_INVALID_PARAMETER_VALUE,
							   "record is a JSON scalar, not an object", NULL);
		case JSON_IS_INVALID:
			/* in another encoding it has been checked in full */
			if ((GetDatabaseEncoding() != PG_UTF8 || check_encoding(context, str, len)) &&
				check_json(decoder, str, len))
				elog(ERROR, "record is refused by one JSON parser and accepted by the other");
			return false;
	}
	pg_unreachable();
}

/* The value of a metadata column.  Returns false with the error set; may throw. */
static bool
metadata_value(Decoder *decoder, DecoderColumn *column, const RecordBatch *batch,
			   const Record *record, Datum *value, bool *isnull)
{
	ValueContext *context = &decoder->context;

	*value = (Datum) 0;
	*isnull = false;
	switch (column->metadata)
	{
		case META_TOPIC:
			if (decoder->topic == (Datum) 0)
				decoder->topic = value_varlena(context, batch->topic, strlen(batch->topic));
			*value = decoder->topic;
			return true;

		case META_PARTITION:
			*value = Int32GetDatum(batch->partitions[record->partition]);
			return true;

		case META_OFFSET:
			*value = Int64GetDatum(record->offset);
			return true;

		case META_TIMESTAMP:
			*isnull = TIMESTAMP_IS_NOBEGIN(record->timestamp);
			*value = TimestampTzGetDatum(record->timestamp);
			return true;

		case META_KEY:
			*isnull = record->key == NULL;
			if (*isnull)
			{
				/* a domain may refuse it */
				if (column->reader.shape == SHAPE_DOMAIN)
					(void) InputFunctionCall(&column->reader.input, NULL, column->reader.typioparam,
											 column->reader.typmod);
				return true;
			}
			return value_from_bytes(context, &column->reader, record->key, record->key_len, value);

		case META_HEADERS:
		{
			Jsonb *headers = batch->headers ? batch->headers(record) : NULL;

			*isnull = headers == NULL;
			if (headers)
				*value = JsonbPGetDatum(headers);
			return true;
		}

		case META_NONE: /* of format raw */
		case META_VALUE:
			return value_from_bytes(context, &column->reader, record->value, record->value_len,
									value);
	}
	pg_unreachable();
}

/* ------------------------------------------------------------------ batches */

static bool
check_event_time(Decoder *decoder, Datum value, bool isnull)
{
	ValueContext *context = &decoder->context;
	TimestampTz time = DatumGetTimestampTz(value);

	if (unlikely(isnull))
		return value_error(context, ERRCODE_NULL_VALUE_NOT_ALLOWED, "event time is null", NULL);
	if (unlikely(TIMESTAMP_NOT_FINITE(time)))
		return value_error(context, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "event time is infinite",
						   NULL);
	if (unlikely(time > decoder->latest))
		return value_error(context, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
						   "event time is too far in the future",
						   psprintf("It is %s, ahead of the clock by more than the stream's "
									"option \"max_future\" allows.",
									timestamptz_to_str(time)));
	return true;
}

/* Decode one record into the columns at "index"; false: it is bad, error set. */
static inline bool
decode_record(Decoder *decoder, RecordBatch *batch, int index)
{
	const Record *record = &batch->records[index];

	if (decoder->format == FORMAT_JSON && !scan_record(decoder, record))
		return false;

	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];
		Datum value;
		bool isnull;

		if (column->slot)
		{
			if (!json_value(&decoder->context, &column->reader, column->slot, &value, &isnull))
				return false;
		}
		else if (!metadata_value(decoder, column, batch, record, &value, &isnull))
			return false;

		if (column == decoder->event_time && !check_event_time(decoder, value, isnull))
			return false;
		if (column->values)
		{
			column->values[index] = value;
			column->nulls[index] = isnull;
		}
	}
	return true;
}

/*
 * What a domain checks a value by is code, chosen by whoever owns the stream or the domain, and changed at will.  It must
 * not run with the rights of somebody who has more: a superuser, or whoever else may become the stream's owner.  The
 * other way round it must not get rights that it would not have otherwise, as search_path is the reader's.
 */
static bool
runs_as_owner(const Decoder *decoder)
{
	return decoder->owner != GetUserId() && compat_can_set_role(GetUserId(), decoder->owner);
}

/* If it throws, the user is set right by the end of the (sub)transaction, as everywhere. */
void
decoder_decode(Decoder *decoder, RecordBatch *batch, int from, int to, int *position)
{
	ValueContext *context = &decoder->context;
	MemoryContext oldcontext;
	bool as_owner = runs_as_owner(decoder);
	UserState caller;

	Assert(batch->natts == decoder->natts);
	Assert(from >= 0 && to <= batch->capacity);
	context->batch = batch;
	decoder->topic = (Datum) 0;
	decoder->latest = PG_INT64_MAX;
	if (decoder->max_future >= 0 && decoder->event_time &&
		pg_add_s64_overflow(GetCurrentTimestamp(), decoder->max_future, &decoder->latest))
		decoder->latest = PG_INT64_MAX;
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];

		column->values = batch->values[column->attnum - 1];
		column->nulls = batch->nulls[column->attnum - 1];
		value_reader_refresh(&column->reader);
	}

	if (as_owner)
		become_owner(decoder->owner, &caller);
	oldcontext = MemoryContextSwitchTo(batch->context);
	for (int i = from; i < to; i++)
	{
		*position = i;
		MemoryContextReset(context->scratch);
		if (batch->records[i].value == NULL)
			batch->status[i] = RECORD_TOMBSTONE;
		else if (likely(decode_record(decoder, batch, i)))
			batch->status[i] = RECORD_OK;
		else
			record_batch_set_error(batch, i, context->sqlerrcode, context->message,
								   context->detail);
	}
	MemoryContextSwitchTo(oldcontext);
	if (as_owner)
		become_caller(&caller);
}
