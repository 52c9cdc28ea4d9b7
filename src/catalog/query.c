/*
 * query.c
 *		Continuous queries as rows: velo.query and what hangs on it.
 *
 * A query is known to PostgreSQL by a view in the schema velo_queries, and to velo by the row of velo.query with that
 * view's OID.  The view says who owns it and what it depends on, the row everything else.
 *
 * Who changes what, and how they keep out of each other's way:
 *	- a pipeline holds RowExclusiveLock on the view from query_enter() to its commit, and is the only one to write
 *	  the rows of its partitions, its counters and its state;
 *	- who changes the query itself holds ShareRowExclusiveLock on the view (query_lock()), so that no pipeline is in a
 *	  transaction then, and each finds the new generation in its next one;
 *	- DROP takes AccessExclusiveLock, as for any view;
 *	- velo.query's row is written by both kinds, under an object lock of its own (lock_row()), taken last.
 * Relations that a query uses are locked before its view, as DROP ... CASCADE does.
 */
#include "catalog/rows.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "catalog/velo_catalog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* columns of velo.query */
enum
{
	QUERY_ID = 1,
	QUERY_SCHEMA,
	QUERY_NAME,
	QUERY_OWNER,
	QUERY_DEFINITION,
	QUERY_SINK,
	QUERY_TARGET,
	QUERY_OWNS_TARGET,
	QUERY_EMIT,
	QUERY_WINDOWED,
	QUERY_GRACE,
	QUERY_STOP_AT_END,
	QUERY_START,
	QUERY_ON_ERROR,
	QUERY_ON_LATE,
	QUERY_OPTIONS,
	QUERY_PIPELINES_WANTED,
	QUERY_PIPELINES,
	QUERY_MERGED,
	QUERY_SETTINGS,
	QUERY_STATE,
	QUERY_GENERATION,
	QUERY_ADVANCED,
	QUERY_CREATED_AT,
	QUERY_SYSTEM_IDENTIFIER,
	QUERY_DATABASE,
	QUERY_MADE_IN,
	QUERY_NATTS = QUERY_MADE_IN
};

/* columns of velo.query_partition */
enum
{
	PARTITION_QUERY = 1,
	PARTITION_STREAM,
	PARTITION_PARTITION,
	PARTITION_PIPELINE,
	PARTITION_NEXT_OFFSET,
	PARTITION_STOP_OFFSET,
	PARTITION_END_OFFSET,
	PARTITION_WATERMARK,
	PARTITION_IDLE,
	PARTITION_TOPIC_ID,
	PARTITION_NATTS = PARTITION_TOPIC_ID
};

/* columns of velo.query_pipeline */
enum
{
	PIPELINE_QUERY = 1,
	PIPELINE_PIPELINE,
	PIPELINE_RECORDS_IN,
	PIPELINE_ROWS_OUT,
	PIPELINE_LATE,
	PIPELINE_TOMBSTONES,
	PIPELINE_DEAD_LETTERS,
	PIPELINE_SKIPPED,
	PIPELINE_BATCHES,
	PIPELINE_CLOSED,
	PIPELINE_WRITTEN,
	PIPELINE_NATTS = PIPELINE_WRITTEN
};

/* columns of velo.query_error */
enum
{
	ERROR_QUERY = 1,
	ERROR_PIPELINE,
	ERROR_MESSAGE,
	ERROR_SQLSTATE,
	ERROR_HINT,
	ERROR_AT,
	ERROR_RETRY_AT,
	ERROR_ATTEMPTS,
	ERROR_UNPROVEN,
	ERROR_NATTS = ERROR_UNPROVEN
};

static const char *const query_state_names[] = {"active", "paused", "failed", "finished"};
static const char *const on_error_names[] = {"fail", "skip", "dead_letter"};

/* what is locked as an object of velo.query: a row, by the query's OID, or a name, by its hash */
#define ROW_LOCK 0
#define NAME_LOCK 1

/* the first delay of query_next_attempt() */
#define FIRST_RETRY_MS 250

/* whose errors this process reports */
static int my_pipeline = QUERY_AS_A_WHOLE;

