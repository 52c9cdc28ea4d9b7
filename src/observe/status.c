/*
 * status.c
 *		What the views over queries can't read from tables: names, states, and the slots in shared memory.
 *
 * Functions of the views velo.queries, velo.pipelines, velo.partitions and velo.dead_letters.  PUBLIC may call them, so
 * they show what the views do: everything to pg_monitor, to others what they own.
 */
#include "velo.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/velo_catalog.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pipeline/pipeline.h"
#include "plan/plan.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* at the latest after this time a broker, or a worker slot, is tried again */
#define TRY_AGAIN_MS 5000

PG_FUNCTION_INFO_V1(velo_query_name);
PG_FUNCTION_INFO_V1(velo_query_status);
PG_FUNCTION_INFO_V1(velo_pipeline_status);
PG_FUNCTION_INFO_V1(velo_may_read_letter);
PG_FUNCTION_INFO_V1(velo_keep_letters_of_others);

static bool
is_visible(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/* velo.query_name(regclass): NULL if there is none */
Datum
velo_query_name(PG_FUNCTION_ARGS)
{
	QueryInfo *query = query_get(PG_GETARG_OID(0));

	/* not before, for this is called for each row of a view */
	if (query == NULL)
		extension_check(ERROR);
	if (query == NULL || !is_visible(query->owner))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(query->name));
}

/*
 * velo.may_read_letter(query regclass, stream regclass): may the user see what the record holds?  Superusers, and owners
 * of the query who may SELECT the whole stream.
 */
Datum
velo_may_read_letter(PG_FUNCTION_ARGS)
{
	Oid owner = query_owner(PG_GETARG_OID(0));

	if (superuser())
		PG_RETURN_BOOL(true);
	if (!OidIsValid(owner) || !has_privs_of_role(GetUserId(), owner))
		PG_RETURN_BOOL(false);
	if (PG_ARGISNULL(1)) /* a group's, of any of the streams */
	{
		QueryInfo *query = query_get(PG_GETARG_OID(0));
		ListCell *lc;

		foreach (lc, query ? continuous_load(query)->streams : NIL)
			if (pg_class_aclcheck(lfirst_oid(lc), GetUserId(), ACL_SELECT) != ACLCHECK_OK)
				PG_RETURN_BOOL(false);
		PG_RETURN_BOOL(query != NULL);
	}
	PG_RETURN_BOOL(pg_class_aclcheck(PG_GETARG_OID(1), GetUserId(), ACL_SELECT) == ACLCHECK_OK);
}

/* Trigger before DELETE on velo.dead_letter: what one sees as a member of pg_monitor, one may not delete. */
Datum
velo_keep_letters_of_others(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Datum query;
	Oid owner;
	bool isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("velo.keep_letters_of_others() must be fired before DELETE")));
	query = SPI_getbinval(trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation),
						  SPI_fnumber(RelationGetDescr(trigger->tg_relation), "query"), &isnull);
	owner = query_owner(DatumGetObjectId(query));
	if (OidIsValid(owner) && !has_privs_of_role(GetUserId(), owner))
		return PointerGetDatum(NULL);
	return PointerGetDatum(trigger->tg_trigtuple);
}

static void
set_text(const char *text, Datum *value, bool *isnull)
{
	*isnull = (text == NULL);
	*value = text ? CStringGetTextDatum(text) : 0;
}

static void
set_time(TimestampTz time, Datum *value, bool *isnull)
{
	*isnull = TIMESTAMP_NOT_FINITE(time);
	*value = TimestampTzGetDatum(time);
}

/* The slot of a query's pipeline; not that of one which is about to end, for the query has changed since it began. */
static PipelineSlot *
find_slot(PipelineSlot *slots, int nslots, const QueryInfo *query, int pipeline)
{
	for (int i = 0; i < nslots; i++)
	{
		if (slots[i].query == query->id && slots[i].pipeline == pipeline &&
			slots[i].generation == query->generation)
			return &slots[i];
	}
	return NULL;
}

