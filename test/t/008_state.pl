# What velo keeps of a query stays in proportion to what is open, and costs what it is worth.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(wait_for);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '1 s', shared_buffers => '32MB'});

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

# The runs of a query's window without bounds, newest first, as [id, groups, bytes, from], by its row.  These must be the
# runs that there are, for nobody looks for others.
sub runs
{
	my ($name) = @_;
	my ($row, $there) = split /\|/, $pg->query(qq{SELECT (SELECT encode(state, 'hex') FROM velo.query_group WHERE query = id),
			(SELECT string_agg(run || ' ' || bytes, ', ' ORDER BY run)
				FROM (SELECT run, sum(length(data) + 4) AS bytes FROM velo.query_run WHERE query = id GROUP BY run) AS r)
		FROM velo.query WHERE name = '$name'});
	my (undef, @runs) = unpack 'x12 q (q q q Q)*', pack 'H*', $row;

	@runs = map { [ splice @runs, 0, 4 ] } 1 .. @runs / 4;
	is(join(', ', map { "$_->[0] $_->[2]" } sort { $a->[0] <=> $b->[0] } grep { $_->[2] > 0 } @runs), $there // '',
		"$name: there are the runs that it knows of, and as large");
	return @runs;
}

sub is_merging { return scalar grep { $_->[3] ne '0' } @_; }

{
	my $select = 'SELECT k, count(*) AS n, md5(max(repeat(md5(k::text), k % 2 * 100 + 5))) AS long FROM cold GROUP BY k';
	my $is_right = sub {
		my ($name, $when) = @_;

		done($name);
		is($pg->query(qq{SELECT count(*) FROM ((TABLE $name EXCEPT ALL $select) UNION ALL ($select EXCEPT ALL TABLE $name)) AS d}), 0,
			"$name: the answer is right $when");
	};

	create_stream('cold', 2, q{key => 'k'});
	$pg->query("SELECT velo.create_query('moved', '$select', pipelines => 1, options => '{\"pipeline_memory\": \"8 MB\", \"batch_size\": 500}')");
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
		$pg->crash;
	}
	$is_right->('moved', 'after all have come back');

	# each group comes back again and again, so that most of what is stored is not the newest; each time that runs are being
	# merged, some of that while nothing else happens to them, and a crash
	my ($most, $crashes, $part) = (0, 0, 0);

	while ($crashes < 5 && $part < 400)
	{
		my @keys = map { 1 + ($part * 37 + $_ * 11) % 4000 } 1 .. 100;
		my @runs;

		produce('cold', map { [ 0, $_, 0 ] } @keys);
		$part++;
		done('moved');
		@runs = runs('moved');
		$most = @runs if @runs > $most;
		next unless is_merging(@runs);
		# of a group that is in memory
		produce('cold', [ 0, $keys[-1], 0 ]);
		done('moved');
		next unless is_merging(@runs = runs('moved'));
		$crashes++;
		$pg->crash;
		# whatever has come of the merge
		$is_right->('moved', "after a crash while @{[scalar @runs]} runs were being merged");
	}
	is($crashes, 5, "runs are merged in the course of the checkpoints ($part)");
	cmp_ok($most, '>', 2, 'there are several at once');
	cmp_ok($pg->query(q{SELECT sum(length(data)) FROM velo.query_run}), '<', 40_000_000, 'and what is of no use goes');

	# other pipelines take them over
	$pg->query(q{SELECT velo.alter_query('moved', '{"pipelines": 2}')});
	produce('cold', map { [ $_ % 2, $_, 0 ] } 1 .. 100);
	$is_right->('moved', 'when its groups are shared');
	is($pg->query('SELECT count(*) FROM velo.query_run'), 0, 'moved: no runs are left then');
	$pg->query(q{SELECT velo.drop_query('moved')});
}

