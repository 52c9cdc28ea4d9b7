/*
 * json_values.c
 *		From a value that the scanner found to a Datum: what json_to_record() makes of it.
 */
#include "format/internal.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/execnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* bytes of a JSON array; longer ones are left to json_to_record() */
#define MAX_NATIVE_ARRAY (1024 * 1024)

/* The bytes of a value in the record, the quotes of a string included. */
static void
json_literal(const JsonSlot *slot, const char **str, int *len)
{
	int quote = slot->kind == JSON_STRING ? 1 : 0;

	*str = slot->start - quote;
	*len = slot->len + 2 * quote;
}

/* The string in [p, end) without its escapes, a C string in the scratch context; NULL: error set. */
static char *
unescape(ValueContext *context, const char *p, const char *end, int *len)
{
	int encoding = GetDatabaseEncoding();
	char *result = MemoryContextAlloc(context->scratch, json_unescaped_size(end - p, encoding) + 1);
	const char *detail;
	bool zero;
	char *result_end = json_unescape(p, end, encoding, result, &detail, &zero);

	if (result_end == NULL)
	{
		if (zero)
			value_error(context, ERRCODE_UNTRANSLATABLE_CHARACTER,
						"unsupported Unicode escape sequence", detail);
		else
			value_error(context, ERRCODE_INVALID_TEXT_REPRESENTATION,
						"invalid input syntax for type json", detail);
		return NULL;
	}
	*result_end = '\0';
	*len = result_end - result;
	return result;
}

/* json_to_record() refuses an object or array that holds a string or key which is no text; so does this. */
static bool
check_escapes(ValueContext *context, const JsonSlot *slot)
{
	const char *p = slot->start;
	const char *end = slot->start + slot->len;

	while ((p = memchr(p, '"', end - p)) != NULL)
	{
		bool escapes = false;
		const char *string = p + 1;
		char *text;
		int len;

		p = json_string_end(string, end, &escapes);
		if (escapes)
		{
			text = unescape(context, string, p, &len);
			if (text == NULL)
				return false;
			pfree(text);
		}
		p++;
	}
	return true;
}

/* A string as a value of type json or jsonb. */
static bool
json_from_string(ValueContext *context, ValueReader *reader, const JsonSlot *slot, Datum *value)
{
	const char *str;
	int len;

	if (slot->escapes)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context->scratch);
		StringInfoData buf;
		char *text = unescape(context, slot->start, slot->start + slot->len, &len);

		if (text != NULL)
		{
			initStringInfo(&buf);
			escape_json(&buf, text);
			str = buf.data;
			len = buf.len;
		}
		MemoryContextSwitchTo(oldcontext);
		if (text == NULL)
			return false;
	}
	else
		json_literal(slot, &str, &len);

	if (reader->native == NATIVE_JSON)
	{
		*value = value_varlena(context, str, len);
		return true;
	}
	return value_from_text(context, reader, str, len, value);
}

/* The end of what JSON calls white space. */
static const char *
skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
		p++;
	return p;
}

/*
 * The element of an array that begins at p; its end is put there.  False: it is not for velo's own parsers.
 */
static bool
element_value(ValueContext *context, ValueReader *reader, const char **p, const char *end,
			  Datum *value, bool *isnull)
{
	const char *start = *p;
	bool escapes = false;

	*isnull = false;
	switch (*start)
	{
		case '"':
			start++;
			*p = json_string_end(start, end, &escapes) + 1;
			return value_from_text_natively(context, reader, start, *p - 1 - start, value);
		case 'n':
			*p += strlen("null");
			*value = (Datum) 0;
			*isnull = true;
			return true;
		case 't':
			*p += strlen("true");
			break;
		case 'f':
			*p += strlen("false");
			break;
		case '[':
		case '{':
			return false;
		default:
			*p = json_number_end(start, end);
	}
	return value_from_text_natively(context, reader, start, *p - start, value);
}

/*
 * An array of one dimension without escapes, which the scanner has passed; false: it is for json_to_record(), as is
 * one with an element that velo's own parsers don't know.
 */
