#!/usr/bin/env perl
# soak.pl: continuous queries under load, and faults at random, one or several at a time, round after round; after each
# round every row and figure must be what PostgreSQL itself says, and nothing may have leaked.  To be run through
# test/run.sh, as `make soak` does.
#
#	SOAK_MINUTES	how long (5)
#	SOAK_SEED		of the first round, the next has the next number; printed if a round fails
#	SOAK_ROUNDS		how many rounds at most, whatever the time
#	SOAK_FAULTS		regular expression of the names of the faults that may be chosen
#
# The first round that goes wrong ends it; data and logs are kept then.  The seed decides which faults a round has; when
# exactly they hit what is chance, so a round that failed is to be repeated some times.

use strict;
use warnings;

use POSIX qw(strftime);
use Time::HiRes qw(time);
use Velo::Soak;
use Velo::Soak::Faults qw(faults pick_faults);

$| = 1;
die Velo::Soak->missing . "\n" if Velo::Soak->missing;

my $minutes = $ENV{SOAK_MINUTES} // 5;
my $seed = $ENV{SOAK_SEED} // int(time) % 1_000_000_000;
my $rounds = $ENV{SOAK_ROUNDS} // 1_000_000;
my $end = time + 60 * $minutes;

sub say_now { print strftime('%H:%M:%S ', localtime), @_, "\n"; return; }

say_now("SOAK_SEED=$seed SOAK_MINUTES=$minutes");
my $soak = Velo::Soak->new(seed => $seed);
my @possible = faults($soak, $ENV{SOAK_FAULTS} // '', \&say_now);

say_now("server: $soak->{pg}{dir}, broker: $soak->{kafka}{dir}, " . @possible . ' faults');
for (my $round = 0; $round < $rounds && time < $end; $round++)
{
	srand $seed + $round;
	my @faults = pick_faults((1, 1, 2, 2, 3, 4)[ int rand 6 ], @possible);
	my $what = join(', ', map { $_->{name} } @faults) || 'nothing';
	my $start = time;

	next if eval { $soak->round(@faults); say_now(sprintf '%d: %s (%.0f s)', $seed + $round, $what, time - $start); 1 };
	say_now(sprintf '%d: %s', $seed + $round, $what);
	$soak->keep_stacks;
	print "FAILED: $@to try again: SOAK_SEED=@{[$seed + $round]} SOAK_ROUNDS=1\nserver: $soak->{pg}{dir}, broker: $soak->{kafka}{dir}\n";
	exit 1;
}
say_now('all was right; at most ' . join ', ', map { sprintf '%.0f %s', $soak->{most}{$_}, $_ } sort keys %{ $soak->{most} });