# Groups that take many times the memory are shared in parts of what there is room for.
{
	my ($n, $repeats) = (1500, 3200);

	create_stream('large', 2, q{key => 'k'});
	produce('large', map { [ 0, $_, 0 ] } 1 .. $n);
	$pg->query("SELECT velo.create_query('folded', 'SELECT k, md5(max(repeat(md5(k::text), $repeats))) AS m, count(*) AS n FROM large GROUP BY k', "
		  . q{pipelines => 1, options => '{"pipeline_memory": "8 MB", "batch_size": 100}')});
	done('folded');
	is($pg->query(q{SELECT sum(length(data)) > 100000000 FROM velo.query_run}), 't', 'folded: much is stored');
	$pg->query(q{SELECT velo.alter_query('folded', '{"pipelines": 2}')});
	produce('large', map { [ 1, $_, 0 ] } 1 .. 100);
	done('folded');
	my ($most) = sort { $b <=> $a } map { Velo::Process::slurp("/proc/$_/status") =~ /VmHWM:\s*(\d+) kB/ } $pg->pipeline_pids('folded');
	cmp_ok($most, '<', 130_000, 'folded: but never all of it in memory');
	is($pg->query("SELECT count(*), sum(n), bool_and(m = md5(repeat(md5(k::text), $repeats))) FROM folded"), "$n|@{[$n + 100]}|t", 'folded: the answer is right');
	is($pg->query('SELECT count(*) FROM velo.query_run'), 0, 'folded: no runs are left');
	$pg->query(q{SELECT velo.drop_query('folded')});
}

# Groups with the same hash move together and come back together, also those that no record has asked for.
{
	my $select = 'SELECT k::text::poor AS k, count(*) AS n, md5(max(repeat(md5(k::text), 60))) AS long FROM crowded GROUP BY 1';

	$pg->query(<<'SQL');
CREATE TYPE poor;
CREATE FUNCTION poor_in(cstring) RETURNS poor LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION poor_out(poor) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE poor (INPUT = poor_in, OUTPUT = poor_out, LIKE = text);
CREATE CAST (text AS poor) WITHOUT FUNCTION;
CREATE CAST (poor AS text) WITHOUT FUNCTION;
CREATE FUNCTION poor_eq(poor, poor) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'byteaeq';
CREATE FUNCTION poor_lt(poor, poor) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'bytealt';
CREATE FUNCTION poor_le(poor, poor) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'byteale';
CREATE FUNCTION poor_gt(poor, poor) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'byteagt';
CREATE FUNCTION poor_ge(poor, poor) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'byteage';
CREATE FUNCTION poor_cmp(poor, poor) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'byteacmp';
CREATE FUNCTION poor_hash(poor) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1::text::int % 300';
CREATE OPERATOR = (LEFTARG = poor, RIGHTARG = poor, FUNCTION = poor_eq, COMMUTATOR = =, HASHES, MERGES);
CREATE OPERATOR < (LEFTARG = poor, RIGHTARG = poor, FUNCTION = poor_lt, COMMUTATOR = >);
CREATE OPERATOR <= (LEFTARG = poor, RIGHTARG = poor, FUNCTION = poor_le, COMMUTATOR = >=);
CREATE OPERATOR > (LEFTARG = poor, RIGHTARG = poor, FUNCTION = poor_gt, COMMUTATOR = <);
CREATE OPERATOR >= (LEFTARG = poor, RIGHTARG = poor, FUNCTION = poor_ge, COMMUTATOR = <=);
CREATE OPERATOR CLASS poor_ops DEFAULT FOR TYPE poor USING hash AS OPERATOR 1 =, FUNCTION 1 poor_hash(poor);
CREATE OPERATOR CLASS poor_btree_ops DEFAULT FOR TYPE poor USING btree AS
	OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 poor_cmp(poor, poor);
SQL
	# those of one hash after those of another, and once more, so that there are always some that have gone cold
	create_stream('crowded', 2, q{key => 'k'});
	produce('crowded', (map { [ 0, $_, 0 ] } sort { $a % 300 <=> $b % 300 } 1 .. 4000) x 2);
	$pg->query("SELECT velo.create_query('colliding', '$select', pipelines => 1, options => '{\"pipeline_memory\": \"8 MB\", \"batch_size\": 500, \"commit_interval\": \"1 ms\"}')");
	done('colliding');
	cmp_ok(stored('colliding'), '>', 1000, 'colliding: groups are stored');
	for my $part (0 .. 4)
	{
		# one of each ten with the same hash, and after the crash another one
		for my $k (0, 300)
		{
			produce('crowded', map { [ 0, 1 + $k + 600 * $part + $_, 0 ] } 0 .. 99);
			done('colliding');
			$pg->crash;
		}
		done('colliding');
		is($pg->query(qq{SELECT count(*) FROM ((TABLE colliding EXCEPT ALL $select) UNION ALL ($select EXCEPT ALL TABLE colliding)) AS d}), 0,
			"colliding: the answer is right, part $part");
	}
	$pg->query(q{SELECT velo.drop_query('colliding')});
}