static bool
array_value(ValueContext *context, ValueReader *reader, const JsonSlot *slot, Datum *value)
{
	const char *end = slot->start + slot->len - 1;
	const char *p = skip_space(slot->start + 1);
	int max = slot->len / 2 + 1;
	ValueReader *element = reader->element;
	Datum *values;
	bool *nulls;
	int n = 0;
	int lower = 1;
	MemoryContext old;

	if (slot->escapes || slot->len > MAX_NATIVE_ARRAY)
		return false;
	values = MemoryContextAlloc(context->scratch, sizeof(Datum) * max);
	nulls = MemoryContextAlloc(context->scratch, sizeof(bool) * max);
	while (p < end)
	{
		if (!element_value(context, element, &p, end, &values[n], &nulls[n]))
			return false;
		n++;
		p = skip_space(p);
		if (*p == ',')
			p = skip_space(p + 1);
	}
	old = MemoryContextSwitchTo(context->batch->context);
	*value =
		PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, element->typid,
										   element->typlen, element->typbyval, element->typalign));
	MemoryContextSwitchTo(old);
	return true;
}

/* Arrays, composites and domains: left to json_to_record().  May throw. */
static void
value_from_record(ValueContext *context, ValueReader *reader, const JsonSlot *slot, Datum *value,
				  bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo, .expectedDesc = reader->record_desc};
	MemoryContext oldcontext = MemoryContextSwitchTo(context->scratch);
	StringInfoData json;
	HeapTupleHeader record;
	HeapTupleData tuple;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"value\":");
	if (slot->kind == JSON_MISSING || slot->kind == JSON_NULL)
		appendStringInfoString(&json, "null");
	else
	{
		const char *str;
		int len;

		json_literal(slot, &str, &len);
		appendBinaryStringInfo(&json, str, len);
	}
	appendStringInfoChar(&json, '}');

	InitFunctionCallInfoData(*fcinfo, &reader->json_to_record, 1, InvalidOid, NULL,
							 (Node *) &rsinfo);
	fcinfo->args[0].value = PointerGetDatum(cstring_to_text_with_len(json.data, json.len));
	fcinfo->args[0].isnull = false;
	record = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));

	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = record;
	*value = heap_getattr(&tuple, 1, reader->record_desc, isnull);
	MemoryContextSwitchTo(context->batch->context);
	if (!*isnull)
		*value = datumCopy(*value, reader->typbyval, reader->typlen);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * The Datum of a slot.  Returns false and sets the context's error if there is none; may throw what an
 * input function throws.
 */
bool
json_value(ValueContext *context, ValueReader *reader, const JsonSlot *slot, Datum *value,
		   bool *isnull)
{
	*isnull = slot->kind == JSON_MISSING || slot->kind == JSON_NULL;
	if (unlikely(reader->shape != SHAPE_SCALAR) &&
		(reader->shape == SHAPE_DOMAIN || !(*isnull || slot->kind == JSON_STRING)))
	{
		if (!(reader->element != NULL && slot->kind == JSON_ARRAY &&
			  array_value(context, reader, slot, value)))
			value_from_record(context, reader, slot, value, isnull);
		return true;
	}

	switch (slot->kind)
	{
		case JSON_MISSING:
		case JSON_NULL:
			*value = (Datum) 0;
			return true;

		case JSON_STRING:
			if (reader->typid == JSONOID || reader->typid == JSONBOID)
				return json_from_string(context, reader, slot, value);
			if (unlikely(slot->escapes))
			{
				int len;
				char *text = unescape(context, slot->start, slot->start + slot->len, &len);

				return text != NULL && value_from_text(context, reader, text, len, value);
			}
			return value_from_text(context, reader, slot->start, slot->len, value);

		case JSON_NUMBER:
			if (reader->native == NATIVE_TIMESTAMPTZ)
				return timestamptz_from_number(context, reader, slot->start, slot->len, value);
			break;

		case JSON_TRUE:
		case JSON_FALSE:
			break;

		case JSON_OBJECT:
		case JSON_ARRAY:
			if (slot->escapes && !check_escapes(context, slot))
				return false;
			break;
	}
	if (reader->native == NATIVE_JSON)
	{
		*value = value_varlena(context, slot->start, slot->len);
		return true;
	}
	return value_from_text(context, reader, slot->start, slot->len, value);
}
