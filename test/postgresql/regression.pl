# PostgreSQL's own regression tests, on a server where velo is preloaded and a pipeline is at work in another database.  For
# test/check.sh, which has PostgreSQL's source.

use strict;
use warnings;

use Test::More;
use Velo::Process qw(run_command scratch_dir spawn wait_for);
use Velo::Server;

plan skip_all => 'PostgreSQL was not built from source (see test/check.sh)' unless $ENV{VELO_PG_SOURCE};

my $pg = Velo::Server->new(
	dev_broker => 1,
	conf => {'max_connections' => 60, 'max_prepared_transactions' => 2, 'max_locks_per_transaction' => 128});
my $regress = "$ENV{VELO_PG_SOURCE}/src/test/regress";
my $results = scratch_dir('regress');

$pg->query('CREATE DATABASE streaming');
$pg->query(q{
	CREATE EXTENSION velo;
	SELECT velo.dev_create_topic('ticks');
	SELECT velo.create_stream('ticks', 'n int, at timestamptz', brokers => '} . $pg->dev_brokers . q{', event_time => 'at', watermark => '0 s');
	CREATE TABLE enough ();
	CREATE PROCEDURE produce() LANGUAGE plpgsql AS $$
	DECLARE
		i int := 0;
	BEGIN
		WHILE NOT EXISTS (TABLE enough) LOOP
			i := i + 1;
			INSERT INTO ticks VALUES (i, clock_timestamp());
			COMMIT;
			PERFORM pg_sleep(0.05);
		END LOOP;
	END $$;
	SELECT velo.create_query('by_second', 'SELECT count(*) AS n, sum(n) AS s FROM ticks WINDOW TUMBLING(1s) EMIT CHANGES');
	SELECT velo.create_query('last', 'SELECT n % 100 AS k, count(*) AS c, max(at) AS at FROM ticks GROUP BY n % 100')}, 'streaming');

my $producer = spawn("$results/producer.log", 'TERM', $pg->psql_command('streaming'), '-c', 'CALL produce()');
my ($status, $out, $err) = run_command('', "$regress/pg_regress", "--inputdir=$regress", "--outputdir=$results", "--bindir=$pg->{bindir}",
	"--dlpath=$regress", '--max-concurrent-tests=20', "--schedule=$regress/parallel_schedule", "--host=$pg->{dir}", "--port=$pg->{port}",
	'--user=postgres');

is($status, 0, 'all pass') or diag(grep({ /FAILED|not ok/ } split /^/, $out), $err, Velo::Process::slurp("$results/regression.diffs"));
like($out, qr/[Aa]ll \d+ tests passed/, 'that is: ' . ($out =~ /(\d+ tests passed)/ ? $1 : 'not all'));
ok(!Velo::Process::ended($producer), 'records came all the time') or diag(Velo::Process::slurp("$results/producer.log"));
$pg->query('INSERT INTO enough DEFAULT VALUES', 'streaming');
ok(wait_for(sub { Velo::Process::ended($producer) }), 'until there were enough');
ok($pg->query(q{SELECT velo.wait(timeout => '60 s')}, 'streaming'), 'the pipelines went on');
is($pg->query('SELECT sum(c) FROM last', 'streaming'), $pg->query('SELECT count(*) FROM ticks', 'streaming'), 'and each record counts once');
is($pg->query('SELECT sum(restarts) FROM velo.pipelines', 'streaming'), 0, 'without having been started anew');
done_testing;
