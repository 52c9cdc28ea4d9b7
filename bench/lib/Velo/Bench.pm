# Velo::Bench - what the benchmarks share: a server set up as for work, topics, and the measuring of a consumer.
#
#   my $bench = Velo::Bench->new(records => 5_000_000);
#   my $figures = $bench->measure({ topic => 'trades', program => 'bare_consumer' });
#   $figures = $bench->measure({ topic => 'trades', query => Velo::Bench::Query->new(...) });
#
# What is measured is described by a hash:
#
#	name		of the case
#	topic		see Velo::Bench::Topics; loaded when it is first needed
#	program		of build/bench, that consumes the topic; or
#	query		a Velo::Bench::Query over a stream over the topic
#	price		type of the column price (float8)
#	pipelines	of the query
#	options		of the query, a hash
#	settings	of the server meanwhile, a hash
#	prepare		a function that is called with this object before
#	found		work that others do as well: what they find must be the same; of a query, in
#	condition	the rows that meet this
#
# A consumer's figures are a hash, any of which may be missing:
#
#	rate, half_rate	records per second from the first record on; of the second half
#	cpu, half_cpu	CPU seconds per million records from the start of its process on; of the second half
#	others			CPU seconds per million records of the server's other processes
#	memory			the greatest RssAnon of its process, in MB
#	pause			the longest time in which it committed nothing, in seconds

package Velo::Bench;

use strict;
use warnings;

use File::Basename qw(dirname);
use Time::HiRes qw(time);
use Velo::Bench::Topics;
use Velo::Kafka;
use Velo::Process qw(run_command children);
use Velo::Server;

use constant DELAY => '10 s'; # the bound of disorder of the streams

# options: records (of most topics; the others' are in proportion), verify (compare what each query finds with what
# PostgreSQL does), quiet
sub new
{
	my ($class, %options) = @_;

	$| = 1;
	die Velo::Kafka->missing . "\n" if Velo::Kafka->missing;
	return bless {
		kafka => Velo::Kafka->new(heap => '1g', whole_heap => 1),
		records => $options{records} // Velo::Bench::Topics::FULL,
		verify => $options{verify},
		quiet => $options{quiet},
		topics => {},
		streams => {} }, $class;
}

# Which part of the records of a full benchmark this one has.
sub scale
{
	my ($self) = @_;

	return $self->{records} / Velo::Bench::Topics::FULL;
}

sub progress
{
	my ($self, $format, @values) = @_;

	printf "$format\n", @values unless $self->{quiet};
	return;
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
	$pg->query(Velo::Process::slurp(dirname(__FILE__) . '/../../bench.sql'));
	return $self->{server} = $pg;
}

# ---------------------------------------------------------------- topics and streams

# The name of a stream over a topic, which is created when it is first needed.
sub stream
{
	my ($self, $topic, $price) = @_;

	$price //= 'float8';
	my $stream = $price eq 'float8' ? $topic : "${topic}_$price";
	$self->server->query(<<"SQL") unless $self->{streams}{$stream}++;
SELECT velo.create_stream('$stream', columns => 'symbol text, price $price, volume bigint, ts timestamptz, trader text',
	topic => '$topic', brokers => '@{[$self->kafka->brokers]}', event_time => 'ts', watermark => '@{[DELAY]}', key => 'symbol')
SQL
	return $stream;
}

# Run the loader (load.c); returns what it printed, the bytes of the records first.
sub run_loader
{
	my ($self, @arguments) = @_;
	my ($status, $out, $err) = run_command('', $self->loader(@arguments));

	die "load: $err" if $status;
	return split ' ', $out;
}

sub loader
{
	my ($self, $topic, $records, %options) = @_;

	return ("$ENV{VELO_BUILD}/bench/load", $self->kafka->brokers, $topic, $records, map { "$_=$options{$_}" } sort keys %options);
}

