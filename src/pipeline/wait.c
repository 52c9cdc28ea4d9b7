/*
 * wait.c
 *		velo.wait(): until what the topics hold now is processed and committed.
 *
 * The end offsets are asked for once, at the call; then the committed rows are looked at again and again, by scans that
 * each see what is committed then, whatever the snapshot of the caller's transaction.
 */
#include "pipeline/shared.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "plan/plan.h"
#include "source/source.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define POLL_MS 10
#define ASK_TIMEOUT_MS 5000
#define ASK_AGAIN_MS 500

PG_FUNCTION_INFO_V1(velo_wait);

/* How far one stream of a query has to be read. */
typedef struct Goal
{
	Oid stream;
	int npartitions;
	SourceBounds *bounds;
} Goal;

typedef struct Waited
{
	Oid query;
	bool asked;  /* goals are known */
	List *goals; /* of Goal; none for a query that stops by itself */
} Waited;

static bool
may_wait_for(const QueryInfo *query)
{
	return has_privs_of_role(GetUserId(), query->owner) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/* ereport(ERROR) if there is nothing to wait for. */
static QueryInfo *
check_query(Oid id)
{
	QueryInfo *query = query_get(id);

	if (query == NULL)
	{
		extension_check(ERROR);
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("the query has been dropped")));
	}
	if (query->in_progress)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot wait for query \"%s\" in the transaction that created or changed it",
					query->name),
			 errdetail("It starts when the transaction commits.")));
	if (query->state == QUERY_PAUSED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("query \"%s\" is paused", query->name),
						query->paused_because ? errdetail_internal("%s", query->paused_because) : 0,
						errhint("Use velo.resume_query().")));
	if (query->state == QUERY_FAILED)
	{
		const QueryError *reason = query_latest_error(query_errors(id));

		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("query \"%s\" has failed", query->name),
						reason ? errdetail_internal("%s", reason->message) : 0,
						errhint("Use velo.restart_query().")));
	}
	return query;
}

/* What ask_for_goals() asks, and the answer. */
typedef struct Question
{
	const QueryInfo *query;
	int timeout_ms;
	List *goals;
} Question;

static void
ask(void *arg)
{
	Question *question = arg;
	ListCell *lc;

	foreach (lc, continuous_load(question->query)->streams)
	{
		Goal *goal = palloc(sizeof(Goal));

		goal->stream = lfirst_oid(lc);
		goal->bounds = source_bounds(stream_get_as(goal->stream, question->query->owner),
									 &goal->npartitions, question->timeout_ms);
		question->goals = lappend(question->goals, goal);
	}
}

/* Ask the brokers how far the query's streams go; false if they don't answer in time. */
static bool
ask_for_goals(const QueryInfo *query, Waited *waited, int timeout_ms)
{
	Question question = {.query = query, .timeout_ms = timeout_ms};
	ErrorData *error = try_in_subtransaction(ask, &question);

	if (error == NULL)
		waited->goals = question.goals;
	else if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_QUERY_CANCELED))
		ReThrowError(error);
	return error == NULL;
}

/* Have the pipelines closed and written the windows that the committed watermark passes? */
static bool
windows_written(const QueryInfo *query, List *partitions)
{
	TimestampTz watermark = partitions_watermark(partitions);

	if (!query->windowed || watermark == DT_NOBEGIN)
		return true;
	if (query->merged)
		return query_written(query->id) >= watermark;
	for (int i = 0; i < query->npipelines; i++)
	{
		PipelineCounters counters;
		bool has_any = false;
		ListCell *lc;

		foreach (lc, partitions)
			has_any |= ((PartitionInfo *) lfirst(lc))->pipeline == i;
		(void) query_read_counters(query->id, i, &counters);
		if (has_any && counters.written < watermark)
			return false;
	}
	return true;
}

/* Has the first pipeline committed, which makes the one row of a global aggregate even of nothing? */
static bool
has_begun(const QueryInfo *query)
{
	PipelineCounters counters;

	return query_read_counters(query->id, 0, &counters);
}

static bool
goal_reached(const Goal *goal, List *partitions)
{
	int reached = 0;
	ListCell *lc;

	foreach (lc, partitions)
	{
		const PartitionInfo *partition = lfirst(lc);

		if (partition->stream == goal->stream && partition->partition < goal->npartitions)
			reached += partition->next_offset >= goal->bounds[partition->partition].end;
	}
	return reached == goal->npartitions;
}

static bool
is_done(const QueryInfo *query, const Waited *waited)
{
	List *partitions;
	ListCell *lc;

	if (query->state == QUERY_FINISHED)
		return true;
	if (query->stop_at_end || !waited->asked || query->npipelines == 0)
		return false;
	partitions = query_partitions(query->id);
	foreach (lc, waited->goals)
	{
		if (!goal_reached(lfirst(lc), partitions))
			return false;
	}
	return has_begun(query) && windows_written(query, partitions);
}

/* Look at one query until it is done (true) or the time is over. */
static bool
wait_for_query(Waited *waited, TimestampTz deadline)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext poll_context = AllocSetContextCreate(caller, "velo wait", ALLOCSET_DEFAULT_SIZES);
	bool done;

	for (;;)
	{
		QueryInfo *query;
		bool knows_end;
		long left;

		MemoryContextSwitchTo(poll_context);
		query = check_query(waited->query);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (!waited->asked && !query->stop_at_end && query->state == QUERY_ACTIVE)
		{
			MemoryContextSwitchTo(caller);
			waited->asked = ask_for_goals(query, waited, (int) Max(1, Min(left, ASK_TIMEOUT_MS)));
			MemoryContextSwitchTo(poll_context);
		}
		done = is_done(query, waited);
		knows_end = waited->asked || query->stop_at_end;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(poll_context);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (done || left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, knows_end ? POLL_MS : ASK_AGAIN_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(poll_context);
	return done;
}

/* All queries that the user may see; those that are paused or have failed are an error, as by name. */
static List *
queries_to_wait_for(FunctionCallInfo fcinfo)
{
	List *waited = NIL;
	List *ids;
	ListCell *lc;

	extension_check(ERROR);
	if (PG_ARGISNULL(0))
		ids = query_list();
	else
		ids = list_make1_oid(query_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false));
	foreach (lc, ids)
	{
		QueryInfo *query = query_get(lfirst_oid(lc));
		Waited *item;

		if (query == NULL || (PG_ARGISNULL(0) && !may_wait_for(query)))
			continue;
		if (!may_wait_for(query))
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("must be owner of query \"%s\" or a member of pg_monitor",
								   query->name)));
		item = palloc0(sizeof(Waited));
		item->query = query->id;
		waited = lappend(waited, item);
	}
	return waited;
}

Datum
velo_wait(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = DT_NOEND;
	List *queries = queries_to_wait_for(fcinfo);
	ListCell *lc;

	if (!PG_ARGISNULL(1))
		deadline = DatumGetTimestampTz(
			DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()),
								PointerGetDatum(PG_GETARG_INTERVAL_P(1))));

	/* first all the goals, so that they are those at the call; then one after the other */
	foreach (lc, queries)
	{
		Waited *waited = lfirst(lc);
		QueryInfo *query = check_query(waited->query);
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (!query->stop_at_end && query->state == QUERY_ACTIVE)
			waited->asked = ask_for_goals(query, waited, (int) Max(1, Min(left, ASK_TIMEOUT_MS)));
	}
	foreach (lc, queries)
	{
		if (!wait_for_query(lfirst(lc), deadline))
			PG_RETURN_BOOL(false);
	}
	PG_RETURN_BOOL(true);
}
