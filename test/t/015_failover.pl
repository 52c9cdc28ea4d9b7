# What a database lives through: promotion of a standby, base backups, dumps and restores, copies, pg_upgrade, and other
# versions of the extension.  Wherever its rows come to, queries go on at the same record, or wait to be resumed; and
# results are PostgreSQL's own over an ordinary table of the same rows.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(wait_for run_command);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $brokers = $kafka->brokers;
# the rows of all records, and PostgreSQL's answers, are on a server of their own
my $oracle = Velo::Server->new(name => 'oracle', conf => {TimeZone => 'UTC', shared_preload_libraries => ''});
# so small that all is "under load" for a while
my %conf = (TimeZone => 'UTC', 'velo.batch_size' => 100, 'velo.commit_interval' => '5 ms', 'velo.retry_max_delay' => '1 s');

$kafka->create_topic($_, 2) for 'events', 'wide';
$oracle->query(q{
	CREATE SEQUENCE minute;
	CREATE TABLE events_rows (k int, g int, v int, ts timestamptz, broken bool);
	CREATE TABLE wide_rows (w int, pad text);
});

# name, the query, the same over the rows, options; "stored" has more groups than memory
my $good = 'events_rows WHERE NOT broken';
my @queries = (
	['appended', 'SELECT k, v FROM events WHERE v % 3 = 0', "SELECT k, v FROM $good AND v % 3 = 0", 'pipelines => 2'],
	['final', 'SELECT k, count(*) AS n, avg(v::numeric) AS a FROM events WINDOW TUMBLING(1m) GROUP BY k EMIT FINAL',
		"SELECT date_trunc('minute', ts), date_trunc('minute', ts) + '1 min', k, count(*), avg(v::numeric) FROM $good
			AND ts < date_trunc('minute', (SELECT least(max(ts) FILTER (WHERE k % 2 = 0), max(ts) FILTER (WHERE k % 2 = 1)) FROM $good)) GROUP BY 1, k",
		'pipelines => 2'],
	['merged', 'SELECT g, count(*) AS n, sum(v) AS s, count(DISTINCT k) AS d FROM events GROUP BY g',
		"SELECT g, count(*), sum(v), count(DISTINCT k) FROM $good GROUP BY g", 'pipelines => 2'],
	['stored', 'SELECT w, count(*) AS n, max(pad) AS pad FROM wide GROUP BY w', 'SELECT w, count(*), max(pad) FROM wide_rows GROUP BY w',
		q{pipelines => 1, options => '{"pipeline_memory": "8MB"}'}]);

my $expected; # by the oracle, of what is produced so far

# A number of minutes of events, the next ones; some are no JSON.
sub produce
{
	my ($minutes) = @_;
	my @rows = split /\n/, $oracle->query(qq~
		CREATE TEMP TABLE news AS SELECT i % 20 AS k, i % 7 AS g, abs(hashint8(m * 1000 + i)) % 1000 AS v,
			'2026-01-01Z'::timestamptz + m * '1 min'::interval + i * '200 ms'::interval AS ts, i = 113 AS broken
			FROM (SELECT nextval('minute') AS m FROM generate_series(1, $minutes)) AS m, generate_series(1, 200) AS i ORDER BY m, i;
		INSERT INTO events_rows SELECT * FROM news;
		SELECT k % 2, CASE WHEN broken THEN '{"k": ' ELSE row_to_json(n)::text END FROM news AS n ORDER BY ts~);

	undef $expected;
	$kafka->produce('events', [ map { my ($partition, $value) = split /\|/, $_, 2; [ $partition, undef, undef, $value ] } @rows ]);
	return;
}

# Records for "wide", of that many keys from the first one on.
sub produce_wide
{
	my ($first, $n) = @_;
	my @rows = split /\n/, $oracle->query(qq~
		CREATE TEMP TABLE news AS SELECT w, repeat(md5((w + $n)::text), 4) AS pad FROM generate_series($first, $first + $n - 1) AS w;
		INSERT INTO wide_rows SELECT * FROM news;
		SELECT row_to_json(n) FROM news AS n~);

	undef $expected;
	$kafka->produce('wide', [ map { [ 0, undef, undef, $_ ] } @rows ]);
	return;
}

