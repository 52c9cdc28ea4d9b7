# Velo::Soak::Faults - what can go wrong around velo.
#
# Of a fault:
#
#	name		what is said of it
#	part		of the world that it takes away: faults of a round are of different parts
#	do			brings it about; is called with the Velo::Soak and the fault
#	heal		ends it, where it doesn't end by itself, and sees to what is to be known of it; when all faults that came
#				later are ended
#	needs		a function that returns what is missing for it
#	allows		regular expression of lines in the server's log that it is to blame for
#	cheap		true: takes no seconds
#
# In a round those of earlier parts come first: what needs SQL before what stops the server for a while, and that before what
# stops a process, so that none makes another impossible.

package Velo::Soak::Faults;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(min shuffle);
use Time::HiRes qw(sleep);
use Velo::Process qw(run_command wait_for);

our @EXPORT_OK = qw(faults pick_faults);

my @parts = qw(tables settings rights sessions load topic disk memory network broker server workers);

sub pick { return $_[ int rand @_ ] }
sub seconds { my ($least, $most) = @_; sleep $least + rand($most - $least); return; }

# ---------------------------------------------------------------- processes

sub kill_one
{
	my ($soak, $kind) = @_;
	my @pids = $soak->pids($kind);

	kill 'KILL', pick(@pids) if @pids;
	return;
}

sub stop_one
{
	my ($soak, $fault) = @_;
	my @pids = $soak->pids($fault->{victim});

	$fault->{stopped} = @pids ? pick(@pids) : undef;
	kill 'STOP', $fault->{stopped} if $fault->{stopped};
	return;
}

sub continue_one
{
	my ($soak, $fault) = @_;

	kill 'CONT', $fault->{stopped} if $fault->{stopped};
	return;
}

# Fast, smart or immediate.
sub shut_down
{
	my ($soak, $signal) = @_;

	# a smart shutdown waits for every session
	$soak->end_sessions if $signal eq 'TERM';
	$soak->{pg}->stop($signal);
	$soak->start_server;
	return;
}

