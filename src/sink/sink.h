/*
 * sink.h
 *		The door of sink/: the rows of a query into its table.
 *
 * The sink writes in a subtransaction of its own, after the transitions: a row that the target refuses is isolated
 * there and never reloads state.  All SQL, so that triggers, generated columns, defaults, constraints, row security and
 * partition routing of the target work; it runs as the target's owner.
 */
#ifndef VELO_SINK_H
#define VELO_SINK_H

#include "velo.h"

#include "access/tupdesc.h"
#include "nodes/pg_list.h"

typedef struct Sink Sink;

/* Of a set of rows the last actions come first. */
typedef enum SinkAction
{
	SINK_APPEND, /* insert */
	SINK_NEW,    /* insert or update by key, when there should be no row with it: sooner done */
	SINK_UPSERT, /* insert or update by key */
	SINK_DELETE  /* by key */
} SinkAction;

typedef struct SinkRow
{
	SinkAction action;
	Datum *values;
	bool *nulls;
	ErrorData *error; /* out: the target refused this row */
} SinkRow;

/*
 * "result": columns in the order of the rows' values, by name; of a table that was made for the query they are its first
 * ones, and may be renamed.  key_columns (of int, 1-based): NIL for an append-only sink.  Lives in the current memory
 * context.
 */
extern Sink *sink_open(Oid target, bool made_for_query, TupleDesc result, List *key_columns);

/*
 * May the current user have a sink write to the table?  That takes INSERT, UPDATE and DELETE on it, and being able to
 * SET ROLE to its owner, as whom the sink writes.  ereport(ERROR) if not.
 */
extern void sink_check_rights(Oid target);

/*
 * Write rows, sorted by key first where there is one.  A row that the target refuses gets its error, all others are
 * written.  An error that no row causes (table gone, rights revoked, disk full ...) is thrown.  Returns the number of rows written.
 */
extern int64 sink_write(Sink *sink, SinkRow *rows, int nrows);
extern void sink_close(Sink *sink);

#endif /* VELO_SINK_H */
