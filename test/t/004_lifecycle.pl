# The life of workers: they start, pause, stop, die and come back; they get out of the way of DROP and the like; they use
# nothing while there is nothing to do.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use Velo::Kafka;
use Velo::Process qw(wait_for);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '1 s', 'velo.max_pipelines' => 6});
my $brokers = $kafka->brokers;
my $produced = 0;

$kafka->create_topic('records', 2);

sub produce
{
	my ($n) = @_;

	$kafka->produce('records', [ map { [ $_ % 2, undef, undef, qq({"id": $_, "k": "@{[$_ % 10]}"}) ] } 1 .. $n ]);
	$produced += $n;
	return;
}

sub set_up
{
	my ($database) = @_;

	$pg->query(<<"SQL", $database);
CREATE EXTENSION velo;
SELECT velo.create_stream('records', columns => 'id bigint, k text', brokers => '$brokers');
SELECT velo.create_query('counts', 'SELECT k, count(*) AS n FROM records GROUP BY k');
SQL
	return;
}

sub is_right
{
	my ($what, $database) = @_;

	is($pg->query("SELECT velo.wait('counts')", $database), 't', "$what: all is processed");
	is($pg->query('SELECT sum(n) FROM counts', $database), $produced, "$what: exactly once");
	return;
}

sub workers
{
	my ($type) = @_;

	return split /\n/, $pg->query("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'velo $type' ORDER BY pid");
}

# Seconds that it takes until the condition holds; undef if it doesn't.
sub seconds
{
	my ($condition, $timeout) = @_;
	my $start = time;

	return wait_for($condition, $timeout // 30) ? time - $start : undef;
}

# CPU time of processes, in ms
sub cpu
{
	my $total = 0;

	for my $pid (@_)
	{
		my @fields = split ' ', Velo::Process::slurp("/proc/$pid/stat") =~ s/.*\) //sr;

		$total += ($fields[11] + $fields[12]) * 10;
	}
	return $total;
}

produce(100);
set_up('postgres');
is_right('a query');

# ---------------------------------------------------------------- nothing to do

{
	$pg->query(<<"SQL");
SELECT velo.create_stream('timed', columns => 'id bigint, k text, at timestamptz OPTIONS (metadata ''timestamp'')', topic => 'records',
	brokers => '$brokers', event_time => 'at', watermark => '0 s', options => '{"idle_timeout": "300 ms"}');
SELECT velo.create_query('windows', 'SELECT k, count(*) AS n FROM timed WINDOW TUMBLING(1s) GROUP BY k', pipelines => 2);
-- the longest times that there are
SELECT velo.create_stream('patient', columns => 'id bigint, at timestamptz OPTIONS (metadata ''timestamp'')', topic => 'records', brokers => '$brokers',
	event_time => 'at', watermark => '0 s', options => '{"idle_timeout": "106751991 days", "partitions_refresh": "106751991 days"}');
SELECT velo.create_query('patience', 'SELECT count(*) AS n FROM patient WINDOW TUMBLING(1s)', pipelines => 1);
SELECT velo.wait();
SQL
	ok($pg->wait_until("SELECT sum(n) = $produced FROM windows"), 'the last window closes by the clock');

	my @pids = workers('%');
	my $before = cpu(@pids);

	cmp_ok(scalar @pids, '>=', 6, 'launcher, scheduler and pipelines run');
	# the one sleep: it is idleness that is measured
	sleep 5;
	my $used = cpu(@pids) - $before;

	# librdkafka's own threads keep their connections and poll the brokers
	note("$used ms of CPU in 5 s of " . @pids . ' idle workers');
	cmp_ok($used, '<', 20 * @pids, 'idle workers use next to no CPU');
	is(join(' ', workers('%')), join(' ', @pids), 'and are the same as before');
	is($pg->query(q{SELECT max(records_per_second) FROM velo.pipelines}), 0, 'records_per_second has fallen to 0');
	$pg->query(q{SELECT velo.drop_query('windows'), velo.drop_query('patience')});
}

# ---------------------------------------------------------------- pause, resume, stop

