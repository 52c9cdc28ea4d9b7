/*
 * stream_ddl.c
 *		velo.create_stream() and velo.drop_stream(): CREATE and DROP FOREIGN TABLE by another door.
 *
 * Both build the statement and run it as the caller, so that privileges, event triggers and other extensions'
 * hooks see what they would see had it been typed.
 */
#include "catalog/stream_options.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "parser/scanner.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(velo_create_stream);
PG_FUNCTION_INFO_V1(velo_drop_stream);

/* Make the position of an error one in the column list and not in the user's own statement. */
static void
column_list_error_callback(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/*
 * Make sure that "columns" stays between the parentheses that it is put in: it is read by PostgreSQL's own
 * scanner, which also refuses strings and comments that do not end.
 */
static void
check_column_list(char *columns)
{
	ErrorContextCallback callback = {.callback = column_list_error_callback, .arg = columns};
	core_yy_extra_type extra;
	core_yyscan_t scanner;
	core_YYSTYPE value;
	YYLTYPE location;
	int depth = 0;
	int token;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	scanner = scanner_init(columns, &extra, &ScanKeywords, ScanKeywordTokens);
	while ((token = core_yylex(&value, &location, scanner)) != 0)
	{
		if (token == '(')
			depth++;
		else if (token == ')' && --depth < 0)
			break;
	}
	if (depth != 0)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("unbalanced parentheses in the columns of a stream"),
						scanner_errposition(location, scanner)));
	scanner_finish(scanner);
	error_context_stack = callback.previous;
}

/* Append an option to the list in "options" (without its parentheses). */
static void
append_option(StringInfo options, const char *name, const char *value)
{
	appendStringInfo(options, "%s%s %s", options->len > 0 ? ", " : "", quote_identifier(name),
					 quote_literal_cstr(value));
}

/* The text of a jsonb scalar as an option's value. */
static char *
option_text(const char *name, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("value of option \"%s\" must be a string, a number or a boolean",
								   name)));
	}
}

/* Append the members of the argument "options"; *has_topic is set if one is the topic. */
static void
append_json_options(StringInfo options, Jsonb *jsonb, bool *has_topic)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue item;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" must be a JSON object", "options"),
						errhint("Write it as '{\"idle_timeout\": \"1 min\"}'.")));
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		char *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(item.val.string.val, item.val.string.len);
		JsonbIteratorNext(&iterator, &item, true);
		append_option(options, name, option_text(name, &item));
		if (strcmp(name, "topic") == 0)
			*has_topic = true;
	}
}

/* Run a utility statement with the rights of the caller. */
static void
run_utility(const char *statement)
{
	int result;

	SPI_connect();
	result = SPI_execute(statement, false, 0);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\": %s", statement, SPI_result_code_string(result));
	SPI_finish();
}

/* An argument that may be NULL as a C string. */
#define TEXT_ARG(n) (PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n)))

/* A server of another wrapper would take the stream's options for its own. */
static void
check_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, false);

	if (!server_is_for_streams(server))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a server for streams", name),
				 errdetail("It is a server of foreign-data wrapper \"%s\".",
						   GetForeignDataWrapper(server->fdwid)->fdwname),
				 errhint("Use one that was made by CREATE SERVER ... FOREIGN DATA WRAPPER %s.",
						 VELO_FDW)));
}

/*
 * velo.create_stream(name, columns, topic, brokers, server, format, event_time, watermark, key, options)
 */
