# A crash, an error, a cancellation at each step of a transaction: whatever happens wherever, each record counts once.
#
# The library is built with injection points (src/injection_point.h).  For each of them and each action: arm it, produce
# records until it has acted, wait until all is processed, and compare every result with PostgreSQL's own answer over an
# ordinary table of the same rows.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(wait_for);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
# the rows of all records, and PostgreSQL's answers, are on a server of their own
my $oracle = Velo::Server->new(name => 'oracle', conf => {TimeZone => 'UTC'});
my $pg = Velo::Server->new(
	library => "$ENV{VELO_BUILD}/injection_points/velo.so",
	conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '300 ms', restart_after_crash => 'on'});

$pg->query('CREATE EXTENSION velo');
$kafka->create_topic($_, 2) for 'events', 'wide';

# What is produced, as rows: an error of evaluation where d is 0, and "broken" is produced as something that is no JSON.
$oracle->query(q{
	CREATE SEQUENCE minute;
	CREATE TABLE events_rows (k int, g int, v int, d int, ts timestamptz, broken bool);
	CREATE TABLE wide_rows (w int, pad text);
});
$pg->query(q{
	SELECT velo.create_stream('events', 'k int, g int, v int, d int, ts timestamptz', brokers => '} . $kafka->brokers . q{',
		event_time => 'ts', watermark => '0 s', key => 'k');
	SELECT velo.create_stream('wide', 'w int, pad text', brokers => '} . $kafka->brokers . q{', key => 'w');
});

# name, the query, the same over the rows, options; a pipeline's memory is the least that there can be
my $good = 'events_rows WHERE NOT broken';
my @queries = (
	['appended', 'SELECT k, v, 100 / d AS q FROM events WHERE v % 3 = 0', "SELECT k, v, 100 / nullif(d, 0) FROM $good AND v % 3 = 0 AND d <> 0", q{pipelines => 1}],
	['by_row', q{SELECT k, (SELECT max(x) FROM unnest(ARRAY[v, 7]) AS x) AS m FROM events WHERE v % 5 = 0},
		"SELECT k, greatest(v, 7) FROM $good AND v % 5 = 0", q{pipelines => 1}],
	['exclusive', 'SELECT k, count(*) AS n, sum(v) AS s FROM events WINDOW TUMBLING(1m) GROUP BY k EMIT FINAL',
		"SELECT date_trunc('minute', ts), date_trunc('minute', ts) + '1 min', k, count(*), sum(v) FROM $good
			AND ts < date_trunc('minute', (SELECT least(max(ts) FILTER (WHERE k % 2 = 0), max(ts) FILTER (WHERE k % 2 = 1)) FROM $good)) GROUP BY 1, k",
		q{pipelines => 2}],
	['merged', 'SELECT g, count(*) AS n, sum(v) AS s FROM events GROUP BY g', "SELECT g, count(*), sum(v) FROM $good GROUP BY g", q{pipelines => 2}],
	['stored', 'SELECT w, count(*) AS n, max(pad) AS pad FROM wide GROUP BY w', 'SELECT w, count(*), max(pad) FROM wide_rows GROUP BY w',
		q{pipelines => 1, options => '{"pipeline_memory": "8MB"}'}],
	# groups that rarely change keep alive what the log has of those that change each time
	['compacted', 'SELECT w % 20 AS w, (w % 20 = 0)::int * w AS of, max(pad) AS pad FROM wide GROUP BY w % 20, (w % 20 = 0)::int * w',
		'SELECT w % 20, (w % 20 = 0)::int * w, max(pad) FROM wide_rows GROUP BY 1, 2', q{pipelines => 1}]);

for (@queries)
{
	my ($name, $query, undef, $options) = @$_;

	$pg->query("SELECT velo.create_query('$name', \$\$$query\$\$, $options)");
}

my $produced = 0;
my $bad = 0;

