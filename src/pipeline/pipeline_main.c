/*
 * pipeline_main.c
 *		A pipeline's process: attach, connect as the query's owner, run, and say what went wrong.
 *
 * What a pipeline does is pipeline_run()'s business (worker.c).  An error that it throws is recorded in
 * velo.query_error with the time of the next attempt, and the process ends: the scheduler starts the next one then.
 */
#include "pipeline/shared.h"

#include "access/xact.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "pipeline/start.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

/* how long the first contact with the brokers may take */
#define CONTACT_TIMEOUT_MS 5000

/*
 * Whatever the role's or the database's settings say.  Offsets and results commit together, so that a lost commit
 * is read again.  In a deadlock it is the pipeline that gives way, so it looks early, and often (see transaction.c),
 * which is not to be logged each time.
 */
static const struct
{
	const char *name;
	const char *value;
} pipeline_settings[] = {
	{"application_name", "velo"},
	{"synchronous_commit", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"deadlock_timeout", "50ms"},
	{"log_lock_waits", "off"},
	{"idle_in_transaction_session_timeout", "0"},
	{"transaction_timeout", "0"}, /* since PostgreSQL 17 */
	{"session_replication_role", "origin"},
	{"role", "none"},
};

/*
 * Set what the query's creator had.  Returns true if the query is what this worker was started for, and its partitions
 * are known; false if there is nothing to run.
 */
static bool
prepare(const PipelineStart *start)
{
	QueryInfo *query;
	bool ready;

	begin_transaction();
	query = query_get(start->query);
	ready = query != NULL && query->generation == start->generation && query->state == QUERY_ACTIVE;
	if (ready)
	{
		ListCell *lc;

		foreach (lc, query->settings)
		{
			DefElem *setting = lfirst_node(DefElem, lc);

			SetConfigOption(setting->defname, defGetString(setting), PGC_USERSET, PGC_S_SESSION);
		}
		pgstat_report_activity(
			STATE_RUNNING, psprintf("velo: query %s, pipeline %d", query->name, start->pipeline));
		if (query->npipelines == 0)
		{
			/* the pipelines to be are those of the next generation */
			query_resolve_partitions(query, CONTACT_TIMEOUT_MS);
			query_set_error(start->query, NULL, DT_NOEND);
			ready = false;
		}
		else
		{
			TimestampTz advanced;

			ready = query_enter(start->query, start->generation, &advanced);
			if (ready)
				query_begin_run(start->query);
		}
	}
	commit_transaction();
	return ready;
}

/* The run has ended as it should, whatever it has achieved, and whatever has become of the query. */
static void
end_run(const PipelineStart *start)
{
	begin_transaction();
	if (query_get(start->query) != NULL && query_run_is_unproven(start->query, start->pipeline))
		query_set_error(start->query, NULL, DT_NOEND);
	commit_transaction();
}

/* Record the error and log it, unless the query has changed or gone: then that was the reason. */
static void
record_error(const PipelineStart *start, ErrorData *error)
{
	TimestampTz advanced;
	bool concerned;

	begin_transaction();
	concerned = query_enter(start->query, start->generation, &advanced);
	if (concerned)
		query_set_error(start->query, error, query_next_attempt(start->query, start->pipeline));
	commit_transaction();
	if (concerned)
	{
		error->elevel = WARNING;
		ThrowErrorData(error);
	}
}

void
velo_pipeline_main(Datum arg)
{
	PipelineStart start;
	MemoryContext context;

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(PipelineStart));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!slot_attach(DatumGetInt32(arg), &start))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(start.database, start.owner,
											  COMPAT_BYPASS_ROLELOGINCHECK);
	for (int i = 0; i < (int) lengthof(pipeline_settings); i++)
		if (GetConfigOption(pipeline_settings[i].name, true, false) != NULL)
			SetConfigOption(pipeline_settings[i].name, pipeline_settings[i].value, PGC_SUSET,
							PGC_S_OVERRIDE);

	query_errors_are_of(start.pipeline);
	context = AllocSetContextCreate(TopMemoryContext, "velo pipeline", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (prepare(&start))
		{
			MemoryContextSwitchTo(context);
			pipeline_run(start.query, start.pipeline, start.generation);
		}
		end_run(&start);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
		record_error(&start, error);
	}
	PG_END_TRY();
	pipeline_my_slot()->done = true;
	proc_exit(0);
}
