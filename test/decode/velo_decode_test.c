/*
 * velo_decode_test.c
 *		SQL functions to test src/format with: single records, a differential fuzz, timings.
 *
 * ::json and json_to_record() are the definition of what the json decoder has to do; the fuzz generates
 * records, whole and damaged ones, and compares.  The decoders are linked in, so nothing of this is in velo.
 */
#include "postgres.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "format/format.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(decode_record);
PG_FUNCTION_INFO_V1(encode_record);
PG_FUNCTION_INFO_V1(decode_fuzz);
PG_FUNCTION_INFO_V1(decode_bench);

/* ------------------------------------------------------------------ streams and errors */

static StreamInfo *
make_stream(TupleDesc tupdesc)
{
	StreamInfo *stream = palloc0(sizeof(StreamInfo));

	stream->name = "test";
	stream->topic = "test";
	stream->owner = GetUserId();
	stream->tupdesc = tupdesc;
	stream->format = FORMAT_JSON;
	stream->max_future = -1;
	stream->columns = palloc0(sizeof(StreamColumn) * tupdesc->natts);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		stream->columns[i].unit = 1000;
		stream->columns[i].npath = 1;
		stream->columns[i].path = palloc(sizeof(char *));
		stream->columns[i].path[0] = pstrdup(NameStr(TupleDescAttr(tupdesc, i)->attname));
	}
	return stream;
}

static Bitmapset *
all_columns(TupleDesc tupdesc)
{
	return bms_add_range(NULL, 1, tupdesc->natts);
}

static void
set_path(StreamColumn *column, const char *path)
{
	char *copy = pstrdup(path);
	char *name;

	column->npath = 0;
	column->path = palloc(sizeof(char *) * (strlen(path) + 1));
	while ((name = strsep(&copy, ".")) != NULL)
		column->path[column->npath++] = name;
}

/* "raw", "event_time NAME", "max_future MICROSECONDS", "NAME field PATH", "NAME unit N", "NAME metadata KIND" */
static void
set_option(StreamInfo *stream, const char *option)
{
	static const char *const kinds[] = {"",          "topic", "partition", "offset",
										"timestamp", "key",   "headers",   "value"};
	char name[NAMEDATALEN];
	char what[NAMEDATALEN] = "";
	char arg[256] = "";
	int i = 0;

	sscanf(option, "%63s %63s %255s", name, what, arg);
	if (strcmp(name, "raw") == 0)
	{
		stream->format = FORMAT_RAW;
		return;
	}
	if (strcmp(name, "max_future") == 0)
	{
		stream->max_future = atoll(what);
		return;
	}
	while (i < stream->tupdesc->natts && strcmp(NameStr(TupleDescAttr(stream->tupdesc, i)->attname),
												strcmp(name, "event_time") == 0 ? what : name) != 0)
		i++;
	if (i == stream->tupdesc->natts)
		elog(ERROR, "no such column: %s", option);
	if (strcmp(name, "event_time") == 0)
		stream->event_time = i + 1;
	else if (strcmp(what, "field") == 0)
		set_path(&stream->columns[i], arg);
	else if (strcmp(what, "unit") == 0)
		stream->columns[i].unit = atoll(arg);
	else
		for (int kind = META_TOPIC; kind <= META_VALUE; kind++)
			if (strcmp(kinds[kind], arg) == 0)
				stream->columns[i].metadata = kind;
}

static StreamInfo *
stream_of_relation(Oid relid, ArrayType *options)
{
	Relation rel = relation_open(relid, AccessShareLock);
	StreamInfo *stream = make_stream(CreateTupleDescCopy(RelationGetDescr(rel)));
	Datum *elems;
	int nelems;

	relation_close(rel, AccessShareLock);
	deconstruct_array(options, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, &nelems);
	for (int i = 0; i < nelems; i++)
		set_option(stream, TextDatumGetCString(elems[i]));
	return stream;
}

/* Runs "action" in a subtransaction; what it throws is returned, NULL if nothing. */
static ErrorData *
try_action(void (*action)(void *arg), void *arg)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		action(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	return error;
}

typedef struct DecodeArgs
{
	Decoder *decoder;
	RecordBatch *batch;
	int from;
	int position;
} DecodeArgs;

static void
decode_action(void *arg)
{
	DecodeArgs *args = arg;

	decoder_decode(args->decoder, args->batch, args->from, args->batch->nrecords, &args->position);
}

/* Decode a whole batch as a pipeline does: what is thrown is put down to the record at *position. */
static void
decode_batch(Decoder *decoder, RecordBatch *batch)
{
	DecodeArgs args = {decoder, batch, 0, 0};
	ErrorData *error;

	while ((error = try_action(decode_action, &args)) != NULL)
	{
		if (args.position < args.from || args.position >= batch->nrecords)
			elog(ERROR, "position %d is not in the batch", args.position);
		record_batch_set_error(batch, args.position, error->sqlerrcode, error->message,
							   error->detail);
		args.from = args.position + 1;
		FreeErrorData(error);
	}
}

static RecordError *
error_of(RecordBatch *batch, int record)
{
	ListCell *lc;

	foreach (lc, batch->errors)
		if (((RecordError *) lfirst(lc))->record == record)
			return lfirst(lc);
	elog(ERROR, "bad record without an error");
}

static Jsonb *
test_headers(const Record *record)
{
	if (record->handle == NULL)
		return NULL;
	return DatumGetJsonbP(
		DirectFunctionCall1(jsonb_in, CStringGetDatum("[{\"key\": \"h\", \"value\": \"x\"}]")));
}

/*
 * decode_record(relation regclass, options text[], value bytea [, key bytea]) returns text
 *
 * The row as text, 'tombstone', or the error.
 */
Datum
decode_record(PG_FUNCTION_ARGS)
{
	StreamInfo *stream = stream_of_relation(PG_GETARG_OID(0), PG_GETARG_ARRAYTYPE_P(1));
	int natts = stream->tupdesc->natts;
	Bitmapset *wanted = all_columns(stream->tupdesc);
	RecordBatch *batch = record_batch_create(CurrentMemoryContext, 1, natts, wanted);
	Decoder *decoder = decoder_create(stream, wanted);
	const int32 partitions[] = {7};
	Record *record = &batch->records[0];
	Datum *values = palloc(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	Oid output;
	bool isvarlena;
	TupleDesc rowdesc;

	memset(record, 0, sizeof(*record));
	if (!PG_ARGISNULL(2))
	{
		record->value = VARDATA_ANY(PG_GETARG_BYTEA_PP(2));
		record->value_len = VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(2));
	}
	if (!PG_ARGISNULL(3))
	{
		record->key = VARDATA_ANY(PG_GETARG_BYTEA_PP(3));
		record->key_len = VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(3));
		record->handle = record;
	}
	record->offset = 42;
	batch->nrecords = 1;
	batch->topic = stream->topic;
	batch->partitions = partitions;
	batch->headers = test_headers;
	decode_batch(decoder, batch);

	if (batch->status[0] == RECORD_TOMBSTONE)
		PG_RETURN_TEXT_P(cstring_to_text("tombstone"));
	if (batch->status[0] == RECORD_BAD)
	{
		RecordError *error = error_of(batch, 0);

		PG_RETURN_TEXT_P(cstring_to_text(
			psprintf("%s %.200s%s%.200s", unpack_sql_state(error->sqlerrcode), error->message,
					 error->detail ? " | " : "", error->detail ? error->detail : "")));
	}
	for (int i = 0; i < natts; i++)
	{
		values[i] = batch->values[i] ? batch->values[i][0] : (Datum) 0;
		nulls[i] = batch->nulls[i] ? batch->nulls[i][0] : true;
	}
	rowdesc = BlessTupleDesc(stream->tupdesc);
	getTypeOutputInfo(RECORDOID, &output, &isvarlena);
	PG_RETURN_TEXT_P(cstring_to_text(
		OidOutputFunctionCall(output, HeapTupleGetDatum(heap_form_tuple(rowdesc, values, nulls)))));
}

