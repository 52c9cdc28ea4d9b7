# Streams over a real Kafka: what the development broker doesn't have, or doesn't have as Kafka does.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(spawn wait_for);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC'});
my $metadata = join ', ', map { "$_->[1] $_->[2] OPTIONS (metadata '$_->[0]')" }
  [ 'partition', 'p', 'int' ], [ 'offset', 'o', 'bigint' ], [ 'timestamp', 'w', 'timestamptz' ], [ 'key', 'k', 'text' ],
  [ 'headers', 'h', 'jsonb' ];

$pg->query('CREATE EXTENSION velo');

# A topic and a stream of the same name.
sub create_stream
{
	my ($name, $partitions, %options) = @_;
	my %given = (columns => "id int, $metadata", brokers => $kafka->brokers, %options);

	$kafka->create_topic($name, $partitions);
	$pg->query("SELECT velo.create_stream('$name', "
		  . join(', ', map { (my $v = $given{$_}) =~ s/'/''/g; "$_ => '$v'" } sort keys %given) . ')');
	return;
}

sub records { return map { [ 0, undef, undef, qq({"id": $_}) ] } @_; }
sub ids { my ($stream) = @_; return $pg->query("SELECT string_agg(id::text, ',' ORDER BY p, o) FROM $stream"); }

# ---------------------------------------------------------------- transactions

{
	my %writer = ('transactional.id' => 'writer');

	create_stream('tx', 2);
	$pg->query(q{SELECT velo.create_query('of_tx', 'SELECT id FROM tx')});
	$kafka->produce('tx', [ '!begin', records(1 .. 3), '!commit', '!begin', records(4 .. 6), '!abort' ], %writer);
	is(ids('tx'), '1,2,3', 'aborted transactions at the end are not read, and the scan ends');
	is($pg->query(q{SELECT velo.wait('of_tx')}), 't', 'nor do they hold up velo.wait()');
	$kafka->produce('tx', [ '!begin', records(7), '!commit' ], %writer);
	is($pg->query(q{SELECT string_agg(id || ' at ' || o, ',' ORDER BY o) FROM tx}), '1 at 0,2 at 1,3 at 2,7 at 8', 'what is between them is');
	is($pg->query('SELECT count(*) FROM tx WHERE o BETWEEN 4 AND 7'), 0, 'nothing is in the gap');
	$kafka->produce('tx', [ '!begin', records(8), '!flush' ], %writer);
	is(ids('tx'), '1,2,3,7', 'an open transaction hides its records');
	is($pg->query(q{SELECT velo.wait('of_tx')}), 't', 'and is not waited for');
	is($pg->query(q{SELECT string_agg(id::text, ',' ORDER BY id) FROM of_tx}), '1,2,3,7', 'a query sees the same');
	# whoever takes its id over aborts it
	$kafka->produce('tx', [ '!begin', records(9), '!commit' ], %writer);
	is($pg->query(q{SELECT velo.wait('of_tx')}), 't', 'one behind it is read');
	is($pg->query(q{SELECT string_agg(id::text, ',' ORDER BY id) FROM of_tx}), '1,2,3,7,9', 'and what was open never');
	$pg->query(q{SELECT velo.drop_query('of_tx')});
}

# ---------------------------------------------------------------- a collation that takes different texts for equal

SKIP:
{
	my ($status) = $pg->psql(q{CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)});

	skip 'PostgreSQL has no ICU here', 4 if $status;

	my %selects = (
		of_words => q{SELECT count(DISTINCT t) AS d, count(*) FILTER (WHERE t = 'A') AS same, count(*) FILTER (WHERE t <> 'A') AS other FROM words},
		by_word => 'SELECT t, count(*) AS n FROM words GROUP BY t');

	create_stream('words', 1, columns => 't text COLLATE loose');
	$kafka->produce('words', [ map { [ 0, undef, undef, qq({"t": "$_"}) ] } 'a', 'b', 'A', "\xc3\xa1", 'B', 'c' ]);
	for my $name (sort keys %selects)
	{
		$pg->query(qq{SELECT velo.create_query('$name', \$\$$selects{$name}\$\$)});
		is($pg->query("SELECT velo.wait('$name')"), 't', "$name: all is processed");
		is($pg->query("SELECT * FROM $name ORDER BY 1"), $pg->query("$selects{$name} ORDER BY 1"), "$name: the answer is right");
		$pg->query("SELECT velo.drop_query('$name')");
	}
}

# ---------------------------------------------------------------- metadata

{
	create_stream('meta', 1);
	$kafka->produce('meta', [
		[ 0, 'k', 1000, '{"id": 1}', {a => 'x', b => "\xff\xfe"} ], [ 0, undef, 1767225600123, '{"id": 2}' ],
		[ 0, '', 1767225600122, '{"id": 3}' ], [ 0, 'k', 1767225600124, undef ] ]);
	is($pg->query(q{SELECT id, o, coalesce(k, 'none'), w, h FROM meta}), <<'ROWS' =~ s/\n\z//r, 'keys, times and headers');
1|0|k|1970-01-01 00:00:01+00|[{"key": "a", "value": "x"}, {"key": "b", "value": "\\xfffe"}]
2|1|none|2026-01-01 00:00:00.123+00|
3|2||2026-01-01 00:00:00.122+00|
ROWS
	my %of_time = (
		q{>= '2026-01-01 00:00:00.123'} => 2, q{> '2026-01-01 00:00:00.122'} => 2, q{= '2026-01-01 00:00:00.122'} => 3,
		q{>= '-infinity'} => '1,2,3', q{>= '1969-01-01'} => '1,2,3', q{> '1970-01-01 00:00:00.9999'} => '1,2,3',
		q{> timestamp 'infinity'} => '', q{>= '294276-12-31'} => '', q{= date 'infinity'} => '', q{> '2100-01-01'} => '');
	for my $condition (sort keys %of_time)
	{
		is(ids("meta WHERE w $condition"), $of_time{$condition}, "time $condition");
	}
	like($pg->query(q{EXPLAIN (ANALYZE, COSTS OFF) SELECT id FROM meta WHERE w >= '2026-01-01'}), qr/Records Read: 3/, 'only these are read');
	$pg->query(q{INSERT INTO meta (id, w) VALUES (4, '2020-02-02 02:02:02.002999Z')});
	is($pg->query('SELECT w FROM meta WHERE id = 4'), '2020-02-02 02:02:02.002+00', 'times are kept to the millisecond');
	for my $time ('1969-12-31', '1970-01-01 00:00:00.000999Z', 'infinity', '-infinity')
	{
		my (undef, undef, $error) = $pg->psql("INSERT INTO meta (id, w) VALUES (5, '$time')");

		like($error, qr/must be finite/, "a record can't be of $time");
	}
}

# ---------------------------------------------------------------- text is UTF-8 in Kafka, whatever it is here

{
	my $brokers = $kafka->brokers;

	$pg->query("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
	$kafka->create_topic('text', 1);
	$pg->query($_, 'latin1') for <<"SQL", <<'SQL';
CREATE EXTENSION velo;
SELECT velo.create_stream('text', 'v text, k text OPTIONS (metadata ''key''), h jsonb OPTIONS (metadata ''headers'')', brokers => '$brokers');
SELECT velo.create_stream('one', 'v text', topic => 'text', brokers => '$brokers', key => 'v');
SELECT velo.create_stream('two', 'v text, w text', topic => 'text', brokers => '$brokers', key => 'v, w');
SELECT velo.create_stream('bytes', 'v bytea, k bytea OPTIONS (metadata ''key'')', topic => 'text', brokers => '$brokers', format => 'raw');
SQL
SET client_encoding = 'UTF8';
INSERT INTO text (v, k, h) VALUES ('é', 'ü', '[{"key": "ö", "value": "ß"}]');
INSERT INTO one VALUES ('é');
INSERT INTO two VALUES ('é', 'x');
SQL
	is($pg->query(q{SET client_encoding = 'UTF8'; SELECT convert_from(v, 'UTF8'), convert_from(k, 'UTF8') FROM bytes}, 'latin1'),
		qq({"v":"é"}|ü\n{"v":"é"}|é\n{"v":"é","w":"x"}|{"v":"é","w":"x"}),
		'values and keys are written as UTF-8');
	is($pg->query(q{SET client_encoding = 'UTF8'; SELECT * FROM text LIMIT 2}, 'latin1'), qq(é|ü|[{"key": "ö", "value": "ß"}]\né|é|), 'and read as such');
}

# ---------------------------------------------------------------- large, and compressed

{
	my $brokers = $kafka->brokers;

	$kafka->create_topic('large', 1, 'max.message.bytes' => 20_000_000);
	$pg->query($_) for
	  qq(CREATE SERVER large FOREIGN DATA WRAPPER velo OPTIONS (brokers '$brokers', "message.max.bytes" '20000000')),
	  q(SELECT velo.create_stream('large', 'id int, s text', server => 'large')),
	  qq(SELECT velo.create_stream('small', 'id int, s text', topic => 'large', brokers => '$brokers')),
	  q{INSERT INTO large VALUES (1, repeat('x', 10000000)), (2, 'y')};
	is($pg->query('SELECT id, length(s) FROM small'), "1|10000000\n2|1", 'a record of 10 MB');
	my (undef, undef, $error) = $pg->psql(q{INSERT INTO small VALUES (3, repeat('x', 2000000))});
	like($error, qr/record is too large for topic "large"\nHINT: .*message\.max\.bytes/, 'one that is too large is refused');

	for my $codec (qw(gzip snappy lz4 zstd))
	{
		create_stream($codec, 1);
		$kafka->produce($codec, [ records(1 .. 1000) ], 'compression.codec' => $codec);
		is($pg->query("SELECT count(*), sum(id) FROM $codec"), '1000|500500', $codec);
	}
}

# ---------------------------------------------------------------- partitions that come later

{
	create_stream('grows', 1, options => '{"partitions_refresh": "200 ms"}');
	$pg->query(q{SELECT velo.create_query('of_grows', 'SELECT id, p FROM grows')});
	$kafka->produce('grows', [ records(1) ]);
	$kafka->grow_topic('grows', 3);
	$kafka->produce('grows', [ [ 2, undef, undef, '{"id": 2}' ], [ 1, undef, undef, '{"id": 3}' ], records(4) ]);
	is(ids('grows'), '1,4,3,2', 'an ad-hoc scan reads them');
	ok($pg->wait_until(q{SELECT count(*) = 4 FROM of_grows}), 'a query notices them');
	is($pg->query(q{SELECT velo.wait('of_grows')}), 't', 'and is through');
	is($pg->query('SELECT id, p FROM of_grows ORDER BY id'), "1|0\n2|2\n3|1\n4|0", 'and reads them from their first record');
	for my $partition (0 .. 2)
	{
		my $expected = $pg->query("SELECT committed_offset FROM velo.partitions WHERE query = 'of_grows' AND partition = $partition");

		ok(wait_for(sub { $kafka->committed('velo-postgres-of_grows', 'grows', $partition) == $expected }),
			"the consumer group is at offset $expected of partition $partition, too");
	}
	$pg->query(q{SELECT velo.drop_query('of_grows')});
}

# ---------------------------------------------------------------- a broker that does not answer

{
	create_stream('stopped', 1);
	kill 'STOP', $kafka->{pid};
	for my $statement ('SELECT * FROM stopped', 'INSERT INTO stopped VALUES (1)')
	{
		my $log = "$pg->{dir}/cancelled.log";
		my $pid = spawn($log, 'KILL', $pg->psql_command, '-c', "SET application_name = 'waits'", '-c', $statement);

		ok($pg->wait_until(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waits' AND state = 'active'}), "$statement: waits");
		$pg->query(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits'});
		wait_for(sub { Velo::Process::ended($pid) });
		like(Velo::Process::slurp($log), qr/canceling statement due to user request/, "$statement: and can be cancelled");
	}
	kill 'CONT', $kafka->{pid};
}

# ---------------------------------------------------------------- secrets

{
	my $brokers = $kafka->brokers;
	my $secret = 'xyzzy';

	$pg->query($_) for
	  qq(CREATE SERVER secure FOREIGN DATA WRAPPER velo OPTIONS (brokers '$brokers', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN')),
	  qq(CREATE USER MAPPING FOR postgres SERVER secure OPTIONS ("sasl.username" 'me', "sasl.password" '$secret')),
	  q(SELECT velo.create_stream('secure', 'id int', server => 'secure')),
	  q(SELECT velo.create_query('of_secure', 'SELECT id FROM secure'));
	my (undef, undef, $error) = $pg->psql('SELECT * FROM secure');
	like($error, qr/ERROR/, 'a broker that speaks another protocol is an error');
	ok($pg->wait_until(q{SELECT state = 'waiting' AND error IS NOT NULL FROM velo.queries WHERE name = 'of_secure'}), 'and waited for by a query');
	my $views = $pg->query('SELECT q, s FROM velo.queries q, velo.streams s; SELECT * FROM velo.pipelines; SELECT * FROM velo.partitions;'
		  . ' EXPLAIN VERBOSE SELECT * FROM secure');
	unlike("$error $views " . $pg->log =~ s/STATEMENT.*//gr, qr/$secret/, 'no password in errors, views and log');
}

unlike($pg->log, qr/PANIC|terminated by signal|TRAP/, 'nothing crashed');

done_testing;
