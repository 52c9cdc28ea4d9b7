-- Queries: what works without a broker.  Nothing listens on port 1, so the queries here wait for their topics.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS velo;
CREATE SCHEMA query_test;
SET search_path = query_test, public;
SELECT velo.create_stream('trades', 'symbol text, price float8, ts timestamptz', brokers => '127.0.0.1:1',
	event_time => 'ts', watermark => '1 s');

-- creation
SELECT velo.create_query('volume', $$
	SELECT symbol, count(*) AS n, sum(price) AS total FROM trades GROUP BY symbol
$$, options => '{"batch_size": 100, "commit_interval": "1 second"}');
\d volume
SELECT obj_description('volume'::regclass);
SELECT name, state, sink, target, emit, "window", pipelines, running, records_in, rows_out, lag,
	watermark, error IS NOT NULL AS error, owner = current_user::regrole AS owner, query
	FROM velo.queries;
SELECT * FROM velo.pipelines;
SELECT * FROM velo.partitions;
SELECT * FROM velo.dead_letters;

-- in a transaction
BEGIN;
SELECT velo.create_query('gone', 'SELECT symbol FROM trades');
SELECT velo.wait('gone');
ROLLBACK;
SELECT name FROM velo.queries;
SELECT velo.wait('volume', '100 ms');

-- names
SELECT velo.create_query('volume', 'SELECT symbol FROM trades');
CREATE TABLE taken ();
SELECT velo.create_query('taken', 'SELECT symbol FROM trades');
SELECT velo.create_query('no_such_schema.q', 'SELECT symbol FROM trades');
SELECT velo.create_query('pg_temp.q', 'SELECT symbol FROM trades');
SELECT velo.create_query('"Strange name"', 'SELECT symbol FROM trades');
SELECT name FROM velo.queries ORDER BY name;
SET search_path = public;
SELECT name, target FROM velo.queries ORDER BY name;
SELECT velo.drop_query('"Strange name"');
SELECT velo.create_query('other_database.public.q', 'SELECT symbol FROM trades');
SELECT velo.drop_query('other_database.query_test.volume');
SELECT velo.create_query('a.b.c.d', 'SELECT symbol FROM trades');
SELECT velo.drop_query('query_test."Strange name"');
ALTER SCHEMA query_test RENAME TO query_renamed;
SELECT name FROM velo.queries;
ALTER SCHEMA query_renamed RENAME TO query_test;
SET search_path = query_test, public;
ALTER TABLE volume RENAME TO renamed;
SELECT name, target FROM velo.queries;
ALTER TABLE renamed RENAME TO volume;

-- arguments
SELECT velo.create_query(NULL, 'SELECT symbol FROM trades');
SELECT velo.create_query('bad', NULL);
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', sink => 'topic');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', sink => 'drain');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', emit => 'often');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', stop => 'soon');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', start => 'somewhere');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', start => 'other:0:0');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', pipelines => 0);
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', pipelines => 1000);
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', on_error => 'panic');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', on_late => 'panic');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"size": 1}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"batch_size": 0}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"batch_size": []}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"grace": "-1 s"}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"grace": "long"}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"on_gap": "jump"}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"pipeline_memory": "1 kB"}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '[]');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"size": null}');
SELECT velo.create_query('bad', 'SELECT symbol FROM trades', options => '{"idle_timeout": true}');
SELECT velo.create_query('bad', 'SELECT symbol AS relname FROM trades', target => 'pg_class');
SELECT velo.create_query('bad', 'SELECT symbol AS name FROM trades', target => 'velo.query');
SELECT to_regclass('bad');
-- a time looks like an offset of a topic
SELECT velo.create_query('at', 'SELECT symbol FROM trades', start => '2026-01-01 00:00:05');
SELECT start::timestamptz = '2026-01-01 00:00:05' AS same FROM velo.query WHERE name = 'at';
SELECT velo.drop_query('at');

-- nothing changes in a read-only transaction
BEGIN READ ONLY;
\set ON_ERROR_ROLLBACK on
SELECT velo.create_query('q', 'SELECT symbol FROM trades');
SELECT velo.drop_query('volume');
SELECT velo.pause_query('volume');
SELECT velo.resume_query('volume');
SELECT velo.restart_query('volume');
SELECT velo.alter_query('volume', '{}');
SELECT velo.advance_watermark('volume', now());
\set ON_ERROR_ROLLBACK off
COMMIT;