/* encode_record(relation regclass, options text[], row record) returns bytea: NULL for a tombstone */
Datum
encode_record(PG_FUNCTION_ARGS)
{
	StreamInfo *stream = stream_of_relation(PG_GETARG_OID(0), PG_GETARG_ARRAYTYPE_P(1));
	Encoder *encoder = encoder_create(stream);
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(2);
	HeapTupleData tuple = {0};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(stream->tupdesc, &TTSOpsHeapTuple);
	StringInfoData value;
	bool tombstone;

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	ExecStoreHeapTuple(&tuple, slot, false);
	initStringInfo(&value);
	encoder_encode(encoder, slot, &value, &tombstone);
	ExecDropSingleTupleTableSlot(slot);
	if (tombstone)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P((bytea *) cstring_to_text_with_len(value.data, value.len));
}

/* ------------------------------------------------------------------ generator */

static pg_prng_state prng;

static uint32
below(uint32 n)
{
	return pg_prng_uint64_range(&prng, 0, n - 1);
}

static bool
chance(int percent)
{
	return (int) below(100) < percent;
}

#define PICK(array) ((array)[below(lengthof(array))])

static const char *const names[] = {"a", "b", "ab", "\xc3\xa9", "price", "symbol_name", "q\"\\"};
static const char *const other_names[] = {
	"x",  "yy",           "",
	"A",  "\xe2\x82\xac", "unwanted_key_that_is_rather_long_and_does_not_fit_into_a_step",
	"abc"};

/* A type of columns, and JSON values that it takes or nearly takes. */
typedef struct FuzzType
{
	const char *name;
	const char *values[12];
} FuzzType;

#define INTEGERS                                                                                   \
	{                                                                                              \
		"0", "-1", "32767", "32768", "2147483648", "\"12\"", "\" 7 \"", "1.0", "1e2", "-0"         \
	}
#define FLOATS                                                                                     \
	{                                                                                              \
		"0.1", "1e-7", "-0.0", "\"nan\"", "\"-Infinity\"", "1e39", "123456789.123456789",          \
			"4.9e-324", "9007199254740993"                                                         \
	}
#define TIMES                                                                                      \
	{                                                                                              \
		"\"2026-03-29T02:30:00\"", "\"2011-12-30 12:00\"", "\"1883-11-18 12:03:57\"",              \
			"\"20260101T000000Z\"", "\"03/04/2026\"", "\"4.3.2026 1:2\"", "1767225600123.5",       \
			"-1e3", "\"2026-01-01 00:00:00.5+05:30:15\"", "\"allballs\"", "\"2026-W01-1\"",        \
			"\"January 8, 1999\""                                                                  \
	}
#define UUIDS                                                                                      \
	{                                                                                              \
		"\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"", "\"A0EEBC99-9C0B-4EF8-bB6D-6BB9BD380AfF\"",    \
			"\"A0EEBC99-9C0B4EF8-BB6D-6BB9BD380A11\"", "\"{a0eebc999c0b4ef8bb6d6bb9bd380a11}\"",   \
			"\"a0eebc99-9c0b-4ef8-bb6d_6bb9bd380a11\"",                                            \
			"\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380ag1\"", "\"a0eebc9909c0b04ef80bb6d06bb9bd380a11\"" \
	}
#define ARRAYS(v, w)                                                                               \
	{                                                                                              \
		"[" v "," w "]", "[]", "[[" v "],[" w "]]", "[[" v "],[" v "," w "]]", "[null," v "]",     \
			"[[],[]]", "[[[" v "]]]", "[" v ",[" w "]]", "\"{}\"", "{}", "[{}]", v                 \
	}
#define OBJECTS                                                                                    \
	{                                                                                              \
		"{\"a\":1,\"b\":\"x\"}", "{\"b\":{\"c\":[1]}}", "{}", "{\"a\":1,\"a\":2}", "{\"A\":1}",    \
			"{\"a\":\"x\"}", "\"(1,x)\"", "\"(,)\"", "[1,2]", "{\"a\":null,\"b\":\"\\u00e9\"}",    \
			"{\"\\u0061\":5}"                                                                      \
	}
#define RANGES(v, w)                                                                               \
	{                                                                                              \
		"\"[" v "," w ")\"", "\"[" w "," v "]\"", "\"empty\"", "\"(,)\"", "\"{[" v "," w ")}\"",   \
			"\"[" v "," v "]\"", "\"[" v "\"", "{\"lower\":1}"                                     \
	}

