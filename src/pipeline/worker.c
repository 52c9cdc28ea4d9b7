/*
 * worker.c
 *		The loop of a pipeline: poll outside any transaction; decode, evaluate, apply, write, checkpoint, commit in one.
 *
 * One transaction is the exactly-once protocol: results, changed state and offsets commit together or not at all.  It
 * takes as many batches as come within the commit interval and ends earlier when the pipeline has caught up.  No
 * transaction or snapshot is held while waiting for Kafka.  Windows of many groups close in the course of several
 * transactions, each of which spends a commit interval on that at most, beside the records that come meanwhile.  If
 * those close windows faster than they are written, no more are read until it is down to one.
 *
 * Memory has two truths, the catalog's and the worker's.  After a commit they agree.  After an abort the worker's is
 * thrown away and taken from the catalog again: groups are loaded from the last checkpoint, sources go back to the
 * committed offsets.  So nothing is ever left half changed.
 *
 * Applying can hardly fail, for everything was evaluated before; where it does (overflow of a sum), the transaction is
 * replayed with the means to take single records back, so that the one that fails can become a dead letter.
 */
#include "pipeline/worker.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "pipeline/shared.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define US_PER_MS 1000
/* how long the first record of a batch waits for more while the pipeline has not caught up */
#define GATHER_MS 10
/* the share of one batch's bytes of a pipeline's memory; see also SOURCE_QUEUE_SHARE */
#define BATCH_SHARE 8
/* a transaction of a merged query ends when its partial groups take that part of the pipeline's memory */
#define PARTIAL_SHARE 8
/* for how long a pipeline starts no transaction, so that somebody else gets hold of its locks */
#define YIELD_MS 10
/* how often a source in trouble is looked at */
#define TROUBLE_CHECK_MS 1000

/* The worker's own: a process runs one pipeline, and invalidation callbacks can't be taken back. */
static bool callbacks_registered = false;
static bool plan_is_stale = false;
static bool streams_are_stale = false;
static List *watched_relations = NIL; /* of Oid: those in the plan */
static List *watched_streams = NIL;   /* of Oid */

/* ---------------------------------------------------------------- invalidation */

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || list_member_oid(watched_relations, relid))
		plan_is_stale = true;
	if (OidIsValid(relid) && list_member_oid(watched_streams, relid))
		streams_are_stale = true;
}

static void
object_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	plan_is_stale = true;
}

static void
connection_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	streams_are_stale = true;
}

static void
register_callbacks(void)
{
	if (callbacks_registered)
		return;
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, object_changed, (Datum) 0);
	/* row security hangs on what the owner is, and a member of */
	CacheRegisterSyscacheCallback(AUTHOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, connection_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, connection_changed, (Datum) 0);
	callbacks_registered = true;
}

/* ---------------------------------------------------------------- setting up */

static void
watch_relations(const PlannedStmt *plan)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ListCell *lc;

	foreach (lc, plan->relationOids)
		watched_relations = list_append_unique_oid(watched_relations, lfirst_oid(lc));
	MemoryContextSwitchTo(old);
}

/*
 * Plan the query (again).  What hangs on the plan but not on the data goes with it: executor state, output, sink.
 */
static void
make_plan(Pipeline *pipeline)
{
	MemoryContext old;

	if (pipeline->sink != NULL)
		sink_close(pipeline->sink);
	pipeline->sink = NULL;
	/* the groups in memory go on as the plan says that they were loaded under */
	if (pipeline->plan_context != NULL && pipeline->plan_context != pipeline->groups_context)
		MemoryContextDelete(pipeline->plan_context);
	pipeline->plan_context =
		AllocSetContextCreate(pipeline->context, "velo plan", ALLOCSET_DEFAULT_SIZES);
	list_free(watched_relations);
	watched_relations = NIL;

	old = MemoryContextSwitchTo(pipeline->plan_context);
	plan_is_stale = false;
	pipeline->plan = continuous_plan(continuous_load(pipeline->query));
	pipeline->input = input_plan_create(pipeline->plan->input, pipeline->plan->input_records,
										pipeline->plan->input_of_few, pipeline->plan->record_column,
										pipeline->query->windowed);
	if (pipeline->plan->grouped != NULL)
	{
		aggregates_check_rights(pipeline->plan->grouped->grouping);
		pipeline->emitter = emitter_create(pipeline->plan->grouped);
	}
	pipeline->sink = sink_open(pipeline->query->target, pipeline->query->own_target,
							   pipeline->plan->result, pipeline->plan->query->key_columns);
	watch_relations(pipeline->plan->input);
	if (pipeline->plan->grouped != NULL)
	{
		watch_relations(pipeline->plan->grouped->output);
		if (pipeline->plan->grouped->collected != NULL)
			watch_relations(pipeline->plan->grouped->collected);
	}
	pipeline->locked =
		list_concat_copy(watched_relations, list_make2_oid(pipeline->query->target, pipeline->id));
	MemoryContextSwitchTo(old);
}

static bool
lock_plan_relations(Pipeline *pipeline)
{
	GroupedPlan *grouped = pipeline->plan->grouped;

	return plan_lock_relations(pipeline->plan->input) &&
		   (grouped == NULL ||
			(plan_lock_relations(grouped->output) &&
			 (grouped->collected == NULL || plan_lock_relations(grouped->collected))));
}

/*
 * Lock what the plan reads, and plan again as long as waiting for a lock brought news that a relation or function of it
 * has changed.
 */
