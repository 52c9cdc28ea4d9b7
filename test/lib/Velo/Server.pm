# Velo::Server - a private PostgreSQL server with velo in it, on a Unix socket and a free port of 127.0.0.1.
#
#   my $pg = Velo::Server->new(dev_broker => 1, conf => {'velo.batch_size' => 10});
#   $pg->query('CREATE EXTENSION velo');           # dies if the statement fails
#   my ($status, $out, $err) = $pg->psql('SELECT ...');
#   $pg->wait_until(q{SELECT state = 'finished' FROM velo.queries});
#
# It stops with the process that made it.  Never as root: test/run.sh sees to that.

package Velo::Server;

use strict;
use warnings;

use File::Copy qw(copy);
use File::Path qw(make_path);
use Time::HiRes qw(time);
use Velo::Process qw(scratch_dir free_port wait_for spawn finish run_command children);

sub bindir
{
	return $ENV{VELO_BINDIR} // die("VELO_BINDIR is not set: run this through test/run.sh\n");
}

# Make an installation in $dir that has $library as velo's, if given, and $files (hash of names and contents) in the
# directory of extensions, the rest of it being links; returns where its programs are.  PostgreSQL finds the other
# directories by the place of the program.
sub installation_with
{
	my ($dir, $library, $files) = @_;
	my %from;

	for my $kind (qw(bindir pkglibdir sharedir))
	{
		my ($status, $out, $err) = run_command('', bindir() . '/pg_config', "--$kind");

		die "pg_config failed:\n$err" if $status;
		chomp($from{$kind} = $out);
	}
	make_path("$dir$from{bindir}", "$dir$from{pkglibdir}", "$dir$from{sharedir}/extension");
	for my $file (map { glob } "$from{bindir}/*", "$from{pkglibdir}/*", "$from{sharedir}/*", "$from{sharedir}/extension/*")
	{
		next if $file eq "$from{sharedir}/extension";
		# a program that is a link would be found where it points to
		my $copied = $file =~ m{/(?:postgres|initdb)$} ? copy($file, "$dir$file") && chmod(0755, "$dir$file") : undef;

		$copied // symlink($file, "$dir$file") or die "$dir$file: $!\n";
	}
	replace_file("$dir$from{pkglibdir}/velo.so", Velo::Process::slurp($library)) if $library;
	replace_file("$dir$from{sharedir}/extension/$_", $files->{$_}) for keys %{ $files // {} };
	return "$dir$from{bindir}";
}

# Never written over: a running server may have it mapped.
sub replace_file
{
	my ($path, $content) = @_;

	unlink $path;
	open my $file, '>:raw', $path or die "$path: $!\n";
	print $file $content;
	close $file or die "$path: $!\n";
	return;
}

my @servers;

# options: name, dev_broker (true: with the development broker), conf (hash of settings), start (default true), disk (a
# Velo::Disk that it sees), library (another one of velo's than that which is installed), extension_files (hash of names
# and contents, to have in the directory of extensions), backup_of (a server of which it is a base backup), standby (true:
# and which it follows)
sub new
{
	my ($class, %options) = @_;
	my $dir = scratch_dir($options{name} // 'pg');
	my $self = bless {
		dir => $dir,
		data => "$dir/data",
		logfile => "$dir/postgresql.log",
		bindir => $options{library} || $options{extension_files}
		? installation_with($dir, $options{library}, $options{extension_files})
		: bindir(),
		port => free_port(),
		disk => $options{disk}
	}, $class;
	my ($status, $out, $err) = run_command('', $options{backup_of}
		? ("$self->{bindir}/pg_basebackup", '-h', $options{backup_of}{dir}, '-p', $options{backup_of}{port}, '-U', 'postgres',
			'-D', $self->{data}, '--checkpoint=fast', '--no-sync', $options{standby} ? '--write-recovery-conf' : ())
		: ("$self->{bindir}/initdb", '--no-sync', '--auth=trust', '--username=postgres', '--encoding=UTF8', '--locale=C',
			$self->{data}));

	die "no data directory:\n$out$err" if $status;
	$self->{broker_port} = free_port() if $options{dev_broker};
	$self->configure(
		port => $self->{port},
		listen_addresses => '127.0.0.1',
		unix_socket_directories => $dir,
		shared_preload_libraries => 'velo',
		fsync => 'off',
		max_worker_processes => 40,
		log_line_prefix => '%m [%p] %b %q%d ',
		'velo.dev_broker_port' => $self->{broker_port} // 0,
		%{ $options{conf} // {} });
	$self->{owner} = $$;
	push @servers, $self;
	$self->start unless exists $options{start} && !$options{start};
	return $self;
}

# The settings are for the next start or reload.
sub configure
{
	my ($self, %settings) = @_;

	open my $conf, '>>', "$self->{data}/postgresql.conf" or die "postgresql.conf: $!\n";
	for my $name (sort keys %settings)
	{
		(my $value = $settings{$name}) =~ s/'/''/g;
		print $conf "$name = '$value'\n";
	}
	close $conf or die "postgresql.conf: $!\n";
	return;
}

sub alive
{
	my ($self) = @_;

	return $self->{pid} && !Velo::Process::ended($self->{pid});
}

sub start
{
	my ($self) = @_;

	my @command = ("$self->{bindir}/postgres", '-D', $self->{data});

	# test/check.sh says where the suppressions are
	unshift @command, 'valgrind', '--quiet', '--leak-check=no', '--track-origins=yes', '--gen-suppressions=all', '--error-markers=VALGRIND-ERROR,VALGRIND-END',
	  "--suppressions=$ENV{VELO_VALGRIND}"
	  if $ENV{VELO_VALGRIND};
	@command = $self->{disk}->inside('INT', @command) if $self->{disk};
	$self->{pid} = spawn($self->{logfile}, 'INT', @command);
	my $ready = wait_for(
		sub {
			return 1 if !$self->alive;
			return (run_command('', "$self->{bindir}/pg_isready", '-q', '-U', 'postgres', '-h', $self->{dir}, '-p',
					$self->{port}))[0] == 0;
		},
		60);

	die "the server does not start, see $self->{logfile}:\n" . $self->log_tail
	  unless $ready && $self->alive;
	return;
}

# $signal: INT (fast, the default), TERM (smart), QUIT (immediate)
sub stop
{
	my ($self, $signal) = @_;

	return unless $self->alive;
	finish($self->{pid}, $signal // 'INT', 60) or die "the server did not stop, see $self->{logfile}\n";
	return;
}

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->start;
	return;
}

sub reload
{
	my ($self) = @_;

	kill 'HUP', $self->{pid};
	return;
}

# kill -9 of the postmaster; returns when all its children have noticed.
sub kill9
{
	my ($self) = @_;

	return unless $self->alive;
	my @children = children($self->{pid});

	finish($self->{pid}, 'KILL');
	return if wait_for(sub { !grep { Velo::Process::is_running($_) } @children }, 30);
	kill 'KILL', @children;
	return;
}

# kill -9 and a new start; what was seen before stays, for pipelines don't wait for their commits to reach the disk.
sub crash
{
	my ($self) = @_;

	$self->query('CHECKPOINT');
	$self->kill9;
	$self->start;
	return;
}

# Process ids of running pipelines, of one query or all.
sub pipeline_pids
{
	my ($self, $query) = @_;
	my $where = defined $query ? "AND query = '$query'" : '';

	return split /\n/, $self->query("SELECT pid FROM velo.pipelines WHERE pid IS NOT NULL $where");
}

# Arguments of psql for this server.
sub psql_command
{
	my ($self, $database) = @_;

	return ("$self->{bindir}/psql", '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $self->{dir}, '-p',
		$self->{port}, '-U', 'postgres', '-d', $database // 'postgres');
}

# Run SQL; returns psql's exit status, its output (unaligned, tuples only) and its errors.
sub psql
{
	my ($self, $sql, $database) = @_;
	local $ENV{PGOPTIONS} = '-c statement_timeout=300s -c client_min_messages=warning';
	local $ENV{PGCONNECT_TIMEOUT} = 30;
	my ($status, $out, $err) = run_command($sql, $self->psql_command($database));

	chomp $out;
	return ($status, $out, $err);
}

# Run SQL that has to succeed; returns its output.
sub query
{
	my ($self, $sql, $database) = @_;
	my ($status, $out, $err) = $self->psql($sql, $database);

	die "$err\nin: $sql\n" if $status;
	return $out;
}

# Run the query until it answers "t"; also while the server is down.  Returns whether it did within $timeout seconds.
sub wait_until
{
	my ($self, $sql, $timeout) = @_;

	return wait_for(sub { ($self->psql($sql))[1] eq 't' }, $timeout) ? 1 : 0;
}

sub log
{
	my ($self) = @_;

	return Velo::Process::slurp($self->{logfile});
}

sub log_tail
{
	my ($self) = @_;
	my @lines = split /^/, $self->log;

	return join '', @lines > 30 ? @lines[ -30 .. -1 ] : @lines;
}

# What no server may ever have in its log, whatever is tested: a failed assertion, and what sanitizers and valgrind report.
END
{
	for my $server (grep { $_->{owner} == $$ } @servers)
	{
		my ($line) = $server->log =~ /^(.*(?:TRAP: |AddressSanitizer: |runtime error: |VALGRIND-ERROR).*)$/m or next;

		print STDERR "in $server->{logfile}: $line\n";
		$? ||= 1;
	}
}

# Address of the development broker.
sub dev_brokers
{
	my ($self) = @_;

	return "127.0.0.1:$self->{broker_port}";
}

1;
