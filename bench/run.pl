#!/usr/bin/env perl
# run.pl: measure velo on a real Kafka, beside a bare consumer and the query written by hand, and print Markdown.  To be
# run through test/run.sh; README.md in this directory says what the cases are and how to read the figures.
#
#	BENCH			a regular expression: only cases whose name it matches
#	BENCH_RECORDS	records in the topic (5000000)
#	BENCH_RUNS		runs of each case of the table, of which the median counts (5)

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Velo::Bench;
use Velo::Bench::Report qw(compare circumstances);
use Velo::Bench::Single;
use Velo::Bench::Table;

my $wanted = $ENV{BENCH} // '';
my @table = grep { $_->{name} =~ /$wanted/ } Velo::Bench::Table::cases();
my @single = grep { $_->{name} =~ /$wanted/ } Velo::Bench::Single::cases();
die "no case matches $wanted\n" unless @table || @single;

my $bench = Velo::Bench->new(records => $ENV{BENCH_RECORDS});

print circumstances($bench, 'make bench', qw(BENCH BENCH_RECORDS BENCH_RUNS)), "\n";
compare($bench, $ENV{BENCH_RUNS} // 5, [ 'bare consumer', 'by hand', 'tumbling 5m, final' ], @table) if @table;
for my $case (@single)
{
	print "* $_\n" for $case->{tell}->($bench, $case);
}
