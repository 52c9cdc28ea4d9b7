/*
 * rows.h
 *		Private to catalog/: rows of velo's own tables, read and written without SQL.
 *
 * Pipelines run as their query's owner, who has no rights on these tables, and touch them at every commit: so
 * they are handled as PostgreSQL handles its catalogs.  Every scan sees what is committed when it starts, and what the
 * running command counter shows of the own transaction.  Tables are found by name, so a dropped and re-created
 * extension is no trouble.
 */
#ifndef VELO_ROWS_H
#define VELO_ROWS_H

#include "velo.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

/* ereport(ERROR) if the extension isn't there, or is of another version */
extern Relation rows_open(const char *table, LOCKMODE lockmode);
/* NULL then */
extern Relation rows_try_open(const char *table, LOCKMODE lockmode);

/* Keys of a scan: "column" compared for equality. */
extern void rows_key_oid(ScanKey key, AttrNumber column, Oid value);
extern void rows_key_int4(ScanKey key, AttrNumber column, int32 value);

/*
 * Scan by the leading columns of the primary key, or of the named index.  The keys are spoilt.  End it with
 * systable_endscan().
 */
extern SysScanDesc rows_scan(Relation table, ScanKey keys, int nkeys);
extern SysScanDesc rows_scan_index(Relation table, const char *index, ScanKey keys, int nkeys);
/* Scan all rows of a query in a table whose primary key starts with it. */
extern SysScanDesc rows_scan_query(Relation table, AttrNumber column, Oid query);

/* Delete all rows of a query; "index" is NULL if the primary key starts with the query. */
extern void rows_delete(const char *table, const char *index, AttrNumber column, Oid query);

/* checkpoint.c, run_blocks.c, dead_letter.c: forget all of a query */
extern void state_delete_all(Oid query);
extern void run_blocks_delete_all(Oid query);
extern void dead_letter_delete_all(Oid query);

#endif /* VELO_ROWS_H */
