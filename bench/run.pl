#!/usr/bin/env perl
# run.pl: measure velo on a real Kafka, beside a bare consumer and the query written by hand, and print Markdown.  To be
# run through test/run.sh; README.md in this directory says what the cases are and how to read the figures.
#
#	BENCH_RECORDS	records in the topic (5000000)
#	BENCH_RUNS		runs of each case of the table, of which the median counts (5)
#	BENCH_CASES		a regular expression: only cases whose name it matches

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Time::HiRes qw(sleep time);
use Velo::Bench;
use Velo::Process qw(spawn finish wait_for run_command);

my $records = $ENV{BENCH_RECORDS} // 5_000_000;
my $runs = $ENV{BENCH_RUNS} // 5;
my $cases = $ENV{BENCH_CASES} // '';
my $wanted = qr/(?:$cases)/;
my $bench = Velo::Bench->new;

# ---------------------------------------------------------------- the table

# What is loaded into the topics that cases need.
my %topics = (
	trades => {},
	spoilt => { bad => 10 },
	packed => { compression => 'lz4' },
	wide => { fields => 20 },
	pair => { partitions => 2 });

my $select = 'SELECT symbol, avg(price) AS avg_price, count(*) AS n FROM trades WHERE price > 100';
my $tumbling = "$select WINDOW TUMBLING(5m) GROUP BY symbol";

sub by_hand
{
	my @figures = $bench->program('handwritten', 'trades');

	$bench->found(tumbling => $bench->last_message =~ /groups (\d+) records (\d+)/);
	return @figures;
}

sub changes
{
	my @figures = $bench->query("$tumbling EMIT CHANGES", $records, 'SELECT count(*), sum(n) FROM bench');

	$bench->found(tumbling => split /\|/, $bench->last_message);
	return @figures;
}

sub velo
{
	my ($query) = @_;

	return sub { $bench->query($query, $records) };
}

# The first query over another stream.
sub velo_over
{
	my ($stream) = @_;

	return velo("$tumbling EMIT FINAL" =~ s/trades/$stream/r);
}

sub numeric
{
	$bench->create_stream('exact', 'trades', 'numeric');
	my @figures = velo_over('exact')->();
	$bench->server->query(q{SELECT velo.drop_stream('exact')});
	return @figures;
}

# Every expression by PostgreSQL's executor, row by row.
sub not_vectorized
{
	my $pg = $bench->server;

	$pg->query('ALTER SYSTEM SET velo.vectorized = off');
	$pg->query('SELECT pg_reload_conf()');
	my @figures = velo("$tumbling EMIT FINAL")->();
	$pg->query('ALTER SYSTEM RESET velo.vectorized');
	$pg->query('SELECT pg_reload_conf()');
	return @figures;
}

# With a table of a million rows, of which a hundred are asked for.
sub look_up
{
	$bench->server->query(<<'SQL');
CREATE TABLE IF NOT EXISTS instruments AS
	SELECT 'S' || lpad(i::text, greatest(3, length(i::text)), '0') AS symbol, 'sector ' || i % 11 AS sector FROM generate_series(0, 999999) AS i;
CREATE UNIQUE INDEX IF NOT EXISTS instruments_symbol_idx ON instruments (symbol);
ANALYZE instruments;
SQL
	return $bench->query(<<'SQL', $records);
SELECT sector, avg(price) AS avg_price, count(*) AS n FROM trades JOIN instruments USING (symbol)
WHERE price > 100 WINDOW TUMBLING(5m) GROUP BY sector EMIT FINAL
SQL
}

