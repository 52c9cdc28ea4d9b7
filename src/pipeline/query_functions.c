/*
 * query_functions.c
 *		The SQL functions that change a query that is there: drop, pause, resume, restart, alter, advance_watermark;
 *		and the event triggers that follow DROP and ALTER SCHEMA.
 *
 * Each locks the query against its pipelines (query_lock), changes its row, counts up its generation where
 * pipelines have to start anew, and tells the scheduler at commit.  None waits for pipelines to do anything.
 */
#include "pipeline/shared.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "common/string.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pipeline/query_rights.h"
#include "pipeline/start.h"
#include "plan/plan.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* options of velo.alter_query() that are no options of velo.create_query() */
#define MORE_OPTIONS "pipelines, on_error, on_late"

PG_FUNCTION_INFO_V1(velo_drop_query);
PG_FUNCTION_INFO_V1(velo_pause_query);
PG_FUNCTION_INFO_V1(velo_resume_query);
PG_FUNCTION_INFO_V1(velo_restart_query);
PG_FUNCTION_INFO_V1(velo_alter_query);
PG_FUNCTION_INFO_V1(velo_advance_watermark);
PG_FUNCTION_INFO_V1(velo_execute);
PG_FUNCTION_INFO_V1(velo_replay_dead_letters);
PG_FUNCTION_INFO_V1(velo_on_drop);
PG_FUNCTION_INFO_V1(velo_on_alter_schema);

/* ------------------------------------------------------------------ checks */

OnError
parse_on_error(const char *value)
{
	if (strcmp(value, "fail") == 0)
		return ON_ERROR_FAIL;
	if (strcmp(value, "skip") == 0)
		return ON_ERROR_SKIP;
	if (strcmp(value, "dead_letter") == 0)
		return ON_ERROR_DEAD_LETTER;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for \"on_error\": \"%s\"", value),
					errhint("Valid values are: fail, skip, dead_letter.")));
	return ON_ERROR_FAIL; /* not reached */
}

bool
parse_on_late(const char *value)
{
	if (strcmp(value, "dead_letter") != 0 && strcmp(value, "drop") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"on_late\": \"%s\"", value),
						errhint("Valid values are: drop, dead_letter.")));
	return strcmp(value, "dead_letter") == 0;
}

int
check_pipelines(int value)
{
	if (value < 1 || value > velo_max_pipelines_per_query)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid number of pipelines: %d", value),
						errdetail("Valid values are from 1 to %d.", velo_max_pipelines_per_query),
						errhint("The limit is the setting velo.max_pipelines_per_query.")));
	return value;
}

void
check_options(Jsonb *json, const char *extra, QueryOptions *options)
{
	query_read_options(json, extra, options);
	if (options->pipeline_memory > velo_pipeline_memory && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only a superuser may raise the query option \"pipeline_memory\""),
				 errdetail("The setting velo.pipeline_memory is %d kB.", velo_pipeline_memory)));
}

/*
 * The query of that name, which the current user must own, for a function that changes it; locked against its
 * pipelines.  "with_table": and the table that goes with it, before the query itself, as DROP ... CASCADE does.
 */
static QueryInfo *
open_query(const char *name, const char *function, bool with_table)
{
	Oid id = query_lookup(name, false);
	QueryInfo *query;

	PreventCommandIfReadOnly(function);
	if (!compat_owns_relation(id, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of query \"%s\"", name)));
	pipeline_ask_to_yield(id);
	if (with_table && (query = query_get(id)) != NULL && query->own_target)
		LockRelationOid(query->target, AccessExclusiveLock);
	query = query_lock(id) ? query_get(id) : NULL;
	if (query == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("query \"%s\" does not exist", name)));
	return query;
}

static void
save_query(QueryInfo *query)
{
	query->generation++;
	query_update(query);
	pipeline_notify_at_commit();
}

/* Another query that writes to the table; NULL if there is none. */
static const char *
other_writer(const QueryInfo *query)
{
	ListCell *lc;

	foreach (lc, query_list())
	{
		QueryInfo *other = lfirst_oid(lc) != query->id ? query_get(lfirst_oid(lc)) : NULL;

		if (other != NULL && other->target == query->target)
			return other->name;
	}
	return NULL;
}

/* May the query's owner still do what the query does? */
static void
check_rights_of_owner(const QueryInfo *query)
{
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(query->owner, context | SECURITY_LOCAL_USERID_CHANGE);
	check_rights(continuous_load(query)->query, query->target);
	SetUserIdAndSecContext(user, context);
}

/* ------------------------------------------------------------------ the functions */