# A digest of the rows of a relation
sub digest
{
	my ($rows) = @_;

	return "(SELECT count(*) || ' ' || md5(string_agg(q::text, ' ' ORDER BY q::text)) FROM $rows AS q)";
}

my @names = map { $_->[0] } @queries;

# All is processed, each record once.
sub is_right
{
	my ($pg, $what, $database) = @_;
	my $bad = '(SELECT count(*) FROM %s)';

	$expected //= $oracle->query('SELECT ' . join ' || chr(10) || ', (map { digest("($_->[2])") } @queries), sprintf $bad, 'events_rows WHERE broken');
	is($pg->query(q{SELECT velo.wait(NULL, '60 s')}, $database), 't', "$what: all is processed") or diag($pg->query('SELECT name, state, error FROM velo.queries', $database));
	is($pg->query('SELECT ' . join(' || chr(10) || ', (map { digest($_) } @names), sprintf $bad, "velo.dead_letters WHERE query = 'appended'"), $database),
		$expected, "$what: PostgreSQL's answer, and each bad record once");
	is($pg->query(q{SELECT rows_out - (SELECT count(*) FROM final) FROM velo.queries WHERE name = 'final'}, $database), 0, "$what: FINAL rows are written once");
	return;
}

sub set_up
{
	my ($pg, $database) = @_;

	$pg->query(<<"SQL", $database);
CREATE EXTENSION velo;
SELECT velo.create_stream('events', 'k int, g int, v int, ts timestamptz', brokers => '$brokers', event_time => 'ts', watermark => '0 s', key => 'k');
SELECT velo.create_stream('wide', 'w int, pad text', brokers => '$brokers', key => 'w');
SQL
	for (@queries)
	{
		my ($name, $query, undef, $options) = @$_;

		$pg->query("SELECT velo.create_query('$name', \$\$$query\$\$, $options)", $database);
	}
	return;
}

# Records read by the queries, 0 where none can be asked.
sub records_in
{
	my ($pg) = @_;

	return ($pg->psql('SELECT sum(records_in) FROM velo.queries'))[1] || 0;
}

my $pg = Velo::Server->new(name => 'primary', conf => \%conf);

set_up($pg);
produce(50);
produce_wide(1, 25_000);
is_right($pg, 'at first');
is($pg->query(q{SELECT count(*) > 0 FROM velo.query_run}), 't', 'groups have moved into runs');

# ---------------------------------------------------------------- a standby

{
	my $standby = Velo::Server->new(name => 'standby', conf => \%conf, backup_of => $pg, standby => 1);

	is($standby->query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'velo %'}), 0, 'a standby: no worker runs');
	produce(10);
	is_right($pg, 'with a standby');
	is($standby->query(q{SELECT DISTINCT state, running, error, error_hint FROM velo.queries}),
		'waiting|0|the server is in recovery|Queries go on when it is promoted.', 'a standby: velo.queries says why nothing runs');
	is_right($standby, 'a standby follows');
	is($standby->query(q{SELECT count(*), count(pid) FROM velo.pipelines}), '7|0', 'a standby: velo.pipelines');
	is($standby->query(q{SELECT sum(lag), sum(committed_offset) FROM velo.partitions WHERE query = 'merged'}),
		'0|' . $oracle->query('SELECT count(*) FROM events_rows'), 'a standby: velo.partitions');
	is($standby->query(q{SELECT count(*) FROM velo.streams}), 2, 'a standby: velo.streams');
	is($standby->query(q{SELECT count(*), sum(w) FROM wide}), $oracle->query('SELECT count(*), sum(w) FROM wide_rows'), 'a standby: a topic can be read ad hoc');
	for my $call (
		q{velo.create_query('more', 'SELECT k FROM events')},
		q{velo.create_stream('more', 'k int', brokers => 'localhost:9')},
		q{velo.drop_stream('wide')},
		q{velo.drop_query('merged')},
		q{velo.pause_query('merged')},
		q{velo.resume_query('merged')},
		q{velo.restart_query('merged', 'earliest')},
		q{velo.alter_query('merged', '{}')},
		q{velo.advance_watermark('final', now())})
	{
		my (undef, undef, $error) = $standby->psql("\\set VERBOSITY verbose\nSELECT $call");

		like($error, qr/ERROR:  25006: cannot execute .* (?:during recovery|in a read-only transaction)/, "a standby: $call");
	}
	my (undef, undef, $error) = $standby->psql('INSERT INTO wide VALUES (1)');
	like($error, qr/cannot execute INSERT in a read-only transaction/, 'a standby: INSERT into a stream');

	# what the primary commits from here on is lost: results, state and offsets together
	produce(1);
	is_right($pg, 'before the standby is cut off');
	$standby->query(q{ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()});
	ok($pg->wait_until('SELECT count(*) = 0 FROM pg_stat_replication'), 'a standby that is cut off');
	my $seen = records_in($standby);

	produce(30);
	produce_wide(15_000, 10_000);
	ok($pg->wait_until("SELECT sum(records_in) > $seen + 10000 FROM velo.queries"), 'the primary goes on');
	$pg->kill9;
	is(records_in($standby), $seen, 'the standby does not know');
	$standby->query('SELECT pg_promote()');
	is_right($standby, 'promotion of a standby that is behind');

	# one that follows takes over in the midst of a load
	my $second = Velo::Server->new(name => 'second', conf => \%conf, backup_of => $standby, standby => 1);

	$seen = records_in($standby);
	$standby->query('SELECT velo.pause_query(name) FROM velo.queries');
	produce(30);
	produce_wide(1, 10_000);
	$standby->query('SELECT velo.resume_query(name) FROM velo.queries');
	ok($second->wait_until("SELECT sum(records_in) > $seen + 5000 FROM velo.queries"), 'a standby follows under load');
	$standby->kill9;
	cmp_ok(records_in($second), '<', $seen + 3 * 30 * 200 + 10_000, 'the primary is killed before it has caught up');
	$second->query('SELECT pg_promote()');
	is_right($second, 'promotion under load');
	is($second->query(q{SELECT DISTINCT state, error FROM velo.queries}), 'running|', 'and nothing is wrong');
	$pg = $second;
}

