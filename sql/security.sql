-- What somebody without rights tries: to see what is others', to have them run one's code, to stand in their way
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';
SELECT '127.0.0.1:' || current_setting('velo.dev_broker_port') AS brokers,
       'security_' || extract(epoch FROM clock_timestamp()) AS topic \gset
SELECT velo.dev_create_topic(:'topic', 1);
CREATE ROLE regress_velo_mallory LOGIN;
CREATE ROLE regress_velo_victim LOGIN;
CREATE ROLE regress_velo_monitor LOGIN IN ROLE pg_monitor;
GRANT USAGE ON FOREIGN SERVER velo TO regress_velo_mallory, regress_velo_victim;
GRANT USAGE ON FOREIGN DATA WRAPPER velo TO regress_velo_mallory;
GRANT CREATE ON DATABASE :"DBNAME" TO regress_velo_victim;
CREATE SCHEMA mallory AUTHORIZATION regress_velo_mallory;
CREATE SCHEMA victim AUTHORIZATION regress_velo_victim;
GRANT USAGE ON SCHEMA mallory TO PUBLIC;
GRANT USAGE ON SCHEMA victim TO PUBLIC;

-- a query with secrets in its text, its errors and its dead letters
SET ROLE regress_velo_victim;
SET search_path = victim;
SELECT velo.create_stream('s', 'k text, v int, ts timestamptz', topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '0', key => 'k');
INSERT INTO s VALUES ('hush', 0, '2026-01-01'), ('hush', 1, '2026-01-01');
SELECT velo.create_query('q', $$SELECT k, 10 / v AS x, 'hush' AS secret FROM s$$);
SELECT velo.wait('q');

-- ---------------------------------------------------------------- to see what is others'
SET ROLE regress_velo_mallory;
SET search_path = mallory;
-- with a query of one's own the others' stand beside it in all tables
SELECT velo.create_stream('s', 'k text, v int, ts timestamptz', topic => :'topic', brokers => :'brokers', event_time => 'ts', watermark => '0', key => 'k');
SELECT velo.create_query('own', 'SELECT k FROM s');
SELECT velo.wait('own');
CREATE FUNCTION tell(anyelement) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE NOTICE ''I see %'', $1; RETURN true; END';
CREATE FUNCTION told(text, text) RETURNS bool LANGUAGE plpgsql STRICT COST 0.0001 AS 'BEGIN RAISE NOTICE ''I see %'', $1; RETURN true; END';
CREATE OPERATOR <<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = told, RESTRICT = scalarltsel);
SET enable_nestloop = off;
SELECT name FROM velo.queries WHERE tell(query) AND tell(target) AND query <<<< 'z';
SELECT query FROM velo.pipelines WHERE tell(records_in) AND tell(batches);
SELECT query FROM velo.partitions WHERE tell(stream) AND tell(committed_offset) AND tell(watermark);
SELECT query FROM velo.dead_letters WHERE tell(message) AND tell(value) AND tell(stream) AND tell(correlation_id);
DELETE FROM velo.dead_letters WHERE tell(message) RETURNING tell(message);
SELECT stream FROM velo.streams WHERE tell(stream) AND tell(format);
RESET enable_nestloop;
TABLE velo.query;
TABLE velo.query_error;
TABLE velo.query_state;
TABLE velo.dead_letter;
SELECT velo.query_name(id), velo.may_read_letter(id, 'victim.s') FROM (SELECT oid::regclass FROM pg_class WHERE relnamespace = 'velo_queries'::regnamespace) AS queries(id) ORDER BY 1;
SELECT velo.wait('victim.q');
SELECT velo.explain('SELECT k FROM victim.s');
SELECT velo.explain('SELECT k, count(*) FROM victim.s GROUP BY k', 'ANALYZE');
EXPLAIN (COSTS OFF) SELECT k, count(*) FROM victim.s GROUP BY k;
SELECT velo.create_query('mine', 'SELECT k FROM victim.s');
SELECT velo.create_query('mine', 'SELECT k FROM (SELECT * FROM victim.s) AS t');
TABLE velo_queries.q;
SELECT velo.pause_query('victim.q');
SELECT velo.alter_query('victim.q', '{"on_error": "skip"}');
SELECT velo.restart_query('victim.q', 'earliest');
SELECT velo.drop_query('victim.q');
SELECT velo.advance_watermark('victim.q', now());
SELECT velo.drop_stream('victim.s');
SELECT velo.drop_stream('victim.s', cascade => true);
RESET ROLE;
DROP OPERATOR mallory.<<<< (text, text);