static void
lock_valid_plan(Pipeline *pipeline)
{
	for (;;)
	{
		if (plan_is_stale)
			make_plan(pipeline);
		if (!lock_plan_relations(pipeline))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
							errmsg("a relation that the query reads does not exist any more")));
		if (!plan_is_stale)
			break;
		CHECK_FOR_INTERRUPTS();
	}
}

static void
load_groups(Pipeline *pipeline)
{
	MemoryContext old;

	if (pipeline->groups != NULL)
		group_table_destroy(pipeline->groups);
	if (pipeline->partial != NULL)
		group_table_destroy(pipeline->partial);
	pipeline->groups = pipeline->partial = NULL;
	if (pipeline->groups_context != NULL && pipeline->groups_context != pipeline->plan_context)
		MemoryContextDelete(pipeline->groups_context);
	pipeline->groups_context = pipeline->plan_context;
	if (pipeline->plan->grouped == NULL)
		return;
	old = MemoryContextSwitchTo(pipeline->context);
	pipeline->groups =
		group_table_create(pipeline->plan->grouped->grouping, pipeline->id, pipeline->number,
						   pipeline->query->options.pipeline_memory, pipeline->query->merged);
	if (pipeline->query->merged)
		pipeline->partial =
			group_table_create(pipeline->plan->grouped->grouping, pipeline->id, pipeline->number,
							   pipeline->query->options.pipeline_memory, false);
	MemoryContextSwitchTo(old);
	VELO_INJECTION_POINT("before-load");
	group_table_load(pipeline->groups);
	VELO_INJECTION_POINT("after-load");
}

static int64
effective_idle_timeout(const QueryInfo *query, const StreamInfo *info)
{
	if (query->options.idle_timeout >= 0)
		return query->options.idle_timeout;
	if (info->idle_timeout >= 0)
		return info->idle_timeout;
	return velo_idle_timeout;
}

/* Read every partition of the stream from its next offset on. */
static void
open_source(Pipeline *pipeline, PipelineStream *stream)
{
	QueryOptions *options = &pipeline->query->options;
	SourcePartition *read = palloc0_array(SourcePartition, stream->npartitions + 1);
	const char *topic_id = "";

	for (int i = 0; i < stream->npartitions; i++)
	{
		read[i].partition = stream->partitions[i].committed.partition;
		read[i].position = stream->partitions[i].next_offset;
		if (stream->partitions[i].committed.topic_id[0] != '\0')
			topic_id = stream->partitions[i].committed.topic_id;
	}
	stream->group_told = false;
	stream->source = source_open(
		stream->info, options->group_id, read, stream->npartitions,
		options->pipeline_memory / SOURCE_QUEUE_SHARE / pipeline->plan->nstreams, topic_id);
	pfree(read);
}

static void
open_stream(Pipeline *pipeline, PipelineStream *stream, StreamUse *use, List *partitions)
{
	QueryInfo *query = pipeline->query;
	TimestampTz now = GetCurrentTimestamp();
	Bitmapset *wanted = bms_copy(use->wanted);
	ListCell *lc;

	stream->info = stream_get(use->relid);
	if (stream->info->event_time != 0)
		wanted = bms_add_member(wanted, stream->info->event_time);
	stream->decoder = decoder_create(stream->info, wanted);
	stream->batch = record_batch_create(pipeline->context, query->options.batch_size,
										stream->info->tupdesc->natts, wanted);
	if (stream->info->event_time != 0)
		stream->batch->watermark = palloc_array(TimestampTz, query->options.batch_size);
	stream->idle_timeout = effective_idle_timeout(query, stream->info);
	stream->refresh_at = now + stream->info->partitions_refresh * US_PER_MS;

	stream->partitions = palloc0_array(PipelinePartition, list_length(partitions) + 1);
	foreach (lc, partitions)
	{
		PartitionInfo *info = lfirst(lc);
		PipelinePartition *partition;

		if (info->stream != use->relid || info->pipeline != pipeline->number)
			continue;
		partition = &stream->partitions[stream->npartitions];
		partition->committed = *info;
		partition->next_offset = info->next_offset;
		partition->watermark = info->watermark;
		/* the clock of idleness starts anew with the pipeline: an outage or a restart is never idleness */
		partition->last_record_at = now;
		stream->npartitions++;
	}
	open_source(pipeline, stream);
}

/* For one batch, in bytes. */
static Size
batch_memory(const Pipeline *pipeline)
{
	return (Size) pipeline->query->options.pipeline_memory * 1024 / BATCH_SHARE;
}

/*
 * Columns take memory by the record, however short that is: of many columns fewer records make a batch, so that it stays
 * within its share of the pipeline's memory whatever batch_size the query's owner wants.
 */
static void
bound_batch_size(Pipeline *pipeline)
{
	QueryOptions *options = &pipeline->query->options;
	Size needed = 0; /* by one record of each stream */

	for (int s = 0; s < pipeline->plan->nstreams; s++)
		needed += sizeof(Record) + sizeof(TimestampTz) +
				  (bms_num_members(pipeline->plan->streams[s].wanted) + 1) *
					  (sizeof(Datum) + sizeof(bool));
	options->batch_size = Max(1, Min((Size) options->batch_size, batch_memory(pipeline) / needed));
}