my %part_of = (postmaster => 'server', 'client backend' => 'server');
my @processes = (
	map({
			my $victim = $_;

			{name => "kill -9 of a $victim", part => $part_of{$victim} // 'workers', cheap => 1, do => sub { kill_one($_[0], $victim) }}
		} 'pipeline', 'scheduler', 'launcher', 'client backend'),
	{name => 'kill -9 of the postmaster', part => 'server', cheap => 1, do => sub { my ($soak) = @_; $soak->{pg}->kill9; $soak->start_server }},
	{
		name => 'kill -9 of the broker',
		part => 'broker',
		do => sub { my ($soak) = @_; $soak->{kafka}->kill9 },
		heal => sub { my ($soak) = @_; $soak->{kafka}->start }
	},
	map({
			{name => "SIGSTOP of a $_", victim => $_, part => $_ eq 'broker' ? 'broker' : 'workers', do => \&stop_one, heal => \&continue_one}
		} 'pipeline', 'scheduler', 'launcher', 'client backend', 'postmaster', 'broker'),
	map({
			my $signal = {smart => 'TERM', fast => 'INT', immediate => 'QUIT'}->{$_};

			{name => "$_ shutdown", part => 'server', cheap => $_ ne 'smart', do => sub { shut_down($_[0], $signal) }}
		} 'smart', 'fast', 'immediate'),
	map({
			my $function = "pg_${_}_backend";

			{
				name => "$function() of every worker",
				part => 'workers',
				cheap => 1,
				do => sub { $_[0]->try("SELECT $function(pid) FROM pg_stat_activity WHERE backend_type LIKE 'velo %'") }
			}
		} 'terminate', 'cancel'));

# ---------------------------------------------------------------- the broker, as far away

sub line_is
{
	my ($name, @mode) = @_;

	return {
		name => $name,
		part => 'network',
		cheap => 1,
		do => sub { my ($soak) = @_; $soak->{proxy}->be(@mode) },
		heal => sub { my ($soak) = @_; $soak->{proxy}->be('pass') }
	};
}

my @network = (
	line_is('the broker answers after 0.3 s', 'delay', 0.3),
	line_is('the broker answers after 2 s', 'delay', 2),
	line_is('the broker says nothing', 'stall'),
	line_is('the broker accepts no connections', 'refuse'),
	line_is('connections to the broker are cut', 'cut'),
	line_is('connections to the broker are half closed', 'half_close'));

# ---------------------------------------------------------------- resources

# As little is left of the disk as can be had while others write to it.
sub fill_disk
{
	my ($soak) = @_;
	my $disk = $soak->{disk};
	my $room = pick(0, 100, 1000, 10_000);

	$soak->{full} = 1;

	wait_for(sub {
			my ($status, $used) = run_command('', 'du', '-sk', "/proc/$disk->{pid}/root$disk->{dir}");

			return eval { $disk->resize((split ' ', $used)[0] + $room++ . 'k'); 1 };
		}, 10)
	  or die "could not fill the disk: $@";
	# from now on the log needs room, too
	$soak->try('SELECT pg_switch_wal()');
	return;
}

# Of a query that copies large records, for which there is no room then.  The limit is a soft one, which we may raise again.
sub limit_memory
{
	my ($soak, $fault) = @_;
	my @copying = grep { Velo::Process::slurp("/proc/$_/cmdline") =~ /query exclusive/ } $soak->pids('pipeline');
	my $pid = $fault->{limited} = pick(@copying) // return;
	my $size = Velo::Soak::status_of($pid, 'VmData') * 1024 + pick(0, 1, 4) * 1_048_576;

	run_command('', 'prlimit', '--pid', $pid, "--data=$size:");
	$soak->{load}->produce_large('trades');
	return;
}

sub unlimit_memory
{
	my ($soak, $fault) = @_;

	run_command('', 'prlimit', '--pid', $fault->{limited}, '--data=unlimited:') if $fault->{limited};
	return;
}

my @resources = (
	{
		name => 'the disk of tables and log is full',
		part => 'disk',
		needs => sub { $_[0]->{no_disk} },
		# without room for its log PostgreSQL itself gives up, until there is some
		allows => 'PANIC:.*No space left on device|terminated by signal 6',
		do => \&fill_disk,
		heal => sub {
			my ($soak) = @_;

			$soak->{disk}->resize($soak->DISK_SIZE);
			$soak->{full} = 0;
			$soak->revive;
		}
	},
	{
		name => 'no temporary files',
		part => 'settings',
		cheap => 1,
		do => sub { $_[0]->try(q{ALTER SYSTEM SET temp_file_limit = 0; ALTER SYSTEM SET work_mem = '64kB'; SELECT pg_reload_conf()}) },
		heal => \&reset_settings
	},
	{
		name => 'a pipeline gets no more memory',
		part => 'memory',
		# some of librdkafka's own allocations can't fail
		allows => 'terminated by signal (?:6|11)',
		do => \&limit_memory,
		heal => \&unlimit_memory
	});

# ---------------------------------------------------------------- topics

# New partitions get records when all queries know of them, as they would be late if their windows were closed by then.
sub grow_topic
{
	my ($soak, $fault) = @_;
	my $name = $fault->{grown} = pick('trades', 'orders');

	$soak->{kafka}->grow_topic($name, ++$soak->{topics}{$name}{partitions});
	return;
}

sub wait_for_growth
{
	my ($soak, $fault) = @_;
	my $name = $fault->{grown} // return;
	my $topic = $soak->{topics}{$name};

	push @{ $topic->{positions} }, 0;
	$soak->revive;
	$soak->becomes("queries that do not know of the new partition of $name", sub { ($soak->try(<<"SQL"))[1] }, 0);
SELECT count(*) FROM (SELECT FROM velo.partitions WHERE topic = '$name' GROUP BY query HAVING count(*) <> $topic->{partitions}) AS q
SQL
	$soak->feed($name);
	return;
}

# Nobody else may read or write the topic while it is being thought about what is missing of it.
sub freeze_volatile
{
	my ($soak) = @_;

	$soak->{load}->hold('volatile');
	$soak->see('volatile');
	return;
}

# As retention does, but at once.
sub trim_topic
{
	my ($soak, $fault) = @_;
	my $topic = $soak->{topics}{volatile};

	freeze_volatile($soak);
	$fault->{low} = [ map { int rand $_ + 1 } @{ $topic->{positions} } ];
	$soak->{kafka}->trim_topic('volatile', $_, $fault->{low}[$_]) for 0 .. $topic->{partitions} - 1;
	$soak->feed('volatile');
	return;
}

# Records that the query "kept" has not read before they went: nobody can have them any more.
sub forget_lost
{
	my ($soak, $condition, $counted) = @_;
	my $lost = "SELECT id FROM seen.record WHERE topic = 'kept' AND ($condition) EXCEPT SELECT id FROM kept";

	$soak->{pg}->query("INSERT INTO seen.lost $lost") if $counted;
	$soak->{pg}->query("DELETE FROM seen.record WHERE topic = 'kept' AND id IN ($lost)");
	return;
}

# The query "strict" fails where records are missing, says which, and begins anew when told to; or had read them already.
# $condition: what of the topic's records there is.
sub settle_strict
{
	my ($soak, $condition) = @_;
	my $pg = $soak->{pg};
	my ($status, $out, $error);

	wait_for(sub { ($status, $out, $error) = $pg->psql(q{SELECT velo.wait('strict')}); return $out eq 't' || $error =~ /has failed/ }, $soak->CATCH_UP);
	return if $out eq 't';
	die "strict: $error\n" unless $error =~ /offset \d+ of partition \d+ of topic "volatile" is not in the log/;
	$pg->query(q{SELECT velo.restart_query('strict', 'earliest')});
	$pg->query("DELETE FROM seen.record WHERE topic = 'strict' AND NOT ($condition)");
	return;
}

sub settle_trimmed
{
	my ($soak, $fault) = @_;
	my $low = join ' OR ', map { "(p = $_ AND o < $fault->{low}[$_])" } 0 .. $#{ $fault->{low} };

	$soak->revive;
	freeze_volatile($soak);
	wait_for(sub { ($soak->try(q{SELECT velo.wait('kept')}))[1] eq 't' }, $soak->CATCH_UP);
	forget_lost($soak, $low, 1);
	settle_strict($soak, "NOT ($low)");
	$soak->feed('volatile');
	return;
}

sub make_topic_anew
{
	my ($soak, $fault) = @_;

	freeze_volatile($soak);
	$soak->{load}->forget('volatile');
	$soak->{kafka}->delete_topic('volatile');
	if (rand() < 0.5)
	{
		# long enough for its pipelines to miss it, or not
		seconds(0, 3);
	}
	$soak->create_topic('volatile');
	$fault->{last} = $soak->{pg}->query('SELECT coalesce(max(id), 0) FROM seen.record');
	return;
}

# Where librdkafka tells no topic from another of its name, only that it has fewer records shows that it is new; so it
# gets none until it was noticed.
sub settle_new_topic
{
	my ($soak, $fault) = @_;

	return unless defined $fault->{last};
	$soak->revive;
	wait_for(sub {
			($soak->try(q{SELECT bool_and(committed_offset = 0) FROM velo.partitions WHERE query = 'kept'}))[1] eq 't'
		}, $soak->CATCH_UP)
	  or die "kept: does not notice that its topic is a new one\n";
	forget_lost($soak, "id <= $fault->{last}", 0);
	settle_strict($soak, "id > $fault->{last}");
	$soak->feed('volatile');
	return;
}

my @topics = (
	{name => 'a topic gets another partition', part => 'topic', do => \&grow_topic, heal => \&wait_for_growth},
	{name => 'a topic loses records', part => 'topic', do => \&trim_topic, heal => \&settle_trimmed},
	{name => 'a topic is deleted and made anew', part => 'topic', do => \&make_topic_anew, heal => \&settle_new_topic},
	{
		name => 'records of 10 MB',
		part => 'load',
		do => sub { my ($soak) = @_; $soak->{load}->produce_large($_) for qw(trades orders) }
	});

# ---------------------------------------------------------------- other people's sessions

sub pick_result { my ($soak) = @_; return pick($soak->results); }

# Locks on a result, for some seconds.
sub hold_lock
{
	my ($soak) = @_;
	my $mode = pick('ACCESS EXCLUSIVE', 'EXCLUSIVE', 'SHARE', 'SHARE ROW EXCLUSIVE');

	$soak->session("BEGIN; LOCK TABLE $_ IN $mode MODE; SELECT pg_sleep(@{[1 + rand 3]}); COMMIT;\n") for pick_result($soak);
	return;
}

# Locks on its rows.
sub hold_rows
{
	my ($soak) = @_;

	$soak->session("BEGIN; SELECT 1 FROM $_ FOR UPDATE; SELECT pg_sleep(@{[1 + rand 3]}); COMMIT;\n") for pick_result($soak), pick_result($soak);
	return;
}

# Two sessions that update rows of a result one by one, in an order that isn't a pipeline's, and another table's between.
sub cause_deadlocks
{
	my ($soak) = @_;

	for my $order ('DESC', 'ASC')
	{
		$soak->session(<<"SQL");
DO \$\$
DECLARE
	which text;
BEGIN
	FOR which IN SELECT k FROM exclusive ORDER BY k $order LIMIT 30 LOOP
		UPDATE exclusive SET k = k WHERE k = which;
		PERFORM pg_sleep(0.02);
		UPDATE united SET k = k WHERE k = which;
	END LOOP;
END \$\$ \\watch 0.1
SQL
	}
	return;
}

# What an administrator may do to a result.
sub change_tables
{
	my ($soak) = @_;
	my @statements = map {
		my $table = $_;
		my $index = "(SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '$table'::regclass LIMIT 1)";

		"VACUUM FULL $table", "VACUUM (FREEZE, ANALYZE) $table", "REINDEX TABLE $table", "REINDEX TABLE CONCURRENTLY $table",
		  "ALTER TABLE $table ADD COLUMN IF NOT EXISTS added_text text DEFAULT 'some'",
		  "ALTER TABLE $table ADD COLUMN IF NOT EXISTS added_time timestamptz DEFAULT clock_timestamp()",
		  "ALTER TABLE $table DROP COLUMN IF EXISTS added_text",
		  "ALTER TABLE $table SET (fillfactor = @{[pick(10, 50, 100)]}, autovacuum_vacuum_threshold = 1)",
		  "DO \$\$ BEGIN EXECUTE 'CLUSTER $table USING ' || $index; EXCEPTION WHEN undefined_object OR null_value_not_allowed THEN NULL; END \$\$",
		  "DO \$\$ BEGIN EXECUTE (SELECT format('ALTER TABLE $table ALTER %I SET STORAGE EXTERNAL, ALTER %1\$I SET STATISTICS 10', attname)
			FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped AND attlen = -1 LIMIT 1); END \$\$",
		  "ALTER TABLE $table RENAME TO renamed; ALTER TABLE renamed RENAME TO $table"
	} pick_result($soak), pick_result($soak);

	push @statements, map { "VACUUM FULL velo.$_" } qw(query_partition query_state query_group query_run query_pipeline query_key);
	# each by itself, for VACUUM is not to stand in a transaction; and a wait is the pipeline's fault only in the end
	$soak->session(join ";\n", (shuffle @statements)[ 0 .. 9 ], '');
	return;
}