static int
name_index(const char *const *names, int nnames, const char *name)
{
	for (int i = 0; i < nnames; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	elog(ERROR, "unexpected value \"%s\" in velo.query", name);
}

static Datum
timestamp_datum(TimestampTz value, TimestampTz none, bool *isnull)
{
	*isnull = (value == none);
	return TimestampTzGetDatum(value);
}

/* ------------------------------------------------------------------ names */

static bool
find_name(Relation rel, const char *schema, const char *name, Oid *id)
{
	ScanKeyData keys[2];
	NameData schema_name;
	NameData query_name;
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	namestrcpy(&schema_name, schema);
	namestrcpy(&query_name, name);
	ScanKeyInit(&keys[0], QUERY_SCHEMA, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&schema_name));
	ScanKeyInit(&keys[1], QUERY_NAME, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&query_name));
	scan = rows_scan_index(rel, "query_name_key", keys, 2);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found && id != NULL)
	{
		bool isnull;

		*id = DatumGetObjectId(heap_getattr(tuple, QUERY_ID, RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	return found;
}

bool
query_reserve_name(const char *schema, const char *name)
{
	Relation rel = rows_open("query", AccessShareLock);
	uint32 hash = hash_bytes((const unsigned char *) name, strlen(name));
	bool found;

	LockDatabaseObject(RelationGetRelid(rel), hash, NAME_LOCK, ExclusiveLock);
	found = find_name(rel, schema, name, NULL);
	table_close(rel, AccessShareLock);
	return found;
}

char *
query_display_name(const char *schema, const char *name)
{
	Relation rel = rows_open("query", AccessShareLock);
	bool visible = false;
	ListCell *lc;

	foreach (lc, fetch_search_path(false))
	{
		char *nspname = get_namespace_name(lfirst_oid(lc));

		if (nspname != NULL && find_name(rel, nspname, name, NULL))
		{
			visible = (strcmp(nspname, schema) == 0);
			break;
		}
	}
	table_close(rel, AccessShareLock);
	return quote_qualified_identifier(visible ? NULL : schema, name);
}

Oid
query_lookup(const char *name, bool missing_ok)
{
	Relation rel = rows_open("query", AccessShareLock);
	char *schema;
	char *plain_name;
	Oid id = InvalidOid;

	DeconstructQualifiedName(compat_string_to_name_list(name), &schema, &plain_name);
	if (schema != NULL)
		find_name(rel, schema, plain_name, &id);
	else
	{
		ListCell *lc;

		foreach (lc, fetch_search_path(false))
		{
			char *nspname = get_namespace_name(lfirst_oid(lc));

			if (nspname != NULL && find_name(rel, nspname, plain_name, &id))
				break;
		}
	}
	table_close(rel, AccessShareLock);
	if (!OidIsValid(id) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("query \"%s\" does not exist", name),
				 errhint("The view velo.queries lists the queries of this database.")));
	return id;
}

/* ------------------------------------------------------------------ reading */

Oid
query_owner(Oid id)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(id));
	Oid owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/* The row of a query, a copy, or NULL. */
static HeapTuple
fetch_row(Relation rel, Oid id)
{
	SysScanDesc scan = rows_scan_query(rel, QUERY_ID, id);
	HeapTuple tuple;

	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/* "name=value" strings to a list of DefElem, as pg_db_role_setting has them */
static List *
read_settings(Datum array)
{
	Datum *elems;
	int nelems;
	List *settings = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL,
					  &nelems);
	for (int i = 0; i < nelems; i++)
	{
		char *name = TextDatumGetCString(elems[i]);
		char *value = strchr(name, '=');

		*value++ = '\0';
		settings = lappend(settings, makeDefElem(name, (Node *) makeString(value), -1));
	}
	return settings;
}

static Datum
write_settings(List *settings)
{
	ArrayBuildState *array = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell *lc;

	foreach (lc, settings)
	{
		DefElem *setting = lfirst_node(DefElem, lc);
		char *text = psprintf("%s=%s", setting->defname, defGetString(setting));

		accumArrayResult(array, CStringGetTextDatum(text), false, TEXTOID, CurrentMemoryContext);
	}
	return makeArrayResult(array, CurrentMemoryContext);
}

/*
 * A query that runs, or has failed, is found paused where the dump was restored, the database copied, or the view's
 * owner is no longer who agreed to run it.
 */
static const char *
reason_to_pause(HeapTuple tuple, const Datum *values, Oid view_owner)
{
	if (DatumGetInt64(values[QUERY_SYSTEM_IDENTIFIER]) != (int64) GetSystemIdentifier() ||
		DatumGetObjectId(values[QUERY_DATABASE]) != MyDatabaseId)
		return "the query was made in another database, of which this is a copy";
	/* the rest of a dump may be still to come, and nothing depends on anything yet */
	if (DatumGetObjectId(values[QUERY_MADE_IN]) != tuple->t_tableOid)
		return "the query was restored from a dump";
	if (DatumGetObjectId(values[QUERY_OWNER]) != view_owner)
		return "the query has a new owner";
	return NULL;
}