static void
open_streams(Pipeline *pipeline)
{
	List *partitions = query_partitions(pipeline->id);
	int n = pipeline->plan->nstreams;
	BatchSet *set = &pipeline->set;

	streams_are_stale = false;
	bound_batch_size(pipeline);
	pipeline->nstreams = n;
	pipeline->streams = palloc0_array(PipelineStream, n);
	set->nstreams = n;
	set->relids = palloc_array(Oid, n);
	set->batches = palloc_array(RecordBatch *, n);
	set->event_time = palloc_array(AttrNumber, n);
	set->from = palloc0_array(int, n);
	set->to = palloc0_array(int, n);
	for (int s = 0; s < n; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		MemoryContext old;

		open_stream(pipeline, stream, &pipeline->plan->streams[s], partitions);
		set->relids[s] = stream->info->relid;
		set->batches[s] = stream->batch;
		set->event_time[s] = stream->info->event_time;
		old = MemoryContextSwitchTo(TopMemoryContext);
		watched_streams = list_append_unique_oid(watched_streams, stream->info->relid);
		MemoryContextSwitchTo(old);
	}
}

/* NULL if the query is gone, or no longer what this worker was started for. */
static Pipeline *
set_up(Oid id, int number, int generation)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "velo pipeline", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	Pipeline *pipeline;

	register_callbacks();
	begin_transaction();
	old = MemoryContextSwitchTo(context);
	pipeline = palloc0_object(Pipeline);
	pipeline->id = id;
	pipeline->number = number;
	pipeline->context = context;
	pipeline->round_context = AllocSetContextCreate(context, "velo batch", ALLOCSET_DEFAULT_SIZES);
	pipeline->emit_context = AllocSetContextCreate(context, "velo emit", ALLOCSET_DEFAULT_SIZES);
	pipeline->unproven = true;
	/* the first transaction makes the row of a global aggregate, and shows that all is well */
	pipeline->due = true;
	pipeline->all_idle_since = DT_NOBEGIN;
	pipeline->advanced = DT_NOBEGIN;
	pipeline->query = query_get(id);
	if (pipeline->query != NULL && pipeline->query->state == QUERY_ACTIVE &&
		pipeline->query->generation == generation)
	{
		(void) query_read_counters(id, number, &pipeline->counters);
		pipeline->committed_counters = pipeline->counters;
		pipeline->closed = pipeline->counters.closed;
		pipeline->written = pipeline->counters.written;
		make_plan(pipeline);
		MemoryContextSwitchTo(context);
	}
	else
		pipeline = NULL;
	if (pipeline != NULL && query_enter(id, generation, &pipeline->advanced))
	{
		open_streams(pipeline);
		pipeline->rows = input_rows_create(context, input_plan_desc(pipeline->input));
		load_groups(pipeline);
		if (pipeline->plan->grouped != NULL && pipeline->plan->grouped->nstream_keys > 0 &&
			pipeline->query->npipelines > 1 && !pipeline->query->merged)
		{
			MemoryContextSwitchTo(context);
			pipeline->stream_keys = stream_keys_create(pipeline->plan->grouped);
		}
	}
	else
		pipeline = NULL;
	MemoryContextSwitchTo(old);
	commit_transaction();
	if (pipeline == NULL)
		MemoryContextDelete(context);
	return pipeline;
}

static void
tear_down(Pipeline *pipeline)
{
	if (pipeline->events != NULL)
		FreeWaitEventSet(pipeline->events);
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		source_release(pipeline->streams[s].source);
		source_close(pipeline->streams[s].source);
	}
	if (pipeline->sink != NULL)
		sink_close(pipeline->sink);
	list_free(watched_relations);
	list_free(watched_streams);
	watched_relations = NIL;
	watched_streams = NIL;
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(pipeline->context);
}

/* ---------------------------------------------------------------- polling and waiting */

