-- queries as objects: names, rights, targets, what dropping and renaming does, pause, restart, alter, rollback
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = ISO;
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'query_ddl_' || extract(epoch FROM clock_timestamp()) AS topic \gset
CREATE SCHEMA ddl;
SET search_path = ddl;
SELECT velo.dev_create_topic(:'topic', 2);
SELECT velo.create_stream('s', 'k text, v int, p int OPTIONS (metadata ''partition'')', topic => :'topic', brokers => :'brokers');
INSERT INTO s VALUES ('a', 1, 0), ('b', 2, 1), ('a', 3, 0);

-- names are read as PostgreSQL reads them, and printed as it prints them
CREATE SCHEMA "Other";
SELECT velo.create_query('Plain', 'SELECT k, v FROM s');
SELECT velo.create_query('"Quoted Name"', 'SELECT k, v FROM s');
SELECT velo.create_query('"Other".q', 'SELECT k, v FROM s');
SELECT name, target FROM velo.queries ORDER BY name;
SELECT velo.wait('PLAIN'), velo.wait('ddl.plain'), velo.wait('"Quoted Name"'), velo.wait('"Other"."q"');
SELECT velo.wait('q');
SELECT velo.wait('Quoted Name');
SELECT velo.create_query('plain', 'SELECT v FROM s');
SET search_path = "Other", ddl;
SELECT name, target FROM velo.queries ORDER BY name;
SELECT count(*) FROM q;
SET search_path = ddl;
SELECT velo.drop_query('"Quoted Name"'), velo.drop_query('"Other".q'), velo.drop_query('plain');
SELECT velo.drop_query('plain');
SELECT count(*) FROM pg_class WHERE relnamespace IN ('ddl'::regnamespace, '"Other"'::regnamespace, 'velo_queries'::regnamespace);

-- rolled back, it leaves nothing
BEGIN;
SELECT velo.create_query('q', 'SELECT k, count(*) FROM s GROUP BY k');
SELECT name, state FROM velo.queries;
SELECT velo.wait('q');
ROLLBACK;
SELECT count(*) FROM velo.queries;
SELECT to_regclass('q');
BEGIN;
SAVEPOINT a;
SELECT velo.create_query('q', 'SELECT k FROM s');
ROLLBACK TO a;
SELECT velo.create_query('q', 'SELECT k, count(*) FROM s GROUP BY k');
COMMIT;
SELECT velo.wait('q');
TABLE q ORDER BY k;
BEGIN;
SELECT velo.drop_query('q');
SELECT count(*) FROM velo.queries;
ROLLBACK;
SELECT velo.wait('q');

-- pause, resume, alter, restart
SELECT velo.pause_query('q');
SELECT name, state, error, error_hint FROM velo.queries;
SELECT velo.wait('q');
SELECT velo.pause_query('q');
INSERT INTO s VALUES ('c', 4, 1);
SELECT velo.resume_query('q');
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT velo.resume_query('q');
SELECT velo.alter_query('q', '{"batch_size": 1, "on_error": "skip"}');
SELECT velo.alter_query('q', '{"batchsize": 1}');
SELECT velo.alter_query('q', '{"on_error": "ignore"}');
SELECT velo.alter_query('q', '{"pipelines": 99}');
SELECT velo.alter_query('q', '[]');
SELECT velo.alter_query('q', '{"pipelines": "many"}');
SELECT velo.alter_query('q', '{"pipelines": 3, "on_error": "fail", "on_late": "dead_letter"}');
SELECT pipelines FROM velo.queries;
-- null takes an option back
SELECT velo.alter_query('q', '{"pipelines": null, "on_error": null, "on_late": null}');
SELECT pipelines, on_error, on_late, options FROM velo.query;
SELECT velo.alter_query('q', '{"pipelines": 1}');
INSERT INTO s VALUES ('c', 5, 1), ('a', 5, 0);
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT pipelines, records_in, rows_out >= 3 AS rows_out, state FROM velo.queries;
UPDATE q SET count = 1000 WHERE k = 'b';
SELECT velo.restart_query('q', 'earliest');
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT records_in, dead_letters FROM velo.queries;
SELECT velo.restart_query('q', :'topic' || ':0:2');
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT velo.restart_query('q', 'latest');
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT velo.restart_query('q', 'whenever');
SELECT velo.restart_query('q');
INSERT INTO s VALUES ('z', 1, 0);
SELECT velo.wait('q');
TABLE q ORDER BY k;
SELECT velo.drop_query('q', keep_results => true);
TABLE q;
DROP TABLE q;

