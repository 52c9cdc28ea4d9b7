/*
 * stream_scan.h
 *		What the scan of a stream and INSERT into one share; private to exec/.
 */
#ifndef VELO_STREAM_SCAN_H
#define VELO_STREAM_SCAN_H

#include "velo.h"

#include "exec/exec.h"
#include "nodes/execnodes.h"
#include "source/source.h"

/* how long to wait for the answer of a broker before giving up */
#define BROKER_TIMEOUT_MS 10000

/*
 * The stream as "userid" (InvalidOid: the current user) sees it, or ereport(ERROR) if there is no broker to ask.
 */
extern StreamInfo *stream_get_connectable(Oid relid, Oid userid);

/* The part of a partition that a scan reads: offsets [from, to). */
typedef struct PartitionRange
{
	int64 from;
	int64 to;
} PartitionRange;

/*
 * Narrow ranges[npartitions] to what satisfies the bounds of a scan's plan.  "exprs" are the states of its fdw_exprs;
 * they are evaluated in "econtext".  May ask a broker.
 */
extern void stream_bounds_apply(const StreamInfo *stream, List *bounds, List *exprs,
								ExprContext *econtext, PartitionRange *ranges, int npartitions);

#endif /* VELO_STREAM_SCAN_H */
