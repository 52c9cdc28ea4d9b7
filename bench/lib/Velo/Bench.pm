# Velo::Bench - what the benchmarks share: a server set up as for work, the measuring of a consumer, and the table.
#
#   my $bench = Velo::Bench->new;
#   $bench->load('trades', 5_000_000);
#   $bench->compare(5, ['bare consumer' => sub { $bench->program('bare_consumer', 'trades') }], ...);
#
# A consumer's figures are a list: records per second from the first record on, the same of the second half, CPU seconds
# per million records from the start of its process on, the same of the second half, and for velo the CPU seconds per
# million records of the server's other processes.

package Velo::Bench;

use strict;
use warnings;

use POSIX qw(strftime);
use Time::HiRes qw(time);
use Velo::Kafka;
use Velo::Process qw(run_command children);
use Velo::Server;

sub new
{
	my ($class) = @_;

	$| = 1;
	die Velo::Kafka->missing . "\n" if Velo::Kafka->missing;
	return bless { kafka => Velo::Kafka->new(heap => '1g') }, $class;
}

sub kafka
{
	my ($self) = @_;

	return $self->{kafka};
}

# The PostgreSQL server, started when it is first asked for: durable, with room between checkpoints.
sub server
{
	my ($self) = @_;

	return $self->{server} if $self->{server};
	my $pg = Velo::Server->new(
		conf => {
			fsync => 'on',
			shared_buffers => '1GB',
			max_wal_size => '8GB',
			track_commit_timestamp => 'on'
		});
	$pg->query(<<'SQL');
CREATE EXTENSION velo;

-- CPU seconds of all threads of a process: the 14th and 15th field, in ticks of 10 ms; the 2nd may hold blanks.
CREATE FUNCTION cpu_seconds(pid int) RETURNS float8 LANGUAGE sql AS $$
	SELECT (f[12]::float8 + f[13]::float8) / 100
	FROM regexp_split_to_array(regexp_replace(pg_read_file('/proc/' || pid || '/stat'), '^.*\) ', ''), ' ') AS f
$$;

CREATE FUNCTION cpu_seconds_of(q text) RETURNS float8 LANGUAGE sql AS $$
	SELECT sum(cpu_seconds(pid)) FROM velo.pipelines WHERE query = q AND pid IS NOT NULL
$$;

-- Watch a query until it has committed everything.
CREATE FUNCTION drain(q text, total bigint, OUT rate float8, OUT half_rate float8, OUT cpu float8, OUT half_cpu float8)
LANGUAGE plpgsql AS $$
DECLARE
	committed bigint := 0;
	first bigint;
	first_at timestamptz;
	half bigint;
	half_at timestamptz;
	cpu_at_half float8;
	cpu_at_end float8;
	ended_at timestamptz;
BEGIN
	FOR i IN 1 .. 30000 LOOP
		SELECT sum(committed_offset) INTO committed FROM velo.partitions WHERE query = q;
		IF first IS NULL AND committed > 0 THEN
			first := committed;
			first_at := clock_timestamp();
		END IF;
		IF half IS NULL AND committed >= total / 2 THEN
			half := committed;
			half_at := clock_timestamp();
			cpu_at_half := cpu_seconds_of(q);
		END IF;
		EXIT WHEN committed >= total;
		PERFORM pg_sleep(0.02);
	END LOOP;
	ended_at := clock_timestamp();
	cpu_at_end := cpu_seconds_of(q);
	IF committed < total THEN
		RAISE EXCEPTION '% records of % committed', committed, total;
	END IF;
	rate := (total - first) / extract(epoch FROM nullif(ended_at, first_at) - first_at);
	half_rate := (total - half) / extract(epoch FROM nullif(ended_at, half_at) - half_at);
	cpu := cpu_at_end / total * 1e6;
	half_cpu := (cpu_at_end - cpu_at_half) / nullif(total - half, 0) * 1e6;
END
$$;
SQL
	return $self->{server} = $pg;
}

sub create_stream
{
	my ($self, $stream, $topic, $price) = @_;

	$self->server->query(<<"SQL");
SELECT velo.create_stream('$stream', columns => 'symbol text, price $price, volume bigint, ts timestamptz, trader text',
	topic => '$topic', brokers => '@{[$self->kafka->brokers]}', event_time => 'ts', watermark => '10 s', key => 'symbol')
SQL
	return;
}

# A topic, of one partition by default, and a stream over it.
sub create_topic
{
	my ($self, $topic, $partitions) = @_;

	$self->kafka->create_topic($topic, $partitions // 1);
	$self->create_stream($topic, $topic, 'float8');
	return;
}

# The command that loads a topic; see load.c.
sub load_command
{
	my ($self, $topic, $records, %options) = @_;

	return ("$ENV{VELO_BUILD}/bench/load", $self->kafka->brokers, $topic, $records,
		map { "$_=$options{$_}" } sort keys %options);
}

# Create and fill a topic; returns what the loader printed.
sub load
{
	my ($self, $topic, $records, %options) = @_;
	my $started = time;

	$self->create_topic($topic, $options{partitions});
	my ($status, $out, $err) = run_command('', $self->load_command($topic, $records, %options));
	die "load: $err" if $status;
	printf "%s: %d records loaded in %.1f s\n", $topic, $records, time - $started;
	return $out;
}

# ---------------------------------------------------------------- measuring a consumer

# A program that prints the figures; what it says on standard error is kept for last_message.
sub command
{
	my ($self, @command) = @_;
	my ($status, $out, $err) = run_command('', @command);

	die "@command: $err" if $status;
	$self->{message} = $err;
	return split ' ', $out;
}

sub last_message
{
	my ($self) = @_;

	return $self->{message};
}

sub program
{
	my ($self, $program, $topic) = @_;

	return $self->command("$ENV{VELO_BUILD}/bench/$program", $self->kafka->brokers, $topic);
}

# CPU seconds of processes, by process id.
sub cpu_of
{
	my %cpu;

	for my $pid (@_)
	{
		my (undef, $rest) = Velo::Process::slurp("/proc/$pid/stat") =~ /^(.*)\) (.*)$/s or next;
		my @fields = split ' ', $rest;

		$cpu{$pid} = ($fields[11] + $fields[12]) / 100;
	}
	return \%cpu;
}

