/*
 * velo.h
 *		What every room of velo may use: settings, limits and the names of velo's own objects.
 *
 * The settings are PostgreSQL configuration parameters (doc: README, "Settings"); their C variables carry
 * the same name with an underscore for the dot.  Per-query overrides live in the query's options
 * (catalog/velo_catalog.h, QueryOptions), so code that runs a pipeline reads those and not these.
 */
#ifndef VELO_H
#define VELO_H

#include "postgres.h"

#include "compat.h"
#include "injection_point.h"

/* known transitions and column-at-a-time functions take a bigint and a float8 to be passed by value */
StaticAssertDecl(SIZEOF_DATUM == 8, "velo needs a 64-bit machine");

#define VELO_EXTENSION "velo"
/* of the objects that this library knows: default_version in velo.control.  Tests build a library of another one. */
#ifndef VELO_VERSION
#define VELO_VERSION "1.0"
#endif
#define VELO_SCHEMA "velo"
/* one view per query lives here: the object that PostgreSQL's dependencies know a query by */
#define VELO_QUERY_SCHEMA "velo_queries"
#define VELO_FDW "velo"

/* upper limit of velo.max_pipelines_per_query */
#define MAX_PIPELINES_PER_QUERY 1024

extern int velo_max_pipelines;           /* worker slots of the server; postmaster */
extern int velo_max_pipelines_per_query; /* default and upper limit of a query's pipelines */
extern int velo_batch_size;              /* records */
extern int velo_commit_interval;         /* ms */
extern int velo_grace;                   /* ms */
extern int velo_idle_timeout;            /* ms; 0: a partition never becomes idle */
extern int velo_pipeline_memory;         /* kB: state, batches and fetch queue of one pipeline */
extern int velo_retry_max_delay;         /* ms */
extern bool velo_vectorized;     /* expressions a column at a time, where that can be done */
extern int velo_dev_broker_port; /* 0: off; postmaster */

#endif /* VELO_H */
