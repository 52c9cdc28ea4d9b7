-- what can't run continuously is refused: 0A000, where it stands, and what to write instead; nothing here needs a broker
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
CREATE SCHEMA refuse;
SET search_path = refuse;
SELECT velo.create_stream('trades', 'symbol text, price numeric, n int, ts timestamptz, other timestamptz',
    brokers => '127.0.0.1:9', event_time => 'ts', watermark => '10 s');
SELECT velo.create_stream('quotes', 'symbol text, bid numeric, at timestamptz',
    brokers => '127.0.0.1:9', event_time => 'at', watermark => '1 s');
SELECT velo.create_stream('timeless', 'symbol text, at timestamptz', brokers => '127.0.0.1:9');
CREATE TABLE companies (symbol text PRIMARY KEY, name text);
CREATE VIEW big_trades AS SELECT * FROM trades WHERE price > 100;
CREATE VIEW places AS SELECT ctid AS place, n FROM trades;
SELECT velo.create_stream('parent', 'symbol text', brokers => '127.0.0.1:9');
CREATE TABLE child () INHERITS (parent);
CREATE VIEW totals AS SELECT symbol, count(*) FROM trades GROUP BY symbol;

CREATE TABLE cases (id int GENERATED ALWAYS AS IDENTITY, query text);
INSERT INTO cases (query) VALUES
    -- joins of streams with streams
    ('SELECT t.n FROM trades t JOIN quotes q ON q.symbol = t.symbol'),
    ('SELECT t.n FROM trades t, quotes WHERE t.symbol = quotes.symbol'),
    ('SELECT a.n FROM trades a JOIN trades b USING (symbol)'),
    ('SELECT n FROM trades JOIN (SELECT symbol FROM quotes WHERE bid > 1) x USING (symbol)'),
    ('SELECT n FROM trades LEFT JOIN big_trades USING (symbol, n)'),
    ('SELECT c.name FROM companies c LEFT JOIN trades t USING (symbol)'),
    ('SELECT c.name FROM companies c FULL JOIN trades t USING (symbol)'),
    -- session windows, OVER, DISTINCT
    ('SELECT symbol, count(*) FROM trades WINDOW SESSION(5m) GROUP BY symbol'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol, velo.session(ts, ''5 min'')'),
    ('SELECT n, row_number() OVER (ORDER BY n) FROM trades'),
    ('SELECT n, sum(n) OVER w FROM trades WINDOW w AS (PARTITION BY symbol)'),
    ('SELECT symbol, rank() OVER (ORDER BY count(*)) FROM trades GROUP BY symbol'),
    ('SELECT DISTINCT symbol FROM trades'),
    ('SELECT DISTINCT ON (symbol) symbol, n FROM trades'),
    ('SELECT DISTINCT count(*) FROM trades GROUP BY symbol'),
    -- ORDER BY and LIMIT
    ('SELECT n FROM trades ORDER BY n'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol ORDER BY count(*) DESC'),
    ('SELECT n FROM trades LIMIT 5'),
    ('SELECT n FROM trades OFFSET 5'),
    ('SELECT n FROM trades FETCH FIRST 5 ROWS ONLY'),
    ('SELECT n FROM (SELECT n FROM trades LIMIT 3) x'),
    ('SELECT n FROM trades FOR UPDATE'),
    -- grouping sets
    ('SELECT symbol, n, count(*) FROM trades GROUP BY GROUPING SETS ((symbol), (n))'),
    ('SELECT symbol, count(*) FROM trades GROUP BY ROLLUP (symbol)'),
    ('SELECT symbol, n, count(*) FROM trades GROUP BY CUBE (symbol, n)'),
    ('SELECT symbol, grouping(symbol), count(*) FROM trades GROUP BY symbol'),
    -- streams where PostgreSQL does not flatten them away
    ('SELECT symbol, c FROM (SELECT symbol, count(*) AS c FROM trades GROUP BY symbol) x'),
    ('SELECT * FROM totals'),
    ('WITH x AS (SELECT max(n) AS m FROM trades) SELECT m FROM x'),
    ('SELECT n FROM trades WHERE n > (SELECT avg(n) FROM trades)'),
    ('SELECT name FROM companies WHERE symbol IN (SELECT symbol FROM trades)'),
    ('SELECT n, EXISTS (SELECT FROM quotes q WHERE q.symbol = t.symbol) FROM trades t'),
    ('WITH RECURSIVE x AS (SELECT n FROM trades UNION ALL SELECT n + 1 FROM x WHERE n < 5) SELECT n FROM x'),
    ('SELECT n FROM trades UNION SELECT n FROM trades'),
    ('SELECT n FROM trades EXCEPT SELECT n FROM trades'),
    ('SELECT n FROM trades INTERSECT ALL SELECT n FROM trades'),
    ('SELECT symbol FROM trades UNION ALL SELECT symbol FROM companies'),
    ('SELECT symbol FROM trades UNION ALL SELECT symbol FROM quotes ORDER BY 1'),
    ('WITH d AS (DELETE FROM companies RETURNING symbol) SELECT n FROM trades JOIN d USING (symbol)'),
    -- what only tables have
    ('SELECT ctid AS place, n FROM trades'),
    ('SELECT symbol, max(t.xmin::text) FROM companies c JOIN trades t USING (symbol) GROUP BY symbol'),
    ('SELECT symbol, (SELECT name FROM companies WHERE t.cmin IS NOT NULL LIMIT 1) FROM trades t'),
    ('SELECT place FROM places'),
    ('SELECT symbol FROM parent'),
    ('SELECT symbol FROM (SELECT symbol FROM trades UNION ALL SELECT symbol FROM parent) x'),
    -- what a table can't hold, or not by a key
    ('SELECT n, ROW(symbol, price) AS pair FROM trades'),
    ('SELECT symbol, array_agg(ROW(n, price)) FROM trades GROUP BY symbol'),
    ('SELECT n::text::xid AS x, count(*) FROM trades GROUP BY 1'),
    -- windows
    ('SELECT n FROM trades WINDOW TUMBLING(5m)'),
    ('SELECT symbol, count(*) FROM trades WINDOW TUMBLING(other, 5m) GROUP BY symbol'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol, velo.tumble(other, ''5 min'')'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol, velo.tumble(ts + interval ''1 s'', ''5 min'')'),
    ('SELECT count(*) FROM trades GROUP BY velo.tumble(ts, ''1 min''), velo.tumble(ts, ''5 min'')'),
    ('SELECT count(*) FROM trades WINDOW TUMBLING(1m) GROUP BY velo.hop(ts, ''5 min'', ''1 min'')'),
    ('SELECT count(*) FROM trades GROUP BY velo.tumble(ts, n * interval ''1 min'')'),
    ('SELECT symbol, count(*) FROM timeless WINDOW TUMBLING(at, 5m) GROUP BY symbol'),
    ('SELECT symbol, count(*) FROM timeless WINDOW TUMBLING(5m) GROUP BY symbol'),
    ('SELECT n FROM trades WHERE window_start > ''2026-01-01'' WINDOW TUMBLING(5m)'),
    ('SELECT symbol, count(*) FROM trades WHERE window_start > ''2026-01-01'' WINDOW TUMBLING(5m) GROUP BY symbol'),
    -- EMIT
    ('SELECT n FROM trades EMIT FINAL'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol EMIT FINAL'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol, date_trunc(''month'', ts) EMIT FINAL'),
    -- a group column that is not in the result has no key
    ('SELECT count(*) FROM trades GROUP BY symbol'),
    ('SELECT symbol, count(*) FROM trades GROUP BY symbol, n % 2'),
    ('SELECT count(*) FROM trades WINDOW TUMBLING(5m) GROUP BY symbol'),
    ('SELECT c.symbol, c.name, count(*) FROM trades t JOIN companies c USING (symbol) GROUP BY c.symbol'),
    ('SELECT symbol, generate_series(1, 2), count(*) FROM trades GROUP BY symbol'),
    -- other statements
    ('INSERT INTO companies SELECT symbol FROM trades'),
    ('SELECT n INTO x FROM trades'),
    ('SELECT symbol FROM companies'),
    ('SELECT 1'),
    ('VALUES (1)'),
    ('TABLE companies');

-- the whole of what is said
\set ECHO none
SELECT format('SELECT velo.create_query(''q'', %L)', query) FROM cases ORDER BY id \gexec
\set ECHO all

-- always the same SQLSTATE, and a hint
CREATE FUNCTION said(query text, OUT sqlstate_ text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM velo.create_query('q', query);
    sqlstate_ := 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS sqlstate_ = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT query, said.* FROM cases, said(query) WHERE sqlstate_ <> '0A000' OR hint = '' ORDER BY id;

-- what PostgreSQL itself finds wrong is said by PostgreSQL, at the place in the text
SELECT velo.create_query('q', 'SELECT n, symbl FROM trades');
SELECT velo.create_query('q', $$SELECT symbol,
       count(*)
  FROM trades
 WINDOW TUMBLING(5m)
 GROUP BY symbl$$);
SELECT velo.create_query('q', 'SELECT n, count(*) FROM trades');
SELECT velo.create_query('q', 'SELECT FROM trades WHERE');
SELECT velo.create_query('q', 'SELECT nosuchfunction(n) FROM trades');
SELECT velo.create_query('q', 'SELECT n + symbol FROM trades');
SELECT velo.create_query('q', 'SELECT n FROM missing');
SELECT velo.create_query('q', 'SELECT n FROM trades; SELECT 1');
SELECT velo.create_query('q', '');
SELECT velo.create_query('q', NULL);
SELECT velo.create_query('q', 'SELECT $1 FROM trades');
SELECT velo.create_query('q', 'SELECT n, n FROM trades');
SELECT velo.create_query('q', 'SELECT symbol, sum(1 / 0) FILTER (WHERE n > 0) FROM trades GROUP BY symbol');

-- the clauses of the dialect
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING() GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5 parsecs) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(0s) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(1 month) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW HOPPING(5m) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5m) WINDOW TUMBLING(1m) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5m) GRACE -1s GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5m) GROUP BY symbol EMIT SOMETIMES');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5m) GROUP BY symbol EMIT FINAL', emit => 'changes');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(missing, 5m) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(symbol, 5m) GROUP BY symbol');
SELECT velo.create_query('q', 'SELECT symbol, count(*) FROM trades WINDOW TUMBLING(5m) GRACE 1s GROUP BY symbol', options => '{"grace": "2 s"}');