/* Wait for the sources that are open now, the latch and the postmaster's death. */
static void
watch_events(Pipeline *pipeline)
{
	if (pipeline->events != NULL)
		FreeWaitEventSet(pipeline->events);
	pipeline->events = compat_create_wait_event_set(pipeline->context, pipeline->nstreams + 2);
	AddWaitEventToSet(pipeline->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(pipeline->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int s = 0; s < pipeline->nstreams; s++)
		AddWaitEventToSet(pipeline->events, WL_SOCKET_READABLE,
						  source_wakeup_fd(pipeline->streams[s].source), NULL, NULL);
}

/* Drop what lies behind the stop offsets from the records polled last. */
static void
drop_beyond_stop(PipelineStream *stream, int from)
{
	RecordBatch *batch = stream->batch;
	int kept = from;

	for (int i = from; i < batch->nrecords; i++)
	{
		int64 stop = stream->partitions[batch->records[i].partition].committed.stop_offset;

		if (stop < 0 || batch->records[i].offset < stop)
			batch->records[kept++] = batch->records[i];
	}
	batch->nrecords = kept;
}

/* Records in all batches. */
static int
total_records(Pipeline *pipeline)
{
	int total = 0;

	for (int s = 0; s < pipeline->nstreams; s++)
		total += pipeline->streams[s].batch->nrecords;
	return total;
}

/* Take at most "max" records of a stream that are there. */
static void
poll_stream(Pipeline *pipeline, PipelineStream *stream, int max)
{
	RecordBatch *batch = stream->batch;
	int before = batch->nrecords;
	Size budget = pipeline->batch_budget;
	TimestampTz now;

	/* nothing would wake us for what is left behind records that are all dropped */
	while (source_poll(stream->source, batch, max, &pipeline->batch_budget) > 0)
	{
		if (pipeline->query->stop_at_end)
			drop_beyond_stop(stream, before);
		if (batch->nrecords > before)
			break;
		if (before == 0)
		{
			source_release(stream->source);
			pipeline->batch_budget = budget;
		}
		CHECK_FOR_INTERRUPTS();
	}
	if (batch->nrecords == before || !pipeline->query->windowed)
		return;
	now = GetCurrentTimestamp();
	for (int i = before; i < batch->nrecords; i++)
	{
		PipelinePartition *partition = &stream->partitions[batch->records[i].partition];

		partition->last_record_at = now;
		partition->idle = false;
	}
}

static bool
batches_are_full(Pipeline *pipeline)
{
	return total_records(pipeline) >= pipeline->query->options.batch_size ||
		   pipeline->batch_budget == 0;
}

/*
 * Take what is there.  Each stream gets its share of the batch first, so that one with a long backlog does not keep
 * the others waiting, and then what they have left of theirs.  Returns the number of records in all batches.
 */
static int
poll_streams(Pipeline *pipeline)
{
	int limit = pipeline->query->options.batch_size;
	int share = Max(1, limit / pipeline->nstreams);

	if (total_records(pipeline) == 0)
		pipeline->batch_budget = batch_memory(pipeline);
	for (int s = 0; s < pipeline->nstreams && !batches_are_full(pipeline); s++)
	{
		PipelineStream *stream = &pipeline->streams[s];

		if (stream->batch->nrecords < share)
			poll_stream(pipeline, stream, share - stream->batch->nrecords);
	}
	if (pipeline->nstreams > 1)
		for (int s = 0; s < pipeline->nstreams && !batches_are_full(pipeline); s++)
			poll_stream(pipeline, &pipeline->streams[s], limit - total_records(pipeline));
	return total_records(pipeline);
}

/* Everything that the brokers are known to have was handed out. */
static bool
caught_up(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		SourcePartition *partitions = source_partitions(stream->source, NULL);

		for (int i = 0; i < stream->npartitions; i++)
			if (!source_caught_up(&partitions[i]))
				return false;
	}
	return true;
}

/* Returns true if somebody set the latch: a sibling whose watermark moved, the scheduler, a signal. */
static bool
wait_for_events(Pipeline *pipeline, long timeout_ms)
{
	WaitEvent event;
	bool woken;

	pgstat_report_activity(STATE_IDLE, NULL);
	(void) WaitEventSetWait(pipeline->events, timeout_ms, &event, 1, PG_WAIT_EXTENSION);
	pgstat_report_activity(STATE_RUNNING, NULL);
	/* whatever the event was: the latch may have been set at the same moment */
	woken = MyLatch->is_set;
	if (woken)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return woken;
}

/* Read the configuration anew if it was reloaded.  Returns true if a setting has changed that this run began with. */
static bool
settings_changed(void)
{
	int batch_size = velo_batch_size;
	int commit_interval = velo_commit_interval;
	int idle_timeout = velo_idle_timeout;
	int pipeline_memory = velo_pipeline_memory;

	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return velo_batch_size != batch_size || velo_commit_interval != commit_interval ||
		   velo_idle_timeout != idle_timeout || velo_pipeline_memory != pipeline_memory;
}

static bool
told_to_stop(void)
{
	PipelineSlot *slot = pipeline_my_slot();

	return slot != NULL && slot->stop;
}

bool
is_waited_for(const Pipeline *pipeline)
{
	PipelineSlot *slot = pipeline_my_slot();

	return (slot != NULL && (slot->stop || slot->yield)) ||
		   relations_are_waited_for(pipeline->locked);
}

/* No transaction is running: let in who has asked for that, before the next one locks him out. */
static void
yield_if_asked(void)
{
	PipelineSlot *slot = pipeline_my_slot();

	if (slot == NULL || !slot->yield)
		return;
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	slot->yield = false;
	LWLockRelease(velo_shared->lock);
	pg_usleep(YIELD_MS * 1000L);
}

/* Something about the query may be different: the next transaction will see. */
static bool
told_of_change(void)
{
	PipelineSlot *slot = pipeline_my_slot();
	bool changed = slot != NULL && slot->changed;

	if (changed)
		slot->changed = false;
	return changed;
}

/*
 * Fill the batches: until one is full, the pipeline has caught up, or the first record has waited long enough.  Returns
 * the number of records; 0 at once when there is nothing.
 */
static int
gather(Pipeline *pipeline)
{
	TimestampTz start = GetCurrentTimestamp();
	int total = poll_streams(pipeline);
	TimestampTz until;

	if (total == 0)
		return 0;
	until = start + Min(GATHER_MS, pipeline->query->options.commit_interval) * US_PER_MS;
	while (!batches_are_full(pipeline) && !caught_up(pipeline) && !told_to_stop())
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			break;
		(void) wait_for_events(pipeline, left);
		total = poll_streams(pipeline);
	}
	record_stage(METRIC_POLL, GetCurrentTimestamp() - start);
	return total;
}

/* Give the records of the current batches back. */
static void
release_batches(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		record_batch_reset(pipeline->streams[s].batch);
		source_release(pipeline->streams[s].source);
	}
	MemoryContextReset(pipeline->round_context);
}

/* ---------------------------------------------------------------- the transaction */

void
take_turn(Pipeline *pipeline)
{
	LockDatabaseObject(RelationRelationId, pipeline->id, 0, ExclusiveLock);
}

