/*
 * shmem.c
 *		Shared memory of the pipelines: slots, and how a change of a query reaches who has to know.
 *
 * See shared.h for the locking.  A change is told at commit (pipeline_notify_at_commit): the scheduler of the
 * database is woken, or the launcher is asked for one.
 */
#include "pipeline/shared.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

VeloShared *velo_shared = NULL;

static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;

static PipelineSlot *my_slot = NULL;
static bool notify_pending = false;

/* ------------------------------------------------------------------ set-up */

static Size
shared_size(void)
{
	Size size = MAXALIGN(sizeof(VeloShared));

	size = add_size(size, MAXALIGN(mul_size(velo_max_pipelines, sizeof(SchedulerSlot))));
	return add_size(size, mul_size(velo_max_pipelines, sizeof(PipelineSlot)));
}

static void
request_shmem(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("velo", 1);
}

/* all the figures of a slot lie between these two */
static void
reset_figures(PipelineSlot *slot, bool init)
{
	pg_atomic_uint64 *figures[] = {&slot->last_commit_at,   &slot->records_per_second,
								   &slot->queue_depth,      &slot->queue_capacity,
								   &slot->queue_high_water, &slot->backpressure_events,
								   &slot->groups,           &slot->open_windows,
								   &slot->state_bytes,      &slot->memory_bytes};

	for (int i = 0; i < (int) lengthof(figures); i++)
	{
		uint64 value = figures[i] == &slot->last_commit_at ? (uint64) DT_NOBEGIN : 0;

		if (init)
			pg_atomic_init_u64(figures[i], value);
		else
			pg_atomic_write_u64(figures[i], value);
	}
	for (int stage = 0; stage < METRIC_STAGES; stage++)
	{
		for (int bucket = 0; bucket < METRIC_BUCKETS; bucket++)
		{
			if (init)
				pg_atomic_init_u32(&slot->stages[stage].buckets[bucket], 0);
			else
				pg_atomic_write_u32(&slot->stages[stage].buckets[bucket], 0);
		}
	}
}

static void
startup_shmem(void)
{
	bool found;

	if (prev_shmem_startup)
		prev_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	velo_shared = ShmemInitStruct("velo", shared_size(), &found);
	if (!found)
	{
		char *area = (char *) velo_shared;

		memset(velo_shared, 0, shared_size());
		velo_shared->lock = &GetNamedLWLockTranche("velo")->lock;
		velo_shared->rescan = true;
		velo_shared->nslots = velo_max_pipelines;
		area += MAXALIGN(sizeof(VeloShared));
		velo_shared->schedulers = (SchedulerSlot *) area;
		area += MAXALIGN(mul_size(velo_max_pipelines, sizeof(SchedulerSlot)));
		velo_shared->pipelines = (PipelineSlot *) area;
		for (int i = 0; i < velo_shared->nslots; i++)
			reset_figures(&velo_shared->pipelines[i], true);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
shared_request(void)
{
	prev_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

bool
pipeline_available(void)
{
	return velo_shared != NULL;
}

bool
pipelines_are_kept(QueryError *error)
{
	const SchedulerSlot *scheduler;
	bool has_no_worker;
	bool is_forgotten;

	error->pipeline = QUERY_AS_A_WHOLE;
	error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	error->hint = NULL;
	error->at = error->retry_at = DT_NOBEGIN;
	if (RecoveryInProgress())
	{
		error->message = "the server is in recovery";
		error->hint = "Queries go on when it is promoted.";
		return true;
	}
	if (!pipeline_available())
	{
		error->message = "velo is not preloaded";
		error->hint = "Add velo to shared_preload_libraries and restart the server.";
		return true;
	}
	LWLockAcquire(velo_shared->lock, LW_SHARED);
	scheduler = shared_find_scheduler(MyDatabaseId);
	has_no_worker = scheduler != NULL && scheduler->has_no_worker;
	is_forgotten =
		velo_shared->launcher_latch == NULL && (scheduler == NULL || scheduler->pid == 0);
	LWLockRelease(velo_shared->lock);
	if (has_no_worker)
	{
		error->message = "waiting for a worker slot";
		error->sqlerrcode = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		error->hint = "You might need to increase max_worker_processes.";
		error->retry_at = DT_NOEND;
		return true;
	}
	if (is_forgotten)
	{
		error->message = "the velo launcher does not run";
		error->hint = "The server log says why; you might need to increase max_worker_processes.";
		return true;
	}
	return false;
}

/* ------------------------------------------------------------------ telling of changes */

SchedulerSlot *
shared_find_scheduler(Oid database)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		if (velo_shared->schedulers[i].database == database)
			return &velo_shared->schedulers[i];
	}
	return NULL;
}

void
shared_notify(Oid database)
{
	SchedulerSlot *scheduler;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database == database && slot->latch != NULL)
		{
			slot->changed = true;
			SetLatch(slot->latch);
		}
	}
	scheduler = shared_find_scheduler(database);
	if (scheduler != NULL)
	{
		scheduler->changed = true;
		if (scheduler->latch)
			SetLatch(scheduler->latch);
	}
	else if ((scheduler = shared_find_scheduler(InvalidOid)) != NULL)
	{
		memset(scheduler, 0, sizeof(SchedulerSlot));
		scheduler->database = database;
		scheduler->state = SCHEDULER_WANTED;
		scheduler->changed = true;
		shared_wake_launcher();
	}
	else
		velo_shared->rescan = true; /* for when a scheduler ends */
	LWLockRelease(velo_shared->lock);
}