# A minute of records; with "wide" also groups that memory has no room for.  Values are as good as random, and the same in
# each run.
sub produce
{
	my ($wide) = @_;
	my @rows = split /\n/, $oracle->query(q~
		CREATE TEMP TABLE news AS SELECT i % 20 AS k, i % 7 AS g, abs(hashint8(m * 1000 + i)) % 1000 AS v, (i + m) % 50 AS d,
			'2026-01-01Z'::timestamptz + m * '1 min'::interval + i * '200 ms'::interval AS ts, i % 97 = 13 AS broken
			FROM nextval('minute') AS m, generate_series(1, 200) AS i ORDER BY i;
		INSERT INTO events_rows SELECT * FROM news;
		SELECT k % 2, CASE WHEN broken THEN '{"k": ' ELSE row_to_json(n)::text END FROM news AS n ORDER BY ts~);

	$kafka->produce('events', [ map { my ($partition, $value) = split /\|/, $_, 2; [ $partition, undef, undef, $value ] } @rows ]);
	$produced += @rows;
	$bad += grep { /\|[{]"k": $/ } @rows;
	return unless $wide;
	@rows = split /\n/, $oracle->query(q{
		CREATE TEMP TABLE news AS SELECT abs(hashint8(currval * 10000 + i)) % 16000 AS w, repeat(md5(currval || ' ' || i), 24) AS pad
			FROM nextval('minute') AS currval, generate_series(1, 2500) AS i;
		INSERT INTO wide_rows SELECT * FROM news;
		SELECT w % 2, row_to_json(n) FROM news AS n});
	$kafka->produce('wide', [ map { my ($partition, $value) = split /\|/, $_, 2; [ $partition, undef, undef, $value ] } @rows ]);
	return;
}

sub settled
{
	return $pg->wait_until(q{SELECT bool_and(velo.wait(name, '30 s')) FROM velo.queries WHERE state <> 'finished'}, 60);
}

# The rows that only one of two has: what a query has made, and PostgreSQL's own answer.
sub difference
{
	my ($name, $answer) = @_;
	my $rows = 'SELECT count(*), md5(string_agg(md5(t::text), NULL ORDER BY md5(t::text))) FROM (%s) AS t';

	return '' if $pg->query(sprintf $rows, "TABLE $name") eq $oracle->query(sprintf $rows, $answer);
	my %extra;

	$extra{$_}++ for split /\n/, $pg->query("SELECT t::text FROM $name AS t");
	$extra{$_}-- for split /\n/, $oracle->query("SELECT t::text FROM ($answer) AS t");
	return join "\n", map { substr "$extra{$_} of $_", 0, 200 } sort grep { $extra{$_} } keys %extra;
}

sub counters
{
	return $pg->query(q{SELECT name, records_in, dead_letters, skipped, late, error FROM velo.queries
		WHERE name IN ('appended', 'by_row', 'exclusive', 'merged') ORDER BY name});
}

my $armed = "$pg->{data}/velo_injection_point";

sub arm
{
	my ($point, $action) = @_;

	open my $file, '>', "$armed.new" or die "$armed: $!\n";
	print $file "$point $action";
	close $file or die "$armed: $!\n";
	rename "$armed.new", $armed or die "$armed: $!\n";
	return;
}

sub expected_counters
{
	my $divided = $oracle->query("SELECT count(*) FROM $good AND v % 3 = 0 AND d = 0");

	return join "\n", map { join '|', $_, $produced, $bad + ($_ eq 'appended' ? $divided : 0), 0, 0, '' } qw(appended by_row exclusive merged);
}

# Whatever is in the way of processing, once, wherever it stands.
sub try
{
	my ($point, $action, $wide, $provoke) = @_;
	my $what = "$action at $point";

	arm($point, $action);
	$provoke->() if $provoke;
	for (1 .. 12)
	{
		last unless -e $armed;
		produce($wide);
		# the server may be down
		last unless ok(settled(), "$what: all is processed");
	}
	if (!ok(!-e $armed, "$what: was there"))
	{
		unlink $armed;
		return;
	}
	# a crash at the end of what was produced may show only now
	settled();
	# a pipeline that had processed all before it failed may not have come back yet
	my $expected = expected_counters();
	wait_for(sub { counters() eq $expected });
	is(counters(), $expected, "$what: counted once");
	is(difference(@$_[ 0, 2 ]), '', "$what: $_->[0] is right") for @queries;
	return;
}

my @points = map { [$_] } qw(before-poll after-poll begin before-decode after-decode in-evaluate-by-column in-evaluate-by-row
  before-apply in-apply after-apply after-claim before-dead-letter after-dead-letter before-fold after-fold before-sink-write in-sink-write
  after-sink-write before-close in-close after-close before-checkpoint after-checkpoint before-commit after-commit after-publish);

push @points, map { [ $_, 1 ] } qw(before-move in-move after-move in-fetch before-merge in-merge after-merge before-compaction in-compaction after-compaction);
push @points, map { [ $_, 0, sub { $pg->query(q{SELECT pg_terminate_backend(pid) FROM velo.pipelines WHERE pid IS NOT NULL}) } ] } qw(before-start-pipeline after-start-pipeline before-load after-load);

produce(1);
ok(settled(), 'all queries run');
# here an error of the kind that records cause is one of a record, if it comes while there is no other with it
my %blames_records = map { $_ => 1 } qw(in-evaluate-by-row in-apply in-sink-write);

for my $point (@points)
{
	for my $action ('crash', 'error', 'cancel', 'out of memory')
	{
		try($point->[0], $action, @$point[ 1, 2 ]) unless $action eq 'error' && $blames_records{ $point->[0] };
	}
}

# Groups of a stream whose key is not true are shared from the moment that two pipelines meet the same one.
my @shared_points = qw(become-merged before-fold-private after-fold-private);

$pg->query(q{SELECT velo.create_stream('untrue', 'g int, v int', topic => 'events', brokers => '} . $kafka->brokers . q{', key => 'g')});
for my $point (@shared_points)
{
	for my $action ('crash', 'error', 'cancel', 'out of memory')
	{
		my $what = "$action at $point";

		arm($point, $action);
		$pg->query(q{SELECT velo.create_query('became_merged', 'SELECT g, count(*) AS n, sum(v) AS s FROM untrue GROUP BY g', pipelines => 2)});
		ok(wait_for(sub { !-e $armed }), "$what: was there");
		ok(settled(), "$what: all is processed");
		is(difference('became_merged', "SELECT g, count(*), sum(v) FROM $good GROUP BY g"), '', "$what: the answer is right");
		$pg->wait_until(q{SELECT velo.drop_query('became_merged') IS NOT NULL});
	}
}

SKIP:
{
	my @files = glob 'src/*/*.c';

	skip 'the sources are not here', 1 unless @files;
	my @names = map { Velo::Process::slurp($_) =~ /VELO_INJECTION_POINT\("(.*)"\)/g } @files;

	is(join(' ', sort @names), join(' ', sort @shared_points, map { $_->[0] } @points), 'all of them were tried');
}

done_testing();
