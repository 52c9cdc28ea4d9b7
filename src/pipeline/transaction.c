/*
 * transaction.c
 *		Transactions of velo's workers.
 *
 * In a deadlock with a user's command it is the worker that gives way.
 *
 * A backend looks for a deadlock once in each wait for a lock, deadlock_timeout after it began to wait.  So a worker that
 * has waited for longer than that doesn't notice when a DROP closes the circle, and the user's command is the one to
 * fail.  Therefore a worker's transaction makes its backend look again and again, more often than anybody sets
 * deadlock_timeout to.
 */
#include "pipeline/shared.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define DEADLOCK_CHECK_MS 100

static TimeoutId deadlock_check = MAX_TIMEOUTS;

/* However the transaction ended: nothing may wake an idle worker. */
static void
stop_checking(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		disable_timeout(deadlock_check, false);
}

void
begin_transaction(void)
{
	if (deadlock_check == MAX_TIMEOUTS)
	{
		/* PostgreSQL's own handler: it has no effect but on a backend that waits for a lock */
		deadlock_check = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
		RegisterXactCallback(stop_checking, NULL);
	}
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	enable_timeout_every(deadlock_check,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DEADLOCK_CHECK_MS),
						 DEADLOCK_CHECK_MS);
}

void
commit_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * The lock manager has no question for that: it would have to know locks that were taken the fast way.  What backends wait
 * for is read without a lock; an answer that is out of date costs no more than a transaction that is shorter, or longer
 * by a batch, than it would have been.
 */
bool
relations_are_waited_for(const List *relations)
{
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		const LOCK *lock = *(LOCK *volatile *) &ProcGlobal->allProcs[i].waitLock;

		if (lock != NULL && lock->tag.locktag_type == LOCKTAG_RELATION &&
			lock->tag.locktag_field1 == MyDatabaseId &&
			list_member_oid(relations, lock->tag.locktag_field2))
			return true;
	}
	return false;
}
