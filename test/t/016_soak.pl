# `make soak` runs and is right: one round of it, with faults that cost no seconds; and whatever goes wrong is noticed.

use strict;
use warnings;

use Test::More;
use Velo::Soak;
use Velo::Soak::Faults qw(faults pick_faults);

plan skip_all => Velo::Soak->missing if Velo::Soak->missing;

srand 14;
my $soak = Velo::Soak->new(seed => 14);
my $pg = $soak->{pg};
my @faults = pick_faults(6, grep { $_->{cheap} } faults($soak, '', \&note));

ok(eval { $soak->round(@faults) }, join ', ', map { $_->{name} } @faults) or diag $@;

# What the check says after some SQL, the work of a bug; a second statement takes it back.
my %bugs = (
	'a record that is lost' => [
		'UPDATE exclusive SET n = n - 1, s = s - 1 WHERE k = $$0-1$$', 'UPDATE exclusive SET n = n + 1, s = s + 1 WHERE k = $$0-1$$',
		qr/^exclusive: rows differ.*too much.*missing/s
	],
	'a row that is written twice' => [
		'INSERT INTO kept TABLE kept ORDER BY id LIMIT 1', 'DELETE FROM kept WHERE ctid = (SELECT max(ctid) FROM kept)',
		qr/^kept: rows differ.*1\|.*too much/s
	],
	'a row of FINAL that is corrected' => [
		q{INSERT INTO seen.written VALUES ('final'::regclass, 'UPDATE')}, q{DELETE FROM seen.written WHERE operation = 'UPDATE' AND relation = 'final'::regclass},
		qr/^final: not each of \d+ rows was written once/
	],
	'a counter that is wrong' => [
		q{UPDATE seen.record SET kind = 'hidden' WHERE kind = 'tombstone' AND topic = 'orders'}, q{UPDATE seen.record SET kind = 'tombstone' WHERE kind = 'hidden'},
		qr/^final_merged: state, records_in, tombstones/
	],
	'a dead letter that is missing' => [
		q{CREATE TABLE hidden AS SELECT * FROM velo.dead_letter; DELETE FROM velo.dead_letters WHERE query = 'merged'},
		q{INSERT INTO velo.dead_letter OVERRIDING SYSTEM VALUE SELECT * FROM hidden WHERE query = 'velo_queries.merged'::regclass},
		qr/^merged: dead letters: 0/
	]);

$soak->{patience} = 1;
for my $bug (sort keys %bugs)
{
	my ($do, $undo, $complaint) = @{ $bugs{$bug} };

	$pg->query($do);
	ok(!eval { $soak->check; 1 }, "$bug is noticed");
	like($@, $complaint, 'and said');
	$pg->query($undo);
}
$soak->{patience} = 30;
ok(eval { $soak->check; 1 }, 'without bugs nothing is noticed') or diag $@;

done_testing;
