#!/usr/bin/env perl
# run.pl: the same query over the same topic in velo, Kafka Streams and Flink SQL, in turn, and print Markdown.  To be run
# through test/run.sh; ../README.md says how the peers are configured and how to read the figures.
#
#	BENCH			a regular expression: only cases whose name it matches
#	BENCH_RECORDS	records in the topic (5000000)
#	BENCH_RUNS		runs of each case, of which the median counts (3)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Velo::Bench;
use Velo::Bench::Query;
use Velo::Bench::Report qw(compare circumstances);
use Velo::Bench::Topics;
use Velo::Process qw(scratch_dir);

my $wanted = $ENV{BENCH} // '';
my $bench = Velo::Bench->new(records => $ENV{BENCH_RECORDS});
my ($records, %options) = Velo::Bench::Topics::describe('trades', $bench->scale);
my $tumbling = Velo::Bench::Query->new(
	list => 'symbol, avg(price) AS avg_price, count(*) AS n',
	where => 'price > 100',
	group => 'symbol',
	size => '5m');
my $grouped = $tumbling->with(size => undef);

sub velo
{
	my ($name, $query, $work, $condition) = @_;

	return { name => "velo, $name", topic => 'trades', query => $query, found => $work, condition => $condition };
}

# A peer writes its results into a topic; what counts there is the last row by key and window.
sub peer
{
	my ($name, $query, $work, $condition) = @_;
	my ($peer, $class) = $name =~ /^Flink/ ? qw(flink FlinkQuery) : qw(streams StreamsQuery);
	my $run = 0;

	$condition //= 'true';
	my $measure = sub {
		my $results = sprintf '%s_%s_%d', $peer, $query, ++$run;
		my $lib = "$ENV{VELO_BUILD}/peers/$peer";

		$bench->kafka->create_topic($results, 1);
		my ($figures) = $bench->command('java', '-Xmx2g', '-Dorg.slf4j.simpleLogger.defaultLogLevel=error', '-cp',
			"$lib/classes:$lib/lib/*", $class, $bench->kafka->brokers, 'trades', $records, $results,
			scratch_dir($peer), $query);

		my $found = $bench->server->query(<<"SQL");
CREATE FOREIGN TABLE $results (key bytea OPTIONS (metadata 'key'), window_start text, symbol text, n bigint)
	SERVER velo OPTIONS (topic '$results', brokers '@{[$bench->kafka->brokers]}');
SELECT count(*), sum(n) FROM (SELECT max(n) AS n FROM $results WHERE $condition GROUP BY key, window_start, symbol) AS r;
SQL
		$bench->found($work, split /\|/, $found);
		return $figures;
	};
	return { name => $name, topic => 'trades', measure => $measure };
}

# Streams and velo leave the last window open, Flink's bounded source closes it.  Streams looks only each second for windows
# to emit, and not at the end of the topic, so that its last one or two may be missing.
my $end = 1767225600 + $records * ($options{step} // 1) / 1000;
my $surely_closed = sprintf '< %d', ($end - 900) * 1000;
my @table = grep { $_->{name} =~ /$wanted/ } (
	{ name => 'bare consumer', topic => 'trades', program => 'bare_consumer' },
	{ name => 'by hand', topic => 'trades', program => 'handwritten' },
	velo('tumbling, final', $tumbling->with(emit => 'FINAL'), 'closed windows', "1000 * extract(epoch FROM window_start) $surely_closed"),
	velo('tumbling, changes', $tumbling->with(emit => 'CHANGES'), 'all windows'),
	velo('group by', $grouped, 'group by'),
	peer('Kafka Streams, tumbling, final', 'tumbling_final', 'closed windows',
		"('x' || encode(substr(key, length(key) - 7), 'hex'))::bit(64)::bigint $surely_closed"),
	peer('Kafka Streams, tumbling, changes', 'tumbling_changes', 'all windows'),
	peer('Kafka Streams, group by', 'group_by', 'group by'),
	peer('Flink SQL, tumbling, final', 'tumbling_final', 'all windows'),
	peer('Flink SQL, group by', 'group_by', 'group by'));

die "no case matches $wanted\n" unless @table;

print circumstances($bench, 'make bench-peers', qw(BENCH BENCH_RECORDS BENCH_RUNS)), "\n";
compare($bench, $ENV{BENCH_RUNS} // 3, [ 'by hand', 'velo, tumbling, final', 'velo, group by' ], @table);
