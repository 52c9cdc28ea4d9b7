-- continuous queries without aggregates: each row of the result is a record's; PostgreSQL's own answer to the same text
-- over ordinary tables is the oracle
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'query_table_' || extract(epoch FROM clock_timestamp()) AS topic \gset
SELECT :'topic' || '.returns' AS topic_of_returns \gset

-- the same names in two schemas: streams, and tables that hold the same rows
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

SELECT velo.dev_create_topic(:'topic', 3);
SELECT velo.dev_create_topic(:'topic' || '.returns');
SELECT velo.create_stream('streams.trades', 'n int, symbol text, price numeric(10,2), volume bigint, ts timestamptz,
        tags text[], extra jsonb, buy bool, p int OPTIONS (metadata ''partition'')',
    topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '1 h');
SELECT velo.create_stream('streams.returns', 'n int, symbol text, price numeric(10,2)',
    topic => :'topic' || '.returns', brokers => :'brokers');

CREATE TABLE tables.trades (n int, symbol text, price numeric(10,2), volume bigint, ts timestamptz,
    tags text[], extra jsonb, buy bool, p int);
INSERT INTO tables.trades
    SELECT i, (ARRAY['ACME', 'GLOBEX', 'Ünïcode "quoted"', NULL, ''])[1 + i % 5], i * 37 % 211 / 4.0,
           CASE WHEN i % 7 > 0 THEN i::bigint * 1000000007 END, timestamptz '2026-01-01 00:00Z' + i * interval '7.5 s',
           CASE WHEN i % 3 > 0 THEN ARRAY['t' || i % 4, NULL, 'x,y'] END,
           CASE WHEN i % 4 > 0 THEN jsonb_build_object('a', i % 6, 'b', jsonb_build_array(i, 'two', NULL)) END,
           i % 2 = 0, i % 3
    FROM generate_series(1, 200) i;
CREATE TABLE tables.returns (n int, symbol text, price numeric(10,2));
INSERT INTO tables.returns SELECT -i, 'ACME', i / 2.0 FROM generate_series(1, 10) i;
INSERT INTO streams.trades TABLE tables.trades;
INSERT INTO streams.returns TABLE tables.returns;

-- look-ups are in ordinary tables for both
CREATE TABLE results.companies (symbol text, name text, country text);
INSERT INTO results.companies VALUES ('ACME', 'Acme Corp', 'US'), ('GLOBEX', 'Globex', 'DE'), ('ACME', 'Acme Ltd', 'UK'),
    ('INITECH', 'Initech', 'US');
