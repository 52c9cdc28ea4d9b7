/*
 * metrics.c
 *		A pipeline's figures in shared memory, and the histograms behind its percentiles.
 *
 * Only the worker writes its slot's figures, so plain stores suffice; readers take each 64-bit value as it is.
 */
#include "pipeline/worker.h"

#include <math.h>

#include "port/pg_bitutils.h"
#include "utils/timestamp.h"

/*
 * Bucket b holds values from 2^((b-1)/2) to 2^(b/2), the first also what is less.  A percentile is the middle of its
 * bucket, so it is right within a factor of 1.19.
 */
void
histogram_add(Histogram *histogram, uint64 value)
{
	int bucket = value <= 1 ? 0 : (int) ceil(log2((double) value) * 2.0);
	pg_atomic_uint32 *slot = &histogram->buckets[Min(bucket, METRIC_BUCKETS - 1)];
	uint32 count = pg_atomic_read_u32(slot);

	/* the past fades: all is halved when a bucket is full, which the most frequent values reach first */
	if (count >= METRIC_FADE)
		for (int i = 0; i < METRIC_BUCKETS; i++)
			pg_atomic_write_u32(&histogram->buckets[i],
								pg_atomic_read_u32(&histogram->buckets[i]) / 2);
	pg_atomic_write_u32(slot, pg_atomic_read_u32(slot) + 1);
}

double
histogram_percentile(Histogram *histogram, double fraction)
{
	uint64 total = 0;
	uint64 seen = 0;

	for (int i = 0; i < METRIC_BUCKETS; i++)
		total += pg_atomic_read_u32(&histogram->buckets[i]);
	for (int i = 0; i < METRIC_BUCKETS; i++)
	{
		seen += pg_atomic_read_u32(&histogram->buckets[i]);
		if (total > 0 && seen >= fraction * total)
			return rint(pow(2.0, Max(i - 0.5, 0.0) / 2.0));
	}
	return 0.0;
}

void
record_stage(MetricStage stage, uint64 value)
{
	PipelineSlot *slot = pipeline_my_slot();

	if (slot != NULL)
		histogram_add(&slot->stages[stage], value);
}

static TimestampTz rate_at = 0; /* when it was published last */
static int64 rate_records = 0;  /* records_in then */
static bool rate_is_zero = true;

void
publish_rate(Pipeline *pipeline)
{
	PipelineSlot *slot = pipeline_my_slot();
	int64 records = pipeline->committed_counters.records_in;
	TimestampTz now = GetCurrentTimestamp();

	if (rate_at == 0 || (rate_is_zero && records == rate_records))
	{
		rate_at = now;
		rate_records = records;
		return;
	}
	/* after a pause, the rate is that of the last second */
	if (rate_is_zero)
		rate_at = Max(rate_at, now - USECS_PER_SEC);
	rate_is_zero = false;
	if (slot == NULL || now - rate_at < USECS_PER_SEC)
		return;
	pg_atomic_write_u64(&slot->records_per_second, (uint64) ((records - rate_records) * 1000.0 *
															 USECS_PER_SEC / (now - rate_at)));
	rate_is_zero = records == rate_records;
	rate_at = now;
	rate_records = records;
}

TimestampTz
next_rate_at(void)
{
	return rate_is_zero ? DT_NOEND : rate_at + USECS_PER_SEC;
}

void
publish_figures(Pipeline *pipeline)
{
	PipelineSlot *slot = pipeline_my_slot();
	SourceStats total = {0};
	GroupTableStats state = {0};

	if (slot == NULL)
		return;
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		SourceStats stats;

		source_stats(pipeline->streams[s].source, &stats);
		total.queue_depth += stats.queue_depth;
		total.queue_capacity += stats.queue_capacity;
		total.queue_high_water += stats.queue_high_water;
		total.backpressure_events += stats.backpressure_events;
		total.queue_bytes += stats.queue_bytes;
	}
	pg_atomic_write_u64(&slot->last_commit_at, GetCurrentTimestamp());
	publish_rate(pipeline);
	pg_atomic_write_u64(&slot->queue_depth, total.queue_depth);
	pg_atomic_write_u64(&slot->queue_capacity, total.queue_capacity);
	pg_atomic_write_u64(&slot->queue_high_water, total.queue_high_water);
	pg_atomic_write_u64(&slot->backpressure_events, total.backpressure_events);
	if (pipeline->groups != NULL)
		group_table_stats(pipeline->groups, &state);
	pg_atomic_write_u64(&slot->groups, state.groups);
	pg_atomic_write_u64(&slot->open_windows, state.open_windows);
	pg_atomic_write_u64(&slot->state_bytes, state.state_bytes);
	pg_atomic_write_u64(&slot->memory_bytes, state.memory_bytes + total.queue_bytes);
	pipeline_set_state(pipeline->trouble != SOURCE_FINE ? PIPELINE_WAITING : PIPELINE_RUNNING);
}
