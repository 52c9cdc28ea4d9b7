-- a stream in plain SQL: INSERT makes records, SELECT reads what the topic holds
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = ISO;
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'insert_select_' || extract(epoch FROM clock_timestamp()) AS topic \gset
CREATE SCHEMA insert_select;
SET search_path = insert_select;

-- what goes in comes out, in the order of the offsets
SELECT velo.dev_create_topic(:'topic', 2);
SELECT velo.create_stream('trades', 'symbol text, price numeric, volume bigint, ts timestamptz, tags text[], extra jsonb, ok bool,
        p int OPTIONS (metadata ''partition''), o bigint OPTIONS (metadata ''offset''), written timestamptz OPTIONS (metadata ''timestamp'')',
    topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '1 s', key => 'symbol');
SELECT * FROM trades;
SELECT count(*), max(price) FROM trades;
INSERT INTO trades (symbol, price, volume, ts, tags, extra, ok, p, written) VALUES
    ('ACME', 1.50, 9007199254740993, '2026-01-01 00:00:00.000001', '{a,NULL,"b,c"}', '{"k": [1, null]}', true, 0, '2026-01-02 03:04:05.678Z'),
    ('Ünï "x"', 'NaN', -1, '1999-12-31 23:59:59.999999+02', '{}', '"text"', false, 1, '2026-01-02 03:04:05.679Z'),
    (NULL, NULL, NULL, '2026-01-01', NULL, NULL, NULL, 0, '2026-01-02 03:04:05.68Z');
SELECT * FROM trades ORDER BY p, o;
SELECT symbol, tags[3], extra->'k'->>0 AS k FROM trades WHERE p = 0 AND o < 1;
INSERT INTO trades (symbol, ts, p) SELECT 'S' || i % 3, timestamptz '2026-01-01' + i * interval '1 s', i % 2 FROM generate_series(1, 1000) i;
SELECT p, count(*), min(o), max(o), count(DISTINCT o) FROM trades GROUP BY p ORDER BY p;
SELECT symbol, count(*) FROM trades WHERE o >= 400 AND p = 1 GROUP BY symbol ORDER BY symbol;
SELECT count(*) FROM trades WHERE o BETWEEN 10 AND 19 AND p IN (0, 1);
SELECT count(*) FROM trades WHERE p = 7;
SELECT count(*) FROM trades WHERE written < '2026-01-02 03:04:05.68Z';
SELECT o FROM trades WHERE p = 1 LIMIT 3;

