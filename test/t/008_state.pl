# What velo keeps of a query stays in proportion to what is open, and costs what it is worth.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(wait_for);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '1 s'});

$pg->query('CREATE EXTENSION velo');

sub create_stream
{
	my ($name, $partitions, @options) = @_;

	$kafka->create_topic($name, $partitions);
	$pg->query("SELECT velo.create_stream('$name', columns => 'k int, ts timestamptz', brokers => '@{[$kafka->brokers]}'"
		  . join('', map { ", $_" } @options) . ')');
	return;
}

# Records [partition, k, minute].
sub produce
{
	my ($topic, @records) = @_;

	$kafka->produce($topic,
		[ map { [ $_->[0], undef, undef, sprintf '{"k": %d, "ts": "2026-01-%02dT%02d:%02d:00Z"}', $_->[1], 1 + $_->[2] / 1440, $_->[2] / 60 % 24, $_->[2] % 60 ] } @records ]);
	return;
}

# How many groups of a query are not in memory: that is what the row of a window begins with, behind its header.
sub stored
{
	my ($name) = @_;
	my $count = join ' + ', map { "(get_byte(state, 12 + $_)::bigint << (8 * $_))" } 0 .. 7;

	return $pg->query(qq{SELECT coalesce(sum($count), 0) FROM velo.query_group
		WHERE query = (SELECT id FROM velo.query WHERE name = '$name') AND get_byte(key, 4) = ascii('c')});
}

sub done { my ($name) = @_; return is($pg->query("SELECT velo.wait('$name', '60 s')"), 't', "$name: all is processed"); }

# ---------------------------------------------------------------- values of the stream's key that pipelines have claimed

{
	my $merged = q{SELECT merged FROM velo.query WHERE name = '%s'};

	create_stream('claims', 2, q{event_time => 'ts'}, q{watermark => '0 s'}, q{key => 'k'});
	$pg->query(q{SELECT velo.create_query('claimed', 'SELECT k, count(*) AS n FROM claims WINDOW HOPPING(2m, 1m) GROUP BY k', pipelines => 2);
		SELECT velo.create_query('claimed_for_good', 'SELECT k, count(*) AS n FROM claims GROUP BY k', pipelines => 2)});

	# four days, each minute a new value in each partition, and one that stays
	for my $day (0 .. 3)
	{
		produce('claims', map { my $m = $_; map { ([ $_, 2 * $m + $_, $m ], [ $_, -1 - $_, $m ]) } 0, 1 } $day * 1440 .. $day * 1440 + 1439);
		done($_) for 'claimed', 'claimed_for_good';
	}
	is($pg->query(q{SELECT count(*) FROM velo.query_key WHERE query = 'velo_queries.claimed_for_good'::regclass}), 2 * 5761,
		'one claim for each value of the key of groups that stay')
	  or diag($pg->query('SELECT query, count(*) FROM velo.query_key GROUP BY 1'));
	# of windows that close they are forgotten a day later
	ok($pg->wait_until(q{SELECT count(*) < 2 * 1800 FROM velo.query_key WHERE query = (SELECT id FROM velo.query WHERE name = 'claimed')}),
		'claims of windows that have closed are forgotten')
	  or diag($pg->query('SELECT query, count(*), min(generation), max(generation) FROM velo.query_key GROUP BY 1'));
	is($pg->query('SELECT count(*), sum(n) FROM claimed'),
		$pg->query(q{SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM claims CROSS JOIN LATERAL velo.hop(ts, '2 min', '1 min') AS w
			WHERE upper(w) <= '2026-01-04T23:59:00Z' GROUP BY w, k) AS g}), 'the answer is right');
	is($pg->query(sprintf $merged, 'claimed'), 'f', 'a true key is trusted');

	# a value that the other pipeline has in an open window, and only there
	produce('claims', [ 1, 0, 4 * 1440 ], [ 0, 1, 4 * 1440 ]);
	done('claimed');
	is($pg->query(sprintf $merged, 'claimed'), 'f', 'nobody has a group of it any more');
	produce('claims', [ 1, -1, 4 * 1440 ], map { [ $_, 9, 5 * 1440 ] } 0, 1);
	done('claimed');
	ok($pg->wait_until(sprintf $merged, 'claimed'), 'a key that is not true is noticed');
	is($pg->query('SELECT count(*), sum(n) FROM claimed'),
		$pg->query(q{SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM claims CROSS JOIN LATERAL velo.hop(ts, '2 min', '1 min') AS w
			WHERE upper(w) <= '2026-01-06' GROUP BY w, k) AS g}), 'and the answer is right');
	is($pg->query(q{SELECT count(*) FROM velo.query_key WHERE query = (SELECT id FROM velo.query WHERE name = 'claimed')}), 0,
		'nothing is claimed of groups that are shared');
	$pg->query(q{SELECT velo.drop_query(name) FROM velo.queries});
	is($pg->query('SELECT count(*) FROM velo.query_key'), 0, 'a dropped query leaves no claims');
}

# ---------------------------------------------------------------- groups that don't fit into memory