my @sessions = (
	{name => "somebody locks a result", part => 'sessions', cheap => 1, do => \&hold_lock},
	{name => "somebody locks rows of results", part => 'sessions', cheap => 1, do => \&hold_rows},
	{name => "somebody causes deadlocks", part => 'sessions', cheap => 1, do => \&cause_deadlocks},
	{name => "somebody reorganizes and alters results", part => 'tables', cheap => 1, do => \&change_tables});

# ---------------------------------------------------------------- settings

sub reset_settings
{
	my ($soak) = @_;

	$soak->revive;
	$soak->{pg}->query('ALTER SYSTEM RESET ALL');
	$soak->{pg}->query('SELECT pg_reload_conf()');
	return;
}

# Every setting of velo's that a reload changes, to a random one of its values.
sub change_settings
{
	my ($soak) = @_;
	my $settings = ($soak->try(q{SELECT name, vartype, min_val, max_val, boot_val FROM pg_settings WHERE name LIKE 'velo.%' AND context = 'sighup'}))[1];
	my @changes;

	for my $line (split /\n/, $settings)
	{
		my ($name, $type, $least, $most, $default) = split /\|/, $line;
		my $value = $type eq 'bool' ? pick('on', 'off') : pick($least, $default, min($most, 3 * $default + 1), min($most, 100_000));

		push @changes, "ALTER SYSTEM SET $name = '$value';";
	}
	$soak->try("$_") for @changes, 'SELECT pg_reload_conf()';
	return;
}