static const FuzzType types[] = {
	{"int2", INTEGERS},
	{"int4", INTEGERS},
	{"int8", INTEGERS},
	{"int8", INTEGERS},
	{"oid", INTEGERS},
	{"float4", FLOATS},
	{"float8", FLOATS},
	{"float8", FLOATS},
	{"numeric",
	 {"1.50", "0.000", "-0", "1e5", "1E-20", "\"NaN\"", "\"inf\"",
	  "123456789012345678901234567890.5", "00"}},
	{"numeric(8,2)", {"1.005", "999999.994", "999999.995", "-0.001", "1e5", "\"NaN\"", "\"inf\""}},
	{"money", {"\"$1,234.50\"", "1.5", "\"(3)\"", "-2"}},
	{"bool",
	 {"true", "false", "\"o\"", "\"on\"", "\" of \"", "\"y\"", "1", "0", "2", "\"\"", "\"TRUE\""}},
	{"text",
	 {"\"\"", "[1, {\"a\" : 2}]", "{ \"k\" : [ ] }", "1.0", "true", "\"\\u00e9\\n\"",
	  "\"\\ud83d\\ude00\""}},
	{"text", {"\"abc\"", "\"x y\""}},
	{"varchar", {"\"abc\"", "1e5"}},
	{"varchar(5)",
	 {"\"abcde\"", "\"abcdef\"", "\"abcde  \"", "\"\u00e9\u00e9\u00e9\u00e9\u00e9\"",
	  "\"abcd \\u00e9\"", "123456"}},
	{"char(3)", {"\"a\"", "\"abc \"", "\"abcd\"", "\"\u00e9\"", "12"}},
	{"\"char\"", {"\"a\"", "\"ab\"", "\"\"", "\"\u00e9\""}},
	{"name",
	 {"\"abc\"", "\"0123456789012345678901234567890123456789012345678901234567890123456789\""}},
	{"timestamptz", TIMES},
	{"timestamptz", TIMES},
	{"timestamptz(2)", TIMES},
	{"timestamp", TIMES},
	{"timestamp(0)", TIMES},
	{"date", TIMES},
	{"time", {"\"12:34:56.7891234\"", "\"24:00:00\"", "\"1:2 PM\"", "\"04:05-08\""}},
	{"time(2)", {"\"12:34:56.785\"", "\"23:59:59.999\""}},
	{"timetz", {"\"12:34:56+02\"", "\"12:34\"", "\"04:05 PST\""}},
	{"interval",
	 {"\"1 day 02:03\"", "\"P1Y2M3DT4H5M6.5S\"", "\"-1-2 +3 -4:5:6\"", "\"@ 1 mon ago\"", "5"}},
	{"interval(1)", {"\"1.25 s\"", "\"PT0.05S\""}},
	{"uuid", UUIDS},
	{"uuid", UUIDS},
	{"json",
	 {"\"\\u00e9\\/\"", "[ 1 ]", "{\"a\":1,\"a\":2}", "1e400", "\"\\ud83d\\ude00\"", "null"}},
	{"jsonb",
	 {"\"\\u00e9\\/\"", "[ 1 ]", "{\"b\":1,\"a\":2,\"b\":3}", "1e400", "1.500", "{\"\\u0061\":1}"}},
	{"bytea", {"\"\\\\x0102\"", "\"\\\\001x\"", "\"\\\\x0\"", "\"\u00e9\""}},
	{"inet", {"\"10.0.0.1/8\"", "\"::1\"", "\"10.1\""}},
	{"cidr", {"\"10.0.0.0/8\"", "\"10.0.0.1/8\"", "\"10.1\""}},
	{"macaddr", {"\"08:00:2b:01:02:03\"", "\"08002b:010203\""}},
	{"bit(3)", {"\"101\"", "\"1\"", "\"x5\"", "101"}},
	{"varbit(5)", {"\"101\"", "\"\"", "\"111111\"", "\"xF\""}},
	{"point", {"\"(1,2)\"", "\"1,2\"", "[1,2]", "{\"x\":1}"}},
	{"tsvector", {"\"a:1 b\"", "\"'x y'\"", "\"'\""}},
	{"regtype", {"\"int4\"", "\"nosuch\"", "23", "\"fuzz_pair\""}},
	{"xml", {"\"<a/>\"", "\"<a>\"", "\"\"", "{\"a\":1}"}},
	{"fuzz_positive", {"1", "0", "null", "\"5\"", "[1]"}},
	{"fuzz_given", {"\"x\"", "null", "{}"}},
	{"fuzz_json", {"{\"a\":1}", "null", "\"s\"", "[\"\\u00e9\"]"}},
	{"fuzz_list", ARRAYS("1", "2")},
	{"fuzz_odd_pair", OBJECTS},
	{"fuzz_mood", {"\"sad\"", "\"very happy\"", "\"Sad\"", "\"sad \"", "\"s\\u0061d\"", "1"}},
	{"fuzz_pair", OBJECTS},
	{"fuzz_pair[]", ARRAYS("{\"a\":1}", "\"(2,y)\"")},
	{"fuzz_nest",
	 {"{\"p\":{\"a\":1},\"l\":[{\"a\":2},null],\"m\":\"sad\"}", "{\"l\":[[{\"b\":\"\\u00e9\"}]]}",
	  "{\"m\":\"x\"}", "{\"t\":\"2026-03-29T02:30:00\"}", "{\"t\":1}", "{\"p\":\"(1,x)\"}",
	  "{\"d\":-1}"}},
	{"int4[]", ARRAYS("1", "\"2\"")},
	{"int2[]", ARRAYS("32768", "\" 7\"")},
	{"bool[]", ARRAYS("true", "\"off\"")},
	{"float8[]", ARRAYS("1.5e3", "\"NaN\"")},
	{"date[]", ARRAYS("\"2026-02-29\"", "\"2026-02-28\"")},
	{"uuid[]", ARRAYS("\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"", "\"\\u0061\"")},
	{"text[]", ARRAYS("\"a\"", "{\"b\":[1]}")},
	{"json[]", ARRAYS("{\"a\" : 1}", "\"s\"")},
	{"timestamptz[]", ARRAYS("\"2026-01-01\"", "\"infinity\"")},
	{"varchar(2)[]", ARRAYS("\"ab\"", "\"abc\"")},
	{"numeric(4,1)[]", ARRAYS("1.25", "1e9")},
	{"fuzz_positive[]", ARRAYS("1", "0")},
	{"int4range", RANGES("1", "5")},
	{"numrange", RANGES("1.50", "5")},
	{"tstzrange", RANGES("2026-01-01", "2026-01-02 00:00+02")},
	{"int4multirange", RANGES("1", "5")}};

static const char *const texts[] = {"",
									"abc",
									"S042",
									"5",
									"-17",
									" 5 ",
									"+5",
									"007",
									"1.5",
									"1e3",
									"NaN",
									"Infinity",
									"-inf",
									"0x1F",
									"1_000",
									"true",
									"f",
									" yes",
									"of",
									"null",
									"2026-01-01",
									"2026-02-29",
									"2024-02-29",
									"0000-01-01",
									"2026-13-01",
									"2026-01-01T00:00:00.123Z",
									"2026-07-01 12:34:56",
									"2026-07-01T12:34:56.123456+05:30",
									"2026-07-01T12:34:56-08",
									"2026-07-01T12:34:56.1234567890Z",
									"2026-07-01T23:59:59.9999999",
									"2026-07-01T12:34:56+0530",
									"2026-07-01T24:00:00Z",
									"2026-07-01T12:34:60Z",
									"2026-07-01 12:34:56.5 Europe/Berlin",
									"2026-03-29T02:30:00",
									"2026-10-25 02:30:00.25",
									"0044-03-15 BC",
									"infinity",
									"-infinity",
									"now",
									"epoch",
									"4714-01-01 00:00:00 BC",
									"294277-01-01",
									"12:34:56.789",
									"1 day 02:03",
									"00000000-0000-0000-0000-000000000001",
									"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
									"{1,2,3}",
									"{a,NULL}",
									"(1,x)",
									"[1,5)",
									"\\x0102",
									"10.0.0.0/8",
									"a longer text with no escapes in it at all, sixty bytes or so",
									"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
									"tab\there",
									"quote\"back\\slash/"};

static const char *const escapes[] = {"\\n",     "\\\"",    "\\\\",           "\\/",     "\\u0041",
									  "\\u00e9", "\\u20AC", "\\ud83d\\ude00", "\\b",     "\\u0000",
									  "\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud83dx"};

