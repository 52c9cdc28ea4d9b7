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

/* value mod unit, never negative */
static int64
floor_mod(int64 value, int64 unit)
{
	int64 rest = value % unit;

	return rest < 0 ? rest + unit : rest;
}

/* The last start <= time of the grid of "step" through "origin"; nothing of it can overflow for timestamps. */
static int64
grid_floor(int64 time, int64 step, int64 origin)
{
	return time - floor_mod(time - floor_mod(origin, step), step);
}

/* start + size, or what is later than all timestamps */
static TimestampTz
fixed_end(TimestampTz start, int64 size)
{
	TimestampTz end;

	return pg_add_s64_overflow(start, size, &end) || !IS_VALID_TIMESTAMP(end) ? DT_NOEND : end;
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

/* The time that the zone's clocks show at an instant; false if it is out of range. */
static bool
local_time(TimestampTz time, pg_tz *zone, Timestamp *local)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset; /* seconds west of Greenwich */

	if (timestamp2tm(time, &offset, &tm, &fsec, NULL, zone) != 0)
		return false;
	*local = time - offset * USECS_PER_SEC;
	return true;
}

/*
 * The instant at which the zone's clocks show a time, as PostgreSQL has it where there are two or none; false if it is
 * out of range.
 */
static bool
instant_of(Timestamp local, pg_tz *zone, TimestampTz *instant)
{
	struct pg_tm tm;
	fsec_t fsec;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	*instant = local + DetermineTimeZoneOffset(&tm, zone) * USECS_PER_SEC;
	return IS_VALID_TIMESTAMP(*instant);
}

/* The window of whole days of a zone that an instant falls into; false if it is out of range. */
static bool
zone_window(const WindowSpec *spec, TimestampTz time, TimestampTz *start, TimestampTz *end)
{
	pg_tz *zone = find_zone(spec->zone);
	Timestamp origin = WINDOW_EPOCH;
	Timestamp local;

	/* windows with a zone begin at its own 1970-01-01, or wherever its clocks were at the origin */
	if (!local_time(time, zone, &local) ||
		(spec->origin != WINDOW_EPOCH && !local_time(spec->origin, zone, &origin)))
		return false;
	local = grid_floor(local, spec->size, origin);
	if (!instant_of(local, zone, start))
		return false;
	while (time < *start)
	{
		local -= spec->size;
		if (!instant_of(local, zone, start))
			return false;
	}
	for (;;)
	{
		local += spec->size;
		if (!instant_of(local, zone, end))
			return false;
		if (time < *end)
			return true;
		*start = *end;
	}
}

/* The start of a date_trunc() window: exactly what date_trunc() returns; false if it is out of range. */
static bool
truncated_start(const WindowSpec *spec, TimestampTz time, TimestampTz *start)
{
	pg_tz *zone = find_zone(spec->zone);
	Timestamp local;
	Timestamp floor;

	if (!local_time(time, zone, &local))
		return false;
	floor = grid_floor(local, spec->size, spec->origin);
	if (spec->size >= USECS_PER_DAY)
		return instant_of(floor, zone, start);
	*start = floor + (time - local);
	return IS_VALID_TIMESTAMP(*start);
}

/* The end of the date_trunc() window that starts there; DT_NOEND if there is none. */
static TimestampTz
truncated_end(const WindowSpec *spec, TimestampTz start)
{
	pg_tz *zone = find_zone(spec->zone);
	Timestamp local;
	TimestampTz end;

	if (spec->size < USECS_PER_DAY)
		return fixed_end(start, spec->size);
	if (!local_time(start, zone, &local) ||
		!instant_of(grid_floor(local, spec->size, spec->origin) + spec->size, zone, &end))
		return DT_NOEND;
	return end;
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

bool
window_range(const WindowSpec *spec, TimestampTz time, TimestampTz *first, TimestampTz *last)
{
	TimestampTz end;

	if (spec->kind == WINDOW_NONE || spec->trunc != NULL || spec->zone != NULL)
	{
		if (spec->kind == WINDOW_NONE)
			*first = WINDOW_ALL;
		else if (spec->trunc != NULL ? !truncated_start(spec, time, first)
									 : !zone_window(spec, time, first, &end))
			return false;
		*last = *first;
		return true;
	}
	*last = grid_floor(time, spec->slide, spec->origin);
	if (time - *last >= spec->size)
		return false;
	*first = *last - (spec->size - 1 - (time - *last)) / spec->slide * spec->slide;
	return true;
}

bool
window_fits_near_ends(const WindowSpec *spec, TimestampTz time)
{
	TimestampTz start;
	TimestampTz end;

	if (spec->trunc != NULL)
		return truncated_start(spec, time, &start);
	if (spec->zone != NULL)
		return zone_window(spec, time, &start, &end);

	if (!window_range(spec, time, &start, &end))
		return true; /* between two of them */
	if (!spec->bare_start && fixed_end(end, spec->size) == DT_NOEND)
		return false;
	return start >= MIN_TIMESTAMP;
}

TimestampTz
window_end(const WindowSpec *spec, TimestampTz start)
{
	TimestampTz end;

	if (spec->trunc != NULL)
		return truncated_end(spec, start);
	if (spec->zone == NULL)
		return fixed_end(start, spec->size);
	return zone_window(spec, start, &start, &end) ? end : DT_NOEND;
}

/* An interval's days and time, in microseconds; false if they are too many. */
static bool
measure(const Interval *interval, int64 *length)
{
	int64 days;

	return !pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) &&
		   !pg_add_s64_overflow(interval->time, days, length) && *length <= WINDOW_MAX_LENGTH;
}