-- ---------------------------------------------------------------- to run one's code as somebody else

-- Functions that note who they run as.  One says that it is immutable, so that planning calls it.
SET ROLE regress_velo_mallory;
SET search_path = mallory;
CREATE TABLE ran (what text, as_role name, UNIQUE (what, as_role));
GRANT INSERT, SELECT ON ran TO PUBLIC;
CREATE FUNCTION note(what text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO mallory.ran VALUES (what, current_user) ON CONFLICT DO NOTHING; RETURN true; END';
CREATE FUNCTION a_minute() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM note(''a window''); RETURN ''1 min''; END';
SELECT velo.create_query('windowed', 'SELECT count(*) FROM s GROUP BY velo.tumble(ts, a_minute())');
SELECT velo.wait('windowed');
-- a superuser has to do with it
RESET ROLE;
RESET search_path;
SELECT velo.wait('mallory.windowed');
SELECT velo.alter_query('mallory.windowed', '{"pipelines": 2}');
SELECT velo.restart_query('mallory.windowed', 'earliest');
SELECT velo.pause_query('mallory.windowed');
SELECT velo.resume_query('mallory.windowed');
SET ROLE regress_velo_monitor;
SELECT velo.wait('mallory.windowed');
RESET ROLE;
SELECT * FROM mallory.ran ORDER BY what COLLATE "C";
SELECT velo.drop_query('mallory.windowed');
-- a monitor puts a function in the place of a superuser's
CREATE FUNCTION public.a_minute() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM note(''a superuser''''s window''); RETURN ''1 min''; END';
CREATE FUNCTION public.note(what text) RETURNS bool LANGUAGE sql AS 'SELECT true';
SELECT velo.create_query('public.trusted', 'SELECT count(*) FROM victim.s GROUP BY velo.tumble(ts, public.a_minute())');
SET ROLE regress_velo_monitor;
SET search_path = mallory;
SELECT velo.wait('public.trusted');
RESET ROLE;
RESET search_path;
SELECT * FROM mallory.ran ORDER BY what COLLATE "C";
SELECT velo.drop_query('public.trusted');
DROP FUNCTION public.note(text), public.a_minute();

-- what a domain checks
SET ROLE regress_velo_mallory;
SET search_path = mallory;
CREATE DOMAIN trap AS text CHECK (note('a domain'));
CREATE FOREIGN TABLE bait (k trap) SERVER velo OPTIONS (topic :'topic', brokers :'brokers');
GRANT SELECT ON bait TO PUBLIC;
RESET ROLE;
SELECT * FROM mallory.bait;
SELECT * FROM mallory.ran ORDER BY what COLLATE "C";
SELECT velo.create_query('public.eater', 'SELECT k FROM mallory.bait');
SELECT velo.wait('public.eater');
SET ROLE regress_velo_mallory;
ALTER DOMAIN mallory.trap ADD CHECK (mallory.note('a domain''s second thought'));
RESET ROLE;
INSERT INTO victim.s VALUES ('more', 1, '2026-01-01');
SELECT velo.wait('public.eater');
SELECT * FROM public.eater;
SELECT * FROM mallory.ran ORDER BY what COLLATE "C";
SELECT velo.drop_query('public.eater');
-- whoever has no more rights than the owner of a stream reads it with their own, as any foreign table
SET ROLE regress_velo_victim;
SELECT * FROM mallory.bait LIMIT 1;
SELECT DISTINCT what, as_role FROM mallory.ran ORDER BY 1, 2;
RESET ROLE;

-- what the owner of a target has about it: in each place, and with an attempt to get out of it
SET ROLE regress_velo_mallory;
SET search_path = mallory;
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mallory.note(TG_NAME);
	IF TG_NAME = 'escape' THEN
		BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN PERFORM mallory.note(SQLERRM); END;
		BEGIN EXECUTE 'SET SESSION AUTHORIZATION DEFAULT'; EXCEPTION WHEN OTHERS THEN PERFORM mallory.note(SQLERRM); END;
		BEGIN EXECUTE 'CREATE TEMP TABLE t ()'; EXCEPTION WHEN OTHERS THEN PERFORM mallory.note(SQLERRM); END;
	ELSIF TG_NAME = 'put off' THEN
		SET CONSTRAINTS ALL DEFERRED;
	END IF;
	RETURN NEW;
END $$;
CREATE FUNCTION pure(what text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN mallory.note(what); END';
CREATE DOMAIN kept AS text CHECK (note('a domain of the target'));
CREATE TABLE target (k kept, x int CHECK (note('a check')), d bool DEFAULT note('a default'), g bool GENERATED ALWAYS AS (pure('a generated column' || x)) STORED);
CREATE INDEX ON target (pure('an index' || x));
CREATE TRIGGER escape BEFORE INSERT ON target FOR EACH ROW EXECUTE FUNCTION fired();
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fired();
ALTER TABLE target ENABLE ROW LEVEL SECURITY;
ALTER TABLE target FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON target USING (true) WITH CHECK (note('a policy'));
CREATE TABLE ruled (k text, x int);
CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT note('a rule' || NEW.x);
CREATE TABLE held (k text, x int);
-- so that a missing right is the row's fault
ALTER TABLE held ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER "put off" BEFORE INSERT ON held FOR EACH ROW EXECUTE FUNCTION fired();
CREATE CONSTRAINT TRIGGER held AFTER INSERT ON held DEFERRABLE FOR EACH ROW EXECUTE FUNCTION fired();
TRUNCATE ran;
RESET ROLE;
RESET search_path;
SELECT velo.create_query('to_' || t, 'SELECT k, v AS x FROM victim.s WHERE v = 1', target => 'mallory.' || t) FROM unnest('{target, ruled, held}'::text[]) AS t;
SELECT velo.wait('to_' || t) FROM unnest('{target, ruled, held}'::text[]) AS t;
SELECT count(*) FROM mallory.target;
SELECT count(*) FROM mallory.ruled;
SELECT count(*) FROM mallory.held;
SELECT DISTINCT query, kind, message FROM velo.dead_letters WHERE query LIKE 'to_%';
SELECT * FROM mallory.ran ORDER BY what COLLATE "C";
SELECT velo.drop_query('to_' || t) FROM unnest('{target, ruled, held}'::text[]) AS t;
-- and not as the owner of a query who could not be theirs
GRANT INSERT, UPDATE, DELETE ON mallory.target TO regress_velo_victim;
SET ROLE regress_velo_victim;
SELECT velo.create_query('victim.to_target', 'SELECT k, v AS x FROM victim.s', target => 'mallory.target');
RESET ROLE;

-- the extension's own schema
CREATE DATABASE regress_velo_theirs OWNER regress_velo_mallory;
SELECT current_database() AS database \gset
\c regress_velo_theirs
SET ROLE regress_velo_mallory;
CREATE SCHEMA velo;
RESET ROLE;
CREATE EXTENSION velo;
ALTER SCHEMA velo OWNER TO CURRENT_USER;
GRANT CREATE ON SCHEMA velo TO regress_velo_mallory;
CREATE EXTENSION velo;
SET ROLE regress_velo_mallory;
CREATE FUNCTION velo.max(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
RESET ROLE;
REVOKE CREATE ON SCHEMA velo FROM regress_velo_mallory;
CREATE EXTENSION velo;
DROP FUNCTION velo.max(text);
CREATE EXTENSION velo;
DROP EXTENSION velo;
CREATE EXTENSION velo;
\c :database
SET TimeZone = 'UTC';
DROP DATABASE regress_velo_theirs;

-- ---------------------------------------------------------------- to stand in the way

-- a stream, or options, that can't be read
SET ROLE regress_velo_mallory;
SET search_path = mallory;
CREATE SERVER theirs FOREIGN DATA WRAPPER velo;
SELECT velo.create_stream('broken', 'k text', topic => :'topic', brokers => :'brokers', server => 'theirs');
SELECT velo.create_query('of_broken', 'SELECT k FROM broken');
ALTER SERVER theirs OPTIONS (ADD brokers :'brokers');
SELECT velo.alter_query('own', '{"idle_timeout": "-1 day 25:00", "commit_interval": "-1 day 24:00:01"}');
RESET ROLE;
RESET search_path;
SELECT query, partitions IS NOT NULL AS partitions FROM velo.pipelines ORDER BY query, pipeline;
SET IntervalStyle = sql_standard;
SELECT count(*) FROM velo.queries;
SELECT count(*) > 0 AS streams FROM velo.streams;
RESET IntervalStyle;

-- more memory than is one's share: a million records of a hundred columns
SELECT :'topic' || '_wide' AS topic_wide \gset
SELECT velo.dev_create_topic(:'topic_wide', 1);
SELECT string_agg('c' || i, ', ') AS columns, string_agg('c' || i || ' int', ', ') AS definitions FROM generate_series(1, 100) AS i \gset
SET ROLE regress_velo_mallory;
SET search_path = mallory;
SELECT velo.create_stream('lines', 'line text', topic => :'topic_wide', brokers => :'brokers', format => 'raw');
INSERT INTO lines SELECT '{}' FROM generate_series(1, 3000);
SELECT velo.create_stream('wide', :'definitions', topic => :'topic_wide', brokers => :'brokers');
SELECT velo.create_query('of_wide', format('SELECT count(*) FROM wide WHERE num_nulls(%s) = 100', :'columns'), options => '{"batch_size": 1000000, "pipeline_memory": "9 GB"}');
SELECT velo.create_query('of_wide', format('SELECT count(*) FROM wide WHERE num_nulls(%s) = 100', :'columns'), options => '{"batch_size": 1000000, "pipeline_memory": "8192 kB"}');
SELECT velo.wait('of_wide');
SELECT records_in, batches > 2 AS batches FROM velo.pipelines WHERE query = 'of_wide';
RESET ROLE;
RESET search_path;

-- ---------------------------------------------------------------- to get at the server's files and identity

-- which properties there are for everybody hangs on librdkafka
\set VERBOSITY terse
SET ROLE regress_velo_mallory;
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.mechanism" ' GSSAPI');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.mechanisms" 'gssapi');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "bootstrap.servers" 'h:2');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "metadata.broker.list" 'h:2');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "topic.acks" '0');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "plugin.library.paths" '/tmp/evil.so');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "ssl.engine.location" '/tmp/evil.so');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "ssl.ca.location" '/etc/passwd');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "ssl.keystore.location" '/etc/passwd');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.kerberos.kinit.cmd" 'touch /tmp/evil');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.kerberos.keytab" '/etc/krb5.keytab');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.oauthbearer.token.endpoint.url" 'http://h');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "debug" 'all');
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "sasl.password" 'hush');
-- not even where a superuser has lent an identity
RESET ROLE;
CREATE SERVER lent FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "ssl.key.location" '/nowhere');
ALTER SERVER lent OWNER TO regress_velo_mallory;
SET ROLE regress_velo_mallory;
ALTER SERVER lent OPTIONS (SET brokers 'mallory:1');
ALTER SERVER lent OPTIONS (ADD "client.id" 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS ("ssl.key.location" '/etc/passwd');
CREATE USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (brokers 'h:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS ("sasl.passwrd" 'hush');
SELECT velo.velo_fdw_validator('{plugin.library.paths=/tmp/evil.so}', 'pg_foreign_server'::regclass);
\set VERBOSITY default
SELECT velo.create_stream('mallory.pattern', 'k text', topic => '^.*');
SELECT velo.create_stream('mallory.injected', 'k text) SERVER theirs OPTIONS (topic ''x''');
SELECT velo.create_stream('mallory.injected', 'k text /*');
SELECT velo.create_stream('mallory.injected', 'k text', brokers => 'h:1'', topic ''x');
RESET ROLE;
\set VERBOSITY terse
CREATE SERVER evil FOREIGN DATA WRAPPER velo OPTIONS (brokers 'h:1', "topic.acks" '0');
\set VERBOSITY default

-- ---------------------------------------------------------------- names

-- every one of them ends a string, an identifier, a line or a format, and is as long as can be
SET ROLE regress_velo_victim;
SET search_path = victim;
SELECT 'a"b''c%s%n\' || chr(10) || 'd;--' || chr(228) || '.$$' AS odd \gset
SELECT :'odd' || repeat('x', 63 - octet_length(:'odd')) AS name \gset
SELECT octet_length(:'name') AS length;
CREATE SCHEMA :"odd";
SELECT velo.create_stream(quote_ident(:'odd') || '.' || quote_ident(:'name'), quote_ident(:'name') || ' text OPTIONS (field ''k''), v int', topic => :'topic', brokers => :'brokers', key => quote_ident(:'name'));
SELECT velo.create_query(quote_ident(:'odd') || '.' || quote_ident(:'name') || '', 'x');
SELECT velo.create_query(quote_ident(:'odd') || '.q', format('SELECT %I, sum(10 / v) AS %I FROM %I.%I GROUP BY %1$I', :'name', :'odd', :'odd', :'name'));
SELECT velo.wait(quote_ident(:'odd') || '.q');
SELECT velo.create_query(quote_ident(:'name'), format('SELECT %I, v FROM %I.%I', :'name', :'odd', :'name'), options => '{"group_id": "a\"b''c%s\\"}');
SELECT velo.wait(quote_ident(:'name'));
TABLE :"odd".q;
TABLE :"name";
SELECT name, state, target, error FROM velo.queries WHERE name LIKE '%"%' ORDER BY name;
SELECT query, kind, stream, message FROM velo.dead_letters WHERE query LIKE '%"%' ORDER BY query, id;
SELECT * FROM velo.explain(format('SELECT %I, count(*) FROM %I.%I GROUP BY %1$I', :'name', :'odd', :'name'), 'COSTS OFF') AS line WHERE line LIKE '%Foreign Scan%' OR line LIKE '%Stream: %';
SELECT velo.restart_query(quote_ident(:'name'), 'earliest');
SELECT velo.alter_query(quote_ident(:'name'), jsonb_build_object(:'odd', 1));
SELECT velo.drop_stream((quote_ident(:'odd') || '.' || quote_ident(:'name'))::regclass);
SELECT velo.drop_query(quote_ident(:'name'));
SELECT velo.drop_stream((quote_ident(:'odd') || '.' || quote_ident(:'name'))::regclass, cascade => true);
RESET ROLE;
RESET search_path;

SET client_min_messages = warning;
DROP OWNED BY regress_velo_mallory, regress_velo_victim, regress_velo_monitor CASCADE;
DROP ROLE regress_velo_mallory, regress_velo_victim, regress_velo_monitor;
SELECT count(*) FROM velo.queries;
