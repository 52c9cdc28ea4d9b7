#!/usr/bin/env perl
# flame.pl: flame graphs of the stacks that `make bench-stages` has seen, a picture for each case.
#
#	flame.pl STACKS DIRECTORY
#
# STACKS has a line for each case, its name and the circumstances with a tab between, and after it those of its stacks:
# ns per record, stage, and the functions with semicolons between, the outermost first.  Each function is as wide as the CPU
# that it and what it called took, stands on what called it, and has its stage's color, or none if it is of several.

use strict;
use warnings;

use List::Util qw(max);

# The stages in the order of the table of stages.pl, which is also that of the frames from left to right.
my @stages = (
	[ 'librdkafka, the pipeline\'s thread' => '#8db8de' ],
	[ 'decode' => '#f6b26b' ],
	[ 'evaluate' => '#f7dc6f' ],
	[ 'groups and transitions' => '#a3d39c' ],
	[ 'emit and write' => '#ee8f80' ],
	[ 'checkpoint, stored groups' => '#bda7dd' ],
	[ 'commit' => '#e3a6cc' ],
	[ 'the rest of the pipeline' => '#d3c9b8' ],
	[ 'kernel, the pipeline\'s thread' => '#b4b4b4' ],
	[ 'librdkafka, its own threads' => '#a9dbe0' ],
	[ 'decompression (lz4, zstd, gzip)' => '#79c2b7' ],
	[ 'kernel, librdkafka\'s threads' => '#cccccc' ]);
my %place = map { $stages[$_][0] => $_ } 0 .. $#stages;

use constant {
	WIDTH => 1200,
	MARGIN => 10,
	HIGH => 17, # of a row of frames
	LETTER => 6.6, # the width of one, about
	NARROWEST => 0.6,
	OF_ONE_STAGE => 0.95 };

sub escape { return $_[0] =~ s/&/&amp;/gr =~ s/</&lt;/gr }

# A number of ns as people write it.
sub digits { return sprintf $_[0] < 10 ? '%.1f' : '%.0f', $_[0] }

sub add_stack
{
	my ($root, $ns, $stage, @functions) = @_;
	my $frame = $root;

	die "no stage $stage\n" unless defined $place{$stage};
	for my $function (undef, @functions)
	{
		$frame = $frame->{called}{$function} //= { name => $function } if defined $function;
		$frame->{ns} += $ns;
		$frame->{stages}{$stage} += $ns;
	}
	return;
}

sub main_stage
{
	my ($frame) = @_;
	my $of = $frame->{stages};

	return (sort { $of->{$b} <=> $of->{$a} || $place{$a} <=> $place{$b} } keys %$of)[0];
}

# The frames that are wide enough, as [level, x, width, frame], those called after the caller.
sub lay_out
{
	my ($frame, $level, $x, $scale) = @_;
	my $width = $frame->{ns} * $scale;

	return if $width < NARROWEST;
	my @laid = [ $level, $x, $width, $frame ];
	my @called = sort { $place{ main_stage($a) } <=> $place{ main_stage($b) } || $b->{ns} <=> $a->{ns} || $a->{name} cmp $b->{name} }
	  values %{ $frame->{called} // {} };
	for (@called)
	{
		push @laid, lay_out($_, $level + 1, $x, $scale);
		$x += $_->{ns} * $scale;
	}
	return @laid;
}

sub draw_frame
{
	my ($x, $width, $frame, $all) = @_;
	my $stage = main_stage($frame);
	my $class = $frame->{stages}{$stage} >= OF_ONE_STAGE * $frame->{ns} ? "s$place{$stage}" : 'm';
	my $name = $frame->{name};
	my $fits = int(($width - 4) / LETTER);
	my $svg = sprintf '<g><title>%s: %s ns, %.1f %%</title><rect class="%s" x="%.1f" width="%.1f"/>',
	  escape($name), digits($frame->{ns}), 100 * $frame->{ns} / $all, $class, $x, max($width - 0.5, 0.5);

	$name = substr($name, 0, $fits - 1) . "\x{2026}" if length $name > $fits;
	$svg .= sprintf '<text x="%.1f" y="12">%s</text>', $x + 3, escape($name) if $fits >= 4 || $name eq $frame->{name};
	return "$svg</g>\n";
}

sub draw
{
	my ($root, $case, $circumstances) = @_;
	my @laid = lay_out($root, 0, MARGIN, (WIDTH - 2 * MARGIN) / $root->{ns});
	my @shown = grep { ($root->{stages}{ $_->[0] } // 0) >= 0.5 } @stages;
	my $columns = 4;
	my $legend = int((@shown + $columns - 1) / $columns);
	my $top = 40 + 18 * $legend + 10;
	my $highest = max map { $_->[0] } @laid;
	my $ground = $top + HIGH * $highest;
	my $height = $ground + HIGH + 26;
	my $width = WIDTH;
	my $svg = <<"SVG";
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" font-family="sans-serif" font-size="11">
<title>@{[escape($case)]}: where the time goes</title>
<style>
g > rect { height: @{[HIGH - 1]}px }
.m { fill: #efefef }
@{[join "\n", map { ".s$_ { fill: $stages[$_][1] }" } 0 .. $#stages]}
g:hover > title + rect { stroke: black }
</style>
<rect width="$width" height="$height" fill="white"/>
<text x="@{[MARGIN]}" y="22" font-size="15" font-weight="bold">@{[escape($case)]}: @{[digits($root->{ns})]} ns of CPU per record</text>
SVG

	for my $i (0 .. $#shown)
	{
		my ($stage) = @{ $shown[$i] };
		my $x = MARGIN + int($i / $legend) * (WIDTH - 2 * MARGIN) / $columns;
		my $y = 40 + 18 * ($i % $legend);

		$svg .= sprintf qq(<rect class="s%d" x="%d" y="%d" width="12" height="12"/><text x="%d" y="%d" font-size="12">%s: %s</text>\n),
		  $place{$stage}, $x, $y, $x + 18, $y + 10, escape($stage), digits($root->{stages}{$stage});
	}
	for my $level (0 .. $highest)
	{
		$svg .= sprintf qq(<g transform="translate(0 %d)">\n), $ground - HIGH * $level;
		$svg .= draw_frame(@$_[ 1 .. 3 ], $root->{ns}) for grep { $_->[0] == $level } @laid;
		$svg .= "</g>\n";
	}
	$svg .= sprintf qq(<text x="%d" y="%d" font-size="10" fill="#666666">%s</text>\n</svg>\n), MARGIN, $height - 8, escape($circumstances);
	return $svg;
}

my ($stacks, $directory) = @ARGV;
die "usage: flame.pl STACKS DIRECTORY\n" unless @ARGV == 2;
open my $file, '<', $stacks or die "$stacks: $!\n";
my @cases;

while (<$file>)
{
	chomp;
	my ($ns, $stage, $stack) = split /\t/;

	if (defined $stack)
	{
		add_stack($cases[-1]{root}, $ns, $stage, split /;/, $stack);
	}
	else
	{
		push @cases, { name => $ns, circumstances => $stage, root => { name => 'all threads' } };
	}
}
mkdir $directory;
for my $case (@cases)
{
	my $path = "$directory/" . ($case->{name} =~ s/[^\w%]+/-/gr =~ s/%/percent/gr) . '.svg';

	open my $picture, '>:encoding(UTF-8)', $path or die "$path: $!\n";
	print $picture draw($case->{root}, $case->{name}, $case->{circumstances});
	close $picture or die "$path: $!\n";
	print "$path\n";
}
