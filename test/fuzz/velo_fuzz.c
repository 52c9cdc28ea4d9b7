/*
 * velo_fuzz.c
 *		Targets for libFuzzer, within a server: velo's own parsers beside PostgreSQL's.
 *
 * Linked into a library of velo whose files are compiled for coverage (make fuzz), which a single-user server loads:
 *
 *	CREATE FUNCTION velo_fuzz(target text, arguments text) RETURNS void AS '$libdir/velo' LANGUAGE C STRICT;
 *	SELECT velo_fuzz('json', '-runs=1000000 DIRECTORY');
 *
 * What differs from PostgreSQL's answer aborts the process, so that libFuzzer keeps the input.  Errors are caught without
 * a subtransaction: nothing here takes a resource that one would have to give back.
 */
#include "velo.h"

#include <sys/mman.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog/velo_catalog.h"
#include "dialect/dialect.h"
#include "format/format.h"

PG_FUNCTION_INFO_V1(velo_fuzz);

/* libFuzzer's, where it has no main() of its own */
extern int LLVMFuzzerRunDriver(int *argc, char ***argv,
							   int (*callback)(const uint8_t *data, size_t size));

/* ------------------------------------------------------------------ catching */

typedef void (*Action)(void *arg);

/* Runs it; returns the SQLSTATE of what it throws, 0 if nothing. */
static int
try_action(Action action, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback *callbacks = error_context_stack;
	volatile int sqlerrcode = 0;

	PG_TRY();
	{
		action(arg);
	}
	PG_CATCH();
	{
		sqlerrcode = geterrcode();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		error_context_stack = callbacks;
	}
	PG_END_TRY();
	return sqlerrcode;
}

static void
pg_attribute_noreturn() pg_attribute_printf(1, 2) report_difference(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	abort();
}

/* A copy that ends where memory ends, so that reading beyond it is noticed.  Valid until the next call. */
static const char *
guarded_copy(const uint8_t *data, size_t size)
{
	static char *memory = NULL;
	static size_t room = 0;
	size_t page = sysconf(_SC_PAGESIZE);

	if (size > room || memory == NULL)
	{
		room = (size / page + 16) * page;
		memory =
			mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
			elog(FATAL, "could not map memory: %m");
	}
	return memcpy(memory + room - size, data, size);
}

/* ------------------------------------------------------------------ records of format json */

/* Not timestamptz: velo alone takes numbers for it. */
static const struct
{
	const char *name;
	Oid type;
	int32 typmod;
} columns[] = {
	{"a", INT4OID, -1},      {"b", TEXTOID, -1},
	{"c", FLOAT8OID, -1},    {"ts", TIMESTAMPOID, -1},
	{"e", BOOLOID, -1},      {"n", NUMERICOID, -1},
	{"i", INT8ARRAYOID, -1}, {"u", UUIDOID, -1},
	{"j", JSONBOID, -1},     {"v", VARCHAROID, 5 + VARHDRSZ},
	{"d", DATEOID, -1},      {"l", TEXTARRAYOID, -1},
};

#define NCOLUMNS ((int) lengthof(columns))

typedef struct JsonFuzz
{
	StreamInfo stream;
	Decoder *decoder;
	RecordBatch *batch;
	FmgrInfo to_record;
	text *json;
	bool is_json; /* as ::json says */
	Datum values[NCOLUMNS];
	bool nulls[NCOLUMNS];
} JsonFuzz;

static JsonFuzz json_fuzz;

static void
json_begin(void)
{
	StreamInfo *stream = &json_fuzz.stream;
	Bitmapset *wanted = bms_add_range(NULL, 1, NCOLUMNS);

	stream->name = stream->topic = "fuzz";
	stream->owner = GetUserId();
	stream->format = FORMAT_JSON;
	stream->max_future = -1;
	stream->tupdesc = CreateTemplateTupleDesc(NCOLUMNS);
	stream->columns = palloc0(sizeof(StreamColumn) * NCOLUMNS);
	for (int i = 0; i < NCOLUMNS; i++)
	{
		TupleDescInitEntry(stream->tupdesc, i + 1, columns[i].name, columns[i].type,
						   columns[i].typmod, 0);
		stream->columns[i].unit = 1000;
		stream->columns[i].npath = 1;
		stream->columns[i].path = palloc(sizeof(char *));
		stream->columns[i].path[0] = pstrdup(columns[i].name);
	}
	BlessTupleDesc(stream->tupdesc);
	json_fuzz.decoder = decoder_create(stream, wanted);
	json_fuzz.batch = record_batch_create(CurrentMemoryContext, 1, NCOLUMNS, wanted);
	fmgr_info(F_JSON_TO_RECORD, &json_fuzz.to_record);
}