{
	$pg->query(q{SELECT velo.pause_query('counts')});
	my $took = seconds(sub { !workers('pipeline') });
	cmp_ok($took, '<', 2, 'a paused pipeline ends within 2 s') and note("pause: $took s");
	is($pg->query(q{SELECT state FROM velo.queries}), 'paused', 'and is shown as paused');
	produce(100);
	my (undef, undef, $error) = $pg->psql(q{SELECT velo.wait('counts')});
	like($error, qr/is paused/, 'velo.wait() says so');
	$pg->query(q{SELECT velo.resume_query('counts')});
	is_right('resumed');

	# a transaction that may last for long ends for those who wait
	$pg->query(<<'SQL');
SELECT velo.create_query('long', 'SELECT id FROM records WHERE pg_sleep(0.02) IS NOT NULL', options => '{"batch_size": 1, "commit_interval": "1 h"}');
SQL
	ok($pg->wait_until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'velo: query long%' AND wait_event = 'PgSleep'}), 'a long transaction');
	$pg->query(q{SELECT velo.pause_query('long')});
	cmp_ok($pg->query(q{SELECT records_in FROM velo.queries WHERE name = 'long'}), '<', $produced, 'pause_query does not wait until it has caught up');
	$pg->query(q{SELECT velo.resume_query('long')});
	ok($pg->wait_until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'velo: query long%' AND wait_event = 'PgSleep'}), 'once more');
	$pg->query('ALTER TABLE long ADD remark text');
	cmp_ok($pg->query(q{SELECT records_in FROM velo.queries WHERE name = 'long'}), '<', $produced, 'nor does ALTER TABLE of what it writes');
	$pg->query(q{SELECT velo.drop_query('long')});

	# nor need a function of the query's come to its end
	$pg->query(q{SELECT velo.create_query('slow', 'SELECT id FROM records WHERE pg_sleep(300) IS NOT NULL')});
	ok($pg->wait_until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'velo: query slow%' AND wait_event = 'PgSleep'}), 'a long function');
	my $asked = time;
	$pg->query(q{SELECT velo.pause_query('slow')});
	cmp_ok(time - $asked, '<', 30, 'pause_query interrupts it');
	is($pg->query(q{SELECT state, error IS NULL FROM velo.queries WHERE name = 'slow'}), 'paused|t', 'and leaves no error');
	$pg->query(q{SELECT velo.drop_query('slow')});

	my $start = time;
	$pg->stop;
	$took = time - $start;
	cmp_ok($took, '<', 3, 'the server stops at once') and note("stop: $took s");
	$pg->start;
	produce(100);
	is_right('stopped and started');
}

# ---------------------------------------------------------------- signals

for my $type ('pipeline', 'scheduler', 'launcher')
{
	for my $signal ('cancel', 'terminate')
	{
		my @before = workers($type);

		$pg->query("SELECT pg_${signal}_backend($_)") for @before;
		produce(10);
		is_right("pg_${signal}_backend() of the $type");
		ok($pg->wait_until("SELECT count(*) = " . @before . " FROM pg_stat_activity WHERE backend_type = 'velo $type'"),
			"pg_${signal}_backend() of the $type: it is back");
	}
}
ok($pg->wait_until(q{SELECT state = 'running' AND error IS NULL FROM velo.queries}), 'and no error is left');

# ---------------------------------------------------------------- crashes

{
	my @before = workers('pipeline');
	my $old = join ', ', @before;

	kill 'KILL', $before[0];
	my $took = seconds(sub {
		($pg->psql("SELECT count(*) = @{[scalar @before]} FROM velo.pipelines WHERE state = 'running' AND pid NOT IN ($old)"))[1] eq 't';
	});
	ok(defined $took, 'kill -9 of a pipeline') and note("running again after $took s");
	produce(100);
	is_right('kill -9 of a pipeline');

	$pg->stop('QUIT');
	$pg->start;
	produce(100);
	is_right('an immediate stop');

	$pg->kill9;
	$pg->start;
	produce(100);
	is_right('kill -9 of the server');
}

# ---------------------------------------------------------------- a record that crashes the server

