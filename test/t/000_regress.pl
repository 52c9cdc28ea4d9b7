# The regression tests sql/*.sql against expected/*.out, one assertion each, on a private server with the development
# broker.  ("make installcheck" runs them on a server of yours that has velo in shared_preload_libraries.)

use strict;
use warnings;

use File::Basename qw(dirname);
use Test::More;
use Velo::Process qw(run_command scratch_dir);
use Velo::Server;

my @tests = map { m{([^/]+)\.sql$} } sort glob 'sql/*.sql';

plan skip_all => 'there is no sql/*.sql' unless @tests;
plan tests => scalar @tests;

my $pg = Velo::Server->new(dev_broker => 1);
my $pg_regress = dirname(scalar `$ENV{VELO_BINDIR}/pg_config --pgxs`) . '/../../src/test/regress/pg_regress';
my $dir = scratch_dir('regress');
my ($status, $out, $err) = run_command('', $pg_regress, '--inputdir=.', "--outputdir=$dir",
	"--bindir=$pg->{bindir}", "--host=$pg->{dir}", "--port=$pg->{port}", '--user=postgres',
	'--dbname=contrib_regression', @tests);
my %passed;

# 15: "test NAME ... ok 12 ms"; 16 and later: "ok 1 - NAME 12 ms"
for (split /\n/, $out)
{
	$passed{$1} = 1 if /^test (\S+)\s+\.\.\. ok\b/ || /^ok \d+\s+[-+] (\S+)/;
}
ok($passed{$_}, $_) for @tests;
if (grep { !$passed{$_} } @tests)
{
	diag($out, $err, Velo::Process::slurp("$dir/regression.diffs"));
	diag("end of $pg->{logfile}:\n", $pg->log_tail);
}
