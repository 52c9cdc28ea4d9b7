/*
 * extension.c
 *		Does the library that runs fit the objects that the extension made in this database?
 *
 * The library is that of the server's start, the objects are those of CREATE EXTENSION or ALTER EXTENSION UPDATE, and each
 * is changed without the other.  Rows are read and written without SQL, so tables of another version must not be touched:
 * rows_try_open() asks here, once it has locked the table, and therefore as of what the table is.
 */
#include "catalog/rows.h"

#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/velo_catalog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

/* What was found out last; as long as no relation has changed, tables can't have done so. */
static bool known = false;
static bool fits;
static uint64 changes = 0;

static void
forget(Datum arg, Oid relid)
{
	known = false;
	changes++;
}

/* Version of the objects in this database, palloc'd; NULL if the extension is not installed. */
static char *
installed_version(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	char *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(VELO_EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum value =
			heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

bool
extension_fits(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
		registered = true;
	}
	if (!known)
	{
		uint64 before = changes;
		char *version = installed_version();

		/* without an extension there are no tables, or they are being dropped */
		fits = version == NULL || strcmp(version, VELO_VERSION) == 0;
		known = changes == before;
		if (version != NULL)
			pfree(version);
	}
	return fits;
}

/* Is the first of two versions, numbers with dots between, the older one? */
static bool
is_older(const char *a, const char *b)
{
	while (*a != '\0' && *b != '\0')
	{
		char *rest_of_a, *rest_of_b;
		long x = strtol(a, &rest_of_a, 10);
		long y = strtol(b, &rest_of_b, 10);

		if (x != y || rest_of_a == a || rest_of_b == b)
			return x < y;
		a = rest_of_a + (*rest_of_a == '.');
		b = rest_of_b + (*rest_of_b == '.');
	}
	return *b != '\0';
}

void
extension_changed(void)
{
	Oid nspid = get_namespace_oid(VELO_SCHEMA, true);
	Oid relid = OidIsValid(nspid) ? get_relname_relid("query", nspid) : InvalidOid;

	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
}

void
extension_check(int elevel)
{
	const char *version;

	known = false; /* an update that alters no table may not have been told of */
	if (extension_fits())
		return;
	version = installed_version();
	if (version == NULL || strcmp(version, VELO_VERSION) == 0) /* changed this moment */
		return;
	ereport(elevel,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the objects of extension \"%s\" in database \"%s\" are of version %s, the "
					"library is of version %s",
					VELO_EXTENSION, get_database_name(MyDatabaseId), version, VELO_VERSION),
			 errdetail("No query of the database runs until they fit."),
			 is_older(version, VELO_VERSION)
				 ? errhint("Run ALTER EXTENSION %s UPDATE TO '%s'.", VELO_EXTENSION, VELO_VERSION)
				 : errhint("Install the library of version %s and restart the server.", version)));
}
