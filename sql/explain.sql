-- EXPLAIN of queries over streams; most of them need no broker, and have none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
CREATE FOREIGN TABLE x_trades (symbol text, price float8, volume bigint, ts timestamptz, tags text[])
    SERVER velo OPTIONS (topic 'x_trades', format 'json', event_time 'ts', key 'symbol', watermark '5 s');
CREATE FOREIGN TABLE x_quotes (ts timestamptz, symbol text, price float8)
    SERVER velo OPTIONS (topic 'x_quotes', format 'json', event_time 'ts', key 'symbol', watermark '5 s');
CREATE TABLE x_company (symbol text PRIMARY KEY, name text, sector text);
CREATE VIEW x_named AS SELECT * FROM x_company WHERE name <> '';
CREATE VIEW x_both AS SELECT ts, symbol, price FROM x_trades UNION ALL SELECT ts, symbol, price FROM x_quotes;

-- the input plan below the node that stands for the state
SELECT velo.explain($$SELECT symbol, avg(price) FROM x_trades WHERE price > 100 WINDOW TUMBLING(5m) GRACE 10s GROUP BY symbol
                      HAVING count(*) > 3 AND window_start > 'epoch'$$, 'verbose, costs off');
-- expressions that are not evaluated a column at a time, and parts of them
SELECT velo.explain($$SELECT least(symbol, 'none') AS s, max(price + 1), count(*) FILTER (WHERE volume > 3 AND tags[1] <> 'x')
                      FROM x_trades WHERE upper(symbol) LIKE 'A%' GROUP BY least(symbol, 'none')$$, 'costs off');
-- aggregates that can't be kept as states keep their rows
SELECT velo.explain($$SELECT sector, string_agg(name, ',' ORDER BY price) FILTER (WHERE volume > 1), sum(price)
                      FROM x_trades JOIN x_named USING (symbol) WINDOW HOPPING(10m, 1m) GROUP BY sector$$, 'verbose, costs off');
-- of some aggregates with DISTINCT the values are enough, unless others need the rows
SELECT velo.explain('SELECT symbol, count(DISTINCT volume), sum(DISTINCT volume) FROM x_trades GROUP BY symbol', 'costs off');
SELECT velo.explain('SELECT symbol, count(DISTINCT volume), array_agg(DISTINCT volume) FROM x_trades GROUP BY symbol', 'costs off');
-- records are told through sub-selects, WITH, views and UNION ALL
SELECT velo.explain($$WITH a AS (SELECT * FROM x_both WHERE price > 1), b AS MATERIALIZED (SELECT * FROM a)
                      SELECT symbol, count(*) FROM b WINDOW TUMBLING(5m) GROUP BY symbol$$, 'verbose, costs off');
-- look-ups in the output
SELECT velo.explain($$SELECT symbol, (SELECT max(name) FROM x_company c WHERE c.symbol = t.symbol AND window_start > 'epoch')
                      FROM x_trades t WINDOW TUMBLING(5m) GROUP BY symbol$$, 'costs off');
SELECT velo.explain('SELECT unnest(tags) AS tag, count(*) FROM x_trades GROUP BY 1', 'verbose, costs off');
SELECT velo.explain('SELECT symbol, upper(name) FROM x_trades LEFT JOIN x_named USING (symbol)', 'costs off');
-- what was looked up is remembered for the rest of the batch
CREATE TABLE x_large AS SELECT symbol::text, symbol AS n FROM generate_series(1, 100000) AS symbol;
ALTER TABLE x_large ADD PRIMARY KEY (symbol);
ANALYZE x_large;
SELECT velo.explain('SELECT symbol, n FROM x_trades JOIN x_large USING (symbol)', 'costs off');
DROP TABLE x_large;
SELECT count(*) AS estimates FROM velo.explain('SELECT symbol, count(*) FROM x_trades GROUP BY symbol') line
    WHERE line ~ 'State Estimate: \d+ groups of \d+ bytes';

-- a bare SELECT: as it would run continuously if it can, else as it is
EXPLAIN (COSTS OFF) SELECT lower(velo.tumble(ts, '5 min')) s, symbol, count(*) FROM x_trades GROUP BY velo.tumble(ts, '5 min'), symbol;
EXPLAIN (COSTS OFF) SELECT symbol, count(*) FROM x_trades GROUP BY symbol ORDER BY symbol;
EXPLAIN (COSTS OFF) SELECT symbol FROM x_company;