# name, topic, how it is measured
my @table = (
	[ 'bare consumer', 'trades', sub { $bench->program('bare_consumer', 'trades') } ],
	[ 'by hand', 'trades', \&by_hand ],
	[ 'tumbling 5m, final', 'trades', velo("$tumbling EMIT FINAL") ],
	[ 'tumbling 5m, changes', 'trades', \&changes ],
	[ 'group by, no window', 'trades', velo("$select GROUP BY symbol") ],
	[ 'group by, four aggregates', 'trades', velo('SELECT symbol, avg(price), count(*) AS n, min(price), max(price) FROM trades GROUP BY symbol') ],
	[ 'hopping 5m/1m, final', 'trades', velo("$select WINDOW HOPPING(5m, 1m) GROUP BY symbol EMIT FINAL") ],
	[ 'filter and projection, appended', 'trades', velo('SELECT symbol, price, ts FROM trades WHERE price > 100') ],
	[ 'tumbling, a key left to the executor', 'trades', velo("$tumbling EMIT FINAL" =~ s/symbol/(ARRAY[symbol])[1] AS symbol/r =~ s/BY symbol/BY (ARRAY[symbol])[1]/r) ],
	[ 'tumbling, velo.vectorized = off', 'trades', \&not_vectorized ],
	[ 'tumbling, numeric', 'trades', \&numeric ],
	[ 'tumbling, look-up join', 'trades', \&look_up ],
	[ 'tumbling, 1 % bad records', 'spoilt', velo_over('spoilt') ],
	[ 'tumbling, lz4', 'packed', velo_over('packed') ],
	[ 'tumbling, 20 fields', 'wide', velo_over('wide') ],
	[ 'tumbling, 2 partitions, 2 pipelines', 'pair', velo_over('pair') ]);

# ---------------------------------------------------------------- single figures

# A row's latency ends with the commit that makes it visible, as PostgreSQL remembers it.
sub latency
{
	my $seconds = 20;
	my $pg = $bench->server;

	$bench->create_topic('steady');
	$pg->query(q{SELECT velo.create_query('steady_rows', 'SELECT symbol, price, ts FROM steady')});
	die "the query for the latency does not start\n"
	  unless $pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'steady_rows'});

	my ($status, $out, $err) = run_command('', $bench->load_command('steady', 10_000 * $seconds, rate => 10_000));
	die "load: $err" if $status;
	$pg->query(q{SELECT velo.wait('steady_rows')});
	printf "* latency at 10,000 records/s, produced to visible: p50 %s ms, p99 %s ms, greatest %s ms\n",
	  split /\|/, $pg->query(<<'SQL');
SELECT round(l[1], 1), round(l[2], 1), round(l[3], 1)
FROM (SELECT percentile_disc('{0.5,0.99,1}'::float8[]) WITHIN GROUP (ORDER BY ms) AS l
	FROM (SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - ts) AS ms, ts, min(ts) OVER () AS first
		FROM steady_rows) AS r
	WHERE ts > first + interval '2 s') AS p
SQL
	printf "* the producer meanwhile: later than planned by p50 %s ms, p99 %s ms, greatest %s ms; "
	  . "acknowledged after p50 %s ms, p99 %s ms, greatest %s ms\n", split ' ', $out;
	$pg->query(q{SELECT velo.drop_query('steady_rows')});
	return;
}

# Of all of velo's processes together, with one query that has nothing to do.
sub idle
{
	my $pg = $bench->server;

	$bench->create_topic('silent');
	$pg->query(q{SELECT velo.create_query('silent_rows', 'SELECT * FROM silent')});
	die "the query does not start\n"
	  unless $pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'silent_rows'});
	sleep 2;
	my $before = $bench->velo_cpu;
	sleep 20;
	printf "* idle, one query: %.2f %% of a core\n", ($bench->velo_cpu - $before) * 5;
	$pg->query(q{SELECT velo.drop_query('silent_rows')});
	return;
}

