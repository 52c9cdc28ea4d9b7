#!/usr/bin/env perl
# run.pl [TARGET...]: run libFuzzer over velo's parsers (velo_fuzz.c), FUZZ_RUNS inputs for each target (default a million), in
# a single-user server.  What it finds is kept in build/fuzz/corpus for the next time; an input that shows a fault, in
# build/fuzz/findings.  To be run through test/check.sh fuzz, which builds what it needs.

use strict;
use warnings;

use Cwd qw(getcwd);
use File::Path qw(make_path);
use Velo::Process qw(run_command);
use Velo::Server;

my $runs = $ENV{FUZZ_RUNS} // 1_000_000;
# the longest input of each
my %targets = (json => 2000, dialect => 400, options => 200);
my @names = @ARGV ? @ARGV : sort keys %targets;
my $pg = Velo::Server->new(library => "$ENV{VELO_BUILD}/fuzz/velo.so", start => 0);
my $found = 0;

for my $name (@names)
{
	my ($corpus, $findings) = ("$ENV{VELO_BUILD}/fuzz/corpus/$name", "$ENV{VELO_BUILD}/fuzz/findings");
	my $arguments = "-runs=$runs -max_len=$targets{$name} -timeout=60 -rss_limit_mb=0 -print_final_stats=1 "
	  . "-artifact_prefix=$findings/$name- $corpus " . getcwd . "/test/fuzz/corpus/$name";

	make_path($corpus, $findings);
	my ($status, undef, $err) = run_command(
		"CREATE OR REPLACE FUNCTION velo_fuzz(text, text) RETURNS void AS '\$libdir/velo' LANGUAGE C STRICT\n"
		  . "SELECT velo_fuzz('$name', '$arguments')\n",
		"$pg->{bindir}/postgres", '--single', '-D', $pg->{data}, '-c', 'log_min_messages=warning', 'postgres');
	my ($executed) = $err =~ /stat::number_of_executed_units: (\d+)/;

	# it ends the server's process
	if ($status == 0 && $executed)
	{
		print "$name: $executed inputs, no finding\n";
		next;
	}
	$found = 1;
	print "$name: exit status $status\n", grep({ !/^#\d+\s+(?:NEW|REDUCE|pulse)/ } split /^/, $err);
}
exit $found;