static const char *const numbers[] = {"0",
									  "-0",
									  "-0.0",
									  "5",
									  "42",
									  "-17",
									  "123.45",
									  "0.1",
									  "1e3",
									  "1.5E-7",
									  "1E+22",
									  "1e23",
									  "123456789012345678",
									  "9223372036854775807",
									  "9223372036854775808",
									  "-9223372036854775808",
									  "32767",
									  "-32769",
									  "2147483647",
									  "2147483648",
									  "9007199254740993",
									  "1767225600000",
									  "1767225600123.4567",
									  "1.767225600123456e12",
									  "1e400",
									  "1e-400",
									  "0e999",
									  "16777217",
									  "3.4028236e38",
									  "-210866803200001",
									  "9224318015999999",
									  "0.30000000000000004",
									  "1.7976931348623157e308",
									  "2.2250738585072011e-308"};

static void
append_space(StringInfo out, int percent)
{
	while (chance(percent))
		appendStringInfoChar(out, " \t\n\r"[below(4)]);
}

static void
append_run(StringInfo out, int n)
{
	char digit = chance(70) ? "0459"[below(4)] : "0123456789"[below(10)];

	while (n-- > 0)
		appendStringInfoChar(out, digit);
}

static void
append_number(StringInfo out)
{
	switch (below(5))
	{
		case 0:
			appendStringInfoString(out, PICK(numbers));
			break;
		case 4:
			/* runs of one digit, about the sizes at which mantissas overflow and roundings change */
			appendStringInfo(out, "%s%d", chance(30) ? "-" : "", (int) below(2));
			if (out->data[out->len - 1] != '0')
				append_run(out, below(22));
			if (chance(70))
			{
				appendStringInfoChar(out, '.');
				append_run(out, 1 + below(22));
				append_run(out, below(4));
			}
			if (chance(20))
				appendStringInfo(out, "e%d", (int) below(60) - 30);
			break;
		case 1:
			appendStringInfo(out, "%d", (int) below(100000) - 50000);
			break;
		case 2:
			appendStringInfo(out, "%.*f", (int) below(18), (pg_prng_double(&prng) - 0.5) * 1e6);
			break;
		default:
			appendStringInfo(out, "%s%d", chance(50) ? "-" : "", (int) below(10));
			for (int i = below(24); i > 0 && out->data[out->len - 1] != '0'; i--)
				appendStringInfoChar(out, '1' + below(9));
			if (chance(50))
			{
				appendStringInfoChar(out, '.');
				for (int i = 1 + below(24); i > 0; i--)
					appendStringInfoChar(out, '0' + below(10));
			}
			if (chance(40))
				appendStringInfo(out, "%c%s%d", chance(50) ? 'e' : 'E',
								 chance(30)   ? "+"
								 : chance(50) ? "-"
											  : "",
								 (int) below(chance(80) ? 30 : 400));
	}
}

static void
append_timestamp(StringInfo out)
{
	/* days on which clocks change somewhere, or calendars */
	static const char *const days[] = {"2026-03-08", "2026-11-01", "2026-03-29", "2026-10-25",
									   "2011-12-30", "1883-11-18", "1970-01-01", "1582-10-15",
									   "2000-02-29", "1900-02-29", "0001-01-01", "9999-12-31"};

	if (chance(40))
		appendStringInfoString(out, PICK(days));
	else
		appendStringInfo(out, "%04d-%02d-%02d", (int) below(chance(90) ? 2100 : 10000),
						 (int) below(14), (int) below(33));
	appendStringInfo(out, "%c%02d:%02d:%02d", chance(50) ? 'T' : ' ',
					 (int) below(chance(50) ? 4 : 25), (int) below(61), (int) below(61));
	if (chance(60))
	{
		appendStringInfoChar(out, '.');
		for (int i = below(18); i > 0; i--)
			appendStringInfoChar(out, '0' + below(10));
	}
	if (chance(40))
		appendStringInfoChar(out, 'Z');
	else if (chance(60))
	{
		appendStringInfo(out, "%c%02d", chance(50) ? '+' : '-', (int) below(18));
		if (chance(70))
			appendStringInfo(out, "%s%02d", chance(70) ? ":" : "", (int) below(62));
	}
}

static void
append_string(StringInfo out)
{
	int escape_percent = chance(20) ? 50 : 0;

	appendStringInfoChar(out, '"');
	if (chance(25))
		append_timestamp(out);
	else if (chance(15))
		append_number(out);
	else
	{
		StringInfoData quoted;

		initStringInfo(&quoted);
		escape_json(&quoted, PICK(texts));
		appendBinaryStringInfo(out, quoted.data + 1, quoted.len - 2);
		pfree(quoted.data);
	}
	/* around the sizes of chunks of memory; such a string may have escapes, too */
	if (below(500) == 0)
		for (int i = below(20000); i > 0; i--)
			appendStringInfoChar(out, 'a' + i % 26);
	while (chance(escape_percent))
	{
		appendStringInfoString(out, escapes[below(chance(10) ? lengthof(escapes) : 9)]);
		if (chance(50))
			appendStringInfoString(out, "z\xc3\xb6");
	}
	appendStringInfoChar(out, '"');
}

static void append_value(StringInfo out, int depth, int space);

/* The stream for which records are generated, and the types of its columns */
static StreamInfo *fuzzed;
static const FuzzType **fuzzed_types;

/* A value for the column that is named like the key, if there is one; false: there is none. */
static bool
append_typical_value(StringInfo out, const char *key)
{
	for (int i = 0; i < fuzzed->tupdesc->natts; i++)
	{
		const StreamColumn *column = &fuzzed->columns[i];
		int n = 0;

		if (column->metadata != META_NONE || strcmp(column->path[column->npath - 1], key) != 0)
			continue;
		while (n < (int) lengthof(fuzzed_types[i]->values) && fuzzed_types[i]->values[n] != NULL)
			n++;
		appendStringInfoString(out, fuzzed_types[i]->values[below(n)]);
		return true;
	}
	return false;
}

/* Nested deeper than a decoder may like, not always to a good end. */
static void
append_deep_value(StringInfo out)
{
	int depth = below(300);
	bool objects = chance(50);

	for (int i = 0; i < depth; i++)
		appendStringInfoString(out, objects ? "{\"a\":" : "[");
	appendStringInfoString(out, "1");
	for (int i = chance(95) ? 0 : 1; i < depth; i++)
		appendStringInfoChar(out, objects ? '}' : ']');
}

static void
append_key(StringInfo out, const char *name)
{
	if (chance(4) && name[0] != '\0')
		appendStringInfo(out, "\"\\u%04x%s\"", (unsigned char) name[0] < 128 ? name[0] : 'a',
						 strchr(name, '"') ? "" : name + ((unsigned char) name[0] < 128 ? 1 : 2));
	else if (chance(1))
		appendStringInfo(out, "\"%s%s\"", strchr(name, '"') ? "" : name, PICK(escapes));
	else
		escape_json(out, name);
}