void
shared_wake_launcher(void)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	if (velo_shared->launcher_latch)
		SetLatch(velo_shared->launcher_latch);
}

/* COMMIT PREPARED tells of it, see ddl.c */
static void
notify_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PREPARE)
		notify_pending = false;
}

/*
 * Not in a callback for the commit itself, which comes before others can know which cached catalog rows have become
 * invalid: who is told too early finds nothing changed, and goes to sleep again.
 */
static void
notify_release_callback(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (!notify_pending || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	notify_pending = false;
	if (is_commit)
		shared_notify(MyDatabaseId);
}

void
pipeline_notify_at_commit(void)
{
	static bool registered = false;

	if (!pipeline_available())
		return;
	if (!registered)
	{
		RegisterXactCallback(notify_xact_callback, NULL);
		RegisterResourceReleaseCallback(notify_release_callback, NULL);
		registered = true;
	}
	notify_pending = true;
}

/* ------------------------------------------------------------------ databases that must be left alone */

bool
shared_is_blocked(Oid database)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	for (int i = 0; i < MAX_BLOCKS; i++)
	{
		if (velo_shared->blocked[i] == database)
			return true;
	}
	return false;
}

void
shared_block(Oid database)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_BLOCKS; i++)
	{
		if (velo_shared->blocked[i] == InvalidOid)
		{
			velo_shared->blocked[i] = database;
			break;
		}
	}
	LWLockRelease(velo_shared->lock);
}

bool
shared_evict(Oid database, bool force)
{
	SchedulerSlot *scheduler;
	bool anybody = false;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	scheduler = shared_find_scheduler(database);
	if (scheduler != NULL && scheduler->state == SCHEDULER_WANTED)
		scheduler->database = InvalidOid;
	else if (scheduler != NULL)
	{
		anybody = true;
		scheduler->stop = true;
		if (scheduler->latch)
			SetLatch(scheduler->latch);
		if (force && scheduler->pid != 0)
			kill(scheduler->pid, SIGTERM);
	}
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database != database)
			continue;
		if (slot->pid == 0) /* one that has not attached finds the slot taken away, and ends */
		{
			slot_free(slot);
			continue;
		}
		anybody = true;
		slot_stop(slot);
		if (force)
			kill(slot->pid, SIGTERM);
	}
	LWLockRelease(velo_shared->lock);
	return !anybody;
}

void
shared_unblock(Oid database)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_BLOCKS; i++)
	{
		if (velo_shared->blocked[i] == database)
		{
			velo_shared->blocked[i] = InvalidOid;
			break;
		}
	}
	LWLockRelease(velo_shared->lock);
	shared_notify(database);
}

/* ------------------------------------------------------------------ slots */

int
slot_take(const PipelineStart *start, int restarts)
{
	int taken = -1;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < velo_shared->nslots && taken < 0; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database != InvalidOid)
			continue;
		slot->database = start->database;
		slot->query = start->query;
		slot->pipeline = start->pipeline;
		slot->generation = start->generation;
		slot->pid = 0;
		slot->latch = NULL;
		slot->state = PIPELINE_STARTING;
		slot->stop = false;
		slot->changed = false;
		slot->yield = false;
		slot->done = false;
		slot->started_at = start->started_at;
		slot->restarts = restarts;
		reset_figures(slot, false);
		taken = i;
	}
	LWLockRelease(velo_shared->lock);
	return taken;
}

void
slot_stop(PipelineSlot *slot)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	if (!slot->stop)
	{
		slot->stop = true;
		slot->interrupt_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PIPELINE_STOP_MS);
	}
	slot_urge(slot);
}