{
	# in a real life a bug; here a function that kills its own process
	$pg->query(<<'SQL');
CREATE FUNCTION crash(v bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	IF v = 666 THEN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid()); END IF;
	RETURN v;
END $$;
ALTER SYSTEM SET velo.retry_max_delay = '60 s';
SELECT pg_reload_conf();
SQL
	$kafka->create_topic('crashing', 1);
	$kafka->produce('crashing', [ [ 0, undef, undef, '{"id": 1}' ], [ 0, undef, undef, '{"id": 666}' ] ]);
	$pg->query(<<"SQL");
SELECT velo.create_stream('crashing', columns => 'id bigint', brokers => '$brokers');
SELECT velo.create_query('crashes', 'SELECT crash(id) AS id FROM crashing');
SQL
	ok($pg->wait_until(q{SELECT state = 'waiting' AND error LIKE '%ended unexpectedly%' AND retry_at > now() + interval '1 s' FROM velo.queries WHERE name = 'crashes'}, 60),
		'a pipeline that crashes the server is tried again later and later')
	  or diag($pg->query('SELECT * FROM velo.queries'));
	ok($pg->wait_until(q{SELECT state = 'running' FROM velo.queries WHERE name = 'counts'}), 'the others run again meanwhile');
	$pg->query(q{SELECT velo.drop_query('crashes')});
	$pg->query('ALTER SYSTEM RESET velo.retry_max_delay; SELECT pg_reload_conf()');
	produce(10);
	is_right('after crashes');
}

# ---------------------------------------------------------------- worker slots

{
	$pg->query(<<"SQL");
SELECT velo.create_query('more_' || i, 'SELECT id FROM records', pipelines => 2) FROM generate_series(1, 3) AS i;
SQL
	ok($pg->wait_until(q{SELECT count(*) = 1 FROM velo.queries WHERE state = 'waiting' AND error LIKE '%worker slot%' AND error_hint LIKE '%velo.max_pipelines%'}),
		'a query without a worker slot waits, and says which setting to raise')
	  or diag($pg->query('SELECT name, state, error, error_hint FROM velo.queries'));
	$pg->query(q{SELECT velo.drop_query('more_1')});
	ok($pg->wait_until(q{SELECT bool_and(state = 'running' AND error IS NULL) FROM velo.queries}), 'and runs when there is one')
	  or diag($pg->query('SELECT name, state, error, error_hint FROM velo.queries'));
	$pg->query(q{SELECT velo.drop_query(name) FROM velo.queries WHERE name LIKE 'more%'});
}

{
	# one for the launcher, one for the scheduler, and no more
	my $small = Velo::Server->new(name => 'small', conf => {max_worker_processes => 2});

	for my $database ('postgres', 'other')
	{
		$small->query('CREATE DATABASE other') if $database eq 'other';
		$small->query(<<"SQL", $database);
CREATE EXTENSION velo;
SELECT velo.create_stream('records', columns => 'id bigint, k text', brokers => '$brokers');
SELECT velo.create_query('counts', 'SELECT k, count(*) AS n FROM records GROUP BY k');
SQL
		my $waits = q{SELECT state = 'waiting' AND error = 'waiting for a worker slot' AND error_sqlstate = '53400'
			AND error_hint LIKE '%max_worker_processes%' AND retry_at IS NOT NULL FROM velo.queries};

		ok(wait_for(sub { ($small->psql($waits, $database))[1] eq 't' }), "$database: a query waits when there is no worker for it")
		  or diag($small->query('SELECT * FROM velo.queries', $database));
	}
	$small->query('DROP DATABASE other');

	# without being preloaded all works but the running
	$small->stop;
	$small->configure(shared_preload_libraries => '', 'velo.dev_broker_port' => 1);
	$small->start;
	is($small->query('SELECT state, error, error_hint FROM velo.queries'),
		'waiting|velo is not preloaded|Add velo to shared_preload_libraries and restart the server.', 'velo is not preloaded: velo.queries says so');
	is($small->query('SELECT count(*) FROM records'), $produced, 'and streams can be read');
	my (undef, undef, $error) = $small->psql(q{SELECT velo.create_query('more', 'SELECT id FROM records')});
	like($error, qr/WARNING:  queries do not run, because velo is not preloaded/, 'a query can be created, with a warning');
	is($small->query(q{SELECT velo.wait('more', '10 ms')}), 'f', 'and waited for');
	$small->query(q{SELECT velo.drop_query('more'); DROP EXTENSION velo CASCADE});
}

