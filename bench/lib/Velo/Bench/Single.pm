# Velo::Bench::Single - the cases of `make bench` that are no row of the table: each is measured once, and says its figures
# in a line of its own.

package Velo::Bench::Single;

use strict;
use warnings;

use Time::HiRes qw(sleep time);
use Velo::Bench::Query;
use Velo::Process qw(spawn finish wait_for);

my $by_symbol = Velo::Bench::Query->new(list => 'symbol, count(*) AS n, avg(price) AS p', group => 'symbol');
my $hourly = Velo::Bench::Query->new(list => 'symbol, count(*) AS n', group => 'symbol', size => '1h', emit => 'FINAL');
my $tumbling = $by_symbol->with(where => 'price > 100', size => '5m', emit => 'FINAL');
my $filtered = Velo::Bench::Query->new(list => 'symbol, price, ts', where => 'price > 100');

# So many seconds in a full benchmark, some in a short one.
sub seconds
{
	my ($bench, $full, $least) = @_;
	my $seconds = int($full * $bench->scale + 0.5);

	return $seconds > $full ? $full : $seconds < $least ? $least : $seconds;
}

sub wait_for_running
{
	my ($bench, $name) = @_;

	die "$name does not start\n"
	  unless $bench->server->wait_until("SELECT state = 'running' FROM velo.queries WHERE name = '$name'");
	return;
}

# A row's latency ends with the commit that makes it visible, as PostgreSQL remembers it.  What the producer and the broker
# have to do with it is in the loader's log.
sub latency
{
	my ($bench, $case) = @_;
	my $seconds = seconds($bench, 30, 3);
	my $warm = $seconds / 3;
	my $log = "$ENV{VELO_SCRATCH}/steady.log";
	my $pg = $bench->server;

	$bench->kafka->create_topic('steady', 1);
	$bench->create_query('steady_rows', $case);
	wait_for_running($bench, 'steady_rows');
	$bench->run_loader('steady', 10_000 * $seconds, rate => 10_000, log => $log);
	$pg->query(q{SELECT velo.wait('steady_rows')});
	my %ms = map { s/\|(.*)//r => $1 } split /\n/, $pg->query(<<"SQL");
BEGIN;
CREATE TABLE log (ts timestamptz, late float8, acknowledged float8);
COPY log FROM '$log';
CREATE VIEW times AS
	SELECT l.*, 1000 * extract(epoch FROM pg_xact_commit_timestamp(s.xmin) - ts)::float8 AS visible
	FROM steady_rows AS s JOIN log AS l USING (ts)
	WHERE ts > (SELECT min(ts) FROM log) + interval '$warm s';
SELECT what, format('p50 %s ms, p99 %s ms, greatest %s ms', round(p[1], 1), round(p[2], 1), round(p[3], 1))
FROM (SELECT what, percentile_disc('{0.5,0.99,1}'::float8[]) WITHIN GROUP (ORDER BY ms)::numeric[] AS p
	FROM times, LATERAL (VALUES ('visible', visible), ('late', late), ('acknowledged', acknowledged),
		('after', visible - acknowledged)) AS v (what, ms)
	GROUP BY what) AS p
UNION ALL
SELECT 'share', round(100 * avg((acknowledged > visible / 2)::int))::text
FROM times WHERE visible >= (SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY visible) FROM times);
ROLLBACK
SQL
	die "no row is visible\n" unless $ms{visible};
	$bench->verify('steady_rows', $case) if $bench->{verify};
	$bench->drop_query('steady_rows');
	return (
		"latency at 10,000 records/s, produced to visible: $ms{visible}",
		"the producer meanwhile: later than planned by $ms{late}; acknowledged after $ms{acknowledged}",
		"from acknowledged to visible: $ms{after}; of the slowest hundredth, $ms{share} % had waited longer for the "
		  . 'acknowledgement than for velo');
}

# Of all of velo's processes together, with one query that has nothing to do.
sub idle
{
	my ($bench, $case) = @_;
	my $seconds = seconds($bench, 20, 1);

	$bench->kafka->create_topic('silent', 1);
	$bench->create_query('silent_rows', $case);
	wait_for_running($bench, 'silent_rows');
	sleep $seconds / 10;
	my $before = $bench->velo_cpu;
	sleep $seconds;
	my $spent = $bench->velo_cpu - $before;
	$bench->drop_query('silent_rows');
	return sprintf 'idle, one query: %.2f %% of a core', 100 * $spent / $seconds;
}