static QueryInfo *
read_row(HeapTuple tuple, TupleDesc desc)
{
	QueryInfo *query = palloc0(sizeof(QueryInfo));
	Datum values[QUERY_NATTS + 1];
	bool nulls[QUERY_NATTS + 1];

	heap_deform_tuple(tuple, desc, values + 1, nulls + 1);
	query->id = DatumGetObjectId(values[QUERY_ID]);
	query->owner = query_owner(query->id);
	if (!OidIsValid(query->owner))
		return NULL;
	query->schema = pstrdup(NameStr(*DatumGetName(values[QUERY_SCHEMA])));
	query->plain_name = pstrdup(NameStr(*DatumGetName(values[QUERY_NAME])));
	query->name = query_display_name(query->schema, query->plain_name);
	query->text = TextDatumGetCString(values[QUERY_DEFINITION]);
	query->target = nulls[QUERY_TARGET] ? InvalidOid : DatumGetObjectId(values[QUERY_TARGET]);
	query->own_target = DatumGetBool(values[QUERY_OWNS_TARGET]);
	query->emit =
		strcmp(TextDatumGetCString(values[QUERY_EMIT]), "final") == 0 ? EMIT_FINAL : EMIT_CHANGES;
	query->windowed = DatumGetBool(values[QUERY_WINDOWED]);
	query->grace = DatumGetInt64(values[QUERY_GRACE]);
	query->stop_at_end = DatumGetBool(values[QUERY_STOP_AT_END]);
	query->start = TextDatumGetCString(values[QUERY_START]);
	query->on_error = name_index(on_error_names, lengthof(on_error_names),
								 TextDatumGetCString(values[QUERY_ON_ERROR]));
	query->keep_late = strcmp(TextDatumGetCString(values[QUERY_ON_LATE]), "dead_letter") == 0;
	query->own_options = nulls[QUERY_OPTIONS] ? NULL : DatumGetJsonbPCopy(values[QUERY_OPTIONS]);
	query->pipelines_wanted =
		nulls[QUERY_PIPELINES_WANTED] ? 0 : DatumGetInt32(values[QUERY_PIPELINES_WANTED]);
	query->npipelines = DatumGetInt32(values[QUERY_PIPELINES]);
	query->merged = DatumGetBool(values[QUERY_MERGED]);
	query->settings = read_settings(values[QUERY_SETTINGS]);
	query->state = name_index(query_state_names, lengthof(query_state_names),
							  TextDatumGetCString(values[QUERY_STATE]));
	query->generation = DatumGetInt32(values[QUERY_GENERATION]);
	query->advanced =
		nulls[QUERY_ADVANCED] ? DT_NOBEGIN : DatumGetTimestampTz(values[QUERY_ADVANCED]);
	query->created_at = DatumGetTimestampTz(values[QUERY_CREATED_AT]);
	query->in_progress =
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(tuple->t_data));

	query->paused_because = reason_to_pause(tuple, values, query->owner);
	if (query->state == QUERY_PAUSED || query->state == QUERY_FINISHED)
		query->paused_because = NULL;
	else if (query->paused_because != NULL)
		query->state = QUERY_PAUSED;

	query_read_options(query->own_options, NULL, &query->options);
	if (query->options.grace < 0)
		query->options.grace = query->grace;
	if (query->options.group_id == NULL)
	{
		bool plain = strcmp(query->schema, "public") == 0;

		query->options.group_id =
			psprintf("velo-%s-%s%s%s", get_database_name(MyDatabaseId), plain ? "" : query->schema,
					 plain ? "" : ".", query->plain_name);
	}
	return query;
}

QueryInfo *
query_get(Oid id)
{
	Relation rel = rows_try_open("query", AccessShareLock);
	HeapTuple tuple;
	QueryInfo *query = NULL;

	if (rel == NULL)
		return NULL;
	tuple = fetch_row(rel, id);
	if (HeapTupleIsValid(tuple))
		query = read_row(tuple, RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	return query;
}

List *
query_list(void)
{
	Relation rel = rows_try_open("query", AccessShareLock);
	SysScanDesc scan;
	HeapTuple tuple;
	List *ids = NIL;

	if (rel == NULL)
		return NIL;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Oid id = DatumGetObjectId(heap_getattr(tuple, QUERY_ID, RelationGetDescr(rel), &isnull));

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(id)))
			ids = lappend_oid(ids, id);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return ids;
}

/* ------------------------------------------------------------------ locks */

/* Keep others from writing the row of velo.query until the transaction ends. */
static void
lock_row(Relation rel, Oid id)
{
	LockDatabaseObject(RelationGetRelid(rel), id, ROW_LOCK, ExclusiveLock);
}

bool
query_enter(Oid id, int generation, TimestampTz *advanced)
{
	Relation rel;
	HeapTuple tuple;
	bool same = false;

	LockRelationOid(id, RowExclusiveLock);
	rel = rows_try_open("query", AccessShareLock);
	if (rel == NULL)
		return false;
	tuple = fetch_row(rel, id);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc desc = RelationGetDescr(rel);
		bool isnull;
		Datum state = heap_getattr(tuple, QUERY_STATE, desc, &isnull);
		Datum when;

		same = strcmp(TextDatumGetCString(state), query_state_names[QUERY_ACTIVE]) == 0 &&
			   DatumGetInt32(heap_getattr(tuple, QUERY_GENERATION, desc, &isnull)) == generation &&
			   DatumGetObjectId(heap_getattr(tuple, QUERY_OWNER, desc, &isnull)) == query_owner(id);
		when = heap_getattr(tuple, QUERY_ADVANCED, desc, &isnull);
		*advanced = isnull ? DT_NOBEGIN : DatumGetTimestampTz(when);
		heap_freetuple(tuple);
	}
	table_close(rel, AccessShareLock);
	return same;
}

bool
query_lock(Oid id)
{
	LockRelationOid(id, ShareRowExclusiveLock);
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(id));
}

/* ------------------------------------------------------------------ writing */

