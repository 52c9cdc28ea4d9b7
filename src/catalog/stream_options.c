/*
 * stream_options.c
 *		Reading and checking the options of velo's wrapper: what may be set where, and to what.
 *
 * The validator sees options before there is a table, so whatever concerns columns is checked in stream.c,
 * each time that a stream is looked up.
 */
#include "stream_options.h"

#include "commands/defrem.h"
#include "common/int.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#define STREAM_OPTIONS                                                                             \
	"topic, brokers, format, event_time, watermark, key, idle_timeout, max_future, "               \
	"partitions_refresh, on_error, mode"
#define COLUMN_OPTIONS "metadata, field, unit"
#define FORMATS "json, raw"
#define METADATA "topic, partition, offset, timestamp, key, headers, value"

#define DEFAULT_PARTITIONS_REFRESH (60 * 1000)
/* ms; nobody will have waited for the end of a longer time */
#define LONGEST_WAIT (INT64CONST(100) * 366 * SECS_PER_DAY * 1000)

/* The name of a comma-separated list that "name" was probably meant to be; NULL if none is near. */
static const char *
nearest_name(const char *name, const char *names)
{
	char *copy = pstrdup(names);
	char *place;
	const char *nearest = NULL;
	int least = Min(4, (int) strlen(name) / 2) + 1;

	/* far from everything, and longer names may be too long for varstr_levenshtein() */
	if (strlen(name) > NAMEDATALEN)
		return NULL;
	for (char *candidate = strtok_r(copy, ", ", &place); candidate != NULL;
		 candidate = strtok_r(NULL, ", ", &place))
	{
		int distance = varstr_levenshtein_less_equal(name, strlen(name), candidate,
													 strlen(candidate), 1, 1, 1, least - 1, true);

		if (distance < least)
		{
			least = distance;
			nearest = candidate;
		}
	}
	return nearest;
}

void
option_unknown(const char *what, const char *name, const char *valid)
{
	const char *nearest = nearest_name(name, valid);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid %s option \"%s\"", what, name),
			 nearest ? errhint("Perhaps you meant \"%s\". Valid options are: %s.", nearest, valid)
					 : errhint("Valid options are: %s.", valid)));
}

static void
pg_attribute_noreturn() unknown_value(DefElem *def, const char *valid)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", def->defname, defGetString(def)),
			 errhint("Valid values are: %s.", valid)));
}

static void
pg_attribute_noreturn() later_value(DefElem *def, const char *valid)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("%s \"%s\" is not supported yet", def->defname, defGetString(def)),
					errhint("Valid values are: %s.", valid)));
}

Interval *
option_interval(const char *text)
{
	int style = IntervalStyle;
	Datum result = (Datum) 0;

	IntervalStyle = INTSTYLE_POSTGRES;
	PG_TRY();
	{
		result = DirectFunctionCall3(interval_in, CStringGetDatum(text),
									 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	PG_FINALLY();
	{
		IntervalStyle = style;
	}
	PG_END_TRY();
	return DatumGetIntervalP(result);
}

static void
interval_error_context(void *arg)
{
	errcontext("option \"%s\"", ((DefElem *) arg)->defname);
}

/* The microseconds of an option that is an interval of fixed length, not negative. */
static int64
interval_option(DefElem *def)
{
	ErrorContextCallback callback = {.callback = interval_error_context, .arg = def};
	Interval *interval;
	int64 result;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	interval = option_interval(defGetString(def));
	error_context_stack = callback.previous;

	if (interval->month != 0 || pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, interval->time, &result) || result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", def->defname, defGetString(def)),
				 errdetail("It must be a finite interval, not negative and without months or "
						   "years, whose length is not fixed.")));
	return result;
}

/*
 * The same in milliseconds, rounded up, for 0 may mean something else than a short time; and at most a century, so that
 * it can be added to any time of the clock.
 */
static int64
milliseconds_option(DefElem *def)
{
	int64 microseconds = interval_option(def);

	return Min(microseconds / 1000 + (microseconds % 1000 > 0), LONGEST_WAIT);
}

/* A comma-separated list of identifiers, read as PostgreSQL reads them. */
static List *
identifiers_option(DefElem *def)
{
	List *names;

	if (!SplitIdentifierString(pstrdup(defGetString(def)), ',', &names) || names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", def->defname, defGetString(def)),
				 errdetail("It must name columns as SQL does: in double quotes if a name is "
						   "not all lower case.")));
	return names;
}

void
stream_topic_check(const char *topic)
{
	size_t length = strlen(topic);

	if (length == 0 || length > MAX_TOPIC_LENGTH || strcmp(topic, ".") == 0 ||
		strcmp(topic, "..") == 0 ||
		strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
			length)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic name \"%s\"", topic),
				 errdetail("A topic's name has 1 to %d letters (without diacritics), digits, dots, "
						   "underscores and hyphens.",
						   MAX_TOPIC_LENGTH)));
}