/* Where the query as a whole stands; the first that is in trouble, or has not begun, decides. */
static const char *
state_of_query(const QueryInfo *query, List *errors, int running, int needed, bool waiting)
{
	switch (query->state)
	{
		case QUERY_PAUSED:
			return "paused";
		case QUERY_FAILED:
			return "failed";
		case QUERY_FINISHED:
			return "finished";
		case QUERY_ACTIVE:
			break;
	}
	if (waiting || errors != NIL)
		return "waiting";
	return needed > 0 && running >= needed ? "running" : "starting";
}

static bool
has_partitions(List *partitions, int pipeline)
{
	ListCell *lc;

	foreach (lc, partitions)
		if (((PartitionInfo *) lfirst(lc))->pipeline == pipeline)
			return true;
	return false;
}

/* Records that are there and not yet committed as read; of one pipeline, or of all with -1. */
static int64
lag_of(List *partitions, int pipeline)
{
	int64 lag = 0;
	ListCell *lc;

	foreach (lc, partitions)
	{
		const PartitionInfo *partition = lfirst(lc);

		if (pipeline < 0 || partition->pipeline == pipeline)
			lag += Max(0, partition->end_offset - partition->next_offset);
	}
	return lag;
}

/* What its partitions have committed, and what went on without them: by hand, or with the wall clock. */
static TimestampTz
watermark_of_query(const QueryInfo *query, List *partitions)
{
	return Max(partitions_watermark(partitions), Max(query->advanced, query_closed(query->id)));
}

/* What has no time of its own (a broker that is away, a worker slot) is tried again and again. */
static TimestampTz
shown_retry(const QueryInfo *query, const QueryError *error)
{
	if (query->state == QUERY_ACTIVE && error->retry_at == DT_NOEND)
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TRY_AGAIN_MS);
	return error->retry_at;
}

/* columns of velo.query_status() */
enum
{
	QUERY_STATUS_ID,
	QUERY_STATUS_NAME,
	QUERY_STATUS_STATE,
	QUERY_STATUS_RUNNING,
	QUERY_STATUS_LAG,
	QUERY_STATUS_WATERMARK,
	QUERY_STATUS_ERROR,
	QUERY_STATUS_SQLSTATE,
	QUERY_STATUS_HINT,
	QUERY_STATUS_ERROR_AT,
	QUERY_STATUS_RETRY_AT,
	QUERY_STATUS_NATTS
};

/* The present trouble, or why the query is paused; the columns are NULL until then. */
static void
show_trouble(const QueryInfo *query, const QueryError *error, Datum *values, bool *nulls)
{
	if (query->state == QUERY_PAUSED && query->paused_because != NULL)
	{
		set_text(query->paused_because, &values[QUERY_STATUS_ERROR], &nulls[QUERY_STATUS_ERROR]);
		set_text("Use velo.resume_query().", &values[QUERY_STATUS_HINT], &nulls[QUERY_STATUS_HINT]);
	}
	else if (error != NULL)
	{
		set_text(error->message, &values[QUERY_STATUS_ERROR], &nulls[QUERY_STATUS_ERROR]);
		set_text(unpack_sql_state(error->sqlerrcode), &values[QUERY_STATUS_SQLSTATE],
				 &nulls[QUERY_STATUS_SQLSTATE]);
		set_text(error->hint, &values[QUERY_STATUS_HINT], &nulls[QUERY_STATUS_HINT]);
		set_time(error->at, &values[QUERY_STATUS_ERROR_AT], &nulls[QUERY_STATUS_ERROR_AT]);
		set_time(shown_retry(query, error), &values[QUERY_STATUS_RETRY_AT],
				 &nulls[QUERY_STATUS_RETRY_AT]);
	}
}

