# What closes windows and what must not: idleness, the wall clock, an operator, restarts.  And what must be left of a
# query's state when all is closed: nothing, whether it lay in memory or, when that is short, outside of it.

use strict;
use warnings;

use List::Util qw(shuffle);
use Test::More;
use Velo::Kafka;
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '500 ms'});

$pg->query('CREATE EXTENSION velo');

sub create_stream
{
	my ($name, $partitions, @options) = @_;

	$kafka->create_topic($name, $partitions);
	$pg->query("SELECT velo.create_stream('$name', columns => 'id bigint, k text, ts timestamptz', brokers => '@{[$kafka->brokers]}', "
		  . join(', ', q{event_time => 'ts', watermark => '0 s'}, @options) . ')');
	return;
}

sub create_query
{
	my ($name, $text, @options) = @_;

	$pg->query("SELECT velo.create_query('$name', \$q\$$text\$q\$" . join('', map { ", $_" } @options) . ')');
	return;
}

# Records [partition, k, seconds of event time].
my $id = 0;

sub produce
{
	my ($topic, @records) = @_;

	$kafka->produce($topic,
		[ map { [ $_->[0], $_->[1], undef, sprintf '{"id": %d, "k": "%s", "ts": %d}', $id++, $_->[1], $_->[2] * 1000 ] } @records ]);
	return;
}

sub rows { my ($name) = @_; return $pg->query("SELECT string_agg(extract(epoch FROM window_start)::int || k || n, ' ' ORDER BY window_start, k) FROM $name"); }
sub late { my ($name) = @_; return $pg->query("SELECT late FROM velo.queries WHERE name = '$name'"); }
sub processed { my ($name, $what) = @_; return is($pg->query("SELECT velo.wait('$name', '60 s')"), 't', "$what: processed"); }

# Records read; also where velo.wait() would wait for a pipeline that can't run.
sub wait_for_records
{
	my ($name, $n) = @_;
	return $pg->wait_until("SELECT sum(records_in) = $n FROM velo.pipelines WHERE query = '$name'");
}

my $no_state = 'SELECT ' . join ' AND ', map { "NOT EXISTS (SELECT FROM velo.$_)" } qw(query_state query_group query_run);

sub state_left
{
	return $pg->query('SELECT ' . join ', ', map { "(SELECT count(*) FROM velo.$_)" } qw(query_state query_group query_run));
}

# ---------------------------------------------------------------- idleness and the wall clock

for my $pipelines (1, 2)
{
	for my $key ('', q{key => 'k'})
	{
		my $what = "$pipelines pipelines" . ($key ? ' with a key' : '');
		my $name = 'idle' . $pipelines . ($key ? 'k' : '');

		# one partition is silent, the other soon; its last window ends 200 ms of event time after its last record
		create_stream($name, 2, $key || (), q{options => '{"idle_timeout": "300 ms"}'});
		create_query("${name}_q", "SELECT k, count(*) AS n FROM $name WINDOW TUMBLING(1s) GROUP BY k", "pipelines => $pipelines");
		produce($name, [ 0, 'a', 10.1 ], [ 0, 'a', 10.2 ], [ 0, 'b', 11.8 ]);
		ok($pg->wait_until("SELECT count(*) = 2 FROM ${name}_q"), "$what: idleness and the wall clock close windows");
		is(rows("${name}_q"), '10a2 11b1', "$what: which are right");

		# what comes for them is late, by whatever partition, and closed windows stay so after a crash
		$pg->crash;
		produce($name, [ 0, 'b', 11.9 ], [ 1, 'c', 10.5 ]);
		ok(wait_for_records("${name}_q", 5), "$what: more records");
		is($pg->query("SELECT sum(late) FROM velo.pipelines WHERE query = '${name}_q'"), 2, "$what: late for windows that the clock has closed");
		is(rows("${name}_q"), '10a2 11b1', "$what: they are not opened again");
		$pg->query("SELECT velo.drop_query('${name}_q')");
	}
}

# ---------------------------------------------------------------- a restart is no idleness