static void
fill_row(Relation rel, const QueryInfo *query, Datum *values, bool *nulls)
{
	memset(nulls, false, sizeof(bool) * (QUERY_NATTS + 1));
	values[QUERY_ID] = ObjectIdGetDatum(query->id);
	values[QUERY_SCHEMA] = DirectFunctionCall1(namein, CStringGetDatum(query->schema));
	values[QUERY_NAME] = DirectFunctionCall1(namein, CStringGetDatum(query->plain_name));
	values[QUERY_OWNER] = ObjectIdGetDatum(query->owner);
	values[QUERY_DEFINITION] = CStringGetTextDatum(query->text);
	values[QUERY_SINK] = CStringGetTextDatum("table");
	values[QUERY_TARGET] = ObjectIdGetDatum(query->target);
	nulls[QUERY_TARGET] = !OidIsValid(query->target);
	values[QUERY_OWNS_TARGET] = BoolGetDatum(query->own_target);
	values[QUERY_EMIT] = CStringGetTextDatum(query->emit == EMIT_FINAL ? "final" : "changes");
	values[QUERY_WINDOWED] = BoolGetDatum(query->windowed);
	values[QUERY_GRACE] = Int64GetDatum(query->grace);
	values[QUERY_STOP_AT_END] = BoolGetDatum(query->stop_at_end);
	values[QUERY_START] = CStringGetTextDatum(query->start);
	values[QUERY_ON_ERROR] = CStringGetTextDatum(on_error_names[query->on_error]);
	values[QUERY_ON_LATE] = CStringGetTextDatum(query->keep_late ? "dead_letter" : "drop");
	values[QUERY_OPTIONS] = PointerGetDatum(query->own_options);
	nulls[QUERY_OPTIONS] = query->own_options == NULL;
	values[QUERY_PIPELINES_WANTED] = Int32GetDatum(query->pipelines_wanted);
	nulls[QUERY_PIPELINES_WANTED] = query->pipelines_wanted == 0;
	values[QUERY_PIPELINES] = Int32GetDatum(query->npipelines);
	values[QUERY_MERGED] = BoolGetDatum(query->merged);
	values[QUERY_SETTINGS] = write_settings(query->settings);
	values[QUERY_STATE] = CStringGetTextDatum(query_state_names[query->state]);
	values[QUERY_GENERATION] = Int32GetDatum(query->generation);
	values[QUERY_ADVANCED] = timestamp_datum(query->advanced, DT_NOBEGIN, &nulls[QUERY_ADVANCED]);
	values[QUERY_CREATED_AT] = TimestampTzGetDatum(query->created_at);
	values[QUERY_SYSTEM_IDENTIFIER] = Int64GetDatum((int64) GetSystemIdentifier());
	values[QUERY_DATABASE] = ObjectIdGetDatum(MyDatabaseId);
	values[QUERY_MADE_IN] = ObjectIdGetDatum(RelationGetRelid(rel));
}

void
query_insert(const QueryInfo *query)
{
	Relation rel = rows_open("query", RowExclusiveLock);
	Datum values[QUERY_NATTS + 1];
	bool nulls[QUERY_NATTS + 1];

	fill_row(rel, query, values, nulls);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1));
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
query_update(const QueryInfo *query)
{
	Relation rel = rows_open("query", RowExclusiveLock);
	Datum values[QUERY_NATTS + 1];
	bool nulls[QUERY_NATTS + 1];
	HeapTuple old;

	lock_row(rel, query->id);
	old = fetch_row(rel, query->id);
	if (HeapTupleIsValid(old))
	{
		HeapTuple new;

		fill_row(rel, query, values, nulls);
		new = heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1);
		CatalogTupleUpdate(rel, &old->t_self, new);
	}
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Replace one or two columns of the row; false if it is gone. */
static bool
update_columns(Oid id, AttrNumber first, Datum first_value, AttrNumber second, Datum second_value)
{
	Relation rel = rows_open("query", RowExclusiveLock);
	Datum values[QUERY_NATTS + 1];
	bool nulls[QUERY_NATTS + 1] = {0};
	bool replace[QUERY_NATTS + 1] = {0};
	HeapTuple old;

	lock_row(rel, id);
	old = fetch_row(rel, id);
	if (HeapTupleIsValid(old))
	{
		HeapTuple new;

		values[first] = first_value;
		replace[first] = true;
		if (second != InvalidAttrNumber)
		{
			values[second] = second_value;
			replace[second] = true;
		}
		new = heap_modify_tuple(old, RelationGetDescr(rel), values + 1, nulls + 1, replace + 1);
		CatalogTupleUpdate(rel, &old->t_self, new);
		CommandCounterIncrement();
	}
	table_close(rel, NoLock);
	return HeapTupleIsValid(old);
}

/* The generation after the present one; for update_columns() */
static int
next_generation(Oid id)
{
	Relation rel = rows_open("query", RowExclusiveLock);
	HeapTuple tuple;
	int generation = 0;

	lock_row(rel, id);
	tuple = fetch_row(rel, id);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;

		generation =
			DatumGetInt32(heap_getattr(tuple, QUERY_GENERATION, RelationGetDescr(rel), &isnull));
	}
	table_close(rel, NoLock);
	return generation + 1;
}

void
query_set_state(Oid id, QueryState state)
{
	update_columns(id, QUERY_STATE, CStringGetTextDatum(query_state_names[state]), QUERY_GENERATION,
				   Int32GetDatum(next_generation(id)));
}

void
query_set_pipelines(Oid id, int npipelines)
{
	update_columns(id, QUERY_PIPELINES, Int32GetDatum(npipelines), QUERY_GENERATION,
				   Int32GetDatum(next_generation(id)));
}

void
query_forget_written(Oid id)
{
	Relation rel = rows_open("query_pipeline", RowExclusiveLock);
	Datum values[PIPELINE_NATTS + 1] = {0};
	bool nulls[PIPELINE_NATTS + 1] = {[PIPELINE_WRITTEN] = true};
	bool replace[PIPELINE_NATTS + 1] = {[PIPELINE_WRITTEN] = true};
	SysScanDesc scan = rows_scan_query(rel, PIPELINE_QUERY, id);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		ItemPointerData place = tuple->t_self;

		tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1, replace + 1);
		CatalogTupleUpdate(rel, &place, tuple);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

