/* velo--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION velo" to load this file. \quit

GRANT USAGE ON SCHEMA velo TO PUBLIC;

-- ---------------------------------------------------------------- streams


-- ---------------------------------------------------------------- windows

CREATE FUNCTION velo.tumble(ts timestamptz, size interval, origin timestamptz DEFAULT 'epoch',
                            zone text DEFAULT 'UTC')
RETURNS tstzrange
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'velo_tumble';
COMMENT ON FUNCTION velo.tumble(timestamptz, interval, timestamptz, text) IS
    'the window of a fixed size that a time falls into; with a zone, in days of its wall clock';

CREATE FUNCTION velo.hop(ts timestamptz, size interval, slide interval,
                         origin timestamptz DEFAULT 'epoch')
RETURNS SETOF tstzrange
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 10
AS 'MODULE_PATHNAME', 'velo_hop';
COMMENT ON FUNCTION velo.hop(timestamptz, interval, interval, timestamptz) IS
    'the overlapping windows that a time falls into, one beginning every slide';

CREATE FUNCTION velo.session(ts timestamptz, gap interval)
RETURNS tstzrange
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'velo_session';
COMMENT ON FUNCTION velo.session(timestamptz, interval) IS
    'the session that a time belongs to (not supported yet)';

-- ---------------------------------------------------------------- queries: tables


-- ---------------------------------------------------------------- queries: functions


-- ---------------------------------------------------------------- views

