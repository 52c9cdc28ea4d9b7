/*
 * rows.c
 *		Rows of velo's own tables, read and written without SQL; see rows.h.
 */
#include "catalog/rows.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/velo_catalog.h"
#include "utils/lsyscache.h"

Relation
rows_try_open(const char *table, LOCKMODE lockmode)
{
	Oid nspid = get_namespace_oid(VELO_SCHEMA, true);
	Oid relid = OidIsValid(nspid) ? get_relname_relid(table, nspid) : InvalidOid;
	Relation rel = OidIsValid(relid) ? try_table_open(relid, lockmode) : NULL;

	if (rel == NULL || extension_fits())
		return rel;
	table_close(rel, lockmode);
	return NULL;
}

Relation
rows_open(const char *table, LOCKMODE lockmode)
{
	Relation rel = rows_try_open(table, lockmode);

	if (rel == NULL)
	{
		extension_check(ERROR);
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("extension \"velo\" is not installed in this database"),
						errhint("Run CREATE EXTENSION velo.")));
	}
	return rel;
}

void
rows_key_oid(ScanKey key, AttrNumber column, Oid value)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(value));
}

void
rows_key_int4(ScanKey key, AttrNumber column, int32 value)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(value));
}

SysScanDesc
rows_scan(Relation table, ScanKey keys, int nkeys)
{
	return systable_beginscan(table, RelationGetPrimaryKeyIndex(table), true, NULL, nkeys, keys);
}

SysScanDesc
rows_scan_index(Relation table, const char *index, ScanKey keys, int nkeys)
{
	Oid indexid = get_relname_relid(index, RelationGetNamespace(table));

	if (!OidIsValid(indexid))
		elog(ERROR, "index \"%s\" of table \"%s\" is missing", index,
			 RelationGetRelationName(table));
	return systable_beginscan(table, indexid, true, NULL, nkeys, keys);
}

SysScanDesc
rows_scan_query(Relation table, AttrNumber column, Oid query)
{
	ScanKeyData key;

	rows_key_oid(&key, column, query);
	return rows_scan(table, &key, 1);
}

void
rows_delete(const char *table, const char *index, AttrNumber column, Oid query)
{
	Relation rel = rows_try_open(table, RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	if (rel == NULL)
		return;
	rows_key_oid(&key, column, query);
	scan = index ? rows_scan_index(rel, index, &key, 1) : rows_scan(rel, &key, 1);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
