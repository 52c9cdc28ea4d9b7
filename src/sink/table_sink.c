/*
 * table_sink.c
 *		Writes the rows of a query into a table, by SQL.
 *
 * The rows of one write are an ephemeral named relation, "velo_rows", like the transition tables of a trigger; saved
 * statements read it: insert, upsert, delete and their kin.  Each set of rows is written in a subtransaction; when that
 * fails for a reason that lies in a row, the set is halved until the row stands alone.
 */
#include "sink/sink.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "exec/exec.h"

#define ROWS_RELATION "velo_rows"

typedef enum SinkStatement
{
	STATEMENT_INSERT,
	STATEMENT_UPSERT,
	STATEMENT_UPDATE_ALL, /* the one row of a global aggregate */
	STATEMENT_DELETE,     /* no key is null: through the index */
	STATEMENT_DELETE_NULL,
	STATEMENT_DELETE_ALL,
	NUM_STATEMENTS
} SinkStatement;

struct Sink
{
	MemoryContext context;
	Oid target;
	bool made_for_query; /* its first columns are the result's, whatever they are called by now */
	char *target_name;   /* quoted and qualified, as the statements spell it */
	TupleDesc result;
	int nkeys;
	int *keys; /* 0-based columns of the result */
	TypeCacheEntry **key_types;
	bool has_strangers; /* rows were found in it that no query wrote */
	SPIPlanPtr statements[NUM_STATEMENTS];
};

Sink *
sink_open(Oid target, bool made_for_query, TupleDesc result, List *key_columns)
{
	Sink *sink = palloc0_object(Sink);
	ListCell *lc;

	sink->context = CurrentMemoryContext;
	sink->target = target;
	sink->made_for_query = made_for_query;
	sink->result = CreateTupleDescCopy(result);
	sink->keys = palloc0_array(int, list_length(key_columns) + 1);
	sink->key_types = palloc0_array(TypeCacheEntry *, list_length(key_columns) + 1);
	foreach (lc, key_columns)
	{
		int column = lfirst_int(lc) - 1;

		sink->key_types[sink->nkeys] =
			lookup_type_cache(TupleDescAttr(sink->result, column)->atttypid,
							  TYPECACHE_CMP_PROC_FINFO | TYPECACHE_EQ_OPR);
		sink->keys[sink->nkeys++] = column;
	}
	return sink;
}

static void
forget_statements(Sink *sink)
{
	for (int i = 0; i < NUM_STATEMENTS; i++)
	{
		if (sink->statements[i] != NULL)
			SPI_freeplan(sink->statements[i]);
		sink->statements[i] = NULL;
	}
}

void
sink_close(Sink *sink)
{
	forget_statements(sink);
	pfree(sink);
}

static const char *
column_name(Sink *sink, int column)
{
	return quote_identifier(NameStr(TupleDescAttr(sink->result, column)->attname));
}

static void
append_columns(StringInfo sql, Sink *sink)
{
	for (int i = 0; i < sink->result->natts; i++)
		appendStringInfo(sql, "%s%s", i > 0 ? ", " : "", column_name(sink, i));
}

/* "a = prefix.a, b = prefix.b" for all columns, or those that are no keys */
static int
append_assignments(StringInfo sql, Sink *sink, const char *prefix)
{
	int n = 0;

	for (int i = 0; i < sink->result->natts; i++)
	{
		bool is_key = false;

		for (int k = 0; k < sink->nkeys; k++)
			is_key |= sink->keys[k] == i;
		if (!is_key)
			appendStringInfo(sql, "%s%s = %s.%s", n++ > 0 ? ", " : "", column_name(sink, i), prefix,
							 column_name(sink, i));
	}
	return n;
}

/* The equality that PostgreSQL groups by, spelled so that no search_path can change it. */
static char *
equality_operator(TypeCacheEntry *type)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(type->eq_opr));
	Form_pg_operator form;
	char *spelled;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", type->eq_opr);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	spelled = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					   NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return spelled;
}

