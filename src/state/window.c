/*
 * window.c
 *		How event time is cut into windows; and velo.tumble() and velo.hop(), which are the same code for plain SQL.
 *
 * Without a zone a window has a fixed length and its start is arithmetic.  With a zone, windows are whole days of its
 * wall clock: local time is cut, and the cuts are turned back into instants, as date_trunc() does.  Local time may
 * stand still, jump or run twice, so the instants of the cuts decide and not the local time (date_trunc() itself has
 * it the other way round, and a window that stands for it must agree with it).
 */
#include "state/state.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(velo_tumble);
PG_FUNCTION_INFO_V1(velo_hop);
PG_FUNCTION_INFO_V1(velo_session);

/* windows that a record may be in at once */
#define WINDOW_MAX_OVERLAP 100000
/* microseconds (73,000 years); keeps sums of a timestamp and a few lengths within int64 */
#define WINDOW_MAX_LENGTH (PG_INT64_MAX / 4)

/* ------------------------------------------------------------------ arithmetic */

/* value - (value mod unit) with the remainder never negative; false on overflow */
static bool
floor_to(int64 value, int64 unit, int64 *result)
{
	int64 rest = value % unit;

	if (rest < 0)
		rest += unit;
	return !pg_sub_s64_overflow(value, rest, result);
}

/* The last start <= time of the grid of "step" through "origin"; false on overflow. */
static bool
grid_floor(int64 time, int64 step, int64 origin, int64 *start)
{
	int64 phase =
		origin % step; /* so that subtracting it overflows at the very ends of int64 only */
	int64 since;

	return !pg_sub_s64_overflow(time, phase, &since) && floor_to(since, step, &since) &&
		   !pg_add_s64_overflow(since, phase, start);
}

/* Are both ends of the window timestamps? */
static bool
window_in_range(TimestampTz start, int64 size)
{
	int64 end;

	return IS_VALID_TIMESTAMP(start) && !pg_add_s64_overflow(start, size, &end) &&
		   IS_VALID_TIMESTAMP(end);
}

/* ------------------------------------------------------------------ wall clocks */

static pg_tz *
find_zone(const char *name)
{
	pg_tz *zone = pg_tzset(name);

	if (zone == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone \"%s\" not recognized", name)));
	return zone;
}

/* The time that the zone's clocks show at an instant. */
static Timestamp
local_time(TimestampTz time, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset; /* seconds west of Greenwich */

	if (timestamp2tm(time, &offset, &tm, &fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	return time - offset * USECS_PER_SEC;
}

/* The instant at which the zone's clocks show a time; as PostgreSQL has it where there are two or none. */
static TimestampTz
instant_of(Timestamp local, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t fsec;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	return local + DetermineTimeZoneOffset(&tm, zone) * USECS_PER_SEC;
}

/* The local start of the window that an instant falls into; false on overflow. */
static bool
local_start(const WindowSpec *spec, TimestampTz time, pg_tz *zone, Timestamp *start)
{
	/* windows with a zone begin at its own 1970-01-01, or wherever its clocks were at the origin */
	int64 origin = spec->origin == WINDOW_EPOCH ? WINDOW_EPOCH : local_time(spec->origin, zone);

	if (!grid_floor(local_time(time, zone), spec->size, origin, start))
		return false;
	while (time < instant_of(*start, zone))
		*start -= spec->size;
	while (time >= instant_of(*start + spec->size, zone))
		*start += spec->size;
	return true;
}

/* The start of a date_trunc() window: exactly what date_trunc() returns. */
static bool
truncated_start(const WindowSpec *spec, TimestampTz time, pg_tz *zone, TimestampTz *start)
{
	Timestamp local = local_time(time, zone);
	int64 floor;

	if (!grid_floor(local, spec->size, spec->origin, &floor))
		return false;
	*start = spec->size < USECS_PER_DAY ? floor + (time - local) : instant_of(floor, zone);
	return true;
}

/* ------------------------------------------------------------------ windows */

int
window_max(const WindowSpec *spec)
{
	int64 max;

	if (spec->kind != WINDOW_HOPPING)
		return 1;
	max = spec->size / spec->slide + (spec->size % spec->slide != 0);
	if (max > WINDOW_MAX_OVERLAP)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a record would be in %lld windows at once", (long long) max),
				 errdetail("The size may be at most %d times the slide.", WINDOW_MAX_OVERLAP),
				 errhint("Use a longer slide.")));
	return (int) max;
}