# The number of records and of their bytes in a topic of Velo::Bench::Topics, which is loaded when it is first needed.
sub topic
{
	my ($self, $topic) = @_;

	return $self->{topics}{$topic} //= do
	{
		my ($records, %options) = Velo::Bench::Topics::describe($topic, $self->scale);
		my $started = time;

		$self->kafka->create_topic($topic, $options{partitions} // 1);
		my ($bytes) = $self->run_loader($topic, $records, %options);
		$self->progress('%s: %d records of %.0f bytes loaded in %.1f s', $topic, $records, $bytes / $records, time - $started);
		{ records => $records, bytes => $bytes };
	};
}

# ---------------------------------------------------------------- measuring a consumer

# A program that prints the first figures.
sub command
{
	my ($self, @command) = @_;
	my ($status, $out, $err) = run_command('', @command);
	my %figures;

	die "@command: $err" if $status;
	@figures{qw(rate half_rate cpu half_cpu)} = split ' ', $out;
	return (\%figures, $err);
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

# The SQL that creates the query of a case, and watches it until it has committed so many records.
sub creation
{
	my ($self, $name, $case) = @_;
	my $text = $case->{query}->continuous($self->stream($case->{topic}, $case->{price}));
	my %options = %{ $case->{options} // {} };
	my $options = join ', ', map { qq("$_": "$options{$_}") } sort keys %options;
	my $pipelines = $case->{pipelines} // 'NULL';

	return "SELECT velo.create_query('$name', \$query\$$text\$query\$, pipelines => $pipelines, options => '{$options}')";
}

sub draining
{
	my ($self, $name, $records) = @_;

	return "CALL drain('$name', $records)";
}

sub create_query
{
	my ($self, $name, $case) = @_;

	$self->server->query($self->creation($name, $case));
	return;
}

# Until the query has committed so many records; returns figures.
sub drain
{
	my ($self, $name, $records) = @_;
	my %figures;

	@figures{qw(rate half_rate cpu half_cpu memory pause)} = map { length ? $_ : undef }
	  split /\|/, $self->server->query('SET statement_timeout = 0; ' . $self->draining($name, $records)), -1;
	return \%figures;
}

# Die if the query's answer is not PostgreSQL's own to the same question, over a table of the same records that its JSON
# functions have read.  Records that are no JSON end with a bracket.
sub verify
{
	my ($self, $name, $case) = @_;
	my $pg = $self->server;
	my $price = $case->{price} // 'float8';
	my $plain = $case->{query}->plain('plain', DELAY);

	die "$name does not come to its end\n" unless $pg->query("SELECT velo.wait('$name', '1 min')") eq 't';
	my ($rows, $different) = split /\|/, $pg->query(<<"SQL");
BEGIN;
CREATE FOREIGN TABLE raw (value text, partition int OPTIONS (metadata 'partition'), "offset" bigint OPTIONS (metadata 'offset'))
	SERVER velo OPTIONS (topic '$case->{topic}', brokers '@{[$self->kafka->brokers]}', format 'raw');
CREATE TABLE plain AS
	SELECT v ->> 'symbol' AS symbol, (v ->> 'price')::$price AS price, (v ->> 'volume')::bigint AS volume,
		(v ->> 'ts')::timestamptz AS ts, v ->> 'trader' AS trader, partition
	FROM (SELECT value::json AS v, partition FROM raw WHERE value LIKE '%}' ORDER BY partition, "offset") AS r;
SELECT * FROM differences('$name', \$plain\$$plain\$plain\$);
ROLLBACK
SQL
	die "$name: PostgreSQL finds no row\n" unless $rows;
	die "$name: $different rows are other than PostgreSQL's $rows\n" if $different;
	return;
}

sub drop_query
{
	my ($self, $name) = @_;

	$self->server->query("SELECT velo.drop_query('$name')");
	return;
}

# What a case needs besides its topic, and the end of that.
sub prepare
{
	my ($self, $case) = @_;
	my $settings = $case->{settings} // {};
	my $pg = $self->server;

	$case->{prepare}->($self) if $case->{prepare};
	$pg->query("ALTER SYSTEM SET $_ = '$settings->{$_}'") for keys %$settings;
	$pg->query('SELECT pg_reload_conf()');
	$pg->query('CHECKPOINT');
	return;
}

sub clean_up
{
	my ($self, $case) = @_;

	$self->server->query("ALTER SYSTEM RESET $_") for keys %{ $case->{settings} // {} };
	$self->server->query('SELECT pg_reload_conf()');
	return;
}

sub measure_program
{
	my ($self, $case) = @_;
	my ($figures, $message) =
	  $self->command("$ENV{VELO_BUILD}/bench/$case->{program}", $self->kafka->brokers, $case->{topic});

	$self->found($case->{found}, $message =~ /groups (\d+) records (\d+)/) if $case->{found};
	return $figures;
}

sub measure_query
{
	my ($self, $case, $records) = @_;
	my $pg = $self->server;

	$self->prepare($case);
	my $before = cpu_of(children($pg->{pid}));
	$self->create_query('bench', $case);
	my $figures = $self->drain('bench', $records);
	my $after = cpu_of(keys %$before);
	$figures->{others} += ($after->{$_} - $before->{$_}) / $records * 1e6 for grep { exists $before->{$_} } keys %$after;
	if ($case->{found})
	{
		my $condition = $case->{condition} // 'true';

		$self->found($case->{found}, split /\|/, $pg->query("SELECT count(*), sum(n) FROM bench WHERE $condition"));
	}
	$self->verify('bench', $case) if $self->{verify};
	$self->drop_query('bench');
	$self->clean_up($case);
	return $figures;
}

# Measure what $case describes; returns its figures.
sub measure
{
	my ($self, $case) = @_;
	my $records = $self->topic($case->{topic})->{records};

	return $case->{program} ? $self->measure_program($case) : $self->measure_query($case, $records);
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

1;