void
enter_shared_groups(Pipeline *pipeline)
{
	if (!pipeline->query->merged || pipeline->in_shared_groups)
		return;
	take_turn(pipeline);
	/* show what the pipeline before us in turn has committed */
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	pipeline->closed = Max(pipeline->closed, query_closed(pipeline->id));
	pipeline->written = Max(pipeline->written, query_written(pipeline->id));
	pipeline->in_shared_groups = true;
}

/* Offsets move past control records and aborted transactions at the end, which are never handed out. */
static bool
skip_control_records(Pipeline *pipeline)
{
	bool moved = false;

	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		SourcePartition *partitions = source_partitions(stream->source, NULL);

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];
			int64 position = partitions[i].position;

			if (partition->committed.stop_offset >= 0)
				position = Min(position, partition->committed.stop_offset);
			if (position > partition->next_offset && stream->batch->nrecords == 0)
			{
				partition->next_offset = position;
				moved = true;
			}
		}
	}
	return moved;
}

static void
save_partitions(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		SourcePartition *read = source_partitions(stream->source, NULL);

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];
			PartitionInfo info = partition->committed;

			info.next_offset = partition->next_offset;
			info.watermark = partition->watermark;
			info.idle = partition->idle;
			strlcpy(info.topic_id, source_topic_id(stream->source), TOPIC_ID_SIZE);
			if (info.next_offset == partition->committed.next_offset &&
				info.watermark == partition->committed.watermark &&
				info.idle == partition->committed.idle &&
				strcmp(info.topic_id, partition->committed.topic_id) == 0)
				continue;
			if (read[i].end >= 0)
				info.end_offset = Max(read[i].end, info.next_offset);
			query_save_partition(pipeline->id, &info);
		}
	}
}

static bool
all_stopped(Pipeline *pipeline)
{
	if (!pipeline->query->stop_at_end)
		return false;
	for (int s = 0; s < pipeline->nstreams; s++)
		for (int i = 0; i < pipeline->streams[s].npartitions; i++)
		{
			PipelinePartition *partition = &pipeline->streams[s].partitions[i];

			if (partition->next_offset < partition->committed.stop_offset)
				return false;
		}
	return true;
}

/* true if the other pipelines' committed offsets have reached their stops */
static bool
siblings_stopped(Pipeline *pipeline)
{
	ListCell *lc;

	foreach (lc, query_partitions(pipeline->id))
	{
		PartitionInfo *partition = lfirst(lc);

		if (partition->pipeline != pipeline->number &&
			partition->next_offset < partition->stop_offset)
			return false;
	}
	return true;
}

/*
 * Close the windows that event time has passed, by its watermark, until that has taken long enough.
 */
static void
close_passed_windows(Pipeline *pipeline, TimestampTz watermark, TimestampTz until)
{
	/* what was folded in may be of a pipeline that lagged behind those that have closed by now */
	if (watermark <= pipeline->closed && pipeline->written >= pipeline->closed &&
		group_table_next_close(pipeline->groups) > pipeline->closed)
		return;
	pipeline->closed = watermark;
	pipeline->written = watermark;
	VELO_INJECTION_POINT("before-close");
	if (!close_windows(pipeline, watermark, until))
	{
		/* up to the first that is still there */
		pipeline->written = group_table_next_close(pipeline->groups) - 1;
		pipeline->closing = true;
		pipeline->behind = group_table_count_closed(pipeline->groups, watermark) > 1;
	}
}

/*
 * Windows that event time has passed are closed.  Returns the query's watermark, if its groups have anything to do with
 * it; else DT_NOBEGIN.  As long as no records are read, event time stands still: nobody can know which partitions are
 * idle.
 */
static TimestampTz
settle_windows(Pipeline *pipeline, TimestampTz until)
{
	const GroupingSpec *grouping = pipeline->plan->grouped->grouping;
	TimestampTz watermark;

	if (!pipeline->query->windowed && grouping->bin.kind == WINDOW_NONE)
		return DT_NOBEGIN;
	if (pipeline->behind)
	{
		watermark = pipeline->closed;
		/* whatever has moved it is for the next transaction */
		pipeline->due = true;
	}
	else
	{
		TimestampTz now = GetCurrentTimestamp();

		update_idleness(pipeline, now);
		watermark = query_watermark(pipeline, now);
	}
	pipeline->behind = false;
	if (pipeline->query->windowed)
		close_passed_windows(pipeline, watermark, until);
	return watermark;
}

static bool
siblings_have_groups(Pipeline *pipeline)
{
	for (int i = 0; i < pipeline->query->npipelines; i++)
		if (i != pipeline->number && group_state_is_private(pipeline->id, i))
			return true;
	return false;
}

/*
 * stop => 'end': when all pipelines have reached their stops, each closes what is its own, and the last one to do so
 * finishes the query.  Not before: until then the stream's key may turn out to be untrue, and groups be shared.  So a
 * pipeline that is there too early ends, and the scheduler starts it once more when all are.  Returns whether the
 * pipeline has come to its end; not while there is still something to close.
 */
static bool
finish_if_stopped(Pipeline *pipeline, TimestampTz until)
{
	bool last;

	if (!all_stopped(pipeline))
		return false;
	if (pipeline->query->npipelines > 1 && !pipeline->query->merged)
		take_turn(pipeline);
	last = pipeline->query->npipelines <= 1 || siblings_stopped(pipeline);
	if (pipeline->groups != NULL && last)
	{
		if (!close_windows(pipeline, DT_NOEND, until))
		{
			pipeline->closing = true;
			return false;
		}
		last = !siblings_have_groups(pipeline);
	}
	if (last)
	{
		query_set_state(pipeline->id, QUERY_FINISHED);
		stream_keys_delete(pipeline->id, PG_INT64_MAX);
	}
	return true;
}