# ---------------------------------------------------------------- a base backup

{
	produce(30);
	my $copy = Velo::Server->new(name => 'copy', conf => \%conf, backup_of => $pg);

	is_right($_->[0], "a base backup: $_->[1]") for [$pg, 'the original'], [$copy, 'the copy'];
	produce(5);
	is_right($_->[0], "a base backup: $_->[1] goes on") for [$copy, 'the copy'], [$pg, 'the original'];
	ok(wait_for(sub { $kafka->committed('velo-postgres-merged', 'events', 0) == $oracle->query('SELECT count(*) FROM events_rows WHERE k % 2 = 0') }),
		'and both say so to the consumer group');
	is($pg->query(q{SELECT string_agg(relname, ' ') FROM pg_class WHERE relpersistence <> 'p' AND relnamespace <> 'pg_toast'::regnamespace}), '', 'no relation is unlogged');
	$copy->stop;
}

# ---------------------------------------------------------------- dumps

sub run
{
	my ($pg, $program, @arguments) = @_;
	my ($status, $out, $err) = run_command('', "$pg->{bindir}/$program", '-h', $pg->{dir}, '-p', $pg->{port}, '-U', 'postgres', @arguments);

	die "$program @arguments:\n$err" if $status;
	return;
}

# A database that was restored: its queries are paused, and go on when they are resumed.
sub is_restored
{
	my ($pg, $what, $database) = @_;

	is($pg->query(q{SELECT count(*), string_agg(DISTINCT state || ': ' || error || ' ' || error_hint, ', ') FROM velo.queries}, $database),
		'4|paused: the query was made in another database, of which this is a copy Use velo.resume_query().', "$what: queries are paused, with the reason");
	my (undef, undef, $error) = $pg->psql(q{SELECT velo.wait('merged')}, $database);
	like($error, qr/query "merged" is paused/, "$what: as velo.wait() says");
	$pg->query(q{SELECT velo.resume_query(name) FROM velo.queries WHERE state = 'paused' AND error IS NOT NULL}, $database);
	is_right($pg, $what, $database);
	(undef, undef, $error) = $pg->psql('DROP FOREIGN TABLE events', $database);
	like($error, qr/cannot drop foreign table events because other objects depend on it/, "$what: and dependencies are there");
	return;
}