static void
append_object(StringInfo out, const char *const *keys, int nkeys, int depth, int space)
{
	bool first = true;

	appendStringInfoChar(out, '{');
	append_space(out, space);
	for (int i = 0; i < nkeys; i++)
	{
		const char *key = keys[i];

		if (chance(8))
			continue;
		if (chance(8))
			key = chance(60) ? PICK(names) : PICK(other_names);
		if (!first)
		{
			appendStringInfoChar(out, ',');
			append_space(out, space);
		}
		first = false;
		append_key(out, key);
		append_space(out, space);
		appendStringInfoChar(out, ':');
		append_space(out, space);
		if (chance(50) || !append_typical_value(out, key))
			append_value(out, depth + 1, space);
		append_space(out, space);
	}
	appendStringInfoChar(out, '}');
}

static void
append_value(StringInfo out, int depth, int space)
{
	int kind = below(100);

	if (below(1000) == 0)
		append_deep_value(out);
	else if (kind < 40)
		append_string(out);
	else if (kind < 70)
		append_number(out);
	else if (kind < 75)
		appendStringInfoString(out, "null");
	else if (kind < 82)
		appendStringInfoString(out, chance(50) ? "true" : "false");
	else if (depth > 4)
		appendStringInfoString(out, chance(50) ? "{}" : "[]");
	else if (kind < 92)
	{
		const char *keys[3];

		for (int i = 0; i < 3; i++)
			keys[i] = chance(80) ? PICK(names) : PICK(other_names);
		append_object(out, keys, below(4), depth, space);
	}
	else
	{
		appendStringInfoChar(out, '[');
		append_space(out, space);
		for (int i = below(4); i > 0; i--)
		{
			append_value(out, depth + 1, space);
			append_space(out, space);
			if (i > 1)
				appendStringInfoChar(out, ',');
		}
		appendStringInfoChar(out, ']');
	}
}

static void
damage(StringInfo out)
{
	static const char bytes[] = "{}[]\",:\\u0eE+-.tfn \n\x01\xc3\x80\xff\xed\xf4";

	for (int i = 1 + below(3); i > 0 && out->len > 0; i--)
	{
		int at = below(out->len);

		switch (below(5))
		{
			case 0:
				out->data[at] = bytes[below(sizeof(bytes))];
				break;
			case 1:
				memmove(out->data + at, out->data + at + 1, out->len - at);
				out->len--;
				break;
			case 2:
				appendStringInfoChar(out, ' ');
				memmove(out->data + at + 1, out->data + at, out->len - at - 1);
				out->data[at] = bytes[below(sizeof(bytes))];
				break;
			case 3:
				out->data[at] = below(256);
				break;
			default:
				if (chance(30))
					out->len = at;
		}
		out->data[out->len] = '\0';
	}
}

/* ------------------------------------------------------------------ the definition */

/* What stands for an escape that is no text; no record has it by itself. */
#define BAD_ESCAPE "\\u007f"

static bool
server_has(unsigned ch)
{
	switch (GetDatabaseEncoding())
	{
		case PG_UTF8:
			return true;
		case PG_LATIN1:
			return ch <= 0xff;
		default:
			return ch <= 0x7f;
	}
}

/*
 * json_to_record() refuses escapes that are no text, or none in the server's encoding, anywhere in the record, velo only
 * in wanted values.  Returns a copy in which each of them is BAD_ESCAPE, NULL if there are none.
 */
static char *
replace_bad_escapes(const char *json, int len)
{
	char *copy = pnstrdup(json, len);
	bool found = false;
	char *p = copy;

	/* the text is well formed, so a backslash starts an escape */
	while ((p = strchr(p, '\\')) != NULL)
	{
		unsigned ch = 0;
		unsigned next = 0;

		if (p[1] != 'u')
		{
			p += 2;
			continue;
		}
		sscanf(p + 2, "%4x", &ch);
		if (p[6] == '\\' && p[7] == 'u')
			sscanf(p + 8, "%4x", &next);
		if (is_utf16_surrogate_first(ch) && is_utf16_surrogate_second(next))
		{
			if (!server_has(0x10000))
			{
				memcpy(p, BAD_ESCAPE, 6);
				memcpy(p + 6, BAD_ESCAPE, 6);
				found = true;
			}
			p += 6;
		}
		else if (ch == 0 || is_utf16_surrogate_first(ch) || is_utf16_surrogate_second(ch) ||
				 !server_has(ch))
		{
			memcpy(p, BAD_ESCAPE, 6);
			found = true;
		}
		p += 6;
	}
	if (found)
		return copy;
	pfree(copy);
	return NULL;
}

typedef struct OracleArgs
{
	StreamInfo *stream;
	const Record *record;
	bool direct; /* json_to_record() itself, on the very record */
	Datum *values;
	bool *nulls;
} OracleArgs;

/* json -> name; NULL: json is NULL, there is none, or it is no object */
static text *
json_member(text *json, const char *name)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum result;

	if (json == NULL)
		return NULL;
	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(json);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = CStringGetTextDatum(name);
	fcinfo->args[1].isnull = false;
	result = json_object_field(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetTextPP(result);
}