/*
 * The stream's key is not true: from now on the groups are shared.  All pipelines of the query end, start anew, and
 * fold what they had into the shared groups.
 */
static void
become_merged(Pipeline *pipeline)
{
	TimestampTz advanced;

	begin_transaction();
	if (query_lock(pipeline->id) &&
		query_enter(pipeline->id, pipeline->query->generation, &advanced))
	{
		ereport(LOG, (errmsg("pipelines of query \"%s\" share groups from now on",
							 pipeline->query->name),
					  errdetail("Two pipelines have met the same value of key of stream \"%s\".",
								pipeline->streams[0].info->name)));
		query_set_merged(pipeline->id);
		VELO_INJECTION_POINT("become-merged");
		pipeline_notify_at_commit();
	}
	commit_transaction();
}

/*
 * A merged query: fold what pipelines have kept of their own into the shared groups, and write what that changes.  All of
 * it, whoever comes first: what one pipeline wrote of a group while another had its part would not be true.
 */
static void
fold_private_groups(Pipeline *pipeline)
{
	QueryInfo *query = pipeline->query;

	for (int i = 0; i < MAX_PIPELINES_PER_QUERY; i++)
	{
		GroupTable *own;
		bool more;

		if (!group_state_is_private(pipeline->id, i))
			continue;
		MemoryContextSwitchTo(pipeline->context);
		own = group_table_create(pipeline->plan->grouped->grouping, pipeline->id, i,
								 query->options.pipeline_memory, false);
		group_table_load(own);
		VELO_INJECTION_POINT("before-fold-private");
		MemoryContextSwitchTo(pipeline->round_context);
		do
		{
			more = group_table_fold(pipeline->groups, own);
			emit_changed(pipeline);
			/* the shared groups leave memory, which the next ones may need */
			group_table_checkpoint(pipeline->groups, DT_NOBEGIN);
		} while (more);
		group_table_destroy(own);
		VELO_INJECTION_POINT("after-fold-private");
	}
}

/* How a transaction ended. */
typedef enum TransactionEnd
{
	TRANSACTION_COMMITTED,
	TRANSACTION_OUTDATED, /* aborted: to be repeated, for windows were closed without what it read */
	TRANSACTION_OVER      /* aborted: the query is no longer what this pipeline was started for */
} TransactionEnd;

/* A transaction of a merged query goes on until its partial groups are many, then they must be folded. */
static bool
partial_is_large(Pipeline *pipeline)
{
	GroupTableStats stats;

	group_table_stats(pipeline->partial, &stats);
	return stats.memory_bytes >
		   (int64) pipeline->query->options.pipeline_memory * 1024 / PARTIAL_SHARE;
}

/*
 * Fold what this transaction has aggregated into the shared groups.  Returns false if a window of it was closed
 * meanwhile by other pipelines, as can happen when a partition was idle or event time was advanced by hand: then
 * records count as late that did not when they were applied.
 */
static bool
fold_partial_groups(Pipeline *pipeline)
{
	if (group_table_next_close(pipeline->partial) <= pipeline->closed)
		return false;
	pipeline->stage = STAGE_FOLD;
	VELO_INJECTION_POINT("before-fold");
	group_table_fold_partial(pipeline->groups, pipeline->partial);
	VELO_INJECTION_POINT("after-fold");
	return true;
}

static bool
is_global_aggregate(const Pipeline *pipeline)
{
	return pipeline->groups != NULL && pipeline->plan->grouped->grouping->nkeys == 0 &&
		   pipeline->plan->grouped->grouping->window.kind == WINDOW_NONE;
}

/*
 * One transaction: batches for as long as it may last, then what they change, in the sink and in the checkpoint.
 */
