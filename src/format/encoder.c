/*
 * encoder.c
 *		Rows to the values of records: what INSERT into a stream produces.
 *
 * The reverse of decoder.c: what is encoded here decodes to the same row.  In json a column stands at its
 * path, written as to_json() writes its type; metadata columns are no part of the value.
 */
#include "format/internal.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* A key of the JSON object: a column, or an object of further keys. */
typedef struct EncoderField
{
	char *name;
	int column;       /* attribute number - 1; -1: an object */
	List *fields;     /* of EncoderField, if it is an object */
	FmgrInfo to_json; /* if it is a column */
} EncoderField;

struct Encoder
{
	StreamFormat format;
	MemoryContext scratch;
	List *fields;    /* of EncoderField; format json */
	int column;      /* the value's, as in EncoderField; format raw */
	bool bytes;      /* of type bytea */
	FmgrInfo output; /* if it is not */
};

/*
 * Find or add "name"; it is an object unless "column" is given.  A column must have its place to itself: not
 * even to_json() of a column can be merged with others inside it.
 */
static EncoderField *
add_field(const StreamInfo *stream, List **fields, char *name, int column)
{
	EncoderField *field;
	ListCell *lc;

	foreach (lc, *fields)
	{
		field = lfirst(lc);
		if (strcmp(field->name, name) != 0)
			continue;
		if (column >= 0 || field->column >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot write to stream %s", stream->name),
					 errdetail("The field of column \"%s\" is, or is part of, that of another "
							   "column.",
							   NameStr(TupleDescAttr(stream->tupdesc, Max(column, field->column))
										   ->attname))));
		return field;
	}

	field = palloc0(sizeof(EncoderField));
	field->name = name;
	field->column = column;
	*fields = lappend(*fields, field);
	return field;
}

/* to_json() finds the type of its argument in the expression that calls it. */
static void
init_to_json(FmgrInfo *to_json, Form_pg_attribute attr)
{
	Const *arg = makeNullConst(attr->atttypid, attr->atttypmod, attr->attcollation);
	FuncExpr *call = makeFuncExpr(F_TO_JSON, JSONOID, list_make1(arg), InvalidOid, InvalidOid,
								  COERCE_EXPLICIT_CALL);

	fmgr_info(F_TO_JSON, to_json);
	fmgr_info_set_expr((Node *) call, to_json);
}

Encoder *
encoder_create(const StreamInfo *stream)
{
	Encoder *encoder = palloc0(sizeof(Encoder));

	encoder->format = stream->format;
	encoder->column = -1;
	encoder->scratch =
		AllocSetContextCreate(CurrentMemoryContext, "velo encoder", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < stream->tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(stream->tupdesc, i);
		const StreamColumn *target = &stream->columns[i];

		if (attr->attisdropped || target->metadata != META_NONE)
			continue;

		if (stream->format == FORMAT_JSON)
		{
			List **fields = &encoder->fields;

			for (int j = 0; j < target->npath - 1; j++)
				fields = &add_field(stream, fields, target->path[j], -1)->fields;
			init_to_json(&add_field(stream, fields, target->path[target->npath - 1], i)->to_json,
						 attr);
		}
		else
		{
			Oid output;
			bool isvarlena;

			encoder->column = i;
			encoder->bytes = attr->atttypid == BYTEAOID;
			getTypeOutputInfo(attr->atttypid, &output, &isvarlena);
			fmgr_info(output, &encoder->output);
		}
	}
	return encoder;
}

const char *
text_to_utf8(const char *text, int len, Size *result_len)
{
	char *converted = pg_server_to_any(text, len, PG_UTF8);

	*result_len = converted == text ? (Size) len : strlen(converted);
	return converted;
}

static void
encode_object(List *fields, TupleTableSlot *slot, StringInfo json)
{
	bool first = true;
	ListCell *lc;

	appendStringInfoChar(json, '{');
	foreach (lc, fields)
	{
		EncoderField *field = lfirst(lc);

		if (!first)
			appendStringInfoChar(json, ',');
		first = false;
		escape_json(json, field->name);
		appendStringInfoChar(json, ':');
		if (field->column < 0)
			encode_object(field->fields, slot, json);
		else if (slot->tts_isnull[field->column])
			appendStringInfoString(json, "null");
		else
		{
			text *value =
				DatumGetTextPP(FunctionCall1(&field->to_json, slot->tts_values[field->column]));

			appendBinaryStringInfo(json, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
		}
	}
	appendStringInfoChar(json, '}');
}

void
encoder_encode(Encoder *encoder, TupleTableSlot *slot, StringInfo value, bool *tombstone)
{
	MemoryContext oldcontext;
	const char *bytes;
	Size len;

	slot_getallattrs(slot);
	*tombstone =
		encoder->format == FORMAT_RAW && (encoder->column < 0 || slot->tts_isnull[encoder->column]);
	if (*tombstone)
		return;

	MemoryContextReset(encoder->scratch);
	oldcontext = MemoryContextSwitchTo(encoder->scratch);
	if (encoder->format == FORMAT_JSON)
	{
		StringInfoData json;

		initStringInfo(&json);
		encode_object(encoder->fields, slot, &json);
		bytes = text_to_utf8(json.data, json.len, &len);
	}
	else if (encoder->bytes)
	{
		bytea *data = DatumGetByteaPP(slot->tts_values[encoder->column]);

		bytes = VARDATA_ANY(data);
		len = VARSIZE_ANY_EXHDR(data);
	}
	else
	{
		char *text = OutputFunctionCall(&encoder->output, slot->tts_values[encoder->column]);

		bytes = text_to_utf8(text, strlen(text), &len);
	}
	MemoryContextSwitchTo(oldcontext);
	appendBinaryStringInfo(value, bytes, len);
}
