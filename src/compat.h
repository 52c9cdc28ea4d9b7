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

/* 16 moved the macros for varlena headers out of postgres.h */
#if PG16_GE
#include "varatt.h"
#endif

/* 16 replaced pg_proc_aclcheck() and its kin by object_aclcheck() */
#if PG16_GE
#define compat_proc_aclcheck(proc, role)                                                           \
	object_aclcheck(ProcedureRelationId, (proc), (role), ACL_EXECUTE)
#else
#define compat_proc_aclcheck(proc, role) pg_proc_aclcheck((proc), (role), ACL_EXECUTE)
#endif

#endif /* VELO_COMPAT_H */
