-- the views: their columns, in order; what they count; who sees what
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = ISO;
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'views_' || extract(epoch FROM clock_timestamp()) AS topic \gset
CREATE SCHEMA views;
SET search_path = views;
SELECT relname, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE relnamespace = 'velo'::regnamespace AND relkind = 'v' AND attnum > 0
GROUP BY relname ORDER BY relname;
-- every object of the extension has a comment, and PUBLIC's rights
SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'velo') AND deptype = 'e'
    AND obj_description(objid, classid::regclass::name) IS NULL
    AND classid NOT IN ('pg_type'::regclass) ORDER BY 1;
SELECT relname, has_table_privilege('public', c.oid, 'SELECT') AS readable FROM pg_class c
WHERE relnamespace = 'velo'::regnamespace AND relkind = 'v' ORDER BY 1;
SELECT proname FROM pg_proc WHERE pronamespace = 'velo'::regnamespace AND NOT has_function_privilege('public', oid, 'EXECUTE') ORDER BY 1;
SELECT has_schema_privilege('public', 'velo', 'USAGE') AS usage, has_schema_privilege('public', 'velo', 'CREATE') AS create,
       has_server_privilege('public', 'velo', 'USAGE') AS server;
SELECT name, setting, unit, context FROM pg_settings WHERE name LIKE 'velo.%' AND name <> 'velo.dev_broker_port' ORDER BY name;

