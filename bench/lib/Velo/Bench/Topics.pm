# Velo::Bench::Topics - what is loaded into the topics of the benchmarks.
#
# Each has five million records, 1 ms of event time apart, unless it says otherwise: "records", "step" and the options of
# the loader (see load.c).  With fewer records there are as much event time, as many records of a symbol where there are
# many symbols, and so windows and groups of the same kind.

package Velo::Bench::Topics;

use strict;
use warnings;

use constant FULL => 5_000_000;

my %topics = (
	trades => {},
	spoilt => { bad => 10 },
	lz4 => { compression => 'lz4' },
	zstd => { compression => 'zstd' },
	snappy => { compression => 'snappy' },
	gzip => { compression => 'gzip' },
	wide => { fields => 20 },
	kilobyte => { fields => 53, records => 1_000_000, step => 5 },
	ten_kilobytes => { fields => 500, records => 200_000, step => 25 },
	pair => { partitions => 2 },
	sixteen => { partitions => 16 },
	disordered => { disorder => 1000, symbols => 10 },
	once => { symbols => 1_000_000, shuffled => 1, records => 1_000_000 },
	million => { symbols => 1_000_000, records => 3_000_000 },
	ten_millions => { symbols => 10_000_000, shuffled => 1, records => 12_000_000 },
	hour => { symbols => 1_000_000, records => 3_000_000 },
	restarted => { symbols => 1_000_000, records => 3_000_000 },
	shared => { records => 1_000_000 });

sub is_known
{
	my ($topic) = @_;

	return exists $topics{$topic};
}

# The number of records of a topic and the options of the loader, with $scale times the records.
sub describe
{
	my ($topic, $scale) = @_;
	my %options = %{ $topics{$topic} // die "no topic $topic\n" };
	my $records = int((delete $options{records} // FULL) * $scale);
	my $step = int(($options{step} // 1) / $scale + 0.5) || 1;

	$options{step} = $step if $step > 1;
	$options{symbols} = int($options{symbols} * $scale) || 1 if ($options{symbols} // 0) > 1000;
	return ($records, %options);
}

1;
