/*
 * query_options.c
 *		The options of a query: jsonb as the user gave it to QueryOptions.
 */
#include "velo.h"

#include <limits.h>

#include "catalog/velo_catalog.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/numeric.h"

/* bounds are those of the settings of the same name */
#define MAX_BATCH_SIZE 1000000
#define MAX_COMMIT_INTERVAL (3600 * 1000)
#define MIN_PIPELINE_MEMORY (8 * 1024)
#define MIN_RETRY_MAX_DELAY 100

/* the options, and what a user may write as their values */
static const struct
{
	const char *name;
	const char *valid_values;
} option_hints[] = {
	{"batch_size", "Valid values are from 1 to " CppAsString2(MAX_BATCH_SIZE) "."},
	{"commit_interval", "Valid values are from 1 millisecond to 1 hour."},
	{"grace", "A duration is an interval, or a number of milliseconds, not negative."},
	{"idle_timeout", "A duration is an interval, or a number of milliseconds, not negative."},
	{"pipeline_memory", "Valid values are from 8192 kB to 2147483647 kB."},
	{"retry_max_delay", "A duration is an interval, or a number of milliseconds, from 100 on."},
	{"on_gap", "Valid values are: fail, continue."},
	{"group_id", "A consumer group has a name."}};

/* What a user may write as the option's value; NULL: there is no such option. */
static const char *
option_hint(const char *name)
{
	for (int i = 0; i < (int) lengthof(option_hints); i++)
		if (strcmp(option_hints[i].name, name) == 0)
			return option_hints[i].valid_values;
	return NULL;
}

/* For the parentheses of ereport(): the options there are, with "extra" (may be NULL), a list of more. */
static int
hint_valid_options(const char *extra)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < (int) lengthof(option_hints); i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", option_hints[i].name);
	if (extra != NULL)
		appendStringInfo(&names, ", %s", extra);
	return errhint("Valid options are: %s.", names.data);
}

static void
invalid_value(const char *name, const char *value)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for query option \"%s\": \"%s\"", name, value),
					errhint("%s", option_hint(name))));
}

static char *
scalar_text(const char *name, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("value of query option \"%s\" must be a string or a number", name),
					 errhint("%s", option_hint(name))));
	}
	return NULL; /* not reached */
}

static int
parse_number(const char *name, const char *text, int min, int max, int unit)
{
	int result;

	if (!parse_int(text, &result, unit, NULL) || result < min || result > max)
		invalid_value(name, text);
	return result;
}

/* What interval_in() says is about an interval, not about the option. */
typedef struct DurationError
{
	const char *name;
	const char *text;
} DurationError;

static void
duration_error_callback(void *arg)
{
	const DurationError *error = arg;

	if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
		return;
	errcode(ERRCODE_INVALID_PARAMETER_VALUE);
	errmsg("invalid value for query option \"%s\": \"%s\"", error->name, error->text);
	errhint("%s", option_hint(error->name));
}

/* Microseconds: a plain number is milliseconds, anything else what interval accepts. */
static int64
parse_duration(const char *name, const char *text)
{
	char *end;
	double ms = strtod(text, &end);
	double us = ms * 1000.0;

	if (end == text || *end != '\0')
	{
		DurationError error = {name, text};
		ErrorContextCallback callback = {error_context_stack, duration_error_callback, &error};
		Interval *interval;

		error_context_stack = &callback;
		interval = option_interval(text);
		error_context_stack = callback.previous;
		us = (double) interval->time +
			 ((double) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY;
	}
	if (!(us >= 0 && us <= (double) INT_MAX * 1000.0))
		invalid_value(name, text);
	return (int64) us;
}

void
query_read_options(Jsonb *json, const char *extra, QueryOptions *options)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue item;

	options->batch_size = velo_batch_size;
	options->commit_interval = velo_commit_interval;
	options->grace = -1;
	options->idle_timeout = -1;
	options->pipeline_memory = velo_pipeline_memory;
	options->retry_max_delay = velo_retry_max_delay;
	options->gap_continue = false;
	options->group_id = NULL;
	if (json == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a query must be a JSON object"), hint_valid_options(extra)));

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		char *name;
		char *value;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(item.val.string.val, item.val.string.len);
		if (option_hint(name) == NULL)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("query option \"%s\" does not exist", name),
							hint_valid_options(extra)));
		JsonbIteratorNext(&it, &item, true);
		if (item.type == jbvNull)
			continue;
		value = scalar_text(name, &item);

		if (strcmp(name, "batch_size") == 0)
			options->batch_size = parse_number(name, value, 1, MAX_BATCH_SIZE, 0);
		else if (strcmp(name, "commit_interval") == 0)
		{
			int64 us = parse_duration(name, value);

			if (us < 1000 || us > MAX_COMMIT_INTERVAL * INT64CONST(1000))
				invalid_value(name, value);
			options->commit_interval = us / 1000;
		}
		else if (strcmp(name, "grace") == 0)
			options->grace = parse_duration(name, value);
		else if (strcmp(name, "idle_timeout") == 0)
			options->idle_timeout = (parse_duration(name, value) + 999) / 1000; /* 0: never */
		else if (strcmp(name, "pipeline_memory") == 0)
			options->pipeline_memory =
				parse_number(name, value, MIN_PIPELINE_MEMORY, INT_MAX, GUC_UNIT_KB);
		else if (strcmp(name, "retry_max_delay") == 0)
		{
			int64 us = parse_duration(name, value);

			if (us < MIN_RETRY_MAX_DELAY * INT64CONST(1000))
				invalid_value(name, value);
			options->retry_max_delay = us / 1000;
		}
		else if (strcmp(name, "on_gap") == 0)
		{
			if (strcmp(value, "continue") != 0 && strcmp(value, "fail") != 0)
				invalid_value(name, value);
			options->gap_continue = strcmp(value, "continue") == 0;
		}
		else if (strcmp(name, "group_id") == 0)
		{
			if (value[0] == '\0')
				invalid_value(name, value);
			options->group_id = value;
		}
	}
}