# Hashes at both ends of what there is, and crowded there, as anybody can make them: see mix() in group_keys.c.
{
	my $times = sub { use integer; return $_[0] * $_[1] };
	my $key = sub {
		my ($x) = @_;

		$x ^= ($x >> 31) ^ ($x >> 62);
		$x = $times->($x, 3573116690164977347);
		$x ^= ($x >> 27) ^ ($x >> 54);
		$x = $times->($x, 10871156337175269513);
		$x ^= ($x >> 30) ^ ($x >> 60);
		return unpack 'q', pack 'Q', $x;
	};
	my @keys = map { $key->($_) } 0 .. 5999, (3 << 62) - 1, 3 << 62, map { ~0 - $_ } reverse 0 .. 19;
	my $select = 'SELECT k, count(*) AS n, md5(max(repeat(md5(k::text), 30))) AS m FROM ends';
	my %texts = (
		ends_kept => [ "$select GROUP BY k", 1 ],
		ends_final => [ "$select WINDOW TUMBLING(1h) GROUP BY k", 1 ],
		ends_shared => [ "$select WINDOW TUMBLING(1h) GROUP BY k", 2 ]);

	$kafka->create_topic('ends', 2);
	$pg->query("SELECT velo.create_stream('ends', columns => 'k bigint, ts timestamptz', brokers => '@{[$kafka->brokers]}', "
		  . q{event_time => 'ts', watermark => '0 s')});
	$pg->query(qq{SELECT velo.create_query('$_', '$texts{$_}[0]', pipelines => $texts{$_}[1],
		options => '{"pipeline_memory": "8 MB", "batch_size": 500, "commit_interval": "1 ms"}')}) for sort keys %texts;
	for my $part ([ @keys, @keys ], [ reverse @keys ])
	{
		produce('ends', map { [ 0, $_, 1 ] } @$part);
		done($_) for sort keys %texts;
		$pg->crash;
	}
	# the column has the greatest of each block, less half of all
	is($pg->query(q{SELECT min(hash) < -9223372036854775807 + 1000, max(hash) FROM velo.query_run WHERE query = (SELECT id FROM velo.query WHERE name = 'ends_kept')}),
		't|9223372036854775807', 'ends_kept: both ends are stored');
	runs('ends_kept');
	produce('ends', map { [ 1, $_, 2 ] } @keys[ -30 .. -1 ], @keys[ 0 .. 29 ]);
	produce('ends', map { [ $_, 5, 130 ] } 0, 1);
	for my $name (sort keys %texts)
	{
		my $expected = "$select WHERE ts < '2026-01-01 01:00Z' OR '$name' = 'ends_kept' GROUP BY k";

		done($name);
		is($pg->query("SELECT count(*) FROM ((SELECT k, n, m FROM $name EXCEPT ALL $expected) UNION ALL ($expected EXCEPT ALL SELECT k, n, m FROM $name)) AS d"),
			0, "$name: the answer is right");
	}
	is($pg->query(q{SELECT count(DISTINCT query) FROM velo.query_run}), 1, 'ends_kept: nothing is left of what has closed');
	$pg->query("SELECT velo.drop_query('$_')") for sort keys %texts;
}

