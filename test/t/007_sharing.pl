# From groups that each pipeline has to itself to groups that all share: when the number of pipelines changes, and when
# the stream's key turns out not to be true.  Nothing is lost or counted twice on the way, in whatever order the
# pipelines go it, and however often they are killed there.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '500 ms'});
my $id = 0;

$pg->query(<<'SQL');
CREATE EXTENSION velo;
CREATE TABLE rec (topic text, id int, k text, v int, ts timestamptz);
SQL

sub create_stream
{
	my ($topic, $partitions) = @_;

	$kafka->create_topic($topic, $partitions);
	$pg->query("SELECT velo.create_stream('$topic', columns => 'id int, k text, v int, ts timestamptz', brokers => '@{[$kafka->brokers]}', "
		  . q{event_time => 'ts', watermark => '10 s', key => 'k', options => '{"idle_timeout": "0"}')});
	return;
}

# Records [partition, k, v, seconds], to the topic and to table rec.
sub produce
{
	my ($topic, @records) = @_;
	my @values = map { [ ++$id, @$_[ 1 .. 3 ] ] } @records;

	$kafka->produce($topic,
		[ map { [ $records[$_][0], $values[$_][1], undef, sprintf '{"id": %d, "k": "%s", "v": %d, "ts": %d000}', @{ $values[$_] } ] } 0 .. $#records ]);
	$pg->query('INSERT INTO rec VALUES ' . join(', ', map { sprintf "('$topic', %d, '%s', %d, to_timestamp(%d))", @$_ } @values));
	return;
}

# numbers, a state that is kept as bytes, one by reference, and kept rows
my $list = q{count(*) AS n, sum(v) AS s, avg(v) AS a, max(k || v) AS m, array_agg(id ORDER BY id) AS ids};

my %kinds = (
	changes => ["GROUP BY k"],
	having => ["GROUP BY k HAVING sum(v) % 2 = 0"],
	final => ["WINDOW TUMBLING(10s) GROUP BY k", "date_bin('10 s', ts, 'epoch')"],
	hopping => ["WINDOW HOPPING(10s, 5s) GROUP BY k EMIT CHANGES"]);

sub create_queries
{
	my ($topic, $pipelines, @more) = @_;

	$pg->query("SELECT velo.create_query('${topic}_$_', \$q\$SELECT k, $list FROM $topic $kinds{$_}[0]\$q\$, pipelines => $pipelines"
		  . join('', map { ", $_" } @more) . ')') for sort keys %kinds;
	return;
}

sub are_right
{
	my ($topic, $what, $up_to) = @_;
	my $rows = "FROM rec WHERE topic = '$topic'";
	my %oracle = (
		changes => "SELECT k, $list $rows GROUP BY k",
		having => "SELECT k, $list $rows GROUP BY k HAVING sum(v) % 2 = 0",
		final => "SELECT w, w + '10 s', * FROM (SELECT date_bin('10 s', ts, 'epoch') AS w, k, $list $rows GROUP BY 1, 2) AS g WHERE w + '10 s' <= to_timestamp($up_to)",
		hopping => "SELECT lower(w), upper(w), k, $list FROM (SELECT *, velo.hop(ts, '10 s', '5 s') AS w $rows) AS r GROUP BY w, k");

	$oracle{final} =~ s/w, w \+ '10 s', \*/w, w + '10 s', k, n, s, a, m, ids/;
	for my $kind (sort keys %kinds)
	{
		my $name = "${topic}_$kind";

		is($pg->query("SELECT velo.wait('$name', '60 s')"), 't', "$what, $kind: processed");
		is($pg->query("SELECT r::text FROM $name AS r ORDER BY 1"), $pg->query("SELECT r::text FROM ($oracle{$kind}) AS r ORDER BY 1"),
			"$what, $kind: right");
		is($pg->query("SELECT records_in = (SELECT count(*) $rows) AND late = 0 FROM velo.queries WHERE name = '$name'"), 't',
			"$what, $kind: each record is counted once");
	}
	return;
}

# Wait until the queries' groups are all shared (and none left in the log of a pipeline).
sub are_shared
{
	my ($topic, $what) = @_;

	ok($pg->wait_until(<<"SQL"), "$what: all groups are shared");
SELECT bool_and(merged) AND NOT EXISTS (SELECT FROM velo.query_state WHERE query = ANY (array_agg(id)))
FROM velo.query WHERE name LIKE '${topic}_%'
SQL
	return;
}

sub drop { my ($topic) = @_; $pg->query("SELECT velo.drop_query(name) FROM velo.queries WHERE name LIKE '${topic}_%'"); return; }

# every partition has its own keys; the windows up to 100 s are closed, the later ones not
sub records { my ($from, $to) = @_; return map { my $t = $_; map { [ $_, "k$_" . $t % 3, $t % 7 + $_, $t ] } 0 .. 3 } $from .. $to; }

# ---------------------------------------------------------------- another number of pipelines

for my $change ([ 4, 2 ], [ 4, 1, 3 ], [ 2, 4 ], [ 1, 3 ])
{
	my ($first, @then) = @$change;
	my $topic = join '_', 'alter', $first, @then;
	my $time = 110;

	create_stream($topic, 4);
	create_queries($topic, $first);
	produce($topic, records(1, $time));
	are_right($topic, $topic, $time - 10);
	for my $pipelines (@then)
	{
		$pg->query("SELECT velo.alter_query(name, '{\"pipelines\": $pipelines}') FROM velo.queries WHERE name LIKE '${topic}_%'");
		are_shared($topic, "$topic: $pipelines");
		are_right($topic, "$topic: $pipelines, no records", $time - 10);
		produce($topic, records($time + 1, $time + 30));
		$time += 30;
		are_right($topic, "$topic: $pipelines, more records", $time - 10);
	}
	drop($topic);
}

# ---------------------------------------------------------------- an untrue key

# the first record of partition 3 for a key of partition 0 comes late in its life
for my $stop ('NULL', q{'end'})
{
	my $topic = $stop eq 'NULL' ? 'untrue' : 'untrue_end';
	my @rest = (map({ [ 3, 'k00', $_, 111 ] } 1 .. 2), records(111, 140));

	create_stream($topic, 4);
	produce($topic, records(1, 110));
	produce($topic, @rest) if $stop ne 'NULL';
	create_queries($topic, 4, "stop => $stop");
	if ($stop eq 'NULL')
	{
		are_right($topic, $topic, 100);
		is($pg->query("SELECT bool_or(merged) FROM velo.query WHERE name LIKE '${topic}_%'"), 'f', "$topic: nothing is shared while the key is true");
		produce($topic, @rest);
	}
	are_right($topic, $topic, $stop eq 'NULL' ? 130 : 1000);
	are_shared($topic, $topic);
	$pg->query("SELECT velo.pause_query(name), velo.resume_query(name) FROM velo.queries WHERE name LIKE '${topic}_%' AND state <> 'finished'");
	are_right($topic, "$topic, after a restart", $stop eq 'NULL' ? 130 : 1000);
	drop($topic);
}

# ---------------------------------------------------------------- a true key to the end

# each pipeline closes what is its own, the last of all ends the query
{
	create_stream('own', 4);
	produce('own', records(1, 40));
	create_queries('own', 4, q{stop => 'end'});
	are_right('own', 'own', 1000);
	is($pg->query("SELECT bool_or(merged) FROM velo.query WHERE name LIKE 'own_%'"), 'f', 'own: nothing was shared');
	is($pg->query('SELECT count(*) FROM velo.query_state'), 0, 'own: no state is left');
	drop('own');
}

# ---------------------------------------------------------------- a batch that is replayed

# Applying fails in the middle of a batch, of which all is taken back: the groups, the watermark, and that the pipeline
# has met its keys.  So nothing is late then, and that the key is not true is noticed in spite of it.
{
	my $large = 2_147_483_647;

	$pg->query('CREATE AGGREGATE addup(int) (sfunc = int4pl, stype = int, initcond = 0, combinefunc = int4pl)');
	create_stream('replay', 2);
	produce('replay', [ 0, 'a', 1, 1 ], [ 0, 'a', $large, 2 ], [ 0, 'b', 1, 3 ], [ 0, 'b', 2, 40 ], [ 0, 'a', 3, 45 ]);
	$pg->query(q{SELECT velo.create_query('replay_q', 'SELECT k, count(*) AS n, addup(v) AS s FROM replay WINDOW TUMBLING(10s) GROUP BY k EMIT CHANGES',
		pipelines => 2)});
	is($pg->query("SELECT velo.wait('replay_q', '60 s')"), 't', 'replay: processed');
	produce('replay', [ 1, 'a', 4, 46 ], [ 1, 'b', 5, 47 ]);
	is($pg->query("SELECT velo.wait('replay_q', '60 s')"), 't', 'replay: the untrue key, too');
	is($pg->query(q{SELECT string_agg(concat_ws(' ', extract(epoch FROM window_start)::int, k, n, s), ', ' ORDER BY window_start, k) FROM replay_q}),
		'0 a 1 1, 0 b 1 1, 40 a 2 7, 40 b 2 7', 'replay: right');
	is($pg->query(q{SELECT records_in, late, dead_letters FROM velo.queries WHERE name = 'replay_q'}), '7|0|1', 'replay: figures');
	is($pg->query(q{SELECT merged FROM velo.query WHERE name = 'replay_q'}), 't', 'replay: groups are shared from then on');
}

done_testing;
