/*
 * schema.c
 *		velo.check_schema(), by which CREATE EXTENSION begins.
 *
 * CREATE EXTENSION takes a schema that is there already, whoever made it.  In a schema of somebody else's nothing is
 * safe: its owner could rename it and put one of his own in its place, and an object that waits there could be taken
 * for one of PostgreSQL's while the views are made.  So it has to be a superuser's, closed to all others, and empty.
 */
#include "velo.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(velo_check_schema);

/* May somebody who is no superuser make objects in the schema? */
static bool
others_may_create(HeapTuple schema)
{
	bool isnull;
	Datum datum = SysCacheGetAttr(NAMESPACEOID, schema, Anum_pg_namespace_nspacl, &isnull);
	Acl *acl;

	if (!superuser_arg(((Form_pg_namespace) GETSTRUCT(schema))->nspowner))
		return true;
	if (isnull)
		return false;
	acl = DatumGetAclP(datum);
	for (int i = 0; i < ACL_NUM(acl); i++)
	{
		const AclItem *item = ACL_DAT(acl) + i;

		if ((ACLITEM_GET_PRIVS(*item) & ACL_CREATE) != 0 &&
			(item->ai_grantee == ACL_ID_PUBLIC || !superuser_arg(item->ai_grantee)))
			return true;
	}
	return false;
}

/* Is anything in the schema, but for the extension as such and the function that is asking? */
static bool
has_objects(Oid schema, Oid function)
{
	Relation rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	bool found = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(schema));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		found = dependency->classid != ExtensionRelationId &&
				!(dependency->classid == ProcedureRelationId && dependency->objid == function);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* velo.check_schema(): ereport(ERROR) if the schema that it is in is no place for the extension */
Datum
velo_check_schema(PG_FUNCTION_ARGS)
{
	Oid schema = get_func_namespace(fcinfo->flinfo->fn_oid);
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	bool is_open;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", schema);
	is_open = others_may_create(tuple);
	ReleaseSysCache(tuple);
	if (is_open || has_objects(schema, fcinfo->flinfo->fn_oid))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("schema \"%s\" exists, and the extension can't be put into it",
							   get_namespace_name(schema)),
						is_open ? errdetail("Others than superusers own it, or have CREATE on it.")
								: errdetail("There are objects in it."),
						errhint("Drop the schema, or rename it.")));
	PG_RETURN_VOID();
}
