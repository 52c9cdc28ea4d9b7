-- streams: options, creation, removal; nothing here needs a broker
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;

-- both doors make the same thing
SELECT velo.create_stream('trades',
    columns    => 'symbol text, price float8, volume bigint, ts timestamptz',
    topic      => 'financial_trades',
    brokers    => '127.0.0.1:9',
    event_time => 'ts', watermark => '10 s', key => 'symbol');
CREATE FOREIGN TABLE trades_ddl (symbol text, price float8, volume bigint, ts timestamptz)
    SERVER velo OPTIONS (topic 'financial_trades', brokers '127.0.0.1:9', format 'json',
                         event_time 'ts', key 'symbol', watermark '00:00:10');
SELECT ftrelid::regclass, unnest(ftoptions) FROM pg_foreign_table ORDER BY 1, 2;
SELECT * FROM velo.streams ORDER BY stream;

-- names are read as PostgreSQL reads them, and quoted where they must be
CREATE SCHEMA "Other";
SELECT velo.create_stream('"Other"."My Stream"', E'"Key" text, v int -- ends here',
    topic => 'it.is-a_topic', brokers => '127.0.0.1:9', key => '"Key", V');
SELECT velo.create_stream('"Other".It', 'a int, "Zeit" timestamptz OPTIONS (metadata ''timestamp''),
        b varchar(5) OPTIONS (field ''x.y'') DEFAULT (''()''), CHECK (a > 0)',
    brokers => '127.0.0.1:9', event_time => '"Zeit"',
    options => '{"idle_timeout": "5 minutes", "max_future": "1 h", "on_error": "skip", "partitions_refresh": "PT30S"}');
SELECT * FROM velo.streams WHERE stream::text LIKE '%Other%' ORDER BY stream;
SELECT attname, attfdwoptions FROM pg_attribute
    WHERE attrelid = '"Other".it'::regclass AND attnum > 0 ORDER BY attnum;

-- no brokers: not a stream to read from, but ALTER SERVER may come later
SELECT velo.create_stream('homeless', 'a int');
SELECT * FROM homeless;
INSERT INTO homeless VALUES (1);

-- what is wrong is said clearly, with the valid options
SELECT velo.create_stream('t', NULL);
SELECT velo.create_stream('t', 'a int', format => 'avro');
SELECT velo.create_stream('t', 'a int', format => 'xml');
SELECT velo.create_stream('t', 'a int', options => '{"mode": "upsert"}');
SELECT velo.create_stream('t', 'a int', options => '{"idle_time_out": "1 s"}');
SELECT velo.create_stream('t', 'a int', options => '{"nonsense": 1}');
SELECT velo.create_stream('t', 'a int', options => '{"topic": {"a": 1}}');
SELECT velo.create_stream('t', 'a int', options => '["topic"]');
SELECT velo.create_stream('t', 'a int', topic => 'x', options => '{"topic": "y"}');
SELECT velo.create_stream('t', 'a int', topic => 'no topic');
SELECT velo.create_stream('A stream', 'a int');
SELECT velo.create_stream('"A stream"', 'a int');
SELECT velo.create_stream('t', 'a int', server => 'missing');
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
SELECT velo.create_stream('t', 'a int', server => 'other');
DROP FOREIGN DATA WRAPPER other CASCADE;
SELECT velo.create_stream('t', 'a int', brokers => ' ');
SELECT velo.create_stream('t', 'a int', brokers => 'kafka:9092,kafka:port');
SELECT velo.create_stream('t', 'a int', brokers => 'http://kafka:9092');
SELECT velo.create_stream('t', 'a int', brokers => 'kafka:65536');
SELECT velo.create_stream('t', 'a int', brokers => 'SSL://kafka-1.example.org:9092, ::1, [fe80::1%eth0]:9092, 10.0.0.1');
SELECT velo.drop_stream('t');
SELECT velo.create_stream('trades', 'a int');
SELECT velo.create_stream('t', 'a int', options => '{"on_error": "dead_letter"}');
SELECT velo.create_stream('t', 'a int', options => '{"partitions_refresh": 0}');

-- the columns are the caller's, but stay between their parentheses
SELECT velo.create_stream('t', 'a int, b nosuchtype');
SELECT velo.create_stream('t', 'a int b');
SELECT velo.create_stream('t', 'a int) INHERITS (trades');
SELECT velo.create_stream('t', 'a int) SERVER velo; DROP TABLE x; --');
SELECT velo.create_stream('t', 'a numeric(10');
SELECT velo.create_stream('t', 'a int /* for ever');
SELECT velo.create_stream('t', 'a int DEFAULT $x$');

-- intervals
SELECT velo.create_stream('t', 'ts timestamptz', event_time => 'ts', watermark => '1 month');
SELECT velo.create_stream('t', 'ts timestamptz', event_time => 'ts', watermark => '-1 s');
SELECT velo.create_stream('t', 'a int', watermark => '1 s');
SELECT velo.create_stream('t', 'a int', options => '{"idle_timeout": "soon"}');
SELECT velo.create_stream('t', 'a int', options => '{"max_future": "1 s"}');