{
	my $select = 'SELECT k, count(*) AS n, md5(max(repeat(md5(k::text), k % 2 * 100 + 5))) AS long FROM cold GROUP BY k';

	create_stream('cold', 1);
	$pg->query("SELECT velo.create_query('moved', '$select', options => '{\"pipeline_memory\": \"8 MB\", \"batch_size\": 500}')");
	# all of them, some again, and all again in another order; with a crash after each
	for my $keys ([ 1 .. 4000 ], [ map { 7 * $_ } 1 .. 300 ], [ reverse 1 .. 4000 ])
	{
		# in parts, so that groups move between them
		while (my @part = splice @$keys, 0, 1000)
		{
			produce('cold', map { [ 0, $_, 0 ] } @part);
			done('moved');
		}
		cmp_ok(stored('moved'), '>', 1000, 'groups, long and short, are stored');
		$pg->kill9;
		$pg->start;
	}
	produce('cold', map { [ 0, $_, 0 ] } 1 .. 100);
	done('moved');
	is($pg->query(qq{SELECT count(*) FROM ((TABLE moved EXCEPT ALL $select) UNION ALL ($select EXCEPT ALL TABLE moved)) AS d}), 0,
		'the answer is right');
	$pg->query(q{SELECT velo.drop_query('moved')});
}

# ---------------------------------------------------------------- groups that the watermark has passed

{
	my %bins = (binned => q{date_bin('1 min', ts, '2000-01-01')}, truncated => q{date_trunc('minute', ts, 'Europe/Berlin')});
	my $select = 'SELECT %s AS minute, k, count(*) AS n FROM passing GROUP BY 1, 2';

	my $is_right = sub {
		my ($name, $when) = @_;
		my $query = sprintf $select, $bins{$name};

		done($name);
		return is($pg->query("SELECT count(*) FROM ((TABLE $name EXCEPT ALL $query) UNION ALL ($query EXCEPT ALL TABLE $name)) AS d"), 0,
			"$name: the answer is right $when");
	};

	create_stream('passing', 2, q{event_time => 'ts'}, q{watermark => '0 s'});
	for my $name (sort keys %bins)
	{
		$pg->query(sprintf q{SELECT velo.create_query('%s', $$%s$$, pipelines => 1)}, $name, sprintf $select, $bins{$name});
	}
	for my $minute (0, 3)
	{
		# 50 groups in each of three minutes, the last of which isn't over
		produce('passing', map { my $m = $minute + $_; map { [ $_ % 2, $_, $m ] } 1 .. 50 } 0 .. 2);
		for my $name (sort keys %bins)
		{
			$is_right->($name, 'as minutes pass');
			is(stored($name), 50 * ($minute + 2), "$name: groups whose minute has passed are in memory no more");
			is($pg->query(qq{SELECT groups FROM velo.pipelines WHERE query = '$name'}), 50 * ($minute + 3), "$name: and are still there");
		}
		produce('passing', map { [ $_ % 2, $_, $minute ] } 1 .. 10);
		$pg->kill9;
		$pg->start;
		$is_right->($_, 'after records of a minute that has passed') for sort keys %bins;
	}
	$pg->query(qq{SELECT velo.drop_query('$_')}) for sort keys %bins;

	# there is no such zone, which is a matter between date_trunc() and each record
	$pg->query(q{SELECT velo.create_query('nowhere', $$SELECT date_trunc('hour', ts, 'Mars/Base') AS hour, count(*) AS n FROM passing GROUP BY 1$$)});
	done('nowhere');
	is($pg->query(q{SELECT dead_letters = records_in AND records_in > 0 FROM velo.queries WHERE name = 'nowhere'}), 't', 'records in an unknown zone are bad');
	$pg->query(q{SELECT velo.drop_query('nowhere')});
}

# ---------------------------------------------------------------- many groups that fail

{
	my $n = 40_000;

	create_stream('groups', 1);
	$pg->query(q{SELECT velo.create_query('failing', 'SELECT k, 1 / (count(*) - 1) AS x FROM groups GROUP BY k')});
	produce('groups', map { [ 0, $_, 0 ] } 1 .. $n);
	done('failing');
	is($pg->query('SELECT count(*), count(DISTINCT detail) FROM velo.dead_letters'), "$n|$n", 'each group that fails has a dead letter');
	produce('groups', map { [ 0, $_, 0 ] } 1 .. $n);
	done('failing');
	is($pg->query('SELECT count(*) FROM velo.dead_letters'), 0, 'which goes when its row succeeds');
	is($pg->query('SELECT count(*), sum(x) FROM failing'), "$n|$n", 'and the rows are there');
	$pg->query(q{SELECT velo.drop_query('failing')});
}

# ---------------------------------------------------------------- long records

{
	$kafka->create_topic('texts', 1);
	$pg->query(qq{SELECT velo.create_stream('texts', columns => 't text', brokers => '@{[$kafka->brokers]}')});
	$kafka->produce('texts', [ map { [ 0, undef, undef, '{"t": "' . 'x' x 30_000 . '"}' ] } 1 .. 2000 ]);
	$pg->query(q{SELECT velo.create_query('evaluated', 'SELECT } . join(', ', map { "length(upper(repeat(t, 1))) + $_ AS x$_" } 1 .. 20) . q{ FROM texts')});
	done('evaluated');

	my ($pid) = $pg->pipeline_pids('evaluated');
	my ($most) = Velo::Process::slurp("/proc/$pid/status") =~ /VmHWM:\s*(\d+) kB/;

	cmp_ok($most, '<', 500_000, 'what functions make of long records is not in memory for all of them at once');
	$pg->query(q{SELECT velo.drop_query('evaluated')});
}

unlike($pg->log, qr/PANIC|TRAP|terminated by signal (?!9)/, 'nothing crashed');

done_testing;
