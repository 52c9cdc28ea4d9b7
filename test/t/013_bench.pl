# Every case of `make bench`, over few records: it runs, and each query's answer is PostgreSQL's own over the same records.
# No figure counts here, but the cases must be right when they are measured.  And `make bench-stages` with its flame graphs,
# where perf may be used.

use strict;
use warnings;

use Test::More;
use lib 'bench/lib';
use Velo::Bench;
use Velo::Bench::Single;
use Velo::Bench::Table;
use Velo::Kafka;
use Velo::Process qw(run_command);

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $bench = Velo::Bench->new(records => 20_000, verify => 1, quiet => 1);

# That something returns anything; a query that it leaves behind must not be in the way of the next.
sub succeeds
{
	my ($name, $run) = @_;

	return if ok(eval { $run->() }, $name);
	diag $@;
	$bench->server->query('SELECT velo.drop_query(name) FROM velo.queries');
	return;
}

for my $case (Velo::Bench::Table::cases())
{
	succeeds($case->{name}, sub { defined $bench->measure($case)->{cpu} });
}
for my $case (Velo::Bench::Single::cases())
{
	succeeds($case->{name}, sub { $case->{tell}->($bench, $case) });
}

# such a test would notice: another question has another answer
my ($case, $other) = (Velo::Bench::Table::cases())[ 2, 6 ];
$bench->create_query('bench', $case);
ok(!eval { $bench->verify('bench', $other); 1 }, 'wrong rows are noticed');
like($@, qr/rows are other than PostgreSQL's/, 'and counted');

SKIP:
{
	skip 'perf is missing or may not observe processes', 3
	  if (run_command('', 'perf', 'record', '-q', '-o', '/dev/null', '-e', 'task-clock:u', 'true'))[0];
	local @ENV{qw(BENCH BENCH_RECORDS)} = ('^tumbling 5m, final$', 200_000);
	my ($stacks, $flame) = map { "$ENV{VELO_SCRATCH}/$_" } qw(stacks flame);
	my ($status, $out, $err) =
	  run_command('', 'sh', '-c', "$^X bench/stages.pl 3 3> '$stacks' && $^X bench/flame.pl '$stacks' '$flame'");

	skip 'velo was compiled without debugging information', 3 if $err =~ /no debugging information/;
	is($status, 0, 'bench-stages') or diag $err;
	like($out, qr/^\| decode \| 120-180 \| [1-9]/m, 'sees what decoding costs') or diag $out;
	like(Velo::Process::slurp("$flame/tumbling-5m-final.svg"), qr/<title>decode_record: [1-9][\d.]* ns, /, 'and draws it');
}

done_testing;
