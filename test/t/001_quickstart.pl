# The quick start on a real Kafka: a stream, a windowed query that emits changes, and its answer beside PostgreSQL's own
# over the same records in an ordinary table.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new;
my $brokers = $kafka->brokers;

# 2000 trades of an hour in two partitions, by symbol, in order of time; a third does not pass price > 100
my @trades;
for my $i (0 .. 1999)
{
	my $symbol = (qw(ACME GLOBEX INITECH HOOLI UMBRELLA))[ $i % 5 ];
	my $seconds = int($i * 3600 / 2000);

	push @trades,
	  {
		symbol => $symbol,
		partition => length($symbol) % 2,
		price => 80 + ($i * 37) % 61 + ($i % 4) / 4,
		volume => $i,
		ts => sprintf('2026-01-01T12:%02d:%02d.%03dZ', $seconds / 60, $seconds % 60, $i % 1000)
	  };
}

sub produce
{
	return $kafka->produce('financial_trades',
		[
			map {
				[
					$_->{partition}, $_->{symbol}, undef,
					qq({"symbol": "$_->{symbol}", "price": $_->{price}, "volume": $_->{volume}, "ts": "$_->{ts}"})
				]
			} @_
		]);
}

$kafka->create_topic('financial_trades', 2);
produce(@trades[ 0 .. 999 ]);

$pg->query('CREATE EXTENSION velo');
$pg->query(<<"SQL");
SELECT velo.create_stream('trades',
	columns    => 'symbol text, price float8, volume bigint, ts timestamptz',
	topic      => 'financial_trades',
	brokers    => '$brokers',
	format     => 'json',
	event_time => 'ts', watermark => '10 s', key => 'symbol');
SQL
is( $pg->query(<<'SQL'), 'avg_price', 'create_query returns the result table');
SELECT velo.create_query('avg_price', $$
  SELECT symbol, AVG(price) AS avg_price
  FROM trades
  WHERE price > 100
  WINDOW TUMBLING(5m)
  GROUP BY symbol
  EMIT CHANGES
$$);
SQL

# the oracle: all of the hour is loaded at once, so compare() says up to which record
$pg->query(
	"CREATE TABLE trades_table (n int, symbol text, price float8, volume bigint, ts timestamptz);\n"
	  . 'INSERT INTO trades_table VALUES '
	  . join(', ',
		map { "($_, '$trades[$_]{symbol}', $trades[$_]{price}, $trades[$_]{volume}, '$trades[$_]{ts}')" }
		  0 .. $#trades));

sub compare
{
	my ($count, $what) = @_;

	is($pg->query(q{SELECT velo.wait('avg_price')}), 't', "everything is processed: $what");
	is($pg->query('SELECT window_start, window_end, symbol, round(avg_price::numeric, 6) FROM avg_price ORDER BY 1, 3'),
		$pg->query(<<"SQL"), "the answer is PostgreSQL's own: $what");
SELECT lower(velo.tumble(ts, '5 min')), upper(velo.tumble(ts, '5 min')), symbol, round(avg(price)::numeric, 6)
FROM trades_table
WHERE price > 100 AND n < $count
GROUP BY velo.tumble(ts, '5 min'), symbol
ORDER BY 1, 3
SQL
	return;
}

compare(1000, 'what was there before');
produce(@trades[ 1000 .. 1999 ]);
compare(2000, 'and what came after');

is($pg->query('SELECT name, state, records_in, late, dead_letters, lag FROM velo.queries'),
	'avg_price|running|2000|0|0|0', 'velo.queries');
is($pg->query('SELECT partition, committed_offset, lag FROM velo.partitions ORDER BY 1'),
	join("\n", map { my $p = $_; "$p|" . (grep { $_->{partition} == $p } @trades) . '|0' } 0, 1),
	'velo.partitions');
is($pg->query('SELECT count(*), min(volume), max(volume) FROM trades'), '2000|0|1999', 'the stream, ad hoc');

$pg->query(q{INSERT INTO trades VALUES ('ACME', 1000, 1, '2026-01-01T13:59:59Z')});
is($pg->query(q{SELECT velo.wait('avg_price')}), 't', 'an inserted record is processed');
is($pg->query(q{SELECT avg_price FROM avg_price WHERE window_start = '2026-01-01T13:55:00Z'}),
	'1000', 'an inserted record arrives');

$pg->query(q{SELECT velo.drop_query('avg_price')});
is($pg->query(q{SELECT to_regclass('avg_price') IS NULL}), 't', 'drop_query drops the result');
# whoever asks whether the server is ready may ask too early
my $log = $pg->log =~ s/^.*FATAL:  the database system is starting up\n//mgr;
unlike($log, qr/ERROR|FATAL|PANIC|WARNING/, 'nothing to complain about in the log');

done_testing;
