# What a running server shows of itself, on a real Kafka: counters, offsets and lag in Kafka's own eyes, queues under load,
# idleness that no outage makes, settings at reload, the development broker's port.

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;
use Velo::Kafka;
use Velo::Process qw(run_command);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(dev_broker => 1, conf => {TimeZone => 'UTC', 'velo.idle_timeout' => '1 h'});
my $brokers = $kafka->brokers;

$pg->query('CREATE EXTENSION velo');

# A topic and a stream of the same name.
sub create_stream
{
	my ($name, $partitions) = @_;

	$kafka->create_topic($name, $partitions);
	$pg->query(<<"SQL");
SELECT velo.create_stream('$name', columns => 'k text, v int, ts timestamptz', brokers => '$brokers',
	event_time => 'ts', watermark => '2 s')
SQL
	return;
}

# Records of a partition, a second apart from the given one on; each third has a v of 0.
sub produce
{
	my ($topic, $partition, $from, $n) = @_;

	$kafka->produce($topic, [ map {
		my $ts = sprintf '2026-01-01T%02d:%02d:%02dZ', $_ / 3600, $_ / 60 % 60, $_ % 60;

		[ $partition, undef, undef, sprintf('{"k": "k%d", "v": %d, "ts": "%s"}', $_ % 5, $_ % 3, $ts) ]
	} $from .. $from + $n - 1 ]);
	return;
}

sub wait_for_query
{
	my ($name) = @_;

	is($pg->query("SELECT velo.wait('$name')"), 't', "$name has caught up");
	return;
}

# ---------------------------------------------------------------- counters

my $counters = q{SELECT state, records_in, rows_out, late, dead_letters, skipped, lag, watermark FROM velo.queries WHERE name = 'counted_q'};
my $offsets = q{SELECT string_agg(format('%s:%s of %s', partition, committed_offset, end_offset), ' ' ORDER BY partition)
	FROM velo.partitions WHERE query = 'counted_q'};

create_stream('counted', 2);
produce('counted', $_, 0, 50) for 0, 1;
# from 60 on in one partition: what the other one has not reached stays open
produce('counted', 1, 60, 10);
$pg->query(q{SELECT velo.create_query('counted_q', 'SELECT k, sum(6 / v) FROM counted WINDOW TUMBLING(10 s) GROUP BY k', pipelines => 2)});
wait_for_query('counted_q');
is($pg->query($counters), 'running|110|20|0|38|0|0|2026-01-01 00:00:47+00', 'what is counted');
is($pg->query($offsets), '0:50 of 50 1:60 of 60', 'committed offsets');
$pg->kill9;
$pg->start;
# the last commits may be gone, but all of each
is($pg->query(q{SELECT records_in = (SELECT sum(committed_offset) FROM velo.partitions WHERE query = name) AND rows_out = (SELECT count(*) FROM counted_q)
		AND dead_letters = (SELECT count(*) FROM velo.dead_letters WHERE query = name) FROM velo.queries WHERE name = 'counted_q'}),
	't', 'right after a crash the figures agree');
wait_for_query('counted_q');
ok($pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'counted_q'}), 'the query runs again');
is($pg->query($counters), 'running|110|20|0|38|0|0|2026-01-01 00:00:47+00', 'and nothing was counted twice');

$pg->query(q{SELECT velo.pause_query('counted_q')});
produce('counted', 0, 50, 20);
is($pg->query($counters), 'paused|110|20|0|38|0|0|2026-01-01 00:00:47+00', 'nothing moves while it is paused');
is($pg->query(q{SELECT count(*) FROM velo.pipelines WHERE query = 'counted_q' AND state = 'paused' AND pid IS NULL}), 2, 'nor do pipelines');
$pg->query(q{SELECT velo.resume_query('counted_q')});
wait_for_query('counted_q');
# a pipeline that had nothing to read may not have begun yet
ok($pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'counted_q'}), 'the query runs once more');
is($pg->query($counters), 'running|130|30|0|45|0|0|2026-01-01 00:01:07+00', 'it goes on');

# ---------------------------------------------------------------- in Kafka's own eyes

{
	my @describe = ($kafka->java('org.apache.kafka.tools.consumer.group.ConsumerGroupCommand'), '--bootstrap-server', $brokers, '--describe', '--group');
	my ($status, $out, $err) = run_command('', @describe, 'velo-postgres-counted_q');

	# GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
	is_deeply([ sort map { join ' ', (split)[ 2 .. 5 ] } grep { /^velo-postgres-counted_q\s/ } split /\n/, $out ], [ '0 70 70 0', '1 60 60 0' ],
		"the consumer group has the query's offsets")
	  or diag($out, $err);

	$pg->query(q{SELECT velo.create_query('named', 'SELECT k FROM counted', options => '{"group_id": "my.group"}')});
	wait_for_query('named');
	($status, $out, $err) = run_command('', @describe, 'my.group');
	is(scalar(grep { /^my\.group\s+counted\s+[01]\s+(\d+)\s+\1\s+0\s/ } split /\n/, $out), 2, 'also under a name of its own')
	  or diag($out, $err);
	$pg->query(q{SELECT velo.drop_query('named')});
}

