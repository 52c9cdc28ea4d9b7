#!/usr/bin/env perl
# run.pl: measure velo on a real Kafka, beside a bare consumer and the query written by hand, and print one table.  To be
# run through test/run.sh; README.md in this directory says how to read it.
#
#	BENCH_RECORDS	records in the topic (5000000)
#	BENCH_RUNS		runs of each case, of which the median counts (5)
#	BENCH_CASES		a regular expression: only cases whose name it matches

use strict;
use warnings;

use Time::HiRes qw(sleep time);
use Velo::Kafka;
use Velo::Process qw(run_command);
use Velo::Server;

$| = 1;
die Velo::Kafka->missing . "\n" if Velo::Kafka->missing;

my $records = $ENV{BENCH_RECORDS} // 5_000_000;
my $runs = $ENV{BENCH_RUNS} // 5;
my $wanted = $ENV{BENCH_CASES} // '';

my $select = 'SELECT symbol, avg(price) AS avg_price, count(*) AS n FROM trades WHERE price > 100';
my @cases = (
	['bare consumer' => \&run_program, 'bare_consumer'],
	['by hand' => \&run_program, 'handwritten'],
	['tumbling 5m, final' => \&run_query, "$select WINDOW TUMBLING(5m) GROUP BY symbol EMIT FINAL"],
	['tumbling 5m, changes' => \&run_query, "$select WINDOW TUMBLING(5m) GROUP BY symbol EMIT CHANGES"],
	['group by, no window' => \&run_query, "$select GROUP BY symbol"],
	['hopping 5m/1m, final' => \&run_query, "$select WINDOW HOPPING(5m, 1m) GROUP BY symbol EMIT FINAL"],
	['filter and projection' => \&run_query, 'SELECT symbol, price, ts FROM trades WHERE price > 100']);

@cases = grep { $_->[0] =~ /$wanted/ } @cases;

sub median
{
	my @sorted = sort { $a <=> $b } @_;

	return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ($sorted[ @sorted / 2 - 1 ] + $sorted[ @sorted / 2 ]) / 2;
}

my $kafka = Velo::Kafka->new(heap => '1g');
$kafka->create_topic($_, 1) for 'trades', 'steady';

my $loading = time;
my ($status, undef, $err) = run_command('', "$ENV{VELO_BUILD}/bench/load", $kafka->brokers, 'trades', $records);
die "load: $err" if $status;
printf "%d records loaded in %.1f s\n", $records, time - $loading;

# the settings of a server that is meant to work: durable, with room between checkpoints
my $pg;
if (grep { $_->[1] == \&run_query } @cases)
{
	$pg = Velo::Server->new(
		conf => {
			fsync => 'on',
			shared_buffers => '1GB',
			max_wal_size => '8GB',
			track_commit_timestamp => 'on'
		});
	$pg->query(<<"SQL");
CREATE EXTENSION velo;
SELECT velo.create_stream(topic, columns => 'symbol text, price float8, volume bigint, ts timestamptz',
	brokers => '@{[$kafka->brokers]}', event_time => 'ts', watermark => '10 s', key => 'symbol')
FROM unnest('{trades,steady}'::text[]) AS topic;

CREATE FUNCTION cpu_seconds(pid int) RETURNS float8 LANGUAGE sql AS \$\$
	-- utime and stime of all threads, in ticks of 10 ms: the 14th and 15th field, the 2nd may hold blanks
	SELECT (f[12]::float8 + f[13]::float8) / 100
	FROM regexp_split_to_array(regexp_replace(pg_read_file('/proc/' || pid || '/stat'), '^.*\\) ', ''), ' ') AS f
\$\$;

-- Watch a query of one pipeline until it has committed everything, from its first commit on.
CREATE FUNCTION drain(q text, total bigint, OUT records bigint, OUT seconds float8, OUT cpu float8)
LANGUAGE plpgsql AS \$\$
DECLARE
	started timestamptz;
	first bigint;
	cpu_before float8;
	worker int;
	committed bigint := 0;
BEGIN
	FOR i IN 1 .. 60000 LOOP
		SELECT committed_offset INTO committed FROM velo.partitions WHERE query = q;
		IF started IS NULL AND committed > 0 THEN
			started := clock_timestamp();
			first := committed;
			SELECT pid INTO worker FROM velo.pipelines WHERE query = q;
			cpu_before := cpu_seconds(worker);
		END IF;
		EXIT WHEN committed >= total;
		PERFORM pg_sleep(0.01);
	END LOOP;
	IF committed < total THEN
		RAISE EXCEPTION '% records of % committed', committed, total;
	END IF;
	records := total - first;
	seconds := extract(epoch FROM clock_timestamp() - started);
	cpu := cpu_seconds(worker) - cpu_before;
END
\$\$;
SQL
}

