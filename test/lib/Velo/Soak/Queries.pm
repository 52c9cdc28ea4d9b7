# Velo::Soak::Queries - the continuous queries of the soak, and what PostgreSQL has to say about each.
#
# Of a query:
#
#	name		and that of its result
#	streams		that it reads
#	text		in velo's dialect
#	pipelines	that it asks for
#	options		beside those that all have
#	oracle		the same over ordinary tables; where there is none, it is the text itself
#	late		how many records are late
#	failing		how many records can't be evaluated
#	skipped		how many records are skipped, for they have gone
#	records		whose records it has read, if not its streams'
#	final		true: each of its rows is written once, and never touched again
#	target		statement that creates a table for the rows; by default velo does
#
# The oracle sees the streams as tables of the same name and columns, in schema "oracle"; and as views in_order_NAME with the
# column "watermark": what that of the record's partition was before it.  closed_NAME has the one row "upto": the event
# time up to which windows are closed.

package Velo::Soak::Queries;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(queries);

my $figures = 'count(*) AS n, sum(v) AS s, avg(v) AS a, min(id) AS first, max(id) AS last';

my @queries = (
	{
		name => 'final',
		streams => ['trades'],
		text => "SELECT k, $figures FROM trades WINDOW TUMBLING(10s) GROUP BY k EMIT FINAL",
		pipelines => 2,
		final => 1,
		oracle => <<"SQL",
SELECT lower(w) AS window_start, upper(w) AS window_end, k, $figures
FROM (SELECT *, velo.tumble(ts, '10 s') AS w FROM in_order_trades) AS r, closed_trades
WHERE upper(w) > watermark AND upper(w) <= upto GROUP BY w, k
SQL
		late => q{SELECT count(*) FROM in_order_trades WHERE upper(velo.tumble(ts, '10 s')) <= watermark}
	},
	{
		name => 'final_merged',
		streams => ['orders'],
		text => "SELECT v % 20 AS m, $figures, count(DISTINCT k) AS d FROM orders WHERE v > 100 WINDOW HOPPING(12s, 6s) GRACE 1s GROUP BY v % 20 EMIT FINAL",
		pipelines => 3,
		final => 1,
		oracle => <<"SQL",
SELECT lower(w) AS window_start, upper(w) AS window_end, v % 20 AS m, $figures, count(DISTINCT k) AS d
FROM (SELECT *, velo.hop(ts, '12 s', '6 s') AS w FROM in_order_orders WHERE v > 100) AS r, closed_orders
WHERE upper(w) + interval '1 s' > watermark AND upper(w) + interval '1 s' <= upto GROUP BY w, v % 20
SQL
		late => <<"SQL"
SELECT count(*) FROM in_order_orders
WHERE v > 100 AND (SELECT max(upper(w)) FROM velo.hop(ts, '12 s', '6 s') AS w) + interval '1 s' <= watermark
SQL
	},
	{
		name => 'changes',
		streams => ['trades'],
		text => "SELECT v % 7 AS m, $figures, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) AS middle FROM trades "
		  . 'WINDOW HOPPING(20s, 10s) GROUP BY v % 7 EMIT CHANGES',
		pipelines => 2,
		oracle => <<"SQL",
SELECT lower(w) AS window_start, upper(w) AS window_end, v % 7 AS m, $figures,
	percentile_disc(0.5) WITHIN GROUP (ORDER BY v) AS middle
FROM (SELECT *, velo.hop(ts, '20 s', '10 s') AS w FROM in_order_trades) AS r
WHERE upper(w) > watermark GROUP BY w, v % 7
SQL
		late => q{SELECT count(*) FROM in_order_trades WHERE (SELECT max(upper(w)) FROM velo.hop(ts, '20 s', '10 s') AS w) <= watermark}
	},
	{
		name => 'exclusive',
		streams => ['trades'],
		text => "SELECT k, $figures, max(length(upper(pad))) AS widest, count(DISTINCT v) AS d FROM trades GROUP BY k",
		pipelines => 4
	},
	{
		name => 'merged',
		streams => ['orders'],
		text => "SELECT v % 100 AS m, $figures FROM orders GROUP BY v % 100 HAVING sum(v) % 2 = 0",
		pipelines => 2
	},
	{
		name => 'united',
		streams => [ 'trades', 'orders' ],
		text => "SELECT k, $figures FROM (SELECT k, v, id FROM trades UNION ALL SELECT k, v, id FROM orders) AS r GROUP BY k",
		pipelines => 2
	},
	{
		name => 'looked_up',
		streams => ['orders'],
		text => 'SELECT id, k, label, 1000 / (v - 500) AS q FROM orders LEFT JOIN labels ON m = v % 10 WHERE id % 3 = 0',
		pipelines => 2,
		oracle => 'SELECT id, k, label, 1000 / (v - 500) AS q FROM orders LEFT JOIN labels ON m = v % 10 WHERE id % 3 = 0 AND v <> 500',
		failing => 'SELECT count(*) FROM orders WHERE id % 3 = 0 AND v = 500',
		target => 'CREATE TABLE looked_up_rows (id bigint PRIMARY KEY, k text, label text, q bigint, written timestamptz DEFAULT now(), '
		  . 'twice bigint GENERATED ALWAYS AS (2 * id) STORED)'
	},
	{
		name => 'runs',
		streams => ['trades'],
		text => 'SELECT id % 60000 AS g, count(*) AS n, max(id) AS last, max(repeat(md5(id::text), 8)) AS wide FROM trades GROUP BY id % 60000',
		pipelines => 1,
		options => {pipeline_memory => '8MB'}
	},
	# of a topic whose records go: what each has of it is in the tables "kept" and "strict"
	{
		name => 'kept',
		streams => ['volatile'],
		text => 'SELECT id, k FROM volatile',
		pipelines => 1,
		options => {on_gap => 'continue'},
		records => ['kept'],
		oracle => 'SELECT id, k FROM kept',
		skipped => 'SELECT count(*) FROM seen.lost'
	},
	{
		name => 'strict',
		streams => ['volatile'],
		text => "SELECT k, $figures FROM volatile GROUP BY k",
		pipelines => 2,
		records => ['strict'],
		oracle => "SELECT k, $figures FROM strict GROUP BY k"
	});

# All of them, as hashes of their own.
sub queries
{
	my %default = (late => 'SELECT 0', failing => 'SELECT 0', skipped => 'SELECT 0', options => {});

	return map { {%default, oracle => $_->{text}, records => $_->{streams}, %$_} } @queries;
}

1;