/* A number as timestamptz, by way of numeric. */
static char *
timestamptz_of_number(const char *number, int64 unit)
{
	Datum value = DirectFunctionCall3(numeric_in, CStringGetDatum(number),
									  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	Datum factor =
		DirectFunctionCall2(numeric_div, NumericGetDatum(int64_to_numeric(USECS_PER_SEC)),
							NumericGetDatum(int64_to_numeric(unit)));
	int64 microseconds;

	value = DirectFunctionCall2(numeric_mul, value, factor);
	value = DirectFunctionCall2(numeric_round, value, Int32GetDatum(0));
	value = DirectFunctionCall2(
		numeric_sub, value,
		NumericGetDatum(
			int64_to_numeric((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)));
	if (DatumGetBool(DirectFunctionCall2(numeric_lt, value,
										 NumericGetDatum(int64_to_numeric(MIN_TIMESTAMP)))) ||
		DatumGetBool(DirectFunctionCall2(numeric_ge, value,
										 NumericGetDatum(int64_to_numeric(END_TIMESTAMP)))))
		return "300000-01-01"; /* which timestamptz_in() finds out of range */
	microseconds = DatumGetInt64(DirectFunctionCall1(numeric_int8, value));
	return JsonEncodeDateTime(NULL, TimestampTzGetDatum(microseconds), TIMESTAMPTZOID, NULL);
}

/* UTF-8 as text of the server. */
static char *
server_text(const char *bytes, Size len)
{
	char *text = pnstrdup(bytes, len);

	pg_verify_mbstr(PG_UTF8, bytes, len, false);
	return pg_any_to_server(text, len, PG_UTF8);
}

/* The record's key as a JSON string, for a type's input function is what json_to_record() asks for those. */
static char *
json_of_key(const Record *record)
{
	StringInfoData json;

	if (record->key == NULL)
		return "null";
	initStringInfo(&json);
	escape_json(&json, server_text(record->key, record->key_len));
	return json.data;
}

/* What PostgreSQL makes of a record. */
static void
oracle_action(void *arg)
{
	OracleArgs *args = arg;
	TupleDesc tupdesc = args->stream->tupdesc;
	text *json;
	char *str;
	char *replaced;
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo, .expectedDesc = tupdesc};
	FmgrInfo json_to_record_info;
	HeapTupleHeader record;
	HeapTupleData tuple = {0};

	str = server_text(args->record->value, args->record->value_len);
	json = cstring_to_text(str);
	DirectFunctionCall1(json_in, CStringGetDatum(str));
	replaced = replace_bad_escapes(str, strlen(str));
	if (replaced)
		json = cstring_to_text(replaced);

	if (replaced || !args->direct)
	{
		StringInfoData composed;
		char *start = text_to_cstring(json);

		start += strspn(start, " \t\n\r");
		if (*start != '{')
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no object")));
		json = cstring_to_text(start);
		initStringInfo(&composed);
		for (int i = 0; i < tupdesc->natts; i++)
		{
			StreamColumn *column = &args->stream->columns[i];
			text *value = json;

			for (int j = 0; j < column->npath; j++)
				value = value && *VARDATA_ANY(value) == '{' ? json_member(value, column->path[j])
															: NULL;
			str = value ? text_to_cstring(value) : "null";
			if (column->metadata == META_KEY)
				str = json_of_key(args->record);
			if (replaced && strstr(str, BAD_ESCAPE))
				ereport(ERROR, (errcode(ERRCODE_UNTRANSLATABLE_CHARACTER), errmsg("bad escape")));
			if (TupleDescAttr(tupdesc, i)->atttypid == TIMESTAMPTZOID &&
				column->metadata == META_NONE && (*str == '-' || isdigit((unsigned char) *str)))
				str = psprintf("\"%s\"", timestamptz_of_number(str, column->unit));
			appendStringInfoChar(&composed, i == 0 ? '{' : ',');
			escape_json(&composed, NameStr(TupleDescAttr(tupdesc, i)->attname));
			appendStringInfo(&composed, ":%s", str);
		}
		appendStringInfoChar(&composed, '}');
		json = cstring_to_text_with_len(composed.data, composed.len);
	}

	fmgr_info(F_JSON_TO_RECORD, &json_to_record_info);
	InitFunctionCallInfoData(*fcinfo, &json_to_record_info, 1, InvalidOid, NULL, (Node *) &rsinfo);
	fcinfo->args[0].value = PointerGetDatum(json);
	fcinfo->args[0].isnull = false;
	record = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	tuple.t_data = record;
	heap_deform_tuple(&tuple, tupdesc, args->values, args->nulls);
}

/* ------------------------------------------------------------------ fuzz */

/* A stream of some random columns; *direct: json_to_record() can be asked with the record as it is. */
static StreamInfo *
random_stream(bool *direct)
{
	int natts = 1 + below(6);
	TupleDesc tupdesc = CreateTemplateTupleDesc(natts);
	StreamInfo *stream;

	*direct = chance(50);
	fuzzed_types = palloc(sizeof(FuzzType *) * natts);
	for (int i = 0; i < natts; i++)
	{
		Oid typid;
		int32 typmod;

		fuzzed_types[i] = &PICK(types);
#if PG16_GE
		parseTypeString(fuzzed_types[i]->name, &typid, &typmod, NULL);
#else
		parseTypeString(fuzzed_types[i]->name, &typid, &typmod, false);
#endif
		if (typid == TIMESTAMPTZOID)
			*direct = false;
		TupleDescInitEntry(tupdesc, i + 1, server_text(names[i], strlen(names[i])), typid, typmod,
						   0);
	}
	BlessTupleDesc(tupdesc);
	stream = make_stream(tupdesc);
	if (*direct)
		return stream;

	for (int i = 0; i < natts; i++)
	{
		static const int64 units[] = {1, 1000, 1000000, 1000000000};
		StreamColumn *column = &stream->columns[i];

		column->unit = PICK(units);
		column->npath = chance(60) ? 1 : 2 + below(2);
		column->path = palloc(sizeof(char *) * column->npath);
		for (int j = 0; j < column->npath; j++)
		{
			const char *name = chance(80) ? names[below(3)] : PICK(names);

			column->path[j] = server_text(name, strlen(name));
		}
		/* json and bytea make something else of a key than of a JSON string */
		if (chance(15) && strstr(fuzzed_types[i]->name, "json") == NULL &&
			strcmp(fuzzed_types[i]->name, "bytea") != 0)
			column->metadata = META_KEY;
	}
	return stream;
}

static char *
row_as_text(TupleDesc tupdesc, const Datum *values, const bool *nulls)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Oid output;
		bool isvarlena;

		appendStringInfoString(&out, i ? " | " : "");
		if (nulls[i])
		{
			appendStringInfoString(&out, "NULL");
			continue;
		}
		getTypeOutputInfo(TupleDescAttr(tupdesc, i)->atttypid, &output, &isvarlena);
		appendStringInfo(&out, "'%s'", OidOutputFunctionCall(output, values[i]));
	}
	return out.data;
}

#define FUZZ_BATCH 50
#define FUZZ_BATCHES 4 /* of one stream */

typedef struct FuzzCounts
{
	int64 cases;
	int64 accepted;
	int64 mismatches;
} FuzzCounts;

/* Compare one record of a decoded batch with what PostgreSQL says. */
static void
fuzz_compare(StreamInfo *stream, RecordBatch *batch, int index, bool direct, FuzzCounts *counts)
{
	int natts = stream->tupdesc->natts;
	Record *record = &batch->records[index];
	Datum *values = palloc0(sizeof(Datum) * natts);
	bool *nulls = palloc0(sizeof(bool) * natts);
	OracleArgs args = {stream, record, direct, values, nulls};
	ErrorData *error = try_action(oracle_action, &args);
	const char *expected;
	const char *got;

	counts->cases++;
	if (error)
		expected = unpack_sql_state(error->sqlerrcode);
	else
	{
		counts->accepted++;
		expected = row_as_text(stream->tupdesc, values, nulls);
	}
	expected = pstrdup(expected);

	if (batch->status[index] == RECORD_BAD)
		got = pstrdup(unpack_sql_state(error_of(batch, index)->sqlerrcode));
	else
	{
		for (int i = 0; i < natts; i++)
		{
			values[i] = batch->values[i][index];
			nulls[i] = batch->nulls[i][index];
		}
		got = row_as_text(stream->tupdesc, values, nulls);
	}

	/*
	 * A surrogate without its half has another SQLSTATE than \u0000; and of several columns that are bad another may
	 * be the first to be noticed.
	 */
	if (strcmp(expected, got) != 0 &&
		!(error && batch->status[index] == RECORD_BAD &&
		  (strcmp(error->message, "bad escape") == 0 ||
		   strcmp(error->message, "value overflows numeric format") == 0 ||
		   (record->key != NULL && (error->sqlerrcode == ERRCODE_CHARACTER_NOT_IN_REPERTOIRE ||
									error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER)))))
	{
		StringInfoData columns;

		initStringInfo(&columns);
		for (int i = 0; i < natts; i++)
		{
			appendStringInfo(
				&columns, "%s%s", i ? ", " : "",
				format_type_with_typemod(TupleDescAttr(stream->tupdesc, i)->atttypid,
										 TupleDescAttr(stream->tupdesc, i)->atttypmod));
			for (int j = 0; j < stream->columns[i].npath; j++)
				appendStringInfo(&columns, "%c%s", j ? '.' : ' ', stream->columns[i].path[j]);
		}
		if (counts->mismatches++ < 10)
			ereport(WARNING,
					(errmsg_internal("mismatch: expected %s, got %s", expected, got),
					 errdetail_internal(
						 "columns: %s\nrecord: %s\nexpected error: %s\ngot error: %s", columns.data,
						 DatumGetCString(
							 DirectFunctionCall1(byteaout, PointerGetDatum(cstring_to_text_with_len(
															   record->value, record->value_len)))),
						 error ? error->message : "none",
						 batch->status[index] == RECORD_BAD ? error_of(batch, index)->message
															: "none")));
	}
}