-- every format is well-formed
SELECT p -> 0 -> 'Plan' ->> 'Custom Plan Provider' AS node, p -> 0 -> 'Plan' ->> 'Window' AS "window", json_array_length(p) AS items
FROM (SELECT string_agg(line, E'\n')::json FROM velo.explain('SELECT count(*) FROM x_trades WINDOW TUMBLING(5m)', 'format json') line) x(p);
SELECT p -> 0 -> 'Plan' ->> 'Node Type' AS node, p -> 1 -> 'Continuous Query' ->> 'Emit' AS emit
FROM (SELECT string_agg(line, E'\n')::json FROM velo.explain('SELECT symbol FROM x_trades', 'format json') line) x(p);
SELECT string_agg(line, E'\n') AS yaml FROM velo.explain('SELECT symbol FROM x_trades', 'format yaml, costs off') line;
SELECT string_agg(line, E'\n') LIKE '%<Continuous-Query>%</Continuous-Query>%' AS in_xml
FROM velo.explain('SELECT symbol FROM x_trades', 'format xml') line;

-- what is said of a query: with other delays, grace, windows, keys
SELECT line FROM unnest(ARRAY['WINDOW TUMBLING(5m)', 'WINDOW TUMBLING(5m) GRACE 1m EMIT CHANGES', 'WINDOW HOPPING(5m, 1m)', 'EMIT CHANGES', 'EMIT FINAL']) clauses,
    LATERAL velo.explain('SELECT volume, count(*) FROM x_trades GROUP BY volume ' || clauses, 'costs off') line WHERE line ~ '^  (Emit|Window|Late|Mode)';
CREATE FOREIGN TABLE x_exact (ts timestamptz, v int) SERVER velo OPTIONS (event_time 'ts', watermark '0');
SELECT line FROM unnest(ARRAY['SELECT count(*) FROM x_exact WINDOW TUMBLING(5m)', 'SELECT v FROM x_exact',
    'SELECT count(*) FROM (SELECT ts FROM x_exact UNION ALL SELECT ts FROM x_trades) x WINDOW TUMBLING(5m)',
    'SELECT count(*) FROM (SELECT ts FROM x_exact UNION ALL SELECT ts FROM x_trades) x WINDOW HOPPING(5m, 1m) GRACE 2s']) query,
    LATERAL velo.explain(query, 'costs off') line WHERE line ~ '^ *(Emit|Window|Late|Mode|Watermark)';
SELECT p -> 0 -> 'Plan' -> 'State Estimate' ->> 'Group Width' AS width, p -> 0 -> 'Plan' -> 'Plans' -> 0 ->> 'Watermark' AS watermark
FROM (SELECT string_agg(line, E'\n')::json FROM velo.explain('SELECT count(*) FROM x_trades WINDOW TUMBLING(5m)', 'format json') line) x(p);

-- partitions, as the broker says, or why it doesn't
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'x_explain_' || extract(epoch FROM clock_timestamp()) AS topic \gset
SELECT velo.dev_create_topic(:'topic', 3);
CREATE FOREIGN TABLE x_real (v int) SERVER velo OPTIONS (brokers :'brokers', topic :'topic');
CREATE FOREIGN TABLE x_away (v int) SERVER velo OPTIONS (brokers '127.0.0.1:9');
SELECT line FROM velo.explain('SELECT v FROM x_real') line WHERE line ~ 'Partitions';
SELECT p -> 0 -> 'Plan' -> 'Partitions' AS partitions FROM (SELECT string_agg(line, E'\n')::json FROM velo.explain('SELECT v FROM x_real', 'format json') line) x(p);
SELECT line FROM velo.explain('SELECT v FROM x_real', 'analyze, timing off, summary off') line WHERE line ~ 'Partitions';
SELECT line FROM velo.explain('SELECT v FROM x_away') line WHERE line ~ 'Partitions';

-- options are EXPLAIN's own
SELECT velo.explain('SELECT symbol FROM x_trades', 'nonsense');
SELECT velo.explain('SELECT symbol FROM x_trades', 'format fish');
SELECT velo.explain('SELECT symbol FROM x_trades', 'verbose) SELECT 1; SELECT (1');
SELECT velo.explain('SELECT symbol FROM x_trades', ') SELECT (');

DROP VIEW x_named, x_both;
DROP FOREIGN TABLE x_trades, x_quotes, x_exact, x_real, x_away;
DROP TABLE x_company;
