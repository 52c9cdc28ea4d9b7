/*
 * partitions.c
 *		Which partitions a query reads, from where, and which pipeline each belongs to.
 *
 * Decided at the first contact with the brokers: when the query is created, or by its first pipeline if no broker
 * answered then.  Partition p belongs to pipeline p mod N.  Partitions that are added to a topic later are read from
 * their first record on.
 */
#include "pipeline/shared.h"

#include "miscadmin.h"
#include "pipeline/start.h"
#include "plan/plan.h"
#include "source/source.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/* how long a running pipeline asks about new partitions */
#define REFRESH_TIMEOUT_MS 5000

typedef enum StartKind
{
	START_EARLIEST,
	START_LATEST,
	START_AT,
	START_OFFSETS
} StartKind;

typedef struct StartOffset
{
	char *topic;
	int32 partition;
	int64 offset;
} StartOffset;

typedef struct Start
{
	StartKind kind;
	TimestampTz at;
	List *offsets; /* of StartOffset */
} Start;

/* ------------------------------------------------------------------ the start of a query */

static bool
parse_integer(const char *text, int64 max, int64 *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoll(text, &end, 10);
	return errno == 0 && *end == '\0' && *value <= max;
}

/* "topic:partition:offset"; false if it isn't of that form.  Spoils "text". */
static bool
parse_start_offset(char *text, StartOffset *result)
{
	char *offset = strrchr(text, ':');
	char *partition;
	int64 number;

	if (offset == NULL)
		return false;
	*offset++ = '\0';
	partition = strrchr(text, ':');
	if (partition == NULL || partition == text)
		return false;
	*partition++ = '\0';
	if (!parse_integer(partition, PG_INT32_MAX, &number) ||
		!parse_integer(offset, PG_INT64_MAX, &result->offset))
		return false;
	result->topic = text;
	result->partition = (int32) number;
	return true;
}

/* False if it is no list of offsets. */
static bool
parse_start_offsets(const char *text, Start *start)
{
	char *item;
	char *rest = pstrdup(text);

	while ((item = strsep(&rest, ",")) != NULL)
	{
		StartOffset *offset = palloc(sizeof(StartOffset));
		char *end;

		item += strspn(item, " \t\n");
		end = item + strlen(item);
		while (end > item && strchr(" \t\n", end[-1]))
			*--end = '\0';
		if (!parse_start_offset(item, offset))
			return false;
		start->offsets = lappend(start->offsets, offset);
	}
	return true;
}

/* A topic that the offsets name, but none of the streams reads; NULL if there is none. */
static const char *
unknown_topic(List *offsets, List *streams)
{
	ListCell *lc;

	foreach (lc, offsets)
	{
		const StartOffset *offset = lfirst(lc);
		bool known = false;
		ListCell *stream;

		foreach (stream, streams)
			known |= strcmp(stream_get(lfirst_oid(stream))->topic, offset->topic) == 0;
		if (!known)
			return offset->topic;
	}
	return NULL;
}

/* What the start turned out not to be, for start_error_callback(). */
typedef struct StartError
{
	const char *text;
	const char *unknown_topic; /* or NULL: it has not the form of a list of offsets either */
} StartError;

static void
start_error_callback(void *arg)
{
	const StartError *error = arg;

	if (geterrcode() != ERRCODE_INVALID_DATETIME_FORMAT &&
		geterrcode() != ERRCODE_DATETIME_FIELD_OVERFLOW)
		return;
	errcode(ERRCODE_INVALID_PARAMETER_VALUE);
	if (error->unknown_topic != NULL)
		errmsg("the query reads no topic \"%s\", which its start names", error->unknown_topic);
	else
		errmsg("invalid start of a query: \"%s\"", error->text);
	errhint("Valid values are: earliest, latest, a timestamp with time zone, or "
			"'topic:partition:offset,...'.");
}

/*
 * "2026-01-01 00:00:00" looks like an offset of a topic as well, which it is if a stream reads that topic.
 */