#define GUARDED_SIZE (64 * 1024)

/* A copy of a record that ends where the readable memory does, so that a read beyond it is seen. */
static const char *
guarded_copy(int slot, const char *data, int len)
{
	static char *slots = NULL;
	Size page = sysconf(_SC_PAGESIZE);
	Size slot_size = GUARDED_SIZE + page;

	if (slots == NULL)
	{
		slots = mmap(NULL, slot_size * FUZZ_BATCH * 2, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (slots == MAP_FAILED)
			elog(ERROR, "could not map memory: %m");
		for (int i = 0; i < FUZZ_BATCH * 2; i++)
			if (mprotect(slots + slot_size * i + GUARDED_SIZE, page, PROT_NONE) != 0)
				elog(ERROR, "could not protect memory: %m");
	}
	if (len > GUARDED_SIZE)
		return pnstrdup(data, len);
	return memcpy(slots + slot_size * slot + GUARDED_SIZE - len, data, len);
}

/* Bytes for a record's key: of what its types may read, nothing behind which would complete it. */
static void
append_key_bytes(StringInfo out)
{
	switch (below(4))
	{
		case 0:
			append_number(out);
			break;
		case 1:
			append_timestamp(out);
			break;
		default:
			appendStringInfoString(out, PICK(texts));
	}
	if (chance(30))
		out->len = below(out->len + 1);
	if (chance(10))
		damage(out);
}

/* Decode a batch again and again: that must not take more memory each time. */
static void
check_memory(Decoder *decoder, RecordBatch *batch, MemoryContext decoding, FuzzCounts *counts)
{
	Size used[3];

	for (int i = 0; i < (int) lengthof(used); i++)
	{
		batch->nrecords = FUZZ_BATCH;
		decode_batch(decoder, batch);
		record_batch_reset(batch);
		used[i] = MemoryContextMemAllocated(decoding, true);
	}
	if (used[2] > used[1])
	{
		counts->mismatches++;
		elog(WARNING, "memory grows from %zu to %zu bytes", used[1], used[2]);
	}
}

/* What a session may have set, and input functions look at; until the end of the transaction. */
static void
random_settings(void)
{
	static const char *const zones[] = {"UTC",          "America/New_York", "Europe/London",
										"Pacific/Apia", "Asia/Kathmandu",   "America/St_Johns",
										"<-12>12",      "Africa/Monrovia"};
	static const char *const date_styles[] = {"ISO, MDY", "SQL, DMY", "Postgres, YMD", "German"};
	static const char *const interval_styles[] = {"postgres", "sql_standard", "iso_8601"};

	set_config_option("timezone", PICK(zones), PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true,
					  0, false);
	set_config_option("datestyle", PICK(date_styles), PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
					  true, 0, false);
	set_config_option("intervalstyle", PICK(interval_styles), PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_LOCAL, true, 0, false);
}

/* Some batches of one random stream, whose records resemble each other as a topic's do. */
static void
fuzz_stream(FuzzCounts *counts)
{
	bool direct;
	StreamInfo *stream = random_stream(&direct);
	Bitmapset *wanted = all_columns(stream->tupdesc);
	MemoryContext per_stream = CurrentMemoryContext;
	MemoryContext decoding =
		AllocSetContextCreate(per_stream, "fuzz decoder", ALLOCSET_DEFAULT_SIZES);
	RecordBatch *batch = record_batch_create(decoding, FUZZ_BATCH, stream->tupdesc->natts, wanted);
	Decoder *decoder;
	const char *keys[100];
	int nkeys = 1 + below(chance(95) ? 8 : lengthof(keys));
	int space = chance(30) ? 20 : 0;
	MemoryContext per_batch =
		AllocSetContextCreate(CurrentMemoryContext, "fuzz batch", ALLOCSET_DEFAULT_SIZES);

	fuzzed = stream;
	random_settings();
	MemoryContextSwitchTo(decoding);
	decoder = decoder_create(stream, wanted);
	MemoryContextSwitchTo(per_stream);
	for (int i = 0; i < nkeys; i++)
	{
		if (i >= 8)
			keys[i] = psprintf("key %d", i);
		else
			keys[i] = chance(80) ? PICK(names) : PICK(other_names);
	}

	for (int n = 0; n < FUZZ_BATCHES; n++)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(per_batch);

		CHECK_FOR_INTERRUPTS();
		record_batch_reset(batch);
		for (int i = 0; i < FUZZ_BATCH; i++)
		{
			StringInfoData json;

			initStringInfo(&json);
			append_space(&json, space);
			if (chance(98))
				append_object(&json, keys, nkeys, 0, space);
			else
				append_value(&json, 0, space);
			append_space(&json, space);
			if (chance(15))
				damage(&json);
			memset(&batch->records[i], 0, sizeof(Record));
			batch->records[i].value = guarded_copy(2 * i, json.data, json.len);
			batch->records[i].value_len = json.len;
			if (chance(90))
			{
				resetStringInfo(&json);
				append_key_bytes(&json);
				batch->records[i].key = guarded_copy(2 * i + 1, json.data, json.len);
				batch->records[i].key_len = json.len;
			}
		}
		batch->nrecords = FUZZ_BATCH;
		decode_batch(decoder, batch);
		for (int i = 0; i < FUZZ_BATCH; i++)
			fuzz_compare(stream, batch, i, direct, counts);
		check_memory(decoder, batch, decoding, counts);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(per_batch);
	}
}