# ---------------------------------------------------------------- commands that want a database, or an object, for themselves

{
	$pg->query('CREATE DATABASE second');
	set_up('second');
	is_right('a second database', 'second');
	is_right('beside the first');

	my $start = time;
	$pg->query('ALTER DATABASE second RENAME TO renamed');
	produce(10);
	is_right('ALTER DATABASE RENAME', 'renamed');

	$pg->query('ALTER DATABASE renamed IS_TEMPLATE true');
	$pg->restart;
	produce(10);
	is_right('a database that is a template', 'renamed');
	$pg->query('CREATE ROLE copier CREATEDB');
	$pg->query('SET ROLE copier; CREATE DATABASE copy TEMPLATE renamed');
	is($pg->query(q{SELECT state, error IS NOT NULL FROM velo.queries}, 'copy'), 'paused|t', 'CREATE DATABASE TEMPLATE: the copy is paused, with the reason');
	produce(10);
	is_right('CREATE DATABASE TEMPLATE: the original goes on', 'renamed');

	$pg->query('CREATE DATABASE another TEMPLATE renamed', 'renamed');
	is($pg->query(q{SELECT state FROM velo.queries}, 'another'), 'paused', 'also by somebody who is in it');
	produce(10);
	is_right('and again the original goes on', 'renamed');

	$pg->query('ALTER DATABASE renamed IS_TEMPLATE false');
	$pg->query("DROP DATABASE $_") for qw(copy another renamed);
	$pg->query('DROP ROLE copier');
	cmp_ok(time - $start, '<', 20, 'none of them waits for pipelines');
	is($pg->query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'velo scheduler'}), 1, 'and nobody is left behind');

	$pg->query('CREATE DATABASE third');
	set_up('third');
	is_right('a third database', 'third');
	$start = time;
	$pg->query('DROP EXTENSION velo CASCADE', 'third');
	my $took = time - $start;
	cmp_ok($took, '<', 2, 'DROP EXTENSION CASCADE') and note("DROP EXTENSION: $took s");
	ok($pg->wait_until(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'third'}), 'its workers end');
	$pg->query('DROP DATABASE third');

	my (undef, undef, $error) = $pg->psql('DROP TABLE counts');
	like($error, qr/counts/, 'the result table is refused with a message');
	(undef, undef, $error) = $pg->psql('DROP FOREIGN TABLE records');
	like($error, qr/counts/, 'the stream is refused with a message');
	$start = time;
	$pg->query('DROP FOREIGN TABLE records CASCADE');
	cmp_ok(time - $start, '<', 2, 'CASCADE drops the query at once');
	is($pg->query('SELECT count(*) FROM velo.queries'), 0, 'there is none left');
	ok($pg->wait_until(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('velo pipeline', 'velo scheduler')}), 'and no worker');
}

# ---------------------------------------------------------------- queries of the same name, created at the same time

