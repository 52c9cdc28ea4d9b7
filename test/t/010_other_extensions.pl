# Beside the extensions that most servers have, which look at every query: pg_stat_statements reads its text again, with
# PostgreSQL's own scanner, and auto_explain prints its plan.

use strict;
use warnings;

use Test::More;
use Velo::Process qw(run_command);
use Velo::Server;

my $pg = Velo::Server->new(
	dev_broker => 1,
	conf => {
		'shared_preload_libraries' => 'pg_stat_statements, auto_explain, velo',
		'compute_query_id' => 'on',
		'pg_stat_statements.track' => 'all',
		'pg_stat_statements.track_planning' => 'on',
		'auto_explain.log_min_duration' => 0,
		'auto_explain.log_analyze' => 'on',
		'auto_explain.log_nested_statements' => 'on',
		'auto_explain.log_verbose' => 'on',
	},
	start => 0);

sub log_has
{
	my ($pattern) = @_;

	return Velo::Process::wait_for(sub { $pg->log =~ $pattern }, 30) ? 1 : 0;
}

for my $library (qw(pg_stat_statements auto_explain))
{
	plan skip_all => "PostgreSQL's contrib module $library is not installed"
	  unless -e (split /\n/, (run_command('', "$pg->{bindir}/pg_config", '--pkglibdir'))[1])[0] . "/$library.so";
}
$pg->start;
$pg->query('CREATE EXTENSION velo');
$pg->query('CREATE EXTENSION pg_stat_statements');
$pg->query('SELECT velo.dev_create_topic($$ticks$$)');
$pg->query("SELECT velo.create_stream('ticks', columns => 'a int, ts timestamptz', event_time => 'ts', watermark => '0 s', "
	  . "brokers => '" . $pg->dev_brokers . "')");

# a constant after a clause that PostgreSQL's scanner can't read
my $select = 'SELECT a % 7 AS b, count(*) AS n, array_agg(DISTINCT a) AS c FROM ticks WINDOW TUMBLING(5m) '
  . 'GROUP BY a % 7 HAVING count(*) > 0 EMIT CHANGES';

like($pg->query("SELECT velo.explain(\$\$$select\$\$)"), qr/Window: tumbling/, 'velo.explain');
like($pg->query('SELECT velo.explain($$SELECT a + 1 AS b FROM ticks WHERE a > 5$$, $$analyze$$)'),
	qr/each row/, 'velo.explain of an ungrouped query, analyzed');
is($pg->query("SELECT velo.create_query('counts', \$\$$select\$\$)"), 'counts', 'create_query');
$pg->query(q{INSERT INTO ticks SELECT i, '2026-01-01Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 20) i});
is($pg->query(q{SELECT velo.wait('counts')}), 't', 'it runs');
is($pg->query('SELECT b, n, c FROM counts ORDER BY b LIMIT 1'), '0|2|{7,14}', 'and is right');
is($pg->query(q{SELECT count(*) > 0 FROM pg_stat_statements WHERE query LIKE '%FROM ticks%GROUP BY a %'}),
	't', 'pg_stat_statements knows the query');
ok(log_has(qr/velo pipeline.*LOG:  duration: .* plan:/), "auto_explain shows a pipeline's plans");

done_testing;
