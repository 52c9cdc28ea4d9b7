# Velo::Soak - a server with continuous queries, a broker behind a bad line, and a load, of which faults (Velo::Soak::Faults)
# may take any part away; and the question whether all is as it should be.
#
#   my $soak = Velo::Soak->new(seed => 17);
#   $soak->round(@faults);       # dies if something is wrong
#
# A round lets the load go on, brings faults about, ends them, stops the load, and waits until the queries have caught up.
# Then everything must be right: rows, figures, processes, memory, descriptors, locks, connections.  What is right is
# PostgreSQL's own answer over what the topics hold, as a consumer of the soak's own reads them into tables.
#
# After some rounds topics and queries are dropped, of which nothing may be left, and made anew: a *life*.  So hours are
# not slower than minutes.

package Velo::Soak;

use strict;
use warnings;

use List::Util qw(sum max);
use Time::HiRes qw(sleep);
use Velo::Disk;
use Velo::Kafka;
use Velo::Process qw(wait_for spawn run_command children scratch_dir);
use Velo::Proxy;
use Velo::Server;
use Velo::Soak::Load;
use Velo::Soak::Queries qw(queries);

use constant {
	LIFE => 6,    # rounds
	CATCH_UP => 240,    # seconds that queries have to catch up
	CALM_DOWN => 60,    # seconds that all else has to become as it should, if nothing else is said
	DISK_SIZE => '3g',
	# of one process, in MB: beyond pipeline_memory, of which most have PIPELINE_MEMORY
	PIPELINE_MEMORY => 32,
	OVERHEAD => 80,
	MEMORY_OF_OTHERS => 32,
	# descriptors of sockets, pipes and the like of one process: those of librdkafka for each stream, and PostgreSQL's
	DESCRIPTORS => 30,
	# of a pipeline, for each stream: the bootstrap server, the broker, the coordinator of its group
	CONNECTIONS => 4,
	LOG_LINES => 6000    # of one round
};

# name of a topic (and stream) => partitions, key, true if some of its records are no JSON
my %topics = (
	trades => {partitions => 4, key => 'k', spoilt => 1},
	orders => {partitions => 3, spoilt => 1},
	volatile => {partitions => 2, spoilt => 0});

# Why no soak is possible; undef if it is.
sub missing { return Velo::Kafka->missing; }