int
window_assign(const WindowSpec *spec, TimestampTz time, TimestampTz *starts)
{
	int64 start;
	int nstarts = 0;

	if (spec->kind == WINDOW_NONE)
	{
		starts[0] = WINDOW_ALL;
		return 1;
	}

	if (spec->zone != NULL)
	{
		pg_tz *zone = find_zone(spec->zone);
		bool found = spec->trunc != NULL ? truncated_start(spec, time, zone, &start)
										 : local_start(spec, time, zone, &start);

		if (found && spec->trunc == NULL)
			start = instant_of(start, zone);
		if (!found || !window_in_range(start, spec->size))
			return 0;
		starts[0] = start;
		return 1;
	}

	/* from the last window back to the first, then turned round */
	if (!grid_floor(time, spec->slide, spec->origin, &start))
		return 0;
	while (time - start < spec->size)
	{
		if (window_in_range(start, spec->size))
			starts[nstarts++] = start;
		if (pg_sub_s64_overflow(start, spec->slide, &start))
			break;
	}
	for (int i = 0; i < nstarts / 2; i++)
	{
		TimestampTz swap = starts[i];

		starts[i] = starts[nstarts - 1 - i];
		starts[nstarts - 1 - i] = swap;
	}
	return nstarts;
}

TimestampTz
window_end(const WindowSpec *spec, TimestampTz start)
{
	pg_tz *zone;
	Timestamp local = start;

	if (spec->zone == NULL || (spec->trunc != NULL && spec->size < USECS_PER_DAY))
		return start + spec->size;

	zone = find_zone(spec->zone);
	if (spec->trunc != NULL)
		grid_floor(local_time(start, zone), spec->size, spec->origin, &local);
	else
		local_start(spec, start, zone, &local);
	return instant_of(local + spec->size, zone);
}

int64
window_length(const Interval *interval, const char *what)
{
	int64 days;
	int64 length;

	if (interval->month != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have a fixed length", what),
						errdetail("Months and years differ in length.")));
	if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(interval->time, days, &length) || length > WINDOW_MAX_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW), errmsg("%s is too long", what)));
	if (length <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", what)));
	return length;
}

void
window_set_zone(WindowSpec *spec, const char *zone)
{
	find_zone(zone);
	if (pg_strcasecmp(zone, "UTC") == 0)
		return; /* its days have a fixed length */
	if (spec->size % USECS_PER_DAY != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size with a time zone must be a whole number of days"),
				 errhint("Smaller windows are the same in every zone whose offset is a multiple of "
						 "them; shift others with \"origin\".")));
	spec->zone = pstrdup(zone);
}

/* ------------------------------------------------------------------ SQL functions */

static Datum
make_window(const WindowSpec *spec, TimestampTz start, TypeCacheEntry *range_type)
{
	RangeBound lower = {.val = TimestampTzGetDatum(start), .inclusive = true, .lower = true};
	RangeBound upper = {.val = TimestampTzGetDatum(window_end(spec, start))};

	return RangeTypePGetDatum(compat_make_range(range_type, &lower, &upper, false));
}

static void
check_time(TimestampTz time)
{
	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("infinity is in no window")));
}

/* velo.tumble(ts, size, origin, zone): the window that a time falls into */
Datum
velo_tumble(PG_FUNCTION_ARGS)
{
	TimestampTz time = PG_GETARG_TIMESTAMPTZ(0);
	WindowSpec spec = {.kind = WINDOW_TUMBLING};
	TimestampTz start;

	spec.size = spec.slide = window_length(PG_GETARG_INTERVAL_P(1), "window size");
	spec.origin = PG_GETARG_TIMESTAMPTZ(2);
	check_time(time);
	check_time(spec.origin);
	window_set_zone(&spec, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	if (window_assign(&spec, time, &start) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	return make_window(&spec, start, range_get_typcache(fcinfo, TSTZRANGEOID));
}

/* velo.hop(ts, size, slide, origin): the windows that a time falls into, in order of start */
Datum
velo_hop(PG_FUNCTION_ARGS)
{
	typedef struct HopState
	{
		WindowSpec spec;
		TimestampTz *starts;
		TypeCacheEntry *range_type;
	} HopState;
	FuncCallContext *call;
	HopState *state;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		state = palloc0(sizeof(HopState));
		state->spec.kind = WINDOW_HOPPING;
		state->spec.size = window_length(PG_GETARG_INTERVAL_P(1), "window size");
		state->spec.slide = window_length(PG_GETARG_INTERVAL_P(2), "window slide");
		state->spec.origin = PG_GETARG_TIMESTAMPTZ(3);
		check_time(PG_GETARG_TIMESTAMPTZ(0));
		check_time(state->spec.origin);
		state->starts = palloc_array(TimestampTz, window_max(&state->spec));
		state->range_type = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
		call->max_calls = window_assign(&state->spec, PG_GETARG_TIMESTAMPTZ(0), state->starts);
		call->user_fctx = state;
		MemoryContextSwitchTo(old);
	}

	call = SRF_PERCALL_SETUP();
	state = call->user_fctx;
	if (call->call_cntr < call->max_calls)
	{
		Datum window = make_window(&state->spec, state->starts[call->call_cntr], state->range_type);

		SRF_RETURN_NEXT(call, window);
	}
	SRF_RETURN_DONE(call);
}

/* velo.session(ts, gap): known, so that it is refused for what it is and not as a function that doesn't exist */
Datum
velo_session(PG_FUNCTION_ARGS)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("session windows are not supported yet"),
					errhint("Use velo.tumble or velo.hop.")));
	PG_RETURN_NULL();
}
