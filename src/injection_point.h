/*
 * injection_point.h
 *		Places where a test makes velo crash, fail or be cancelled.
 *
 * They exist only in a library that was built with VELO_INJECTION_POINTS (make build/injection_points/velo.so); in any
 * other an injection point is nothing at all.  Each name stands in one place, and test/t/012_injection_points.pl has
 * all of them.
 */
#ifndef VELO_INJECTION_POINT_H
#define VELO_INJECTION_POINT_H

#ifdef VELO_INJECTION_POINTS
/* Do what the test has armed this point with, if it has: kill the process, throw, or cancel as pg_cancel_backend() does. */
extern void injection_point_reach(const char *name);
#define VELO_INJECTION_POINT(name) injection_point_reach(name)
#else
#define VELO_INJECTION_POINT(name) ((void) 0)
#endif

#endif /* VELO_INJECTION_POINT_H */
