/*
 * internal.h
 *		What the files of format/ share and no other room sees.
 *
 * A decoder works in two steps.  json_scan() walks once over the bytes of a record, checks them and notes
 * where the wanted values are (JsonSlot); json_value() then makes Datums of those through a ValueReader,
 * the knowledge of how one column's type is read.  So nothing is converted before the whole record is
 * known to be well formed, and of duplicate keys only the last is looked at.
 */
#ifndef VELO_FORMAT_INTERNAL_H
#define VELO_FORMAT_INTERNAL_H

#include "format/format.h"

#include "fmgr.h"

/* ------------------------------------------------------------------ values (native_types.c) */

/* Types for which velo has a parser of its own; it hands what it does not know to the input function. */
typedef enum NativeType
{
	NATIVE_NONE,
	NATIVE_BOOL,
	NATIVE_INT2,
	NATIVE_INT4,
	NATIVE_INT8,
	NATIVE_FLOAT4,
	NATIVE_FLOAT8,
	NATIVE_NUMERIC,
	NATIVE_TEXT, /* and varchar */
	NATIVE_JSON,
	NATIVE_DATE,
	NATIVE_TIMESTAMP,
	NATIVE_TIMESTAMPTZ,
	NATIVE_UUID
} NativeType;

/* How the json functions of PostgreSQL treat a type (jsonfuncs.c, TypeCat). */
typedef enum JsonShape
{
	SHAPE_SCALAR,
	SHAPE_NESTED, /* array or composite: from a JSON string through the input function */
	SHAPE_DOMAIN  /* needs a look even at null */
} JsonShape;

typedef struct ValueReader
{
	Oid typid;
	int32 typmod;
	int16 typlen;
	bool typbyval;
	char typalign;
	NativeType native;
	JsonShape shape;
	int unit_shift; /* of a JSON number read as timestamptz: times 10 to this gives microseconds */
	/* the last date that was read, and its days since 2000-01-01; '' at first */
	char date[10];
	int32 date_days;
	Oid typioparam;
	FmgrInfo input;
	bool catchable; /* errors of the input function can be caught, see value_from_cstring() */
	struct ValueReader *element; /* of an array, if velo's own parsers know its type; else NULL */
	/* for shapes other than SHAPE_SCALAR */
	FmgrInfo json_to_record;
	MemoryContext record_context; /* what json_to_record() keeps from call to call */
	TupleDesc record_desc;        /* of one column, "value" */
} ValueReader;

/*
 * What conversions need besides the reader: where by-reference results go, and where to say what is wrong.
 * A conversion that returns false has set the error; its strings live in the batch's context.
 */
typedef struct ValueContext
{
	RecordBatch *batch;
	MemoryContext scratch; /* for what a conversion leaves behind; emptied before each record */
	int sqlerrcode;
	char *message;
	char *detail;
} ValueContext;

/* Fill a reader of a type; what it refers to is in the current memory context. */
extern void value_reader_init(ValueReader *reader, Oid typid, int32 typmod, int64 unit);
/* For a new batch: types may have changed since the last one, as by ALTER TYPE ... ADD ATTRIBUTE. */
extern void value_reader_refresh(ValueReader *reader);
/* What the type's input function makes of a string of "len" bytes without NUL, in the server's encoding. */
extern bool value_from_text(ValueContext *context, ValueReader *reader, const char *str, int len,
							Datum *value);
/* The same by velo's own parsers alone; false: they don't know. */
extern bool value_from_text_natively(ValueContext *context, ValueReader *reader, const char *str,
									 int len, Datum *value);
/* The same of a C string, without a parser of velo's own.  May throw. */
extern bool value_from_cstring(ValueContext *context, ValueReader *reader, char *str, Datum *value);
/* A JSON number as the time since 1970 in the reader's unit. */
extern bool timestamptz_from_number(ValueContext *context, const ValueReader *reader,
									const char *str, int len, Datum *value);
/* Sets the error, copying the strings, and returns false. */
extern bool value_error(ValueContext *context, int sqlerrcode, const char *message,
						const char *detail);
/* The bytes as a varlena in the batch. */
extern Datum value_varlena(ValueContext *context, const char *str, int len);

/* ------------------------------------------------------------------ json (json_scanner.c, json_values.c) */

typedef enum JsonKind
{
	JSON_MISSING,
	JSON_NULL,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NUMBER,
	JSON_STRING,
	JSON_OBJECT,
	JSON_ARRAY
} JsonKind;

/* A wanted value as the scanner found it. */
typedef struct JsonSlot
{
	JsonKind kind;
	bool escapes;      /* it has, or holds strings that have, backslash escapes */
	int len;           /* bytes */
	const char *start; /* in the record; of a string: behind the quote */
} JsonSlot;

typedef struct JsonScanner JsonScanner;

typedef enum JsonVerdict
{
	JSON_IS_OBJECT,
	JSON_IS_ARRAY,
	JSON_IS_SCALAR,
	JSON_IS_INVALID
} JsonVerdict;

/*
 * Make a scanner for "nwanted" paths; slots[i] is where json_scan() leaves the value at paths[i] (of npaths[i]
 * names).  Lives in the current memory context; the paths must live as long.
 */
extern JsonScanner *json_scanner_create(int nwanted, char ***paths, const int *npaths,
										const JsonSlot **slots);
/*
 * Check the syntax of a whole JSON text, in the server's encoding, and fill the slots if it is an object.
 * *depth is how deep it nests.
 */
extern JsonVerdict json_scan(JsonScanner *scanner, const char *str, int len, int *depth);
/* From behind the opening quote to the closing one; NULL: malformed.  Sets *escapes if there is any. */
extern const char *json_string_end(const char *p, const char *end, bool *escapes);
extern const char *json_number_end(const char *p, const char *end);
/*
 * Replace the escapes of [p, end), which json_string_end() has passed, by what they stand for.  "encoding" is that
 * of the text, the server's or PG_UTF8.  Writes to "out", which has json_unescaped_size() bytes, and returns the
 * end of it; NULL: there is an escape that no text can hold, and *zero tells whether it is \u0000 or a surrogate
 * without its other half, for which *detail has PostgreSQL's words.  Throws, as PostgreSQL does, for a character
 * that the encoding does not have.
 */
extern char *json_unescape(const char *p, const char *end, int encoding, char *out,
						   const char **detail, bool *zero);
extern Size json_unescaped_size(Size len, int encoding);

extern bool json_value(ValueContext *context, ValueReader *reader, const JsonSlot *slot,
					   Datum *value, bool *isnull);

/* ------------------------------------------------------------------ record_batch.c */

extern char *record_batch_new_chunk(RecordBatch *batch, Size size);

/* Memory for a decoded value, aligned for any type, until the batch is reset. */
static inline char *
record_batch_alloc(RecordBatch *batch, Size size)
{
	char *result = batch->arena_next;

	size = MAXALIGN(size);
	if (unlikely(size > (Size) (batch->arena_limit - result)))
		return record_batch_new_chunk(batch, size);
	batch->arena_next = result + size;
	return result;
}

#endif /* VELO_FORMAT_INTERNAL_H */