void
query_set_merged(Oid id)
{
	query_forget_written(id);
	update_columns(id, QUERY_MERGED, BoolGetDatum(true), QUERY_GENERATION,
				   Int32GetDatum(next_generation(id)));
}

void
query_delete(Oid id)
{
	rows_delete("query", NULL, QUERY_ID, id);
	query_reset(id);
}

void
query_reset(Oid id)
{
	rows_delete("query_partition", NULL, PARTITION_QUERY, id);
	rows_delete("query_pipeline", NULL, PIPELINE_QUERY, id);
	rows_delete("query_error", NULL, ERROR_QUERY, id);
	state_delete_all(id);
	dead_letter_delete_all(id);
}

/*
 * Calls for the dependency of a query's view on the schema of its name; the one on velo_queries is of every view.
 * InvalidOid: none recorded.
 */
static Oid
schema_of_view(Oid id)
{
	Relation rel = table_open(DependRelationId, AccessShareLock);
	Oid own_schema = get_namespace_oid(VELO_QUERY_SCHEMA, true);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	Oid schema = InvalidOid;

	rows_key_oid(&keys[0], Anum_pg_depend_classid, RelationRelationId);
	rows_key_oid(&keys[1], Anum_pg_depend_objid, id);
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		if (dependency->refclassid == NamespaceRelationId && dependency->refobjid != own_schema)
			schema = dependency->refobjid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

void
query_refresh_schemas(void)
{
	ListCell *lc;

	foreach (lc, query_list())
	{
		Oid schema = schema_of_view(lfirst_oid(lc));
		char *name = OidIsValid(schema) ? get_namespace_name(schema) : NULL;
		QueryInfo *query = name ? query_get(lfirst_oid(lc)) : NULL;

		if (query != NULL && strcmp(query->schema, name) != 0)
			update_columns(query->id, QUERY_SCHEMA,
						   DirectFunctionCall1(namein, CStringGetDatum(name)), InvalidAttrNumber,
						   0);
	}
}

void
query_record_dependencies(const QueryInfo *query)
{
	ObjectAddress view;
	ObjectAddress other;

	if (OidIsValid(schema_of_view(query->id)))
		return;
	ObjectAddressSet(view, RelationRelationId, query->id);
	ObjectAddressSet(other, NamespaceRelationId, get_namespace_oid(query->schema, false));
	recordDependencyOn(&view, &other, DEPENDENCY_NORMAL);
	if (OidIsValid(query->target))
	{
		ObjectAddressSet(other, RelationRelationId, query->target);
		recordDependencyOn(&view, &other, DEPENDENCY_NORMAL);
	}
}

/* ------------------------------------------------------------------ partitions */

List *
query_partitions(Oid id)
{
	Relation rel = rows_open("query_partition", AccessShareLock);
	SysScanDesc scan = rows_scan_query(rel, PARTITION_QUERY, id);
	HeapTuple tuple;
	List *partitions = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		PartitionInfo *partition = palloc0(sizeof(PartitionInfo));
		Datum values[PARTITION_NATTS + 1];
		bool nulls[PARTITION_NATTS + 1];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1);
		partition->stream = DatumGetObjectId(values[PARTITION_STREAM]);
		partition->partition = DatumGetInt32(values[PARTITION_PARTITION]);
		partition->pipeline = DatumGetInt32(values[PARTITION_PIPELINE]);
		partition->next_offset = DatumGetInt64(values[PARTITION_NEXT_OFFSET]);
		partition->stop_offset = DatumGetInt64(values[PARTITION_STOP_OFFSET]);
		partition->end_offset = DatumGetInt64(values[PARTITION_END_OFFSET]);
		partition->watermark = nulls[PARTITION_WATERMARK]
								   ? DT_NOBEGIN
								   : DatumGetTimestampTz(values[PARTITION_WATERMARK]);
		partition->idle = DatumGetBool(values[PARTITION_IDLE]);
		if (!nulls[PARTITION_TOPIC_ID])
			strlcpy(partition->topic_id, TextDatumGetCString(values[PARTITION_TOPIC_ID]),
					TOPIC_ID_SIZE);
		partitions = lappend(partitions, partition);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return partitions;
}

/* Insert the row, or update the one that the keys find. */
static void
save_row(Relation rel, ScanKey keys, int nkeys, Datum *values, bool *nulls)
{
	SysScanDesc scan = rows_scan(rel, keys, nkeys);
	HeapTuple old = systable_getnext(scan);
	HeapTuple new = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	if (HeapTupleIsValid(old))
		CatalogTupleUpdate(rel, &old->t_self, new);
	else
		CatalogTupleInsert(rel, new);
	heap_freetuple(new);
	systable_endscan(scan);
	CommandCounterIncrement();
}

