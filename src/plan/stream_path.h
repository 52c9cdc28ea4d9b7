/*
 * stream_path.h
 *		How the planner half of the wrapper is told whom it plans for; private to plan/.
 */
#ifndef VELO_STREAM_PATH_H
#define VELO_STREAM_PATH_H

#include "velo.h"

/*
 * Plan the scans of streams from now on as those of a continuous query, each of "rows" records (a batch), or as
 * ad-hoc scans again ("rows" is ignored).  The caller resets it when the planner throws, too: PG_FINALLY().
 */
extern void stream_path_set_continuous(bool continuous, double rows);

#endif /* VELO_STREAM_PATH_H */
