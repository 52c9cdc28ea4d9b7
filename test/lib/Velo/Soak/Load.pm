# Velo::Soak::Load - records, all the time: a process that produces bursts of them to some topics.
#
#   my $load = Velo::Soak::Load->new($kafka, $seed);
#   $load->feed('trades', 4);                # from now on, to that many partitions
#   $load->hold('trades');                   # all that it has produced is acknowledged, or lost
#
# A record: {"id": 17, "k": "1-3", "v": 42, "ts": "2026-01-01T00:00:05.120Z", "pad": "xxx"}.  Ids are never the same twice.
# The keys of a partition are its own, so they decide the partition, also when the topic gets more of those.  Event time is
# the number of records, with some disorder: about one record in a hundred is late, if a stream's watermark is DELAY and its
# windows are some times that.  The first record of a partition is in no closed window, though: it has the greatest time that
# there is.  A few records are no JSON, and a few are tombstones.

package Velo::Soak::Load;

use strict;
use warnings;

use IO::Select;
use POSIX qw(strftime);
use Velo::Process qw(spawn_code ask);

use constant {
	DELAY => 3,    # seconds: the bound of disorder that a stream is to have
	DISORDER => 4,    # seconds: the greatest that there is
	STEP => 0.02,    # seconds of event time from one record to the next
	LARGEST_BURST => 600,    # records
	PAUSE => 0.15,    # seconds between bursts
	LARGE => 10_000_000,    # bytes of a record that is called large
	STOP_TIMEOUT => 180    # seconds: longer than a producer tries to deliver
};

sub new
{
	my ($class, $kafka, $seed) = @_;

	return bless {commands => spawn_code(sub { srand $seed; produce_all({kafka => $kafka, id => 0, topics => {}}, @_) })}, $class;
}

# Go on, or begin, with a topic, that has so many partitions, each of which gets a record at once; with records that are no
# JSON and tombstones, if $spoilt.
sub feed
{
	my ($self, $topic, $partitions, $spoilt) = @_;

	return ask($self->{commands}, "feed $topic $partitions $spoilt", STOP_TIMEOUT);
}

sub hold { my ($self, @topics) = @_; ask($self->{commands}, "hold $_", STOP_TIMEOUT) for @topics; return; }

# It is another topic from now on, though it has the same name.
sub forget { my ($self, $topic) = @_; return ask($self->{commands}, "forget $topic", STOP_TIMEOUT); }

# Let the next record of each partition of a topic be large.
sub produce_large { my ($self, $topic) = @_; return ask($self->{commands}, "large $topic", STOP_TIMEOUT); }

# How many records it has tried to produce so far.
sub count { my ($self) = @_; return ask($self->{commands}, 'count', STOP_TIMEOUT); }

# ---------------------------------------------------------------- in the process of the load

# $load: {kafka, id (of the last record), topics (hash by name of {partitions, spoilt, active, clock, begun (by partition), large (how
# many of the next records are)})}
sub produce_all
{
	my ($load, $commands) = @_;
	my $select = IO::Select->new($commands);

	while (1)
	{
		# the rate of the load
		if ($select->can_read(PAUSE))
		{
			my $line = <$commands> // return;

			obey($load, split ' ', $line);
			print $commands "$load->{id}\n";
			next;
		}
		for my $name (sort keys %{ $load->{topics} })
		{
			my $topic = $load->{topics}{$name};

			produce_burst($load, $name, $topic) if $topic->{active};
		}
	}
	return;
}

sub obey
{
	my ($load, $command, $name, @details) = @_;

	return if $command eq 'count';
	my $topic = $load->{topics}{$name} //= {clock => 1_767_225_600, begun => []};

	if ($command eq 'feed')
	{
		@$topic{qw(active partitions spoilt)} = (1, @details);
		# so that each partition has a record from now on
		produce_burst($load, $name, $topic);
	}
	elsif ($command eq 'hold') { $topic->{active} = 0; }
	elsif ($command eq 'forget') { delete $load->{topics}{$name}; }
	elsif ($command eq 'large') { $topic->{large} = $topic->{partitions}; }
	return;
}

sub produce_burst
{
	my ($load, $name, $topic) = @_;
	my $n = $topic->{partitions} + int rand LARGEST_BURST;
	my @records = map { random_record($load, $topic, $_ < $topic->{partitions} ? $_ : int rand $topic->{partitions}) } 0 .. $n - 1;

	# what is not delivered, for the broker is away or the topic has gone, is not in the topic, which alone counts
	eval { $load->{kafka}->produce($name, \@records, 'message.max.bytes' => 2 * LARGE, 'message.timeout.ms' => 60_000) };
	return;
}

sub random_record
{
	my ($load, $topic, $partition) = @_;
	my $chance = rand;

	$topic->{clock} += STEP;
	my $time = $topic->{begun}[$partition]++ ? $topic->{clock} - rand DISORDER : $topic->{clock};
	my $key = $partition . '-' . int rand 20;
	my $pad = 'x' x ($topic->{large} ? LARGE : rand 100);

	$topic->{large}-- if $topic->{large};
	my $value = sprintf '{"id": %d, "k": "%s", "v": %d, "ts": "%s.%03dZ", "pad": "%s"}', ++$load->{id}, $key, rand 1000,
	  strftime('%Y-%m-%dT%H:%M:%S', gmtime $time), ($time - int $time) * 1000, $pad;

	# the first record of a partition tells its time
	$value = $chance < 0.005 ? 'no json' : undef if $topic->{spoilt} && $chance < 0.01 && $topic->{begun}[$partition] > 1;
	return [ $partition, $key, undef, $value ];
}

1;
