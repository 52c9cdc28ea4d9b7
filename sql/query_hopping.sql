-- windows that overlap, by many and over all kinds of keys; the oracle names the windows of a time without velo
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'query_hopping_' || extract(epoch FROM clock_timestamp()) AS topic \gset
CREATE SCHEMA streams;
CREATE SCHEMA tables;
CREATE SCHEMA results;
CREATE FUNCTION tables.hop(ts timestamptz, size interval, slide interval, OUT window_start timestamptz, OUT window_end timestamptz)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT s, s + size FROM generate_series(date_bin(slide, ts - size, '1970-01-01Z') + slide, date_bin(slide, ts, '1970-01-01Z'), slide) s
$$;
CREATE FUNCTION results.compare(result text, query text, OUT row_count bigint, OUT differences bigint)
LANGUAGE plpgsql SET search_path = tables, results AS $$
BEGIN
    EXECUTE format('WITH got AS (SELECT r::text FROM results.%I r), expected AS (SELECT r::text FROM (%s) r)
                    SELECT (SELECT count(*) FROM got),
                           (SELECT count(*) FROM ((TABLE got EXCEPT ALL TABLE expected)
                                                  UNION ALL (TABLE expected EXCEPT ALL TABLE got)) d)', result, query)
    INTO row_count, differences;
END $$;

-- about 12 records a second, in disorder by up to 40 seconds; every hundredth is of one of the days before
SELECT velo.dev_create_topic(:'topic');
SELECT velo.create_stream('streams.ticks', 'n int, symbol text, amount numeric, price float8, cash money, ts timestamptz,
        o bigint OPTIONS (metadata ''offset'')',
    topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '30 days');
INSERT INTO streams.ticks (n, symbol, amount, price, cash, ts)
    SELECT i, nullif('S' || i * 7919 % 50, 'S7'), round(i % 13, i % 3), i * 7919 % 10007 / 7.0, (i % 11)::money,
           timestamptz '2026-01-31 00:00Z' + i * interval '80 ms' - (i * 7919 % 41) * interval '1 s'
           - CASE WHEN i % 100 = 0 THEN i / 100 % 25 ELSE 0 END * interval '1 day'
    FROM generate_series(1, 12000) i;
CREATE TABLE tables.ticks AS SELECT * FROM streams.ticks ORDER BY o;
-- the same records, a bound of 10 seconds: some are late for some of their windows, some for all
SELECT velo.create_stream('streams.strict', 'n int, symbol text, price float8, ts timestamptz',
    topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '10 s');
CREATE TABLE tables.strict AS
    SELECT n, symbol, price, ts, o, max(ts) OVER (ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - interval '10 s' AS watermark
    FROM tables.ticks ORDER BY o;
-- values that PostgreSQL keeps compressed, or out of line
CREATE TABLE tables.labels AS
    SELECT 'S' || i AS symbol, CASE WHEN i % 2 = 0 THEN repeat(i % 5 || '-', 2000) ELSE string_agg(md5((i % 5 * j)::text), '') END AS label
    FROM generate_series(0, 49) i, generate_series(1, 70) j GROUP BY i;
ANALYZE tables.labels;

SET search_path = results, streams, tables;
CREATE TABLE cases (name text PRIMARY KEY, query text, plain text);
INSERT INTO cases VALUES
    ('many_windows', 'SELECT symbol, count(*), min(n) FROM ticks WHERE n < 3000 WINDOW HOPPING(2m, 1s) GROUP BY symbol EMIT FINAL',
     'SELECT window_start, window_end, symbol, count(*), min(n) FROM ticks, hop(ts, ''2 min'', ''1 s'') WHERE n < 3000 GROUP BY 1, 2, 3'),
    ('uneven', 'SELECT symbol, sum(price) AS s, avg(price) AS a, stddev(price) AS d FROM ticks WINDOW HOPPING(2m, 7s) GROUP BY symbol EMIT FINAL',
     'SELECT window_start, window_end, symbol, sum(price), avg(price), stddev(price) FROM ticks, hop(ts, ''2 min'', ''7 s'') GROUP BY 1, 2, 3'),
    ('many_keys', 'SELECT n % 10007 AS k, count(*) FROM ticks WINDOW HOPPING(3m, 1m) GROUP BY 1 EMIT CHANGES',
     'SELECT window_start, window_end, n % 10007, count(*) FROM ticks, hop(ts, ''3 min'', ''1 min'') GROUP BY 1, 2, 3'),
    ('two_keys', 'SELECT symbol, n % 5 AS m, count(*), sum(amount) FROM ticks WINDOW HOPPING(1m, 20s) GROUP BY 1, 2 EMIT CHANGES',
     'SELECT window_start, window_end, symbol, n % 5, count(*), sum(amount) FROM ticks, hop(ts, ''1 min'', ''20 s'') GROUP BY 1, 2, 3, 4'),
    ('equal_keys', 'SELECT amount, count(*), sum(n) FROM ticks WINDOW HOPPING(1m, 10s) GROUP BY amount EMIT FINAL',
     'SELECT window_start, window_end, (array_agg(amount ORDER BY o))[1], count(*), sum(n) FROM ticks, hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2, amount'),
    ('unhashed_keys', 'SELECT cash, count(*), max(n) FROM ticks WINDOW HOPPING(1m, 10s) GROUP BY cash EMIT FINAL',
     'SELECT window_start, window_end, cash, count(*), max(n) FROM ticks, hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2, 3'),
    ('long_keys', 'SELECT label, count(*) FROM ticks JOIN labels USING (symbol) WINDOW HOPPING(1m, 10s) GROUP BY label EMIT FINAL',
     'SELECT window_start, window_end, label, count(*) FROM ticks JOIN labels USING (symbol), hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2, 3'),
    ('long_values', 'SELECT n % 7 AS m, count(DISTINCT label) FROM ticks JOIN labels USING (symbol) WINDOW HOPPING(1m, 10s) GROUP BY 1 EMIT FINAL',
     'SELECT window_start, window_end, n % 7, count(DISTINCT label) FROM ticks JOIN labels USING (symbol), hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2, 3'),
    ('sorted_values', 'SELECT symbol, sum(DISTINCT price) AS s FROM ticks WHERE n < 3000 WINDOW HOPPING(1m, 10s) GROUP BY symbol EMIT FINAL',
     'SELECT window_start, window_end, symbol, sum(DISTINCT price) FROM ticks, hop(ts, ''1 min'', ''10 s'') WHERE n < 3000 GROUP BY 1, 2, 3'),
    ('no_keys', 'SELECT count(*), string_agg(n::text, '','' ORDER BY n DESC) AS l FROM ticks WINDOW HOPPING(1m, 10s) EMIT FINAL',
     'SELECT window_start, window_end, count(*), string_agg(n::text, '','' ORDER BY n DESC) FROM ticks, hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2'),
    ('in_order', 'SELECT symbol, array_agg(n) AS l FROM ticks WINDOW HOPPING(1m, 10s) GROUP BY symbol EMIT FINAL',
     'SELECT window_start, window_end, symbol, array_agg(n ORDER BY o) FROM ticks, hop(ts, ''1 min'', ''10 s'') GROUP BY 1, 2, 3'),
    ('partly_late', 'SELECT symbol, count(*), sum(price) AS s FROM strict WINDOW HOPPING(30s, 1s) GRACE 5s GROUP BY symbol EMIT FINAL',
     'SELECT window_start, window_end, symbol, count(*), sum(price) FROM strict, hop(ts, ''30 s'', ''1 s'')
      WHERE window_end + interval ''5 s'' > watermark OR watermark IS NULL GROUP BY 1, 2, 3');

SELECT count(velo.create_query(name, query, stop => 'end', pipelines => 1)) FROM cases;
SELECT velo.wait(timeout => '2 min');
SELECT name, row_count, differences, q.records_in, q.late
FROM cases JOIN velo.queries q USING (name), compare(q.name, plain) ORDER BY name;
SELECT count(*) AS late FROM tables.strict WHERE NOT EXISTS
    (SELECT FROM hop(ts, '30 s', '1 s') WHERE window_end + interval '5 s' > watermark OR watermark IS NULL);
SELECT name, state, error, dead_letters FROM velo.queries WHERE state <> 'finished' OR dead_letters > 0 ORDER BY name;

-- the first and the last of all times in one batch
SELECT velo.dev_create_topic(:'topic' || '_ends');
SELECT velo.create_stream('ends', 'ts timestamptz', topic => :'topic' || '_ends', brokers => :'brokers', event_time => 'ts', watermark => '1 s');
INSERT INTO ends VALUES ('4713-12-01 00:00Z BC'), ('294276-12-01 00:00Z');
SELECT velo.create_query('at_the_ends', 'SELECT count(*) FROM ends WINDOW HOPPING(2s, 1s) EMIT FINAL', stop => 'end');
SELECT velo.wait('at_the_ends', '1 min');
SELECT window_start AT TIME ZONE 'UTC' AS window_start, count FROM at_the_ends ORDER BY at_the_ends;

SELECT count(velo.drop_query(name)) FROM velo.queries;
SET client_min_messages = warning;
DROP SCHEMA streams, tables, results CASCADE;
