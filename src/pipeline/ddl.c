/*
 * ddl.c
 *		Commands that want a database for themselves: DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE,
 *		CREATE DATABASE ... TEMPLATE.
 *
 * PostgreSQL refuses them while anybody is connected, and tells only autovacuum to leave.  So velo's workers are told
 * before, waited for, and let in again afterwards, whether the command succeeded or not.  Only for those who may run
 * the command: nobody else may interrupt pipelines.
 *
 * And commands of which schedulers and pipelines should hear, because no function of velo's has a part in them.  Before
 * ALTER EXTENSION velo UPDATE alters the tables that pipelines write, these are asked to let go of them.
 */
#include "pipeline/shared.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* after this time workers are terminated, after the other the command runs and fails as it would */
#define FORCE_AFTER_MS 2000
#define GIVE_UP_AFTER_MS 10000
#define POLL_MS 10

static Oid blocked_database = InvalidOid;

static ProcessUtility_hook_type prev_process_utility = NULL;

/* As have_createdb_privilege(), which not every minor release of PostgreSQL 15 declares. */
static bool
can_create_databases(void)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool allowed = superuser();

	if (HeapTupleIsValid(tuple))
	{
		allowed |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return allowed;
}

/* Whoever may create databases may copy it, though it is another's. */
static bool
is_template(Oid database)
{
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* The database that the command wants for itself, if the user may run it; InvalidOid: none. */
static Oid
database_of_command(Node *command)
{
	const char *name = NULL;
	bool copied = false;
	Oid database;
	ListCell *lc;

	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			name = castNode(DropdbStmt, command)->dbname;
			break;
		case T_RenameStmt:
			if (castNode(RenameStmt, command)->renameType == OBJECT_DATABASE)
				name = castNode(RenameStmt, command)->subname;
			break;
		case T_AlterDatabaseStmt:
			foreach (lc, castNode(AlterDatabaseStmt, command)->options)
			{
				if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
					name = castNode(AlterDatabaseStmt, command)->dbname;
			}
			break;
		case T_CreatedbStmt:
			copied = true;
			name = "template1";
			foreach (lc, castNode(CreatedbStmt, command)->options)
			{
				DefElem *option = lfirst_node(DefElem, lc);

				if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
					name = defGetString(option);
			}
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	/* nobody can drop or rename the database that he is in, but copy it */
	if (!OidIsValid(database) || (database == MyDatabaseId && !copied))
		return InvalidOid;
	if (copied && !can_create_databases())
		return InvalidOid;
	if (!compat_owns_database(database, GetUserId()) && !(copied && is_template(database)))
		return InvalidOid;
	return database;
}

/* Only at the end of the transaction does anybody else see what the command did. */
static void
let_in_again(XactEvent event, void *arg)
{
	if (!OidIsValid(blocked_database) || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	shared_unblock(blocked_database);
	blocked_database = InvalidOid;
}

/* Make velo leave the database; gives up after a while. */
static void
evict(Oid database)
{
	TimestampTz begin = GetCurrentTimestamp();

	while (!shared_evict(database,
						 TimestampDifferenceExceeds(begin, GetCurrentTimestamp(), FORCE_AFTER_MS)))
	{
		if (TimestampDifferenceExceeds(begin, GetCurrentTimestamp(), GIVE_UP_AFTER_MS))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
updates_extension(Node *command)
{
	return IsA(command, AlterExtensionStmt) &&
		   strcmp(castNode(AlterExtensionStmt, command)->extname, VELO_EXTENSION) == 0;
}

static void
ask_all_to_yield(void)
{
	ListCell *lc;

	foreach (lc, query_list())
		pipeline_ask_to_yield(lfirst_oid(lc));
}

/*
 * Commands after which queries may be gone, or have another owner, or other connections, without velo's own doing.  Of
 * what has changed, a pipeline hears only when it wakes up, which, without records, may be after a minute.
 */
static bool
may_change_queries(Node *command)
{
	switch (nodeTag(command))
	{
		case T_DropStmt:
			return castNode(DropStmt, command)->removeType == OBJECT_EXTENSION;
		case T_AlterTableStmt:
			return castNode(AlterTableStmt, command)->objtype == OBJECT_VIEW ||
				   castNode(AlterTableStmt, command)->objtype == OBJECT_FOREIGN_TABLE;
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
			return true;
		case T_TransactionStmt:
			return castNode(TransactionStmt, command)->kind == TRANS_STMT_COMMIT_PREPARED;
		case T_ReassignOwnedStmt:
		case T_AlterRoleStmt:
			return true;
		case T_AlterExtensionStmt:
			return updates_extension(command);
		default:
			return false;
	}
}

static void
process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
				DestReceiver *dest, QueryCompletion *completion)
{
	Oid database = InvalidOid;

	/* inside a transaction block none of them can run */
	if (context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock())
		database = database_of_command(pstmt->utilityStmt);
	if (OidIsValid(database))
	{
		static bool registered = false;

		if (!registered)
			RegisterXactCallback(let_in_again, NULL);
		registered = true;
		shared_block(database);
		blocked_database = database;
		evict(database);
	}
	if (may_change_queries(pstmt->utilityStmt))
		pipeline_notify_at_commit();
	if (updates_extension(pstmt->utilityStmt) && superuser())
	{
		ask_all_to_yield();
		extension_changed();
	}
	if (prev_process_utility)
		prev_process_utility(pstmt, query_string, read_only_tree, context, params, environment,
							 dest, completion);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context, params, environment,
								dest, completion);
}

void
ddl_install_hook(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