void
slot_urge(PipelineSlot *slot)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	if (slot->pid == 0)
		return;
	if (GetCurrentTimestamp() >= slot->interrupt_at)
	{
		kill(slot->pid, SIGINT);
		slot->interrupt_at = DT_NOEND; /* once is enough */
	}
	SetLatch(slot->latch);
}

void
slot_free(PipelineSlot *slot)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	slot->database = InvalidOid;
	slot->query = InvalidOid;
	slot->pid = 0;
	slot->latch = NULL;
	slot->state = PIPELINE_FREE;
}

/* The scheduler of a database, if it runs. */
static void
wake_scheduler(Oid database)
{
	SchedulerSlot *scheduler = shared_find_scheduler(database);

	Assert(LWLockHeldByMe(velo_shared->lock));
	if (scheduler != NULL && scheduler->latch != NULL)
		SetLatch(scheduler->latch);
}

/* A worker ends: schedulers that wait for one may start theirs. */
static void
wake_waiting_schedulers(void)
{
	Assert(LWLockHeldByMe(velo_shared->lock));
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		SchedulerSlot *scheduler = &velo_shared->schedulers[i];

		if (scheduler->wants_worker && scheduler->latch)
			SetLatch(scheduler->latch);
	}
}

/*
 * A worker that ends on purpose frees its slot; one that does not leaves it, without a pid, for the scheduler to see.
 */
static void
slot_detach(int code, Datum arg)
{
	Oid database = my_slot->database;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	if (my_slot->done || my_slot->stop)
		slot_free(my_slot);
	else
	{
		my_slot->pid = 0;
		my_slot->latch = NULL;
		my_slot->state = PIPELINE_STOPPING;
	}
	wake_scheduler(database);
	wake_waiting_schedulers();
	LWLockRelease(velo_shared->lock);
	my_slot = NULL;
}

bool
slot_attach(int index, const PipelineStart *start)
{
	PipelineSlot *slot = &velo_shared->pipelines[index];
	bool mine;

	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	mine = slot->database == start->database && slot->query == start->query &&
		   slot->pipeline == start->pipeline && slot->started_at == start->started_at &&
		   slot->pid == 0 && slot->state == PIPELINE_STARTING;
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		my_slot = slot;
	}
	LWLockRelease(velo_shared->lock);
	if (mine)
		before_shmem_exit(slot_detach, (Datum) 0);
	return mine;
}

PipelineSlot *
pipeline_my_slot(void)
{
	return my_slot;
}

void
pipeline_set_state(PipelineState state)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	my_slot->state = state;
	LWLockRelease(velo_shared->lock);
}

PipelineSlot *
pipeline_slots(Oid query, int *nslots)
{
	PipelineSlot *slots;

	*nslots = 0;
	if (!pipeline_available())
		return NULL;
	slots = palloc_extended(mul_size(velo_shared->nslots, sizeof(PipelineSlot)), MCXT_ALLOC_HUGE);
	LWLockAcquire(velo_shared->lock, LW_SHARED);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		const PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database == MyDatabaseId && (slot->query == query || !OidIsValid(query)))
			memcpy(&slots[(*nslots)++], slot, sizeof(PipelineSlot));
	}
	LWLockRelease(velo_shared->lock);
	return slots;
}

bool
pipeline_has_committed(Oid query, int pipeline)
{
	bool result = false;

	LWLockAcquire(velo_shared->lock, LW_SHARED);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database == MyDatabaseId && slot->query == query && slot->pipeline == pipeline &&
			slot->pid != 0)
			result = (TimestampTz) pg_atomic_read_u64(&slot->last_commit_at) != DT_NOBEGIN;
	}
	LWLockRelease(velo_shared->lock);
	return result;
}

void
pipeline_wake_siblings(Oid query)
{
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database == MyDatabaseId && slot->query == query && slot != my_slot &&
			slot->latch != NULL)
		{
			/* the latch alone could be reset by a wait for a lock */
			slot->changed = true;
			SetLatch(slot->latch);
		}
	}
	LWLockRelease(velo_shared->lock);
}

void
pipeline_ask_to_yield(Oid query)
{
	if (!pipeline_available())
		return;
	LWLockAcquire(velo_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < velo_shared->nslots; i++)
	{
		PipelineSlot *slot = &velo_shared->pipelines[i];

		if (slot->database != MyDatabaseId || slot->query != query || slot->stop)
			continue;
		slot->yield = true;
		slot->interrupt_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PIPELINE_STOP_MS);
		if (slot->pid != 0)
			SetLatch(slot->latch);
	}
	/* it is the one who sees to it */
	wake_scheduler(MyDatabaseId);
	LWLockRelease(velo_shared->lock);
}
