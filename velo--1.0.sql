/* velo--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION velo" to load this file. \quit

GRANT USAGE ON SCHEMA velo TO PUBLIC;

-- ---------------------------------------------------------------- streams

CREATE FUNCTION velo.velo_fdw_handler() RETURNS fdw_handler
	AS 'MODULE_PATHNAME', 'velo_fdw_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.velo_fdw_handler() IS 'handler of foreign-data wrapper velo';

CREATE FUNCTION velo.velo_fdw_validator(options text[], catalog oid) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_fdw_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.velo_fdw_validator(text[], oid) IS
	'checks the options of streams, their columns, servers and user mappings';

CREATE FOREIGN DATA WRAPPER velo
	HANDLER velo.velo_fdw_handler VALIDATOR velo.velo_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER velo IS 'streams over Kafka topics';

-- Nobody but superusers has USAGE until it is granted: whoever has it may make the server connect to any address.
CREATE SERVER velo FOREIGN DATA WRAPPER velo;
COMMENT ON SERVER velo IS 'server of streams that name their brokers themselves';

CREATE FUNCTION velo.create_stream(
	name text,
	columns text,
	topic text DEFAULT NULL,
	brokers text DEFAULT NULL,
	server name DEFAULT 'velo',
	format text DEFAULT 'json',
	event_time text DEFAULT NULL,
	watermark interval DEFAULT NULL,
	key text DEFAULT NULL,
	options jsonb DEFAULT NULL) RETURNS regclass
	AS 'MODULE_PATHNAME', 'velo_create_stream' LANGUAGE C;
COMMENT ON FUNCTION velo.create_stream(text, text, text, text, name, text, text, interval, text, jsonb) IS
	'create a stream over a topic, as CREATE FOREIGN TABLE does';

CREATE FUNCTION velo.drop_stream(name regclass, cascade bool DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_drop_stream' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.drop_stream(regclass, bool) IS
	'drop a stream; with cascade also the queries that use it';


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

CREATE VIEW velo.streams AS
	SELECT c.oid::pg_catalog.regclass AS stream,
		'kafka'::pg_catalog.text AS source,
		coalesce(o.topic, c.relname::pg_catalog.text) AS topic,
		coalesce(o.brokers, so.brokers) AS brokers,
		coalesce(o.format, 'json') AS format,
		o.event_time,
		CASE WHEN o.event_time IS NOT NULL
			THEN coalesce(o.watermark, '0')::pg_catalog.interval
		END AS watermark,
		o.key,
		-- a query is known to PostgreSQL's dependencies as a view
		(SELECT count(DISTINCT v.oid)::pg_catalog.int4
			FROM pg_catalog.pg_depend d
				JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
				JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
				JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
			WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
				AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
				AND d.refobjid = c.oid
				AND n.nspname = 'velo_queries') AS queries
	FROM pg_catalog.pg_foreign_table t
		JOIN pg_catalog.pg_class c ON c.oid = t.ftrelid
		JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
		JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
		CROSS JOIN LATERAL (
			SELECT max(option_value) FILTER (WHERE option_name = 'topic') AS topic,
				max(option_value) FILTER (WHERE option_name = 'brokers') AS brokers,
				max(option_value) FILTER (WHERE option_name = 'format') AS format,
				max(option_value) FILTER (WHERE option_name = 'event_time') AS event_time,
				max(option_value) FILTER (WHERE option_name = 'watermark') AS watermark,
				max(option_value) FILTER (WHERE option_name = 'key') AS key
			FROM pg_catalog.pg_options_to_table(t.ftoptions)) o
		CROSS JOIN LATERAL (
			SELECT max(option_value) FILTER (WHERE option_name = 'brokers') AS brokers
			FROM pg_catalog.pg_options_to_table(s.srvoptions)) so
	WHERE w.fdwname = 'velo'
		AND (pg_catalog.pg_has_role(c.relowner, 'USAGE')
			OR pg_catalog.pg_has_role('pg_monitor', 'USAGE'));
COMMENT ON VIEW velo.streams IS 'the streams of this database';
GRANT SELECT ON velo.streams TO PUBLIC;