-- what is counted: good records, bad ones, late ones, tombstones
SELECT velo.dev_create_topic(:'topic', 2);
SELECT velo.create_stream('s', 'k text, v int, ts timestamptz', topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '5 s', key => 'k');
SELECT velo.create_stream('r', 'line text, key text OPTIONS (metadata ''key''), h jsonb OPTIONS (metadata ''headers''), at timestamptz OPTIONS (metadata ''timestamp''),
    p int OPTIONS (metadata ''partition'')', topic => :'topic', brokers => :'brokers', format => 'raw');
INSERT INTO r (p, line, key, h) VALUES
    (0, '{"k": "a", "v": 1, "ts": "2026-01-01T00:00:00Z"}', 'a', NULL),
    (0, '{"k": "a", "v": 1', 'bad', '[{"key": "trace", "value": "1"}]'),
    (0, NULL, 'tombstone', NULL),
    (0, '{"k": "a", "v": 0, "ts": "2026-01-01T00:00:01Z"}', 'zero', NULL),
    (0, '{"k": "a", "v": 2, "ts": "2026-01-01T00:01:05Z"}', 'a', NULL),
    (0, '{"k": "a", "v": 5, "ts": "2026-01-01T00:00:02Z"}', 'late', NULL),
    (1, '{"k": "b", "v": 4, "ts": "2026-01-01T00:00:03Z"}', 'b', NULL);
SELECT velo.create_query('w', 'SELECT k, sum(10 / v) FROM s WINDOW TUMBLING(1m) GROUP BY k', on_late => 'dead_letter', stop => 'end');
SELECT velo.create_query('a', 'SELECT k, 10 / v AS x FROM s', on_error => 'skip', pipelines => 1);
SELECT velo.wait();
SELECT name, state, sink, target, emit, "window", pipelines, records_in, rows_out, late, tombstones, dead_letters, skipped, lag,
       watermark, error, error_sqlstate, error_hint, error_at, retry_at, owner = current_user::regrole AS owner, created_at <= now() AS created, query
FROM velo.queries ORDER BY name;
TABLE w ORDER BY k, window_start;
TABLE a ORDER BY k, x;
SELECT query, pipeline, replace(partitions::text, :'topic', 'TOPIC') AS partitions, records_in, late, tombstones, dead_letters, skipped, lag, watermark
FROM velo.pipelines ORDER BY query, pipeline;
SELECT query, pipeline, state, pid IS NOT NULL AS pid, batches > 0 AS batches, batch_records_p50 > 0 AS records, commit_ms_p50 > 0 AS commits,
       queue_capacity > 0 AS capacity, restarts, started_at <= last_commit_at AS committed
FROM velo.pipelines WHERE query = 'a';
SELECT query, stream, replace(topic, :'topic', 'TOPIC') AS topic, partition, pipeline, committed_offset, end_offset, lag, watermark, idle
FROM velo.partitions ORDER BY query, partition;
SELECT query, kind, stream, replace(topic, :'topic', 'TOPIC') AS topic, partition, "offset", "timestamp" IS NOT NULL AS ts, convert_from(key, 'UTF8') AS key,
       length(value) AS value, headers, sqlstate, message, detail, replace(correlation_id, :'topic', 'TOPIC') AS correlation_id, at <= now() AS at
FROM velo.dead_letters ORDER BY "offset";
SELECT stream, source, replace(topic, :'topic', 'TOPIC') AS topic, format, event_time, watermark, key, queries FROM velo.streams
WHERE stream::text IN ('s', 'r') ORDER BY stream::text;
SELECT DISTINCT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'velo %' ORDER BY 1;
SELECT query FROM pg_stat_activity WHERE pid = (SELECT pid FROM velo.pipelines WHERE query = 'a');

-- who sees what
CREATE ROLE regress_velo_owner LOGIN;
CREATE ROLE regress_velo_other LOGIN;
CREATE ROLE regress_velo_monitor LOGIN IN ROLE pg_monitor;
GRANT USAGE, CREATE ON SCHEMA views TO regress_velo_owner;
GRANT USAGE ON SCHEMA views TO regress_velo_other, regress_velo_monitor;
GRANT SELECT ON s TO regress_velo_owner;
SET ROLE regress_velo_owner;
SELECT velo.create_query('o', 'SELECT k, 10 / v AS x FROM s', stop => 'end');
SELECT velo.wait('o');
CREATE VIEW seen AS SELECT current_user, (SELECT string_agg(name, ' ' ORDER BY name) FROM velo.queries) AS queries,
    (SELECT string_agg(DISTINCT query, ' ' ORDER BY query) FROM velo.pipelines) AS pipelines,
    (SELECT string_agg(DISTINCT query, ' ' ORDER BY query) FROM velo.partitions) AS partitions,
    (SELECT string_agg(stream::text, ' ' ORDER BY stream::text) FROM velo.streams WHERE stream::text IN ('s', 'r')) AS streams;
ALTER VIEW seen SET (security_invoker);
GRANT SELECT ON seen TO PUBLIC;
SELECT query, kind, "offset", key IS NULL AS key, value IS NULL AS value, message FROM velo.dead_letters ORDER BY 1, 3;
TABLE seen;
SET ROLE regress_velo_other;
TABLE seen;
SELECT count(*) FROM velo.dead_letters;
DELETE FROM velo.dead_letters;
SELECT count(*) FROM velo.query;
SELECT count(*) FROM velo.dead_letter;
SET ROLE regress_velo_monitor;
TABLE seen;
SELECT query, kind, "offset", sqlstate, key, value, headers, message, detail FROM velo.dead_letters ORDER BY 1, 3;
-- not even by a condition that tells what it sees
CREATE FUNCTION pg_temp.tell(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END';
SELECT count(*) FROM velo.dead_letters WHERE pg_temp.tell(message);
DELETE FROM velo.dead_letters;
RESET ROLE;
REVOKE SELECT ON s FROM regress_velo_owner;
GRANT SELECT (k, v) ON s TO regress_velo_owner;
SET ROLE regress_velo_owner;
SELECT query, kind, "offset", key IS NULL AS key, value IS NULL AS value, message FROM velo.dead_letters ORDER BY 1, 3;
DELETE FROM velo.dead_letters WHERE kind = 'decode';
INSERT INTO velo.dead_letters (kind) VALUES ('x');
UPDATE velo.dead_letters SET kind = 'x';
RESET ROLE;
SELECT query, kind, "offset" FROM velo.dead_letters ORDER BY 1, 3;
-- letters go with their query
SELECT velo.drop_query('o'), velo.drop_query('w');
SELECT count(*) FROM velo.dead_letters;

SET client_min_messages = warning;
DROP OWNED BY regress_velo_owner, regress_velo_other, regress_velo_monitor CASCADE;
DROP ROLE regress_velo_owner, regress_velo_other, regress_velo_monitor;
DROP SCHEMA views CASCADE;
SELECT count(*) FROM velo.queries;