static void
json_decode(void *arg)
{
	int position;

	decoder_decode(json_fuzz.decoder, json_fuzz.batch, 0, 1, &position);
}

/* What PostgreSQL makes of it: ::json, then json_to_record(). */
static void
json_ask_postgresql(void *arg)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo, .expectedDesc = json_fuzz.stream.tupdesc};
	const Record *record = &json_fuzz.batch->records[0];
	char *string = pnstrdup(record->value, record->value_len);
	HeapTupleHeader row;
	HeapTupleData tuple = {0};

	pg_verify_mbstr(PG_UTF8, record->value, record->value_len, false);
	json_fuzz.json = DatumGetTextPP(DirectFunctionCall1(json_in, CStringGetDatum(string)));
	json_fuzz.is_json = true;
	InitFunctionCallInfoData(*fcinfo, &json_fuzz.to_record, 1, InvalidOid, NULL, (Node *) &rsinfo);
	fcinfo->args[0].value = PointerGetDatum(json_fuzz.json);
	fcinfo->args[0].isnull = false;
	row = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	heap_deform_tuple(&tuple, json_fuzz.stream.tupdesc, json_fuzz.values, json_fuzz.nulls);
}

static void
json_compare_columns(void)
{
	for (int i = 0; i < NCOLUMNS; i++)
	{
		Form_pg_attribute att = TupleDescAttr(json_fuzz.stream.tupdesc, i);
		Datum value = json_fuzz.batch->values[i][0];
		bool isnull = json_fuzz.batch->nulls[i][0];

		if (isnull != json_fuzz.nulls[i] ||
			(!isnull && !datum_image_eq(value, json_fuzz.values[i], att->attbyval, att->attlen)))
			report_difference("column %s differs", NameStr(att->attname));
	}
}

static int
json_target(const uint8_t *data, size_t size)
{
	Record *record = &json_fuzz.batch->records[0];
	int expected;
	bool is_bad;

	record_batch_reset(json_fuzz.batch);
	memset(record, 0, sizeof(*record));
	record->value = guarded_copy(data, size);
	record->value_len = size;
	json_fuzz.batch->nrecords = 1;
	is_bad = try_action(json_decode, NULL) != 0 || json_fuzz.batch->status[0] == RECORD_BAD;
	json_fuzz.is_json = false;
	expected = try_action(json_ask_postgresql, NULL);
	/* json_to_record() looks at escapes in what nobody wants, too */
	if (!is_bad && expected != 0 && json_fuzz.is_json &&
		memmem(record->value, size, "\\u", 2) != NULL)
		return 0;
	if (is_bad != (expected != 0))
		report_difference("velo %s it, PostgreSQL says %s", is_bad ? "refuses" : "accepts",
						  unpack_sql_state(expected));
	if (!is_bad)
		json_compare_columns();
	return 0;
}

/* ------------------------------------------------------------------ the dialect */

typedef struct DialectFuzz
{
	char *text;
	bool is_plain;
	DialectQuery *query;
} DialectFuzz;

static void
dialect_cut(void *arg)
{
	DialectFuzz *fuzz = arg;

	fuzz->query = dialect_parse(fuzz->text);
}

/* Is it one statement, with nothing before it? */
static void
dialect_ask_postgresql(void *arg)
{
	DialectFuzz *fuzz = arg;
	List *statements = raw_parser(fuzz->text, RAW_PARSE_DEFAULT);

	fuzz->is_plain =
		list_length(statements) == 1 && linitial_node(RawStmt, statements)->stmt_location == 0;
}

/*
 * Clauses are blanked and nothing else is changed; and a statement that PostgreSQL knows by itself has none.  Unless it has a
 * column, or whatever, that is called "emit", and another word behind it: that is velo's.
 */