# A query in velo, named "bench", over a topic with so many records; dropped afterwards.  $then is executed
# before that, and its answer returned by last_message.  $options are the query's.
sub query
{
	my ($self, $query, $records, $then, $options) = @_;
	my $pg = $self->server;

	$pg->query('CHECKPOINT');
	my $before = cpu_of(children($pg->{pid}));
	$options = $options ? "'$options'" : 'NULL';
	$pg->query("SELECT velo.create_query('bench', \$query\$$query\$query\$, options => $options)");
	my @figures = split /\|/, $pg->query("SELECT * FROM drain('bench', $records)");
	my $after = cpu_of(keys %$before);
	$self->{message} = $then ? $pg->query($then) : '';
	$pg->query(q{SELECT velo.drop_query('bench')});

	my $others = 0;
	$others += $after->{$_} - $before->{$_} for grep { exists $before->{$_} } keys %$after;
	return (@figures, $others / $records * 1e6);
}

# CPU seconds of all of velo's processes so far, to the nanosecond.
sub velo_cpu
{
	my ($self) = @_;
	my $sum = 0;

	for my $pid (split /\n/, $self->server->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'velo %'}))
	{
		$sum += (split ' ', Velo::Process::slurp($_))[0] / 1e9 for glob "/proc/$pid/task/*/schedstat";
	}
	return $sum;
}

# A process's own memory (RssAnon) in MB; undef if there is none.
sub own_memory
{
	my ($pid) = @_;

	return Velo::Process::slurp("/proc/$pid/status") =~ /RssAnon:\s*(\d+) kB/ ? $1 / 1024 : undef;
}

# ---------------------------------------------------------------- the table

sub median
{
	my @sorted = sort { $a <=> $b } grep { defined && length } @_;

	return undef unless @sorted;
	return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ($sorted[ @sorted / 2 - 1 ] + $sorted[ @sorted / 2 ]) / 2;
}

# What consumers found must be the same wherever they did the same work; $work names that.
sub found
{
	my ($self, $work, $groups, $records) = @_;
	my $found = "$groups groups, $records records";

	$self->{found}{$work} //= $found;
	die "$work: one found $self->{found}{$work}, another $found\n" if $self->{found}{$work} ne $found;
	return;
}

# Run [name => function that returns figures] in turn, so many times, and print the table of the medians, with quotients
# to the cases named in $to.
sub compare
{
	my ($self, $runs, $to, @cases) = @_;
	my %figures;

	for my $run (1 .. $runs)
	{
		for my $case (@cases)
		{
			my ($name, $function) = @$case;
			my @figures = $function->();

			push @{ $figures{$name}[$_] }, $figures[$_] for 0 .. 4;
			printf "run %d: %-36s %10.0f records/s, %.2f CPU s/M\n", $run, $name, @figures[ 0, 2 ];
		}
	}

	my @to = grep { $figures{$_} } @$to;

	print "\n| case | records/s | lowest to highest | second half | CPU s per M | second half | other processes |",
	  map(" of $_ |", @to), "\n";
	print '| --- |', ' ---: |' x (6 + @to), "\n";
	for my $name (map { $_->[0] } @cases)
	{
		my ($rates, @others) = @{ $figures{$name} };
		my @rates = sort { $a <=> $b } @$rates;

		printf "| %s | %.0f | %.2f - %.2f M |", $name, median(@rates), $rates[0] / 1e6, $rates[-1] / 1e6;
		for my $column ([ '%.0f', $others[0] ], [ '%.2f', $others[1] ], [ '%.2f', $others[2] ], [ '%.2f', $others[3] ])
		{
			my $median = median(@{ $column->[1] });

			printf ' %s |', defined $median ? sprintf $column->[0], $median : '';
		}
		printf ' %.2f |', median(@rates) / median(@{ $figures{$_}[0] }) for @to;
		print "\n";
	}
	print "\n";
	return;
}

# One line: when, on what and with what this was measured.
sub print_circumstances
{
	my ($self, $command) = @_;
	my $cpuinfo = Velo::Process::slurp('/proc/cpuinfo');
	my $cores = () = $cpuinfo =~ /^processor/mg;
	my ($model) = $cpuinfo =~ /^model name\s*: (.*)$/m;
	my ($memory) = Velo::Process::slurp('/proc/meminfo') =~ /^MemTotal:\s*(\d+)/m;
	my ($system) = Velo::Process::slurp('/etc/os-release') =~ /^PRETTY_NAME="?([^"\n]*)/m;
	my ($kafka) = glob "$ENV{VELO_BUILD}/kafka/lib/kafka_2.13-*.jar";
	my $librdkafka = `pkg-config --modversion rdkafka`;
	my $postgresql = $self->server->query('SHOW server_version');

	$kafka =~ s/.*kafka_2.13-(.*)\.jar/$1/;
	chomp $librdkafka;
	printf "%s, %d cores (%s), %.0f GB, %s, PostgreSQL %s, librdkafka %s, Apache Kafka %s: `%s`\n\n",
	  strftime('%Y-%m-%d', localtime), $cores, $model // 'unknown', $memory / 1e6,
	  $system, $postgresql =~ s/ .*//r, $librdkafka, $kafka, $command;
	return;
}

1;