# A pipeline's own memory (RssAnon) while it reads ten times the records, as they are loaded.
sub memory
{
	my ($bench, $case) = @_;
	my $total = 50_000_000 * $bench->scale;
	my $pg = $bench->server;
	my (@greatest, $committed);

	$bench->kafka->create_topic('long', 1);
	$bench->create_query('long_rows', $case);
	my $loader = spawn("$ENV{VELO_SCRATCH}/load.log", 'TERM', $bench->loader('long', $total,
		compression => 'lz4', step => int(1 / $bench->scale + 0.5) || 1));
	for (1 .. 5 * 1800)
	{
		($committed, my $memory) = split /\|/, $pg->query(<<'SQL');
SELECT committed_offset, memory_of(query) FROM velo.partitions WHERE query = 'long_rows'
SQL
		my $part = int(5 * (($committed || 1) - 1) / $total);

		$greatest[$part] = $memory if $memory && $memory > ($greatest[$part] // 0);
		last if $committed >= $total;
		sleep 0.2;
	}
	die "the query fell behind for ever\n" if $committed < $total;
	finish($loader, 'TERM');
	$bench->verify('long_rows', $case) if $bench->{verify};
	$bench->drop_query('long_rows');
	return sprintf 'memory over %g million records, the greatest in each fifth: %s MB', $total / 1e6,
	  join ' ', map { defined ? sprintf '%.0f', $_ : '-' } @greatest[ 0 .. 4 ];
}

# Groups that are many.
sub many_groups
{
	my ($bench, $case) = @_;
	my $pg = $bench->server;
	my $records = $bench->topic($case->{topic})->{records};
	my $options = join ', ', map { "$_ $case->{options}{$_}" } sort keys %{ $case->{options} // {} };

	$pg->query('CHECKPOINT');
	my $started = time;
	$bench->create_query('bench', $case);
	my $figures = $bench->drain('bench', $records);
	my $took = time - $started;
	my ($groups, $sum) = split /\|/, $pg->query('SELECT count(*), sum(n) FROM bench');
	die "$sum records counted of $records\n" if $sum != $records;
	$bench->verify('bench', $case) if $bench->{verify};
	$bench->drop_query('bench');
	return sprintf '%d records of %d groups%s: %.0f records/s, at most %.0f MB', $records, $groups,
	  $options ? " ($options)" : '', $records / $took, $figures->{memory};
}

# Groups that are there, each of which gets one more record.
sub all_change
{
	my ($bench, $case) = @_;
	my $pg = $bench->server;
	my $records = $bench->topic($case->{topic})->{records};
	my (undef, %options) = Velo::Bench::Topics::describe($case->{topic}, $bench->scale);

	$bench->create_query('bench', $case);
	$bench->drain('bench', $records);
	$pg->query('CHECKPOINT');
	my $started = time;
	$bench->run_loader($case->{topic}, $records, %options);
	my $figures = $bench->drain('bench', 2 * $records);
	my $took = time - $started;
	my $changed = $pg->query('SELECT count(*) FROM bench WHERE n = 2');
	die "$changed groups changed of $records\n" if $changed != $records;
	$bench->verify('bench', $case) if $bench->{verify};
	$bench->drop_query('bench');
	return sprintf '%d groups of EMIT CHANGES, all of which change: %.0f groups/s, at most %.0f MB', $records,
	  $records / $took, $figures->{memory};
}

# A window of close to a million groups: from the record that closes it to the commit of the last of its rows, and what that
# means for the records that come meanwhile.
sub closing
{
	my ($bench, $case) = @_;
	my $pg = $bench->server;
	my $records = $bench->topic($case->{topic})->{records};
	my $others = 1000 * seconds($bench, 5, 1);

	$bench->create_query('bench', $case);
	die "the query does not come to its end\n" unless $pg->query(q{SELECT velo.wait('bench', '4 min')}) eq 't';
	my $started = time;
	# of today, which is later than the records: the first of them closes the window
	my $loader = spawn("$ENV{VELO_SCRATCH}/load.log", 'TERM', $bench->loader($case->{topic}, $others, rate => 1000));
	my $figures = $bench->drain('bench', $records + $others);
	finish($loader, 'TERM');
	die "the window does not close\n" unless $pg->query(q{SELECT velo.wait('bench', '2 min')}) eq 't';
	my ($groups, $took) = split /\|/, $pg->query(<<"SQL");
SELECT count(*), max(extract(epoch FROM pg_xact_commit_timestamp(xmin))) - $started FROM bench
SQL
	$bench->verify('bench', $case) if $bench->{verify};
	$bench->drop_query('bench');
	return sprintf '%d groups in a window of EMIT FINAL: closed and written in %.1f s; '
	  . 'others, 1,000 a second, were committed meanwhile with pauses of at most %.0f ms', $groups, $took, 1000 * $figures->{pause};
}

# Twenty queries over one topic at once, each with a pipeline of its own.
sub many_queries
{
	my ($bench, $case) = @_;
	my @names = map { "many_$_" } 1 .. 20;
	my $records = $bench->topic($case->{topic})->{records};

	my $started = time;
	$bench->create_query($_, $case) for @names;
	die "the queries do not come to their ends\n" unless $bench->server->query(q{SELECT velo.wait(NULL, '4 min')}) eq 't';
	my $took = time - $started;
	if ($bench->{verify})
	{
		$bench->verify($_, $case) for @names;
	}
	$bench->drop_query($_) for @names;
	return sprintf '%d queries over one topic: %.0f records/s together', scalar @names, @names * $records / $took;
}

# kill -9 of the whole server while a query holds a million groups; then until a record that was produced meanwhile is
# committed.  PostgreSQL's own recovery comes before that.
sub restart
{
	my ($bench, $case) = @_;
	my $pg = $bench->server;
	my $records = $bench->topic($case->{topic})->{records};

	$bench->create_query('many_rows', $case);
	die "the query does not come to its end\n" unless $pg->query(q{SELECT velo.wait('many_rows', '4 min')}) eq 't';
	my $groups = $pg->query('SELECT count(*) FROM many_rows');

	$pg->kill9;
	$bench->run_loader($case->{topic}, 1);

	my $killed = time;
	$pg->start;
	my $recovered = time;
	wait_for(sub { $pg->query(q{SELECT committed_offset FROM velo.partitions WHERE query = 'many_rows'}) > $records }, 120)
	  or die "the query does not go on\n";
	my $going_on = time;
	my $sum = $pg->query('SELECT sum(n) FROM many_rows');
	die "$sum records counted of @{[$records + 1]}\n" if $sum != $records + 1;
	$bench->verify('many_rows', $case) if $bench->{verify};
	$bench->drop_query('many_rows');
	return sprintf '%d groups, kill -9 of the server: PostgreSQL recovered in %.1f s, the query went on %.1f s later', $groups,
	  $recovered - $killed, $going_on - $recovered;
}

# As those of Velo::Bench::Table, with the function "tell" that measures a case and returns lines.
sub cases
{
	return (
		{ name => 'latency', topic => 'steady', query => $filtered->with(where => undef), tell => \&latency },
		{ name => 'idle', topic => 'silent', query => $filtered, tell => \&idle },
		{ name => 'memory', topic => 'long', query => $tumbling, tell => \&memory },
		{ name => 'many groups', topic => 'million', query => $by_symbol, tell => \&many_groups },
		{ name => 'many groups, 10 s', topic => 'million', query => $by_symbol, options => { commit_interval => '10 s' }, tell => \&many_groups },
		{ name => 'too many groups', topic => 'ten_millions', query => $by_symbol, tell => \&many_groups },
		{ name => 'all groups change', topic => 'once', query => $by_symbol->with(emit => 'CHANGES'), tell => \&all_change },
		{ name => 'closing', topic => 'hour', query => $hourly, options => { pipeline_memory => '1 GB' }, tell => \&closing },
		{ name => 'many queries', topic => 'shared', query => $tumbling, tell => \&many_queries },
		{ name => 'restart', topic => 'restarted', query => $by_symbol->with(list => 'symbol, count(*) AS n'), tell => \&restart });
}

1;