for my $key (q{key => 'k'}, '')
{
	my $name = $key ? 'outage' : 'outage_merged';
	my $partitions = q{SELECT string_agg(pipeline || ':' || records_in, ' ' ORDER BY pipeline) FROM velo.pipelines};

	create_stream($name, 2, $key || (), q{options => '{"idle_timeout": "300 ms"}'});
	create_query("${name}_q", "SELECT k, count(*) AS n FROM $name WINDOW TUMBLING(10s) GROUP BY k", 'pipelines => 2');
	produce($name, [ 0, 'a', 5 ], [ 1, 'b', 5 ]);
	ok($pg->wait_until('SELECT count(*) = 2 FROM velo.partitions WHERE idle'), "$name: both partitions are idle");

	# after the outage, one pipeline is there first: nothing tells it that the other's partition is idle
	$pg->stop;
	produce($name, [ 0, 'a', 100 ], [ 1, 'b', 25 ], [ 1, 'b', 100 ]);
	$pg->configure('velo.max_pipelines' => 1);
	$pg->start;
	ok(wait_for_records("${name}_q", 3), "$name: one pipeline has read on");
	is($pg->query($partitions), '0:2 1:1', "$name: the other has not");
	$pg->configure('velo.max_pipelines' => 8);
	$pg->restart;
	ok(wait_for_records("${name}_q", 5), "$name: now it has");
	is(late("${name}_q"), 0, "$name: nothing has become late by it");
	ok($pg->wait_until("SELECT count(*) = 3 FROM ${name}_q"), "$name: windows close");
	is(rows("${name}_q"), '0a1 0b1 20b1', "$name: and are right");
	$pg->query("SELECT velo.drop_query('${name}_q')");
}

# ---------------------------------------------------------------- an operator's hand

for my $pipelines (1, 2)
{
	my $name = "hand$pipelines";

	# one that is empty is idle after a while only, or never
	my $idle_timeout = $pipelines == 1 ? '1 h' : '0';

	create_stream($name, 2, qq(options => '{"idle_timeout": "$idle_timeout"}'));
	produce($name, [ 0, 'a', 5 ], [ 0, 'a', 15 ], [ 0, 'b', 15 ], [ 0, 'b', 25 ]);
	create_query("${name}_q", "SELECT k, count(*) AS n FROM $name WINDOW TUMBLING(10s) GRACE 3s GROUP BY k", "pipelines => $pipelines");
	processed("${name}_q", "advance_watermark, $pipelines pipelines");
	is(rows("${name}_q"), '', 'a partition without records holds windows open');
	$pg->query("SELECT velo.advance_watermark('${name}_q', 'epoch'::timestamptz + '22.999999 s')");
	ok($pg->wait_until("SELECT count(*) = 1 FROM ${name}_q"), 'advance_watermark closes those that it passes');
	is(rows("${name}_q"), '0a1', 'and no others, grace included');
	$pg->query("SELECT velo.advance_watermark('${name}_q', 'epoch'::timestamptz + '23 s')");
	ok($pg->wait_until("SELECT count(*) = 3 FROM ${name}_q"), 'it closes those that it reaches');
	$pg->query("SELECT velo.advance_watermark('${name}_q', 'epoch')");
	$pg->crash;
	produce($name, [ 1, 'a', 12 ], [ 1, 'a', 22 ]);
	processed("${name}_q", 'after a crash');
	is(late("${name}_q"), 1, 'a record that comes then is late');
	$pg->query("SELECT velo.advance_watermark('${name}_q', 'epoch'::timestamptz + '33 s')");
	ok($pg->wait_until("SELECT count(*) = 5 FROM ${name}_q"), 'the last ones');
	is(rows("${name}_q"), '0a1 10a1 10b1 20a1 20b1', 'are right');
	ok($pg->wait_until($no_state), 'no state is left')
	  or diag(state_left());
	$pg->query("SELECT velo.drop_query('${name}_q')");
}

# ---------------------------------------------------------------- once and for all

# What is closed stands in the log beside what is not.  It must not come back after a crash and be written again.
{
	create_stream('once', 1, q{options => '{"idle_timeout": "0"}'});
	create_query('once_q', 'SELECT k, count(*) AS n FROM once WINDOW TUMBLING(10s) GRACE 10s GROUP BY k');
	$pg->query(<<'SQL');
CREATE TABLE written (operation text);
CREATE FUNCTION written() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.written VALUES (TG_OP); RETURN NULL; END';
CREATE TRIGGER written AFTER INSERT OR UPDATE OR DELETE ON once_q FOR EACH ROW EXECUTE FUNCTION written();
SQL
	# each key in two windows, of which one is closed by the next
	for my $i (0 .. 4)
	{
		my $k = ('a' .. 'e')[$i];

		produce('once', [ 0, $k, 10 * $i + 5 ], [ 0, $k, 10 * $i + 15 ]);
		processed('once_q', "once: $k");
		$pg->crash;
	}
	produce('once', [ 0, 'e', 46 ]);
	processed('once_q', 'once: in the end');
	is(rows('once_q'), '0a1 10a1 10b1 20b1 20c1 30c1 30d1', 'once: closed windows');
	is($pg->query('SELECT operation, count(*) FROM written GROUP BY 1'), 'INSERT|7', 'once: each row was written once');
	$pg->query(q{SELECT velo.drop_query('once_q')});
}

