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

#include "storage/latch.h"

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

/* 16: make_range() can report errors softly; these don't want that */
#if PG16_GE
#define compat_make_range(type, lower, upper, empty) make_range(type, lower, upper, empty, NULL)
#else
#define compat_make_range(type, lower, upper, empty) make_range(type, lower, upper, empty)
#endif

/* 16: name lists can report errors softly; these don't want that */
#if PG16_GE
#define compat_qualified_name_list(string) stringToQualifiedNameList(string, NULL)
#else
#define compat_qualified_name_list(string) stringToQualifiedNameList(string)
#endif

/* 16: which columns of a relation a query reads moved from the range table to a list of its own */
#if PG16_GE
#define compat_selected_columns(query, rte)                                                        \
	(&getRTEPermissionInfo((query)->rteperminfos, rte)->selectedCols)
#else
#define compat_selected_columns(query, rte) (&(rte)->selectedCols)
#endif

#endif /* VELO_COMPAT_H */
