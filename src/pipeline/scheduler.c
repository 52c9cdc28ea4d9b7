/*
 * scheduler.c
 *		The scheduler: one per database with queries, starts its pipelines and tells superfluous ones to end.
 *
 * It compares what velo.query says with the slots in shared memory, and sleeps until one of them changes: a commit
 * that changes a query wakes it (shared_notify), and so does the end of a pipeline.  It keeps nothing that matters
 * to itself, so another one can go on where it was killed.
 *
 * A pipeline that fails says so in velo.query_error before it ends, with the time of the next attempt; the scheduler
 * says it for one that could not.  Pipelines of a query never run side by side in different generations: partitions may
 * have moved between them.
 */
#include "pipeline/shared.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "state/state.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define RESTART_MS 1000
/* when to look at an error that was just recorded */
#define RECORDED_MS 100
/* how often to look whether a worker slot is free, of which nothing tells */
#define NO_WORKER_RETRY_MS 5000

/* A pipeline that should be running. */
typedef struct WantedPipeline
{
	PipelineStart start;
	char *name; /* of the query */
	bool owner_can_login;
	const QueryError *error; /* or NULL */
	bool unproven;           /* a run has begun and achieved nothing yet */
	int retry_max_delay;     /* ms */
} WantedPipeline;

/* A pipeline that this scheduler has started, by its place among the slots. */
typedef struct StartedPipeline
{
	PipelineStart start;
	BackgroundWorkerHandle *handle; /* NULL: known to have attached, or not started by us */
	int restarts;
} StartedPipeline;

static StartedPipeline *started;

/* ------------------------------------------------------------------ the scheduler's own slot */

static void
scheduler_exit(int code, Datum arg)
{
	SchedulerSlot *slot;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	slot = shared_find_scheduler(DatumGetObjectId(arg));
	if (slot != NULL && slot->pid == MyProcPid)
	{
		if (code == 0 || slot->stop)
			slot->database = InvalidOid;
		else
		{
			slot->state = SCHEDULER_WANTED;
			slot->start_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTART_MS);
		}
		slot->pid = 0;
		slot->latch = NULL;
		slot->wants_worker = false;
		shared_wake_launcher();
	}
	LWLockRelease(velo_shared->lock);
}

/* False if nobody waits for this scheduler (any more). */
static bool
scheduler_attach(Oid database)
{
	SchedulerSlot *slot;
	bool mine;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	slot = shared_find_scheduler(database);
	mine = slot != NULL && slot->state == SCHEDULER_STARTING && slot->pid == 0 && !slot->stop;
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
	}
	LWLockRelease(velo_shared->lock);
	return mine;
}

/*
 * Marks it as running; or, when there is nothing to do and no pipeline left, ends the process unless there is news.
 */
static void
scheduler_settle(bool anything)
{
	SchedulerSlot *slot;
	bool leave;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	slot = shared_find_scheduler(MyDatabaseId);
	for (int i = 0; i < velo_shared->nslots; i++)
		anything |= velo_shared->pipelines[i].database == MyDatabaseId;
	leave = slot->stop || (!anything && !slot->changed);
	if (leave || slot->state != SCHEDULER_RUNNING)
		shared_wake_launcher();
	slot->state = SCHEDULER_RUNNING;
	if (leave) /* at once, so that a notice from now on asks for another scheduler */
	{
		slot->database = InvalidOid;
		slot->pid = 0;
		slot->latch = NULL;
		slot->wants_worker = false;
	}
	LWLockRelease(velo_shared->lock);
	if (leave)
		proc_exit(0);
}

static void
set_wants_worker(bool wants)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	shared_find_scheduler(MyDatabaseId)->wants_worker = wants;
	LWLockRelease(velo_shared->lock);
}

/* ------------------------------------------------------------------ what should run */

