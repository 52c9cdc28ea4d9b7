-- grouped queries without a window: one row per group, kept up to date; PostgreSQL's own answer to the same text over
-- ordinary tables is the oracle
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'group_by_' || extract(epoch FROM clock_timestamp()) AS topic \gset

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
SELECT velo.create_stream('streams.trades', 'n int, symbol text, price numeric, volume bigint, weight float8, ts timestamptz,
        day date, tags text[], extra jsonb, buy bool, p int OPTIONS (metadata ''partition'')',
    topic => :'topic', brokers => :'brokers');
CREATE TABLE tables.trades (n int, symbol text, price numeric, volume bigint, weight float8, ts timestamptz,
    day date, tags text[], extra jsonb, buy bool, p int);
INSERT INTO tables.trades
    SELECT i, (ARRAY['ACME', 'GLOBEX', 'Ünïcode "quoted"', NULL, ''])[1 + i % 5], i * 37 % 211 / 4.0,
           CASE WHEN i % 7 > 0 THEN i::bigint * 1000000007 END, i % 17 / 8.0, timestamptz '2026-01-01 00:00Z' + i * interval '7.5 min',
           date '2026-01-01' + i % 4, CASE WHEN i % 3 > 0 THEN ARRAY['t' || i % 4, NULL] END,
           CASE WHEN i % 4 > 0 THEN jsonb_build_object('a', i % 6, 'b', '[1, {}]'::jsonb) END, i % 2 = 0, i % 3
    FROM generate_series(1, 300) i;
CREATE TABLE results.companies (symbol text, name text);
INSERT INTO results.companies VALUES ('ACME', 'Acme'), ('ACME', 'Acme too'), ('GLOBEX', 'Globex');

