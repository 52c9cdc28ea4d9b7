#!/usr/bin/env perl
# picture.pl: a table that `make bench-peers` has printed as a picture.
#
#	picture.pl TABLE.md > PICTURE.svg
#
# Bars of records per second, and beside each the CPU seconds that a million records cost.

use strict;
use warnings;

my (@rows, $when);

while (<>)
{
	$when = $1 if /^(\d{4}-\d\d-\d\d, .*?): `/;
	my @cells = map { s/^\s+|\s+$//gr } split /\|/;

	push @rows, [ @cells[ 1, 2, 5 ] ] if @cells > 5 && $cells[2] =~ /^\d+$/;
}
die "there is no table\n" unless @rows;

my ($greatest) = sort { $b <=> $a } map { $_->[1] } @rows;
my ($left, $wide, $high, $top) = (230, 380, 26, 44);
my $width = $left + $wide + 190;
my $height = $top + $high * @rows + 34;

sub escape { return $_[0] =~ s/&/&amp;/gr =~ s/</&lt;/gr }

print <<"SVG";
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" font-family="sans-serif" font-size="13">
<title>Records per second, one thread of processing</title>
<rect width="$width" height="$height" fill="white"/>
<text x="10" y="22" font-weight="bold">Records per second (CPU seconds per million records)</text>
SVG
for my $i (0 .. $#rows)
{
	my ($name, $rate, $cpu) = @{ $rows[$i] };
	my $y = $top + $i * $high;
	my $length = sprintf '%.1f', $wide * $rate / $greatest;
	my $color = $name =~ /^velo/ ? '#2f6f9f' : $name =~ /^(?:bare|by hand)/ ? '#999999' : '#c8864a';

	printf qq(<text x="%d" y="%d" text-anchor="end">%s</text>\n), $left - 8, $y + 15, escape($name);
	printf qq(<rect x="%d" y="%d" width="%s" height="%d" fill="%s"/>\n), $left, $y + 2, $length, $high - 8, $color;
	printf qq(<text x="%.1f" y="%d">%.2f M (%s)</text>\n), $left + $length + 6, $y + 15, $rate / 1e6, $cpu;
}
printf qq(<text x="10" y="%d" font-size="10" fill="#666666">%s</text>\n</svg>\n), $height - 10, escape($when // '');