CREATE FUNCTION results.doubled(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION results.loud(text) RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN upper($1) || ''!''; END';

-- so are streams that a function of the query's reads: it sees all that their topic holds
CREATE FUNCTION results.all_returns() RETURNS SETOF streams.returns LANGUAGE sql STABLE AS 'SELECT * FROM streams.returns';
CREATE FUNCTION results.count_returns() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RETURN (SELECT count(*) FROM streams.returns); END';
CREATE TABLE results.archive (LIKE streams.returns);
INSERT INTO results.archive VALUES (-1, 'OLD', 0);
CREATE FOREIGN TABLE results.archive_of_today () INHERITS (results.archive) SERVER velo OPTIONS (topic :'topic_of_returns', brokers :'brokers');

-- what a user sees
SET search_path = results, streams;
SELECT velo.create_query('big_trades', 'SELECT n, symbol, price FROM trades WHERE price > 52');
SELECT velo.wait('big_trades');
SELECT * FROM big_trades ORDER BY n;
\d big_trades
SELECT obj_description('big_trades'::regclass);
INSERT INTO streams.trades (n, symbol, price, ts, p) VALUES (1000, 'NEW', 99.5, '2026-01-02', 0), (1001, 'NEW', 1, '2026-01-02', 1);
SELECT velo.wait('big_trades');
SELECT * FROM big_trades WHERE n > 900;
SELECT name, state, sink, target, emit, "window", pipelines, running, records_in, rows_out, late, tombstones, dead_letters,
       skipped, lag, error
FROM velo.queries;
SELECT velo.drop_query('big_trades');
INSERT INTO tables.trades SELECT * FROM streams.trades WHERE n >= 1000;

CREATE TABLE cases (name text PRIMARY KEY, query text);
INSERT INTO cases VALUES
    ('star', 'SELECT * FROM trades'),
    ('no_columns', 'SELECT FROM trades'),
    ('constants', 'SELECT 1 AS one, ''x'' AS text, NULL AS nothing, n FROM trades'),
    ('filter', 'SELECT n FROM trades WHERE price > 20 AND (symbol = ''ACME'' OR volume IS NULL)'),
    ('no_row', 'SELECT n FROM trades WHERE false'),
    ('null_filter', 'SELECT n FROM trades WHERE symbol <> ''ACME'''),
    ('in_list', 'SELECT n FROM trades WHERE symbol IN (''ACME'', '''') AND n NOT IN (5, 10) AND price BETWEEN 3 AND 30'),
    ('like', $$SELECT n, symbol ~ 'E$' AS ends FROM trades WHERE symbol LIKE '%C%' OR symbol ILIKE 'g%'$$),
    ('expressions', $$SELECT n, n % 3 AS m, price * volume AS value, symbol || '-' || n AS id, -price AS minus, n::text || 'x' AS t,
        coalesce(symbol, '?') AS s, nullif(n, 7) AS seven, greatest(price, 20) AS g, length(symbol) AS l, n = 3 AS three,
        round(price, 1) AS r, n / 2.0 AS half, n & 5 AS bits, price IS DISTINCT FROM 3 AS d FROM trades$$),
    ('case', $$SELECT n, CASE WHEN price < 10 THEN 'low' WHEN price < 30 THEN 'middle' ELSE 'high' END AS class,
        CASE symbol WHEN 'ACME' THEN 1 WHEN '' THEN 2 END AS code,
        CASE n % 3 WHEN 0 THEN CASE n % 2 WHEN 0 THEN 'a' WHEN 1 THEN 'b' END WHEN 1 THEN 'c' END AS nested FROM trades$$),
    ('nulls', $$SELECT n, nullif(n, volume) AS a, nullif(symbol, 'ACME') AS b, volume IS DISTINCT FROM volume AS c, symbol IS DISTINCT FROM 'ACME' AS d,
        (volume > 9) IS TRUE AS e, (volume > 9) IS NOT TRUE AS f, (volume > 9) IS FALSE AS g, (volume > 9) IS NOT FALSE AS h,
        (volume > 9) IS UNKNOWN AS i, (volume > 9) IS NOT UNKNOWN AS j, CASE CASE n % 3 WHEN 0 THEN symbol END WHEN 'ACME' THEN 1
        ELSE CASE n % 2 WHEN 1 THEN 3 END END AS k FROM trades$$),
    ('no_numbers', $$SELECT n, f = 'NaN' AS a, f <> 'NaN' AS b, 9 < f AS c, 9 <= f AS d, f > 9 AS e, f >= 9 AS g, r = 'NaN' AS h, 9::float4 < r AS i,
        r >= 9::float4 AS j, r = f AS k, f < r AS l, f - f AS m, -f AS o
        FROM (SELECT n, v::float8 AS f, v::float4 AS r FROM (SELECT n, CASE n % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n::text END AS v FROM trades) t) t$$),
    ('dates', $$SELECT n, date_trunc('hour', ts) AS hour, ts + interval '1 day' AS tomorrow, extract(second FROM ts) AS s, ts::date AS d,
        to_char(ts, 'YYYY-MM-DD HH24:MI') AS c, age(ts, '2020-01-01') AS a, ts AT TIME ZONE 'Europe/Berlin' AS local FROM trades$$),
    ('json', $$SELECT n, extra->'a' AS a, extra->>'a' AS t, (extra->>'a')::int + 1 AS i, extra #>> '{b,1}' AS two, extra ? 'b' AS has,
        jsonb_array_length(extra->'b') AS l FROM trades WHERE extra @> '{"a": 3}' OR extra IS NULL$$),
    ('arrays', $$SELECT n, tags[1] AS first, cardinality(tags) AS c, 't1' = ANY (tags) AS any, tags || 'more'::text AS more FROM trades$$),
    ('row', 'SELECT n, ROW(n, symbol)::text AS r, ARRAY[n, n + 1] AS a FROM trades'),
    ('whole_row', 'SELECT trades::text AS r, (trades).n FROM trades'),
    ('functions', 'SELECT n, doubled(price) AS d, loud(symbol) AS l FROM trades WHERE doubled(price) > 30'),
    ('set_returning', 'SELECT n, unnest(tags) AS tag, generate_series(1, 2) AS g FROM trades'),
    ('lateral', 'SELECT n, tag, pos FROM trades, unnest(tags) WITH ORDINALITY AS u(tag, pos) WHERE tag IS NOT NULL'),
    ('lateral_json', $$SELECT n, e FROM trades t, LATERAL jsonb_array_elements_text(t.extra->'b') e$$),
    ('qualified', 'SELECT t.n AS "N", t.symbol AS "odd name" FROM trades AS t WHERE t.buy'),
    ('renamed_columns', 'SELECT a, b FROM trades AS t(a, b) WHERE a < 10'),
    ('sub_select', 'SELECT m, s FROM (SELECT n * 2 AS m, symbol AS s FROM trades WHERE buy) x WHERE m > 10'),
    ('nested', 'SELECT k + 1 AS k FROM (SELECT j + 1 AS k FROM (SELECT n AS j FROM trades WHERE n > 3) a WHERE j < 90) b WHERE k > 7'),
    ('cte', 'WITH x AS (SELECT n, symbol FROM trades WHERE buy) SELECT n, symbol FROM x WHERE n < 50'),
    ('scalar_sub', 'SELECT n, (SELECT max(name) FROM companies c WHERE c.symbol = t.symbol) AS name FROM trades t'),
    ('exists_sub', 'SELECT n FROM trades t WHERE EXISTS (SELECT FROM companies c WHERE c.symbol = t.symbol)'),
    ('not_exists', 'SELECT n FROM trades t WHERE NOT EXISTS (SELECT FROM companies c WHERE c.symbol = t.symbol)'),
    ('in_sub', 'SELECT n FROM trades WHERE symbol IN (SELECT symbol FROM companies WHERE country = ''US'')'),
    ('array_sub', 'SELECT n, ARRAY(SELECT name FROM companies c WHERE c.symbol = t.symbol ORDER BY name) AS names FROM trades t'),
    ('inner_join', 'SELECT n, t.symbol, name FROM trades t JOIN companies c ON c.symbol = t.symbol WHERE price > 10'),
    ('left_join', 'SELECT n, t.symbol, name FROM trades t LEFT JOIN companies c ON c.symbol = t.symbol AND country <> ''UK'''),
    ('right_join', 'SELECT n, t.symbol, name FROM companies c RIGHT JOIN trades t ON c.symbol = t.symbol'),
    ('using_join', 'SELECT n, symbol, name FROM trades JOIN companies USING (symbol)'),
    ('natural_join', 'SELECT n, symbol, name FROM trades NATURAL JOIN companies'),
    ('comma_join', 'SELECT n, name FROM trades t, companies c WHERE c.symbol = t.symbol'),
    ('cross_join', 'SELECT n, name FROM trades CROSS JOIN companies WHERE n < 5'),
    ('range_join', 'SELECT n, g FROM trades JOIN generate_series(1, 5) g ON g > n % 7'),
    ('two_joins', 'SELECT n, c.name, d.country FROM trades t LEFT JOIN companies c ON c.symbol = t.symbol JOIN companies d ON d.name = c.name'),
    ('join_values', 'SELECT n, v FROM trades JOIN (VALUES (''ACME'', 1), ('''', 2)) x(s, v) ON s = symbol'),
    ('lateral_join', 'SELECT n, x.name FROM trades t LEFT JOIN LATERAL (SELECT name FROM companies c WHERE c.symbol = t.symbol ORDER BY name LIMIT 1) x ON true'),
    ('aggregated_lookup', 'SELECT n, c FROM trades t JOIN (SELECT symbol, count(*) AS c FROM companies GROUP BY symbol) x USING (symbol)'),
    ('lookup_stream', 'SELECT t.n, r.price, count_returns() AS c FROM trades t JOIN all_returns() r ON r.n = -t.n'),
    ('lookup_child', 'SELECT t.n, a.symbol FROM trades t JOIN archive a ON a.n = -t.n'),
    ('union_all', 'SELECT n, symbol, price FROM trades UNION ALL SELECT n, symbol, -price FROM returns'),
    ('union_same', 'SELECT n FROM trades WHERE buy UNION ALL SELECT -n FROM trades WHERE n < 20'),
    ('union_three', 'SELECT n, ''t'' AS x FROM trades UNION ALL SELECT n, ''r'' FROM returns UNION ALL SELECT n, symbol FROM trades WHERE n = 5'),
    ('union_filter', 'SELECT * FROM (SELECT n, symbol FROM trades UNION ALL SELECT n, symbol FROM returns) u WHERE symbol = ''ACME'''),
    ('union_join', 'SELECT n, name FROM (SELECT n, symbol FROM trades UNION ALL SELECT n, symbol FROM returns) u JOIN companies USING (symbol)'),
    ('union_types', 'SELECT n, 1 AS x FROM trades UNION ALL SELECT n, 1.5 FROM returns'),
    ('metadata', 'SELECT p >= 0 AS known, n FROM trades WHERE p < 100 AND n > 10'),
    ('comments', E'SELECT n /* WINDOW TUMBLING(5m) */, ''EMIT FINAL'' AS x -- EMIT CHANGES\nFROM trades; '),
    ('emit', 'SELECT n FROM trades EMIT CHANGES');

SELECT name FROM cases, velo.create_query(name, query, stop => 'end', pipelines => 1) q WHERE q::text <> quote_ident(name);
SELECT velo.wait(timeout => '2 min');
SELECT name, row_count, differences FROM cases, compare(name, regexp_replace(query, ';|EMIT CHANGES$', '')) ORDER BY name;
SELECT name, state, error, dead_letters FROM velo.queries WHERE state <> 'finished' OR dead_letters > 0 ORDER BY name;

-- types of the result are those of the SELECT list
SELECT attname, format_type(atttypid, atttypmod), attcollation::regcollation
FROM pg_attribute WHERE attrelid = 'star'::regclass AND attnum > 0 ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'constants'::regclass AND attnum > 0 ORDER BY attnum;
-- the user's own index and rights on the result
CREATE INDEX ON star (symbol);

-- a stream with a long backlog does not keep another one waiting: when the last row of one is written, many of the other
-- are, too
SELECT velo.dev_create_topic(:'topic' || '.' || topic) FROM unnest('{left_backlog, right_backlog}'::text[]) AS topic;
SELECT velo.create_stream('streams.' || topic, 'n int', topic => :'topic' || '.' || topic, brokers => :'brokers')
FROM unnest('{left_backlog, right_backlog}'::text[]) AS topic;
CREATE TABLE turns (turn int GENERATED ALWAYS AS IDENTITY, n int);
SELECT velo.create_query('in_turn', 'SELECT n FROM left_backlog UNION ALL SELECT n FROM right_backlog', target => 'turns',
    options => '{"batch_size": 10, "commit_interval": "1 ms"}');
-- the query reads both, but can write nothing before all is there
INSERT INTO left_backlog VALUES (0);
INSERT INTO right_backlog VALUES (0);
SELECT velo.wait('in_turn');
BEGIN;
LOCK TABLE turns;
INSERT INTO left_backlog SELECT * FROM generate_series(1, 10000);
INSERT INTO right_backlog SELECT -n FROM generate_series(1, 10000) AS n;
SELECT count(*) FROM right_backlog;
COMMIT;
SELECT velo.wait('in_turn');
DELETE FROM turns WHERE n = 0;
SELECT count(*), count(*) FILTER (WHERE turn < first_done) > 10100 AS in_turn
FROM turns, (SELECT min(last) AS first_done FROM (SELECT max(turn) AS last FROM turns GROUP BY n > 0) AS l) AS d;

-- rows of a target that no query wrote: those of its groups are taken over, others stay; and where another unique index
-- is in the way, the group has a dead letter
CREATE TABLE holdings (symbol text, n bigint, note text DEFAULT 'new', UNIQUE NULLS NOT DISTINCT (symbol));
CREATE UNIQUE INDEX ON holdings (n) WHERE symbol IN ('ACME', 'GLOBEX');
INSERT INTO holdings VALUES ('ACME', -1, 'there before'), ('OTHER', -2, 'there before');
SELECT velo.create_query('held', 'SELECT symbol, count(*) AS n FROM trades WHERE n <= 200 GROUP BY symbol',
    target => 'holdings', emit => 'final', stop => 'end');
SELECT velo.wait('held');
SELECT * FROM holdings ORDER BY symbol;
SELECT kind, sqlstate, detail FROM velo.dead_letters WHERE query = 'held';

SET client_min_messages = warning;
DROP SCHEMA results, streams, tables CASCADE;
SELECT count(*) FROM velo.queries;
