#!/usr/bin/env perl
# run.pl: the same query over the same topic in velo, Kafka Streams and Flink SQL, in turn, and print Markdown.  To be run
# through test/run.sh; ../README.md says how the peers are configured and how to read the figures.
#
#	BENCH_RECORDS	records in the topic (5000000)
#	BENCH_RUNS		runs of each case, of which the median counts (3)
#	BENCH_CASES		a regular expression: only cases whose name it matches

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Velo::Bench;
use Velo::Process qw(scratch_dir);

my $records = $ENV{BENCH_RECORDS} // 5_000_000;
my $runs = $ENV{BENCH_RUNS} // 3;
my $cases = $ENV{BENCH_CASES} // '';
my $bench = Velo::Bench->new;

my $select = 'SELECT symbol, avg(price) AS avg_price, count(*) AS n FROM trades WHERE price > 100';
my $tumbling = "$select WINDOW TUMBLING(5m) GROUP BY symbol";

sub velo
{
	my ($work, $query, $condition) = @_;
	my $found = 'SELECT count(*), sum(n) FROM bench' . ($condition ? " WHERE $condition" : '');

	return sub {
		my @figures = $bench->query($query, $records, $found);

		$bench->found($work, split /\|/, $bench->last_message);
		return @figures;
	};
}

# A peer writes its results into a topic; what counts there is the last row by key and window.
sub peer
{
	my ($work, $peer, $class, $query, $condition) = @_;
	my $run = 0;

	$condition //= 'true';

	return sub {
		my $results = sprintf '%s_%s_%d', $peer, $query, ++$run;
		my $lib = "$ENV{VELO_BUILD}/peers/$peer";

		$bench->kafka->create_topic($results, 1);
		my @figures = $bench->command('java', '-Xmx2g', '-Dorg.slf4j.simpleLogger.defaultLogLevel=error', '-cp',
			"$lib/classes:$lib/lib/*", $class, $bench->kafka->brokers, 'trades', $records, $results,
			scratch_dir($peer), $query);

		my $found = $bench->server->query(<<"SQL");
CREATE FOREIGN TABLE $results (key bytea OPTIONS (metadata 'key'), window_start text, symbol text, n bigint)
	SERVER velo OPTIONS (topic '$results', brokers '@{[$bench->kafka->brokers]}');
SELECT count(*), sum(n) FROM (SELECT max(n) AS n FROM $results WHERE $condition GROUP BY key, window_start, symbol) AS r;
SQL
		$bench->found($work, split /\|/, $found);
		return @figures;
	};
}

# Streams and velo leave the last window open, Flink's bounded source closes it.  Streams looks only each second for windows
# to emit, and not at the end of the topic, so that its last one or two may be missing.
my $surely_closed = sprintf '< %d', (1767225600 + ($records - 900_000) / 1000) * 1000;
my @table = (
	[ 'bare consumer' => sub { $bench->program('bare_consumer', 'trades') } ],
	[ 'by hand' => sub { $bench->program('handwritten', 'trades') } ],
	[ 'velo, tumbling, final' => velo('closed windows', "$tumbling EMIT FINAL", "1000 * extract(epoch FROM window_start) $surely_closed") ],
	[ 'velo, tumbling, changes' => velo('all windows', "$tumbling EMIT CHANGES") ],
	[ 'velo, group by' => velo('group by', "$select GROUP BY symbol") ],
	[ 'Kafka Streams, tumbling, final' => peer('closed windows', 'streams', 'StreamsQuery', 'tumbling_final',
			"('x' || encode(substr(key, length(key) - 7), 'hex'))::bit(64)::bigint $surely_closed") ],
	[ 'Kafka Streams, tumbling, changes' => peer('all windows', 'streams', 'StreamsQuery', 'tumbling_changes') ],
	[ 'Kafka Streams, group by' => peer('group by', 'streams', 'StreamsQuery', 'group_by') ],
	[ 'Flink SQL, tumbling, final' => peer('all windows', 'flink', 'FlinkQuery', 'tumbling_final') ],
	[ 'Flink SQL, group by' => peer('group by', 'flink', 'FlinkQuery', 'group_by') ]);

@table = grep { $_->[0] =~ /(?:$cases)/ } @table;
die "no case matches $cases\n" unless @table;

$bench->load('trades', $records);
$bench->print_circumstances(
	join ' ', (map { "$_=$ENV{$_}" } grep { defined $ENV{$_} } qw(BENCH_RECORDS BENCH_RUNS BENCH_CASES)), 'make bench-peers');
$bench->compare($runs, [ 'by hand', 'velo, tumbling, final', 'velo, group by' ], @table);