# So many groups that not all of them are looked through at once for those that move, and that they all have moved, in one
# transaction or another, before they come again.
{
	my $n = 400_000;

	create_stream('many', 1, q{event_time => 'ts'}, q{watermark => '0 s'});
	my $produce = sub { $pg->query("INSERT INTO many SELECT i, timestamptz '2026-01-01Z' FROM generate_series(1, $n) AS i") };

	$pg->query(q{SELECT velo.create_query('many_groups', 'SELECT k, count(*) AS n FROM many WINDOW TUMBLING(1h) GROUP BY k',
		options => '{"pipeline_memory": "96 MB"}')});
	$produce->();
	done('many_groups');
	cmp_ok(stored('many_groups'), '>', 100_000, 'many_groups: groups are stored');
	$pg->crash;
	$produce->();
	$pg->query(q{INSERT INTO many VALUES (0, '2026-01-02Z')});
	done('many_groups');
	is($pg->query('SELECT count(*), count(DISTINCT k), sum(n), min(n), max(n) FROM many_groups'), "$n|$n|@{[2 * $n]}|2|2", 'many_groups: the answer is right');
	is($pg->query('SELECT count(*) FROM velo.query_run'), 0, 'many_groups: no runs are left');
	$pg->query(q{SELECT velo.drop_query('many_groups')});
}