{
	my $dir = "$pg->{dir}/dumps";

	mkdir $dir;
	produce(30);
	run($pg, 'pg_dump', '-f', "$dir/plain", 'postgres');
	run($pg, 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres');
	run($pg, 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", 'postgres');
	run($pg, 'pg_dump', '--schema-only', '-f', "$dir/schema", 'postgres');
	run($pg, 'pg_dump', '--data-only', '-f', "$dir/data", 'postgres');
	run($pg, 'pg_dumpall', '-f', "$dir/all");
	produce(1);
	produce_wide(1, 100);
	is_right($pg, 'while dumps are made');

	$pg->query("CREATE DATABASE $_ TEMPLATE template0") for qw(plain custom directory parts);
	run($pg, 'psql', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain");
	is_restored($pg, 'pg_dump', 'plain');
	$pg->query('DROP DATABASE plain');
	run($pg, 'pg_restore', '-e', '-d', 'custom', "$dir/custom");
	is_restored($pg, 'pg_dump -Fc', 'custom');
	$pg->query('DROP DATABASE custom');
	run($pg, 'pg_restore', '-e', '-j2', '-d', 'directory', "$dir/directory");
	is_restored($pg, 'pg_dump -Fd -j2', 'directory');
	$pg->query('DROP DATABASE directory');
	run($pg, 'psql', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'parts', '-f', "$dir/schema");
	is($pg->query('SELECT count(*) FROM velo.queries', 'parts'), 0, 'a schema alone has no queries');
	run($pg, 'psql', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'parts', '-f', "$dir/data");
	is_restored($pg, 'pg_dump --schema-only and --data-only', 'parts');
	$pg->query('DROP DATABASE parts');

	$pg->query('CREATE DATABASE copied TEMPLATE postgres');
	is_restored($pg, 'CREATE DATABASE TEMPLATE', 'copied');
	$pg->query('DROP DATABASE copied');
	is_right($pg, 'and the original goes on');

	my $other = Velo::Server->new(name => 'dumpall', conf => \%conf);

	run($other, 'psql', '-q', '-f', "$dir/all", 'postgres');
	is_restored($other, 'pg_dumpall');
	$other->stop;
}

# ---------------------------------------------------------------- state that holds OIDs

sub moods_are_right
{
	my ($pg, $what, $database) = @_;

	is($pg->query(q{SELECT velo.wait(NULL, '60 s')}, $database), 't', "$what: all is processed") or diag($pg->query('SELECT name, state, error FROM velo.queries', $database));
	is($pg->query(q{SELECT string_agg(mood || ' ' || n, ', ' ORDER BY mood) FROM moods}, $database),
		$oracle->query(q{SELECT string_agg(g || ' ' || n, ', ' ORDER BY g) FROM (SELECT chr(97 + g) AS g, count(*) AS n FROM events_rows WHERE NOT broken GROUP BY g) AS q}), $what);
	return;
}

{
	$pg->query('CREATE DATABASE moods TEMPLATE template0');
	$pg->query(<<"SQL", 'moods');
CREATE EXTENSION velo;
CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g');
SELECT velo.create_stream('events', 'g int', brokers => '$brokers');
SELECT velo.create_query('moods', 'SELECT chr(97 + g)::mood AS mood, count(*) AS n FROM events GROUP BY chr(97 + g)::mood');
SQL
	moods_are_right($pg, 'keys of a type of its own', 'moods');
	$pg->query(q{SELECT velo.create_query('resting', 'SELECT g FROM events'); SELECT velo.pause_query('resting')}, 'moods');
	run($pg, 'pg_dump', '-f', "$pg->{dir}/moods", 'moods');
	$pg->query('CREATE DATABASE restored TEMPLATE template0');
	run($pg, 'psql', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', "$pg->{dir}/moods");
	is($pg->query('SELECT name, state, error IS NULL FROM velo.queries ORDER BY name', 'restored'), "moods|paused|f\nresting|paused|t", 'what was paused by hand shows no reason');
	$pg->query(q{SELECT velo.resume_query('moods'); SELECT velo.drop_query('resting')}, 'restored');
	ok(wait_for(sub { ($pg->psql(q{SELECT state = 'waiting' AND error LIKE 'state of the query does not fit the query%' AND error_hint LIKE '%velo.restart_query()%' FROM velo.queries}, 'restored'))[1] eq 't' }),
		'state with OIDs of another database is not read') or diag($pg->query('SELECT state, error, error_hint FROM velo.queries', 'restored'));
	$pg->query(q{SELECT velo.restart_query('moods', 'earliest')}, 'restored');
	moods_are_right($pg, 'but built anew', 'restored');
	$pg->query('DROP DATABASE restored');

	# over the very database that it was taken of
	$kafka->create_topic('counted', 1);
	$pg->query('CREATE DATABASE again TEMPLATE template0');
	$pg->query(<<"SQL", 'again');
CREATE EXTENSION velo;
SELECT velo.create_stream('counted', 'g int', brokers => '$brokers');
SELECT velo.create_query('counts', 'SELECT g, count(*) AS n FROM counted GROUP BY g');
INSERT INTO counted SELECT i % 10 FROM generate_series(1, 1000) AS i;
SELECT velo.wait();
SQL
	run($pg, 'pg_dump', '-Fc', '-f', "$pg->{dir}/again", 'again');
	$pg->query('INSERT INTO counted SELECT i % 10 FROM generate_series(1, 1000) AS i; SELECT velo.wait()', 'again');
	run($pg, 'pg_restore', '-e', '--clean', '--if-exists', '-d', 'again', "$pg->{dir}/again");
	is($pg->query('SELECT state, error FROM velo.queries', 'again'), 'paused|the query was restored from a dump', 'pg_restore --clean: no query runs before all is there');
	$pg->query(q{SELECT velo.resume_query('counts')}, 'again');
	is($pg->query('SELECT velo.wait(); SELECT count(*), min(n), max(n) FROM counts', 'again'), "t\n10|200|200", 'and goes on exactly');
	my (undef, undef, $error) = $pg->psql('DROP TABLE counts', 'again');
	like($error, qr/cannot drop table counts because other objects depend on it/, 'with its dependencies');
	$pg->query('DROP DATABASE again');
}

# ---------------------------------------------------------------- pg_upgrade

{
	# to the same version, or to the one of VELO_UPGRADE_TO, a directory of programs
	local $ENV{VELO_BINDIR} = $ENV{VELO_UPGRADE_TO} // $ENV{VELO_BINDIR};
	my $upgraded = Velo::Server->new(name => 'upgraded', conf => \%conf, start => 0);

	produce(30);
	$pg->stop;
	my ($status, $out, $err) = run_command('', 'sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', $upgraded->{dir}, "$upgraded->{bindir}/pg_upgrade", '-U', 'postgres',
		'-b', $pg->{bindir}, '-B', $upgraded->{bindir}, '-d', $pg->{data}, '-D', $upgraded->{data}, '-p', $pg->{port}, '-P', $upgraded->{port});
	is($status, 0, 'pg_upgrade') or diag("$out$err");
	$upgraded->start;
	# what it takes for states to be read by another major version can be tried in one
	$upgraded->query(<<'SQL') unless $ENV{VELO_UPGRADE_TO};
UPDATE velo.query_state SET data = set_byte(data, 6, get_byte(data, 6) + 1);
UPDATE velo.query_group SET state = set_byte(state, 6, get_byte(state, 6) + 1);
UPDATE velo.query_run SET data = set_byte(data, 6, get_byte(data, 6) + 1);
SQL
	is_restored($upgraded, 'pg_upgrade');
	$upgraded->query(q{SELECT velo.resume_query(name) FROM velo.queries}, 'moods');
	moods_are_right($upgraded, 'pg_upgrade keeps the OIDs of types', 'moods');
	$upgraded->query('DROP VIEW velo_queries.resting', 'moods');
	is($upgraded->query('SELECT count(*) FROM velo.queries', 'moods'), 1, 'event triggers work after pg_upgrade');
	$upgraded->query('DROP EXTENSION velo CASCADE', 'moods');
	is($upgraded->query(q{SELECT count(*) FROM pg_class WHERE relname = 'resting' OR relnamespace::regnamespace::text LIKE 'velo%'}, 'moods'), 1, 'as does DROP EXTENSION');
}

# ---------------------------------------------------------------- other versions of the extension

{
	my %from;

	for my $kind (qw(sharedir pkglibdir))
	{
		chomp($from{$kind} = (run_command('', Velo::Server::bindir() . '/pg_config', "--$kind"))[1]);
	}
	my $objects = Velo::Process::slurp("$from{sharedir}/extension/velo--1.0.sql");
	my $control = Velo::Process::slurp("$from{sharedir}/extension/velo.control") =~ s/'1\.0'/'0.9'/r;
	my $server = Velo::Server->new(
		name => 'versions', conf => \%conf, library => "$ENV{VELO_BUILD}/older_version/velo.so",
		extension_files => {
			'velo.control' => $control,
			'velo--0.9.sql' => "$objects\nCREATE FUNCTION velo.older() RETURNS int LANGUAGE sql AS 'SELECT 9';\n",
			'velo--0.9--1.0.sql' => q{
				DROP FUNCTION velo.older();
				ALTER TABLE velo.query_pipeline SET (fillfactor = 60);
				ALTER TABLE velo.query ALTER start SET DEFAULT 'earliest';
				ALTER TABLE velo.query ALTER start DROP DEFAULT;
			}});
	my $restart_with_newer = sub {
		$server->stop;
		Velo::Server::replace_file("$server->{dir}$from{pkglibdir}/velo.so", Velo::Process::slurp("$from{pkglibdir}/velo.so"));
		$server->start;
	};
	my $no_worker = sub { return "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('velo pipeline', 'velo scheduler') AND datname = '$_[0]'" };
	my $does_not_fit = sub {
		my ($what, $database, $message, $hint) = @_;

		ok($server->wait_until($no_worker->($database)), "$what: no worker runs");
		for my $query ('SELECT * FROM velo.queries', 'SELECT * FROM velo.pipelines', 'SELECT * FROM velo.partitions', 'SELECT velo.wait()', q{SELECT velo.pause_query('merged')},
			q{SELECT velo.create_query('more', 'SELECT k FROM events')}, 'DROP FOREIGN TABLE events CASCADE', 'ALTER SCHEMA other RENAME TO another')
		{
			my (undef, undef, $error) = $server->psql("\\set VERBOSITY verbose\n$query", $database);

			like($error, qr/ERROR:  55000: the objects of extension "velo" in database "$database" are of $message\n.*HINT:  $hint\n/s, "$what: $query");
		}
		is($server->query('SELECT count(*) FROM merged', $database), 7, "$what: results can be read");
		is($server->query('SELECT count(*) FROM wide', $database), $oracle->query('SELECT count(*) FROM wide_rows'), "$what: and topics");
		like($server->log, qr/LOG:  the objects of extension "velo" in database "$database" are of $message/, "$what: the log says so");
	};

	$server->query("CREATE DATABASE $_") for 'later', 'dropped';
	for my $database ('postgres', 'later', 'dropped')
	{
		set_up($server, $database);
		$server->query('CREATE SCHEMA other', $database);
		is_right($server, 'an older version', $database);
	}
	$server->query('SELECT velo.pause_query(name) FROM velo.queries');
	produce(30);
	$server->query('SELECT velo.resume_query(name) FROM velo.queries');
	$server->query(q{ALTER EXTENSION velo UPDATE TO '1.0'});
	$does_not_fit->('ALTER EXTENSION UPDATE under an older library', 'postgres', 'version 1.0, the library is of version 0.9',
		'Install the library of version 1.0 and restart the server.');
	is_right($server, 'other databases go on', 'later');
	$restart_with_newer->();
	is_right($server, 'restarted with the newer library');

	$does_not_fit->('objects older than the library', 'later', 'version 0.9, the library is of version 1.0', "Run ALTER EXTENSION velo UPDATE TO '1.0'.");
	produce(5);
	$server->query(q{ALTER EXTENSION velo UPDATE TO '1.0'}, 'later');
	is_right($server, 'ALTER EXTENSION UPDATE under the newer library', 'later');
	$server->query('DROP EXTENSION velo CASCADE', 'dropped');
	is($server->query(q{SELECT count(*) FROM pg_class WHERE relname = 'events'}, 'dropped'), 0, 'objects that do not fit can be dropped');
	$server->query(q{CREATE EXTENSION velo VERSION '1.0'}, 'dropped');
	is($server->query('SELECT count(*) FROM velo.queries', 'dropped'), 0, 'and created');
	is($oracle->query('CREATE EXTENSION velo; SELECT count(*) FROM velo.queries'), 0, 'as where velo is not preloaded');
}

done_testing;
