/*
 * create_query.c
 *		velo.create_query(): from a text to a running query.
 *
 * All in the caller's transaction.  The table is made by the caller, with the caller's rights.  The view that
 * PostgreSQL knows the query by is put into velo_queries for the caller, where only velo may make any.
 */
#include "pipeline/shared.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "pipeline/query_rights.h"
#include "pipeline/start.h"
#include "plan/plan.h"
#include "sink/sink.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* how long creation waits for the brokers */
#define CONTACT_TIMEOUT_MS 5000

/* what the meaning of a query may hang on, besides its text */
static const char *const pinned_settings[] = {"TimeZone", "DateStyle", "IntervalStyle",
											  "extra_float_digits", "search_path"};

/* Arguments of velo.create_query(), in order */
enum
{
	ARG_NAME,
	ARG_QUERY,
	ARG_SINK,
	ARG_TARGET,
	ARG_EMIT,
	ARG_START,
	ARG_STOP,
	ARG_PIPELINES,
	ARG_ON_ERROR,
	ARG_ON_LATE,
	ARG_OPTIONS
};

PG_FUNCTION_INFO_V1(velo_create_query);

/* ------------------------------------------------------------------ arguments */

/* A text argument; "otherwise" if it is NULL. */
static const char *
text_argument(FunctionCallInfo fcinfo, int number, const char *otherwise)
{
	return PG_ARGISNULL(number) ? otherwise : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static const char *
needed_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("argument \"%s\" must not be null", name)));
	return text_argument(fcinfo, number, NULL);
}

static void
check_sink(const char *sink)
{
	if (strcmp(sink, "table") == 0)
		return;
	if (strcmp(sink, "topic") == 0 || strcmp(sink, "kafka") == 0 || strcmp(sink, "file") == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("sink \"%s\" is not supported yet", sink),
						errhint("Valid sinks are: table.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("sink \"%s\" does not exist", sink),
			 errhint("Valid sinks are: table.")));
}

/*
 * Where the query belongs: the schema that its name is qualified by, or else (NULL) the first of search_path.  No
 * rights are asked for here.
 */
static char *
schema_for_query(const char *qualifier)
{
	Oid nspid;

	if (qualifier != NULL)
		nspid = LookupExplicitNamespace(qualifier, false);
	else
	{
		List *path = fetch_search_path(false);

		if (path == NIL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_SCHEMA),
							errmsg("no schema has been selected to create in")));
		nspid = linitial_oid(path);
	}
	if (isAnyTempNamespace(nspid))
		ereport(ERROR, (errcode(ERRCODE_INVALID_SCHEMA_NAME),
						errmsg("cannot create a query in a temporary schema"),
						errdetail("A query is run by processes that don't see temporary tables.")));
	return get_namespace_name(nspid);
}

static List *
settings_to_pin(void)
{
	List *settings = NIL;

	for (int i = 0; i < (int) lengthof(pinned_settings); i++)
	{
		const char *value = GetConfigOption(pinned_settings[i], false, false);

		settings = lappend(settings, makeDefElem(pstrdup(pinned_settings[i]),
												 (Node *) makeString(pstrdup(value)), -1));
	}
	return settings;
}

/* ------------------------------------------------------------------ the result table */

static void
execute(const char *command)
{
	int result = SPI_execute(command, false, 0);

	if (result < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(result));
}

/* Column definitions of the result, separated by commas. */
static char *
column_definitions(ContinuousQuery *continuous)
{
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	foreach (lc, continuous->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Oid type = exprType((Node *) entry->expr);
		Oid collation = exprCollation((Node *) entry->expr);

		if (entry->resjunk)
			continue;
		appendStringInfo(
			&columns, "%s%s %s", columns.len > 0 ? ", " : "", quote_identifier(entry->resname),
			format_type_extended(type, exprTypmod((Node *) entry->expr),
								 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(collation) && collation != get_typcollation(type))
			appendStringInfo(&columns, " COLLATE %s", generate_collation_name(collation));
	}
	return columns.data;
}

/* Names of the columns that make the result's key, separated by commas. */
static char *
key_column_names(ContinuousQuery *continuous)
{
	StringInfoData names;
	ListCell *lc;

	initStringInfo(&names);
	foreach (lc, continuous->key_columns)
	{
		TargetEntry *entry =
			list_nth_node(TargetEntry, continuous->query->targetList, lfirst_int(lc) - 1);

		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
						 quote_identifier(entry->resname));
	}
	return names.data;
}