# A window of runs that closes: its groups are written by slices of their hash, some of them from older runs, some from
# memory; crashes in between.
{
	my $n = 3000;
	my $window = 'SELECT k, count(*) AS n, md5(max(repeat(md5(k::text), 60))) AS long FROM closing %s GROUP BY k';
	my $written = 0;

	create_stream('closing', 1, q{event_time => 'ts'}, q{watermark => '0 s'});
	$pg->query(q{CREATE TABLE allowed (rows bigint); INSERT INTO allowed VALUES (0); CREATE SEQUENCE rows_seen;
		CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE
			number bigint := nextval('public.rows_seen');
		BEGIN
			WHILE number > (SELECT rows FROM public.allowed) LOOP
				PERFORM pg_sleep(0.01);
			END LOOP;
			RETURN NULL;
		END $$});
	$pg->query(sprintf q{BEGIN; SELECT velo.create_query('closing_rows', '%s', options =>
			'{"pipeline_memory": "8 MB", "batch_size": 300, "commit_interval": "1 ms"}');
		CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON closing_rows FOR EACH ROW EXECUTE FUNCTION seen(); COMMIT},
		sprintf $window, 'WINDOW TUMBLING(1h)');
	for my $part (0 .. 23)
	{
		produce('closing', map { [ 0, ($part * 250 + $_ * 7) % $n, 1 ] } 1 .. 500);
		done('closing_rows');
	}
	cmp_ok(scalar(runs('closing_rows')), '>', 1, 'closing: there are several runs');
	cmp_ok(stored('closing_rows'), '<', $n, 'closing: some groups are in memory');
	produce('closing', [ 0, -1, 70 ]);
	for (1 .. 4)
	{
		$pg->query("UPDATE allowed SET rows = (SELECT last_value FROM rows_seen) + 700");
		# whatever was not committed is written again
		$pg->wait_until("SELECT last_value > (SELECT rows FROM allowed) FROM rows_seen");
		$pg->crash;
		my $now = $pg->query('SELECT count(*) FROM closing_rows');
		cmp_ok($now, '>', $written, "closing: $now rows are written before a crash");
		$written = $now;
	}
	cmp_ok($written, '<', $n, 'closing: these were not all');
	$pg->query("UPDATE allowed SET rows = (SELECT last_value FROM rows_seen) + 10 * $n");
	done('closing_rows');
	my $expected = sprintf $window, 'WHERE k >= 0';
	is($pg->query("SELECT count(*) FROM (SELECT k, n, long FROM closing_rows EXCEPT ALL $expected) AS d"), 0, 'closing: each row is right');
	is($pg->query('SELECT count(*), count(DISTINCT k) FROM closing_rows'), "$n|$n", 'closing: and there once');
	is($pg->query('SELECT count(*) FROM velo.query_run'), 0, 'closing: no runs are left');
	$pg->query(q{SELECT velo.drop_query('closing_rows')});
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

# Two groups of different bins that have the same hash, as anybody can make them: they are one bucket for all that, also
# when one of them is stored before the other turns up.
{
	my ($first, $second) = (1, -2788666930558419759);
	my $select = q{SELECT date_bin('1 min', ts, '2000-01-01') AS minute, k, count(*) AS n FROM alike GROUP BY 1, 2};

	$kafka->create_topic('alike', 2);
	$pg->query("SELECT velo.create_stream('alike', columns => 'k bigint, ts timestamptz', brokers => '@{[$kafka->brokers]}', "
		  . q{event_time => 'ts', watermark => '0 s')});
	$pg->query("SELECT velo.create_query('alike_$_', \$\$$select\$\$, pipelines => $_)") for 1, 2;
	# both have been passed when the second comes for the last time
	for my $records ([ [ 0, $first, 0 ] ], [ [ 0, 0, 2 ], [ 1, 0, 2 ] ], [ [ 0, $second, 5 ] ], [ [ 0, $first, 0 ] ], [ [ 0, 0, 9 ], [ 1, 0, 9 ] ])
	{
		produce('alike', @$records);
		done("alike_$_") for 1, 2;
	}
	produce('alike', [ 0, $second, 5 ]);
	for my $name ('alike_1', 'alike_2')
	{
		done($name);
		is($pg->query("SELECT count(*) FROM ((TABLE $name EXCEPT ALL $select) UNION ALL ($select EXCEPT ALL TABLE $name)) AS d"), 0,
			"$name: the answer is right");
	}
	is($pg->query(q{SELECT count(*) FROM alike_2}) - $pg->query(q{SELECT count(*) FROM velo.query_group
		WHERE query = (SELECT id FROM velo.query WHERE name = 'alike_2') AND get_byte(key, 4) = ascii('g')}), 1, 'the two are one bucket');
	$pg->query("SELECT velo.drop_query('alike_$_')") for 1, 2;
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

# ---------------------------------------------------------------- anonymous records

{
	my $select = q{SELECT k % 2 AS odd, count(DISTINCT (k, ts)) AS n, count(DISTINCT ARRAY[ROW(k, 'x'::text), NULL]) AS d,
		max(ARRAY[ROW(k, ARRAY[[ROW(ts)], [ROW(k)]])])::text AS m FROM pairs GROUP BY 1};

	create_stream('pairs', 1);
	$pg->query("SELECT velo.create_query('paired', '@{[$select =~ s/'/''/gr]}')");
	for my $keys ([ 1 .. 6 ], [ 4 .. 9 ])
	{
		produce('pairs', map { [ 0, $_, $_ ] } @$keys);
		done('paired');
		# the number of a record's type means nothing to another process
		$pg->restart;
	}
	is($pg->query('SELECT * FROM paired ORDER BY 1'), $pg->query("$select ORDER BY 1"), 'paired: the answer is right');
	$pg->query(q{SELECT velo.drop_query('paired')});
}

unlike($pg->log, qr/PANIC|TRAP|terminated by signal (?!9)/, 'nothing crashed');

done_testing;
