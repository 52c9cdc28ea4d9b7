-- the dialect: what its clauses mean, and what is refused with which words; nothing here needs a broker
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
CREATE FOREIGN TABLE d_trades (symbol text, price float8, volume bigint, ts timestamptz, at timestamptz, tags text[])
    SERVER velo OPTIONS (format 'json', event_time 'ts', key 'symbol', watermark '5 s');
CREATE FOREIGN TABLE d_quotes ("Zeit" timestamptz, symbol text, bid float8)
    SERVER velo OPTIONS (format 'json', event_time '"Zeit"', watermark '5 s');
CREATE FOREIGN TABLE d_timeless (id int, v text) SERVER velo OPTIONS (format 'json');
CREATE TABLE d_company (symbol text PRIMARY KEY, name text, sector text);
CREATE VIEW d_renamed AS SELECT ts AS happened, symbol, price FROM d_trades WHERE price > 0;

-- what EXPLAIN says of the clauses
CREATE FUNCTION pg_temp.clauses(query text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT btrim(line) FROM velo.explain(query, 'costs off') line WHERE line ~ '^ *(Window|Grace|Emit|Mode):' $$;

SELECT pg_temp.clauses('SELECT symbol, avg(price) FROM d_trades WHERE price > 100 WINDOW TUMBLING(5m) GROUP BY symbol EMIT CHANGES');
SELECT pg_temp.clauses('SELECT symbol, avg(price) FROM d_trades GROUP BY symbol WINDOW HOPPING(ts, 1h, 500ms) GRACE 10 seconds HAVING count(*) > 1;');
SELECT pg_temp.clauses('SELECT symbol, avg(price) FROM d_trades GROUP BY symbol HAVING count(*) > 1 EMIT FINAL WINDOW SLIDING(10 MINUTES, INTERVAL ''1'' MINUTE) -- the end');
SELECT pg_temp.clauses('select count(*) from d_quotes q window tumbling(q."Zeit", interval ''1 day 12 hours'') emit final');
SELECT pg_temp.clauses('select count(*) from public.d_trades window tumbling(PUBLIC.d_trades . ts, 1h)');
SELECT pg_temp.clauses('SELECT symbol, count(*) FROM d_renamed WINDOW TUMBLING(happened, ''2w'') GRACE 0s GROUP BY symbol');
SELECT pg_temp.clauses('SELECT symbol, count(*) FROM d_trades GROUP BY symbol');
SELECT pg_temp.clauses('SELECT symbol, price FROM d_trades');
-- native windows; date_bin and date_trunc are windows if FINAL
SELECT pg_temp.clauses($$SELECT lower(velo.hop(ts, '10 min', '4 min')) s, count(*) FROM d_trades GROUP BY velo.hop(ts, '10 min', '4 min')$$);
SELECT pg_temp.clauses($$SELECT upper(velo.tumble(ts, '1 day', zone => 'Asia/Kolkata')) e, count(*) FROM d_trades GROUP BY 1$$);
SELECT pg_temp.clauses($$SELECT date_bin('5 min', ts, '2020-01-01 00:01') b, count(*) FROM d_trades GROUP BY 1$$);
SELECT pg_temp.clauses($$SELECT date_bin('5 min', ts, '2020-01-01 00:01') b, count(*) FROM d_trades GROUP BY 1 EMIT FINAL$$);
SELECT pg_temp.clauses($$SELECT date_trunc('week', ts) b, count(*) FROM d_trades GROUP BY 1 EMIT FINAL$$);
-- durations
SELECT d, substring(w FROM 'tumbling, (.*)') AS length
FROM unnest(ARRAY['250us', '500ms', '10s', '5m', '1h', '2d', '1w', '1h30m', '1.5 hours', '5 minutes', '''5 minutes''',
                  '''01:30''', 'INTERVAL ''5'' MINUTE', 'INTERVAL ''5 minutes''', 'interval 5 minute', '''PT2H''']) d,
     LATERAL (SELECT c FROM pg_temp.clauses(format('SELECT count(*) FROM d_trades WINDOW TUMBLING(%s)', d)) c LIMIT 1) w(w);

-- the clauses are looked for where they can stand only: strings, names and comments are left alone
SELECT pg_temp.clauses($q$SELECT count(*) AS "WINDOW TUMBLING(1m)", E'\' EMIT FINAL' || $x$ EMIT FINAL $x$ AS emit
  FROM d_trades emit /* WINDOW TUMBLING(1m) /* nested */ EMIT FINAL */ WHERE symbol <> 'WINDOW TUMBLING(1m)' -- EMIT FINAL
  WINDOW TUMBLING(5m)$q$);
SELECT pg_temp.clauses('SELECT final.symbol, emit.price FROM d_trades emit JOIN d_company final ON true');

-- malformed
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(1 month)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(0s)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(-5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(300)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5 parsecs)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING 5m');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW HOPPING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW WOBBLING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m) t');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m) WINDOW TUMBLING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades EMIT SOMETIMES');
SELECT velo.explain('SELECT count(*) FROM d_trades EMIT FINAL EMIT FINAL');
SELECT velo.explain('SELECT count(*) WINDOW TUMBLING(5m) FROM d_trades');
SELECT velo.explain('SELECT count(*) FROM d_trades; SELECT 1');
SELECT velo.explain('SELECT count(*) FRM d_trades WINDOW TUMBLING(5m)');
SELECT velo.explain('SELECT nothing, count(*) FROM d_trades WINDOW TUMBLING("tä", 5m) GROUP BY "ö"');
SELECT velo.explain('SELECT "ö", count(*) FROM d_trades /* open /* closed */ WINDOW TUMBLING(5m)');
-- in no time, however long
DO $$
BEGIN
    PERFORM velo.explain('SELECT count(*) FROM d_trades ' || repeat('/*', 1000000));
