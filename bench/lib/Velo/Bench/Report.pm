# Velo::Bench::Report - the benchmarks' figures as Markdown.

package Velo::Bench::Report;

use strict;
use warnings;

use Exporter 'import';
use POSIX qw(strftime);
use Velo::Process;

our @EXPORT_OK = qw(compare circumstances);

# The columns of the table after the rates: title, figure, format.
my @columns = (
	[ 'second half', 'half_rate', '%.0f' ],
	[ 'CPU s per M', 'cpu', '%.2f' ],
	[ 'second half', 'half_cpu', '%.2f' ],
	[ 'other processes', 'others', '%.2f' ],
	[ 'MB/s', 'megabytes', '%.0f' ],
	[ 'memory, MB', 'memory', '%.0f' ]);

sub median
{
	my @sorted = sort { $a <=> $b } grep { defined } @_;

	return undef unless @sorted;
	return @sorted % 2 ? $sorted[ $#sorted / 2 ] : ($sorted[ @sorted / 2 - 1 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub cell
{
	my ($format, $value) = @_;

	return defined $value ? sprintf $format, $value : '';
}

sub quotient
{
	my ($a, $b) = @_;

	return defined $a && $b ? $a / $b : undef;
}

# Measure cases (see Velo::Bench; or with a function "measure" that returns figures) in turn, so many times, and print the
# table of the medians, with quotients to the cases named in $to.
sub compare
{
	my ($bench, $runs, $to, @cases) = @_;
	my %values;

	for my $run (1 .. $runs)
	{
		for my $case (@cases)
		{
			my $name = $case->{name};
			my $topic = $bench->topic($case->{topic});
			my $figures = $case->{measure} ? $case->{measure}->() : $bench->measure($case);

			$figures->{megabytes} = $figures->{rate} * $topic->{bytes} / $topic->{records} / 1e6 if $figures->{rate};
			push @{ $values{$name}{$_} }, $figures->{$_} for keys %$figures;
			$bench->progress('run %d: %-38s %10s records/s, %s CPU s/M', $run, $name, cell('%.0f', $figures->{rate}),
				cell('%.2f', $figures->{cpu}));
		}
	}

	my @to = grep { $values{$_} } @$to;

	print "\n| case | records/s | lowest to highest |", map(" $_->[0] |", @columns), map(" of $_ |", @to), "\n";
	print '| --- |', ' ---: |' x (2 + @columns + @to), "\n";
	for my $name (map { $_->{name} } @cases)
	{
		my $value = $values{$name};
		my @rates = sort { $a <=> $b } grep { defined } @{ $value->{rate} };
		my $rate = median(@rates);

		print "| $name | ", cell('%.0f', $rate), ' | ', @rates ? sprintf('%.2f - %.2f M', $rates[0] / 1e6, $rates[-1] / 1e6) : '', ' |',
		  map(' ' . cell($_->[2], median(@{ $value->{ $_->[1] } // [] })) . ' |', @columns),
		  map(' ' . cell('%.2f', quotient($rate, median(@{ $values{$_}{rate} }))) . ' |', @to), "\n";
	}
	print "\n";
	return;
}

# One line: when, on what and with what this was measured; $command with those of $variables that are set.
sub circumstances
{
	my ($bench, $command, @variables) = @_;
	my $cpuinfo = Velo::Process::slurp('/proc/cpuinfo');
	my $cores = () = $cpuinfo =~ /^processor/mg;
	my ($model) = $cpuinfo =~ /^model name\s*: (.*)$/m;
	my ($memory) = Velo::Process::slurp('/proc/meminfo') =~ /^MemTotal:\s*(\d+)/m;
	my ($system) = Velo::Process::slurp('/etc/os-release') =~ /^PRETTY_NAME="?([^"\n]*)/m;
	my ($kafka) = glob "$ENV{VELO_BUILD}/kafka/lib/kafka_2.13-*.jar";
	my $librdkafka = `pkg-config --modversion rdkafka`;
	my $postgresql = $bench->server->query('SHOW server_version');

	$kafka =~ s/.*kafka_2.13-(.*)\.jar/$1/;
	chomp $librdkafka;
	return sprintf "%s, %d cores (%s), %.0f GB, %s, PostgreSQL %s, librdkafka %s, Apache Kafka %s: `%s`\n",
	  strftime('%Y-%m-%d', localtime), $cores, $model // 'unknown', $memory / 1e6,
	  $system, $postgresql =~ s/ .*//r, $librdkafka, $kafka,
	  join(' ', (map { "$_='$ENV{$_}'" } grep { defined $ENV{$_} } @variables), $command);
}

1;