-- the first bad record stops on_error => 'fail'; what precedes it in its partition is there
SELECT velo.create_query('f', 'SELECT k, 10 / (v - 3) AS x FROM s', on_error => 'fail', pipelines => 1);
DO $$
BEGIN
    FOR i IN 1 .. 100000 LOOP
        EXIT WHEN (SELECT state = 'failed' FROM velo.queries);
        PERFORM FROM velo.pipelines;
    END LOOP;
END $$;
SELECT state, replace(error, (SELECT topic FROM velo.streams WHERE stream = 's'::regclass), 'TOPIC') AS error, error_sqlstate, error_hint FROM velo.queries;
SELECT count(*) FROM f WHERE k = 'a';
SELECT velo.pause_query('f');
SELECT velo.alter_query('f', '{"on_error": "skip"}');
SELECT velo.restart_query('f');
SELECT velo.wait('f');
SELECT state, error, skipped, dead_letters FROM velo.queries;
SELECT k, x FROM f ORDER BY k, x;
SELECT velo.drop_query('f');

-- a type that changes while a query reads it
CREATE TYPE pair AS (x int, y text);
SELECT velo.dev_create_topic(:'topic' || '.pairs');
SELECT velo.create_stream('pairs', 'p pair, j jsonb', topic => :'topic' || '.pairs', brokers => :'brokers');
INSERT INTO pairs VALUES ((1, 'a'), '{"x": 1, "z": 2}');
SELECT velo.create_query('t', 'SELECT p::text AS p, to_jsonb(jsonb_populate_record(NULL::pair, j)) AS j FROM pairs');
SELECT velo.wait('t');
ALTER TYPE pair ADD ATTRIBUTE z int;
INSERT INTO pairs VALUES ((2, 'b', 3), '{"x": 1, "z": 2}');
SELECT velo.wait('t');
TABLE t ORDER BY p;
SELECT velo.drop_query('t');

-- a column of the result that is gone for a while
SELECT velo.create_query('t', 'SELECT (p).x, (p).y FROM pairs', options => '{"retry_max_delay": "100 ms"}');
SELECT velo.wait('t');
ALTER TABLE t DROP COLUMN y;
INSERT INTO pairs VALUES ((3, 'c', 4));
DO $$
BEGIN
    FOR i IN 1 .. 100000 LOOP
        EXIT WHEN (SELECT error IS NOT NULL FROM velo.queries);
        PERFORM FROM velo.pipelines;
    END LOOP;
END $$;
SELECT error FROM velo.queries;
ALTER TABLE t ADD COLUMN y text;
SELECT velo.wait('t');
TABLE t ORDER BY x;
SELECT velo.drop_query('t'), velo.drop_stream('pairs');
DROP TYPE pair;

-- what one function sees of another
CREATE SEQUENCE numbers;
SELECT velo.create_query('n', 'SELECT nextval(''numbers'') AS a, currval(''numbers'') AS b FROM s');
SELECT velo.wait('n');
SELECT count(*) > 1 AS many, bool_and(a = b) AS equal FROM n;
SELECT velo.drop_query('n');
DROP SEQUENCE numbers;