Datum
velo_drop_query(PG_FUNCTION_ARGS)
{
	bool keep_results = PG_GETARG_BOOL(1);
	QueryInfo *query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.drop_query()", !keep_results);
	bool drop_table;
	ObjectAddress object;

	drop_table = query->own_target && !keep_results && OidIsValid(query_owner(query->target));
	if (drop_table)
	{
		const char *other = other_writer(query);

		if (other != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop table \"%s\" because query \"%s\" writes to it",
							get_rel_name(query->target), other),
					 errhint("Use velo.drop_query(..., keep_results => true) to keep the table.")));
		if (!compat_owns_relation(query->target, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(query->target));
	}
	query_delete(query->id);
	ObjectAddressSet(object, RelationRelationId, query->id);
	performDeletion(&object, DROP_RESTRICT, 0);
	if (drop_table)
	{
		ObjectAddressSet(object, RelationRelationId, query->target);
		performDeletion(&object, DROP_RESTRICT, 0);
	}
	pipeline_notify_at_commit();
	PG_RETURN_VOID();
}

Datum
velo_pause_query(PG_FUNCTION_ARGS)
{
	QueryInfo *query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.pause_query()", false);

	if (query->state == QUERY_FAILED || query->state == QUERY_FINISHED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("query \"%s\" is not running", query->name),
						errdetail("Its state is %s.",
								  query->state == QUERY_FAILED ? "failed" : "finished")));
	if (query->state == QUERY_ACTIVE)
	{
		query->state = QUERY_PAUSED;
		save_query(query);
		query_clear_errors(query->id);
	}
	PG_RETURN_VOID();
}

Datum
velo_resume_query(PG_FUNCTION_ARGS)
{
	QueryInfo *query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.resume_query()", false);

	if (query->state == QUERY_FAILED || query->state == QUERY_FINISHED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("query \"%s\" is not paused", query->name),
						errdetail("Its state is %s.",
								  query->state == QUERY_FAILED ? "failed" : "finished"),
						errhint("Use velo.restart_query().")));
	if (query->state == QUERY_PAUSED)
	{
		/* it may have a new owner, or be a copy that nothing depends on yet */
		check_rights_of_owner(query);
		query_record_dependencies(query);
		query->state = QUERY_ACTIVE;
		save_query(query);
		query_clear_errors(query->id);
		warn_if_not_preloaded();
	}
	PG_RETURN_VOID();
}

Datum
velo_restart_query(PG_FUNCTION_ARGS)
{
	char *start = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	QueryInfo *query;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("argument \"name\" must not be null")));
	query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.restart_query()", start != NULL);
	check_rights_of_owner(query);
	query_record_dependencies(query);
	query->state = QUERY_ACTIVE;
	if (start != NULL)
	{
		const char *other = other_writer(query);

		if (!query->own_target)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("cannot empty table \"%s\", which velo did not make",
								   get_rel_name(query->target)),
							errhint("Drop the query and create it again.")));
		if (other != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot empty table \"%s\", to which query \"%s\" writes as well",
							get_rel_name(query->target), other)));
		query->start = start_check(start, continuous_load(query)->streams);
		query->npipelines = 0;
		query->merged = false;
		query->advanced = DT_NOBEGIN;
		query_reset(query->id);
		(void) execute_as_owner("TRUNCATE TABLE %s", query->target);
	}
	save_query(query);
	query_clear_errors(query->id);
	if (query->npipelines == 0)
		(void) contact_brokers(query);
	warn_if_not_preloaded();
	PG_RETURN_VOID();
}

/*
 * Another number of pipelines.  Groups that each pipeline has kept to itself can't be divided anew, so from now on all
 * share them; the pipelines see to it when they start.
 */
static void
alter_pipelines(QueryInfo *query, int wanted)
{
	List *partitions = query_partitions(query->id);
	PipelineCounters total;
	int npipelines;
	ListCell *lc;

	query->pipelines_wanted = wanted;
	if (query->npipelines == 0) /* no contact so far */
		return;
	npipelines = query_choose_pipelines(query, partitions);
	if (npipelines == query->npipelines)
		return;
	if (continuous_load(query)->grouped)
		query->merged = true;
	foreach (lc, partitions)
	{
		PartitionInfo *partition = lfirst(lc);

		partition->pipeline = partition->partition % npipelines;
		query_save_partition(query->id, partition);
	}
	(void) query_read_counters(query->id, 0, &total);
	for (int i = npipelines; i < query->npipelines; i++)
	{
		const PipelineCounters none = {.closed = DT_NOBEGIN, .written = DT_NOBEGIN};
		PipelineCounters counters;

		(void) query_read_counters(query->id, i, &counters);
		total.records_in += counters.records_in;
		total.rows_out += counters.rows_out;
		total.late += counters.late;
		total.tombstones += counters.tombstones;
		total.dead_letters += counters.dead_letters;
		total.skipped += counters.skipped;
		total.batches += counters.batches;
		total.closed = Max(total.closed, counters.closed);
		query_save_counters(query->id, i, &none);
	}
	query_save_counters(query->id, 0, &total);
	query_forget_written(query->id);
	query->npipelines = npipelines;
}

/*
 * Take a key out of a JSON object; false if it isn't there.  *value: its value as text, "otherwise" for null.
 */