static char *
statement_text(Sink *sink, SinkStatement statement)
{
	StringInfoData sql;

	initStringInfo(&sql);
	switch (statement)
	{
		case STATEMENT_INSERT:
		case STATEMENT_UPSERT:
			appendStringInfo(&sql, "INSERT INTO %s ", sink->target_name);
			if (sink->result->natts > 0) /* () is no list of columns */
			{
				appendStringInfoChar(&sql, '(');
				append_columns(&sql, sink);
				appendStringInfoString(&sql, ") ");
			}
			appendStringInfoString(&sql, "SELECT ");
			append_columns(&sql, sink);
			appendStringInfoString(&sql, " FROM " ROWS_RELATION);
			if (statement == STATEMENT_UPSERT)
			{
				int start;

				appendStringInfoString(&sql, " ON CONFLICT (");
				for (int k = 0; k < sink->nkeys; k++)
					appendStringInfo(&sql, "%s%s", k > 0 ? ", " : "",
									 column_name(sink, sink->keys[k]));
				appendStringInfoString(&sql, ") DO ");
				start = sql.len;
				appendStringInfoString(&sql, "UPDATE SET ");
				if (append_assignments(&sql, sink, "EXCLUDED") == 0)
				{
					sql.len = start;
					sql.data[start] = '\0';
					appendStringInfoString(&sql, "NOTHING");
				}
			}
			break;
		case STATEMENT_UPDATE_ALL:
			appendStringInfo(&sql, "UPDATE %s SET ", sink->target_name);
			append_assignments(&sql, sink, ROWS_RELATION);
			appendStringInfoString(&sql, " FROM " ROWS_RELATION);
			break;
		case STATEMENT_DELETE_ALL:
			appendStringInfo(&sql, "DELETE FROM %s", sink->target_name);
			break;
		case STATEMENT_DELETE:
		case STATEMENT_DELETE_NULL:
			appendStringInfo(&sql, "DELETE FROM %s AS t USING " ROWS_RELATION " AS r WHERE ",
							 sink->target_name);
			for (int k = 0; k < sink->nkeys; k++)
			{
				const char *name = column_name(sink, sink->keys[k]);

				if (k > 0)
					appendStringInfoString(&sql, " AND ");
				if (statement == STATEMENT_DELETE_NULL)
					appendStringInfo(&sql, "(t.%s IS NULL AND r.%s IS NULL OR ", name, name);
				appendStringInfo(&sql, "t.%s %s r.%s", name, equality_operator(sink->key_types[k]),
								 name);
				if (statement == STATEMENT_DELETE_NULL)
					appendStringInfoChar(&sql, ')');
			}
			break;
		case NUM_STATEMENTS:
			break;
	}
	return sql.data;
}

/*
 * Run a statement over rows[], as the target's owner.  Returns the number of rows it touched.
 */
static uint64
run_statement(Sink *sink, SinkStatement statement, SinkRow **rows, int nrows)
{
	EphemeralNamedRelation relation;
	Tuplestorestate *store;
	int rc;
	uint64 processed;

	SPI_connect();

	store = tuplestore_begin_heap(false, false, work_mem);
	for (int i = 0; i < nrows; i++)
		tuplestore_putvalues(store, sink->result, rows[i]->values, rows[i]->nulls);

	relation = palloc0_object(EphemeralNamedRelationData);
	relation->md.name = ROWS_RELATION;
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = sink->result;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = nrows;
	relation->reldata = store;
	rc = SPI_register_relation(relation);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(rc));

	if (sink->statements[statement] == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(statement_text(sink, statement), 0, NULL);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		sink->statements[statement] = plan;
	}

	rc = SPI_execute_plan(sink->statements[statement], NULL, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	processed = SPI_processed;
	tuplestore_end(store);
	SPI_finish();
	return processed;
}

/* The one row of a global aggregate: there is no key to conflict on. */
static void
upsert_single(Sink *sink, SinkRow **rows)
{
	if (run_statement(sink, STATEMENT_UPDATE_ALL, rows, 1) == 0)
		(void) run_statement(sink, STATEMENT_INSERT, rows, 1);
}

