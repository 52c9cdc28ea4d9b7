# Rights that are taken away while a query runs: it stops reading, or sees less, with its next record, says why, and goes
# on without loss when they are given back.  And roles that change hands, or may not log in.

use strict;
use warnings;

use Test::More;
use Velo::Server;

my $pg = Velo::Server->new(dev_broker => 1, conf => {'velo.retry_max_delay' => '500 ms', 'velo.idle_timeout' => 0});
my $brokers = $pg->dev_brokers;
my $n = 0;

$pg->query(<<"SQL");
CREATE EXTENSION velo;
CREATE ROLE owner LOGIN;
CREATE ROLE reader LOGIN;
CREATE ROLE readers ROLE reader;
GRANT CREATE ON SCHEMA public TO reader;
SELECT velo.dev_create_topic('t', 2);
SELECT velo.create_stream('s', 'k text, v int', topic => 't', brokers => '$brokers', key => 'k');
CREATE TABLE names (k text, name text);
INSERT INTO names VALUES ('a', 'A');
CREATE FUNCTION twice(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 2 * \$1; END';
CREATE AGGREGATE total(int) (SFUNC = int4pl, COMBINEFUNC = int4pl, STYPE = int, INITCOND = 0);
CREATE AGGREGATE in_order(int) (SFUNC = array_append, STYPE = int[]);
REVOKE EXECUTE ON FUNCTION twice(int), total(int), in_order(int) FROM PUBLIC;
CREATE SCHEMA hidden;
CREATE VIEW hidden.seen AS SELECT k, v FROM s;
GRANT USAGE ON SCHEMA hidden TO readers;
SQL

# One more record, which the queries are to have in a sum of 1 for each.
sub produce { $n++; $pg->query("INSERT INTO s VALUES ('a', 1)"); return; }
sub done { my ($name) = @_; return $pg->wait_until("SELECT velo.wait('$name', '5 s')"); }
sub drop { my ($name) = @_; $pg->query("SELECT velo.drop_query('$name')"); return; }

# ---------------------------------------------------------------- without it the query waits

for my $case (
	[ 'stream', 'SELECT ON s', 'SELECT v AS x FROM s' ],
	[ 'columns', 'SELECT (v) ON s', 'SELECT v AS x FROM s' ],
	[ 'view', 'SELECT ON hidden.seen', 'SELECT v AS x FROM hidden.seen', '', 'SELECT ON s' ],
	[ 'look_up', 'SELECT ON names', 'SELECT v AS x FROM s JOIN names USING (k)', 'SELECT ON s' ],
	[ 'sub_select', 'SELECT ON names', 'SELECT v AS x FROM s WHERE EXISTS (SELECT FROM names AS n WHERE n.k = s.k)', 'SELECT ON s' ],
	[ 'function', 'EXECUTE ON FUNCTION twice(int)', 'SELECT twice(v) / 2 AS x FROM s', 'SELECT ON s' ],
	[ 'aggregate', 'EXECUTE ON FUNCTION total(int)', 'SELECT k, total(v) AS x FROM s GROUP BY k', 'SELECT ON s' ],
	[ 'collected', 'EXECUTE ON FUNCTION in_order(int)', 'SELECT k, cardinality(in_order(v)) AS x FROM s GROUP BY k', 'SELECT ON s' ],
	[ 'having', 'EXECUTE ON FUNCTION twice(int)', 'SELECT k, sum(v) AS x FROM s GROUP BY k HAVING twice(1) = 2', 'SELECT ON s' ])
{
	my ($name, $right, $query, $also) = @$case;

	# directly, and as a member of a role
	for my $who ('reader', 'readers')
	{
		my ($give, $take) = $who eq 'reader' ? ("GRANT $right TO reader", "REVOKE $right FROM reader")
		  : ('GRANT readers TO reader', 'REVOKE readers FROM reader');

		$pg->query("GRANT $right TO $who; GRANT USAGE ON SCHEMA hidden TO reader");
		$pg->query("GRANT $also TO reader") if $also;
		$pg->query("SET ROLE reader; SELECT velo.create_query('q', \$\$$query\$\$)");
		produce();
		ok(done('q'), "$name of $who: runs") or diag($pg->query('SELECT * FROM velo.queries'));
		is($pg->query('SELECT sum(x) FROM q'), $n, "$name of $who: its rows");
		$pg->query($take);
		produce();
		ok($pg->wait_until(q{SELECT state = 'waiting' AND error LIKE 'permission denied for%' AND error_sqlstate = '42501' AND retry_at IS NOT NULL
			FROM velo.queries}), "$name of $who: the right is missed") or diag($pg->query('SELECT * FROM velo.queries'));
		is($pg->query('SELECT sum(x) FROM q'), $n - 1, "$name of $who: nothing is read without it");
		$pg->query($give);
		ok(done('q'), "$name of $who: goes on") or diag($pg->query('SELECT * FROM velo.queries'));
		is($pg->query('SELECT sum(x) FROM q'), $n, "$name of $who: nothing is lost");
		is($pg->query('SELECT count(*) FROM velo.dead_letters'), 0, "$name of $who: no record is to blame");
		drop('q');
		$pg->query("REVOKE $right FROM $who; GRANT readers TO reader");
		$pg->query("REVOKE $also FROM reader") if $also;
	}
}

# ---------------------------------------------------------------- without it the query sees less

$pg->query(<<'SQL');
GRANT SELECT ON s, names TO reader;
ALTER TABLE names ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON names TO readers USING (true);
SET ROLE reader;
SELECT velo.create_query('q', 'SELECT name, count(*) FROM s LEFT JOIN names USING (k) GROUP BY name');
SQL
ok(done('q'), 'row security: runs');
is($pg->query('SELECT * FROM q ORDER BY 1'), "A|$n", 'row security: a policy for a role that the owner is a member of');
for my $case ([ 'REVOKE readers FROM reader', 'no member any more' ], [ 'ALTER ROLE reader BYPASSRLS', 'row security is bypassed', 1 ],
	[ 'ALTER ROLE reader NOBYPASSRLS', 'and no more' ], [ 'GRANT readers TO reader', 'a member again', 1 ],
	[ 'DROP POLICY p ON names', 'the policy is gone' ])
{
	my ($command, $what, $sees) = @$case;
	my $before = $pg->query(q{SELECT coalesce(sum(count), 0) FROM q WHERE name = 'A'});

	$pg->query($command);
	produce();
	ok(done('q'), "row security, $what: goes on");
	is($pg->query(q{SELECT sum(count) FROM q WHERE name = 'A'}) - $before, $sees // 0, "row security, $what");
	is($pg->query('SELECT sum(count) FROM q'), $n, "row security, $what: all is counted");
}
drop('q');

# ---------------------------------------------------------------- streams and roles that change hands

$pg->query(<<'SQL');
CREATE TABLE checked (as_role name UNIQUE);
GRANT SELECT, INSERT ON checked TO PUBLIC;
CREATE FUNCTION note() RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.checked VALUES (current_user) ON CONFLICT DO NOTHING; RETURN true; END';
CREATE DOMAIN noted AS int CHECK (public.note());
SQL
$pg->query("SELECT velo.create_stream('d', 'v noted', topic => 't', brokers => '$brokers'); ALTER FOREIGN TABLE d OWNER TO owner");
$pg->query("SELECT velo.create_query('q', 'SELECT v FROM d')");
ok(done('q'), 'owner of a stream: runs');
is($pg->query('SELECT as_role FROM checked'), 'owner', 'owner of a stream: its domain checks as the owner');
$pg->query('TRUNCATE checked; ALTER FOREIGN TABLE d OWNER TO reader');
produce();
ok(done('q'), 'another owner: runs');
is($pg->query('SELECT as_role FROM checked'), 'reader', 'another owner: as the new one');
drop('q');

$pg->query(q{SET ROLE reader; SELECT velo.create_query('q', 'SELECT v FROM s')});
ok(done('q'), 'login: runs');
$pg->query('ALTER ROLE reader NOLOGIN');
produce();
ok(done('q'), 'login: what runs goes on without it, as sessions do');
$pg->query('SELECT pg_terminate_backend(pid) FROM velo.pipelines');
if ($pg->query('SHOW server_version_num') < 170000)
{
	ok($pg->wait_until(q{SELECT state = 'waiting' AND error LIKE '%not permitted to log in%' AND error_sqlstate = '28000' FROM velo.queries}),
		'login: but does not begin anew') or diag($pg->query('SELECT * FROM velo.queries'));
}
$pg->query('ALTER ROLE reader LOGIN; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC');
$pg->query('SELECT pg_terminate_backend(pid) FROM velo.pipelines');
produce();
ok($pg->wait_until(q{SELECT state = 'waiting' AND error IS NOT NULL AND retry_at IS NOT NULL FROM velo.queries}), 'connect: nothing runs without it')
  or diag($pg->query('SELECT * FROM velo.queries'));
$pg->query('GRANT CONNECT ON DATABASE postgres TO PUBLIC');
ok(done('q'), 'connect: goes on');
is($pg->query('SELECT count(*) FROM q'), $n, 'connect: nothing is lost');

unlike($pg->log, qr/PANIC|terminated by signal|TRAP/, 'nothing crashed');
done_testing;
