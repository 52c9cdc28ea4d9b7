/*
 * compat.h
 *		The only place that knows one PostgreSQL major version from another.
 *
 * velo supports 15 to 17.  Each shim names the change it bridges.  No macro here hides a name of
 * PostgreSQL's own.
 */
#ifndef VELO_COMPAT_H
#define VELO_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 180000
#error "velo supports PostgreSQL 15, 16 and 17"
#endif

#define PG16_GE (PG_VERSION_NUM >= 160000)
#define PG17_GE (PG_VERSION_NUM >= 170000)

#include "commands/explain.h"
#include "executor/instrument.h"
#include "storage/latch.h"
#include "optimizer/optimizer.h"

/* 16 moved the macros for varlena headers out of postgres.h */
#if PG16_GE
#include "varatt.h"
#endif

/* PostgreSQL 17 ties wait event sets to resource owners rather than memory contexts; NULL: lives until freed */
static inline WaitEventSet *
compat_create_wait_event_set(MemoryContext context, int nevents)
{
#if PG17_GE
	(void) context;
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(context, nevents);
#endif
}

/* 17: create_foreignscan_path() takes the clauses of a join, too; a base relation has none */
#if PG17_GE
#define compat_create_foreignscan_path(root, rel, rows, startup_cost, total_cost)                  \
	create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL,                  \
							(rel)->lateral_relids, NULL, NIL, NIL)
#else
#define compat_create_foreignscan_path(root, rel, rows, startup_cost, total_cost)                  \
	create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL,                  \
							(rel)->lateral_relids, NULL, NIL)
#endif

/* 16: the user whose rights a relation is used with moved from the range table; InvalidOid: the current user */
#if PG16_GE
#define compat_scan_user(node) (((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#define compat_insert_user(result_rel, estate) ExecGetResultRelCheckAsUser(result_rel, estate)
#else
#define compat_scan_user(node)                                                                     \
	(exec_rt_fetch(((Scan *) (node)->ss.ps.plan)->scanrelid, (node)->ss.ps.state)->checkAsUser)
/* a partition that tuples are routed to has no entry of its own in the range table */
#define compat_insert_user(result_rel, estate)                                                     \
	(exec_rt_fetch((result_rel)->ri_RangeTableIndex != 0                                           \
					   ? (result_rel)->ri_RangeTableIndex                                          \
					   : (result_rel)->ri_RootResultRelInfo->ri_RangeTableIndex,                   \
				   estate)                                                                         \
		 ->checkAsUser)
#endif

/* 17: internal subtransactions are allowed while a query has parallel workers */
#if PG17_GE
#define compat_can_start_subtransaction() true
#else
#define compat_can_start_subtransaction() (!IsInParallelMode())
#endif

/* 16 replaced pg_proc_aclcheck() and its kin by object_aclcheck() */
#if PG16_GE
#define compat_proc_aclcheck(proc, role)                                                           \
	object_aclcheck(ProcedureRelationId, (proc), (role), ACL_EXECUTE)
#else
#define compat_proc_aclcheck(proc, role) pg_proc_aclcheck((proc), (role), ACL_EXECUTE)
#endif

/* 16 gave stringToQualifiedNameList() a context for soft errors */
#if PG16_GE
#define compat_string_to_name_list(string) stringToQualifiedNameList(string, NULL)
#else
#define compat_string_to_name_list(string) stringToQualifiedNameList(string)
#endif

/* 17 lets background workers run as roles that may not log in */
#if PG17_GE
#define COMPAT_BYPASS_ROLELOGINCHECK BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define COMPAT_BYPASS_ROLELOGINCHECK 0
#endif

/* 16 has one function for the ownership of any object, 15 one for each kind */
#if PG16_GE
#define compat_owns_database(database, role) object_ownercheck(DatabaseRelationId, database, role)
#define compat_owns_relation(relid, role) object_ownercheck(RelationRelationId, relid, role)
#else
#define compat_owns_database(database, role) pg_database_ownercheck(database, role)
#define compat_owns_relation(relid, role) pg_class_ownercheck(relid, role)
#endif

/* 16 tells the right to SET ROLE from membership */
#if PG16_GE
#define compat_can_set_role(member, role) member_can_set_role(member, role)
#else
#define compat_can_set_role(member, role) is_member_of_role(member, role)
#endif

/* 16 moved what is to be checked from the range table to a list of its own */
#if PG16_GE
#define compat_check_permissions(query)                                                            \
	((void) ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true))
#else
#define compat_check_permissions(query) ((void) ExecCheckRTPerms((query)->rtable, true))
#endif

/* 16: make_range() can report errors softly; these don't want that */
#if PG16_GE
#define compat_make_range(type, lower, upper, empty) make_range(type, lower, upper, empty, NULL)
#else
#define compat_make_range(type, lower, upper, empty) make_range(type, lower, upper, empty)
#endif

/* 16: which columns of a relation a query reads moved from the range table to a list of its own */
#if PG16_GE
#define compat_selected_columns(query, rte)                                                        \
	(&getRTEPermissionInfo((query)->rteperminfos, rte)->selectedCols)
#else
#define compat_selected_columns(query, rte) (&(rte)->selectedCols)
#endif

/* 16: flatten_join_alias_vars() can take note of outer joins while planning; before planning there is no root */
#if PG16_GE
#define compat_flatten_join_aliases(query, node) flatten_join_alias_vars(NULL, query, node)
#else
#define compat_flatten_join_aliases(query, node) flatten_join_alias_vars(query, node)
#endif

/* 17: ExplainOnePlan() can be told of the memory that planning took */
#if PG17_GE
#define compat_explain_one_plan(plan, es, text, params, environment, duration)                     \
	ExplainOnePlan(plan, NULL, es, text, params, environment, duration, NULL, NULL)
#else
#define compat_explain_one_plan(plan, es, text, params, environment, duration)                     \
	ExplainOnePlan(plan, NULL, es, text, params, environment, duration, NULL)
#endif

/* 17 has standard_ExplainOneQuery(); before, a hook has to do what PostgreSQL does without one */
#if PG17_GE
#define compat_explain_one_query(query, options, into, es, text, params, environment)              \
	standard_ExplainOneQuery(query, options, into, es, text, params, environment)
#else
static inline void
compat_explain_one_query(Query *query, int options, IntoClause *into, ExplainState *es,
						 const char *text, ParamListInfo params, QueryEnvironment *environment)
{
	BufferUsage before = pgBufferUsage;
	BufferUsage used = {0};
	instr_time start;
	instr_time duration;
	PlannedStmt *plan;

	INSTR_TIME_SET_CURRENT(start);
	plan = planner(query, text, options, params);
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	if (es->buffers)
		BufferUsageAccumDiff(&used, &pgBufferUsage, &before);
	ExplainOnePlan(plan, into, es, text, params, environment, &duration,
				   es->buffers ? &used : NULL);
}
#endif

#endif /* VELO_COMPAT_H */