static Oid
make_result_table(const QueryInfo *query, ContinuousQuery *continuous)
{
	Oid nspid = get_namespace_oid(query->schema, false);
	const char *name = quote_qualified_identifier(query->schema, query->plain_name);
	Oid relid;

	if (OidIsValid(get_relname_relid(query->plain_name, nspid)))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_TABLE),
						errmsg("relation \"%s\" already exists", query->plain_name),
						errhint("Give the query another name, or an existing table to write to as "
								"\"target\".")));
	SPI_connect();
	/* half empty pages where rows of groups are updated in place again and again */
	execute(psprintf("CREATE TABLE %s (%s)%s", name, column_definitions(continuous),
					 continuous->grouped && query->emit == EMIT_CHANGES ? " WITH (fillfactor = 50)"
																		: ""));
	relid = get_relname_relid(query->plain_name, nspid);
	if (!OidIsValid(relid))
		elog(ERROR, "table %s was not created", name);
	if (continuous->key_columns != NIL)
		execute(psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT", name,
						 key_column_names(continuous)));
	execute(psprintf(
		"COMMENT ON TABLE %s IS %s", name,
		quote_literal_cstr(psprintf("result of the continuous query %s", query->plain_name))));
	SPI_finish();
	return relid;
}

/* ------------------------------------------------------------------ an existing target */

/* The result's column must be in the target, and of a type that it can be assigned to. */
static AttrNumber
check_target_column(Relation target, TargetEntry *entry)
{
	TupleDesc desc = RelationGetDescr(target);
	Oid source = exprType((Node *) entry->expr);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), entry->resname) != 0)
			continue;
		if (att->attgenerated != '\0' || att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of target \"%s\" is generated, so the query can't "
							"write it",
							entry->resname, RelationGetRelationName(target))));
		if (!can_coerce_type(1, &source, &att->atttypid, COERCION_ASSIGNMENT))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of target \"%s\" is of type %s, but the query's is of "
							"type %s",
							entry->resname, RelationGetRelationName(target),
							format_type_be(att->atttypid), format_type_be(source)),
					 errhint("Cast the expression in the query.")));
		return att->attnum;
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("target \"%s\" has no column \"%s\"", RelationGetRelationName(target),
						   entry->resname),
					errhint("Columns of the query and of its target are matched by name.")));
	return InvalidAttrNumber; /* not reached */
}

/* Are values equal by both collations, or by neither? */
static bool
collations_agree(Oid left, Oid right)
{
	return left == right ||
		   (OidIsValid(left) && OidIsValid(right) && get_collation_isdeterministic(left) &&
			get_collation_isdeterministic(right));
}

static int
integer_rank(Oid type)
{
	static const Oid types[] = {INT2OID, INT4OID, INT8OID, NUMERICOID};

	for (int i = 0; i < (int) lengthof(types); i++)
		if (types[i] == type)
			return i;
	return -1;
}

/*
 * Two groups must not become the same row by being written: what is assigned to a key column must keep all of its
 * value.  (varchar(n) refuses what is too long.)
 */
static void
check_key_column(Relation target, AttrNumber column, TargetEntry *entry)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), column - 1);
	int32 source_typmod = exprTypmod((Node *) entry->expr);
	int32 typmod = att->atttypmod;
	Oid source = getBaseTypeAndTypmod(exprType((Node *) entry->expr), &source_typmod);
	Oid type = getBaseTypeAndTypmod(att->atttypid, &typmod);
	bool kept;

	if (type == VARCHAROID || type == TEXTOID)
		kept = source == VARCHAROID || source == TEXTOID;
	else
		kept =
			(type == source && (typmod < 0 || typmod == source_typmod)) ||
			(integer_rank(source) >= 0 && integer_rank(source) < integer_rank(type) && typmod < 0);
	if (kept && collations_agree(att->attcollation, exprCollation((Node *) entry->expr)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("groups of the query could become one in column \"%s\" of target \"%s\"",
					entry->resname, RelationGetRelationName(target)),
			 errdetail("The column and what the query groups by differ in type or collation."),
			 errhint("Group by an expression of the column's type and collation.")));
}

/*
 * Is the index unique on exactly these columns, and equal by it what is equal as a group, so that ON CONFLICT can use
 * it, NULLs included?
 */
static bool
index_suits_key(Relation target, Oid indexid, Bitmapset *key)
{
	Relation relation = index_open(indexid, AccessShareLock);
	Form_pg_index index = relation->rd_index;
	Bitmapset *columns = NULL;
	bool suits = index->indisunique && index->indimmediate && index->indisvalid &&
				 RelationGetIndexPredicate(relation) == NIL;

	for (int i = 0; suits && i < index->indnkeyatts; i++)
	{
		AttrNumber column = index->indkey.values[i];
		Form_pg_attribute att;

		suits = column > 0;
		if (!suits)
			break;
		att = TupleDescAttr(RelationGetDescr(target), column - 1);
		suits = (index->indnullsnotdistinct || att->attnotnull) &&
				collations_agree(relation->rd_indcollation[i], att->attcollation) &&
				relation->rd_opfamily[i] ==
					get_opclass_family(GetDefaultOpClass(att->atttypid, BTREE_AM_OID));
		columns = bms_add_member(columns, column);
	}
	index_close(relation, AccessShareLock);
	return suits && bms_equal(columns, key);
}

