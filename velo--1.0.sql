/* velo--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION velo" to load this file. \quit

CREATE FUNCTION velo.check_schema() RETURNS pg_catalog.void
	AS 'MODULE_PATHNAME', 'velo_check_schema' LANGUAGE C;
SELECT velo.check_schema();
DROP FUNCTION velo.check_schema();

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

CREATE SCHEMA velo_queries;
COMMENT ON SCHEMA velo_queries IS
	'velo: one view per continuous query, by which dependencies, owners and DROP know it';

CREATE TABLE velo.query (
	id regclass PRIMARY KEY,
	schema name NOT NULL,
	name name NOT NULL,
	owner oid NOT NULL,
	definition text NOT NULL,
	sink text NOT NULL,
	target regclass,
	owns_target bool NOT NULL,
	emit text NOT NULL,
	windowed bool NOT NULL,
	grace bigint NOT NULL,
	stop_at_end bool NOT NULL,
	start text NOT NULL,
	on_error text NOT NULL,
	on_late text NOT NULL,
	options jsonb,
	pipelines_wanted int,
	pipelines int NOT NULL,
	merged bool NOT NULL,
	settings text[] NOT NULL,
	state text NOT NULL,
	generation int NOT NULL,
	advanced timestamptz,
	created_at timestamptz NOT NULL,
	system_identifier bigint NOT NULL,
	database oid NOT NULL,
	made_in oid NOT NULL,
	CONSTRAINT query_name_key UNIQUE (schema, name)
);
COMMENT ON TABLE velo.query IS 'continuous queries; see the view velo.queries';
COMMENT ON COLUMN velo.query.id IS 'the view that holds the bound SELECT';
COMMENT ON COLUMN velo.query.owner IS 'who created or last resumed it; another owner of the view finds it paused';
COMMENT ON COLUMN velo.query.system_identifier IS 'server on which it runs; elsewhere it is found paused';
COMMENT ON COLUMN velo.query.database IS 'database in which it runs; elsewhere it is found paused';
COMMENT ON COLUMN velo.query.made_in IS 'OID of this table; in one that was restored from a dump it is found paused';

CREATE TABLE velo.query_partition (
	query regclass,
	stream regclass,
	partition int,
	pipeline int NOT NULL,
	next_offset bigint NOT NULL,
	stop_offset bigint NOT NULL,
	end_offset bigint NOT NULL,
	watermark timestamptz,
	idle bool NOT NULL,
	topic_id text,
	PRIMARY KEY (query, stream, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE velo.query_partition IS 'what is committed of each partition; see the view velo.partitions';

CREATE TABLE velo.query_pipeline (
	query regclass,
	pipeline int,
	records_in bigint NOT NULL,
	rows_out bigint NOT NULL,
	late bigint NOT NULL,
	tombstones bigint NOT NULL,
	dead_letters bigint NOT NULL,
	skipped bigint NOT NULL,
	batches bigint NOT NULL,
	closed timestamptz,
	written timestamptz,
	PRIMARY KEY (query, pipeline)
) WITH (fillfactor = 50);
COMMENT ON TABLE velo.query_pipeline IS 'committed figures of each pipeline; see the view velo.pipelines';
COMMENT ON COLUMN velo.query_pipeline.closed IS 'event time up to which windows are closed';
COMMENT ON COLUMN velo.query_pipeline.written IS 'event time up to which the rows of closed windows are written as well';

CREATE TABLE velo.query_error (
	query regclass,
	pipeline int,
	message text,
	sqlstate text,
	hint text,
	at timestamptz NOT NULL,
	retry_at timestamptz,
	attempts int NOT NULL,
	unproven bool NOT NULL,
	PRIMARY KEY (query, pipeline)
);
COMMENT ON COLUMN velo.query_error.message IS 'NULL when the trouble is over';
COMMENT ON COLUMN velo.query_error.unproven IS 'a run has begun and achieved nothing yet: if it is gone, it has crashed';
COMMENT ON TABLE velo.query_error IS 'present trouble of pipelines (-1: of the query as a whole); see velo.queries';

CREATE TABLE velo.query_state (
	query regclass,
	pipeline int,
	seq bigint,
	data bytea NOT NULL,
	PRIMARY KEY (query, pipeline, seq)
);
ALTER TABLE velo.query_state ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE velo.query_state IS 'window state of the pipelines as of their last commit, in chunks';

CREATE TABLE velo.query_group (
	query regclass,
	key bytea,
	state bytea NOT NULL,
	PRIMARY KEY (query, key)
) WITH (fillfactor = 50);
COMMENT ON TABLE velo.query_group IS 'state of groups that are kept one by one';

CREATE TABLE velo.query_run (
	query regclass,
	pipeline int,
	run bigint,
	hash bigint,
	data bytea NOT NULL,
	PRIMARY KEY (query, pipeline, run, hash)
) WITH (toast_tuple_target = 8160);
ALTER TABLE velo.query_run ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE velo.query_run IS 'state of groups that pipelines have no memory for, sorted by their hash, in blocks';
COMMENT ON COLUMN velo.query_run.hash IS 'the greatest in the block';

CREATE TABLE velo.query_key (
	query regclass,
	generation bigint,
	hash bigint,
	pipeline int NOT NULL,
	PRIMARY KEY (query, generation, hash)
);
COMMENT ON TABLE velo.query_key IS 'which pipeline has groups of which values of a stream''s key, by their hash';
COMMENT ON COLUMN velo.query_key.generation IS 'span of event time of whose windows they are; 0 without windows';

CREATE TABLE velo.dead_letter (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	query regclass NOT NULL,
	kind text NOT NULL,
	stream regclass,
	topic text,
	partition int,
	"offset" bigint,
	"timestamp" timestamptz,
	key bytea,
	value bytea,
	headers jsonb,
	sqlstate text,
	message text,
	detail text,
	correlation_id text NOT NULL,
	at timestamptz NOT NULL,
	group_hash bigint
);
COMMENT ON COLUMN velo.dead_letter.group_hash IS 'hash of detail, where that names the group that the letter belongs to';
CREATE INDEX dead_letter_query_idx ON velo.dead_letter (query, group_hash);
COMMENT ON TABLE velo.dead_letter IS 'records that could not be processed; see the view velo.dead_letters';
COMMENT ON SEQUENCE velo.dead_letter_id_seq IS 'ids of dead letters';

SELECT pg_catalog.pg_extension_config_dump('velo.query', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_partition', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_pipeline', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_state', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_group', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_run', '');
SELECT pg_catalog.pg_extension_config_dump('velo.query_key', '');
SELECT pg_catalog.pg_extension_config_dump('velo.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('velo.dead_letter_id_seq', '');


-- ---------------------------------------------------------------- queries: functions

CREATE FUNCTION velo.explain(query text, options text DEFAULT '') RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'velo_explain' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.explain(text, text) IS
	'EXPLAIN (options) of a query in the dialect: how it would run continuously';

CREATE FUNCTION velo.create_query(
	name text,
	query text,
	sink text DEFAULT 'table',
	target text DEFAULT NULL,
	emit text DEFAULT NULL,
	start text DEFAULT 'earliest',
	stop text DEFAULT NULL,
	pipelines int DEFAULT NULL,
	on_error text DEFAULT 'dead_letter',
	on_late text DEFAULT 'drop',
	options jsonb DEFAULT NULL) RETURNS regclass
	AS 'MODULE_PATHNAME', 'velo_create_query' LANGUAGE C;
COMMENT ON FUNCTION velo.create_query(text, text, text, text, text, text, text, int, text, text, jsonb) IS
	'create a continuous query, and the table that holds its result';

CREATE FUNCTION velo.drop_query(name text, keep_results bool DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_drop_query' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.drop_query(text, bool) IS
	'drop a continuous query, and the table that was made for it';

CREATE FUNCTION velo.pause_query(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_pause_query' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.pause_query(text) IS 'stop the pipelines of a query until it is resumed';

CREATE FUNCTION velo.resume_query(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_resume_query' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.resume_query(text) IS 'go on with a paused query';

CREATE FUNCTION velo.restart_query(name text, start text DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_restart_query' LANGUAGE C;
COMMENT ON FUNCTION velo.restart_query(text, text) IS
	'go on with a failed query, or empty its results and begin anew at a start';

CREATE FUNCTION velo.alter_query(name text, options jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_alter_query' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.alter_query(text, jsonb) IS
	'change options of a query; null takes one back';

CREATE FUNCTION velo.wait(name text DEFAULT NULL, timeout interval DEFAULT '30 s') RETURNS boolean
	AS 'MODULE_PATHNAME', 'velo_wait' LANGUAGE C;
COMMENT ON FUNCTION velo.wait(text, interval) IS
	'wait until a query, or all, have processed and committed what their topics hold now; false at the time-out';

CREATE FUNCTION velo.advance_watermark(name text, to_time timestamptz) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_advance_watermark' LANGUAGE C STRICT;
COMMENT ON FUNCTION velo.advance_watermark(text, timestamptz) IS
	'let the event time of a windowed query go on without records';

CREATE FUNCTION velo.execute(query text) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_execute' LANGUAGE C;
COMMENT ON FUNCTION velo.execute(text) IS 'run a query in the dialect once (not supported yet)';

CREATE FUNCTION velo.replay_dead_letters(query text) RETURNS void
	AS 'MODULE_PATHNAME', 'velo_replay_dead_letters' LANGUAGE C;
COMMENT ON FUNCTION velo.replay_dead_letters(text) IS
	'evaluate the dead letters of a query again (not supported yet)';

CREATE FUNCTION velo.on_drop() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'velo_on_drop' LANGUAGE C;
COMMENT ON FUNCTION velo.on_drop() IS 'forgets queries whose view was dropped';
CREATE EVENT TRIGGER velo_on_drop ON sql_drop EXECUTE FUNCTION velo.on_drop();
ALTER EVENT TRIGGER velo_on_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER velo_on_drop IS 'velo: forgets queries whose view was dropped';

CREATE FUNCTION velo.on_alter_schema() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'velo_on_alter_schema' LANGUAGE C;
COMMENT ON FUNCTION velo.on_alter_schema() IS 'follows schemas in the names of queries';
CREATE EVENT TRIGGER velo_on_alter_schema ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA')
	EXECUTE FUNCTION velo.on_alter_schema();
ALTER EVENT TRIGGER velo_on_alter_schema ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER velo_on_alter_schema IS 'velo: follows schemas in the names of queries';


-- ---------------------------------------------------------------- views

-- All are security barriers: what others write into WHERE must not see more than they do, whatever the order of joins.

CREATE FUNCTION velo.stream_queries(stream regclass) RETURNS SETOF regclass
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	BEGIN ATOMIC
		-- a query is known to PostgreSQL's dependencies as a view, which may read the stream through others
		WITH RECURSIVE readers(id) AS (
			SELECT stream::oid
			UNION
			SELECT v.ev_class
				FROM readers
					JOIN pg_catalog.pg_depend d ON d.refobjid = readers.id
					JOIN pg_catalog.pg_rewrite v ON v.oid = d.objid
				WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
					AND d.classid = 'pg_catalog.pg_rewrite'::regclass
					AND v.ev_type = '1')
		SELECT c.oid::regclass
			FROM readers
				JOIN pg_catalog.pg_class c ON c.oid = readers.id
				JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'velo_queries'
			ORDER BY c.oid;
	END;
COMMENT ON FUNCTION velo.stream_queries(regclass) IS 'the queries that read a stream, by their views';

CREATE VIEW velo.streams WITH (security_barrier) AS
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
		(SELECT count(*)::pg_catalog.int4 FROM velo.stream_queries(c.oid)) AS queries
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

CREATE FUNCTION velo.query_name(query regclass) RETURNS text
	AS 'MODULE_PATHNAME', 'velo_query_name' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION velo.query_name(regclass) IS
	'name of a query as regclass prints a relation; NULL if it is not visible to the user';

CREATE FUNCTION velo.query_status(
	OUT id regclass, OUT name text, OUT state text, OUT running int, OUT lag bigint,
	OUT watermark timestamptz, OUT error text, OUT error_sqlstate text, OUT error_hint text,
	OUT error_at timestamptz, OUT retry_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'velo_query_status' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION velo.query_status() IS 'what velo.queries shows of the present';

CREATE FUNCTION velo.pipeline_status(
	OUT id regclass, OUT query text, OUT pipeline int, OUT pid int, OUT state text,
	OUT partitions text[], OUT records_per_second float8, OUT lag bigint, OUT watermark timestamptz,
	OUT batch_records_p50 float8, OUT batch_records_p95 float8, OUT batch_records_p99 float8,
	OUT poll_ms_p50 float8, OUT poll_ms_p95 float8, OUT poll_ms_p99 float8,
	OUT decode_ms_p50 float8, OUT decode_ms_p95 float8, OUT decode_ms_p99 float8,
	OUT eval_ms_p50 float8, OUT eval_ms_p95 float8, OUT eval_ms_p99 float8,
	OUT write_ms_p50 float8, OUT write_ms_p95 float8, OUT write_ms_p99 float8,
	OUT commit_ms_p50 float8, OUT commit_ms_p95 float8, OUT commit_ms_p99 float8,
	OUT queue_depth bigint, OUT queue_capacity bigint, OUT queue_high_water bigint, OUT backpressure_events bigint,
	OUT groups bigint, OUT open_windows bigint, OUT state_bytes bigint, OUT memory_bytes bigint,
	OUT restarts int, OUT started_at timestamptz, OUT last_commit_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'velo_pipeline_status' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION velo.pipeline_status() IS 'what velo.pipelines shows of the present';

CREATE FUNCTION velo.may_read_letter(query regclass, stream regclass) RETURNS bool
	AS 'MODULE_PATHNAME', 'velo_may_read_letter' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION velo.may_read_letter(regclass, regclass) IS
	'may the user see what is in a dead letter of the query''s stream';

CREATE FUNCTION velo.keep_letters_of_others() RETURNS trigger
	AS 'MODULE_PATHNAME', 'velo_keep_letters_of_others' LANGUAGE C;
COMMENT ON FUNCTION velo.keep_letters_of_others() IS
	'keeps dead letters from being deleted by others than the owner of their query';
CREATE TRIGGER keep_letters_of_others BEFORE DELETE ON velo.dead_letter
	FOR EACH ROW EXECUTE FUNCTION velo.keep_letters_of_others();
COMMENT ON TRIGGER keep_letters_of_others ON velo.dead_letter IS
	'only the owner of a query deletes its dead letters';

CREATE VIEW velo.queries WITH (security_barrier) AS
	SELECT s.name,
		s.state,
		q.sink,
		q.target::pg_catalog.text AS target,
		q.emit,
		q.windowed AS "window",
		q.pipelines,
		s.running,
		coalesce(p.records_in, 0) AS records_in,
		coalesce(p.rows_out, 0) AS rows_out,
		coalesce(p.late, 0) AS late,
		coalesce(p.tombstones, 0) AS tombstones,
		coalesce(p.dead_letters, 0) AS dead_letters,
		coalesce(p.skipped, 0) AS skipped,
		s.lag,
		s.watermark,
		s.error,
		s.error_sqlstate,
		s.error_hint,
		s.error_at,
		s.retry_at,
		c.relowner::pg_catalog.regrole AS owner,
		q.created_at,
		q.definition AS query
	FROM velo.query_status() s
		JOIN velo.query q ON q.id::pg_catalog.oid = s.id::pg_catalog.oid
		JOIN pg_catalog.pg_class c ON c.oid = s.id::pg_catalog.oid
		LEFT JOIN LATERAL (
			SELECT sum(records_in)::pg_catalog.int8 AS records_in,
				sum(rows_out)::pg_catalog.int8 AS rows_out,
				sum(late)::pg_catalog.int8 AS late,
				sum(tombstones)::pg_catalog.int8 AS tombstones,
				sum(dead_letters)::pg_catalog.int8 AS dead_letters,
				sum(skipped)::pg_catalog.int8 AS skipped
			FROM velo.query_pipeline
			WHERE query::pg_catalog.oid = s.id::pg_catalog.oid) p ON true;
COMMENT ON VIEW velo.queries IS 'the continuous queries of this database that the user owns or monitors';
COMMENT ON COLUMN velo.queries.running IS 'pipelines that run';
COMMENT ON COLUMN velo.queries.records_in IS 'as all counters: committed, since the query was created or restarted';
COMMENT ON COLUMN velo.queries.lag IS
	'records that were there when its pipelines looked last and are not committed as read; it stands still while none runs';
COMMENT ON COLUMN velo.queries.watermark IS 'event time up to which the query believes its input complete';
COMMENT ON COLUMN velo.queries.error IS 'the present trouble; NULL when it is over';
COMMENT ON COLUMN velo.queries.retry_at IS 'when it is tried again, at the latest';
GRANT SELECT ON velo.queries TO PUBLIC;

CREATE VIEW velo.pipelines WITH (security_barrier) AS
	SELECT s.query, s.pipeline, s.pid, s.state, s.partitions,
		coalesce(p.records_in, 0) AS records_in,
		coalesce(p.rows_out, 0) AS rows_out,
		coalesce(p.late, 0) AS late,
		coalesce(p.tombstones, 0) AS tombstones,
		coalesce(p.dead_letters, 0) AS dead_letters,
		coalesce(p.skipped, 0) AS skipped,
		s.records_per_second, s.lag, s.watermark,
		coalesce(p.batches, 0) AS batches,
		s.batch_records_p50, s.batch_records_p95, s.batch_records_p99,
		s.poll_ms_p50, s.poll_ms_p95, s.poll_ms_p99,
		s.decode_ms_p50, s.decode_ms_p95, s.decode_ms_p99,
		s.eval_ms_p50, s.eval_ms_p95, s.eval_ms_p99,
		s.write_ms_p50, s.write_ms_p95, s.write_ms_p99,
		s.commit_ms_p50, s.commit_ms_p95, s.commit_ms_p99,
		s.queue_depth, s.queue_capacity, s.queue_high_water, s.backpressure_events,
		s.groups, s.open_windows, s.state_bytes, s.memory_bytes,
		s.restarts, s.started_at, s.last_commit_at
	FROM velo.pipeline_status() s
		LEFT JOIN velo.query_pipeline p
			ON p.query::pg_catalog.oid = s.id::pg_catalog.oid AND p.pipeline = s.pipeline;
COMMENT ON VIEW velo.pipelines IS 'the pipelines of the continuous queries in velo.queries';
COMMENT ON COLUMN velo.pipelines.lag IS 'records that were there when it looked last and are not committed as read';
COMMENT ON COLUMN velo.pipelines.records_per_second IS 'committed in the last second or so';
COMMENT ON COLUMN velo.pipelines.batch_records_p50 IS
	'as all percentiles: of the recent past, within a fifth; since the pipeline started';
COMMENT ON COLUMN velo.pipelines.queue_depth IS 'records that have been fetched and wait to be processed';
COMMENT ON COLUMN velo.pipelines.queue_capacity IS
	'records in the queue at which fetching stops; what is on its way then still comes';
COMMENT ON COLUMN velo.pipelines.queue_high_water IS 'most records that have waited since the pipeline started';
COMMENT ON COLUMN velo.pipelines.backpressure_events IS
	'times that fetching stopped since the pipeline started, for the queue was full';
COMMENT ON COLUMN velo.pipelines.state_bytes IS 'size of the state as of the last checkpoint';
COMMENT ON COLUMN velo.pipelines.memory_bytes IS 'memory of the state and the queue';
COMMENT ON COLUMN velo.pipelines.restarts IS
	'times that its worker was started anew since the server, or the query, was';
GRANT SELECT ON velo.pipelines TO PUBLIC;

CREATE VIEW velo.partitions WITH (security_barrier) AS
	SELECT s.name AS query,
		p.stream,
		coalesce(o.topic, c.relname::pg_catalog.text) AS topic,
		p.partition,
		p.pipeline,
		p.next_offset AS committed_offset,
		p.end_offset,
		greatest(p.end_offset - p.next_offset, 0) AS lag,
		p.watermark,
		p.idle
	FROM velo.query_status() s
		JOIN velo.query_partition p ON p.query::pg_catalog.oid = s.id::pg_catalog.oid
		JOIN pg_catalog.pg_class c ON c.oid = p.stream::pg_catalog.oid
		JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid
		LEFT JOIN LATERAL (
			SELECT option_value AS topic
			FROM pg_catalog.pg_options_to_table(t.ftoptions)
			WHERE option_name = 'topic') o ON true;
COMMENT ON VIEW velo.partitions IS 'what is committed of each partition that the queries in velo.queries read';
COMMENT ON COLUMN velo.partitions.committed_offset IS 'offset of the next record to read';
COMMENT ON COLUMN velo.partitions.end_offset IS 'offset behind the last record, when its pipeline looked last';
COMMENT ON COLUMN velo.partitions.idle IS
	'without a record for idle_timeout, so that it does not hold event time back';
GRANT SELECT ON velo.partitions TO PUBLIC;

-- Updatable as it is, so that DELETE works.
CREATE VIEW velo.dead_letters WITH (security_barrier) AS
	SELECT d.id,
		velo.query_name(d.query) AS query,
		d.kind,
		d.stream,
		d.topic,
		d.partition,
		d."offset",
		d."timestamp",
		CASE WHEN velo.may_read_letter(d.query, d.stream) THEN d.key END AS key,
		CASE WHEN velo.may_read_letter(d.query, d.stream) THEN d.value END AS value,
		CASE WHEN velo.may_read_letter(d.query, d.stream) THEN d.headers END AS headers,
		d.sqlstate,
		CASE WHEN velo.may_read_letter(d.query, d.stream) THEN d.message END AS message,
		CASE WHEN velo.may_read_letter(d.query, d.stream) THEN d.detail END AS detail,
		d.correlation_id,
		d.at
	FROM velo.dead_letter d
	WHERE velo.query_name(d.query) IS NOT NULL;
COMMENT ON VIEW velo.dead_letters IS
	'records that could not be processed, of the queries in velo.queries; DELETE removes what one owns';
GRANT SELECT, DELETE ON velo.dead_letters TO PUBLIC;