-- arguments
SELECT velo.create_query('q', 'SELECT n FROM trades', sink => 'topic');
SELECT velo.create_query('q', 'SELECT n FROM trades', sink => 'file');
SELECT velo.create_query('q', 'SELECT n FROM trades', sink => 'nowhere');
SELECT velo.create_query('q', 'SELECT n FROM trades', emit => 'never');
SELECT velo.create_query('q', 'SELECT n FROM trades', emit => 'final');
SELECT velo.create_query('q', 'SELECT n FROM trades', start => 'soon');
SELECT velo.create_query('q', 'SELECT n FROM trades', start => 'other:0:5');
SELECT velo.create_query('q', 'SELECT n FROM trades', start => 'trades:0:-5');
SELECT velo.create_query('q', 'SELECT n FROM trades', start => 'trades:0:1,trades:0:2');
SELECT velo.create_query('q', 'SELECT n FROM trades', stop => 'never');
SELECT velo.create_query('q', 'SELECT n FROM trades', pipelines => 0);
SELECT velo.create_query('q', 'SELECT n FROM trades', pipelines => 9);
SELECT velo.create_query('q', 'SELECT n FROM trades', on_error => 'ignore');
SELECT velo.create_query('q', 'SELECT n FROM trades', on_late => 'cry');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"batchsize": 5}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"batch_size": 0}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"batch_size": "many"}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"commit_interval": "-1 s"}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"retry_max_delay": "99 ms"}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '{"on_gap": "jump"}');
SELECT velo.create_query('q', 'SELECT n FROM trades', options => '[]');
SELECT velo.create_query(NULL, 'SELECT n FROM trades');
SELECT velo.create_query('', 'SELECT n FROM trades');
SELECT velo.create_query('a b', 'SELECT n FROM trades');
SELECT velo.create_query('missing.q', 'SELECT n FROM trades');
SELECT velo.create_query('pg_temp.q', 'SELECT n FROM trades');
SELECT velo.create_query('trades', 'SELECT n FROM trades');
SELECT count(*) FROM velo.queries;

-- what is to come
SELECT velo.execute('SELECT n FROM trades');
\echo :LAST_ERROR_SQLSTATE
SELECT velo.replay_dead_letters('q');
\echo :LAST_ERROR_SQLSTATE

SET client_min_messages = warning;
DROP SCHEMA refuse CASCADE;