-- existing targets
CREATE TABLE target (symbol text, n int, extra int DEFAULT 1);
SELECT velo.create_query('t', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol', target => 'target');
CREATE UNIQUE INDEX ON target (symbol);
SELECT velo.create_query('t', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol', target => 'target');
CREATE UNIQUE INDEX ON target (symbol) NULLS NOT DISTINCT;
SELECT velo.create_query('t', 'SELECT symbol, count(*) AS m FROM trades GROUP BY symbol', target => 'target');
SELECT velo.create_query('t', 'SELECT symbol, ts AS n FROM trades', target => 'target');
SELECT velo.create_query('t', 'SELECT symbol, count(*) AS n FROM trades GROUP BY symbol', target => 'target');
SELECT velo.create_query('v', 'SELECT symbol FROM trades', target => 'velo.queries');
SELECT velo.restart_query('t', 'earliest');
DROP TABLE target;
SELECT velo.drop_query('t');
\d target

-- control
SELECT velo.pause_query('volume');
SELECT state FROM velo.queries;
SELECT velo.wait('volume');
SELECT velo.alter_query('volume', '{"on_error": "skip", "batch_size": null, "grace": 5}');
SELECT on_error, options FROM velo.query;
SELECT velo.alter_query('volume', '{"on_error": "never"}');
SELECT velo.alter_query('volume', '{"colour": "blue"}');
SELECT velo.advance_watermark('volume', now());
SELECT velo.resume_query('volume');
SELECT velo.resume_query('no_such_query');

-- rights
CREATE ROLE query_owner;
CREATE ROLE query_other;
CREATE ROLE query_monitor IN ROLE pg_monitor;
GRANT USAGE, CREATE ON SCHEMA query_test TO query_owner, query_other, query_monitor;
SET ROLE query_owner;
SELECT velo.create_query('mine', 'SELECT symbol FROM trades');
SELECT velo.pause_query('volume');
SELECT name FROM velo.queries;
RESET ROLE;
GRANT SELECT ON trades TO query_owner;
SET ROLE query_owner;
\set VERBOSITY terse
SELECT velo.create_query('mine', 'SELECT symbol FROM trades', target => 'volume');
\set VERBOSITY default
SELECT velo.create_query('mine', 'SELECT symbol FROM trades', options => '{"pipeline_memory": "1TB"}');
SELECT velo.create_query('mine', 'SELECT symbol FROM trades');
SELECT name, owner FROM velo.queries;
SELECT * FROM velo.query;
DROP VIEW velo_queries.mine;
RESET ROLE;
INSERT INTO velo.dead_letter (query, kind, stream, topic, partition, "offset", value, message, correlation_id, at)
	SELECT id, 'decode', 'trades', 'trades', 0, 7, 'secret', 'because', name || '/trades/0/7', now() FROM velo.query;
SET ROLE query_monitor;
SELECT query, kind, "offset", value, message, correlation_id FROM velo.dead_letters ORDER BY query;
DELETE FROM velo.dead_letters;
SET ROLE query_other;
SELECT query, kind, "offset", value, message, correlation_id FROM velo.dead_letters;
SELECT velo.drop_query('mine');
SET ROLE query_owner;
SELECT query, kind, "offset", value, message, correlation_id FROM velo.dead_letters;
RESET ROLE;
REVOKE SELECT ON trades FROM query_owner;
SET ROLE query_owner;
SELECT query, kind, "offset", value, message, correlation_id FROM velo.dead_letters;
DELETE FROM velo.dead_letters;
RESET ROLE;
SELECT query, kind, "offset", value, message, correlation_id FROM velo.dead_letters;

-- a superuser who restarts a query doesn't lend its owner a hand
SET ROLE query_owner;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''emptied by %'', current_user; RETURN NULL; END';
CREATE TRIGGER tell AFTER TRUNCATE ON mine EXECUTE FUNCTION tell();
RESET ROLE;
GRANT SELECT ON trades TO query_owner;
SET client_min_messages = warning;
\set VERBOSITY terse
SELECT velo.restart_query('mine', 'latest');
SET client_min_messages = error;
REVOKE SELECT ON trades FROM query_owner;

-- owners
DROP ROLE query_owner;
\set VERBOSITY default
REASSIGN OWNED BY query_owner TO query_other;
SELECT name, state, error, error_hint, owner FROM velo.queries WHERE name = 'mine';
SELECT velo.resume_query('mine');
GRANT SELECT ON trades TO query_other;
SELECT velo.resume_query('mine');
SELECT name, state <> 'paused' AS resumed FROM velo.queries WHERE name = 'mine';

-- the end of a query, whatever drops it
\set VERBOSITY terse
DROP TABLE volume;
DROP FOREIGN TABLE trades;
\set VERBOSITY default
DROP OWNED BY query_owner, query_other, query_monitor;
SELECT name FROM velo.queries;
DROP TABLE volume CASCADE;
SELECT name FROM velo.queries;
SELECT velo.create_query('kept', 'SELECT symbol FROM trades');
SELECT velo.drop_query('kept', keep_results => true);
\d kept
SELECT velo.create_query('dropped', 'SELECT symbol FROM trades');
SELECT velo.drop_query('dropped');
SELECT to_regclass('dropped');
SELECT velo.create_query('last', 'SELECT symbol FROM trades');
DROP SCHEMA query_test CASCADE;
SELECT (SELECT count(*) FROM velo.query) + (SELECT count(*) FROM velo.query_error)
	+ (SELECT count(*) FROM velo.dead_letter) AS left_over;
DROP ROLE query_owner, query_other, query_monitor;
RESET search_path;

-- every object has a comment, and PUBLIC may use what it should
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'velo'::regnamespace
	AND (obj_description(p.oid, 'pg_proc') IS NULL OR NOT has_function_privilege('public', p.oid, 'EXECUTE'));
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'velo'::regnamespace AND relkind IN ('r', 'v')
	AND (obj_description(c.oid, 'pg_class') IS NULL
		OR (relkind = 'v') <> has_table_privilege('public', c.oid, 'SELECT'));