static TransactionEnd
transaction(Pipeline *pipeline)
{
	QueryInfo *query = pipeline->query;
	int64 interval = query->options.commit_interval * (int64) US_PER_MS;
	TimestampTz until = GetCurrentTimestamp() + interval;
	int enough = Max(1, query->options.batch_size / 4);
	int records = pipeline->behind ? 0 : total_records(pipeline);
	int64 processed = 0;
	bool proven;
	TimestampTz watermark = DT_NOBEGIN;
	TimestampTz stage_start;

	begin_transaction();
	VELO_INJECTION_POINT("begin");
	lock_valid_plan(pipeline);
	LockRelationOid(query->target, RowExclusiveLock);
	if (!query_enter(pipeline->id, query->generation, &pipeline->advanced))
	{
		AbortOutOfAnyTransaction();
		return TRANSACTION_OVER;
	}
	pipeline->in_shared_groups = false;
	if (pipeline->groups != NULL && query->merged && (!pipeline->folded || pipeline->outdated))
		enter_shared_groups(pipeline);
	if (pipeline->groups != NULL && query->merged && !pipeline->folded)
	{
		/* all that claimed values of the stream's key have ended by now */
		stream_keys_delete(pipeline->id, PG_INT64_MAX);
		fold_private_groups(pipeline);
	}

	while (records > 0)
	{
		processed += records;
		process_round(pipeline);
		release_batches(pipeline);
		if (pipeline->failed != NULL || GetCurrentTimestamp() >= until || is_waited_for(pipeline))
			break;
		/* the others wait, or the memory is full */
		if (query->merged && (pipeline->in_shared_groups || partial_is_large(pipeline)))
			break;
		CHECK_FOR_INTERRUPTS();
		records = poll_streams(pipeline);
		if (records < enough)
			break;
		/* look-up tables as they are when the batch is evaluated */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}

	MemoryContextSwitchTo(pipeline->round_context);
	pipeline->stage = STAGE_WRITE;
	stage_start = GetCurrentTimestamp();
	if (pipeline->failed == NULL)
		(void) skip_control_records(pipeline);
	enter_shared_groups(pipeline);
	if (pipeline->partial != NULL && !fold_partial_groups(pipeline))
	{
		pipeline->outdated = true;
		AbortOutOfAnyTransaction();
		return TRANSACTION_OUTDATED;
	}
	pipeline->stage = STAGE_WRITE;
	if (is_global_aggregate(pipeline))
		(void) group_table_global(pipeline->groups);
	if (pipeline->groups != NULL)
		emit_changed(pipeline);
	/* what is left to close then goes on in the next transaction, if there is one */
	until = pipeline->failed == NULL ? GetCurrentTimestamp() + interval : DT_NOEND;
	pipeline->closing = false;
	if (pipeline->groups != NULL)
		watermark = settle_windows(pipeline, until);
	if (pipeline->failed == NULL)
		pipeline->all_stopped = finish_if_stopped(pipeline, until);
	if (pipeline->groups != NULL)
		record_stage(METRIC_WRITE, GetCurrentTimestamp() - stage_start);
	pipeline->stage = STAGE_COMMIT;
	stage_start = GetCurrentTimestamp();
	VELO_INJECTION_POINT("before-checkpoint");
	if (pipeline->groups != NULL)
		group_table_checkpoint(pipeline->groups, watermark);
	VELO_INJECTION_POINT("after-checkpoint");
	save_partitions(pipeline);
	pipeline->counters.closed = pipeline->closed;
	pipeline->counters.written = pipeline->written;
	query_save_counters(pipeline->id, pipeline->number, &pipeline->counters);
	if (pipeline->stream_keys != NULL)
		stream_keys_forget(pipeline);
	if (pipeline->failed != NULL)
	{
		query_set_state(pipeline->id, QUERY_FAILED);
		query_set_error(pipeline->id, pipeline->failed, DT_NOEND);
	}
	proven = pipeline->failed == NULL && pipeline->trouble == SOURCE_FINE &&
			 (processed > 0 || caught_up(pipeline));
	if (proven && pipeline->unproven)
		query_set_error(pipeline->id, NULL, DT_NOEND);
	/* who waits for the commit finds the query running */
	if (proven)
		pipeline_set_state(PIPELINE_RUNNING);
	VELO_INJECTION_POINT("before-commit");
	commit_transaction();
	VELO_INJECTION_POINT("after-commit");
	pipeline->unproven &= !proven;
	record_stage(METRIC_COMMIT, GetCurrentTimestamp() - stage_start);
	MemoryContextSwitchTo(pipeline->context);
	MemoryContextReset(pipeline->round_context);
	pipeline->stage = STAGE_NONE;
	return TRANSACTION_COMMITTED;
}

/* After a commit: what was pending is committed. */
static void
committed(Pipeline *pipeline)
{
	bool watermark_moved = false;

	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		SourcePartition *read = source_partitions(stream->source, NULL);
		int64 *offsets = palloc_array(int64, stream->npartitions + 1);
		/* a source tells the group even what it finds: what was told before a crash may not have arrived */
		bool moved = !stream->group_told;

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];

			offsets[i] = partition->next_offset;
			moved |= partition->next_offset > partition->committed.next_offset;
			watermark_moved |= partition->committed.watermark != partition->watermark ||
							   partition->committed.idle != partition->idle;
			partition->committed.next_offset = partition->next_offset;
			partition->committed.watermark = partition->watermark;
			partition->committed.idle = partition->idle;
			strlcpy(partition->committed.topic_id, source_topic_id(stream->source), TOPIC_ID_SIZE);
			if (read[i].end >= 0)
				partition->committed.end_offset = read[i].end;
		}
		if (moved && pipeline->query->options.group_id != NULL)
			source_commit_group(stream->source, offsets);
		stream->group_told = true;
		pfree(offsets);
	}
	pipeline->committed_counters = pipeline->counters;
	pipeline->folded = true;
	pipeline->outdated = false;
	if (watermark_moved && pipeline->query->npipelines > 1)
		pipeline_wake_siblings(pipeline->id);
	publish_figures(pipeline);
	VELO_INJECTION_POINT("after-publish");
}

/* ---------------------------------------------------------------- after a failure */

void
reopen_source(Pipeline *pipeline, PipelineStream *stream)
{
	record_batch_reset(stream->batch);
	source_close(stream->source);
	open_source(pipeline, stream);
	watch_events(pipeline);
}

/*
 * The transaction was aborted: take everything from the catalog again, and read on from the committed offsets.
 */
static void
restore_committed(Pipeline *pipeline)
{
	release_batches(pipeline);
	pipeline->counters = pipeline->committed_counters;
	pipeline->closed = pipeline->committed_counters.closed;
	pipeline->written = pipeline->committed_counters.written;
	pipeline->failed = NULL;
	pipeline->stage = STAGE_NONE;
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];

		for (int i = 0; i < stream->npartitions; i++)
		{
			PipelinePartition *partition = &stream->partitions[i];

			partition->next_offset = partition->committed.next_offset;
			partition->watermark = partition->committed.watermark;
			partition->idle = partition->committed.idle;
		}
	}
	begin_transaction();
	MemoryContextSwitchTo(pipeline->context);
	for (int s = 0; s < pipeline->nstreams; s++)
		reopen_source(pipeline, &pipeline->streams[s]);
	load_groups(pipeline);
	commit_transaction();
	MemoryContextSwitchTo(pipeline->context);
}

