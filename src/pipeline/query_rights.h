/*
 * query_rights.h
 *		Private to pipeline/: checks that creating a query has in common with changing it.
 */
#ifndef VELO_QUERY_RIGHTS_H
#define VELO_QUERY_RIGHTS_H

#include "pipeline/pipeline.h"

#include "nodes/parsenodes.h"

/*
 * May the current user read what the query reads, and write to the target (InvalidOid: not asked)?  ereport(ERROR) if
 * not.
 */
extern void check_rights(Query *query, Oid target);

/*
 * Run a command on a table, whose name takes the place of %s in it, as the table's owner: its triggers and policies are
 * theirs.  Returns the number of rows.
 */
extern uint64 execute_as_owner(const char *format, Oid table);

#define DEFAULT_ON_ERROR "dead_letter"
#define DEFAULT_ON_LATE "drop"

/* The values of arguments and options; ereport(ERROR) with the valid ones. */
extern OnError parse_on_error(const char *value);
extern bool parse_on_late(const char *value);
extern int check_pipelines(int value);
/* As query_read_options(), and nobody but a superuser takes more memory than the setting gives. */
extern void check_options(Jsonb *json, const char *extra, QueryOptions *options);

/*
 * Ask the brokers for the partitions of a query that has none.  If they don't answer, says so in a WARNING and in the
 * query's error, and returns false: its first pipeline will ask again.
 */
extern bool contact_brokers(QueryInfo *query);
extern void warn_if_not_preloaded(void);

#endif /* VELO_QUERY_RIGHTS_H */