StreamOptions *
stream_options_read(List *options)
{
	StreamOptions *result = palloc0(sizeof(StreamOptions));
	ListCell *cell;

	result->idle_timeout = -1;
	result->max_future = -1;
	result->partitions_refresh = DEFAULT_PARTITIONS_REFRESH;

	foreach (cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);
		const char *name = def->defname;
		char *value = defGetString(def);

		if (strcmp(name, "topic") == 0)
		{
			stream_topic_check(value);
			result->topic = value;
		}
		else if (strcmp(name, "brokers") == 0)
			result->brokers = value;
		else if (strcmp(name, "format") == 0)
		{
			if (strcmp(value, "json") == 0)
				result->format = FORMAT_JSON;
			else if (strcmp(value, "raw") == 0)
				result->format = FORMAT_RAW;
			else if (strcmp(value, "csv") == 0 || strcmp(value, "avro") == 0 ||
					 strcmp(value, "protobuf") == 0)
				later_value(def, FORMATS);
			else
				unknown_value(def, FORMATS);
		}
		else if (strcmp(name, "event_time") == 0)
		{
			List *names = identifiers_option(def);

			if (list_length(names) != 1)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("option \"%s\" must name one column", name)));
			result->event_time = linitial(names);
		}
		else if (strcmp(name, "watermark") == 0)
		{
			result->watermark = interval_option(def);
			result->has_watermark = true;
		}
		else if (strcmp(name, "key") == 0)
			result->keys = identifiers_option(def);
		else if (strcmp(name, "idle_timeout") == 0)
			result->idle_timeout = milliseconds_option(def);
		else if (strcmp(name, "max_future") == 0)
			result->max_future = interval_option(def);
		else if (strcmp(name, "partitions_refresh") == 0)
		{
			result->partitions_refresh = milliseconds_option(def);
			if (result->partitions_refresh == 0)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("option \"%s\" must be greater than 0", name)));
		}
		else if (strcmp(name, "on_error") == 0)
		{
			if (strcmp(value, "skip") == 0)
				result->skip_errors = true;
			else if (strcmp(value, "fail") != 0)
				unknown_value(def, "fail, skip");
		}
		else if (strcmp(name, "mode") == 0)
		{
			if (strcmp(value, "upsert") == 0)
				later_value(def, "append");
			else if (strcmp(value, "append") != 0)
				unknown_value(def, "append");
		}
		else
			option_unknown("stream", name, STREAM_OPTIONS);
	}

	if (result->event_time == NULL && (result->has_watermark || result->max_future >= 0))
		ereport(ERROR, (errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
						errmsg("option \"%s\" requires option \"event_time\"",
							   result->has_watermark ? "watermark" : "max_future")));
	return result;
}

static const struct
{
	const char *name;
	MetadataKind kind;
} metadata_kinds[] = {{"topic", META_TOPIC},   {"partition", META_PARTITION},
					  {"offset", META_OFFSET}, {"timestamp", META_TIMESTAMP},
					  {"key", META_KEY},       {"headers", META_HEADERS},
					  {"value", META_VALUE}};

const char *
metadata_name(MetadataKind kind)
{
	for (int i = 0; i < (int) lengthof(metadata_kinds); i++)
		if (metadata_kinds[i].kind == kind)
			return metadata_kinds[i].name;
	return NULL;
}

static MetadataKind
metadata_option(DefElem *def)
{
	for (int i = 0; i < (int) lengthof(metadata_kinds); i++)
		if (strcmp(metadata_kinds[i].name, defGetString(def)) == 0)
			return metadata_kinds[i].kind;
	unknown_value(def, METADATA);
}

/* Split a path at its dots. */
static void
field_option(DefElem *def, StreamColumn *column)
{
	char *name = pstrdup(defGetString(def));
	char *dot;

	column->path = palloc(sizeof(char *) * (strlen(name) + 1));
	do
	{
		dot = strchr(name, '.');
		if (dot != NULL)
			*dot = '\0';
		if (*name == '\0')
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("invalid value for option \"%s\": \"%s\"", def->defname,
								   defGetString(def)),
							errdetail("A path is one or more names, separated by dots.")));
		column->path[column->npath++] = name;
		name = dot + 1;
	} while (dot != NULL);
}

static int64
unit_option(DefElem *def)
{
	const char *value = defGetString(def);

	if (strcmp(value, "s") == 0)
		return 1;
	if (strcmp(value, "ms") == 0)
		return 1000;
	if (strcmp(value, "us") == 0)
		return 1000 * 1000;
	if (strcmp(value, "ns") == 0)
		return 1000 * 1000 * 1000;
	unknown_value(def, "s, ms, us, ns");
}

void
column_options_read(List *options, StreamColumn *column)
{
	const char *of_value = NULL; /* an option for columns that come from the value */
	ListCell *cell;

	*column = (StreamColumn){.metadata = META_NONE};
	foreach (cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "metadata") == 0)
			column->metadata = metadata_option(def);
		else if (strcmp(def->defname, "field") == 0)
		{
			field_option(def, column);
			of_value = def->defname;
		}
		else if (strcmp(def->defname, "unit") == 0)
		{
			column->unit = unit_option(def);
			of_value = def->defname;
		}
		else
			option_unknown("column", def->defname, COLUMN_OPTIONS);
	}

	if (column->metadata != META_NONE && of_value != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"metadata\" and \"%s\" exclude each other", of_value),
				 errdetail("A column with metadata is not decoded from the record's value.")));
}

void
stream_options_check(List *options)
{
	(void) stream_options_read(options);
}

void
column_options_check(List *options)
{
	StreamColumn column;

	column_options_read(options, &column);
}