static bool
can_login(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Whether the pipeline has partitions, and, if the query stops, any that have not reached their end.
 */
static void
look_at_partitions(List *partitions, int pipeline, bool *has_any, bool *unfinished)
{
	ListCell *lc;

	*has_any = *unfinished = false;
	foreach (lc, partitions)
	{
		const PartitionInfo *partition = lfirst(lc);

		if (partition->pipeline != pipeline)
			continue;
		*has_any = true;
		*unfinished |=
			partition->stop_offset < 0 || partition->next_offset < partition->stop_offset;
	}
}

/*
 * The pipelines of a query that have something to do: those with partitions, or the first to find some.  One that has
 * reached its end need not run again while others have not.
 */
static List *
wanted_of_query(const QueryInfo *query, List *wanted)
{
	List *partitions = query_partitions(query->id);
	List *errors = query_errors(query->id);
	bool all_finished = true;
	bool login = COMPAT_BYPASS_ROLELOGINCHECK != 0 || can_login(query->owner);

	for (int i = 0; i < Max(query->npipelines, 1); i++)
	{
		bool has_any;
		bool unfinished;

		look_at_partitions(partitions, i, &has_any, &unfinished);
		all_finished &= !unfinished;
	}
	for (int i = 0; i < Max(query->npipelines, 1); i++)
	{
		WantedPipeline *pipeline;
		bool has_any;
		bool unfinished;
		ListCell *lc;

		look_at_partitions(partitions, i, &has_any, &unfinished);
		if (query->npipelines > 0 && (!has_any || !(unfinished || all_finished)))
			continue;
		pipeline = palloc0(sizeof(WantedPipeline));
		pipeline->start.database = MyDatabaseId;
		pipeline->start.owner = query->owner;
		pipeline->start.query = query->id;
		pipeline->start.pipeline = i;
		pipeline->start.generation = query->generation;
		pipeline->name = query->name;
		pipeline->owner_can_login = login;
		pipeline->unproven = query_run_is_unproven(query->id, i);
		pipeline->retry_max_delay = query->options.retry_max_delay;
		foreach (lc, errors)
		{
			if (((QueryError *) lfirst(lc))->pipeline == i)
				pipeline->error = lfirst(lc);
		}
		wanted = lappend(wanted, pipeline);
	}
	return wanted;
}

/* Once for each scheduler, which has nothing to do then, and ends. */
static void
say_if_extension_does_not_fit(void)
{
	static bool said = false;

	if (said || extension_fits())
		return;
	extension_check(LOG);
	said = true;
}

/* List of WantedPipeline in the current memory context; *anything: there are queries, running or not. */
static List *
read_wanted(bool *anything)
{
	MemoryContext caller = CurrentMemoryContext;
	List *wanted = NIL;
	ListCell *lc;

	begin_transaction();
	MemoryContextSwitchTo(caller);
	*anything = false;
	foreach (lc, query_list())
	{
		QueryInfo *query = query_get(lfirst_oid(lc));

		if (query == NULL || query->state != QUERY_ACTIVE)
			continue;
		*anything = true;
		wanted = wanted_of_query(query, wanted);
	}
	say_if_extension_does_not_fit();
	commit_transaction();
	MemoryContextSwitchTo(caller);
	return wanted;
}

static bool
is_wanted(List *wanted, const PipelineSlot *slot)
{
	ListCell *lc;

	foreach (lc, wanted)
	{
		const PipelineStart *start = &((WantedPipeline *) lfirst(lc))->start;

		if (start->query == slot->query && start->pipeline == slot->pipeline &&
			start->generation == slot->generation)
			return true;
	}
	return false;
}

/* ------------------------------------------------------------------ starting and stopping */

/*
 * Record an error of a pipeline that can't do so itself, in a transaction of its own.  Not while somebody changes or
 * drops the query: a scheduler waits for no one, and what troubled the query may be over then.
 */
static void
record_error(Oid query, int pipeline, ErrorData *error, bool retry)
{
	begin_transaction();
	if (ConditionalLockRelationOid(query, RowExclusiveLock) && query_get(query) != NULL)
		query_set_pipeline_error(query, pipeline, error,
								 error && retry ? query_next_attempt(query, pipeline) : DT_NOEND);
	commit_transaction();
}

static void
record_crash(const PipelineStart *start)
{
	ErrorData error = {.sqlerrcode = ERRCODE_INTERNAL_ERROR,
					   .message = psprintf("pipeline %d ended unexpectedly", start->pipeline),
					   .hint = "The server log says why."};

	record_error(start->query, start->pipeline, &error, true);
}

/*
 * An unproven run is gone without a word, perhaps with the whole server; unless it said something just before it went, since
 * it was looked at.
 */
static void
record_lost_run(const PipelineStart *start)
{
	bool forgiven = true;

	begin_transaction();
	if (ConditionalLockRelationOid(start->query, RowExclusiveLock) && query_get(start->query) &&
		query_run_is_unproven(start->query, start->pipeline))
		forgiven = query_forgive_crash(start->query, start->pipeline);
	commit_transaction();
	if (!forgiven)
		record_crash(start);
}

/*
 * Tell pipelines that nobody wants to end, and take back the slots of those that ended unexpectedly or have never
 * begun.  *stopping: some have not ended yet, or not done what else they were asked for.  Returns true if something was
 * recorded, so that "wanted" is out of date.
 */
static bool
stop_unwanted(List *wanted, bool *stopping)
{
	bool recorded = false;

	*stopping = false;
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];
		BackgroundWorkerHandle *handle = started[i].handle;
		PipelineStart crashed = {0};
		pid_t pid;
		bool gone = handle == NULL || GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;

		LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
		if (slot->database == MyDatabaseId)
		{
			if (slot->pid == 0 && gone)
			{
				if (is_wanted(wanted, slot))
				{
					crashed.database = slot->database;
					crashed.query = slot->query;
					crashed.pipeline = slot->pipeline;
				}
				slot_free(slot);
			}
			else if (!is_wanted(wanted, slot))
			{
				slot_stop(slot);
				*stopping = true;
			}
			else if (slot->yield)
			{
				slot_urge(slot);
				*stopping = true;
			}
		}
		LWLockRelease(velo_shared->lock);
		if (gone && handle != NULL)
		{
			pfree(handle);
			started[i].handle = NULL;
		}
		if (OidIsValid(crashed.database))
		{
			record_crash(&crashed);
			recorded = true;
		}
	}
	return recorded;
}

