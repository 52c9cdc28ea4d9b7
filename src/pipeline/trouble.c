/*
 * trouble.c
 *		Looking after the sources of a pipeline: troubles, gaps, new partitions; and how a query fails.
 *
 * A source that can't reach its broker tries again by itself, so the pipeline stays, says what it waits for, and goes
 * on when records come.  Records that are missing are another matter: never a silent jump.
 */
#include "pipeline/worker.h"

#include "pipeline/shared.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define US_PER_MS 1000
/* how long the brokers may take to say where the partitions of a topic begin and end */
#define BOUNDS_TIMEOUT_MS 5000

/*
 * Write something about the query in a transaction of its own.  Returns false if the query is no longer what this
 * pipeline was started for; then nothing was written.
 */
static bool
record(Pipeline *pipeline, ErrorData *error, bool failed)
{
	TimestampTz advanced;
	bool same;

	begin_transaction();
	same = query_enter(pipeline->id, pipeline->query->generation, &advanced);
	if (same && failed)
		query_set_state(pipeline->id, QUERY_FAILED);
	if (same)
		query_set_error(pipeline->id, error, DT_NOEND);
	commit_transaction();
	MemoryContextSwitchTo(pipeline->context);
	return same;
}

void
fail_query(Pipeline *pipeline, ErrorData *error)
{
	(void) record(pipeline, error, true);
}

/* ---------------------------------------------------------------- gaps */

/* The query fails because the next record of a partition is not in the log. */
static void
fail_at_gap(Pipeline *pipeline, PipelineStream *stream, const PipelinePartition *partition,
			const SourceBounds *bounds, bool other_topic)
{
	ErrorData error = {.elevel = ERROR, .sqlerrcode = ERRCODE_DATA_EXCEPTION};

	error.message =
		psprintf("offset " INT64_FORMAT " of partition %d of topic \"%s\" is not in the log",
				 partition->next_offset, partition->committed.partition, stream->info->topic);
	error.detail =
		psprintf("%sThe partition goes from offset " INT64_FORMAT " to " INT64_FORMAT ".",
				 other_topic ? "The topic is not the one that was read before, but one "
							   "made anew, or another broker's. "
							 : "",
				 bounds->low, bounds->end);
	error.hint = "To go on from its first offset, set the option on_gap to \"continue\" with "
				 "velo.alter_query() and call velo.restart_query(); or give that a start.";
	fail_query(pipeline, &error);
}

/*
 * A committed offset is not in the log any more (retention), or not yet (the topic was made anew), or, in another topic
 * of that name, is that of another record.  Returns false if the query has failed; else the partitions in question are
 * read from their first records on.
 */
static bool
settle_gap(Pipeline *pipeline, PipelineStream *stream, bool other_topic, const char *message)
{
	int nbounds;
	SourceBounds *bounds = source_bounds(stream->info, &nbounds, BOUNDS_TIMEOUT_MS);
	bool any = false;

	for (int i = 0; i < stream->npartitions; i++)
	{
		PipelinePartition *partition = &stream->partitions[i];
		int number = partition->committed.partition;

		if (other_topic)
			partition->committed.topic_id[0] = '\0';
		if (number >= nbounds ||
			(partition->next_offset >= bounds[number].low &&
			 partition->next_offset <= (other_topic ? bounds[number].low : bounds[number].end)))
			continue;
		any = true;
		if (!pipeline->query->options.gap_continue)
		{
			fail_at_gap(pipeline, stream, partition, &bounds[number], other_topic);
			return false;
		}
		ereport(LOG, (errmsg("query \"%s\" goes on at offset " INT64_FORMAT
							 " of partition %d of topic \"%s\" instead of " INT64_FORMAT,
							 pipeline->query->name, bounds[number].low, number, stream->info->topic,
							 partition->next_offset)));
		/* after a topic was made anew nobody knows how many are missing */
		pipeline->counters.skipped += Max(0, bounds[number].low - partition->next_offset);
		partition->next_offset = bounds[number].low;
		/* of a topic made anew the end, too, is another one */
		partition->committed.end_offset = bounds[number].end;
	}
	pfree(bounds);
	if (!any && !other_topic)
		ereport(ERROR, (errcode(ERRCODE_FDW_ERROR),
						errmsg("could not read topic \"%s\"", stream->info->topic),
						errdetail("%s.", message)));
	reopen_source(pipeline, stream);
	pipeline->due = true;
	return true;
}

/* ---------------------------------------------------------------- troubles */

static bool
report_trouble(Pipeline *pipeline, SourceTrouble trouble, const StreamInfo *stream,
			   const char *reason)
{
	ErrorData error = {.elevel = ERROR};

	error.detail = psprintf("%s.", reason != NULL && *reason != '\0' ? reason : "no answer");
	switch (trouble)
	{
		case SOURCE_NO_TOPIC:
			error.sqlerrcode = ERRCODE_UNDEFINED_OBJECT;
			error.message = psprintf("waiting for topic \"%s\"", stream->topic);
			break;
		case SOURCE_NOT_AUTHORIZED:
			error.sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
			error.message = psprintf("Kafka broker \"%s\" refuses to serve topic \"%s\"",
									 stream->brokers, stream->topic);
			break;
		default:
			error.sqlerrcode = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
			error.message = psprintf("waiting for Kafka broker \"%s\"", stream->brokers);
			break;
	}
	if (!record(pipeline, &error, false))
		return false;
	pipeline_set_state(PIPELINE_WAITING);
	return true;
}

/*
 * The trouble that an earlier look found is not that of this one: say so, or, when it is over, let the next transaction
 * say it.  Returns false if this run is over.
 */
static bool
trouble_changed(Pipeline *pipeline, SourceTrouble trouble, const StreamInfo *stream,
				const char *reason)
{
	pipeline->trouble = trouble;
	pipeline->unproven = true;
	pipeline->due = true;
	if (trouble == SOURCE_FINE)
		restart_idle_clocks(pipeline, GetCurrentTimestamp());
	return trouble == SOURCE_FINE || report_trouble(pipeline, trouble, stream, reason);
}

/*
 * To be called between transactions.  Returns false if this run is over: the query has failed or changed, or has more
 * partitions than it started with.  Throws what calls for a new connection.
 */
bool
watch_sources(Pipeline *pipeline)
{
	TimestampTz now = GetCurrentTimestamp();
	SourceTrouble worst = SOURCE_FINE;
	const StreamInfo *where = NULL;
	const char *reason = NULL;

	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		const char *message;
		SourceTrouble trouble = source_trouble(stream->source, &message);

		if (trouble == SOURCE_OUT_OF_RANGE || trouble == SOURCE_OTHER_TOPIC)
		{
			if (!settle_gap(pipeline, stream, trouble == SOURCE_OTHER_TOPIC, message))
				return false;
		}
		else if (trouble == SOURCE_FAILED)
			ereport(ERROR, (errcode(ERRCODE_FDW_ERROR),
							errmsg("could not read topic \"%s\"", stream->info->topic),
							errdetail("%s.", message)));
		else if (trouble != SOURCE_FINE)
		{
			worst = trouble;
			where = stream->info;
			reason = message;
		}
		else if (pipeline->number == 0 && now >= stream->refresh_at)
		{
			stream->refresh_at = now + stream->info->partitions_refresh * US_PER_MS;
			if (query_add_partitions(pipeline->id, stream->info))
				return false;
		}
	}
	return worst == pipeline->trouble || trouble_changed(pipeline, worst, where, reason);
}
