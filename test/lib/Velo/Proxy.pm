# Velo::Proxy - a TCP proxy on a free port of 127.0.0.1, which can be told to serve badly.
#
#   my $proxy = Velo::Proxy->new;
#   my $kafka = Velo::Kafka->new(listeners => {SLOW => 'PLAINTEXT'}, advertised => {SLOW => $proxy->address});
#   $proxy->forward_to($kafka->{ports}{SLOW});
#   $proxy->be('delay', 0.5);
#
# What it can be:
#
#	pass		an ordinary proxy
#	delay S		all that it forwards comes S seconds later
#	stall		connections are accepted and kept, but nothing comes through them any more
#	refuse		all connections are closed, and new ones at once
#	cut			all connections are closed, and new ones are served
#	half_close	nobody gets an answer through the connections that there are, only their end; new ones are served
#
# It is a process of its own, and ends with the one that made it.

package Velo::Proxy;

use strict;
use warnings;

use Errno qw(EAGAIN EWOULDBLOCK EINTR);
use IO::Select;
use IO::Socket::INET;
use Socket qw(SHUT_WR);
use Time::HiRes qw(time);
use Velo::Process qw(spawn_code ask);

# bytes: of one read; that wait for one connection before no more are read for it
use constant {CHUNK => 65_536, MOST_WAITING => 1_048_576};

sub new
{
	my ($class) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100, Blocking => 0) or die "proxy: $!\n";
	my $self = bless {port => $listener->sockport}, $class;

	$self->{commands} = spawn_code(sub { serve({listener => $listener, commands => $_[0], mode => 'pass', delay => 0, ends => {}}) });
	close $listener;
	return $self;
}

sub address { my ($self) = @_; return "127.0.0.1:$self->{port}"; }

# From now on; connections that there are stay as they are.
sub forward_to { my ($self, $port) = @_; return ask($self->{commands}, "target $port"); }

sub be { my ($self, $mode, $seconds) = @_; return ask($self->{commands}, "be $mode " . ($seconds // 0)); }

# The number of connections that clients have.
sub connections { my ($self) = @_; return ask($self->{commands}, 'count'); }

# ---------------------------------------------------------------- in the proxy's process

# A connection has two ends, hashes {socket, other (the other end), queue of [time, bytes], waiting (bytes in the queue),
# ended (no more will come into the queue), client (is it the client's?), mute (nothing is written to it any more)}.  What
# is read from one end goes into the queue of the other.
sub serve
{
	my ($proxy) = @_;

	while (1)
	{
		my $now = time;
		my @ends = values %{ $proxy->{ends} };
		my $stalled = $proxy->{mode} eq 'stall';
		my @read = $stalled ? () : map { $_->{socket} } grep { !$_->{finished} && $_->{other}{waiting} < MOST_WAITING } @ends;
		my @due = $stalled ? () : grep { has_output($_) && (!@{ $_->{queue} } || $_->{queue}[0][0] <= $now) } @ends;
		my ($later) = sort { $a <=> $b } map { @{ $_->{queue} } ? $_->{queue}[0][0] - $now : () } grep { !$stalled } @ends;
		my ($readable, $writable) = IO::Select->select(
			IO::Select->new($proxy->{listener}, $proxy->{commands}, @read),
			IO::Select->new(map { $_->{socket} } @due),
			undef, !defined $later ? undef : $later > 0 ? $later : 0.05);

		write_to($proxy, $proxy->{ends}{$_}) for grep { $proxy->{ends}{$_} } @{ $writable // [] };
		for my $socket (@{ $readable // [] })
		{
			if ($socket == $proxy->{commands}) { obey($proxy) or return; }
			elsif ($socket == $proxy->{listener}) { accept_client($proxy); }
			elsif ($proxy->{ends}{$socket}) { read_from($proxy, $proxy->{ends}{$socket}); }
		}
	}
	return;
}

sub has_output { my ($end) = @_; return @{ $end->{queue} } || ($end->{ended} && !$end->{shut}); }

sub obey
{
	my ($proxy) = @_;
	my $line = readline($proxy->{commands}) // return 0;
	my ($command, @words) = split ' ', $line;
	my @ends = values %{ $proxy->{ends} };
	my @clients = grep { $_->{client} } @ends;

	if ($command eq 'target') { $proxy->{target} = $words[0]; }
	elsif ($command eq 'be')
	{
		@$proxy{qw(mode delay)} = @words;
		if ($words[0] =~ /^(?:refuse|cut)$/) { hang_up($proxy, $_) for @clients; }
		elsif ($words[0] eq 'half_close')
		{
			for my $end (@clients)
			{
				@$end{qw(queue waiting mute)} = ([], 0, 1);
				shutdown $end->{socket}, SHUT_WR;
				$end->{shut} = 1;
			}
		}
	}
	$proxy->{commands}->print(scalar @clients, "\n");
	return 1;
}

sub accept_client
{
	my ($proxy) = @_;
	my $client = $proxy->{listener}->accept or return;
	my $server = $proxy->{mode} ne 'refuse' && $proxy->{target}
	  && IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $proxy->{target});

	return unless $server;
	my ($near, $far) = map { $_->blocking(0); {socket => $_, queue => [], waiting => 0} } $client, $server;

	$near->{client} = 1;
	$near->{other} = $far;
	$far->{other} = $near;
	$proxy->{ends}{ $_->{socket} } = $_ for $near, $far;
	return;
}

sub hang_up
{
	my ($proxy, $end) = @_;

	for ($end->{other}, $end)
	{
		delete $proxy->{ends}{ $_->{socket} };
		close $_->{socket};
		delete $_->{other};
	}
	return;
}

sub failed_for_good { return !($! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR); }

sub read_from
{
	my ($proxy, $end) = @_;
	my $other = $end->{other};
	my $n = sysread $end->{socket}, my $bytes, CHUNK;

	if (!defined $n)
	{
		hang_up($proxy, $end) if failed_for_good();
		return;
	}
	if ($n == 0)
	{
		$end->{finished} = $other->{ended} = 1;
		hang_up($proxy, $end) if $other->{finished} || $other->{mute} || $end->{mute};
		return;
	}
	return if $other->{mute};
	push @{ $other->{queue} }, [ time + $proxy->{delay}, $bytes ];
	$other->{waiting} += $n;
	return;
}

sub write_to
{
	my ($proxy, $end) = @_;

	if (!@{ $end->{queue} })
	{
		shutdown $end->{socket}, SHUT_WR;
		$end->{shut} = 1;
		return;
	}
	my $n = syswrite $end->{socket}, $end->{queue}[0][1];

	if (!defined $n)
	{
		hang_up($proxy, $end) if failed_for_good();
		return;
	}
	$end->{waiting} -= $n;
	substr($end->{queue}[0][1], 0, $n) = '';
	shift @{ $end->{queue} } if $end->{queue}[0][1] eq '';
	return;
}

1;
