-- Records of all kinds through the decoders, a round trip through the encoder, and some seconds of fuzz.
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set functions :srcdir '/functions.sql'
\i :functions
\set ECHO all
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';

-- json: what json_to_record() makes of it
SELECT v, decode_record('trades', '{}', convert_to(v, 'UTF8')) FROM (VALUES
	('{"symbol":"S1","price":1.5,"ts":"2026-01-01T00:00:00.123Z"}'),
	(' { "ts" : null , "price" : "-2e3" , "symbol" : {"a": [1, 2]} , "more" : [ {} , [ ] ] } '),
	('{"symbol":"\u0041\u00e9\ud83d\ude00\n"}'),
	('{"s\u0079mbol":true,"symbol ":1}'),
	('{"symbol":1,"symbol":2}'),
	('{"symbol":"x\u0000"}'),
	('{"symbol":"\ud800"}'),
	('{"other":"\u0000","\u0000":1,"\ud800":1}'),
	('{"price":"abc"}'),
	('{"price":1e999}'),
	('{"ts":"2026-02-30"}'),
	('{"ts":1767225600000}'),
	('{"ts":-1.0005}'),
	('{"ts":1e300}'),
	('{}'),
	('[]'),
	('null'),
	(''),
	('{"a":01}'),
	('{"a" 1}'),
	('{"a":tru}'),
	('{"symbol":"x"'),
	('{"symbol":"x"}}')) r(v);
SELECT decode_record('trades', '{}', '\x7b2273796d626f6c223a22ff227d');
SELECT decode_record('trades', '{}', '\x7b2273796d626f6c223a22c3a9227d'), decode_record('trades', '{}', '\x7b227800223a317d');
SELECT decode_record('trades', '{}', NULL);

-- nested as deep as PostgreSQL goes, in wanted and in unwanted values
SELECT d, length(decode_record('trades', '{}', convert_to(
	'{"' || k || '":' || repeat('[', d) || repeat(']', d) || '}', 'UTF8'))) > 0 AS survived
FROM (VALUES ('x', 50), ('x', 5000), ('symbol', 5000)) r(k, d);
SELECT decode_record('trades', '{}', convert_to(repeat('{"x":[', 1000000), 'UTF8')) ~ '^(54001|22P02)';

-- paths, one in another; the last duplicate counts as a whole
CREATE TABLE nested (a jsonb, ab int, abc text, x_y date);
SELECT v, decode_record('nested', '{ab field a.b, abc field a.c.c, x_y field x.y}', convert_to(v, 'UTF8')) FROM (VALUES
	('{"a":{"b":1,"c":{"c":"z"}},"x":{"y":"2026-01-01"}}'),
	('{"a":{"b":1},"a":{"c":2}}'),
	('{"a":{"b":1},"a":5}'),
	('{"a":[{"b":1}],"x":{"x":{"y":1}}}'),
	('{"a":{"b":"\u0000"}}'),
	('{"a":{"\u0000":1}}')) r(v);

-- units, metadata, event time
CREATE TABLE meta (s timestamptz, us timestamptz, ns timestamptz(0), topic text, part int, off bigint, key int, headers jsonb, value bytea);
SELECT decode_record('meta', '{s unit 1, us unit 1000000, ns unit 1000000000, topic metadata topic, part metadata partition,
	off metadata offset, key metadata key, headers metadata headers, value metadata value}',
	'{"s":1767225600.5,"us":1767225600000000,"ns":1767225600500000499}', '17');
SELECT decode_record('meta', '{key metadata key}', '{}', 'x'), decode_record('meta', '{key metadata key}', '{}');
-- a key is what the type's input function makes of its bytes, whatever stands behind them
CREATE TABLE flag (b bool);
SELECT k, decode_record('flag', '{b metadata key}', '{}', k) FROM (VALUES (''::bytea), ('t'), ('o'), ('of'), (' on ')) r(k);
CREATE TABLE given (k fuzz_given);
SELECT decode_record('given', '{k metadata key}', '{}'), decode_record('given', '{k metadata key}', '{}', '');
SELECT v, decode_record('trades', '{event_time ts, max_future 3600000000}', convert_to(v, 'UTF8')) FROM (VALUES
	('{}'), ('{"ts":"infinity"}'), ('{"ts":"2026-01-01"}'), ('{"ts":"9999-01-01T00:00:00Z"}')) r(v);

-- raw
CREATE TABLE line (line text, "offset" bigint);
CREATE TABLE bytes (b bytea);
SELECT decode_record('line', '{raw, offset metadata offset}', 'some text'), decode_record('line', '{raw, offset metadata offset}', ''),
	decode_record('line', '{raw, offset metadata offset}', '\x00'), decode_record('line', '{raw, offset metadata offset}', NULL);
SELECT decode_record('bytes', '{raw}', '\x00ff'), encode_record('bytes', '{raw}', ROW('\x00ff'::bytea)),
	encode_record('bytes', '{raw}', ROW(NULL::bytea)) IS NULL AS tombstone;

-- what is encoded decodes to the same
CREATE TABLE every (i int, n numeric, f float8, t text, b bool, tz timestamptz, d date, j jsonb, a int[], p fuzz_pair, y bytea,
	ta text[], c char(4), iv interval, u uuid);
CREATE TABLE every_row AS SELECT (i, n, f, t, b, tz, d, j, a, p, y, ta, c, iv, u)::every AS r FROM (VALUES
	(1, 1.50, 0.1::float8, E'quote" back\\ tab\t é', true, '2026-01-01 00:00:00.123456+00'::timestamptz, '2026-01-01'::date,
	 '{"k": [1, null]}'::jsonb, '{1,NULL,3}'::int[], '(5,"x y")'::fuzz_pair, '\x00ff'::bytea, '{"a,b",NULL}'::text[], 'ab'::char(4),
	 '1 day 02:03:04.5'::interval, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid),
	(NULL, 'NaN', '-Infinity', '', NULL, '-infinity', '0044-03-15 BC', '"s"', '{}', '(,)', '', '{}', '', NULL, NULL),
	(2147483647, 1e-20, 1.7976931348623157e308, NULL, false, '0044-03-15 00:00:00 BC', NULL, NULL, NULL, NULL, NULL, '{{a,b},{c,d}}',
	 NULL, '-1 mon', NULL)) v(i, n, f, t, b, tz, d, j, a, p, y, ta, c, iv, u);
SELECT convert_from(encode_record('every', '{tz field time.at, n field time.n}', r), 'UTF8') FROM every_row LIMIT 1;
SELECT decode_record('every', '{tz field time.at, n field time.n}', encode_record('every', '{tz field time.at, n field time.n}', r))
	= r::text AS same FROM every_row;
SELECT encode_record('nested', '{ab field a.b}', ROW(NULL::jsonb, 1, 'x', NULL::date));

-- 0 mismatches, whatever the seed
SET client_min_messages = warning; -- of long names
SELECT cases, accepted BETWEEN cases / 4 AND cases * 3 / 4 AS accepted_many, mismatches FROM decode_fuzz(extract(epoch FROM now())::bigint, 400000);