# options: seed, patience (CALM_DOWN)
sub new
{
	my ($class, %options) = @_;
	my $proxy = Velo::Proxy->new;
	my $no_disk = Velo::Disk->missing;
	my $self = bless {
		patience => $options{patience} // CALM_DOWN,
		rounds => 0,
		proxy => $proxy,
		no_disk => $no_disk,
		disk => $no_disk ? undef : Velo::Disk->new(DISK_SIZE),
		kafka => Velo::Kafka->new(
			listeners => {PROXY => 'PLAINTEXT'},
			advertised => {PROXY => $proxy->address},
			properties => {'message.max.bytes' => 2 * Velo::Soak::Load::LARGE})
	}, $class;

	$proxy->forward_to($self->{kafka}{ports}{PROXY});
	$self->{pg} = Velo::Server->new(
		disk => $self->{disk},
		start => 0,
		conf => {
			TimeZone => 'UTC',
			autovacuum_naptime => '5s',
			shared_buffers => '256MB',
			checkpoint_timeout => '30s',
			min_wal_size => '32MB',
			max_wal_size => '64MB',
			'velo.pipeline_memory' => PIPELINE_MEMORY . 'MB',
			'velo.retry_max_delay' => '1s'
		});
	$self->move_log if $self->{disk};
	$self->{pg}->start;
	$self->{load} = Velo::Soak::Load->new($self->{kafka}, $options{seed});
	$self->{pg}->query(<<"SQL");
@{[$self->{disk} ? "CREATE TABLESPACE small LOCATION '$self->{disk}{dir}/tables'; SET default_tablespace = small;" : '']}
CREATE EXTENSION velo;
CREATE ROLE keeper LOGIN;
GRANT USAGE ON FOREIGN SERVER velo TO keeper;
GRANT ALL ON SCHEMA public TO keeper;
CREATE TABLE labels AS SELECT m, 'label ' || m AS label FROM generate_series(0, 9, 2) AS m;
GRANT SELECT ON labels TO keeper;
@{[$self->{disk} ? 'GRANT CREATE ON TABLESPACE small TO keeper;' : '']}

-- what the topics hold, as the soak sees it
SET default_tablespace = '';
CREATE SCHEMA seen;
CREATE TABLE seen.raw (p int, o bigint, key text, at bigint, value text);
CREATE TABLE seen.record (topic text, p int, o bigint, kind text, id bigint, k text, v int, ts timestamptz, pad text);
CREATE INDEX ON seen.record (topic);
CREATE TABLE seen.lost (id bigint);

-- how velo wrote each result
CREATE TABLE seen.written (relation regclass, operation text);
CREATE FUNCTION seen.witness() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
	'BEGIN IF current_setting(''application_name'') = ''velo'' THEN INSERT INTO seen.written VALUES (TG_RELID, TG_OP); END IF; RETURN NULL; END';

CREATE SCHEMA oracle;
SQL
	for my $name (sort keys(%topics), 'kept', 'strict')
	{
		my $delay = Velo::Soak::Load::DELAY;

		$self->{pg}->query(<<"SQL");
CREATE VIEW oracle.$name AS SELECT p, o, id, k, v, ts, pad FROM seen.record WHERE topic = '$name' AND kind = 'good';
CREATE VIEW oracle.in_order_$name AS
	SELECT *, coalesce(max(ts) OVER (PARTITION BY p ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
		- interval '$delay s', '-infinity') AS watermark
	FROM oracle.$name;
CREATE VIEW oracle.closed_$name AS
	SELECT min(latest) - interval '$delay s' AS upto FROM (SELECT max(ts) AS latest FROM oracle.$name GROUP BY p) AS partitions;
SQL
	}
	$self->begin_life;
	return $self;
}

# The write-ahead log goes to the small disk as well.
sub move_log
{
	my ($self) = @_;
	my ($data, $dir) = ($self->{pg}{data}, $self->{disk}{dir});
	my ($status, undef, $error) = run_command('', $self->{disk}->inside('KILL', 'sh', '-c',
		'mkdir "$1/tables" && mv "$0/pg_wal" "$1/pg_wal" && ln -s "$1/pg_wal" "$0/pg_wal"', $data, $dir));

	die "could not move the log: $error" if $status;
	return;
}

# ---------------------------------------------------------------- lives

sub begin_life
{
	my ($self) = @_;
	my $pg = $self->{pg};

	$self->{topics} = {map { $_ => {%{ $topics{$_} }, positions => []} } keys %topics};
	$self->{queries} = [ queries() ];
	for my $name (sort keys %{ $self->{topics} })
	{
		my $topic = $self->{topics}{$name};
		my $key = $topic->{key} ? "key => '$topic->{key}', " : '';

		$self->create_topic($name);
		$pg->query(<<"SQL");
SET ROLE keeper;
SELECT velo.create_stream('$name', columns => 'id bigint, k text, v int, ts timestamptz, pad text', $key
	brokers => '@{[$self->{proxy}->address]}', event_time => 'ts', watermark => '@{[Velo::Soak::Load::DELAY]} s',
	options => '{"idle_timeout": "0", "partitions_refresh": "1 s"}');
SQL
	}
	$self->create_query($_) for @{ $self->{queries} };
	return;
}

sub create_topic
{
	my ($self, $name) = @_;
	my $topic = $self->{topics}{$name};

	$topic->{partitions} = $topics{$name}{partitions};
	$topic->{positions} = [ (0) x $topic->{partitions} ];
	wait_for(
		sub {
			# as long as one of that name is being deleted, there can't be another
			($self->{kafka}->tool('', 'create', $name, $topic->{partitions}, 'max.message.bytes=' . 2 * Velo::Soak::Load::LARGE))[0] == 0;
		},
		CALM_DOWN) or die "could not create topic $name\n";
	return;
}

sub create_query
{
	my ($self, $query) = @_;
	my ($target) = ($query->{target} // '') =~ /^CREATE TABLE (\w+)/;
	my $options = join ', ', map { qq("$_": "$query->{options}{$_}") } sort keys %{ $query->{options} };

	$query->{result} = $target // $query->{name};
	$self->{pg}->query(join "\n",
		'SET ROLE keeper;', $self->{disk} ? 'SET default_tablespace = small;' : '', 'BEGIN;', $target ? "$query->{target};" : '',
		"SELECT velo.create_query('$query->{name}', \$q\$$query->{text}\$q\$, pipelines => $query->{pipelines}, "
		  . ($target ? "target => '$target', " : '') . "options => '{$options}');",
		'RESET ROLE;',
		"CREATE TRIGGER witness AFTER INSERT OR UPDATE OR DELETE ON $query->{result} FOR EACH ROW EXECUTE FUNCTION seen.witness();",
		'COMMIT;');
	return;
}

# Drop everything, of which nothing may be left.
sub end_life
{
	my ($self) = @_;
	my $pg = $self->{pg};

	$pg->query('SELECT velo.drop_query(name) FROM velo.queries');
	$pg->query("DROP FOREIGN TABLE @{[join ', ', sort keys %topics]}");
	$pg->query("DROP TABLE IF EXISTS $_") for map { $_->{result} } @{ $self->{queries} };
	$pg->query('TRUNCATE seen.record, seen.lost, seen.written');
	for my $name (sort keys %topics)
	{
		$self->{load}->forget($name);
		$self->{kafka}->delete_topic($name);
	}
	for my $table (split /\n/, $pg->query(q{SELECT relname FROM pg_class WHERE relnamespace = 'velo'::regnamespace AND relkind = 'r'}))
	{
		$self->becomes("rows in velo.$table", sub { $pg->query("SELECT count(*) FROM velo.$table") }, 0);
	}
	$self->becomes('pipelines and schedulers', sub { scalar $self->pids('pipeline') + $self->pids('scheduler') }, 0);
	$self->becomes('connections to the broker', sub { $self->{proxy}->connections }, 0);
	return;
}

# ---------------------------------------------------------------- what the topics hold

# Read what is new in a topic into table seen.record.  Returns how many records it has had.
sub see
{
	my ($self, $name) = @_;
	my $topic = $self->{topics}{$name};
	my $records = $self->{kafka}->consume($name, @{ $topic->{positions} });

	while ($records =~ /^(\d+)\t(\d+)/mg)
	{
		my $position = \$topic->{positions}[$1];

		$$position = $2 + 1 if $2 >= $$position;
	}
	# what is known of the volatile topic is known of two queries that differ in what they make of it
	my $known_as = $name eq 'volatile' ? q{unnest(ARRAY['kept', 'strict'])} : "'$name'";

	$self->{pg}->query(<<"SQL");
TRUNCATE seen.raw;
COPY seen.raw FROM STDIN;
$records\\.
INSERT INTO seen.record
SELECT $known_as, p, o, kind, (json->>'id')::bigint, json->>'k', (json->>'v')::int, (json->>'ts')::timestamptz, json->>'pad'
FROM (SELECT *, CASE WHEN value IS NULL THEN 'tombstone' WHEN value LIKE '{%}' THEN 'good' ELSE 'bad' END AS kind,
		CASE WHEN value LIKE '{%}' THEN value::json END AS json FROM seen.raw) AS r;
SQL
	return sum @{ $topic->{positions} };
}

# ---------------------------------------------------------------- what faults do things to

# Regular expressions of what the processes of the server call themselves.
my %titles = (
	pipeline => qr/^postgres: velo pipeline/,
	scheduler => qr/^postgres: velo scheduler/,
	launcher => qr/^postgres: velo launcher/,
	'client backend' => qr/^postgres: \w+ \w+ \[local\]/);

# Ids of the processes of a kind: of %titles, "postmaster" or "broker".  Nobody is asked but the operating system, so it
# works whatever has happened to the server.
sub pids
{
	my ($self, $kind) = @_;

	return $self->{pg}->alive ? $self->{pg}{pid} : () if $kind eq 'postmaster';
	return $self->{kafka}{pid} if $kind eq 'broker';
	return grep { Velo::Process::slurp("/proc/$_/cmdline") =~ $titles{$kind} } children($self->{pg}{pid});
}

# Run SQL that may fail, for the server may be in any state.
sub try
{
	my ($self, $sql) = @_;

	return $self->{pg}->psql($sql);
}

# A session that runs a script while others go on; it is nobody's business whether it gets to its end.
sub session
{
	my ($self, $script) = @_;
	my $file = scratch_dir('session') . '/script.sql';

	open my $out, '>', $file or die "$file: $!\n";
	print $out $script;
	close $out or die "$file: $!\n";
	push @{ $self->{sessions} }, spawn("$file.log", 'KILL', $self->{pg}->psql_command, '-f', $file);
	return;
}

sub end_sessions
{
	my ($self) = @_;

	Velo::Process::finish($_, 'TERM') for @{ $self->{sessions} };
	$self->{sessions} = [];
	return;
}

sub results { my ($self) = @_; return map { $_->{result} } @{ $self->{queries} }; }

# Start the server that a fault has stopped.  Without room on its disk PostgreSQL may refuse; it is revived in the end.
sub start_server
{
	my ($self) = @_;

	eval { $self->{pg}->start; 1 } or $self->{full} or die $@;
	return;
}

# The server runs and answers, whatever has happened to it.
sub revive
{
	my ($self) = @_;

	$self->{pg}->start unless $self->{pg}->alive;
	return if $self->{pg}->wait_until('SELECT true', CALM_DOWN);
	die "the server does not answer\n" if $self->{pg}->alive;
	$self->{pg}->start;
	return;
}

# Go on with the load.
sub feed
{
	my ($self, @names) = @_;

	$self->{load}->feed($_, @{ $self->{topics}{$_} }{qw(partitions spoilt)}) for @names;
	return;
}

# ---------------------------------------------------------------- a round

sub round
{
	my ($self, @faults) = @_;
	my $log_size = -s $self->{pg}{logfile};

	if ($self->{rounds} && $self->{rounds} % LIFE == 0)
	{
		$self->end_life;
		$self->begin_life;
	}
	$self->{rounds}++;
	$self->feed(sort keys %topics);
	$self->session(qq{SELECT name, state, records_in FROM velo.queries \\watch 0.2\n});
	$self->session(qq{SELECT count(*) FROM volatile \\watch 1\n});

	my @healing;

	for my $fault (@faults)
	{
		# faults overlap, but they do not begin at once
		sleep rand 0.5;
		unshift @healing, $fault if $fault->{heal};
		$fault->{do}->($self, $fault);
	}
	sleep 0.5 + rand 3;
	$_->{heal}->($self, $_) for @healing;
	$self->end_sessions;
	$self->{load}->hold(sort keys %topics);
	$self->revive;
	$self->settle;
	$self->check(join '|', map { $_->{allows} // () } @faults);

	my $lines = () = $self->log_since($log_size) =~ /\n/g;

	die "$lines lines in the log of one round\n" if $lines > LOG_LINES;
	return 1;
}

sub log_since
{
	my ($self, $position) = @_;

	return substr $self->{pg}->log, $position;
}

sub settle
{
	my ($self) = @_;

	for my $query (@{ $self->{queries} })
	{
		my ($status, $out, $error);

		# a broker that is just coming back may not tell at once how far its topics go
		wait_for(
			sub {
				($status, $out, $error) = $self->{pg}->psql("SELECT velo.wait('$query->{name}', '@{[CATCH_UP]} s')");
				return $out eq 't' || $error =~ /has failed|is paused/;
			},
			CATCH_UP);
		next if $out eq 't';
		die "$query->{name} does not catch up: $error\n"
		  . $self->{pg}->query("SELECT name, state, lag, error, error_sqlstate FROM velo.queries WHERE name = '$query->{name}'") . "\n";
	}
	$self->see($_) or die "no records came through topic $_\n" for sort keys %topics;
	return;
}

# ---------------------------------------------------------------- is all as it should be?

# Something becomes what it should be, within a time.
sub becomes
{
	my ($self, $what, $is, $should) = @_;
	my $found;

	wait_for(sub { $found = $is->(); return $found eq $should }, $self->{patience});
	die "$what: $found, and not $should\n" if $found ne $should;
	return;
}

sub is_at_most
{
	my ($what, $is, $limit) = @_;

	die "$what: $is, and not $limit at most\n" if $is > $limit;
	return;
}

# Dies with what is wrong.  $allowed, if given: a regular expression of alarming lines in the log that the faults are to blame for.
sub check
{
	my ($self, $allowed) = @_;

	$self->check_query($_) for @{ $self->{queries} };
	$self->check_processes;
	$self->check_locks;
	$self->check_log($allowed // '');
	return;
}

# What the server answers, with the oracle's tables instead of streams.
sub ask_oracle
{
	my ($self, $sql) = @_;

	return $self->{pg}->query("SET search_path = oracle, public; $sql");
}

sub check_query
{
	my ($self, $query) = @_;
	my ($name, $result) = @$query{qw(name result)};
	my $read = join ', ', map { "'$_'" } @{ $query->{records} };
	my $count = sub { my ($kind) = @_; return "(SELECT count(*) FROM seen.record WHERE topic IN ($read) AND kind $kind)" };

	# counters, of which rows_out counts rows only where each is written once
	my $rows_out = $query->{final} || $query->{text} !~ /GROUP BY/;
	my $figures = sub { my ($rows) = @_; return "concat_ws(' ', state, records_in, tombstones, dead_letters, skipped, late, lag, error"
		  . ($rows_out ? ", $rows)" : ')'); };
	my $expected = $self->ask_oracle("SELECT concat_ws(' ', 'running', @{[$count->('IS NOT NULL')]}, @{[$count->(q{= 'tombstone'})]}, "
		  . "@{[$count->(q{= 'bad'})]} + ($query->{failing}), ($query->{skipped}), ($query->{late}), 0"
		  . ($rows_out ? ", (SELECT count(*) FROM ($query->{oracle}) AS r))" : ')'));

	$self->becomes("$name: state, records_in, tombstones, dead_letters, skipped, late, lag, error, rows_out",
		sub { $self->{pg}->query("SELECT @{[$figures->('rows_out')]} FROM velo.queries WHERE name = '$name'") }, $expected);
	$self->becomes("$name: dead letters", sub { $self->{pg}->query("SELECT count(*) FROM velo.dead_letters WHERE query = '$name'") },
		(split ' ', $expected)[3]);

	# rows, of the columns that the query has made
	my $columns = $self->ask_oracle(<<"SQL");
CREATE TEMP VIEW v AS $query->{oracle};
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'v'::regclass AND attnum > 0
SQL
	my $differ = $self->ask_oracle(<<"SQL");
WITH o AS MATERIALIZED ($query->{oracle}), r AS MATERIALIZED (SELECT $columns FROM public.$result),
	difference AS (SELECT 'missing' AS how, * FROM (TABLE o EXCEPT ALL TABLE r) AS missing
		UNION ALL SELECT 'too much', * FROM (TABLE r EXCEPT ALL TABLE o) AS surplus)
SELECT count(*) OVER (), left(difference::text, 500) FROM difference ORDER BY 2 LIMIT 10
SQL
	die "$name: rows differ from PostgreSQL's answer:\n$differ\n" if $differ ne '';

	if ($query->{final})
	{
		my $written = $self->ask_oracle("SELECT operation, count(*) FROM seen.written WHERE relation = 'public.$result'::regclass GROUP BY 1");
		my $rows = $self->ask_oracle("SELECT count(*) FROM public.$result");

		die "$name: not each of $rows rows was written once: $written\n" if $written ne ($rows ? "INSERT|$rows" : '');
	}
	return;
}

sub status_of
{
	my ($pid, $what) = @_;

	return Velo::Process::slurp("/proc/$pid/status") =~ /^$what:\s+(\d+)/m ? $1 : 0;
}

# Descriptors of a process that are no files.
sub descriptors_of
{
	my ($pid) = @_;

	return scalar grep { (readlink($_) // '') =~ /^(?:socket|pipe|anon_inode):/ } glob "/proc/$pid/fd/*";
}

sub check_processes
{
	my ($self) = @_;
	my $pg = $self->{pg};
	my @queries = @{ $self->{queries} };

	$self->becomes('launcher, scheduler', sub { join ', ', map { scalar $self->pids($_) } qw(launcher scheduler) }, '1, 1');
	$self->becomes('processes that are no pipeline of a query, or queries without one',
		sub {
			my %running = map { $_ => 1 } $self->pids('pipeline');
			my @shown = split /\n/, $pg->query('SELECT coalesce(pid, 0) FROM velo.pipelines');
			my $unknown = grep { !delete $running{$_} } @shown;

			return $unknown + keys %running;
		}, 0);
	$self->becomes('processes of an earlier server',
		sub {
			# one that has just ended may not have gone yet
			my %family = map { $_ => 1 } $pg->{pid}, children($pg->{pid});
			return join ' ', grep { !$family{$_} && Velo::Process::is_running($_) && (readlink "/proc/$_/cwd" // '') eq $pg->{data} }
			  map { m{(\d+)$} } glob '/proc/[0-9]*';
		}, '');

	my $streams = max map { scalar @{ $_->{streams} } } @queries;

	for my $kind (qw(pipeline scheduler launcher postmaster))
	{
		for my $pid ($self->pids($kind))
		{
			my $memory = status_of($pid, 'RssAnon') / 1024;

			is_at_most("MB of a $kind", $memory, $kind eq 'pipeline' ? PIPELINE_MEMORY + OVERHEAD : MEMORY_OF_OTHERS);
			is_at_most("descriptors of a $kind", descriptors_of($pid), $kind eq 'pipeline' ? DESCRIPTORS * $streams : DESCRIPTORS);
			$self->{most}{"MB of a $kind"} = max($memory, $self->{most}{"MB of a $kind"} // 0);
			$self->{most}{"descriptors of a $kind"} = max(descriptors_of($pid), $self->{most}{"descriptors of a $kind"} // 0);
		}
	}
	my $connections = sum(map { $pg->query("SELECT pipelines FROM velo.queries WHERE name = '$_->{name}'") * @{ $_->{streams} } } @queries);
	my $found;

	wait_for(sub { ($found = $self->{proxy}->connections) <= CONNECTIONS * $connections }, $self->{patience});
	is_at_most('connections to the broker', $found, CONNECTIONS * $connections);
	$self->{most}{connections} = max($found, $self->{most}{connections} // 0);
	return;
}

sub check_locks
{
	my ($self) = @_;
	my $pg = $self->{pg};

	$self->becomes('locks and snapshots of velo', sub { $pg->query(<<'SQL') }, '');
SELECT a.backend_type, l.locktype, l.relation::regclass, l.mode
FROM pg_stat_activity AS a LEFT JOIN pg_locks AS l USING (pid)
WHERE a.backend_type LIKE 'velo %' AND (l.pid IS NOT NULL OR a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)
SQL
	$self->becomes('temporary files', sub { $pg->query('SELECT count(*) FROM pg_ls_tmpdir()') }, 0);
	return;
}

# What velo's processes are doing now, where gdb tells, for somebody who looks into a failure.
sub keep_stacks
{
	my ($self) = @_;

	for my $pid (map { $self->pids($_) } qw(launcher scheduler pipeline))
	{
		my ($status, $stacks) = run_command('', 'gdb', '-p', $pid, '-batch', '-ex', 'thread apply all bt');

		open my $out, '>', "$self->{pg}{dir}/stack.$pid" or die "stack.$pid: $!\n";
		print $out Velo::Process::slurp("/proc/$pid/cmdline") . "\n$stacks";
		close $out or die "stack.$pid: $!\n";
	}
	return;
}

sub check_log
{
	my ($self, $allowed) = @_;
	my $log = $self->log_since($self->{checked_log} // 0);

	$self->{checked_log} = -s $self->{pg}{logfile};
	for my $line ($log =~ /^.*(?:PANIC|TRAP|terminated by signal|client backend.*deadlock detected|could not (?:read|find) .*block).*$/mg)
	{
		next if $line =~ /terminated by signal 9/ || ($allowed && $line =~ /$allowed/);
		die "in the log of the server: $line\n";
	}
	return;
}

1;