-- as any table: joins, sub-selects, windows, set operations, EXPLAIN, cursors, prepared statements, views
SELECT a.symbol, count(*) FROM (SELECT DISTINCT symbol FROM trades) a JOIN trades b USING (symbol) GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM trades WHERE price > (SELECT avg(price) FROM trades WHERE price <> 'NaN');
SELECT symbol, o, row_number() OVER (PARTITION BY symbol ORDER BY o) AS n FROM trades WHERE p = 0 ORDER BY 1, 2 LIMIT 3;
CREATE FUNCTION explained(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ' || query LOOP
        CONTINUE WHEN line ~ 'Topic:|Bytes|actual rows';
        RETURN NEXT line;
    END LOOP;
END $$;
SELECT explained('SELECT 1 FROM trades WHERE p = 0');
BEGIN;
DECLARE c CURSOR FOR SELECT p, o FROM trades WHERE p = 0;
FETCH 2 FROM c;
INSERT INTO trades (symbol, ts, p) VALUES ('late to the cursor', '2026-01-01', 0);
MOVE ALL IN c;
COMMIT;
PREPARE by_partition(int) AS SELECT count(*) FROM trades WHERE p = $1;
EXECUTE by_partition(0);
EXECUTE by_partition(1);
CREATE TABLE copied AS SELECT symbol, ts FROM trades;
SELECT count(*) FROM copied;

-- where a record goes: by its key, as Kafka's own producers would have it; the key is the text of the column
SELECT velo.create_stream('keyed', 'symbol text, k text OPTIONS (metadata ''key''), v int,
        headers jsonb OPTIONS (metadata ''headers''), p int OPTIONS (metadata ''partition'')',
    topic => :'topic' || '.keyed', brokers => :'brokers', key => 'symbol');
SELECT velo.dev_create_topic(:'topic' || '.keyed', 4);
INSERT INTO keyed (symbol, v) SELECT 'k' || i % 7, i FROM generate_series(1, 70) i;
SELECT count(DISTINCT (symbol, p)) AS places, count(DISTINCT symbol) AS symbols, count(DISTINCT p) > 1 AS spread, count(*) FROM keyed;
SELECT DISTINCT symbol, k FROM keyed ORDER BY 1 LIMIT 2;
INSERT INTO keyed (symbol, k, v, headers) VALUES ('a', 'my own', 100, '[{"key": "h", "value": "v"}, {"key": "h", "value": null}]');
SELECT symbol, k, v, headers FROM keyed WHERE v = 100;
INSERT INTO keyed (symbol, v, headers) VALUES ('a', 101, '{"not": "an array"}');
\set VERBOSITY sqlstate
INSERT INTO keyed (symbol, v, p) VALUES ('a', 102, 9);
\set VERBOSITY default
INSERT INTO keyed (symbol, v, p) VALUES ('a', 103, -1);
SELECT velo.create_stream('two_keys', 'a text, b int, k jsonb OPTIONS (metadata ''key'')',
    topic => :'topic' || '.two', brokers => :'brokers', key => 'b, a');
SELECT velo.dev_create_topic(:'topic' || '.two');
INSERT INTO two_keys (a, b) VALUES ('x', 1), (NULL, 2);
SELECT * FROM two_keys ORDER BY b;

-- paths, units and the whole value
SELECT velo.create_stream('nested', 'id int, city text OPTIONS (field ''address.city''), zip text OPTIONS (field ''address.zip''),
        s timestamptz OPTIONS (unit ''s''), ms timestamptz, us timestamptz OPTIONS (unit ''us''), value text OPTIONS (metadata ''value'')',
    topic => :'topic' || '.nested', brokers => :'brokers');
SELECT velo.create_stream('raw', 'line text', topic => :'topic' || '.nested', brokers => :'brokers', format => 'raw');
SELECT velo.dev_create_topic(:'topic' || '.nested');
INSERT INTO raw VALUES ('{"id": 1, "address": {"city": "Berlin", "zip": 10115}, "s": 1767225600, "ms": 1767225600123, "us": 1767225600123456}'),
    ('{"id": "2", "address": {}, "s": 1767225600.5, "ms": "2026-01-01T00:00:00Z", "id": 3, "more": [1, {"x": null}]}'),
    ('{"address": null, "s": 1.7672256e9}'), ('{}');
SELECT id, city, zip, s, ms, us, length(value) FROM nested;
INSERT INTO nested (id, city, s, ms) VALUES (5, 'Paris', '2026-01-01', '2026-01-01');
SELECT line FROM raw OFFSET 4;
SELECT id, city, zip, s, ms FROM nested OFFSET 4;

-- bad records fail the statement, or are skipped, as the stream says; a value of none is no row
INSERT INTO raw VALUES ('no json'), ('{"id": 1e3}'), ('[1]'), (''), ('{"id": 7}'), (NULL);
\set SHOW_CONTEXT never
SELECT id FROM nested OFFSET 5;
\set SHOW_CONTEXT errors
ALTER FOREIGN TABLE nested OPTIONS (ADD on_error 'skip');
SELECT id FROM nested OFFSET 5;
SELECT count(*) FROM raw;
-- columns that nobody asks for are not looked at, but the syntax is
SELECT count(*) FROM nested;

-- a stream only grows
\set VERBOSITY terse
UPDATE trades SET price = 1;
DELETE FROM trades;
MERGE INTO trades t USING copied c ON c.symbol = t.symbol WHEN NOT MATCHED THEN INSERT (symbol) VALUES ('x');
INSERT INTO trades (symbol) VALUES ('x') ON CONFLICT DO NOTHING;
TRUNCATE trades;
\set VERBOSITY default
INSERT INTO keyed (symbol, v) VALUES ('r', 1) RETURNING symbol, v, k;
INSERT INTO keyed DEFAULT VALUES;
COPY keyed (symbol, v) FROM stdin;
copied	7
\.
SELECT symbol, v FROM keyed WHERE v = 7 OR v IS NULL ORDER BY v, symbol;
COPY (SELECT v FROM two_keys t, LATERAL (SELECT t.b AS v) x ORDER BY v) TO stdout;

SET client_min_messages = warning;
DROP SCHEMA insert_select CASCADE;
