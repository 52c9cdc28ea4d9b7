# Velo::Regress - PostgreSQL's pg_regress within the tests: one assertion for each file of a directory's sql/.
#
#   run_regress($pg, 'test/decode');

package Velo::Regress;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use Test::More;
use Velo::Process qw(run_command scratch_dir);

our @EXPORT_OK = qw(run_regress);

# Compare what the files $dir/sql/*.sql print on the server with $dir/expected/*.out, in a database of their own; one
# after the other, in the order of their names.
sub run_regress
{
	my ($pg, $dir) = @_;
	my @tests = map { m{([^/]+)\.sql$} } sort glob "$dir/sql/*.sql";
	my $pg_regress = dirname(scalar `$pg->{bindir}/pg_config --pgxs`) . '/../../src/test/regress/pg_regress';
	my $results = scratch_dir('regress');
	my ($status, $out, $err) = run_command('', $pg_regress, "--inputdir=$dir", "--outputdir=$results",
		"--bindir=$pg->{bindir}", "--host=$pg->{dir}", "--port=$pg->{port}", '--user=postgres',
		'--dbname=contrib_regression', @tests);
	my %passed;

	# 15: "test NAME ... ok 12 ms"; 16 and later: "ok 1 - NAME 12 ms"
	for (split /\n/, $out)
	{
		$passed{$1} = 1 if /^test (\S+)\s+\.\.\. ok\b/ || /^ok \d+\s+[-+] (\S+)/;
	}
	ok($passed{$_}, $_) for @tests;
	if ($status || grep { !$passed{$_} } @tests)
	{
		diag($out, $err, Velo::Process::slurp("$results/regression.diffs"));
		diag("end of $pg->{logfile}:\n", $pg->log_tail);
	}
	return;
}

1;