static bool
has_null_key(Sink *sink, SinkRow *row)
{
	for (int k = 0; k < sink->nkeys; k++)
		if (row->nulls[sink->keys[k]])
			return true;
	return false;
}

static void
write_set(Sink *sink, SinkAction action, SinkRow **rows, int nrows)
{
	switch (action)
	{
		case SINK_APPEND:
		case SINK_NEW:
			(void) run_statement(sink, STATEMENT_INSERT, rows, nrows);
			break;
		case SINK_UPSERT:
			if (sink->nkeys == 0)
				upsert_single(sink, rows);
			else
				(void) run_statement(sink, STATEMENT_UPSERT, rows, nrows);
			break;
		case SINK_DELETE:
			if (sink->nkeys == 0)
				(void) run_statement(sink, STATEMENT_DELETE_ALL, rows, nrows);
			else
			{
				bool any_null = false;

				for (int i = 0; i < nrows && !any_null; i++)
					any_null = has_null_key(sink, rows[i]);
				(void) run_statement(sink, any_null ? STATEMENT_DELETE_NULL : STATEMENT_DELETE,
									 rows, nrows);
			}
			break;
	}
}

/* A row that violates a row security policy fails with the code of a missing right. */
static bool
error_is_of_row(Sink *sink, int sqlerrcode)
{
	if (sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
	{
		HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(sink->target));
		bool secured = false;

		if (HeapTupleIsValid(tuple))
		{
			secured = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
			ReleaseSysCache(tuple);
		}
		return secured;
	}
	/* syntax and names: the table is not what it was, which no row is to blame for */
	if (ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR))
		return false;
	return error_is_of_record(sqlerrcode);
}

/* Rows of one action. */
typedef struct RowSet
{
	Sink *sink;
	SinkAction action;
	SinkRow **rows;
	int nrows;
} RowSet;

static void
write_step(void *arg)
{
	RowSet *set = arg;

	write_set(set->sink, set->action, set->rows, set->nrows);
	VELO_INJECTION_POINT("in-sink-write");
}

/*
 * Write a set of rows of one action; those that the target refuses get their error.  Returns how many were written.
 */
static int64
write_isolated(Sink *sink, SinkAction action, SinkRow **rows, int nrows)
{
	RowSet set = {sink, action, rows, nrows};
	ErrorData *error;

	if (nrows == 0)
		return 0;
	error = try_in_subtransaction(write_step, &set);
	if (error == NULL)
		return nrows;
	if (!error_is_of_row(sink, error->sqlerrcode))
		ReThrowError(error);
	if (action == SINK_NEW && error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION)
	{
		/* of the key, as it seems; if it is another one, that will be seen again */
		sink->has_strangers = true;
		FreeErrorData(error);
		return write_isolated(sink, SINK_UPSERT, rows, nrows);
	}
	if (nrows == 1)
	{
		rows[0]->error = error;
		return 0;
	}
	FreeErrorData(error);
	return write_isolated(sink, action, rows, nrows / 2) +
		   write_isolated(sink, action, rows + nrows / 2, nrows - nrows / 2);
}

static int
compare_rows(const void *a, const void *b, void *arg)
{
	const SinkRow *left = *(SinkRow *const *) a;
	const SinkRow *right = *(SinkRow *const *) b;
	Sink *sink = arg;

	for (int k = 0; k < sink->nkeys; k++)
	{
		int column = sink->keys[k];
		int cmp;

		if (left->nulls[column] || right->nulls[column])
			cmp = (int) left->nulls[column] - (int) right->nulls[column];
		else
			cmp = DatumGetInt32(FunctionCall2Coll(&sink->key_types[k]->cmp_proc_finfo,
												  TupleDescAttr(sink->result, column)->attcollation,
												  left->values[column], right->values[column]));
		if (cmp != 0)
			return cmp;
	}
	return 0;
}

