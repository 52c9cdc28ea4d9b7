/*
 * velo.c
 *		The front door: settings and hooks; nothing else.
 */
#include "velo.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "pipeline/pipeline.h"
#include "plan/plan.h"

PG_MODULE_MAGIC;

int velo_max_pipelines = 64;
int velo_max_pipelines_per_query = 8;
int velo_batch_size = 10000;
int velo_commit_interval = 100;
int velo_grace = 0;
int velo_idle_timeout = 30 * 1000;
int velo_pipeline_memory = 256 * 1024;
int velo_retry_max_delay = 60 * 1000;
bool velo_vectorized = true;
int velo_dev_broker_port = 0;

void _PG_init(void);

static void
define_settings(void)
{
	/* a library that is not preloaded may define no others; it finds these in the file, and makes nothing of them */
	GucContext at_start =
		process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomIntVariable("velo.max_pipelines",
							"Sets the maximum number of pipelines of the server.", NULL,
							&velo_max_pipelines, 64, 1, 4096, at_start, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("velo.max_pipelines_per_query",
							"Sets the default and the maximum number of pipelines of one query.",
							NULL, &velo_max_pipelines_per_query, 8, 1, MAX_PIPELINES_PER_QUERY,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"velo.batch_size", "Sets the maximum number of records that a pipeline evaluates at once.",
		NULL, &velo_batch_size, 10000, 1, 1000000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"velo.commit_interval",
		"Sets the time after which a pipeline commits while records keep arriving.",
		"A pipeline that has caught up commits at once.", &velo_commit_interval, 100, 1,
		3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"velo.grace", "Sets the event time for which a window accepts records after its end.", NULL,
		&velo_grace, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"velo.idle_timeout",
		"Sets the time after which a partition without records stops holding back "
		"event time.",
		"0 means that a partition is never idle.", &velo_idle_timeout, 30 * 1000, 0, INT_MAX,
		PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("velo.pipeline_memory",
							"Sets the memory for state, batches and fetch queue of one pipeline.",
							NULL, &velo_pipeline_memory, 256 * 1024, 8 * 1024, INT_MAX, PGC_SIGHUP,
							GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("velo.retry_max_delay",
							"Sets the longest delay between two attempts to run a pipeline.", NULL,
							&velo_retry_max_delay, 60 * 1000, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("velo.vectorized", "Evaluates expressions a column at a time.",
							 "Off is for diagnosis: PostgreSQL's executor then takes row by row.",
							 &velo_vectorized, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"velo.dev_broker_port",
		"Sets the port on 127.0.0.1 of a volatile Kafka broker for development.",
		"0 means that there is none.", &velo_dev_broker_port, 0, 0, 65535, at_start, 0, NULL, NULL,
		NULL);
	MarkGUCPrefixReserved("velo");
}

void
_PG_init(void)
{
	define_settings();
	plan_init_hooks();
	pipeline_init();
}