void
query_save_partition(Oid id, const PartitionInfo *partition)
{
	Relation rel = rows_open("query_partition", RowExclusiveLock);
	Datum values[PARTITION_NATTS + 1];
	bool nulls[PARTITION_NATTS + 1] = {0};
	ScanKeyData keys[3];

	values[PARTITION_QUERY] = ObjectIdGetDatum(id);
	values[PARTITION_STREAM] = ObjectIdGetDatum(partition->stream);
	values[PARTITION_PARTITION] = Int32GetDatum(partition->partition);
	values[PARTITION_PIPELINE] = Int32GetDatum(partition->pipeline);
	values[PARTITION_NEXT_OFFSET] = Int64GetDatum(partition->next_offset);
	values[PARTITION_STOP_OFFSET] = Int64GetDatum(partition->stop_offset);
	values[PARTITION_END_OFFSET] = Int64GetDatum(partition->end_offset);
	values[PARTITION_WATERMARK] =
		timestamp_datum(partition->watermark, DT_NOBEGIN, &nulls[PARTITION_WATERMARK]);
	values[PARTITION_IDLE] = BoolGetDatum(partition->idle);
	nulls[PARTITION_TOPIC_ID] = partition->topic_id[0] == '\0';
	values[PARTITION_TOPIC_ID] = CStringGetTextDatum(partition->topic_id);

	rows_key_oid(&keys[0], PARTITION_QUERY, id);
	rows_key_oid(&keys[1], PARTITION_STREAM, partition->stream);
	rows_key_int4(&keys[2], PARTITION_PARTITION, partition->partition);
	save_row(rel, keys, 3, values + 1, nulls + 1);
	table_close(rel, NoLock);
}

TimestampTz
partitions_watermark(List *partitions)
{
	TimestampTz least = DT_NOEND;
	TimestampTz greatest = DT_NOBEGIN;
	bool active = false;
	ListCell *lc;

	foreach (lc, partitions)
	{
		const PartitionInfo *partition = lfirst(lc);

		if (!partition->idle)
		{
			active = true;
			least = Min(least, partition->watermark);
		}
		greatest = Max(greatest, partition->watermark);
	}
	return active ? least : greatest;
}

/* ------------------------------------------------------------------ pipelines */

bool
query_read_counters(Oid id, int pipeline, PipelineCounters *counters)
{
	Relation rel = rows_open("query_pipeline", AccessShareLock);
	Datum values[PIPELINE_NATTS + 1] = {0};
	bool nulls[PIPELINE_NATTS + 1] = {[PIPELINE_CLOSED] = true, [PIPELINE_WRITTEN] = true};
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	bool found;

	rows_key_oid(&keys[0], PIPELINE_QUERY, id);
	rows_key_int4(&keys[1], PIPELINE_PIPELINE, pipeline);
	scan = rows_scan(rel, keys, 2);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found) /* all columns are by value */
		heap_deform_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1);
	systable_endscan(scan);
	counters->records_in = DatumGetInt64(values[PIPELINE_RECORDS_IN]);
	counters->rows_out = DatumGetInt64(values[PIPELINE_ROWS_OUT]);
	counters->late = DatumGetInt64(values[PIPELINE_LATE]);
	counters->tombstones = DatumGetInt64(values[PIPELINE_TOMBSTONES]);
	counters->dead_letters = DatumGetInt64(values[PIPELINE_DEAD_LETTERS]);
	counters->skipped = DatumGetInt64(values[PIPELINE_SKIPPED]);
	counters->batches = DatumGetInt64(values[PIPELINE_BATCHES]);
	counters->closed =
		nulls[PIPELINE_CLOSED] ? DT_NOBEGIN : DatumGetTimestampTz(values[PIPELINE_CLOSED]);
	counters->written =
		nulls[PIPELINE_WRITTEN] ? DT_NOBEGIN : DatumGetTimestampTz(values[PIPELINE_WRITTEN]);
	table_close(rel, AccessShareLock);
	return found;
}

void
query_save_counters(Oid id, int pipeline, const PipelineCounters *counters)
{
	Relation rel = rows_open("query_pipeline", RowExclusiveLock);
	Datum values[PIPELINE_NATTS + 1];
	bool nulls[PIPELINE_NATTS + 1] = {0};
	ScanKeyData keys[2];

	values[PIPELINE_QUERY] = ObjectIdGetDatum(id);
	values[PIPELINE_PIPELINE] = Int32GetDatum(pipeline);
	values[PIPELINE_RECORDS_IN] = Int64GetDatum(counters->records_in);
	values[PIPELINE_ROWS_OUT] = Int64GetDatum(counters->rows_out);
	values[PIPELINE_LATE] = Int64GetDatum(counters->late);
	values[PIPELINE_TOMBSTONES] = Int64GetDatum(counters->tombstones);
	values[PIPELINE_DEAD_LETTERS] = Int64GetDatum(counters->dead_letters);
	values[PIPELINE_SKIPPED] = Int64GetDatum(counters->skipped);
	values[PIPELINE_BATCHES] = Int64GetDatum(counters->batches);
	values[PIPELINE_CLOSED] =
		timestamp_datum(counters->closed, DT_NOBEGIN, &nulls[PIPELINE_CLOSED]);
	values[PIPELINE_WRITTEN] =
		timestamp_datum(counters->written, DT_NOBEGIN, &nulls[PIPELINE_WRITTEN]);
	rows_key_oid(&keys[0], PIPELINE_QUERY, id);
	rows_key_int4(&keys[1], PIPELINE_PIPELINE, pipeline);
	save_row(rel, keys, 2, values + 1, nulls + 1);
	table_close(rel, NoLock);
}