-- dependencies: as of a view
CREATE TABLE names (k text, name text);
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
INSERT INTO names VALUES ('a', 'Anna');
SELECT velo.create_query('d', 'SELECT k, name, twice(v) AS v FROM s JOIN names USING (k)');
SELECT velo.wait('d');
SELECT * FROM d ORDER BY v;
-- whoever would drop the stream is told of all its queries, by their own names
CREATE SCHEMA elsewhere;
CREATE VIEW keys AS SELECT k FROM s;
SELECT velo.create_query('elsewhere.d', 'SELECT k FROM keys');
SELECT queries FROM velo.streams WHERE stream = 's'::regclass;
SELECT velo.drop_stream('s');
SELECT velo.drop_query('elsewhere.d');
DROP VIEW keys;
DROP SCHEMA elsewhere;
DROP TABLE d;
\set VERBOSITY terse
DROP FOREIGN TABLE s;
DROP TABLE names;
ALTER TABLE names DROP COLUMN name;
DROP FUNCTION twice;
\set VERBOSITY default
ALTER FOREIGN TABLE s RENAME TO renamed;
ALTER TABLE names RENAME COLUMN name TO called;
ALTER FUNCTION twice RENAME TO doubled;
ALTER TABLE d RENAME TO d_result;
ALTER TABLE d_result RENAME COLUMN k TO key;
INSERT INTO renamed VALUES ('a', 100, 0);
SELECT velo.wait('d');
SELECT * FROM d_result ORDER BY v DESC LIMIT 1;
SELECT name, target, query FROM velo.queries;
SELECT queries FROM velo.streams WHERE stream = 'renamed'::regclass;
ALTER FOREIGN TABLE renamed RENAME TO s;
SET client_min_messages = warning;
DROP TABLE d_result CASCADE;
RESET client_min_messages;
SELECT count(*) FROM velo.queries;
-- a query over another one's result sees its rows when its own batches are evaluated
SELECT velo.create_query('base', 'SELECT k, max(v) AS m FROM s GROUP BY k');
SELECT velo.wait('base');
SELECT velo.create_query('over', 'SELECT k, v, m FROM s JOIN base USING (k) WHERE v = m', stop => 'end');
SELECT velo.wait('over');
SELECT * FROM over ORDER BY k;
\set VERBOSITY terse
SELECT velo.drop_query('base');
\set VERBOSITY default
SELECT velo.drop_query('over'), velo.drop_query('base');

-- an existing target: matched by name, of fitting types, with a unique index on the groups
CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, n numeric, k text, twice_n numeric GENERATED ALWAYS AS (n * 2) STORED,
    at text DEFAULT 'default', CHECK (n < 100));
SELECT velo.create_query('q', 'SELECT k, count(*) AS n FROM s GROUP BY k', target => 't');
SELECT velo.create_query('q', 'SELECT k, v AS missing FROM s', target => 't');
SELECT velo.create_query('q', 'SELECT k, ARRAY[v] AS n FROM s', target => 't');
SELECT velo.create_query('q', 'SELECT k, v AS twice_n FROM s', target => 't');
SELECT velo.create_query('q', 'SELECT k, v AS n FROM s', target => 'missing');
SELECT velo.create_query('q', 'SELECT k, v AS n FROM s', target => 's');
SELECT velo.create_query('q', 'SELECT k, v AS n FROM s', target => 'velo.queries');
-- groups must stay apart in it
CREATE TABLE coarse (k text COLLATE "C", c char(4), n int, m numeric(5,1), w timestamp, x bigint, y varchar(10), z timestamptz(0));
CREATE UNIQUE INDEX ON coarse (c);
SELECT velo.create_query('q', 'SELECT k AS c FROM s GROUP BY k', target => 'coarse');
SELECT velo.create_query('q', 'SELECT v / 2.0 AS n FROM s GROUP BY v / 2.0', target => 'coarse');
SELECT velo.create_query('q', 'SELECT v / 2.0 AS m FROM s GROUP BY v / 2.0', target => 'coarse');
SELECT velo.create_query('q', 'SELECT v::float8 AS m FROM s GROUP BY v::float8', target => 'coarse');
SELECT velo.create_query('q', 'SELECT now() + v * interval ''1 ms'' AS z FROM s GROUP BY 1', target => 'coarse');
SELECT velo.create_query('q', 'SELECT now() AS w FROM s GROUP BY 1', target => 'coarse');
-- these would, if they had an index
SELECT velo.create_query('q', 'SELECT v::int AS x, k AS y, (v / 2.0)::numeric(5,1) AS m FROM s GROUP BY 1, 2, 3', target => 'coarse');
CREATE UNIQUE INDEX ON coarse (k text_pattern_ops) NULLS NOT DISTINCT;
SELECT velo.create_query('q', 'SELECT k FROM s GROUP BY k', target => 'coarse');
DROP TABLE coarse;
CREATE TEMP TABLE temporary (k text, n int);
SELECT velo.create_query('q', 'SELECT k, v AS n FROM s', target => 'temporary');
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.k = 'z' THEN
        RAISE EXCEPTION 'no z here';
    END IF;
    NEW.at = 'by trigger';
    RETURN NEW;