Datum
velo_query_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int nslots;
	PipelineSlot *slots = pipeline_slots(InvalidOid, &nslots);
	QueryError obstacle;
	bool kept = pipelines_are_kept(&obstacle);
	ListCell *lc;

	extension_check(ERROR);
	InitMaterializedSRF(fcinfo, 0);
	foreach (lc, query_list())
	{
		QueryInfo *query = query_get(lfirst_oid(lc));
		Datum values[QUERY_STATUS_NATTS];
		bool nulls[QUERY_STATUS_NATTS] = {0};
		List *partitions;
		List *errors;
		int running = 0;
		int needed = 0;
		bool waiting = false;

		if (query == NULL || !is_visible(query->owner))
			continue;
		partitions = query_partitions(query->id);
		/* a pipeline that still waited when another one finished the query has no trouble any more */
		errors = query->state == QUERY_FINISHED ? NIL : query_errors(query->id);
		if (kept && query->state == QUERY_ACTIVE)
			errors = list_make1(&obstacle);
		for (int i = 0; i < query->npipelines; i++)
		{
			const PipelineSlot *slot = find_slot(slots, nslots, query, i);

			needed += has_partitions(partitions, i);
			running += slot != NULL && slot->state == PIPELINE_RUNNING;
			waiting |= slot != NULL && slot->state == PIPELINE_WAITING;
		}
		values[QUERY_STATUS_ID] = ObjectIdGetDatum(query->id);
		values[QUERY_STATUS_NAME] = CStringGetTextDatum(query->name);
		values[QUERY_STATUS_STATE] =
			CStringGetTextDatum(state_of_query(query, errors, running, needed, waiting));
		values[QUERY_STATUS_RUNNING] = Int32GetDatum(running);
		values[QUERY_STATUS_LAG] = Int64GetDatum(lag_of(partitions, -1));
		set_time(watermark_of_query(query, partitions), &values[QUERY_STATUS_WATERMARK],
				 &nulls[QUERY_STATUS_WATERMARK]);
		for (int column = QUERY_STATUS_ERROR; column < QUERY_STATUS_NATTS; column++)
			nulls[column] = true;
		show_trouble(query, query_latest_error(errors), values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* "topic:partition" of the pipeline's partitions */
static Datum
partition_names(List *partitions, int pipeline)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell *lc;

	foreach (lc, partitions)
	{
		const PartitionInfo *partition = lfirst(lc);
		char *topic;
		char *name;

		/* not by stream_get(): what is wrong with one stream must not hide all queries */
		if (partition->pipeline != pipeline || (topic = stream_topic(partition->stream)) == NULL)
			continue;
		name = psprintf("%s:%d", topic, partition->partition);
		accumArrayResult(names, CStringGetTextDatum(name), false, TEXTOID, CurrentMemoryContext);
	}
	return makeArrayResult(names, CurrentMemoryContext);
}

static const char *
state_of_pipeline(const QueryInfo *query, const PipelineSlot *slot, List *errors, int pipeline,
				  bool has_work)
{
	ListCell *lc;

	if (query->state != QUERY_ACTIVE)
		return state_of_query(query, NIL, 0, 0, false);
	foreach (lc, errors)
		if (((QueryError *) lfirst(lc))->pipeline == pipeline)
			return "waiting";
	if (slot != NULL)
		return slot->state == PIPELINE_RUNNING   ? "running"
			   : slot->state == PIPELINE_WAITING ? "waiting"
												 : "starting";
	return has_work ? "starting" : "waiting";
}

/* The watermark of the pipeline's own partitions. */
static TimestampTz
watermark_of(List *partitions, int pipeline)
{
	List *own = NIL;
	ListCell *lc;

	foreach (lc, partitions)
		if (((PartitionInfo *) lfirst(lc))->pipeline == pipeline)
			own = lappend(own, lfirst(lc));
	return partitions_watermark(own);
}

#define MICROSECONDS_PER_MS 1000.0

static const double shown_fractions[] = {0.50, 0.95, 0.99};

/* figures of a slot that are shown as they are, in the order of the columns */
static const Size shown_figures[] = {
	offsetof(PipelineSlot, queue_depth),      offsetof(PipelineSlot, queue_capacity),
	offsetof(PipelineSlot, queue_high_water), offsetof(PipelineSlot, backpressure_events),
	offsetof(PipelineSlot, groups),           offsetof(PipelineSlot, open_windows),
	offsetof(PipelineSlot, state_bytes),      offsetof(PipelineSlot, memory_bytes)};

/* columns of velo.pipeline_status() */
enum
{
	STATUS_QUERY,
	STATUS_NAME,
	STATUS_PIPELINE,
	STATUS_PID,
	STATUS_STATE,
	STATUS_PARTITIONS,
	STATUS_RECORDS_PER_SECOND,
	STATUS_LAG,
	STATUS_WATERMARK,
	STATUS_STAGES,
	STATUS_FIGURES = STATUS_STAGES + METRIC_STAGES * lengthof(shown_fractions),
	STATUS_RESTARTS = STATUS_FIGURES + lengthof(shown_figures),
	STATUS_STARTED_AT,
	STATUS_LAST_COMMIT_AT,
	STATUS_NATTS
};

static void
show_slot(PipelineSlot *slot, Datum *values, bool *nulls)
{
	int column = STATUS_STAGES;

	values[STATUS_PID] = Int32GetDatum(slot->pid);
	nulls[STATUS_PID] = slot->pid == 0;
	values[STATUS_RECORDS_PER_SECOND] =
		Float8GetDatum(pg_atomic_read_u64(&slot->records_per_second) / 1000.0);
	for (int stage = 0; stage < METRIC_STAGES; stage++)
	{
		double unit = stage == METRIC_BATCH_RECORDS ? 1.0 : MICROSECONDS_PER_MS;

		for (int i = 0; i < (int) lengthof(shown_fractions); i++)
			values[column++] = Float8GetDatum(
				histogram_percentile(&slot->stages[stage], shown_fractions[i]) / unit);
	}
	for (int i = 0; i < (int) lengthof(shown_figures); i++)
		values[STATUS_FIGURES + i] = Int64GetDatum(
			(int64) pg_atomic_read_u64((pg_atomic_uint64 *) ((char *) slot + shown_figures[i])));
	values[STATUS_RESTARTS] = Int32GetDatum(slot->restarts);
	set_time(slot->started_at, &values[STATUS_STARTED_AT], &nulls[STATUS_STARTED_AT]);
	set_time((TimestampTz) pg_atomic_read_u64(&slot->last_commit_at),
			 &values[STATUS_LAST_COMMIT_AT], &nulls[STATUS_LAST_COMMIT_AT]);
}

Datum
velo_pipeline_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int nslots;
	PipelineSlot *slots = pipeline_slots(InvalidOid, &nslots);
	ListCell *lc;

	extension_check(ERROR);
	InitMaterializedSRF(fcinfo, 0);
	foreach (lc, query_list())
	{
		QueryInfo *query = query_get(lfirst_oid(lc));
		List *partitions;
		List *errors;

		if (query == NULL || !is_visible(query->owner))
			continue;
		partitions = query_partitions(query->id);
		errors = query_errors(query->id);
		for (int i = 0; i < query->npipelines; i++)
		{
			PipelineSlot *slot = find_slot(slots, nslots, query, i);
			Datum values[STATUS_NATTS] = {0};
			bool nulls[STATUS_NATTS];

			memset(nulls, slot == NULL, sizeof(nulls));
			if (slot != NULL)
				show_slot(slot, values, nulls);
			values[STATUS_QUERY] = ObjectIdGetDatum(query->id);
			values[STATUS_NAME] = CStringGetTextDatum(query->name);
			values[STATUS_PIPELINE] = Int32GetDatum(i);
			values[STATUS_STATE] = CStringGetTextDatum(
				state_of_pipeline(query, slot, errors, i, has_partitions(partitions, i)));
			values[STATUS_PARTITIONS] = partition_names(partitions, i);
			values[STATUS_LAG] = Int64GetDatum(lag_of(partitions, i));
			nulls[STATUS_QUERY] = nulls[STATUS_NAME] = nulls[STATUS_PIPELINE] = false;
			nulls[STATUS_STATE] = nulls[STATUS_PARTITIONS] = nulls[STATUS_LAG] = false;
			set_time(watermark_of(partitions, i), &values[STATUS_WATERMARK],
					 &nulls[STATUS_WATERMARK]);
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}