static bool
take_option(Jsonb **options, const char *name, const char *otherwise, const char **value)
{
	Datum key = CStringGetTextDatum(name);
	LOCAL_FCINFO(fcinfo, 2);
	Datum field;

	if (!DatumGetBool(DirectFunctionCall2(jsonb_exists, JsonbPGetDatum(*options), key)))
		return false;
	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(*options);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = key;
	fcinfo->args[1].isnull = false;
	field = jsonb_object_field_text(fcinfo);
	*value = fcinfo->isnull ? otherwise : TextDatumGetCString(field);
	*options = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(*options), key));
	return true;
}

/* The value of the option "pipelines"; NULL: 0, as many as there are partitions. */
static int
parse_pipelines(const char *value)
{
	int pipelines;
	char *end;

	if (value == NULL)
		return 0;
	errno = 0;
	pipelines = strtoint(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for query option \"pipelines\": \"%s\"", value),
						errhint("Valid values are from 1 to %d.", velo_max_pipelines_per_query)));
	return check_pipelines(pipelines);
}

Datum
velo_alter_query(PG_FUNCTION_ARGS)
{
	QueryInfo *query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.alter_query()", false);
	Jsonb *changes = PG_GETARG_JSONB_P_COPY(1);
	QueryOptions options;
	const char *value;

	/* says so if it is no object, from which the following can't be taken */
	if (!JB_ROOT_IS_OBJECT(changes))
		check_options(changes, MORE_OPTIONS, &options);
	/* null means: as if it had not been given */
	if (take_option(&changes, "on_error", DEFAULT_ON_ERROR, &value))
		query->on_error = parse_on_error(value);
	if (take_option(&changes, "on_late", DEFAULT_ON_LATE, &value))
		query->keep_late = parse_on_late(value);
	if (take_option(&changes, "pipelines", NULL, &value))
		alter_pipelines(query, parse_pipelines(value));
	check_options(changes, MORE_OPTIONS, &options);
	if (query->own_options != NULL)
		changes = DatumGetJsonbP(DirectFunctionCall2(
			jsonb_concat, JsonbPGetDatum(query->own_options), JsonbPGetDatum(changes)));
	query->own_options =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_strip_nulls, JsonbPGetDatum(changes)));
	save_query(query);
	/* what troubled its pipelines may be over; why it has failed stays to be read */
	if (query->state == QUERY_ACTIVE)
		query_clear_errors(query->id);
	PG_RETURN_VOID();
}

Datum
velo_advance_watermark(PG_FUNCTION_ARGS)
{
	QueryInfo *query =
		open_query(text_to_cstring(PG_GETARG_TEXT_PP(0)), "velo.advance_watermark()", false);
	TimestampTz to_time = PG_GETARG_TIMESTAMPTZ(1);

	if (TIMESTAMP_NOT_FINITE(to_time))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("event time can't go on to infinity")));
	if (!query->windowed)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("query \"%s\" has no windows", query->name),
						errdetail("Only windows close by event time.")));
	/* event time never goes back; nothing has to start anew */
	query->advanced = Max(query->advanced, to_time);
	query_update(query);
	pipeline_notify_at_commit();
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------ what is to come */

Datum
velo_execute(PG_FUNCTION_ARGS)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("velo.execute() is not supported yet"),
		 errhint("What a topic holds now is read by plain SQL, with velo.tumble and velo.hop for "
				 "windows; velo.create_query() takes the dialect.")));
	PG_RETURN_NULL();
}

Datum
velo_replay_dead_letters(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("velo.replay_dead_letters() is not supported yet"),
			 errhint("velo.dead_letters holds key, value and headers of the records: INSERT them "
					 "into a stream of format \"raw\" over the topic.")));
	PG_RETURN_NULL();
}

/* ------------------------------------------------------------------ event triggers */

/* A query whose view was dropped, by whatever command, is gone. */
Datum
velo_on_drop(PG_FUNCTION_ARGS)
{
	bool any = false;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("velo.on_drop() must be called by an event trigger")));
	SPI_connect();
	SPI_execute("SELECT objid FROM pg_catalog.pg_event_trigger_dropped_objects() "
				"WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass "
				"AND objsubid OPERATOR(pg_catalog.=) 0 "
				"AND object_type OPERATOR(pg_catalog.=) 'view' "
				"AND schema_name OPERATOR(pg_catalog.=) '" VELO_QUERY_SCHEMA "'",
				true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		extension_check(ERROR);
		query_delete(DatumGetObjectId(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)));
		any = true;
	}
	SPI_finish();
	if (any)
		pipeline_notify_at_commit();
	PG_RETURN_NULL();
}

/* The names of queries go with their schemas. */
Datum
velo_on_alter_schema(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("velo.on_alter_schema() must be called by an event trigger")));
	/* a script of the extension itself may do what it likes */
	if (!creating_extension)
		extension_check(ERROR);
	query_refresh_schemas();
	PG_RETURN_NULL();
}