static Oid
check_target(const char *name, ContinuousQuery *continuous)
{
	RangeVar *range = makeRangeVarFromNameList(compat_string_to_name_list(name));
	Relation target = table_openrv(range, RowExclusiveLock);
	Oid relid = RelationGetRelid(target);
	Bitmapset *key = NULL;
	int column = 0;
	bool unique = continuous->key_columns == NIL;
	ListCell *lc;

	if (target->rd_rel->relkind != RELKIND_RELATION &&
		target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("target \"%s\" is not a table", RelationGetRelationName(target))));
	if (IsSystemRelation(target))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied: \"%s\" is a system catalog",
							   RelationGetRelationName(target))));
	if (RelationGetNamespace(target) == get_namespace_oid(VELO_SCHEMA, false))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied: \"%s\" is a table of velo's own",
							   RelationGetRelationName(target))));
	if (target->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is a temporary table", RelationGetRelationName(target)),
				 errdetail("A query is run by processes that don't see temporary tables.")));
	foreach (lc, continuous->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		AttrNumber attnum;

		column++;
		if (entry->resjunk)
			continue;
		attnum = check_target_column(target, entry);
		if (list_member_int(continuous->key_columns, column))
		{
			check_key_column(target, attnum, entry);
			key = bms_add_member(key, attnum);
		}
	}
	foreach (lc, RelationGetIndexList(target))
		unique = unique || index_suits_key(target, lfirst_oid(lc), key);
	if (!unique)
		ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
						errmsg("target \"%s\" has no unique index on the query's groups",
							   RelationGetRelationName(target)),
						errhint("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT", name,
								key_column_names(continuous))));
	table_close(target, NoLock);
	return relid;
}

/* ------------------------------------------------------------------ rights */

static bool
check_permissions_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		compat_check_permissions((Query *) node);
		return query_tree_walker((Query *) node, check_permissions_walker, context, 0);
	}
	return expression_tree_walker(node, check_permissions_walker, context);
}

void
check_rights(Query *query, Oid target)
{
	(void) check_permissions_walker((Node *) query, NULL);
	if (OidIsValid(target))
		sink_check_rights(target);
}

uint64
execute_as_owner(const char *format, Oid table)
{
	char *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
											get_rel_name(table));
	UserState caller;
	uint64 nrows;

	become_owner(query_owner(table), &caller);
	SPI_connect();
	execute(psprintf(format, name));
	nrows = SPI_processed;
	SPI_finish();
	become_caller(&caller);
	return nrows;
}

/* A global aggregate has one row without a key, which is all that its target may hold: others would be overwritten. */
static void
check_target_is_empty(Oid target)
{
	if (execute_as_owner("SELECT FROM %s LIMIT 1", target) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("target \"%s\" is not empty", get_rel_name(target)),
				 errdetail("A query without GROUP BY keeps one row, in a table of its own.")));
}

/* ------------------------------------------------------------------ the view */

/* A name for the view that no other relation of the schema has. */
static char *
choose_view_name(const char *name, Oid nspid)
{
	char *choice = pstrdup(name);

	for (int i = 1; OidIsValid(get_relname_relid(choice, nspid)); i++)
	{
		char suffix[16];

		snprintf(suffix, sizeof(suffix), "%d", i);
		choice = makeObjectName(name, NULL, suffix);
	}
	return choice;
}

/*
 * Make the view that holds the bound query, for the current user, who may not do so: as the schema's owner.
 */
static Oid
make_view(const QueryInfo *query, ContinuousQuery *continuous)
{
	Oid nspid = get_namespace_oid(VELO_QUERY_SCHEMA, false);
	CreateStmt *create = makeNode(CreateStmt);
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(nspid));
	Oid schema_owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	Oid user;
	int context;
	Oid view;
	ListCell *lc;

	ReleaseSysCache(tuple);
	foreach (lc, continuous->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);

		if (!entry->resjunk)
			create->tableElts = lappend(
				create->tableElts, makeColumnDef(entry->resname, exprType((Node *) entry->expr),
												 exprTypmod((Node *) entry->expr),
												 exprCollation((Node *) entry->expr)));
	}
	create->relation =
		makeRangeVar(VELO_QUERY_SCHEMA, choose_view_name(query->plain_name, nspid), -1);
	create->oncommit = ONCOMMIT_NOOP;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(schema_owner, context | SECURITY_LOCAL_USERID_CHANGE);
	view = DefineRelation(create, RELKIND_VIEW, user, NULL, NULL).objectId;
	CommandCounterIncrement();
	StoreViewQuery(view, continuous->query, false);
	CommandCounterIncrement();
	SetUserIdAndSecContext(user, context);
	return view;
}

