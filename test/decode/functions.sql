-- the module's functions, for the tests of this directory; in a transaction or a database of their own
\getenv srcdir PG_ABS_SRCDIR
\set module :srcdir '/velo_decode_test'
CREATE FUNCTION decode_record(rel regclass, options text[], value bytea, key bytea DEFAULT NULL)
	RETURNS text AS :'module' LANGUAGE C;
CREATE FUNCTION encode_record(rel regclass, options text[], "row" record)
	RETURNS bytea AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION decode_fuzz(seed bigint, INOUT cases bigint, OUT accepted bigint, OUT mismatches bigint)
	AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION decode_bench(rel regclass)
	RETURNS TABLE (records text, decoder text, ns_per_record float8, mb_per_s float8)
	AS :'module' LANGUAGE C STRICT;
CREATE DOMAIN fuzz_positive AS int CHECK (value > 0);
CREATE DOMAIN fuzz_given AS text NOT NULL;
CREATE DOMAIN fuzz_json AS json;
CREATE TYPE fuzz_pair AS (a int, b text);
CREATE DOMAIN fuzz_list AS int[] CHECK (cardinality(value) < 3);
CREATE DOMAIN fuzz_odd_pair AS fuzz_pair CHECK ((value).a % 2 = 1);
CREATE TYPE fuzz_mood AS ENUM ('sad', 'ok', 'very happy');
CREATE TYPE fuzz_nest AS (p fuzz_pair, l fuzz_pair[], m fuzz_mood, t timestamptz, d fuzz_positive);
CREATE TABLE trades (symbol text, price float8, ts timestamptz);