# ---------------------------------------------------------------- memory

# 6,000 groups with 2 KB each in 8 MB, of which half may be state.  Some come so often that the log is compacted, then
# the others and they, in no order: so groups leave memory whose records stand beside those of groups that stay.
{
	srand 6;
	my @often = shuffle(map { my $group = $_; map { [ $group % 2, "k$group", 1 ] } 1 .. 5 } 0 .. 1499);
	my @records = (@often, shuffle(map { my $group = $_; map { [ $group % 2, "k$group", 10 * $_ ] } 1 .. 3 } 0 .. 5999));
	my $half = @often + 9000;
	my $large = q{md5(max(repeat(md5(k), 60))) AS m, count(*) AS n};
	my $expected = q{SELECT 'k' || i, md5(repeat(md5('k' || i), 60)), CASE WHEN i < 1500 THEN 8 ELSE 3 END FROM generate_series(0, 5999) AS i};
	my %texts = (
		changes => "SELECT k, $large FROM memory GROUP BY k",
		final => "SELECT k, $large FROM memory WINDOW TUMBLING(1h) GROUP BY k",
		kept => "SELECT k, $large, count(id ORDER BY id) AS d FROM memory WINDOW TUMBLING(1h) GROUP BY k",
		distinct => "SELECT k, $large, count(DISTINCT id) AS d FROM memory WINDOW TUMBLING(1h) GROUP BY k");

	create_stream('memory', 2, q{key => 'k'});
	produce('memory', @often);
	for my $pipelines (1, 2)
	{
		my @names = map { "${_}_$pipelines" } sort keys %texts;

		create_query("${_}_$pipelines", $texts{$_}, "pipelines => $pipelines", q{options => '{"pipeline_memory": "8 MB", "batch_size": 300}'})
		  for sort keys %texts;
		processed($_, $_) for @names;
		for my $slice ($pipelines == 1 ? (0 .. 4) : ())
		{
			$pg->crash;
			produce('memory', @records[ @often + 1800 * $slice .. @often + 1800 * ($slice + 1) - 1 ]);
			processed($_, "$_, slice $slice") for @names;
		}
		is($pg->query("SELECT count(*) FROM velo.query AS q WHERE EXISTS (SELECT FROM velo.query_group AS g WHERE g.query = q.id)"),
			$pipelines == 1 ? 4 : 0, 'memory: cold groups are stored where they are too many')
		  if $pipelines == 1;
		$pg->crash;
		if ($pipelines == 1)
		{
			# what has been moved out is shared, too
			$pg->query("SELECT velo.alter_query('$_', '{\"pipelines\": 2}')") for grep { !/final/ } @names;
			produce('memory', @records[ $half .. $#records ]);
		}
		processed($_, "$_ after a crash") for @names;
		$pg->query("SELECT velo.advance_watermark('$_', 'epoch'::timestamptz + '1 h')") for grep { !/changes/ } @names;
		for my $name (@names)
		{
			ok($pg->wait_until("SELECT count(*) = 6000 FROM $name"), "$name: all groups");
			is($pg->query("SELECT count(*) FROM (SELECT k, m, n FROM $name EXCEPT $expected) AS e"), 0, "$name: each is right");
			is($pg->query("SELECT count(*) FROM $name WHERE d <> n"), 0, "$name: with all its rows") if $name =~ /kept|distinct/;
			$pg->query("SELECT velo.drop_query('$name')") if $name =~ /changes/;
		}
		is(state_left(), '0|0|0', 'memory: nothing is left of closed windows, wherever they were');
		$pg->query("SELECT velo.drop_query('$_')") for grep { !/changes/ } @names;
	}
}

# A window of more groups than are written at once: of one pipeline, in memory; and shared, of which none is.
{
	my $expected = q{SELECT 'k' || i, 1 FROM generate_series(0, 24999) AS i};

	create_stream('large', 2);
	produce('large', map { [ $_ % 2, "k$_", 10 ] } 0 .. 24999);
	for my $pipelines (1, 2)
	{
		my $name = "large_$pipelines";

		create_query($name, 'SELECT k, count(*) AS n FROM large WINDOW TUMBLING(1h) GROUP BY k', "pipelines => $pipelines", q{stop => 'end'});
		processed($name, $name);
		is($pg->query("SELECT count(*), count(DISTINCT k) FROM $name"), '25000|25000', "$name: all groups, each once");
		is($pg->query("SELECT count(*) FROM (SELECT k, n FROM $name EXCEPT $expected) AS e"), 0, "$name: each is right");
		is(state_left(), '0|0|0', "$name: nothing is left");
		$pg->query("SELECT velo.drop_query('$name')");
	}
}

# ---------------------------------------------------------------- in parts

# A window of many groups closes in the course of several transactions, here of 500 groups each.  A trigger on the result
# bears witness of each row and its transaction, and when it has seen as many rows as it is allowed to, it waits: so there is
# time to look, and to kill, in the middle.
{
	my $n = 15_000;
	my $expected = "SELECT k, 2, md5(repeat(k, 60)) FROM (SELECT 'k' || i AS k FROM generate_series(1, $n) AS i) AS g";
	my %queries = (
		private => ['pipelines => 1'],
		stored => ['pipelines => 1'],
		shared => ['pipelines => 2'],
		altered => ['pipelines => 1'],
		ended => [ 'pipelines => 1', q{stop => 'end'} ]);
	my ($name, $what);

	my $allow = sub { return $pg->query("UPDATE allowed SET rows = (SELECT last_value FROM rows_seen) + $_[0]") };
	my $rows = sub { return $pg->query("SELECT count(*) FROM $name") };
	my $stands = sub {
		$what = "$name: $_[0]";
		ok($pg->wait_until(q{SELECT EXISTS (SELECT FROM pg_locks, allowed WHERE locktype = 'advisory' AND objid::bigint > rows)}), $what);
		return cmp_ok($rows->(), '<', $n, "$what: not all is written");
	};
	my $go_on = sub {
		my $before = $rows->();

		$allow->(1200);
		$stands->(@_);
		return cmp_ok($rows->(), '>', $before, "$what: another part is written");
	};
	my $kill = sub {
		my ($pid) = $pg->query(q{SELECT pid FROM pg_locks WHERE locktype = 'advisory'});
		my $checkpointer = $pg->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});

		kill 'KILL', $pid;
		return $pg->wait_until("SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
	};

	$pg->query(<<'SQL');
CREATE SEQUENCE rows_seen;
CREATE TABLE allowed (rows bigint);
INSERT INTO allowed VALUES (0);
CREATE TABLE seen (name text, operation text, k text, transaction xid8);
CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	number bigint := nextval('public.rows_seen');
BEGIN
	INSERT INTO public.seen VALUES (TG_TABLE_NAME, TG_OP, NEW.k, pg_current_xact_id());
	IF number > (SELECT rows FROM public.allowed) THEN
		PERFORM pg_advisory_xact_lock(number);
		WHILE number > (SELECT rows FROM public.allowed) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
	END IF;
	RETURN NULL;
END $$;
SQL
	for (sort keys %queries)
	{
		$name = $_;
		my $memory = $name eq 'stored' ? ', "pipeline_memory": "8 MB"' : '';
		my $records = 2 * $n;
		my $read = sub { return $pg->query("SELECT sum(records_in) = $records FROM velo.pipelines WHERE query = '$name'") eq 't' };

		create_stream("parts_$name", 2, q{options => '{"idle_timeout": "0"}'});
		produce("parts_$name", map { [ $_ % 2, 'k' . (1 + $_ % $n), 5 ] } 0 .. 2 * $n - 1);
		$allow->(1200);
		$pg->query("BEGIN; SELECT velo.create_query('$name', "
			  . "'SELECT k, count(*) AS n, md5(max(repeat(k, 60))) AS m FROM parts_$name WINDOW TUMBLING(10s) GROUP BY k', "
			  . join(', ', @{ $queries{$name} }, qq(options => '{"commit_interval": "1 ms"$memory}')) . '); '
			  . "CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON $name FOR EACH ROW EXECUTE FUNCTION seen(); COMMIT");
		if ($name ne 'ended')
		{
			processed($name, "$name: all groups");
			produce("parts_$name", [ 0, 'next', 15 ], [ 1, 'next', 15 ]);
			$records += 2;
		}
		$stands->('the window closes');
		cmp_ok($rows->(), '>', 0, "$name: some of it is written");
		ok($read->(), "$name: what has closed it is committed with that");
		is($pg->query("SELECT velo.wait('$name', '10 ms')"), 'f', "$name: velo.wait() waits for the rest");
		if ($name ne 'ended')
		{
			produce("parts_$name", [ 0, 'k1', 6 ], [ 1, 'next', 16 ]);
			$records += 2;
			$go_on->('records come') for 1 .. 6;
			ok($read->(), "$name: which are read before all is written");
			is(late($name), 1, "$name: those of the window are late");
		}
		$kill->();
		$go_on->('after kill -9 of the worker');
		$pg->query(q{SELECT velo.alter_query('altered', '{"pipelines": 2}')}) if $name eq 'altered';
		$pg->stop('QUIT');
		$pg->start;
		$go_on->('after an immediate stop of the server');
		$allow->(10 * $n);
		processed($name, $name);
		is($rows->(), $n, "$name: velo.wait() has waited for all rows");
		is($pg->query("SELECT count(*) FROM (SELECT k, n, m FROM $name EXCEPT $expected) AS e"), 0, "$name: each is right");
		is($pg->query("SELECT operation, count(*), count(DISTINCT k) FROM seen WHERE name = '$name' GROUP BY 1"), "INSERT|$n|$n",
			"$name: each was written once");
		cmp_ok($pg->query("SELECT count(DISTINCT transaction) FROM seen WHERE name = '$name'"), '>', 10, "$name: in many transactions");
		if ($name ne 'ended')
		{
			$pg->query("SELECT velo.advance_watermark('$name', 'epoch'::timestamptz + '20 s')");
			ok($pg->wait_until("SELECT count(*) = $n + 1 FROM $name"), "$name: the next window");
		}
		ok($pg->wait_until($no_state), "$name: no state is left")
		  or diag(state_left());
		$pg->query("SELECT velo.drop_query('$name')");
	}
}

# Nobody sees the groups of a window of EMIT CHANGES go; stored ones, of which there are many, go in parts as well.
for my $pipelines (1, 2)
{
	my $name = "changes_$pipelines";

	create_query($name, 'SELECT k, count(*) AS n FROM parts_shared WINDOW TUMBLING(10s) GROUP BY k EMIT CHANGES',
		"pipelines => $pipelines", q{options => '{"commit_interval": "1 ms"}'});
	processed($name, $name);
	$pg->query("SELECT velo.advance_watermark('$name', 'epoch'::timestamptz + '20 s')");
	ok($pg->wait_until($no_state), "$name: no state is left")
	  or diag(state_left());
	is($pg->query("SELECT count(*), sum(n) FROM $name"), '15001|30003', "$name: its rows are");
	$pg->query("SELECT velo.drop_query('$name')");
}

# While more than one window waits to be written, no records are read, and so no partition becomes idle: one that got a
# record meanwhile holds event time back, however long that takes.
{
	create_stream('waiting', 2);
	produce('waiting', [ 0, 'x', 135 ], (map { my $time = $_; map { [ 1, "k$_", $time ] } 1 .. 2000 } 0, 10), [ 1, 'x', 125 ]);
	$pg->query('UPDATE allowed SET rows = (SELECT last_value FROM rows_seen)');
	$pg->query("BEGIN; SELECT velo.create_query('behind', "
		  . "'SELECT k, count(*) AS n FROM waiting WINDOW TUMBLING(10s) GRACE 100s GROUP BY k', pipelines => 1, "
		  . q{options => '{"commit_interval": "1 ms", "idle_timeout": "500 ms"}'); }
		  . 'CREATE TRIGGER seen AFTER INSERT ON behind FOR EACH ROW EXECUTE FUNCTION seen(); COMMIT');
	ok($pg->wait_until(q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')}), 'two windows close');
	produce('waiting', [ 1, 'y', 26 ]);
	my $now = $pg->query('SELECT clock_timestamp()');
	$pg->wait_until("SELECT clock_timestamp() > timestamptz '$now' + '600 ms'");
	$pg->query('UPDATE allowed SET rows = rows + 10000');
	ok(wait_for_records('behind', 4003), 'records are read when they are written');
	is(late('behind'), 0, 'none of which is late');
	$pg->query(q{SELECT velo.drop_query('behind')});
}

done_testing;