static int
dialect_target(const uint8_t *data, size_t size)
{
	DialectFuzz fuzz = {pnstrdup((const char *) data, size)};
	bool any = false;

	if (!pg_verify_mbstr(PG_UTF8, fuzz.text, strlen(fuzz.text), true))
		return 0;
	if (strcasestr(fuzz.text, "emit") == NULL)
		(void) try_action(dialect_ask_postgresql, &fuzz);
	if (try_action(dialect_cut, &fuzz) != 0)
	{
		if (fuzz.is_plain)
			report_difference("PostgreSQL accepts it, velo does not");
		return 0;
	}
	if (strlen(fuzz.query->sql) != strlen(fuzz.text))
		report_difference("its length changes");
	for (char *was = fuzz.text, *is = fuzz.query->sql; *was != '\0'; was++, is++)
	{
		/* a comment around characters of several bytes */
		if (*was != *is && *is != ' ' && *is != '/' && *is != '*')
			report_difference("a character becomes another one");
		any |= *was != *is;
	}
	if (any && fuzz.is_plain)
		report_difference("PostgreSQL accepts it, velo cuts from it");
	return 0;
}

/* ------------------------------------------------------------------ options */

typedef struct OptionsFuzz
{
	char *text;
	Interval *interval;
} OptionsFuzz;

static void
options_read_query(void *arg)
{
	Datum json = DirectFunctionCall1(jsonb_in, CStringGetDatum(((OptionsFuzz *) arg)->text));
	QueryOptions options;

	query_read_options(DatumGetJsonbP(json), NULL, &options);
	if (options.batch_size < 1 || options.commit_interval < 1 || options.pipeline_memory < 8 * 1024)
		report_difference("options out of their bounds");
}

static void
options_ask_postgresql(void *arg)
{
	OptionsFuzz *fuzz = arg;

	fuzz->interval = DatumGetIntervalP(DirectFunctionCall3(
		interval_in, CStringGetDatum(fuzz->text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* The options of a query, and a duration: what velo and interval both understand they understand alike. */
static int
options_target(const uint8_t *data, size_t size)
{
	OptionsFuzz fuzz = {pnstrdup((const char *) data, size)};
	int64 microseconds;

	if (!pg_verify_mbstr(PG_UTF8, fuzz.text, strlen(fuzz.text), true))
		return 0;
	(void) try_action(options_read_query, &fuzz);
	if (dialect_parse_duration(fuzz.text, &microseconds) &&
		try_action(options_ask_postgresql, &fuzz) == 0 && fuzz.interval->month == 0 &&
		fuzz.interval->time + fuzz.interval->day * USECS_PER_DAY != microseconds)
		report_difference("a duration of " INT64_FORMAT " microseconds", microseconds);
	return 0;
}

/* ------------------------------------------------------------------ the driver */

static const struct
{
	const char *name;
	void (*begin)(void);
	int (*run)(const uint8_t *data, size_t size);
} targets[] = {
	{"json", json_begin, json_target},
	{"dialect", NULL, dialect_target},
	{"options", NULL, options_target},
};

static int target;
static MemoryContext run_context;

static int
run_target(const uint8_t *data, size_t size)
{
	MemoryContext old = MemoryContextSwitchTo(run_context);
	int result = targets[target].run(data, size);

	MemoryContextSwitchTo(old);
	MemoryContextReset(run_context);
	return result;
}

/* velo_fuzz(target text, arguments text): libFuzzer's arguments, separated by spaces.  Ends the process. */
Datum
velo_fuzz(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *arguments = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char **argv = palloc(sizeof(char *) * (strlen(arguments) + 2));
	int argc = 0;

	while (target < (int) lengthof(targets) && strcmp(targets[target].name, name) != 0)
		target++;
	if (target == lengthof(targets))
		elog(ERROR, "no such target: %s", name);
	argv[argc++] = "velo_fuzz";
	for (char *argument = strtok(arguments, " "); argument != NULL; argument = strtok(NULL, " "))
		argv[argc++] = argument;
	if (targets[target].begin != NULL)
		targets[target].begin();
	run_context = AllocSetContextCreate(CurrentMemoryContext, "velo fuzz", ALLOCSET_DEFAULT_SIZES);
	LLVMFuzzerRunDriver(&argc, &argv, run_target);
	PG_RETURN_VOID();
}