/* True if the pipeline runs, or has to wait for pipelines of an earlier generation to end. */
static bool
has_slot(const PipelineStart *start)
{
	bool found = false;

	LWLockAcquire(velo_shared->lock, LW_SHARED);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		const PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database == start->database && slot->query == start->query &&
			(slot->pipeline == start->pipeline || slot->generation != start->generation))
			found = true;
	}
	LWLockRelease(velo_shared->lock);
	return found;
}

/* The last start of the pipeline in this generation, by this scheduler; NULL: none. */
static const StartedPipeline *
last_start(const PipelineStart *start)
{
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		if (started[i].start.query == start->query &&
			started[i].start.pipeline == start->pipeline &&
			started[i].start.generation == start->generation)
			return &started[i];
	}
	return NULL;
}

/* NULL if it was started, else the setting that stands in the way. */
static const char *
start_pipeline(WantedPipeline *pipeline)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	MemoryContext old_context;
	const StartedPipeline *last = last_start(&pipeline->start);
	int restarts = last ? last->restarts + 1 : 0;
	bool registered;
	int slot;

	pipeline->start.started_at = GetCurrentTimestamp();
	slot = slot_take(&pipeline->start, restarts);
	if (slot < 0)
		return "velo.max_pipelines";
	VELO_INJECTION_POINT("before-start-pipeline");

	snprintf(worker.bgw_name, BGW_MAXLEN, "velo pipeline %d of query %s", pipeline->start.pipeline,
			 pipeline->name);
	strlcpy(worker.bgw_type, "velo pipeline", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "velo", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "velo_pipeline_main", sizeof(worker.bgw_function_name));
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;
	StaticAssertStmt(sizeof(PipelineStart) <= BGW_EXTRALEN, "PipelineStart must fit in bgw_extra");
	memcpy(worker.bgw_extra, &pipeline->start, sizeof(PipelineStart));

	old_context = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &handle);
	MemoryContextSwitchTo(old_context);
	if (!registered)
	{
		LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
		slot_free(&velo_shared->pipelines[slot]);
		LWLockRelease(velo_shared->lock);
		return "max_worker_processes";
	}
	for (int i = 0; i < velo_shared->nslots; i++) /* its count is in the new place from now on */
	{
		if (started[i].start.query == pipeline->start.query &&
			started[i].start.pipeline == pipeline->start.pipeline)
			started[i].start.query = InvalidOid;
	}
	if (started[slot].handle != NULL)
		pfree(started[slot].handle);
	started[slot].start = pipeline->start;
	started[slot].handle = handle;
	started[slot].restarts = restarts;
	VELO_INJECTION_POINT("after-start-pipeline");
	return NULL;
}