END $$;
CREATE TRIGGER mark BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION mark();
SELECT velo.create_query('append', 'SELECT k, v AS n FROM s', target => 't');
SELECT velo.wait('append');
SELECT n, k, twice_n, at FROM t ORDER BY n, k;
SELECT kind, convert_from(value, 'UTF8') AS value, sqlstate, message FROM velo.dead_letters ORDER BY value;
SELECT velo.drop_query('append');
SELECT count(*) FROM t;
TRUNCATE t;
CREATE UNIQUE INDEX ON t (k) NULLS NOT DISTINCT;
SELECT velo.create_query('upsert', 'SELECT k, sum(v) AS n FROM s GROUP BY k', target => 'ddl.t');
SELECT velo.wait('upsert');
SELECT n, k, twice_n, at FROM t ORDER BY k;
SELECT kind, sqlstate, message, detail FROM velo.dead_letters ORDER BY detail;
SELECT velo.restart_query('upsert', 'earliest');
ALTER TABLE t DROP CONSTRAINT t_n_check;
INSERT INTO s VALUES ('a', 1, 0);
SELECT velo.wait('upsert');
SELECT n, k, twice_n, at FROM t ORDER BY k;
SELECT kind, sqlstate, message, detail FROM velo.dead_letters ORDER BY detail;
SELECT name, target FROM velo.queries;
SELECT velo.drop_query('upsert');
SELECT count(*) FROM t;

-- rights
CREATE ROLE regress_velo_owner LOGIN;
CREATE ROLE regress_velo_other LOGIN;
GRANT USAGE ON SCHEMA ddl TO regress_velo_owner, regress_velo_other;
SET ROLE regress_velo_owner;
SELECT velo.create_query('mine', 'SELECT k FROM s');
RESET ROLE;
GRANT SELECT ON s TO regress_velo_owner;
SET ROLE regress_velo_owner;
SELECT velo.create_query('mine', 'SELECT k FROM s');
RESET ROLE;
GRANT CREATE ON SCHEMA ddl TO regress_velo_owner;
SET ROLE regress_velo_owner;
SELECT velo.create_query('mine', 'SELECT k, called FROM s JOIN names USING (k)');
SELECT velo.create_query('mine', 'SELECT k, v AS n FROM s', target => 't');
SELECT velo.create_query('mine', 'SELECT k FROM s', options => '{"pipeline_memory": "1 GB"}');
SELECT velo.create_query('mine', 'SELECT k FROM s');
SELECT velo.wait('mine');
SELECT count(*) FROM mine;
SET ROLE regress_velo_other;
SELECT count(*) FROM mine;
SELECT count(*) FROM velo.queries;
SELECT velo.pause_query('mine');
SELECT velo.drop_query('mine');
SELECT velo.alter_query('mine', '{}');
SELECT velo.restart_query('mine');
SELECT velo.advance_watermark('mine', now());
SELECT velo.wait('mine');
RESET ROLE;
-- who may not be the owner of the target any more does not write as that
SET ROLE regress_velo_owner;
CREATE TABLE given (k text);
SELECT velo.create_query('giver', 'SELECT k FROM s', target => 'given');
SELECT velo.wait('giver');
RESET ROLE;
CREATE TABLE before AS SELECT count(*) FROM given;
ALTER TABLE given OWNER TO regress_velo_other;
INSERT INTO s VALUES ('late', 1, 0);
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        EXIT WHEN EXISTS (SELECT FROM velo.queries WHERE name = 'giver' AND state = 'waiting');
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
        COMMIT;
    END LOOP;
END $$;
SELECT state, error, error_sqlstate FROM velo.queries WHERE name = 'giver';
SELECT count(*) FROM given EXCEPT TABLE before;
SELECT velo.drop_query('giver');
REVOKE SELECT ON s FROM regress_velo_owner;
SELECT name, owner FROM velo.queries;
REASSIGN OWNED BY regress_velo_owner TO regress_velo_other;
SELECT name, owner, state, error FROM velo.queries;
SET client_min_messages = warning;
DROP OWNED BY regress_velo_other, regress_velo_owner CASCADE;
SELECT count(*) FROM velo.queries;
DROP ROLE regress_velo_owner, regress_velo_other;
DROP SCHEMA ddl, "Other" CASCADE;
SELECT count(*) FROM velo.queries;