/* What kind of error, if any, this run can deal with by itself? */
typedef enum Remedy
{
	REMEDY_NONE,
	REMEDY_FAIL,  /* the query ends: on_error => 'fail' */
	REMEDY_MERGE, /* the stream's key is not true */
	REMEDY_REPLAY /* applying or folding failed because of a record */
} Remedy;

static Remedy
find_remedy(const Pipeline *pipeline, int sqlerrcode)
{
	if (pipeline->group_failed)
		return REMEDY_FAIL;
	/* two pipelines that claim the same values may also meet them in different orders */
	if (pipeline->stage == STAGE_CLAIM &&
		(sqlerrcode == ERRCODE_UNIQUE_VIOLATION || sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED))
		return REMEDY_MERGE;
	if (((pipeline->stage == STAGE_APPLY && pipeline->rows->applied >= 0) ||
		 pipeline->stage == STAGE_FOLD) &&
		pipeline->careful == 0 && error_is_of_record(sqlerrcode))
		return REMEDY_REPLAY;
	return REMEDY_NONE;
}

/*
 * Run one transaction.  An error that has no remedy ends the worker, and the scheduler starts another after a while.
 * Returns false if this run is over.
 */
static bool
run_transaction(Pipeline *pipeline)
{
	ErrorData *volatile error = NULL;
	volatile TransactionEnd end = TRANSACTION_OVER;
	volatile Remedy remedy = REMEDY_NONE;

	PG_TRY();
	{
		end = transaction(pipeline);
	}
	PG_CATCH();
	{
		remedy = find_remedy(pipeline, geterrcode());
		if (remedy == REMEDY_NONE)
			PG_RE_THROW();
		MemoryContextSwitchTo(pipeline->context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (error == NULL)
	{
		if (end == TRANSACTION_COMMITTED)
			committed(pipeline);
		else if (end == TRANSACTION_OUTDATED)
		{
			/* what the others have committed by now */
			pipeline->committed_counters.closed = pipeline->closed;
			restore_committed(pipeline);
		}
		return end != TRANSACTION_OVER;
	}
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(pipeline->context);
	switch ((Remedy) remedy)
	{
		case REMEDY_FAIL:
			fail_query(pipeline, error);
			return false;
		case REMEDY_MERGE:
			become_merged(pipeline);
			return false;
		case REMEDY_REPLAY:
			be_careful(pipeline);
			restore_committed(pipeline);
			break;
		case REMEDY_NONE:
			break;
	}
	FreeErrorData(error);
	return true;
}

/* ---------------------------------------------------------------- the loop */

/* Has a broker told the id of a topic that nothing is committed of? */
static bool
topic_id_is_news(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];

		if (stream->npartitions > 0 &&
			strcmp(stream->partitions[0].committed.topic_id, source_topic_id(stream->source)) != 0)
			return true;
	}
	return false;
}

/* Is there anything for a transaction to do though no record came? */
static bool
transaction_is_due(Pipeline *pipeline)
{
	TimestampTz now = GetCurrentTimestamp();
	bool due = pipeline->due || pipeline->closing;

	due |= skip_control_records(pipeline);
	due |= topic_id_is_news(pipeline);
	due |= pipeline->query->windowed && next_event_time_action(pipeline) <= now;
	due |= pipeline->unproven && pipeline->trouble == SOURCE_FINE && caught_up(pipeline);
	due |= told_of_change();
	return due;
}

static long
time_to_wait(Pipeline *pipeline)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = next_event_time_action(pipeline);

	if (pipeline->trouble != SOURCE_FINE)
		until = Min(until, now + TROUBLE_CHECK_MS * US_PER_MS);
	else if (pipeline->number == 0)
		for (int s = 0; s < pipeline->nstreams; s++)
			until = Min(until, pipeline->streams[s].refresh_at);
	until = Min(until, next_rate_at());
	if (until == DT_NOEND)
		return -1;
	return Max(1, Min(TimestampDifferenceMilliseconds(now, until), LONGEST_WAIT_MS));
}

void
pipeline_run(Oid query, int number, int generation)
{
	Pipeline *pipeline = set_up(query, number, generation);

	if (pipeline == NULL)
		return;
	watch_events(pipeline);
	while (!told_to_stop() && !pipeline->all_stopped && pipeline->failed == NULL)
	{
		yield_if_asked();
		VELO_INJECTION_POINT("before-poll");
		if (!pipeline->behind && gather(pipeline) > 0)
			VELO_INJECTION_POINT("after-poll");
		AcceptInvalidationMessages();
		if (streams_are_stale || settings_changed() || !watch_sources(pipeline))
			break;
		if (total_records(pipeline) > 0 || transaction_is_due(pipeline))
		{
			pipeline->due = false;
			if (!run_transaction(pipeline))
				break;
		}
		else
		{
			publish_rate(pipeline);
			if (wait_for_events(pipeline, time_to_wait(pipeline)))
				pipeline->due |= pipeline->query->npipelines > 1 && pipeline->query->windowed;
		}
	}
	tear_down(pipeline);
}
