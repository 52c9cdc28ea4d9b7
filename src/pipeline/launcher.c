/*
 * launcher.c
 *		The launcher: one per server, starts a scheduler in each database that has something to run.
 *
 * It is connected to no database, so it never stands in the way of DROP DATABASE and the like.  It can't see
 * whether a database has queries: at start it has a scheduler look into each, one after the other so that worker slots
 * are not burnt; afterwards it starts one where shared_notify() asks for it.  It has nothing to do otherwise, and
 * sleeps.
 */
#include "pipeline/shared.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "source/source.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WORKER_RESTART_SECONDS 5
#define SCHEDULER_RESTART_MS 1000

static void
register_worker(const char *name, const char *function, BgWorkerStartTime start, int flags)
{
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, name, BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | flags;
	worker.bgw_start_time = start;
	worker.bgw_restart_time = WORKER_RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "velo", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, function, sizeof(worker.bgw_function_name));
	RegisterBackgroundWorker(&worker);
}

void
pipeline_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	shared_request();
	ddl_install_hook();
	if (IsBinaryUpgrade)
		return;
	register_worker("velo launcher", "velo_launcher_main", BgWorkerStart_RecoveryFinished,
					BGWORKER_BACKEND_DATABASE_CONNECTION);
	if (velo_dev_broker_port > 0)
		register_worker("velo development broker", "velo_dev_broker_main",
						BgWorkerStart_PostmasterStart, 0);
}

static void
forget_launcher(int code, Datum arg)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	velo_shared->launcher_latch = NULL;
	LWLockRelease(velo_shared->lock);
}

/* OIDs of all databases that workers may connect to, in the caller's memory context. */
static List *
connectable_databases(void)
{
	MemoryContext caller = CurrentMemoryContext;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;
	List *databases = NIL;

	begin_transaction();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old_context;

		if (!database->datallowconn)
			continue;
		old_context = MemoryContextSwitchTo(caller);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(old_context);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	commit_transaction();
	MemoryContextSwitchTo(caller);
	return databases;
}

/* The handle lives in the current memory context; NULL if there is no worker slot. */
static BackgroundWorkerHandle *
start_scheduler(Oid database)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	strlcpy(worker.bgw_name, "velo scheduler", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "velo scheduler", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "velo", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "velo_scheduler_main", sizeof(worker.bgw_function_name));
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * Take back slots of schedulers that ended before they attached, or all that have not attached if "handles" knows
 * nothing of them.  Returns true if one is starting.
 */
static bool
check_starting(BackgroundWorkerHandle **handles)
{
	bool starting = false;

	for (int i = 0; i < velo_shared->nslots; i++)
	{
		SchedulerSlot *slot = &velo_shared->schedulers[i];
		pid_t pid;
		bool stopped =
			handles[i] == NULL || GetBackgroundWorkerPid(handles[i], &pid) == BGWH_STOPPED;

		LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
		if (OidIsValid(slot->database) && slot->state == SCHEDULER_STARTING)
		{
			if (stopped && slot->pid == 0)
			{
				slot->state = SCHEDULER_WANTED;
				slot->start_at =
					TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SCHEDULER_RESTART_MS);
			}
			else
				starting = true;
		}
		LWLockRelease(velo_shared->lock);
		if (stopped && handles[i] != NULL)
		{
			pfree(handles[i]);
			handles[i] = NULL;
		}
	}
	return starting;
}

/* Say so in velo.queries, and once in the log. */
static void
set_has_no_worker(SchedulerSlot *slot, bool has_none)
{
	bool news;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	news = has_none && !slot->has_no_worker;
	slot->has_no_worker = has_none;
	LWLockRelease(velo_shared->lock);
	if (news)
		ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					  errmsg("out of background worker slots for a velo scheduler"),
					  errhint("You might need to increase max_worker_processes.")));
}

/*
 * Start the next scheduler that is wanted, if any may start now.  Returns how long to wait for the next one to come
 * due, in milliseconds; -1: until something happens.
 */
static long
start_wanted(BackgroundWorkerHandle **handles)
{
	List *databases = NIL;
	TimestampTz now = GetCurrentTimestamp();
	long timeout = -1;
	bool wanted = false;

	LWLockAcquire(velo_shared->lock, LW_SHARED);
	for (int i = 0; i < velo_shared->nslots; i++)
		wanted |= OidIsValid(velo_shared->schedulers[i].database) &&
				  velo_shared->schedulers[i].state == SCHEDULER_WANTED;
	LWLockRelease(velo_shared->lock);
	if (!wanted)
		return -1;
	databases = connectable_databases();

	for (int i = 0; i < velo_shared->nslots; i++)
	{
		SchedulerSlot *slot = &velo_shared->schedulers[i];
		Oid start = InvalidOid;
		MemoryContext loop_context;

		LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
		if (OidIsValid(slot->database) && slot->state == SCHEDULER_WANTED &&
			!shared_is_blocked(slot->database))
		{
			if (!list_member_oid(databases, slot->database))
				slot->database = InvalidOid;
			else if (slot->start_at > now)
			{
				long wait = TimestampDifferenceMilliseconds(now, slot->start_at) + 1;

				timeout = timeout < 0 ? wait : Min(timeout, wait);
			}
			else
			{
				start = slot->database;
				slot->state = SCHEDULER_STARTING;
				slot->pid = 0;
				slot->latch = NULL;
				slot->stop = false;
			}
		}
		LWLockRelease(velo_shared->lock);
		if (!OidIsValid(start))
			continue;
		loop_context = MemoryContextSwitchTo(TopMemoryContext);
		handles[i] = start_scheduler(start);
		MemoryContextSwitchTo(loop_context);
		set_has_no_worker(slot, handles[i] == NULL);
		return handles[i] ? -1 : SCHEDULER_RESTART_MS;
	}
	return timeout;
}

void
velo_launcher_main(Datum arg)
{
	BackgroundWorkerHandle **handles;
	MemoryContext loop_context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(BackgroundWorkerHandle *) * velo_shared->nslots);
	loop_context =
		AllocSetContextCreate(TopMemoryContext, "velo launcher loop", ALLOCSET_DEFAULT_SIZES);

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	velo_shared->launcher_latch = MyLatch;
	LWLockRelease(velo_shared->lock);
	before_shmem_exit(forget_launcher, (Datum) 0);
	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		long timeout = -1;
		bool rescan;

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
		rescan = velo_shared->rescan;
		velo_shared->rescan = false;
		LWLockRelease(velo_shared->lock);
		if (rescan)
		{
			ListCell *lc;

			foreach (lc, connectable_databases())
				shared_notify(lfirst_oid(lc));
		}
		if (!check_starting(handles))
			timeout = start_wanted(handles);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
	}
}
