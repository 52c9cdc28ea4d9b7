-- windowed queries: the clauses of the dialect, the functions, EMIT, what is late; PostgreSQL's own answer over ordinary
-- tables is the oracle, less the late records, which plain SQL tells
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = ISO;
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'query_window_' || extract(epoch FROM clock_timestamp()) AS topic \gset
CREATE SCHEMA streams;
CREATE SCHEMA tables;
CREATE SCHEMA results;
CREATE FUNCTION results.compare(result text, query text, OUT row_count bigint, OUT differences bigint)
LANGUAGE plpgsql SET search_path = tables, results AS $$
BEGIN
    EXECUTE format('WITH got AS (SELECT r::text FROM results.%I r), expected AS (SELECT r::text FROM (%s) r)
                    SELECT (SELECT count(*) FROM got),
                           (SELECT count(*) FROM ((TABLE got EXCEPT ALL TABLE expected)
                                                  UNION ALL (TABLE expected EXCEPT ALL TABLE got)) d)', result, query)
    INTO row_count, differences;
END $$;

-- two partitions whose times jump back by up to 40 seconds; the bound of disorder is 10 seconds, so some are late
SELECT velo.dev_create_topic(:'topic', 2);
SELECT velo.create_stream('streams.trades', 'n int, symbol text, price numeric, ts timestamptz,
        p int OPTIONS (metadata ''partition''), o bigint OPTIONS (metadata ''offset'')',
    topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '10 s');
INSERT INTO streams.trades (n, symbol, price, ts, p)
    SELECT i, (ARRAY['ACME', 'GLOBEX', NULL])[1 + i % 3], i * 37 % 211 / 4.0,
           timestamptz '2026-01-01 00:00Z' + i * interval '3 s' - (i * 29 % 41) * interval '1 s', i / 7 % 2
    FROM generate_series(1, 400) i;
CREATE TABLE tables.all_trades AS
    SELECT *, max(ts) OVER (PARTITION BY p ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - interval '10 s' AS watermark
    FROM streams.trades;
-- the records that enter a window of one minute; of each: with a grace of 15 seconds; with windows of 2 minutes every minute, per window
CREATE VIEW tables.trades AS SELECT * FROM tables.all_trades
    WHERE upper(velo.tumble(ts, '1 min')) > watermark OR watermark IS NULL;
CREATE VIEW tables.graceful AS SELECT * FROM tables.all_trades
    WHERE upper(velo.tumble(ts, '1 min')) + interval '15 s' > watermark OR watermark IS NULL;
CREATE VIEW tables.hops AS SELECT t.*, w FROM tables.all_trades t, velo.hop(ts, '2 min', '1 min') w
    WHERE upper(w) > watermark OR watermark IS NULL;
CREATE VIEW tables.minutes AS SELECT *, velo.tumble(ts, '1 min') AS w FROM tables.trades;
SELECT count(*) FROM tables.all_trades;
SELECT count(*) FROM tables.trades;
SELECT count(*) FROM tables.graceful;
SELECT count(*), count(DISTINCT n) FROM tables.hops;

-- each text, and what PostgreSQL is asked
SET search_path = results, streams;
CREATE TABLE cases (name text PRIMARY KEY, emit text, query text, plain text);
INSERT INTO cases VALUES
    ('tumbling', 'final', 'SELECT symbol, count(*), sum(price) FROM trades WINDOW TUMBLING(1m) GROUP BY symbol',
     'SELECT lower(w), upper(w), symbol, count(*), sum(price) FROM minutes GROUP BY w, symbol'),
    ('tumbling_after', 'final', 'SELECT symbol, count(*) FROM trades GROUP BY symbol WINDOW TUMBLING(60s)',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('tumbling_column', 'final', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(ts, INTERVAL ''1'' MINUTE) GROUP BY symbol',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('tumbling_changes', 'changes', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(1 minute) GROUP BY symbol EMIT CHANGES',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('tumbling_final', 'final', 'select symbol, count(*) from trades t window tumbling(t.ts, ''1 minute'') group by symbol emit final',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('no_group', 'final', 'SELECT count(*), array_agg(n ORDER BY n) AS a FROM trades WINDOW TUMBLING(1m)',
     'SELECT lower(w), upper(w), count(*), array_agg(n ORDER BY n) FROM minutes GROUP BY w'),
    ('named_start', 'final', 'SELECT window_start, symbol, count(*) FROM trades WINDOW TUMBLING(1m) GROUP BY window_start, symbol',
     'SELECT lower(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('named_end', 'final', 'SELECT count(*), _window_end AS until FROM trades WINDOW TUMBLING(1m)',
     'SELECT count(*), upper(w) FROM minutes GROUP BY w'),
    ('bound_expression', 'final', 'SELECT window_end - window_start AS length, extract(minute FROM window_start) AS m, count(*) FROM trades WINDOW TUMBLING(1m)',
     'SELECT lower(w), upper(w), upper(w) - lower(w), extract(minute FROM lower(w)), count(*) FROM minutes GROUP BY w'),
    ('having_', 'final', 'SELECT symbol, count(*) FROM trades WHERE price > 5 WINDOW TUMBLING(1m) GROUP BY symbol HAVING count(*) > 4 AND window_start > ''2026-01-01 00:05Z''',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes WHERE price > 5 GROUP BY w, symbol HAVING count(*) > 4 AND lower(w) > ''2026-01-01 00:05Z'''),
    ('grace', 'final', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(1m) GRACE 15s GROUP BY symbol',
     'SELECT lower(velo.tumble(ts, ''1 min'')) AS a, upper(velo.tumble(ts, ''1 min'')) AS b, symbol, count(*) FROM graceful GROUP BY 1, 2, symbol'),
    ('hopping', 'final', 'SELECT symbol, count(*), sum(price) FROM trades WINDOW HOPPING(2m, 1m) GROUP BY symbol',
     'SELECT lower(w), upper(w), symbol, count(*), sum(price) FROM hops GROUP BY w, symbol'),
    ('sliding', 'changes', 'SELECT symbol, max(n) FROM trades WINDOW SLIDING(ts, 120s, 60s) GROUP BY symbol EMIT CHANGES',
     'SELECT lower(w), upper(w), symbol, max(n) FROM hops GROUP BY w, symbol'),
    ('function', 'final', 'SELECT lower(velo.tumble(ts, ''1 min'')) AS start, symbol, count(*) FROM trades GROUP BY velo.tumble(ts, ''1 min''), symbol',
     'SELECT lower(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('function_range', 'final', 'SELECT velo.tumble(ts, ''1 min'') AS minute, symbol, count(*) FROM trades GROUP BY 1, 2',
     'SELECT lower(w), upper(w), w, symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('function_bare', 'final', 'SELECT symbol, count(*) FROM trades GROUP BY velo.tumble(ts, ''1 min''), symbol',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('clause_and_function', 'final', 'SELECT velo.tumble(ts, ''1 min'') AS minute, symbol, count(*) FROM trades WINDOW TUMBLING(1m) GROUP BY 1, 2',
     'SELECT lower(w), upper(w), w, symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('function_origin', 'final', 'SELECT symbol, count(*) FROM trades GROUP BY symbol, velo.tumble(ts, ''1 min'', ''2026-01-01 00:00:20Z'')',
     'SELECT lower(w), upper(w), symbol, count(*) FROM (SELECT *, velo.tumble(ts, ''1 min'', ''2026-01-01 00:00:20Z'') AS w FROM all_trades) x
      WHERE upper(w) > watermark OR watermark IS NULL GROUP BY w, symbol'),
    ('function_hop', 'final', 'SELECT lower(velo.hop(ts, ''2 min'', ''1 min'')) AS start, symbol, count(*) FROM trades GROUP BY velo.hop(ts, ''2 min'', ''1 min''), symbol',
     'SELECT lower(w), symbol, count(*) FROM hops GROUP BY w, symbol'),
    ('gaps', 'final', 'SELECT count(*) FROM trades WINDOW HOPPING(10s, 1m)',
     'SELECT lower(w), upper(w), count(*) FROM all_trades, velo.hop(ts, ''10 s'', ''1 min'') w WHERE upper(w) > watermark OR watermark IS NULL GROUP BY w'),
    ('days_of_a_zone', 'final', 'SELECT count(*) FROM trades GROUP BY velo.tumble(ts, ''1 day'', zone => ''Asia/Tokyo'')',
     'SELECT lower(w), upper(w), count(*) FROM (SELECT velo.tumble(ts, ''1 day'', zone => ''Asia/Tokyo'') AS w FROM all_trades) x GROUP BY w'),
    ('date_bin_', 'changes', 'SELECT date_bin(''1 min'', ts, ''2000-01-01'') AS minute, symbol, count(*) FROM trades GROUP BY 1, 2',
     'SELECT date_bin(''1 min'', ts, ''2000-01-01''), symbol, count(*) FROM all_trades GROUP BY 1, 2'),
    ('date_trunc_', 'changes', 'SELECT date_trunc(''minute'', ts) AS minute, count(DISTINCT symbol) FROM trades GROUP BY 1',
     'SELECT date_trunc(''minute'', ts), count(DISTINCT symbol) FROM all_trades GROUP BY 1'),
    ('date_trunc_final', 'final', 'SELECT date_trunc(''minute'', ts) AS minute, symbol, count(*) FROM trades GROUP BY 1, 2 EMIT FINAL',
     'SELECT lower(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('date_bin_final', 'final', 'SELECT date_bin(''1 min'', ts, ''2000-01-01'') AS minute, symbol, count(*) FROM trades GROUP BY 1, 2 EMIT FINAL',
     'SELECT lower(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('sub_select', 'final', 'SELECT s, count(*) FROM (SELECT symbol AS s, ts AS t FROM trades WHERE price > 9) x WINDOW TUMBLING(t, 1m) GROUP BY s',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes WHERE price > 9 GROUP BY w, symbol'),
    ('unnamed_sub_select', 'final', 'SELECT s, count(*) FROM (SELECT symbol AS s, ts AS t FROM trades) x WINDOW TUMBLING(1m) GROUP BY s',
     'SELECT lower(w), upper(w), symbol, count(*) FROM minutes GROUP BY w, symbol'),
    ('final_at_end', 'final', 'SELECT symbol, count(*) FROM trades GROUP BY symbol EMIT FINAL',
     'SELECT symbol, count(*) FROM all_trades GROUP BY symbol');

SELECT name FROM cases, velo.create_query(name, query, stop => 'end', pipelines => 1) q WHERE q::text <> quote_ident(name);
SELECT velo.wait(timeout => '2 min');
SELECT name, row_count, differences, q.emit = cases.emit AS emit, q."window", q.records_in, q.late
FROM cases JOIN velo.queries q USING (name), compare(q.name, plain) ORDER BY name;
SELECT name, state, error, dead_letters FROM velo.queries WHERE state <> 'finished' OR dead_letters > 0 ORDER BY name;
\d tumbling
\d named_end
SELECT * FROM tumbling ORDER BY window_start, symbol LIMIT 4;
SELECT count(velo.drop_query(name)) FROM velo.queries;
-- by two pipelines, which share the groups
SELECT count(velo.create_query(name, query, stop => 'end', pipelines => 2)) FROM cases WHERE name ~ '^(tumbling|hopping|sliding|grace|date|having|gaps)';
SELECT velo.wait(timeout => '2 min');
SELECT name, row_count, differences, q.late FROM cases JOIN velo.queries q USING (name), compare(q.name, plain) ORDER BY name;
SELECT count(velo.drop_query(name)) FROM velo.queries;

-- record by record: a window is open until the watermark reaches its end plus grace
SELECT velo.dev_create_topic(:'topic' || '.one');
SELECT velo.create_stream('streams.events', 'v text, ts timestamptz', topic => :'topic' || '.one', brokers => :'brokers',
    event_time => 'ts', watermark => '10 s', options => '{"idle_timeout": "1 h"}');
SELECT velo.create_query('final', 'SELECT string_agg(v, '' '' ORDER BY v) AS v FROM events WINDOW TUMBLING(1m)', on_late => 'dead_letter');
SELECT velo.create_query('changes', 'SELECT string_agg(v, '' '' ORDER BY v) AS v FROM events WINDOW TUMBLING(1m) EMIT CHANGES');
SELECT velo.create_query('generous', 'SELECT string_agg(v, '' '' ORDER BY v) AS v FROM events WINDOW TUMBLING(1m)', options => '{"grace": "30 s"}');
SELECT velo.create_query('filtered', 'SELECT string_agg(v, '' '' ORDER BY v) AS v FROM events WHERE v ~ ''[a-c]'' WINDOW TUMBLING(1m)', on_late => 'dead_letter');
CREATE VIEW progress AS SELECT name, records_in, late, dead_letters, watermark FROM velo.queries ORDER BY name;
INSERT INTO events VALUES ('a', '2026-01-01 00:00:00Z'), ('b', '2026-01-01 00:00:59.999999Z'), ('c', '2026-01-01 00:01:00Z');
SELECT velo.wait();
TABLE final;
TABLE changes ORDER BY window_start;
TABLE progress;
-- one microsecond before the end: open still, and so not late
INSERT INTO events VALUES ('d', '2026-01-01 00:01:09.999999Z'), ('e', '2026-01-01 00:00:30Z');
SELECT velo.wait();
TABLE final;
-- the watermark reaches the end: closed, what comes then is late
INSERT INTO events VALUES ('f', '2026-01-01 00:01:10Z'), ('g', '2026-01-01 00:00:31Z'), ('h', '2026-01-01 00:01:00.5Z');
SELECT velo.wait();
TABLE final;
TABLE generous;
TABLE changes ORDER BY window_start;
TABLE filtered;
TABLE progress;
SELECT query, kind, partition, "offset", convert_from(value, 'UTF8') AS value, sqlstate, message, detail FROM velo.dead_letters;
-- a jump closes all that it passes, and no window between that is empty
INSERT INTO events VALUES ('i', '2026-01-01 01:00:00Z'), ('j', '2026-01-01 00:59:59Z');
SELECT velo.wait();
TABLE final ORDER BY window_start;
TABLE generous ORDER BY window_start;
TABLE changes ORDER BY window_start;
TABLE progress;
-- an operator's hand
SELECT velo.advance_watermark('final', '2026-01-01 01:01:00Z');
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        EXIT WHEN (SELECT count(*) = 4 FROM final);
        PERFORM velo.wait('final');
    END LOOP;
END $$;
TABLE final ORDER BY window_start;
TABLE changes ORDER BY window_start;
SELECT velo.advance_watermark('final', 'infinity');
SELECT velo.advance_watermark('final', '2020-01-01');
INSERT INTO events VALUES ('k', '2026-01-01 01:00:30Z'), ('l', '2026-01-01 01:01:00Z');
SELECT velo.wait();
TABLE progress;
SELECT query, "offset" FROM velo.dead_letters ORDER BY 1, 2;

-- bad event times
INSERT INTO events VALUES ('null', NULL), ('infinite', 'infinity');
INSERT INTO events VALUES ('after', '2026-01-01 01:00:31Z');
SELECT velo.wait();
SELECT query, kind, "offset", sqlstate, message FROM velo.dead_letters WHERE kind <> 'late' ORDER BY 1, 3;
SELECT name, state, watermark FROM velo.queries ORDER BY 1;

-- the ends of time: a record whose window would be beyond them is a bad one, as velo.tumble() refuses it; no watermark is
-- before the first timestamp; date_bin() and date_trunc() need no end
SELECT velo.dev_create_topic(:'topic' || '.ends');
SELECT velo.create_stream('streams.ends', 'n int, ts timestamptz', topic => :'topic' || '.ends', brokers => :'brokers',
    event_time => 'ts', watermark => '10 s', options => '{"idle_timeout": "1 ms"}');
SELECT velo.create_query('e_tumbling', 'SELECT count(*) FROM ends WINDOW TUMBLING(1m)', on_late => 'dead_letter');
SELECT velo.create_query('e_hopping', 'SELECT count(*) FROM ends WINDOW HOPPING(2m, 1m)', on_late => 'dead_letter');
INSERT INTO ends VALUES (1, '4714-11-24 00:00:05+00 BC'), (2, '294276-12-31 23:57:30+00');
SELECT velo.wait('e_tumbling'), velo.wait('e_hopping');
SELECT query, partition, watermark FROM velo.partitions WHERE query LIKE 'e_%' ORDER BY 1;
INSERT INTO ends VALUES (3, '294276-12-31 23:59:59.999999+00'), (4, '294276-12-31 23:59:59.999999+00');
SELECT velo.create_query('e_trunc', 'SELECT date_trunc(''minute'', ts) AS t, count(*) FROM ends GROUP BY 1', emit => 'final', stop => 'end');
SELECT velo.create_query('e_bin', 'SELECT date_bin(''1 hour'', ts, ''2000-01-01'') AS t, count(*) FROM ends GROUP BY 1', emit => 'final', stop => 'end');
SELECT velo.wait('e_tumbling'), velo.wait('e_hopping'), velo.wait('e_trunc'), velo.wait('e_bin');
SELECT query, kind, "offset", sqlstate, message, detail FROM velo.dead_letters WHERE query LIKE 'e_%' ORDER BY 1, 3;
TABLE e_tumbling ORDER BY 1;
TABLE e_hopping ORDER BY 1;
TABLE e_trunc ORDER BY 1;
TABLE e_bin ORDER BY 1;
SELECT name, late, dead_letters, watermark BETWEEN '294276-12-31 23:59:49.999999+00' AND '294276-12-31 23:59:59.999999+00' AS watermark
FROM velo.queries WHERE name LIKE 'e_%' ORDER BY 1;

-- event time moves even where the work on a batch takes longer than it takes to be idle
SELECT velo.dev_create_topic(:'topic' || '.slow');
SELECT velo.create_stream('streams.slow_events', 'n int, ts timestamptz', topic => :'topic' || '.slow', brokers => :'brokers',
    event_time => 'ts', watermark => '0', options => '{"idle_timeout": "1 ms"}');
SELECT velo.create_query('slow', 'SELECT count(*) FROM slow_events WHERE pg_sleep(0.02) IS NOT NULL WINDOW TUMBLING(1m)');
INSERT INTO slow_events VALUES (1, '2026-01-01 00:00:00Z');
SELECT velo.wait('slow', '20 s');
INSERT INTO slow_events VALUES (2, '2026-01-01 02:00:00Z');
SELECT velo.wait('slow', '20 s');
TABLE slow;

-- what has a window of its own is no column of the stream's, unless it says which
SELECT velo.create_stream('streams.bounds', 'window_start int, ts timestamptz', topic => :'topic' || '.one', brokers => :'brokers',
    event_time => 'ts', watermark => '10 s');
SELECT velo.create_query('b', 'SELECT window_start, count(*) FROM bounds WINDOW TUMBLING(1m) GROUP BY window_start');

SET client_min_messages = warning;
DROP SCHEMA results, streams, tables CASCADE;
SELECT count(*) FROM velo.queries;