EXCEPTION WHEN syntax_error THEN
    RAISE NOTICE '%', SQLERRM;
END $$;
SELECT velo.explain('');

-- refused, with a position and a way out
SELECT velo.explain('SELECT symbol FROM d_trades WINDOW TUMBLING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW SESSION(5m)');
SELECT velo.explain('SELECT count(*) FROM (SELECT * FROM d_trades WINDOW TUMBLING(5m)) x');
SELECT velo.explain('SELECT count(*) FROM (SELECT * FROM d_trades EMIT CHANGES) x');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(at, 5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(missing, 5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades t WINDOW TUMBLING(d_trades.ts, 5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(elsewhere.d_trades.ts, 5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(x.public.d_trades.ts, 5m)');
SELECT velo.explain('SELECT count(*) FROM d_timeless WINDOW TUMBLING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(90000000d)');
SELECT velo.explain($$SELECT date_bin('1 month', ts, '2026-01-01') b, count(*) FROM d_trades GROUP BY 1 EMIT FINAL$$);
SELECT velo.explain($$SELECT date_bin('1 hour', ts, 'infinity') b, count(*) FROM d_trades GROUP BY 1 EMIT FINAL$$);
SELECT velo.explain($$SELECT count(*) FROM d_trades GROUP BY velo.hop(ts, '2 min', '1 min', '-infinity')$$);
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m) GROUP BY symbol');
SELECT velo.explain('SELECT count(*) FROM d_trades GROUP BY upper(symbol)');
SELECT velo.explain('SELECT symbol, rank() OVER (ORDER BY price) FROM d_trades');
SELECT velo.explain('SELECT DISTINCT symbol FROM d_trades');
SELECT velo.explain('SELECT symbol FROM d_trades ORDER BY symbol');
SELECT velo.explain('SELECT symbol FROM d_trades LIMIT 5');
SELECT velo.explain('SELECT symbol, count(*) FROM d_trades GROUP BY CUBE (symbol)');
SELECT velo.explain('SELECT symbol FROM d_trades a JOIN d_quotes b USING (symbol)');
SELECT velo.explain('SELECT a.symbol FROM d_trades a, d_trades b');
SELECT velo.explain('SELECT symbol FROM d_trades WHERE symbol IN (SELECT symbol FROM d_quotes)');
SELECT velo.explain('SELECT n FROM (SELECT symbol, count(*) n FROM d_trades GROUP BY symbol) x');
SELECT velo.explain('WITH x AS (SELECT DISTINCT symbol FROM d_trades) SELECT symbol FROM x');
SELECT velo.explain('WITH RECURSIVE r AS (SELECT symbol FROM d_trades UNION ALL SELECT symbol FROM r) SELECT * FROM r');
SELECT velo.explain('WITH d AS (DELETE FROM d_company RETURNING *) SELECT symbol FROM d_trades');
SELECT velo.explain('SELECT symbol FROM d_company LEFT JOIN d_trades USING (symbol)');
SELECT velo.explain('SELECT symbol FROM d_trades UNION SELECT symbol FROM d_quotes');
SELECT velo.explain('SELECT symbol FROM d_trades UNION ALL SELECT symbol FROM d_company');
SELECT velo.explain('SELECT symbol FROM d_company');
SELECT velo.explain('SELECT symbol FROM d_trades FOR UPDATE');
SELECT velo.explain('SELECT symbol INTO elsewhere FROM d_trades');
SELECT velo.explain('DELETE FROM d_company');
SELECT velo.explain('SELECT c.symbol, c.name, count(*) FROM d_trades t JOIN d_company c USING (symbol) GROUP BY c.symbol');
SELECT velo.explain('SELECT symbol, unnest(array_agg(price)) FROM d_trades GROUP BY symbol');
SELECT velo.explain('SELECT symbol, count(*) FROM d_trades WHERE window_start > now() WINDOW TUMBLING(5m) GROUP BY symbol');
SELECT velo.explain('SELECT symbol, max(window_end - ts) FROM d_trades WINDOW HOPPING(5m, 1m) GROUP BY symbol');
SELECT velo.explain('SELECT symbol, window_start FROM d_trades GROUP BY symbol');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW HOPPING(30d, 1ms)');
SELECT velo.explain($$SELECT count(*) FROM d_trades GROUP BY velo.tumble(at, '1 min')$$);
SELECT velo.explain($$SELECT count(*) FROM d_trades GROUP BY velo.tumble(ts, '1 min'), velo.tumble(ts, '2 min')$$);
SELECT velo.explain($$SELECT count(*) FROM d_trades GROUP BY velo.tumble(ts, volume * interval '1 min')$$);
SELECT velo.explain($$SELECT count(*) FROM d_trades GROUP BY velo.session(ts, '1 min')$$);
SELECT velo.explain($$SELECT unnest(tags) t, count(*) FROM d_trades WINDOW HOPPING(5m, 1m) GROUP BY 1$$);
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m) EMIT');
SELECT velo.explain('SELECT count(*) FROM d_trades EMIT FINAL EMIT');
SELECT velo.explain('SELECT count(*) FROM d_trades GRACE 10s WINDOW TUMBLING(5m)');
SELECT velo.explain('SELECT count(*) FROM d_trades WINDOW TUMBLING(5m) EMIT FINAL GRACE INTERVAL ''10'' SECOND');
-- the window of the clause once more, or a bound of it, is the same one
SELECT pg_temp.clauses($$SELECT count(*) AS emit FROM d_trades grace WINDOW TUMBLING(1m)$$);
SELECT velo.explain($$SELECT count(*) FROM d_trades WINDOW TUMBLING(1m) GROUP BY velo.tumble(ts, '1 min')$$, 'costs off');
SELECT velo.explain($$SELECT velo.hop(ts, '2 min', '1 min') AS w, count(*) FROM d_trades WINDOW HOPPING(2m, 1m) GROUP BY 1, window_end$$, 'costs off');

DROP VIEW d_renamed;
DROP FOREIGN TABLE d_trades, d_quotes, d_timeless;
DROP TABLE d_company;
