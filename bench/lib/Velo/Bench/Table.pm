# Velo::Bench::Table - the cases of the table that `make bench` prints.

package Velo::Bench::Table;

use strict;
use warnings;

use Velo::Bench::Query;

my $tumbling = Velo::Bench::Query->new(
	list => 'symbol, avg(price) AS avg_price, count(*) AS n',
	where => 'price > 100',
	group => 'symbol',
	size => '5m',
	emit => 'FINAL');
my $changes = $tumbling->with(emit => 'CHANGES');
my $grouped = $tumbling->with(size => undef, emit => undef);
my $four = $grouped->with(list => 'symbol, avg(price), count(*) AS n, min(price), max(price)', where => undef);
my $hopping = $tumbling->with(slide => '1m');
my $appended = Velo::Bench::Query->new(list => 'symbol, price, ts', where => 'price > 100');
my $general_key = $tumbling->with(
	list => '(ARRAY[symbol])[1] AS symbol, avg(price) AS avg_price, count(*) AS n',
	group => '(ARRAY[symbol])[1]');
my $general_condition = $tumbling->with(where => q{price > 100 AND trader ~ '^T'});
my $general_argument = $tumbling->with(list => 'symbol, avg(sqrt(price)) AS avg_root, count(*) AS n');
my $joined = $tumbling->with(
	list => 'sector, avg(price) AS avg_price, count(*) AS n',
	join => 'JOIN instruments USING (symbol)',
	group => 'sector');
my $small = $tumbling->with(size => '1s', grace => '1000s');

# A table of a million rows, of which a hundred are asked for.
sub make_instruments
{
	my ($bench) = @_;
	my $last = 1_000_000 * $bench->scale - 1;

	$bench->server->query(<<"SQL");
CREATE TABLE IF NOT EXISTS instruments AS
	SELECT 'S' || lpad(i::text, greatest(3, length(i::text)), '0') AS symbol, 'sector ' || i % 11 AS sector
	FROM generate_series(0, $last) AS i;
CREATE UNIQUE INDEX IF NOT EXISTS instruments_symbol_idx ON instruments (symbol);
ANALYZE instruments;
SQL
	return;
}

sub cases
{
	return (
		{ name => 'bare consumer', topic => 'trades', program => 'bare_consumer' },
		{ name => 'by hand', topic => 'trades', program => 'handwritten', found => 'tumbling' },
		{ name => 'tumbling 5m, final', topic => 'trades', query => $tumbling },
		{ name => 'tumbling 5m, changes', topic => 'trades', query => $changes, found => 'tumbling' },
		{ name => 'group by, no window', topic => 'trades', query => $grouped },
		{ name => 'group by, four aggregates', topic => 'trades', query => $four },
		{ name => 'hopping 5m/1m, final', topic => 'trades', query => $hopping },
		{ name => 'hopping 1h/1m, final', topic => 'trades', query => $hopping->with(size => '1h') },
		{ name => 'hopping 5m/1s, final', topic => 'trades', query => $hopping->with(slide => '1s') },
		{ name => 'filter and projection, appended', topic => 'trades', query => $appended },
		{ name => 'tumbling, a key left to the executor', topic => 'trades', query => $general_key },
		{ name => 'tumbling, a condition left to the executor', topic => 'trades', query => $general_condition },
		{ name => 'tumbling, an argument left to the executor', topic => 'trades', query => $general_argument },
		{ name => 'tumbling, velo.vectorized = off', topic => 'trades', query => $tumbling, settings => { 'velo.vectorized' => 'off' } },
		{ name => 'tumbling, numeric', topic => 'trades', query => $tumbling, price => 'numeric' },
		{ name => 'tumbling, look-up join', topic => 'trades', query => $joined, prepare => \&make_instruments },
		{ name => 'tumbling, 1000 open windows', topic => 'disordered', query => $small },
		{ name => 'tumbling, 1 % bad records', topic => 'spoilt', query => $tumbling },
		map({ { name => "tumbling, $_", topic => $_, query => $tumbling } } qw(lz4 zstd snappy gzip)),
		{ name => 'tumbling, 20 fields', topic => 'wide', query => $tumbling },
		{ name => 'tumbling, 1 KB records', topic => 'kilobyte', query => $tumbling },
		{ name => 'tumbling, 10 KB records', topic => 'ten_kilobytes', query => $tumbling },
		{ name => 'tumbling, 16 partitions', topic => 'sixteen', query => $tumbling, pipelines => 1 },
		{ name => 'tumbling, 2 partitions, 2 pipelines', topic => 'pair', query => $tumbling });
}

1;