static bool
waits_for_worker(const WantedPipeline *pipeline)
{
	return pipeline->error &&
		   query_error_is_of_slot(pipeline->error->sqlerrcode, pipeline->error->retry_at);
}

/* When it may be started: DT_NOBEGIN for at once. */
static TimestampTz
start_not_before(const WantedPipeline *pipeline)
{
	const StartedPipeline *last = last_start(&pipeline->start);

	if (waits_for_worker(pipeline))
		return DT_NOBEGIN;
	/* without a time: a running pipeline told of the trouble of its source; too far away: another server's clock */
	if (pipeline->error &&
		pipeline->error->retry_at <=
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pipeline->retry_max_delay))
		return pipeline->error->retry_at;
	/* one that ended without a reason must not be started in a tight loop */
	return last ? TimestampTzPlusMilliseconds(last->start.started_at, RESTART_MS) : DT_NOBEGIN;
}

/* The shorter of two times to wait, of which the first may be -1: for ever. */
static long
sooner(long timeout, long other)
{
	return timeout < 0 ? other : Min(timeout, other);
}

/*
 * Start what is wanted and may start now.  Returns how long to wait for the next attempt at one that failed, in
 * milliseconds; -1: until something happens.
 */
static long
start_missing(List *wanted)
{
	const char *missing = NULL;
	long timeout = -1;
	ListCell *lc;

	foreach (lc, wanted)
	{
		WantedPipeline *pipeline = lfirst(lc);
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz not_before = start_not_before(pipeline);
		const char *setting;

		if (has_slot(&pipeline->start))
			continue;
		if (pipeline->unproven)
		{
			record_lost_run(&pipeline->start);
			timeout = sooner(timeout, RECORDED_MS);
			continue;
		}
		if (not_before > now)
		{
			timeout = sooner(timeout, TimestampDifferenceMilliseconds(now, not_before) + 1);
			continue;
		}
		if (!pipeline->owner_can_login)
		{
			ErrorData error = {.sqlerrcode = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
							   .message = "the owner of the query is not permitted to log in",
							   .hint =
								   "Before PostgreSQL 17, a pipeline can only run as a role that "
								   "has LOGIN."};

			record_error(pipeline->start.query, pipeline->start.pipeline, &error, true);
			timeout = sooner(timeout, RECORDED_MS);
			continue;
		}
		setting = start_pipeline(pipeline);
		if (setting == NULL)
			continue;
		missing = setting;
		if (!waits_for_worker(pipeline))
		{
			ErrorData error = {.sqlerrcode = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
							   .message = "waiting for a worker slot",
							   .hint = psprintf("You might need to increase %s.", setting)};

			record_error(pipeline->start.query, pipeline->start.pipeline, &error, false);
			ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						  errmsg("pipeline %d of query %s is waiting for a worker slot",
								 pipeline->start.pipeline, pipeline->name),
						  errhint("You might need to increase %s.", setting)));
		}
	}
	set_wants_worker(missing != NULL);
	if (missing != NULL)
		timeout = sooner(timeout, NO_WORKER_RETRY_MS);
	return timeout;
}

/* ------------------------------------------------------------------ the loop */

void
velo_scheduler_main(Datum arg)
{
	Oid database = DatumGetObjectId(arg);
	MemoryContext loop_context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!scheduler_attach(database))
		proc_exit(0);
	before_shmem_exit(scheduler_exit, arg);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	SetConfigOption("application_name", "velo", PGC_USERSET, PGC_S_OVERRIDE);
	pgstat_report_activity(STATE_IDLE, NULL);

	started =
		MemoryContextAllocZero(TopMemoryContext, sizeof(StartedPipeline) * velo_shared->nslots);
	loop_context =
		AllocSetContextCreate(TopMemoryContext, "velo scheduler loop", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		List *wanted;
		bool anything;
		bool stopping;
		long timeout;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);

		LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
		shared_find_scheduler(database)->changed = false;
		LWLockRelease(velo_shared->lock);

		wanted = read_wanted(&anything);
		if (stop_unwanted(wanted, &stopping))
			wanted = read_wanted(&anything);
		scheduler_settle(anything);
		timeout = start_missing(wanted);
		if (stopping)
			timeout = sooner(timeout, PIPELINE_STOP_MS);
		timeout = Min(timeout, LONGEST_WAIT_MS);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
	}
}