/* ------------------------------------------------------------------ first contact */

static void
resolve_partitions(void *arg)
{
	query_resolve_partitions(arg, CONTACT_TIMEOUT_MS);
}

bool
contact_brokers(QueryInfo *query)
{
	ErrorData *error = try_in_subtransaction(resolve_partitions, query);

	if (error == NULL)
		return true;

	/* what the user got wrong, or stopped, is an error; what the brokers did not answer will be asked again */
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_QUERY_CANCELED))
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("query \"%s\" is waiting for its topics: %s", query->name, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("It starts as soon as its brokers answer; see velo.queries.")));
	query_set_pipeline_error(query->id, QUERY_AS_A_WHOLE, error, DT_NOEND);
	return false;
}

void
warn_if_not_preloaded(void)
{
	if (!pipeline_available())
		ereport(WARNING, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						  errmsg("queries do not run, because velo is not preloaded"),
						  errhint("Add velo to shared_preload_libraries and restart the server.")));
}

/* ------------------------------------------------------------------ the function */

Datum
velo_create_query(PG_FUNCTION_ARGS)
{
	QueryInfo *query = palloc0(sizeof(QueryInfo));
	const char *name = needed_argument(fcinfo, ARG_NAME, "name");
	const char *target = text_argument(fcinfo, ARG_TARGET, NULL);
	const char *emit = text_argument(fcinfo, ARG_EMIT, NULL);
	const char *stop = text_argument(fcinfo, ARG_STOP, NULL);
	ContinuousQuery *continuous;
	char *qualifier;

	PreventCommandIfReadOnly("velo.create_query()");
	DeconstructQualifiedName(compat_string_to_name_list(name), &qualifier, &query->plain_name);
	query->text = unconstify(char *, needed_argument(fcinfo, ARG_QUERY, "query"));
	check_sink(text_argument(fcinfo, ARG_SINK, "table"));
	if (stop != NULL && strcmp(stop, "end") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid value for \"stop\": \"%s\"", stop),
						errhint("Valid values are: end.")));
	query->stop_at_end = (stop != NULL);
	query->on_error = parse_on_error(text_argument(fcinfo, ARG_ON_ERROR, DEFAULT_ON_ERROR));
	query->keep_late = parse_on_late(text_argument(fcinfo, ARG_ON_LATE, DEFAULT_ON_LATE));
	query->own_options = PG_ARGISNULL(ARG_OPTIONS) ? NULL : PG_GETARG_JSONB_P_COPY(ARG_OPTIONS);
	check_options(query->own_options, NULL, &query->options);
	if (!PG_ARGISNULL(ARG_PIPELINES))
		query->pipelines_wanted = check_pipelines(PG_GETARG_INT32(ARG_PIPELINES));

	query->schema = schema_for_query(qualifier);
	query->name = query_display_name(query->schema, query->plain_name);
	if (query_reserve_name(query->schema, query->plain_name))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("query \"%s\" already exists", query->plain_name)));

	continuous = continuous_analyze(query->text, emit, query->stop_at_end, query->options.grace);
	query->emit = continuous->emit;
	query->windowed = continuous->windowed;
	query->grace = continuous->window.grace;
	query->start = start_check(text_argument(fcinfo, ARG_START, "earliest"), continuous->streams);
	query->settings = settings_to_pin();
	query->owner = GetUserId();
	query->state = QUERY_ACTIVE;
	query->advanced = DT_NOBEGIN;
	query->created_at = GetCurrentTransactionStartTimestamp();

	query->own_target = (target == NULL);
	if (query->own_target)
	{
		check_rights(continuous->query, InvalidOid);
		query->target = make_result_table(query, continuous);
	}
	else
	{
		query->target = check_target(target, continuous);
		check_rights(continuous->query, query->target);
		if (continuous->grouped && continuous->key_columns == NIL)
			check_target_is_empty(query->target);
	}
	/* what is wrong with a constant is found by planning: say so now rather than by a pipeline that can't begin */
	(void) continuous_plan(continuous);
	query->id = make_view(query, continuous);
	query_insert(query);
	query->name = query_display_name(query->schema, query->plain_name);
	query_record_dependencies(query);
	(void) contact_brokers(query);
	pipeline_notify_at_commit();
	warn_if_not_preloaded();
	PG_RETURN_OID(query->target);
}