# Both return records, seconds and CPU seconds, without connecting and planning.
sub run_program
{
	my ($program) = @_;
	my ($status, $out, $err) = run_command('', "$ENV{VELO_BUILD}/bench/$program", $kafka->brokers, 'trades');

	die "$program: $err" if $status;
	return split ' ', $out;
}

sub run_query
{
	my ($query) = @_;

	$pg->query("CHECKPOINT; SELECT velo.create_query('bench', \$query\$$query\$query\$)");
	my @figures = split /\|/, $pg->query("SELECT * FROM drain('bench', $records)");
	$pg->query(q{SELECT velo.drop_query('bench')});
	return @figures;
}

my (%rate, %cpu);

for my $run (1 .. $runs)
{
	for my $case (@cases)
	{
		my ($name, $function, $argument) = @$case;
		my ($count, $seconds, $cpu) = $function->($argument);

		push @{ $rate{$name} }, $count / $seconds;
		push @{ $cpu{$name} }, $cpu / $count * 1e6;
		printf "run %d: %-22s %10.0f records/s, %.2f CPU s/M\n", $run, $name, $rate{$name}[-1], $cpu{$name}[-1];
	}
}

sub ratio
{
	my ($name, $to) = @_;

	return '' unless $rate{$to};
	return sprintf '%.2f', median(@{ $rate{$name} }) / median(@{ $rate{$to} });
}

print "\n| case | records/s | CPU s per M records | of the bare consumer | of the query by hand |\n";
print "| --- | ---: | ---: | ---: | ---: |\n";
for my $name (map { $_->[0] } @cases)
{
	printf "| %s | %.0f | %.2f | %s | %s |\n", $name, median(@{ $rate{$name} }), median(@{ $cpu{$name} }),
	  ratio($name, 'bare consumer'), ratio($name, 'by hand');
}
exit unless $pg;

# CPU seconds of all of velo's processes, to the nanosecond.
sub velo_cpu
{
	my $sum = 0;

	for my $pid (split /\n/, $pg->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'velo %'}))
	{
		$sum += (split ' ', Velo::Process::slurp($_))[0] / 1e9 for glob "/proc/$pid/task/*/schedstat";
	}
	return $sum;
}

# A row's latency ends with the commit that makes it visible, as PostgreSQL remembers it.
my $steady_seconds = 20;

$pg->query(q{SELECT velo.create_query('steady_rows', 'SELECT symbol, price, ts FROM steady')});
die "the query for the latency does not start\n"
  unless $pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'steady_rows'});
($status, undef, $err) =
  run_command('', "$ENV{VELO_BUILD}/bench/load", $kafka->brokers, 'steady', 10_000 * $steady_seconds, 10_000);
die "load: $err" if $status;
$pg->query(q{SELECT velo.wait('steady_rows')});
printf "\nlatency at 10,000 records/s, produced to visible: p50 %s ms, p99 %s ms, greatest %s ms\n",
  split /\|/, $pg->query(<<'SQL');
SELECT round(l[1], 1), round(l[2], 1), round(l[3], 1)
FROM (SELECT percentile_disc('{0.5,0.99,1}'::float8[]) WITHIN GROUP (ORDER BY ms) AS l
	FROM (SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - ts) AS ms, ts, min(ts) OVER () AS first
		FROM steady_rows) AS r
	WHERE ts > first + interval '2 s') AS p
SQL

my $before = velo_cpu();
sleep 10;
printf "idle, one query: %.2f %% of a core\n", (velo_cpu() - $before) * 10;