# ---------------------------------------------------------------- queues

{
	my $text = q{SELECT k, count(*) FROM busy GROUP BY k};

	create_stream('busy', 1);
	produce('busy', 0, 0, 40000);
	$pg->query(qq{SELECT velo.create_query('busy_q', '$text', options => '{"pipeline_memory": "8MB", "batch_size": 1000}')});
	wait_for_query('busy_q');
	is($pg->query(<<'SQL'), 't|t|t|t|t|t', 'figures of a full queue and of the stages');
SELECT queue_high_water >= queue_capacity, queue_depth = 0, backpressure_events > 1,
	batch_records_p50 BETWEEN 500 AND 1200, batch_records_p50 <= batch_records_p99, eval_ms_p50 > 0 AND eval_ms_p50 <= eval_ms_p99
FROM velo.pipelines WHERE query = 'busy_q'
SQL
	ok($pg->wait_until(q{SELECT records_per_second = 0 FROM velo.pipelines WHERE query = 'busy_q'}), 'the rate falls to nothing');
	ok($pg->wait_until(q{SELECT bool_and(state = 'idle' AND query LIKE 'velo: query %, pipeline %') FROM pg_stat_activity WHERE backend_type = 'velo pipeline'}),
		'pg_stat_activity says that nothing is done');
	$pg->query(q{SELECT velo.drop_query('busy_q')});
}

# ---------------------------------------------------------------- settings, idleness

{
	my $pid = $pg->query(q{SELECT pid FROM velo.pipelines WHERE query = 'counted_q' AND pipeline = 0});

	is($pg->query(q{SELECT bool_or(idle) FROM velo.partitions}), 'f', 'nobody is idle yet');
	$pg->configure('velo.idle_timeout' => '1 ms');
	$pg->reload;
	ok($pg->wait_until(q{SELECT bool_and(idle) FROM velo.partitions}), 'a setting reaches running queries at reload');
	$pg->configure('velo.idle_timeout' => '3 s');
	$pg->reload;

	# the time of the last commit is that of the outage's end, then that at which the partition becomes idle
	create_stream('outage', 1);
	produce('outage', 0, 0, 1);
	$pg->query(q{SELECT velo.create_query('outage_q', 'SELECT count(*) FROM outage WINDOW TUMBLING(1h)')});
	wait_for_query('outage_q');
	$kafka->kill9;
	ok($pg->wait_until(q{SELECT state = 'waiting' FROM velo.queries WHERE name = 'outage_q'}), 'the broker is away');
	$kafka->start;
	ok($pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'outage_q'}), 'the broker is back');
	my $back = $pg->query(q{SELECT last_commit_at FROM velo.pipelines WHERE query = 'outage_q'});

	ok($pg->wait_until(q{SELECT idle FROM velo.partitions WHERE query = 'outage_q'}), 'the partition becomes idle');
	cmp_ok($pg->query(qq{SELECT extract(epoch FROM last_commit_at - '$back') FROM velo.pipelines WHERE query = 'outage_q'}), '>=', 2.9,
		'but not for the time of the outage');
}

# ---------------------------------------------------------------- the development broker

{
	my $port = $pg->{broker_port};

	is(($pg->psql(q{SELECT velo.dev_create_topic('somewhere', 3)}))[0], 0, 'a topic in the development broker');
	my @silent = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") } 1 .. 3;

	$pg->restart;
	like($pg->log, qr/listening on 127\.0\.0\.1:$port.*not for production/s, 'it says what it is not for');
	is(($pg->psql(q{SELECT velo.dev_create_topic('somewhere', 3)}))[0], 0, 'it forgets its topics');
	$pg->stop;

	my $other = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port", Listen => 1, ReuseAddr => 1) or die "$port: $!\n";

	$pg->start;
	ok($pg->wait_until('SELECT true'), 'a taken port does not keep the server from starting');
	ok(Velo::Process::wait_for(sub { $pg->log =~ /could not listen on 127\.0\.0\.1:$port: Address already in use/ }), 'but is said in the log');
	close $other;
	ok($pg->wait_until(q{SELECT velo.dev_create_topic('later') IS NOT NULL}), 'and it listens when the port is free');
}

done_testing();