static Start *
parse_start(const char *text, List *streams)
{
	Start *start = palloc0(sizeof(Start));
	StartError error = {.text = text};
	ErrorContextCallback callback = {error_context_stack, start_error_callback, &error};

	if (pg_strcasecmp(text, "earliest") == 0)
		start->kind = START_EARLIEST;
	else if (pg_strcasecmp(text, "latest") == 0)
		start->kind = START_LATEST;
	else if (parse_start_offsets(text, start) &&
			 (error.unknown_topic = unknown_topic(start->offsets, streams)) == NULL)
		start->kind = START_OFFSETS;
	else
	{
		start->kind = START_AT;
		start->offsets = NIL;
		error_context_stack = &callback;
		start->at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
															ObjectIdGetDatum(InvalidOid),
															Int32GetDatum(-1)));
		error_context_stack = callback.previous;
	}
	return start;
}

char *
start_check(const char *text, List *streams)
{
	Start *start = parse_start(text, streams);
	ListCell *lc;

	/* 'now' and 'yesterday' must mean the same later, under any DateStyle */
	if (start->kind == START_AT)
		return JsonEncodeDateTime(palloc(MAXDATELEN + 1), TimestampTzGetDatum(start->at),
								  TIMESTAMPTZOID, NULL);
	foreach (lc, start->offsets)
	{
		const StartOffset *offset = lfirst(lc);
		ListCell *other;

		foreach (other, start->offsets)
		{
			const StartOffset *before = lfirst(other);

			if (before == offset)
				break;
			if (before->partition == offset->partition && strcmp(before->topic, offset->topic) == 0)
				ereport(
					ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("partition %d of topic \"%s\" is named twice in the start of a query",
							offset->partition, offset->topic)));
		}
	}
	return pstrdup(text);
}

/* Where to start in each partition of a stream. */
static int64 *
start_offsets(const Start *start, const StreamInfo *stream, const SourceBounds *bounds,
			  int npartitions, int timeout_ms)
{
	int64 *offsets = palloc(sizeof(int64) * Max(npartitions, 1));
	ListCell *lc;

	for (int i = 0; i < npartitions; i++)
		offsets[i] = start->kind == START_LATEST ? bounds[i].end : bounds[i].low;
	if (start->kind == START_AT)
	{
		int nfound;
		int64 *found = source_offsets_at(stream, start->at, &nfound, timeout_ms);

		memcpy(offsets, found, sizeof(int64) * Min(nfound, npartitions));
	}
	foreach (lc, start->offsets)
	{
		const StartOffset *offset = lfirst(lc);

		if (strcmp(offset->topic, stream->topic) != 0)
			continue;
		if (offset->partition >= npartitions)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("topic \"%s\" has no partition %d, which the query's start names",
							offset->topic, offset->partition),
					 errdetail("It has %d partitions.", npartitions)));
		if (offset->offset < bounds[offset->partition].low ||
			offset->offset > bounds[offset->partition].end)
			ereport(
				ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query's start is not in partition %d of topic \"%s\": " INT64_FORMAT,
						offset->partition, offset->topic, offset->offset),
				 errdetail("The partition goes from offset " INT64_FORMAT " to " INT64_FORMAT ".",
						   bounds[offset->partition].low, bounds[offset->partition].end)));
		offsets[offset->partition] = offset->offset;
	}
	return offsets;
}

/* ------------------------------------------------------------------ partitions */

static int
time_left(TimestampTz deadline)
{
	return (int) Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline));
}

/* All partitions of a stream, a list of PartitionInfo. */
static List *
resolve_stream(const QueryInfo *query, const Start *start, const StreamInfo *stream,
			   TimestampTz deadline)
{
	List *partitions = NIL;
	int npartitions;
	SourceBounds *bounds = source_bounds(stream, &npartitions, time_left(deadline));
	int64 *offsets = start_offsets(start, stream, bounds, npartitions, time_left(deadline));

	for (int i = 0; i < npartitions; i++)
	{
		PartitionInfo *partition = palloc0(sizeof(PartitionInfo));

		partition->stream = stream->relid;
		partition->partition = i;
		partition->next_offset = offsets[i];
		partition->end_offset = bounds[i].end;
		partition->stop_offset = query->stop_at_end ? bounds[i].end : -1;
		partition->watermark = DT_NOBEGIN;
		partitions = lappend(partitions, partition);
	}
	return partitions;
}