{
	my $script = "$pg->{dir}/create.sql";

	$kafka->create_topic('same', 1);
	$pg->query(<<"SQL");
CREATE SCHEMA one;
CREATE SCHEMA two;
SELECT velo.create_stream('same', columns => 'id bigint', brokers => '$brokers');
SQL
	open my $file, '>', $script or die "$script: $!\n";
	print $file <<'SQL';
BEGIN;
SELECT velo.create_query('one.same', 'SELECT id FROM same');
SELECT pg_advisory_xact_lock(1);
DO $$
BEGIN
	WHILE (SELECT count(*) < 2 FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$;
COMMIT;
SQL
	close $file or die "$script: $!\n";
	my @creators = (Velo::Process::spawn("$pg->{dir}/one.log", 'KILL', $pg->psql_command, '-f', $script));

	ok($pg->wait_until(q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'}), 'a query is being created');
	open $file, '>', "$script.2" or die "$script.2: $!\n";
	print $file q{SELECT velo.create_query('one.same', 'SELECT id FROM same');};
	close $file or die "$script.2: $!\n";
	push @creators, Velo::Process::spawn("$pg->{dir}/same.log", 'KILL', $pg->psql_command, '-f', "$script.2");
	my ($status, undef, $error) = $pg->psql(q{SELECT velo.create_query('two.same', 'SELECT id FROM same')});

	is($status, 0, 'one of the same name in another schema waits for it') or diag($error);
	ok(wait_for(sub { Velo::Process::ended($creators[1]) }), 'as does one in the same schema');
	like(Velo::Process::slurp("$pg->{dir}/same.log"), qr/query "same" already exists/, 'which is refused');
	is($pg->query('SELECT string_agg(name, $$ $$ ORDER BY name) FROM velo.queries'), 'one.same two.same', 'both queries are there');
	$pg->query('DROP FOREIGN TABLE same CASCADE');
}

# ---------------------------------------------------------------- deadlocks

{
	# the pipeline holds its result and waits for a table long before the user, who holds that, asks for the result
	$kafka->create_topic('deadlock', 1);
	$pg->query(<<"SQL");
CREATE TABLE consulted (x int);
CREATE FUNCTION consult(x bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN PERFORM FROM consulted; RETURN x; END';
SELECT velo.create_stream('deadlock', columns => 'id bigint', brokers => '$brokers');
SELECT velo.create_query('consulting', 'SELECT consult(id) AS id FROM deadlock');
SELECT velo.wait('consulting');
SQL
	my ($status, undef, $error) = $pg->psql(<<'SQL');
BEGIN;
LOCK TABLE consulted;
INSERT INTO deadlock VALUES (1);
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'consulted'::regclass AND NOT granted
		AND clock_timestamp() - waitstart > interval '200 ms')
	LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
ALTER TABLE consulting ADD COLUMN more int;
COMMIT;
SQL
	is($status, 0, 'in a deadlock the pipeline gives way') or diag($error);
	is($pg->query(q{SELECT velo.wait('consulting')}), 't', 'and tries again');
	is($pg->query('SELECT id FROM consulting'), 1, 'exactly once');

	# nor do those who plan a query, and those who drop what it uses, lock things in opposite order
	is($pg->query(<<'SQL'), '', 'a pipeline that waits for its stream keeps nothing');
BEGIN;
ALTER FOREIGN TABLE deadlock OPTIONS (ADD partitions_refresh '1 min');
INSERT INTO deadlock VALUES (2);
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'deadlock'::regclass AND NOT granted)
	LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT relation::regclass FROM pg_locks WHERE relation IN ('consulting'::regclass, 'velo_queries.consulting'::regclass) AND granted;
ROLLBACK;
SQL
	is($pg->query(q{SELECT velo.wait('consulting')}), 't', 'and goes on');
	$pg->query('DROP FOREIGN TABLE deadlock CASCADE');
}

# ---------------------------------------------------------------- much state

{
	my $n = $ENV{VELO_GROUPS} // 1_000_000;

	$pg->query(q{ALTER SYSTEM SET velo.pipeline_memory = '1GB'; SELECT pg_reload_conf()});
	$kafka->create_topic('large', 1);
	$pg->query(<<"SQL");
SELECT velo.create_stream('large', columns => 'id bigint', brokers => '$brokers');
INSERT INTO large SELECT i FROM generate_series(1, $n) AS i;
SELECT velo.create_query('groups', 'SELECT id, count(*) AS n FROM large GROUP BY id');
SQL
	is($pg->query(q{SELECT velo.wait('groups', '120 s')}), 't', "$n groups");
	$pg->kill9;
	$pg->start;
	my $took = seconds(sub { ($pg->psql(q{SELECT state = 'running' FROM velo.queries WHERE name = 'groups'}))[1] eq 't' }, 60);
	cmp_ok($took // 99, '<', 20, 'kill -9 with much state: running again') and note("running again after $took s");
	$pg->query(q{INSERT INTO large VALUES (1)});
	is($pg->query(q{SELECT velo.wait('groups')}), 't', 'and goes on');
	is($pg->query('SELECT count(*), sum(n), max(n) FROM groups'), "$n|@{[$n + 1]}|2", 'exactly once');
}

unlike($pg->log, qr/PANIC|TRAP|terminated by signal (?!9)/, 'nothing crashed that was not killed');

done_testing;