bool
window_has_length(const Interval *interval)
{
	int64 length = 0; /* for compilers that don't see it set */

	return interval->month == 0 && measure(interval, &length) && length > 0;
}

int64
window_length(const Interval *interval, const char *what)
{
	int64 length;

	if (interval->month != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have a fixed length", what),
						errdetail("Months and years differ in length.")));
	if (!measure(interval, &length))
		ereport(ERROR, (errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW), errmsg("%s is too long", what)));
	if (length <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", what)));
	return length;
}

void
window_set_zone(WindowSpec *spec, const char *zone)
{
	long offset;

	/* always at UTC: its days have a fixed length, and so may windows have */
	if (pg_get_timezone_offset(find_zone(zone), &offset) && offset == 0)
		return;
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
check_finite(TimestampTz time)
{
	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("infinity is in no window")));
}

static void
check_fits(const WindowSpec *spec, TimestampTz time)
{
	if (!window_fits(spec, time))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range"), errdetail(WINDOW_MISFIT_DETAIL)));
}

/* velo.tumble(ts, size, origin, zone): the window that a time falls into */
Datum
velo_tumble(PG_FUNCTION_ARGS)
{
	TimestampTz time = PG_GETARG_TIMESTAMPTZ(0);
	WindowSpec spec = {.kind = WINDOW_TUMBLING};
	TimestampTz start;
	TimestampTz last;
	bool found PG_USED_FOR_ASSERTS_ONLY;

	spec.size = spec.slide = window_length(PG_GETARG_INTERVAL_P(1), "window size");
	spec.origin = PG_GETARG_TIMESTAMPTZ(2);
	check_finite(time);
	check_finite(spec.origin);
	window_set_zone(&spec, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	check_fits(&spec, time);
	found = window_range(&spec, time, &start, &last);
	Assert(found);
	return make_window(&spec, start, range_get_typcache(fcinfo, TSTZRANGEOID));
}

/* velo.hop(ts, size, slide, origin): the windows that a time falls into, in order of start */
Datum
velo_hop(PG_FUNCTION_ARGS)
{
	typedef struct HopState
	{
		WindowSpec spec;
		TimestampTz first;
		TypeCacheEntry *range_type;
	} HopState;
	FuncCallContext *call;
	HopState *state;

	if (SRF_IS_FIRSTCALL())
	{
		TimestampTz last;
		MemoryContext old;

		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		state = palloc0(sizeof(HopState));
		state->spec.kind = WINDOW_HOPPING;
		state->spec.size = window_length(PG_GETARG_INTERVAL_P(1), "window size");
		state->spec.slide = window_length(PG_GETARG_INTERVAL_P(2), "window slide");
		state->spec.origin = PG_GETARG_TIMESTAMPTZ(3);
		check_finite(PG_GETARG_TIMESTAMPTZ(0));
		check_finite(state->spec.origin);
		check_fits(&state->spec, PG_GETARG_TIMESTAMPTZ(0));
		(void) window_max(&state->spec); /* complains about too many */
		state->range_type = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
		if (window_range(&state->spec, PG_GETARG_TIMESTAMPTZ(0), &state->first, &last))
			call->max_calls = (last - state->first) / state->spec.slide + 1;
		call->user_fctx = state;
		MemoryContextSwitchTo(old);
	}

	call = SRF_PERCALL_SETUP();
	state = call->user_fctx;
	if (call->call_cntr < call->max_calls)
	{
		TimestampTz start = state->first + call->call_cntr * state->spec.slide;
		Datum window = make_window(&state->spec, start, state->range_type);

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