/* The names that the columns have now.  Returns true if some have others than before. */
static bool
refresh_column_names(Sink *sink)
{
	bool renamed = false;

	for (int i = 0; i < sink->result->natts && sink->made_for_query; i++)
	{
		Form_pg_attribute att = TupleDescAttr(sink->result, i);
		HeapTuple tuple = SearchSysCacheAttNum(sink->target, i + 1);
		NameData name;

		/* one that is gone will be missed by the statement, until there is one of its name again */
		if (!HeapTupleIsValid(tuple))
			continue;
		name = ((Form_pg_attribute) GETSTRUCT(tuple))->attname;
		ReleaseSysCache(tuple);
		renamed |= strcmp(NameStr(name), NameStr(att->attname)) != 0;
		att->attname = name;
	}
	return renamed;
}

/*
 * The names of the target and its columns now, until the transaction ends; statements that spell older ones are
 * forgotten.  Throws if it is gone.
 */
static void
refresh_names(Sink *sink)
{
	bool renamed;
	char *name;
	char *qualified;

	/* nobody may give the name to another table between here and the statement that spells it */
	LockRelationOid(sink->target, RowExclusiveLock);
	name = get_rel_name(sink->target);
	if (name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("the table that the query writes does not exist any more")));
	renamed = refresh_column_names(sink);
	qualified =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(sink->target)), name);
	if (!renamed && sink->target_name != NULL && strcmp(sink->target_name, qualified) == 0)
		return;
	forget_statements(sink);
	sink->target_name = MemoryContextStrdup(sink->context, qualified);
}

static Oid
target_owner(Oid target)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(target));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", target);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
sink_check_rights(Oid target)
{
	const AclMode needed = ACL_INSERT | ACL_UPDATE | ACL_DELETE;
	Oid owner = target_owner(target);

	if (!compat_can_set_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the query's target \"%s\"", get_rel_name(target)),
				 errdetail("A query writes as the owner of its target, so the query's owner "
						   "must be able to SET ROLE \"%s\".",
						   GetUserNameFromId(owner, false))));
	if (pg_class_aclmask(target, GetUserId(), needed, ACLMASK_ALL) != needed)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(target));
}

static void
make_constraints_immediate(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

	AfterTriggerSetState(statement);
}

int64
sink_write(Sink *sink, SinkRow *rows, int nrows)
{
	SinkRow **sets[SINK_DELETE + 1];
	int counts[SINK_DELETE + 1] = {0};
	int64 written = 0;
	UserState caller;

	if (nrows == 0)
		return 0;
	VELO_INJECTION_POINT("before-sink-write");
	refresh_names(sink);
	/* the table may have another owner than when the query was made, and rights may have been revoked */
	sink_check_rights(sink->target);
	for (int action = SINK_APPEND; action <= SINK_DELETE; action++)
		sets[action] = palloc_array(SinkRow *, nrows);
	for (int i = 0; i < nrows; i++)
	{
		rows[i].error = NULL;
		if (rows[i].action == SINK_NEW && (sink->nkeys == 0 || sink->has_strangers))
			rows[i].action = SINK_UPSERT;
		sets[rows[i].action][counts[rows[i].action]++] = &rows[i];
	}

	/*
	 * As logical replication does: as the table's owner, and where that is somebody else, restricted, so that the
	 * owner's triggers can do nothing in the name of the query's owner.
	 */
	become_owner(target_owner(sink->target), &caller);
	make_constraints_immediate();

	/* deletes first, then updates: a row that left or changed and one that came may meet in another unique index */
	for (int action = SINK_DELETE; action >= SINK_APPEND; action--)
	{
		if (sink->nkeys > 0 && counts[action] > 1)
			qsort_arg(sets[action], counts[action], sizeof(SinkRow *), compare_rows, sink);
		written += write_isolated(sink, action, sets[action], counts[action]);
		pfree(sets[action]);
	}

	become_caller(&caller);
	VELO_INJECTION_POINT("after-sink-write");
	return written;
}