/* The greatest value of a column of times in the rows of a query's pipelines. */
static TimestampTz
greatest_of_pipelines(Oid id, AttrNumber column)
{
	Relation rel = rows_open("query_pipeline", AccessShareLock);
	TimestampTz greatest = DT_NOBEGIN;
	SysScanDesc scan = rows_scan_query(rel, PIPELINE_QUERY, id);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Datum value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

		if (!isnull)
			greatest = Max(greatest, DatumGetTimestampTz(value));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return greatest;
}

TimestampTz
query_closed(Oid id)
{
	return greatest_of_pipelines(id, PIPELINE_CLOSED);
}

TimestampTz
query_written(Oid id)
{
	return greatest_of_pipelines(id, PIPELINE_WRITTEN);
}

TimestampTz
query_closed_by_all(Oid id, int npipelines)
{
	TimestampTz closed = DT_NOEND;

	for (int i = 0; i < npipelines; i++)
	{
		PipelineCounters counters = {.closed = DT_NOBEGIN};

		(void) query_read_counters(id, i, &counters);
		closed = Min(closed, counters.closed);
	}
	return closed;
}

/* ------------------------------------------------------------------ errors */

void
query_errors_are_of(int pipeline)
{
	my_pipeline = pipeline;
}

static int
sqlstate_of(Datum value)
{
	const char *sqlstate = TextDatumGetCString(value);

	return MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
}

List *
query_errors(Oid id)
{
	Relation rel = rows_open("query_error", AccessShareLock);
	SysScanDesc scan = rows_scan_query(rel, ERROR_QUERY, id);
	HeapTuple tuple;
	List *errors = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		QueryError *error;
		Datum values[ERROR_NATTS + 1];
		bool nulls[ERROR_NATTS + 1];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1);
		if (nulls[ERROR_MESSAGE]) /* it is over */
			continue;
		error = palloc(sizeof(QueryError));
		error->pipeline = DatumGetInt32(values[ERROR_PIPELINE]);
		error->message = TextDatumGetCString(values[ERROR_MESSAGE]);
		error->sqlerrcode = sqlstate_of(values[ERROR_SQLSTATE]);
		error->hint = nulls[ERROR_HINT] ? NULL : TextDatumGetCString(values[ERROR_HINT]);
		error->at = DatumGetTimestampTz(values[ERROR_AT]);
		error->retry_at =
			nulls[ERROR_RETRY_AT] ? DT_NOEND : DatumGetTimestampTz(values[ERROR_RETRY_AT]);
		errors = lappend(errors, error);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return errors;
}

const QueryError *
query_latest_error(List *errors)
{
	const QueryError *latest = NULL;
	ListCell *lc;

	foreach (lc, errors)
		if (latest == NULL || ((QueryError *) lfirst(lc))->at > latest->at)
			latest = lfirst(lc);
	return latest;
}

/* The longest delay between two attempts to run a pipeline of the query, in ms. */
static int
retry_max_delay(Oid id)
{
	QueryInfo *query = query_get(id);

	return query ? query->options.retry_max_delay : velo_retry_max_delay;
}

/*
 * Failures in a row of a pipeline as of now; 0 if the last one, present or past, lies longer back than two of the
 * longest delays.  *present (may be NULL): there is trouble now, or a run that has achieved nothing yet.  *unproven
 * (may be NULL): the latter.
 */
static int
failures_in_a_row(Relation rel, Oid id, int pipeline, bool *present, bool *unproven)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	int attempts = 0;

	if (present)
		*present = false;
	if (unproven)
		*unproven = false;
	rows_key_oid(&keys[0], ERROR_QUERY, id);
	rows_key_int4(&keys[1], ERROR_PIPELINE, pipeline);
	scan = rows_scan(rel, keys, 2);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum values[ERROR_NATTS + 1];
		bool nulls[ERROR_NATTS + 1];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1);
		if (present)
			*present = !nulls[ERROR_MESSAGE] || DatumGetBool(values[ERROR_UNPROVEN]);
		if (unproven)
			*unproven = DatumGetBool(values[ERROR_UNPROVEN]);
		if (!TimestampDifferenceExceeds(DatumGetTimestampTz(values[ERROR_AT]),
										GetCurrentTimestamp(),
										2 * Min(retry_max_delay(id), INT_MAX / 2)))
			attempts = DatumGetInt32(values[ERROR_ATTEMPTS]);
	}
	systable_endscan(scan);
	return attempts;
}