-- columns
SELECT velo.create_stream('t', 'ts timestamp', event_time => 'ts');
SELECT velo.create_stream('t', '"TS" timestamptz', event_time => 'TS');
SELECT velo.create_stream('t', 'a timestamptz, b timestamptz', event_time => 'a, b');
SELECT velo.create_stream('t', 'a int', key => 'a,');
SELECT velo.create_stream('t', 'a int', key => 'b');
SELECT velo.create_stream('t', 'a int', key => 'a, A');
SELECT velo.create_stream('t', 'a int, o bigint OPTIONS (metadata ''offset'')', key => 'o');
SELECT velo.create_stream('t', 'o int OPTIONS (metadata ''offset'')');
SELECT velo.create_stream('t', 'a int OPTIONS (metadata ''ofset'')');
SELECT velo.create_stream('t', 'a int OPTIONS (feld ''x'')');
SELECT velo.create_stream('t', 'a int OPTIONS (field ''x..y'')');
SELECT velo.create_stream('t', 'a timestamptz OPTIONS (unit ''m'')');
SELECT velo.create_stream('t', 'a bigint OPTIONS (unit ''ms'')');
SELECT velo.create_stream('t', 'a timestamptz OPTIONS (unit ''s'', metadata ''timestamp'')');
SELECT velo.create_stream('t', 'a int, b int', format => 'raw');
SELECT velo.create_stream('t', 'k text OPTIONS (metadata ''key'')', format => 'raw');
SELECT velo.create_stream('t', 'a text OPTIONS (field ''x'')', format => 'raw');
SELECT velo.create_stream('raw', 'payload bytea, k text OPTIONS (metadata ''key'')',
    format => 'raw', brokers => '127.0.0.1:9', key => 'k');

-- a stream that ALTER has broken says so when it is used
ALTER FOREIGN TABLE trades_ddl RENAME COLUMN ts TO at;
SELECT * FROM trades_ddl;
ALTER FOREIGN TABLE trades_ddl OPTIONS (SET event_time 'at');
EXPLAIN (COSTS OFF) SELECT symbol FROM trades_ddl WHERE price > 1;
EXPLAIN (COSTS OFF) SELECT count(*) FROM raw;
-- what is asked of offset, partition and time limits what is read; a latest time does not, for times need not ascend
SELECT velo.create_stream('narrow', 'p int OPTIONS (metadata ''partition''), o bigint OPTIONS (metadata ''offset''),
        t timestamptz OPTIONS (metadata ''timestamp'')', brokers => '127.0.0.1:9');
EXPLAIN (COSTS OFF) SELECT * FROM narrow WHERE p IN (1, 2) AND 5 < o AND t >= now() - interval '1 h';
EXPLAIN (COSTS OFF) SELECT * FROM narrow WHERE o + 1 > 5 AND t < now() AND p <> 3;
DROP FOREIGN TABLE narrow;
ALTER FOREIGN TABLE trades_ddl OPTIONS (DROP event_time);

-- servers and user mappings
CREATE SERVER kafka FOREIGN DATA WRAPPER velo OPTIONS (brokers '127.0.0.1:9', "client.id" 'me');
CREATE SERVER kafka2 FOREIGN DATA WRAPPER velo OPTIONS (brokers '');
ALTER SERVER kafka OPTIONS (ADD "sasl.password" 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.password" 'x');
SELECT velo.create_stream('t', 'a int', server => 'kafka', brokers => '127.0.0.1:9');
SELECT velo.create_stream('t', 'a int', server => 'kafka');
SELECT topic, brokers FROM velo.streams WHERE stream = 't'::regclass;
ALTER FOREIGN DATA WRAPPER velo OPTIONS (ADD x 'y');
DROP FOREIGN TABLE t;
DROP SERVER kafka CASCADE;

-- rights: USAGE on the server is the administrator's to give
CREATE ROLE regress_velo_user;
GRANT CREATE ON SCHEMA public TO regress_velo_user;
SET ROLE regress_velo_user;
SELECT velo.create_stream('mine', 'a int', brokers => '127.0.0.1:9');
SELECT velo.drop_stream('trades');
SELECT count(*) FROM velo.streams;
SELECT * FROM trades;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER velo TO regress_velo_user;
SET ROLE regress_velo_user;
SELECT velo.create_stream('mine', 'a int', brokers => '127.0.0.1:9');
SELECT stream FROM velo.streams;
SELECT velo.drop_stream('mine');
RESET ROLE;

-- a stream only grows
UPDATE trades SET price = 1;
DELETE FROM trades;
TRUNCATE trades;
INSERT INTO trades VALUES ('A') ON CONFLICT DO NOTHING;
EXPLAIN (COSTS OFF) INSERT INTO trades VALUES ('A');

-- removal
CREATE VIEW on_trades AS SELECT * FROM trades;
SELECT velo.drop_stream('trades');
SELECT velo.drop_stream('trades', cascade => true);
SELECT velo.drop_stream('pg_class');
SELECT velo.drop_stream(0);
SELECT velo.drop_stream('"Other"."My Stream"');

-- clean up
REVOKE ALL ON SCHEMA public FROM regress_velo_user;
REVOKE ALL ON FOREIGN SERVER velo FROM regress_velo_user;
DROP ROLE regress_velo_user;
DROP SCHEMA "Other" CASCADE;
DROP FOREIGN TABLE trades_ddl, homeless, raw;
