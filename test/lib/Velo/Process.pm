# Velo::Process - child processes of the tests: none outlives the test that started it, however that ends.

package Velo::Process;

use strict;
use warnings;

use Exporter 'import';
use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX SOCK_STREAM PF_UNSPEC);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(scratch_dir free_port wait_for spawn spawn_code ask finish run_command children);

# Die in order, so that END blocks and destructors run.
$SIG{$_} = sub { exit 130 }
  for qw(INT TERM HUP);
$SIG{PIPE} = 'IGNORE';

# A new directory below the one that test/run.sh made (and keeps if a test fails).
sub scratch_dir
{
	my ($name) = @_;

	return File::Temp::tempdir("$name-XXXX", DIR => $ENV{VELO_SCRATCH}) if $ENV{VELO_SCRATCH};
	return File::Temp::tempdir("velo-$name-XXXX", TMPDIR => 1, CLEANUP => 1);
}

my %ports_given;

# A port of 127.0.0.1 that nobody listens on; never the same twice.
sub free_port
{
	while (1)
	{
		my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
		  or die "no free port: $!\n";
		my $port = $socket->sockport;

		return $port unless $ports_given{$port}++;
	}
}

# Call $condition->() every 20 ms until it is true, and return what it returned; undef after $timeout seconds.
sub wait_for
{
	my ($condition, $timeout) = @_;
	my $deadline = time + ($timeout // 60);

	while (1)
	{
		my $result = $condition->();

		return $result if $result;
		return undef if time > $deadline;
		sleep 0.02;
	}
}

sub redirect_and_exec
{
	my ($out, $err, $in, @command) = @_;

	open STDIN, '<', $in // '/dev/null' or POSIX::_exit(126);
	open STDOUT, '>>', $out or POSIX::_exit(126);
	open STDERR, '>>', $err // $out or POSIX::_exit(126);
	{ no warnings 'exec'; exec { $command[0] } @command; }
	print STDERR "could not run $command[0]: $!\n";
	POSIX::_exit(127);
}

# Servers that run: their process ids, and the signal that ends each.
my %spawned;
my $owner = $$;

# Start a server as a child, its output appended to $log.  It gets $signal when this process dies in whatever way.
sub spawn
{
	my ($log, $signal, @command) = @_;
	my $pid = fork // die "fork: $!\n";

	redirect_and_exec($log, undef, undef, 'setpriv', '--pdeathsig', $signal, '--', @command)
	  if $pid == 0;
	$spawned{$pid} = $signal;
	return $pid;
}

# Run $code->($commands) in a child; $commands is a socket, from which it reads the lines that ask() sends, and to which it
# writes a line in answer to each.  At the end of that file it is to return.  Returns the other end, for ask().
sub spawn_code
{
	my ($code) = @_;

	socketpair(my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!\n";
	$_->autoflush(1) for $ours, $its;
	my $pid = fork // die "fork: $!\n";

	if ($pid == 0)
	{
		close $ours;
		$SIG{$_} = 'IGNORE' for qw(INT HUP);
		eval { $code->($its); 1 } or print STDERR $@;
		POSIX::_exit(0);
	}
	close $its;
	$spawned{$pid} = 'TERM';
	return $ours;
}

# Send a line to the code of spawn_code(), and return what it answers within $timeout seconds (60); dies if it doesn't.
sub ask
{
	my ($socket, $line, $timeout) = @_;

	print $socket "$line\n";
	die "no answer to \"$line\"\n" unless IO::Select->new($socket)->can_read($timeout // 60);
	my $answer = <$socket> // die "nobody is there to answer \"$line\"\n";

	chomp $answer;
	return $answer;
}

# Does any process of that number run?  One that has ended and that nobody waits for, as orphans in a container without an
# init process, does not.
sub is_running
{
	my ($pid) = @_;
	my ($state) = slurp("/proc/$pid/stat") =~ /^.*\) (.)/s;

	return defined $state && $state !~ /[ZX]/;
}

# True when the child has ended.
sub ended
{
	my ($pid) = @_;

	return 1 unless $spawned{$pid};
	return 0 if waitpid($pid, POSIX::WNOHANG()) == 0;
	delete $spawned{$pid};
	return 1;
}

# End a child with a signal, and all of it with SIGKILL if it is still there after $timeout seconds (30).  Returns
# whether it ended by itself.
sub finish
{
	my ($pid, $signal, $timeout) = @_;
	my @children = children($pid);

	return 1 if ended($pid);
	kill $signal, $pid;
	return 1 if wait_for(sub { ended($pid) }, $timeout // 30);
	kill 'KILL', $pid, @children;
	wait_for(sub { ended($pid) });
	return 0;
}

END
{
	# not in a forked child; and the exit status is the test's
	if ($$ == $owner)
	{
		local $?;
		finish($_, $spawned{$_}) for keys %spawned;
	}
}

# Run a command with $input on its standard input; returns exit status, standard output and standard error.
sub run_command
{
	my ($input, @command) = @_;
	my $dir = File::Temp->newdir('velo-run-XXXX', TMPDIR => 1);

	open my $in, '>', "$dir/in" or die "$dir/in: $!\n";
	print $in $input // '';
	close $in or die "$dir/in: $!\n";

	my $pid = fork // die "fork: $!\n";
	redirect_and_exec("$dir/out", "$dir/err", "$dir/in", @command) if $pid == 0;
	waitpid $pid, 0;
	my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;

	return ($status, slurp("$dir/out"), slurp("$dir/err"));
}

sub slurp
{
	my ($path) = @_;

	open my $file, '<', $path or return '';
	local $/;
	return scalar <$file> // '';
}

# Process ids of the children of a process.
sub children
{
	my ($parent) = @_;

	return grep {
		# "pid (command) state ppid ...", and a command may hold anything
		slurp("/proc/$_/stat") =~ /.*\) \S (\d+) /s && $1 == $parent
	} map { m{(\d+)$} } glob '/proc/[0-9]*';
}

1;