void
query_set_pipeline_error(Oid id, int pipeline, ErrorData *error, TimestampTz retry_at)
{
	Relation rel;
	bool present;
	int attempts;

	/* a DROP that is under way must not miss the row */
	LockRelationOid(id, RowExclusiveLock);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(id)))
		return;
	rel = rows_open("query_error", RowExclusiveLock);
	attempts = failures_in_a_row(rel, id, pipeline, &present, NULL);
	if (error != NULL || present)
	{
		ScanKeyData keys[2];
		Datum values[ERROR_NATTS + 1] = {0};
		bool nulls[ERROR_NATTS + 1] = {0};

		values[ERROR_QUERY] = ObjectIdGetDatum(id);
		values[ERROR_PIPELINE] = Int32GetDatum(pipeline);
		values[ERROR_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
		values[ERROR_ATTEMPTS] = Int32GetDatum(error ? attempts + 1 : 0);
		values[ERROR_UNPROVEN] = BoolGetDatum(false);
		if (error != NULL)
		{
			char *message =
				error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message;

			values[ERROR_MESSAGE] = CStringGetTextDatum(message);
			values[ERROR_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
			if (error->hint != NULL)
				values[ERROR_HINT] = CStringGetTextDatum(error->hint);
			values[ERROR_RETRY_AT] = timestamp_datum(retry_at, DT_NOEND, &nulls[ERROR_RETRY_AT]);
		}
		else
			nulls[ERROR_MESSAGE] = nulls[ERROR_SQLSTATE] = nulls[ERROR_RETRY_AT] = true;
		nulls[ERROR_HINT] = (values[ERROR_HINT] == 0);
		rows_key_oid(&keys[0], ERROR_QUERY, id);
		rows_key_int4(&keys[1], ERROR_PIPELINE, pipeline);
		save_row(rel, keys, 2, values + 1, nulls + 1);
	}
	table_close(rel, NoLock);
}

void
query_set_error(Oid id, ErrorData *error, TimestampTz retry_at)
{
	query_set_pipeline_error(id, my_pipeline, error, retry_at);
}

bool
query_error_is_of_slot(int sqlerrcode, TimestampTz retry_at)
{
	return sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED && retry_at == DT_NOEND;
}

/* Does the row say that the pipeline waits for a worker slot? */
static bool
row_is_of_slot(Relation rel, HeapTuple tuple)
{
	Datum values[ERROR_NATTS + 1];
	bool nulls[ERROR_NATTS + 1];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values + 1, nulls + 1);
	return !nulls[ERROR_SQLSTATE] && nulls[ERROR_RETRY_AT] &&
		   query_error_is_of_slot(sqlstate_of(values[ERROR_SQLSTATE]), DT_NOEND);
}

/* Note that a run has begun, and so has its worker slot; or, at "at", that it has ended. */
static void
save_run(Relation rel, Oid id, int pipeline, bool unproven, int attempts, TimestampTz at)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple old;
	Datum values[ERROR_NATTS + 1] = {0};
	bool nulls[ERROR_NATTS + 1] = {0};

	values[ERROR_QUERY] = ObjectIdGetDatum(id);
	values[ERROR_PIPELINE] = Int32GetDatum(pipeline);
	values[ERROR_AT] = TimestampTzGetDatum(at);
	values[ERROR_ATTEMPTS] = Int32GetDatum(attempts);
	values[ERROR_UNPROVEN] = BoolGetDatum(unproven);
	nulls[ERROR_MESSAGE] = nulls[ERROR_SQLSTATE] = nulls[ERROR_HINT] = nulls[ERROR_RETRY_AT] = true;
	rows_key_oid(&keys[0], ERROR_QUERY, id);
	rows_key_int4(&keys[1], ERROR_PIPELINE, pipeline);
	scan = rows_scan(rel, keys, 2);
	old = systable_getnext(scan);
	if (HeapTupleIsValid(old))
	{
		bool replace[ERROR_NATTS + 1] = {
			[ERROR_UNPROVEN] = true, [ERROR_ATTEMPTS] = true, [ERROR_AT] = !unproven};

		if (unproven && row_is_of_slot(rel, old))
			replace[ERROR_MESSAGE] = replace[ERROR_SQLSTATE] = replace[ERROR_HINT] = true;
		CatalogTupleUpdate(
			rel, &old->t_self,
			heap_modify_tuple(old, RelationGetDescr(rel), values + 1, nulls + 1, replace + 1));
	}
	else
		CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values + 1, nulls + 1));
	systable_endscan(scan);
	CommandCounterIncrement();
}

void
query_begin_run(Oid id)
{
	Relation rel = rows_open("query_error", RowExclusiveLock);
	int attempts = failures_in_a_row(rel, id, my_pipeline, NULL, NULL);

	save_run(rel, id, my_pipeline, true, attempts, GetCurrentTimestamp());
	table_close(rel, NoLock);
	/* the commit must outlive a crash that the run itself brings about */
	ForceSyncCommit();
}

bool
query_forgive_crash(Oid id, int pipeline)
{
	Relation rel = rows_open("query_error", RowExclusiveLock);
	bool first = failures_in_a_row(rel, id, pipeline, NULL, NULL) == 0;

	if (first)
		save_run(rel, id, pipeline, false, 1, GetCurrentTimestamp());
	table_close(rel, NoLock);
	return first;
}

bool
query_run_is_unproven(Oid id, int pipeline)
{
	Relation rel = rows_open("query_error", AccessShareLock);
	bool unproven;

	(void) failures_in_a_row(rel, id, pipeline, NULL, &unproven);
	table_close(rel, AccessShareLock);
	return unproven;
}

void
query_clear_errors(Oid id)
{
	rows_delete("query_error", NULL, ERROR_QUERY, id);
}

TimestampTz
query_next_attempt(Oid id, int pipeline)
{
	Relation rel = rows_open("query_error", AccessShareLock);
	int failures = failures_in_a_row(rel, id, pipeline, NULL, NULL);
	int64 delay = (int64) FIRST_RETRY_MS << Min(failures, 20);

	table_close(rel, AccessShareLock);
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay, retry_max_delay(id)));
}