int
query_choose_pipelines(const QueryInfo *query, List *partitions)
{
	int wanted = query->pipelines_wanted;
	int most = 1;
	ListCell *lc;

	foreach (lc, partitions)
		most = Max(most, ((PartitionInfo *) lfirst(lc))->partition + 1);
	if (wanted == 0)
		return Min(most, velo_max_pipelines_per_query);
	if (wanted > most)
		ereport(
			NOTICE,
			(errmsg("query \"%s\" has more pipelines than its topics have partitions", query->name),
			 errdetail("%d of %d pipelines wait for partitions.", wanted - most, wanted)));
	return wanted;
}

void
query_resolve_partitions(QueryInfo *query, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	ContinuousQuery *continuous = continuous_load(query);
	const Start *start = parse_start(query->start, continuous->streams);
	List *partitions = NIL;
	const QueryInfo *current;
	ListCell *lc;

	foreach (lc, continuous->streams)
	{
		const StreamInfo *stream = stream_get_as(lfirst_oid(lc), query->owner);

		partitions = list_concat(partitions, resolve_stream(query, start, stream, deadline));
	}

	/* the brokers took their time, during which the query was not locked */
	if (!query_lock(query->id) || (current = query_get(query->id)) == NULL ||
		current->generation != query->generation)
		return;
	query->npipelines = query_choose_pipelines(query, partitions);
	query->merged = query->npipelines > 1 && continuous->grouped && !continuous->exclusive;
	query->generation++;
	foreach (lc, partitions)
	{
		PartitionInfo *partition = lfirst(lc);

		partition->pipeline = partition->partition % query->npipelines;
		query_save_partition(query->id, partition);
	}
	query_update(query);
	query_set_pipeline_error(query->id, QUERY_AS_A_WHOLE, NULL, DT_NOEND);
	pipeline_notify_at_commit();
}

/* Number of partitions of the stream that the query knows. */
static int
count_partitions(Oid id, const StreamInfo *stream)
{
	int count = 0;
	ListCell *lc;

	foreach (lc, query_partitions(id))
		count += ((PartitionInfo *) lfirst(lc))->stream == stream->relid;
	return count;
}

/*
 * The bounds of the stream's partitions; NULL if the broker doesn't tell, which then is no matter.  Outside of any
 * transaction.
 */
static SourceBounds *
ask_for_bounds(const StreamInfo *stream, int *npartitions)
{
	MemoryContext caller = CurrentMemoryContext;
	SourceBounds *bounds = NULL;

	PG_TRY();
	{
		bounds = source_bounds(stream, npartitions, REFRESH_TIMEOUT_MS);
	}
	PG_CATCH();
	{
		int sqlerrcode = geterrcode();

		if (sqlerrcode == ERRCODE_QUERY_CANCELED || sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return bounds;
}

bool
query_add_partitions(Oid id, const StreamInfo *stream)
{
	MemoryContext caller = CurrentMemoryContext;
	int npartitions = 0;
	SourceBounds *bounds = ask_for_bounds(stream, &npartitions);
	QueryInfo *query;
	bool added = false;

	if (bounds == NULL)
		return false;
	begin_transaction();
	if (npartitions > count_partitions(id, stream) && query_lock(id) &&
		(query = query_get(id)) != NULL && query->state == QUERY_ACTIVE && !query->stop_at_end)
	{
		for (int i = count_partitions(id, stream); i < npartitions; i++)
		{
			PartitionInfo partition = {.stream = stream->relid,
									   .partition = i,
									   .pipeline = i % query->npipelines,
									   .next_offset = bounds[i].low,
									   .stop_offset = -1,
									   .end_offset = bounds[i].end,
									   .watermark = DT_NOBEGIN};

			query_save_partition(id, &partition);
			added = true;
		}
		if (added)
		{
			query->generation++;
			query_update(query);
			pipeline_notify_at_commit();
		}
	}
	commit_transaction();
	MemoryContextSwitchTo(caller);
	pfree(bounds);
	return added;
}
