/* velo--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION velo" to load this file. \quit

GRANT USAGE ON SCHEMA velo TO PUBLIC;

-- ---------------------------------------------------------------- streams


-- ---------------------------------------------------------------- development broker

CREATE FUNCTION velo.dev_create_topic(topic text, partitions int DEFAULT 1)
RETURNS void
AS 'MODULE_PATHNAME', 'velo_dev_create_topic'
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION velo.dev_create_topic(text, int) IS
	'creates a topic in the development broker of this server (velo.dev_broker_port)';

-- ---------------------------------------------------------------- windows


-- ---------------------------------------------------------------- queries: tables


-- ---------------------------------------------------------------- queries: functions


-- ---------------------------------------------------------------- views

