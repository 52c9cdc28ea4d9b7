/*
 * event_time.c
 *		The progress of event time: watermarks of partitions, of pipelines, of the query; idleness; the wall clock.
 *
 * A record is late by its own partition's watermark (process.c).  The query's watermark decides only when windows
 * close: it is the least of all active partitions, of all pipelines.  An idle partition does not hold it back; when
 * all are idle it goes on with the wall clock from where it stood.
 */
#include "pipeline/worker.h"

#include "utils/timestamp.h"

#define US_PER_MS 1000

void
restart_idle_clocks(Pipeline *pipeline, TimestampTz now)
{
	for (int s = 0; s < pipeline->nstreams; s++)
		for (int i = 0; i < pipeline->streams[s].npartitions; i++)
			pipeline->streams[s].partitions[i].last_record_at = now;
}

void
update_idleness(Pipeline *pipeline, TimestampTz now)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		SourcePartition *read = source_partitions(stream->source, NULL);
		const char *message;
		bool answers = source_trouble(stream->source, &message) == SOURCE_FINE;

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];

			/* records that were handed out and are still to be processed are lag, too */
			if (!answers || !source_caught_up(&read[i]) || stream->batch->nrecords > 0)
				partition->last_record_at = now;
			partition->idle = stream->idle_timeout > 0 &&
							  now - partition->last_record_at >= stream->idle_timeout * US_PER_MS;
		}
	}
}

/* The watermarks of all partitions of a query, on their way into its own. */
typedef struct Fold
{
	TimestampTz least; /* of the active ones; DT_NOEND if all are idle */
	TimestampTz greatest;
} Fold;

static void
fold(Fold *fold, TimestampTz watermark, bool idle)
{
	fold->greatest = Max(fold->greatest, watermark);
	if (!idle)
		fold->least = Min(fold->least, watermark);
}

/* A time and a while, or the last timestamp that there is. */
static TimestampTz
later(TimestampTz time, int64 elapsed)
{
	return Min(time, END_TIMESTAMP - 1 - elapsed) + elapsed;
}

TimestampTz
query_watermark(Pipeline *pipeline, TimestampTz now)
{
	Fold all = {.least = DT_NOEND, .greatest = DT_NOBEGIN};

	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];

		for (int i = 0; i < stream->npartitions; i++)
			fold(&all, stream->partitions[i].watermark, stream->partitions[i].idle);
	}
	if (pipeline->query->npipelines > 1)
	{
		ListCell *lc;

		foreach (lc, query_partitions(pipeline->id))
		{
			PartitionInfo *partition = lfirst(lc);

			if (partition->pipeline == pipeline->number)
				continue;
			/* what an earlier run has found idle may have got records since, as in an outage */
			fold(&all, partition->watermark,
				 partition->idle && pipeline_has_committed(pipeline->id, partition->pipeline));
		}
	}

	if (all.least != DT_NOEND)
	{
		pipeline->all_idle_since = DT_NOBEGIN;
		return Max(Max(all.least, pipeline->closed), pipeline->advanced);
	}

	/*
	 * Nobody holds event time back any more: it stands where the furthest partition is, and goes on from there.  That
	 * may have moved without having been seen active, if the time-out is shorter than the work on a batch.
	 */
	if (pipeline->all_idle_since == DT_NOBEGIN || all.greatest > pipeline->idle_stand)
	{
		pipeline->all_idle_since = now;
		pipeline->idle_stand = Max(all.greatest, pipeline->closed);
	}
	if (pipeline->idle_stand == DT_NOBEGIN)
		return pipeline->advanced;
	return Max(Max(pipeline->closed, pipeline->advanced),
			   later(pipeline->idle_stand, now - pipeline->all_idle_since));
}

TimestampTz
next_event_time_action(Pipeline *pipeline)
{
	TimestampTz next = DT_NOEND;
	TimestampTz close;

	if (!pipeline->query->windowed)
		return DT_NOEND;
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];

			if (!partition->idle && stream->idle_timeout > 0)
				next = Min(next, partition->last_record_at + stream->idle_timeout * US_PER_MS);
		}
	}
	close = group_table_next_close(pipeline->groups);
	if (pipeline->all_idle_since != DT_NOBEGIN && pipeline->idle_stand != DT_NOBEGIN &&
		close != DT_NOEND)
		next = Min(next, pipeline->all_idle_since + (close - pipeline->idle_stand));
	return next;
}