-- a user's own aggregates: with and without a way to combine, strict, with a final function, over several arguments
CREATE FUNCTION results.product_step(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 * $2 % 1000003';
CREATE AGGREGATE results.product(numeric) (sfunc = results.product_step, stype = numeric, initcond = '1');
CREATE AGGREGATE results.product_combined(numeric) (sfunc = results.product_step, stype = numeric, initcond = '1',
    combinefunc = results.product_step, parallel = safe);
CREATE FUNCTION results.smaller(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE STRICT AS 'SELECT least($1, $2)';
CREATE AGGREGATE results.least_of(anyelement) (sfunc = results.smaller, stype = anyelement);
CREATE FUNCTION results.span_step(int[], int, int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RETURN ARRAY[least($1[1], $2), greatest($1[2], $3)]; END';
CREATE FUNCTION results.span_final(int[]) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1[1] || '' to '' || $1[2]';
CREATE AGGREGATE results.span(int, int) (sfunc = results.span_step, stype = int[], initcond = '{}', finalfunc = results.span_final);

SET search_path = results, streams;
CREATE TABLE cases (name text PRIMARY KEY, query text);
INSERT INTO cases VALUES
    ('counts', 'SELECT symbol, count(*) AS all_, count(volume) AS some FROM trades GROUP BY symbol'),
    ('sums', 'SELECT symbol, sum(n) AS i, sum(volume) AS l, sum(price) AS p, avg(price) AS a, avg(n) AS b FROM trades GROUP BY symbol'),
    ('floats', 'SELECT symbol, sum(weight) AS s, avg(weight) AS a, min(weight) AS x, max(weight) AS y FROM trades GROUP BY symbol'),
    ('extremes', 'SELECT buy, min(symbol) AS a, max(symbol) AS b, min(ts) AS c, max(day) AS d, min(tags) AS e, max(price) AS f FROM trades GROUP BY buy'),
    ('statistics', 'SELECT symbol, round(stddev(price), 8) AS s, round(variance(n), 8) AS v, round(corr(n, weight)::numeric, 8) AS c,
        round(regr_slope(n, weight)::numeric, 8) AS r, round(var_pop(price), 8) AS p FROM trades GROUP BY symbol'),
    ('booleans', 'SELECT symbol, bool_and(buy) AS a, bool_or(buy) AS o, every(n > 0) AS e, bit_and(n) AS b, bit_or(n) AS c FROM trades GROUP BY symbol'),
    ('collections', $$SELECT symbol, array_agg(n ORDER BY n) AS a, string_agg(n::text, ',' ORDER BY n DESC) AS s,
        jsonb_agg(n ORDER BY n) AS j, jsonb_object_agg(n, buy) AS o, json_agg(extra ORDER BY n) AS x, array_agg(tags ORDER BY n) FILTER (WHERE tags IS NOT NULL) AS t
        FROM trades GROUP BY symbol$$),
    ('distinct_', $$SELECT symbol, count(DISTINCT n % 7) AS c, sum(DISTINCT n % 7) AS s, array_agg(DISTINCT day) AS a, count(DISTINCT extra) AS x,
        string_agg(DISTINCT buy::text, '/' ORDER BY buy::text DESC) AS b FROM trades GROUP BY symbol$$),
    ('distinct_values', $$SELECT symbol, count(DISTINCT n % 7) AS c, sum(DISTINCT n) AS s, avg(DISTINCT n % 9) AS a, sum(DISTINCT volume) AS v,
        sum(DISTINCT n) FILTER (WHERE buy) AS f, count(DISTINCT symbol) AS y, count(DISTINCT price * 1.00) AS p, count(DISTINCT tags) AS t,
        count(DISTINCT extra) AS x, count(DISTINCT weight) AS w, count(DISTINCT repeat(n % 3 || '-', 5000)) AS l, count(*), sum(n % 7) AS m, count(n % 7) AS e, sum(n) AS u
        FROM trades GROUP BY symbol$$),
    ('filters', 'SELECT symbol, count(*) FILTER (WHERE buy) AS b, sum(price) FILTER (WHERE n > 1000) AS none, max(n) FILTER (WHERE NOT buy AND price > 3) AS m FROM trades GROUP BY symbol'),
    ('guarded', $$SELECT symbol, sum(100 / (n % 5)) FILTER (WHERE n % 5 <> 0) AS s, array_agg(7 / (n % 2) ORDER BY 9 / (n % 2), n) FILTER (WHERE n % 2 = 1) AS a,
        count((SELECT name FROM companies)) FILTER (WHERE n < 0) AS c FROM trades GROUP BY symbol$$),
    ('ordered_set', 'SELECT symbol, percentile_cont(0.5) WITHIN GROUP (ORDER BY weight) AS m, percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY n) AS d,
        mode() WITHIN GROUP (ORDER BY day) AS o, rank(50) WITHIN GROUP (ORDER BY n) AS r FROM trades GROUP BY symbol'),
    ('own', 'SELECT symbol, product(n) AS p, product_combined(n) AS c, least_of(n) AS l, least_of(symbol) AS t, span(n, n * 2) AS s, product(n ORDER BY n) AS o FROM trades GROUP BY symbol'),
    ('expressions', $$SELECT symbol || '!' AS loud, sum(price) / count(*) + 1 AS x, max(n) - min(n) AS d, CASE WHEN count(*) > 59 THEN 'many' ELSE 'few' END AS c
        FROM trades GROUP BY symbol || '!'$$),
    ('grouped_expression', 'SELECT n % 10 AS d, count(*), n % 10 + 1 AS e FROM trades GROUP BY n % 10'),
    ('by_position', 'SELECT symbol, day, count(*) FROM trades GROUP BY 1, 2'),
    ('by_alias', 'SELECT upper(symbol) AS u, count(*) FROM trades GROUP BY u'),
    ('keys', 'SELECT symbol, price, day, buy, count(*) AS c, extra FROM trades GROUP BY symbol, price, day, buy, extra'),
    ('key_text', 'SELECT symbol, count(*) FROM trades GROUP BY symbol'),
    ('key_numeric', 'SELECT round(price) AS p, count(*) FROM trades GROUP BY round(price)'),
    ('key_scale', 'SELECT (n % 3 || CASE WHEN buy THEN ''.0'' ELSE ''.00'' END)::numeric + 0.0 = 1 AS p, count(*) FROM trades GROUP BY 1'),
    ('key_date', 'SELECT day, count(*), sum(n) FROM trades GROUP BY day'),
    ('key_jsonb', 'SELECT extra, count(*) FROM trades GROUP BY extra'),
    ('key_array', 'SELECT tags, count(*) FROM trades GROUP BY tags'),
    ('key_float', 'SELECT weight, count(*) FROM trades GROUP BY weight'),
    ('key_row', 'SELECT ROW(buy, day)::text AS r, count(*) FROM trades GROUP BY 1'),
    ('key_time', 'SELECT date_trunc(''day'', ts) AS d, count(*) FROM trades GROUP BY 1'),
    ('key_constant', 'SELECT ''x'' AS x, count(*) FROM trades GROUP BY 1'),
    ('no_aggregate', 'SELECT symbol, buy FROM trades GROUP BY symbol, buy'),
    ('having', 'SELECT symbol, day, count(*) AS c FROM trades GROUP BY symbol, day HAVING sum(n) > 2300 AND symbol <> '''''),
    ('having_only', 'SELECT day FROM trades GROUP BY day HAVING bool_or(n = 17)'),
    ('where_', 'SELECT symbol, count(*) FROM trades WHERE buy AND volume IS NOT NULL GROUP BY symbol'),
    ('no_group', 'SELECT symbol, count(*) FROM trades WHERE n < 0 GROUP BY symbol'),
    ('global_', 'SELECT count(*), sum(price), min(symbol), array_agg(n ORDER BY n) AS a FROM trades'),
    ('global_empty', 'SELECT count(*), sum(price), array_agg(n) FROM trades WHERE n < 0'),
    ('global_having', 'SELECT count(*) FROM trades HAVING count(*) > 1000'),
    ('global_having_true', 'SELECT count(*) FROM trades HAVING count(*) > 10'),
    ('global_constant', 'SELECT 1 AS one FROM trades HAVING true'),
    ('lookup', 'SELECT name, count(*) FROM trades LEFT JOIN companies USING (symbol) GROUP BY name'),
    ('lookup_inner', 'SELECT c.name, sum(price) FROM trades t JOIN companies c ON c.symbol = t.symbol WHERE t.buy GROUP BY c.name'),
    ('unnested', 'SELECT tag, count(*) FROM trades, unnest(tags) AS tag GROUP BY tag'),
    ('sub_select', 'SELECT s, sum(m) FROM (SELECT symbol AS s, n * 2 AS m FROM trades WHERE buy) x GROUP BY s'),
    ('union_', 'SELECT s, count(*), sum(n) FROM (SELECT symbol AS s, n FROM trades UNION ALL SELECT day::text, -n FROM trades) x GROUP BY s'),
    ('sub_in_having', 'SELECT symbol, count(*) FROM trades GROUP BY symbol HAVING symbol IN (SELECT symbol FROM companies)'),
    ('sub_in_list', 'SELECT symbol, count(*), (SELECT max(name) FROM companies c WHERE c.symbol = t.symbol) AS name FROM trades t GROUP BY symbol'),
    ('outer_arg', 'SELECT day, count(*) FILTER (WHERE symbol IN (SELECT symbol FROM companies)) AS known FROM trades GROUP BY day'),
    ('same_twice', 'SELECT symbol, count(*) AS a, count(*) AS b, symbol AS again FROM trades GROUP BY symbol');

-- twice: by one pipeline that has all groups to itself, and by three that share them
INSERT INTO streams.trades TABLE tables.trades;
SELECT name FROM cases, velo.create_query(name, query, stop => 'end', pipelines => 1) q WHERE q::text <> quote_ident(name);
SELECT velo.wait(timeout => '2 min');
SELECT name, row_count, differences FROM cases, compare(name, query) ORDER BY name;
SELECT name, state, error, dead_letters FROM velo.queries WHERE state <> 'finished' OR dead_letters > 0 ORDER BY name;
SELECT count(velo.drop_query(name)) FROM velo.queries;
SELECT count(velo.create_query(name, query, stop => 'end', pipelines => 3)) FROM cases
WHERE name IN ('counts', 'sums', 'collections', 'distinct_', 'distinct_values', 'filters', 'guarded', 'ordered_set', 'own', 'keys', 'having', 'global_',
               'global_empty', 'union_');
SELECT velo.wait(timeout => '2 min');
SELECT c.name, row_count, differences FROM velo.queries q JOIN cases c USING (name), compare(q.name, c.query) ORDER BY name;
SELECT name, state, error, dead_letters FROM velo.queries WHERE state <> 'finished' OR dead_letters > 0 ORDER BY name;

-- the result is a table with a key
\d keys
\d global_
SELECT count(velo.drop_query(name)) FROM velo.queries;

-- kept up to date: groups come, change and go
CREATE TABLE live AS SELECT * FROM cases
WHERE name IN ('counts', 'distinct_values', 'having', 'global_', 'global_having', 'own', 'ordered_set');
SELECT count(velo.create_query(name, query)) FROM live;
SELECT velo.wait();
SELECT * FROM counts ORDER BY symbol;
SELECT name, row_count, differences FROM live, compare(name, query) ORDER BY name;
INSERT INTO tables.trades (n, symbol, price, volume, buy, p) SELECT i, 'NEW', i, i, true, i % 3 FROM generate_series(1001, 1020) i;
INSERT INTO streams.trades SELECT * FROM tables.trades WHERE n > 1000;
SELECT velo.wait();
SELECT * FROM counts ORDER BY symbol;
SELECT name, row_count, differences FROM live, compare(name, query) ORDER BY name;
INSERT INTO tables.trades (n, p) SELECT 2000, i % 3 FROM generate_series(1, 1000) i;
INSERT INTO streams.trades SELECT * FROM tables.trades WHERE n = 2000;
SELECT velo.wait();
SELECT name, row_count, differences FROM live, compare(name, query) ORDER BY name;

-- HAVING that stops being true takes the row away, one that becomes true brings it; what never was true never appears
SELECT velo.create_query('few', 'SELECT symbol, count(*), max(n) FROM trades WHERE n > 3000 GROUP BY symbol HAVING count(*) < 3');
SELECT velo.create_query('many', 'SELECT symbol, count(*), max(n) FROM trades WHERE n > 3000 GROUP BY symbol HAVING count(*) > 2');
INSERT INTO streams.trades (n, symbol, p) VALUES (3001, 'A', 0), (3002, 'A', 1), (3003, NULL, 0);
SELECT velo.wait();
TABLE few ORDER BY symbol;
TABLE many;
INSERT INTO streams.trades (n, symbol, p) VALUES (3004, 'A', 2), (3005, NULL, 1);
SELECT velo.wait();
TABLE few ORDER BY symbol;
TABLE many;
INSERT INTO streams.trades (n, symbol, p) VALUES (3006, NULL, 2);
SELECT velo.wait();
TABLE few;
TABLE many ORDER BY symbol;

-- a global aggregate has its one row from the start, and never another
SELECT velo.dev_create_topic(:'topic' || '.empty');
SELECT velo.create_stream('streams.empty', 'v int', topic => :'topic' || '.empty', brokers => :'brokers');
SELECT velo.create_query('total', 'SELECT count(*), sum(v), max(v) FROM empty');
SELECT velo.create_query('positive', 'SELECT count(*), sum(v) FROM empty HAVING coalesce(sum(v), 0) >= 0');
SELECT velo.wait('total'), velo.wait('positive');
TABLE total;
TABLE positive;
INSERT INTO streams.empty VALUES (5), (NULL);
SELECT velo.wait('total'), velo.wait('positive');
TABLE total;
TABLE positive;
INSERT INTO streams.empty VALUES (-7);
SELECT velo.wait('total'), velo.wait('positive');
TABLE total;
TABLE positive;
INSERT INTO streams.empty VALUES (2);
SELECT velo.wait('total'), velo.wait('positive');
TABLE total;
TABLE positive;

-- an error of a group: while it lasts the group has no row and one dead letter, which goes when the row succeeds
SELECT velo.create_query('ratio', 'SELECT v % 2 AS k, 100 / (sum(v) - 10) AS r FROM empty WHERE v >= 10 GROUP BY v % 2');
INSERT INTO streams.empty VALUES (10), (11);
SELECT velo.wait('ratio');
TABLE ratio ORDER BY k;
SELECT query, kind, stream, sqlstate, message, detail FROM velo.dead_letters;
SELECT name, state, dead_letters, error FROM velo.queries WHERE name = 'ratio';
INSERT INTO streams.empty VALUES (20);
SELECT velo.wait('ratio');
TABLE ratio ORDER BY k;
SELECT query, kind, stream, sqlstate, message, detail FROM velo.dead_letters;

-- an error of a record's own is a dead letter, and the others go on; so is one of an aggregate's step
SELECT velo.create_query('inverse', 'SELECT 100 / v AS i, count(*) FROM empty GROUP BY 1');
SELECT velo.create_query('small', 'SELECT sum(v::bigint * 1000000000000000) FROM empty WHERE v > 100');
SELECT velo.create_query('step', 'SELECT sum_int2(v::int2), count(*) FROM empty WHERE v > 100');
CREATE FUNCTION sum_step(int2, int2) RETURNS int2 LANGUAGE sql IMMUTABLE AS 'SELECT ($1 + $2)::int2';
CREATE AGGREGATE sum_int2(int2) (sfunc = sum_step, stype = int2, initcond = '0', combinefunc = sum_step);
CREATE AGGREGATE sum_whole(int2) (sfunc = sum_step, stype = int2, initcond = '0');
SELECT velo.create_query('step', 'SELECT count(DISTINCT v) AS d, sum_int2(v::int2), count(*) FROM empty WHERE v > 100 OR v < 0');
-- an aggregate that can't be combined is computed when the group is written, so there the error is the group's
SELECT velo.create_query('whole', 'SELECT sum_whole(v::int2), count(*) FROM empty WHERE v > 100');
INSERT INTO streams.empty VALUES (0), (100), (20000), (20001), (30000), (200), (40000);
SELECT velo.wait('inverse'), velo.wait('small'), velo.wait('step'), velo.wait('whole');
TABLE inverse ORDER BY i;
TABLE small;
TABLE step;
TABLE whole;
SELECT query, kind, partition, "offset", convert_from(value, 'UTF8') AS value, sqlstate, message, detail
FROM velo.dead_letters ORDER BY query, "offset";
-- what did not fit is as if it had never been
INSERT INTO streams.empty VALUES (-20000), (30000), (2600), (-20000), (2600);
SELECT velo.wait('step');
TABLE step;

-- pipelines that share groups fold what each has aggregated: a group that was NULL so far takes what comes; and where
-- folding fails, the record that does not fit is found
SELECT velo.dev_create_topic(:'topic' || '.shared', 2);
SELECT velo.create_stream('streams.shared', 'v int, p int OPTIONS (metadata ''partition'')',
    topic => :'topic' || '.shared', brokers => :'brokers');
SELECT velo.create_query('folded', 'SELECT count(DISTINCT v) AS d, sum(v), sum_int2(v::int2) FILTER (WHERE v IS NOT NULL), count(*), sum(v::numeric) FILTER (WHERE v > 100000) AS none FROM shared', pipelines => 2);
INSERT INTO streams.shared VALUES (NULL, 0);
SELECT velo.wait('folded');
TABLE folded;
INSERT INTO streams.shared VALUES (20000, 1);
SELECT velo.wait('folded');
TABLE folded;
INSERT INTO streams.shared VALUES (1, 0), (30000, 0), (2, 0);
SELECT velo.wait('folded');
TABLE folded;
SELECT kind, partition, "offset", convert_from(value, 'UTF8') AS value, message FROM velo.dead_letters WHERE query = 'folded';
INSERT INTO streams.shared VALUES (-20000, 1), (30000, 1);
SELECT velo.wait('folded');
TABLE folded;

-- floats at their ends: of equal ones the last is the least and the greatest, what is no number is greater than all that
-- are, and what would be too large does not fit
SELECT count(velo.drop_query(name)) FROM velo.queries;
SELECT velo.dev_create_topic(:'topic' || '.floats');
SELECT velo.create_stream('streams.floats', 'g text, f float8, r float4', topic => :'topic' || '.floats', brokers => :'brokers');
SELECT velo.create_query('least', 'SELECT g, min(f) AS a, max(f) AS b, min(r) AS c, max(r) AS d FROM floats GROUP BY g');
SELECT velo.create_query('sums', 'SELECT g, sum(f), count(*) FROM floats GROUP BY g');
SELECT velo.create_query('short_sums', 'SELECT g, sum(r), count(*) FROM floats GROUP BY g');
SELECT velo.create_query('moments', 'SELECT g, avg(f), stddev(f), count(*) FROM floats GROUP BY g');
SELECT velo.create_query('short_moments', 'SELECT g, avg(r), var_pop(r), count(*) FROM floats GROUP BY g');
-- of a user's aggregate even PostgreSQL's own function finds a state that it does not expect
CREATE AGGREGATE odd_avg(int) (sfunc = int4_avg_accum, stype = int8[], initcond = '{1}', combinefunc = int4_avg_combine);
SELECT velo.create_query('odd', 'SELECT odd_avg(r::int) FROM floats WHERE g = ''not last'' AND r < 3');
INSERT INTO streams.floats VALUES
    ('zeros', '0', '0'), ('zeros', '-0', '-0'), ('signs', '-0', '-0'), ('signs', '0', '0'),
    ('not first', 'NaN', 'NaN'), ('not first', 1, 1), ('not first', 2, 2), ('not last', 1, 1), ('not last', 2, 2), ('not last', 'NaN', 'NaN'),
    ('endless', '-Infinity', '-Infinity'), ('endless', 5, 5), ('endless', 'Infinity', 'Infinity'), ('one', 'Infinity', '-Infinity'),
    ('large', 1e308, 3e38), ('large', 1e308, 3e38), ('large', -1e308, -3e38), ('large', 7, 7), ('null', NULL, NULL);
SELECT velo.wait();
TABLE least ORDER BY g;
TABLE sums ORDER BY g;
TABLE short_sums ORDER BY g;
TABLE moments ORDER BY g;
TABLE short_moments ORDER BY g;
TABLE odd;
SELECT query, kind, "offset", convert_from(value, 'UTF8') AS value, message FROM velo.dead_letters
WHERE stream = 'floats'::regclass ORDER BY query, "offset";
-- the same by PostgreSQL, of what fits
SELECT g, min(f), max(f), min(r), max(r), sum(f) FILTER (WHERE o <> 15), sum(r) FILTER (WHERE o <> 15), avg(r), var_pop(r),
       avg(f) FILTER (WHERE g <> 'large'), stddev(f) FILTER (WHERE g <> 'large')
FROM (SELECT g, f, r, row_number() OVER () - 1 AS o FROM floats) f GROUP BY g ORDER BY g;

SET client_min_messages = warning;
DROP SCHEMA results, streams, tables CASCADE;
SELECT count(*) FROM velo.queries;
