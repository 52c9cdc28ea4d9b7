/*
 * stream_path.h
 *		How the planner half of the wrapper is told whom it plans for; private to plan/.
 */
#ifndef VELO_STREAM_PATH_H
#define VELO_STREAM_PATH_H

#include "velo.h"

#include "nodes/parsenodes.h"

/*
 * Mark the streams that a query names, so that the planner takes their scans for those of a continuous query, each of
 * "rows" records (a batch).  All others, such as those of a function that the planner inlines or runs, stay ad hoc.
 */
extern void stream_path_mark_continuous(Query *query, double rows);

extern void stream_path_init_hooks(void);

#endif /* VELO_STREAM_PATH_H */