/* decode_fuzz(seed bigint, cases bigint, OUT cases bigint, OUT accepted bigint, OUT mismatches bigint) */
Datum
decode_fuzz(PG_FUNCTION_ARGS)
{
	int64 cases = PG_GETARG_INT64(1);
	FuzzCounts counts = {0};
	TupleDesc tupdesc;
	Datum values[3];
	bool nulls[3] = {false, false, false};
	MemoryContext per_stream =
		AllocSetContextCreate(CurrentMemoryContext, "fuzz stream", ALLOCSET_DEFAULT_SIZES);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	pg_prng_seed(&prng, (uint64) PG_GETARG_INT64(0));
	while (counts.cases < cases)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(per_stream);

		fuzz_stream(&counts);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(per_stream);
	}
	values[0] = Int64GetDatum(counts.cases);
	values[1] = Int64GetDatum(counts.accepted);
	values[2] = Int64GetDatum(counts.mismatches);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* ------------------------------------------------------------------ timings */

#define BENCH_RECORDS 10000
#define BENCH_SECONDS 0.5

typedef struct Bench
{
	StreamInfo *stream;
	RecordBatch *batch;
	Decoder *decoder;
	text **texts; /* the records again, as PostgreSQL's functions want them */
	FmgrInfo json_to_record;
	MemoryContext scratch;
	int64 bytes;
} Bench;

static void
bench_decode(Bench *bench)
{
	DecodeArgs args = {bench->decoder, bench->batch, 0, 0};

	record_batch_reset(bench->batch);
	bench->batch->nrecords = BENCH_RECORDS;
	decode_action(&args);
}

static void
bench_json_in(Bench *bench)
{
	for (int i = 0; i < BENCH_RECORDS; i++)
	{
		(void) DirectFunctionCall1(json_in, CStringGetDatum(bench->batch->records[i].value));
		if (i % 100 == 0)
			MemoryContextReset(bench->scratch);
	}
}

static void
bench_json_to_record(Bench *bench)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo, .expectedDesc = bench->stream->tupdesc};

	for (int i = 0; i < BENCH_RECORDS; i++)
	{
		InitFunctionCallInfoData(*fcinfo, &bench->json_to_record, 1, InvalidOid, NULL,
								 (Node *) &rsinfo);
		fcinfo->args[0].value = PointerGetDatum(bench->texts[i]);
		fcinfo->args[0].isnull = false;
		(void) FunctionCallInvoke(fcinfo);
		if (i % 100 == 0)
			MemoryContextReset(bench->scratch);
	}
}

static void
bench_run(ReturnSetInfo *rsinfo, const char *records, const char *what, void (*run)(Bench *),
		  Bench *bench)
{
	MemoryContext oldcontext;
	double best = 0;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};
	instr_time begin;
	instr_time now;

	oldcontext = MemoryContextSwitchTo(bench->scratch);
	INSTR_TIME_SET_CURRENT(begin);
	do
	{
		instr_time start;
		double ns;

		INSTR_TIME_SET_CURRENT(start);
		run(bench);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		ns = INSTR_TIME_GET_DOUBLE(now) * 1e9 / BENCH_RECORDS;
		if (best == 0 || ns < best)
			best = ns;
		MemoryContextReset(bench->scratch);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, begin);
	} while (INSTR_TIME_GET_DOUBLE(now) < BENCH_SECONDS);
	MemoryContextSwitchTo(oldcontext);

	values[0] = CStringGetTextDatum(records);
	values[1] = CStringGetTextDatum(what);
	values[2] = Float8GetDatum(rint(best));
	values[3] = Float8GetDatum(rint((double) bench->bytes / BENCH_RECORDS / best * 1000));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Time one shape of records with columns symbol, price and ts wanted. */
static void
bench_shape(ReturnSetInfo *rsinfo, Oid relid, const char *shape)
{
	Bench bench = {0};
	Bitmapset *wanted;

	bench.stream = stream_of_relation(relid, construct_empty_array(TEXTOID));
	BlessTupleDesc(bench.stream->tupdesc);
	wanted = all_columns(bench.stream->tupdesc);
	bench.batch = record_batch_create(CurrentMemoryContext, BENCH_RECORDS,
									  bench.stream->tupdesc->natts, wanted);
	bench.decoder = decoder_create(bench.stream, wanted);
	bench.texts = palloc(sizeof(text *) * BENCH_RECORDS);
	bench.scratch = AllocSetContextCreate(CurrentMemoryContext, "bench", ALLOCSET_DEFAULT_SIZES);
	fmgr_info(F_JSON_TO_RECORD, &bench.json_to_record);
	for (int i = 0; i < BENCH_RECORDS; i++)
	{
		StringInfoData json;
		Record *record = &bench.batch->records[i];
		bool no_number = strcmp(shape, "1% bad") == 0 && i % 200 == 100;
		bool cut_short = strcmp(shape, "1% bad") == 0 && i % 200 == 0;

		initStringInfo(&json);
		appendStringInfo(&json, "{\"symbol\":\"S%03d\",\"price\":", (int) below(100));
		if (no_number)
			appendStringInfoString(&json, "\"none\"");
		else
			appendStringInfo(&json, "%d.%02d", (int) below(1000), (int) below(100));
		appendStringInfo(&json, ",\"volume\":%d,", (int) below(10000));
		appendStringInfo(&json, "\"ts\":\"2026-01-01T%02d:%02d:%02d.%03dZ\",\"trader\":\"T%d\"",
						 i * 24 / BENCH_RECORDS, i / 60 % 60, i % 60, (int) below(1000),
						 (int) below(10));
		if (strcmp(shape, "20 fields") == 0)
			for (int j = 0; j < 15; j++)
			{
				if (j % 3 == 0)
					appendStringInfo(&json, ",\"attribute_%d\":\"some text of record %d\"", j, i);
				else if (j % 3 == 1)
					appendStringInfo(&json, ",\"measure_%d\":%d.%d", j, (int) below(1000000), j);
				else
					appendStringInfo(&json, ",\"flag_%d\":%s", j, chance(50) ? "true" : "null");
			}
		appendStringInfoChar(&json, '}');
		if (cut_short)
			json.len -= 5;
		memset(record, 0, sizeof(*record));
		record->value = json.data;
		record->value_len = json.len;
		bench.bytes += json.len;
		bench.texts[i] = cstring_to_text_with_len(json.data, json.len);
	}
	bench_run(rsinfo, shape, "velo", bench_decode, &bench);
	if (strcmp(shape, "1% bad") != 0)
	{
		bench_run(rsinfo, shape, "json_in, nothing extracted", bench_json_in, &bench);
		bench_run(rsinfo, shape, "json_to_record", bench_json_to_record, &bench);
	}
}

/* decode_bench(relation regclass) returns table (records text, decoder text, ns_per_record float8, mb_per_s float8) */
Datum
decode_bench(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	pg_prng_seed(&prng, 1);
	bench_shape((ReturnSetInfo *) fcinfo->resultinfo, PG_GETARG_OID(0), "5 fields");
	bench_shape((ReturnSetInfo *) fcinfo->resultinfo, PG_GETARG_OID(0), "1% bad");
	bench_shape((ReturnSetInfo *) fcinfo->resultinfo, PG_GETARG_OID(0), "20 fields");
	return (Datum) 0;
}