my @settings = (
	{name => 'ALTER SYSTEM of every setting', part => 'settings', cheap => 1, do => \&change_settings, heal => \&reset_settings},
	{
		name => 'too few worker slots',
		part => 'server',
		do => sub { my ($soak) = @_; $soak->try('ALTER SYSTEM SET velo.max_pipelines = ' . pick(1, 3, 10)); shut_down($soak, 'INT') },
		heal => sub { my ($soak) = @_; reset_settings($soak); shut_down($soak, 'INT') }
	},
	{
		name => "time-outs of the owner's role",
		part => 'rights',
		cheap => 1,
		do => sub {
			my ($soak) = @_;

			$soak->try("ALTER ROLE keeper SET $_ = '1ms'") for qw(statement_timeout lock_timeout idle_in_transaction_session_timeout);
			$soak->try(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'velo pipeline'});
		},
		heal => sub { my ($soak) = @_; $soak->revive; $soak->{pg}->query('ALTER ROLE keeper RESET ALL') }
	});

# ---------------------------------------------------------------- all

my @faults = (@sessions, @settings, @topics, @resources, @network, @processes);

# Those whose names match, and that are possible; what is missing for the others is said to $say.
sub faults
{
	my ($soak, $pattern, $say) = @_;
	my @chosen = grep { $_->{name} =~ /$pattern/i } @faults;

	$say->("NOT TRIED: $_->{name}: " . $_->{needs}->($soak)) for grep { $_->{needs} && $_->{needs}->($soak) } @chosen;
	return grep { !$_->{needs} || !$_->{needs}->($soak) } @chosen;
}

# One or some of them, each of another part, in the order in which they come.
sub pick_faults
{
	my ($number, @possible) = @_;
	my %of;
	my %place = map { $parts[$_] => $_ } 0 .. $#parts;

	for my $fault (shuffle @possible)
	{
		last if keys %of >= $number;
		$of{ $fault->{part} } //= {%$fault};
	}
	return sort { $place{ $a->{part} } <=> $place{ $b->{part} } } values %of;
}

1;
