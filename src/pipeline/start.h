/*
 * start.h
 *		Private to pipeline/: where a query starts.
 */
#ifndef VELO_START_H
#define VELO_START_H

#include "pipeline/pipeline.h"

/*
 * Check a query's start ('earliest', 'latest', a time, 'topic:partition:offset,...') against the streams it reads (list
 * of Oid), and return it in a form that means the same later.  ereport(ERROR) if it isn't valid.
 */
extern char *start_check(const char *text, List *streams);

/*
 * First contact with the brokers of a query that has no partitions yet: stores its partitions with their first and
 * last offsets, and decides the number of pipelines.  Waits at most timeout_ms, and throws what the brokers' answer, or
 * its absence, calls for; changes nothing then, nor if somebody changes the query meanwhile.  Schedulers hear of it at
 * commit.
 */
extern void query_resolve_partitions(QueryInfo *query, int timeout_ms);

/*
 * How many pipelines the query gets for its partitions (of PartitionInfo): what was asked for, with a NOTICE if that is
 * more than any of its topics has; else one for each partition, within the limit.
 */
extern int query_choose_pipelines(const QueryInfo *query, List *partitions);

#endif /* VELO_START_H */