# A pipeline's own memory (RssAnon) while it reads ten times the records, as they are loaded.
sub memory
{
	my $total = 10 * $records;
	my $pg = $bench->server;
	my (@samples, $pid, $committed);

	$bench->create_topic('long');
	$pg->query('SELECT velo.create_query(\'long_rows\', $$' . "$tumbling EMIT FINAL" =~ s/trades/long/r . '$$)');
	my $loader = spawn("$ENV{VELO_SCRATCH}/load.log", 'TERM',
		$bench->load_command('long', $total, compression => 'lz4'));
	do
	{
		sleep 0.2;
		die "the query fell behind for ever\n" if @samples > 5 * 1800;
		($pid, $committed) = split /\|/, $pg->query(<<'SQL');
SELECT pid, committed_offset FROM velo.pipelines JOIN velo.partitions USING (query) WHERE query = 'long_rows'
SQL
		my $memory = $committed && Velo::Bench::own_memory($pid);
		push @samples, [ $committed, $memory ] if $memory;
	} while ($committed // 0) < $total;
	finish($loader, 'TERM');

	my $column = '';
	for my $part (1 .. 5)
	{
		my @sizes = map { $_->[1] } grep { $_->[0] > $total * ($part - 1) / 5 && $_->[0] <= $total * $part / 5 } @samples;

		$column .= sprintf ' %.0f', (sort { $b <=> $a } @sizes)[0] // 0;
	}
	printf "* memory over %d million records, the greatest in each fifth:%s MB\n", $total / 1e6, $column;
	$pg->query(q{SELECT velo.drop_query('long_rows')});
	return;
}

# The greatest RssAnon of the pipeline of query "bench" while it reads so many records, in MB.
sub greatest_memory
{
	my ($count) = @_;
	my $greatest = 0;

	for (1 .. 10 * 600)
	{
		my ($pid, $done) = split /\|/, $bench->server->query(q{SELECT pid, records_in FROM velo.pipelines WHERE query = 'bench'});

		my $memory = $pid && Velo::Bench::own_memory($pid) || 0;

		$greatest = $memory if $memory > $greatest;
		return $greatest if ($done // 0) >= $count;
		sleep 0.1;
	}
	die "the query does not come to its end\n";
}

my %loaded;

# Groups that are many, each as likely to be next as any other.
sub many_groups
{
	my ($symbols, $count, %options) = @_;
	my $topic = "keys_$symbols";
	my $pg = $bench->server;
	my $options = join ', ', map { qq("$_": "$options{$_}") } sort keys %options;

	$bench->load($topic, $count, symbols => $symbols) unless $loaded{$topic}++;
	$pg->query('CHECKPOINT');
	my $started = time;
	$pg->query("SELECT velo.create_query('bench', 'SELECT symbol, count(*) AS n, avg(price) AS p FROM $topic GROUP BY symbol', options => '{$options}')");
	my $memory = greatest_memory($count);
	my $took = time - $started;
	my ($groups, $sum) = split /\|/, $pg->query('SELECT count(*), sum(n) FROM bench');

	die "$sum records counted of $count\n" if $sum != $count;
	printf "* %d records of %d groups%s: %.0f records/s, at most %.0f MB\n", $count, $groups, $options ? " ($options)" : '',
	  $count / $took, $memory;
	$pg->query(q{SELECT velo.drop_query('bench')});
	return;
}

# A window of close to a million groups: from the record that closes it to its rows.
sub closing
{
	my $pg = $bench->server;
	my $count = 3_000_000;

	$bench->load('hour', $count, symbols => 1_000_000);
	$pg->query(q{SELECT velo.create_query('bench', 'SELECT symbol, count(*) AS n FROM hour WINDOW TUMBLING(1h) GROUP BY symbol EMIT FINAL',
		options => '{"pipeline_memory": "1 GB"}')});
	die "the query does not come to its end\n" unless $pg->query(q{SELECT velo.wait('bench', '10 min')}) eq 't';
	my $started = time;
	# of today, which is later than the records
	my ($status, undef, $err) = run_command('', $bench->load_command('hour', 1, rate => 1000));
	die "load: $err" if $status;
	die "the window does not close\n" unless $pg->query(q{SELECT velo.wait('bench', '2 min')}) eq 't';
	printf "* %d groups in a window of EMIT FINAL: closed and written in %.1f s\n", $pg->query('SELECT count(*) FROM bench'), time - $started;
	$pg->query(q{SELECT velo.drop_query('bench')});
	return;
}

# Twenty queries over one topic at once, each with a pipeline of its own.
sub many_queries
{
	my $pg = $bench->server;
	my $n = 20;
	my $count = 1_000_000;

	$bench->load('shared', $count);
	my $started = time;
	$pg->query("SELECT velo.create_query('many_$_', \$\$" . "$tumbling EMIT FINAL" =~ s/trades/shared/r . '$$)') for 1 .. $n;
	die "the queries do not come to their ends\n" unless $pg->query(q{SELECT velo.wait(NULL, '10 min')}) eq 't';
	printf "* %d queries over one topic: %.0f records/s together\n", $n, $n * $count / (time - $started);
	$pg->query(q{SELECT velo.drop_query(name) FROM velo.queries});
	return;
}

# kill -9 of the whole server while a query holds a million groups; then until a record that was produced meanwhile is
# committed.  PostgreSQL's own recovery comes before that.
sub restart
{
	my $pg = $bench->server;
	# three in the mean: one group of twenty gets none
	my $records = 3_000_000;

	$bench->load('many', $records, symbols => 1_000_000);
	$pg->query(q{SELECT velo.create_query('many_rows', 'SELECT symbol, count(*) AS n FROM many GROUP BY symbol')});
	die "the query does not come to its end\n" unless $pg->query(q{SELECT velo.wait('many_rows', '10 min')}) eq 't';
	my $groups = $pg->query('SELECT count(*) FROM many_rows');

	$pg->kill9;
	my ($status, undef, $err) = run_command('', $bench->load_command('many', 1));
	die "load: $err" if $status;

	my $killed = time;
	$pg->start;
	my $recovered = time;
	wait_for(
		sub {
			return $pg->query(q{SELECT committed_offset FROM velo.partitions WHERE query = 'many_rows'}) > $records;
		},
		120) or die "the query does not go on\n";
	my $going_on = time;
	my $sum = $pg->query('SELECT sum(n) FROM many_rows');
	die "$sum records counted of @{[$records + 1]}\n" if $sum != $records + 1;
	printf "* %d groups, kill -9 of the server: PostgreSQL recovered in %.1f s, the query went on %.1f s later\n", $groups,
	  $recovered - $killed, $going_on - $recovered;
	$pg->query(q{SELECT velo.drop_query('many_rows')});
	return;
}

my @single = (
	[ latency => \&latency ],
	[ idle => \&idle ],
	[ memory => \&memory ],
	[ 'many groups' => sub { many_groups(1_000_000, 3_000_000) } ],
	[ 'many groups, 10 s' => sub { many_groups(1_000_000, 3_000_000, commit_interval => '10 s') } ],
	[ 'too many groups' => sub { many_groups(10_000_000, 3_000_000) } ],
	[ closing => \&closing ],
	[ 'many queries' => \&many_queries ],
	[ restart => \&restart ]);

# ----------------------------------------------------------------

@table = grep { $_->[0] =~ $wanted } @table;
@single = grep { $_->[0] =~ $wanted } @single;
die "no case matches $cases\n" unless @table || @single;

my %needed = map { $_->[1] => 1 } @table;
$bench->load($_, $records, %{ $topics{$_} }) for sort keys %needed;
$bench->print_circumstances(join ' ', (map { "$_=$ENV{$_}" } grep { defined $ENV{$_} } qw(BENCH_RECORDS BENCH_RUNS BENCH_CASES)),
	'make bench');
$bench->compare($runs, [ 'bare consumer', 'by hand', 'tumbling 5m, final' ], map { [ @$_[ 0, 2 ] ] } @table) if @table;
$_->[1]->() for @single;