Datum
velo_create_stream(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"name", "columns", NULL, NULL, "server"};
	static const struct
	{
		int arg;
		const char *option;
	} text_options[] = {{3, "brokers"}, {5, "format"}, {6, "event_time"}, {8, "key"}};
	List *names;
	RangeVar *target;
	Oid nspid;
	Oid relid;
	char *columns;
	char *topic;
	bool has_topic;
	StringInfoData options;
	StreamInfo *stream;

	for (int i = 0; i < (int) lengthof(required); i++)
		if (required[i] != NULL && PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("argument \"%s\" must not be null", required[i])));
	names = textToQualifiedNameList(PG_GETARG_TEXT_PP(0));
	target = makeRangeVarFromNameList(names);
	nspid = RangeVarGetCreationNamespace(target);
	columns = TEXT_ARG(1);
	check_column_list(columns);
	check_server(NameStr(*PG_GETARG_NAME(4)));

	initStringInfo(&options);
	topic = TEXT_ARG(2);
	has_topic = topic != NULL;
	if (has_topic)
		append_option(&options, "topic", topic);
	for (int i = 0; i < (int) lengthof(text_options); i++)
		if (!PG_ARGISNULL(text_options[i].arg))
			append_option(&options, text_options[i].option, TEXT_ARG(text_options[i].arg));
	if (!PG_ARGISNULL(7))
		append_option(&options, "watermark",
					  DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(7))));
	if (!PG_ARGISNULL(9))
		append_json_options(&options, PG_GETARG_JSONB_P(9), &has_topic);
	/* the topic is written down, so that renaming the stream does not change it */
	if (!has_topic)
		append_option(&options, "topic", target->relname);

	/* a line break ends a comment at the end of the column list */
	run_utility(psprintf("CREATE FOREIGN TABLE %s (%s\n) SERVER %s OPTIONS (%s)",
						 NameListToQuotedString(names), columns,
						 quote_identifier(NameStr(*PG_GETARG_NAME(4))), options.data));
	relid = get_relname_relid(target->relname, nspid);

	stream = stream_get(relid);
	if (stream->event_time != 0 && !stream->has_watermark)
		ereport(
			NOTICE,
			(errmsg("watermark of stream \"%s\" is 0", stream->name),
			 errdetail("In a windowed query, a record is late if all its windows had ended by the "
					   "greatest event time of the earlier records of its partition."),
			 errhint("Give the greatest disorder that you expect: watermark => '10 s'.")));
	if (stream->brokers == NULL)
		ereport(WARNING, (errmsg("stream \"%s\" has no brokers to read from", stream->name),
						  errhint("Set option \"brokers\" of the stream or of server \"%s\".",
								  NameStr(*PG_GETARG_NAME(4)))));
	PG_RETURN_OID(relid);
}

/*
 * The names of the queries that use a stream, be it through views, for a message; an empty string if there are none.
 */
static char *
queries_of_stream(Oid relid)
{
	Oid types[] = {REGCLASSOID};
	Datum arguments[] = {ObjectIdGetDatum(relid)};
	StringInfoData names;

	initStringInfo(&names);
	SPI_connect();
	SPI_execute_with_args("SELECT * FROM velo.stream_queries($1)", 1, types, arguments, NULL, true,
						  0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		QueryInfo *query = query_get(DatumGetObjectId(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)));

		if (query != NULL)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", query->name);
	}
	SPI_finish();
	return names.data;
}

/*
 * Say in velo's words how to drop a stream that is in use: PostgreSQL knows a query by its view, whose name may be
 * another one.  arg: queries_of_stream()
 */
static void
drop_error_callback(void *arg)
{
	const char *queries = arg;

	if (geterrcode() != ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
		return;
	if (*queries != '\0')
		errhint("It is used by these queries: %s. Drop them with velo.drop_query(), or everything "
				"at once with velo.drop_stream(..., cascade => true).",
				queries);
	else
		errhint("Drop those first, or everything at once with velo.drop_stream(..., cascade => "
				"true).");
}

/*
 * velo.drop_stream(name regclass, cascade bool)
 */
Datum
velo_drop_stream(PG_FUNCTION_ARGS)
{
	ErrorContextCallback callback = {.callback = drop_error_callback};
	Oid relid = PG_GETARG_OID(0);
	char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("stream with OID %u does not exist", relid)));
	if (!stream_is(relid))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a stream", name),
						errhint("Streams are listed in velo.streams.")));

	callback.arg = queries_of_stream(relid);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	run_utility(
		psprintf("DROP FOREIGN TABLE %s %s",
				 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name),
				 PG_GETARG_BOOL(1) ? "CASCADE" : "RESTRICT"));
	error_context_stack = callback.previous;
	PG_RETURN_VOID();
}
