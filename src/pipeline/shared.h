/*
 * shared.h
 *		Private to pipeline/: what the launcher, the schedulers and the pipelines share in memory.
 *
 * Locking: VeloShared.lock protects who is who: everything in VeloShared and SchedulerSlot, and the part of
 * PipelineSlot that says so.  It is held for a few instructions, never while anything waits; latches are set under
 * it, so that a latch found in a slot is that of a living process.  A worker may read its own slot's "stop" and
 * "changed" without the lock.
 */
#ifndef VELO_SHARED_H
#define VELO_SHARED_H

#include "pipeline/pipeline.h"

typedef enum SchedulerState
{
	SCHEDULER_WANTED,   /* the launcher should start it at start_at */
	SCHEDULER_STARTING, /* registered; has not yet seen whether there is anything to do */
	SCHEDULER_RUNNING
} SchedulerState;

typedef struct SchedulerSlot
{
	Oid database; /* InvalidOid: free */
	SchedulerState state;
	pid_t pid;
	Latch *latch; /* NULL until it has attached */
	bool changed; /* something about the database's queries did */
	bool stop;
	bool wants_worker;  /* waits for any pipeline of the server to end */
	bool has_no_worker; /* the launcher found no worker slot for it */
	TimestampTz start_at;
} SchedulerSlot;

/* databases in which nothing may run, for a command that wants them unused */
#define MAX_BLOCKS 16

typedef struct VeloShared
{
	LWLock *lock;
	Latch *launcher_latch;
	bool rescan; /* the launcher should look at all databases */
	Oid blocked[MAX_BLOCKS];
	int nslots; /* of both kinds */
	SchedulerSlot *schedulers;
	PipelineSlot *pipelines;
} VeloShared;

/* NULL if the library was not preloaded */
extern VeloShared *velo_shared;

/* What a pipeline's worker is told in bgw_extra. */
typedef struct PipelineStart
{
	Oid database;
	Oid owner;
	Oid query;
	int pipeline;
	int generation;
	TimestampTz started_at; /* of the slot: tells whether it is still the one meant */
} PipelineStart;

extern void shared_request(void);

/* The database's queries changed: wakes its pipelines and its scheduler, or has one started. */
extern void shared_notify(Oid database);
/* Caller holds the lock. */
extern SchedulerSlot *shared_find_scheduler(Oid database);
extern bool shared_is_blocked(Oid database);
extern void shared_wake_launcher(void);

/*
 * Keep velo out of a database: tells its workers to end, and no new ones start.  shared_evict() is to be repeated until
 * it finds nobody; "force" terminates those that don't listen.
 */
extern void shared_block(Oid database);
extern bool shared_evict(Oid database, bool force);
extern void shared_unblock(Oid database);

/* Reserve a slot for a pipeline: its index, or -1 if all are taken. */
extern int slot_take(const PipelineStart *start, int restarts);
/* In a worker: make the slot one's own; false if it isn't meant for this worker any more. */
extern bool slot_attach(int index, const PipelineStart *start);
/*
 * Tell a pipeline to end after its transaction, and wake it.  To be repeated until it is gone: one that does something
 * else after PIPELINE_STOP_MS, such as waiting for a broker's answer, is interrupted.  Caller holds the lock.
 */
extern void slot_stop(PipelineSlot *slot);
/* The same for one that was asked to end its transaction (PipelineSlot.yield), without being told to end. */
extern void slot_urge(PipelineSlot *slot);
#define PIPELINE_STOP_MS 500
/* PostgreSQL's waits take a time of up to INT_MAX ms; who wakes up once a day for nothing does no harm */
#define LONGEST_WAIT_MS (24 * 60 * 60 * 1000L)
/* Caller holds the lock. */
extern void slot_free(PipelineSlot *slot);

/* A transaction of a worker of velo's, with an active snapshot.  After an error AbortOutOfAnyTransaction() ends it. */
extern void begin_transaction(void);
extern void commit_transaction(void);
/* true if some backend waits for a lock of one of these relations */
extern bool relations_are_waited_for(const List *relations);

extern void ddl_install_hook(void);

#endif /* VELO_SHARED_H */
