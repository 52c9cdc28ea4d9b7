#!/usr/bin/env perl
# run.pl [FILE...]: run the tests test/t/*.pl (or those given) one after the other, and close with the one line
# "N passed, N failed".  What was skipped is said with its reason.  To be run through test/run.sh.

use strict;
use warnings;

use TAP::Harness;
use TAP::Parser::Aggregator;

my @files = @ARGV ? @ARGV : sort glob 'test/t/*.pl';
my $harness = TAP::Harness->new({verbosity => $ENV{VELO_VERBOSE} ? 1 : 0, timer => 1});
my $aggregate = TAP::Parser::Aggregator->new;
my $skipped = 0;
my %skipped; # how many, by file and reason
my @reasons; # the same in the order of their appearance
my $broken = 0;

sub note_skipped
{
	my ($reason) = @_;

	$skipped++;
	push @reasons, $reason unless $skipped{$reason}++;
	return;
}

$harness->callback(
	made_parser => sub {
		my ($parser, $test) = @_;

		$parser->callback(
			test => sub {
				my ($result) = @_;

				note_skipped("$test->[0]: " . $result->explanation) if $result->has_skip;
			});
	});
$harness->callback(
	after_test => sub {
		my ($test, $parser) = @_;

		note_skipped("$test->[0]: " . $parser->skip_all) if $parser->skip_all;
		# a file that died, or ran another number of tests than it planned, is a failure even if each test passed
		$broken++ if !$parser->failed && ($parser->exit || $parser->wait || $parser->parse_errors);
	});
$aggregate->start;
$harness->aggregate_tests($aggregate, @files);
$aggregate->stop;
$harness->formatter->summary($aggregate);
print "SKIPPED $_ ($skipped{$_})\n" for @reasons;

my $failed = $aggregate->failed + $broken;
my $passed = $aggregate->passed - $aggregate->skipped;

printf "%d passed, %d failed%s\n", $passed, $failed, $skipped ? ", $skipped skipped" : '';
exit($failed || !$passed ? 1 : 0);
