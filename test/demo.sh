#!/usr/bin/env bash
# make demo: a private server with the development broker, a stream with live trades, and a continuous query whose result
# table grows while you look.  Needs nothing but Debian's packages; to be run through test/run.sh.
set -euo pipefail

seconds=${DEMO_SECONDS:-15}
dir=$VELO_SCRATCH
PATH=$VELO_BINDIR:$PATH
free_port() { perl -MVelo::Process=free_port -e 'print free_port()'; }
broker_port=$(free_port)
export PGHOST=$dir PGPORT PGUSER=postgres PGDATABASE=demo
PGPORT=$(free_port)
server='' feeder=''

stop_feeding()
{
	rm -f "$dir/feeding"
	[ -z "$feeder" ] || wait "$feeder" || true
	feeder=''
}

stop_all()
{
	stop_feeding
	[ -z "$server" ] || pg_ctl -D "$dir/data" -m fast -s stop || true
}
trap stop_all EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# show the SQL, then run it
sql()
{
	printf '%s\n' "$1"
	psql -Xq -v ON_ERROR_STOP=1 -c "$1"
}

say "Starting a private PostgreSQL with velo and its development broker on 127.0.0.1:$broker_port"
initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C -D "$dir/data" >/dev/null
cat >>"$dir/data/postgresql.conf" <<CONF
shared_preload_libraries = 'velo'
velo.dev_broker_port = $broker_port
listen_addresses = '127.0.0.1'
port = $PGPORT
unix_socket_directories = '$dir'
fsync = off
CONF
pg_ctl -D "$dir/data" -l "$dir/postgresql.log" -s -w start
server=started
PGDATABASE=postgres psql -Xq -c 'CREATE DATABASE demo'

say "A stream over a Kafka topic, and a query over it"
sql "CREATE EXTENSION velo;"
sql "SELECT velo.dev_create_topic('financial_trades', partitions => 4);"
sql "SELECT velo.create_stream('trades',
    columns    => 'symbol text, price float8, volume bigint, ts timestamptz',
    topic      => 'financial_trades',
    brokers    => '127.0.0.1:$broker_port',
    event_time => 'ts', watermark => '1 s', key => 'symbol');"

# ten times a second a few trades of now
trades="INSERT INTO trades
	SELECT (ARRAY['ACME', 'GLOBEX', 'HOOLI', 'INITECH'])[1 + (random() * 3)::int],
		round((90 + random() * 40)::numeric, 2), (1 + random() * 999)::int, clock_timestamp()
	FROM generate_series(1, 1 + (random() * 40)::int);"
touch "$dir/feeding"
while [ -e "$dir/feeding" ]; do
	sleep 0.1
	echo "$trades"
done | psql -Xq -v ON_ERROR_STOP=1 >"$dir/feeder.log" 2>&1 &
feeder=$!

sql "SELECT velo.create_query('avg_price', \$\$
  SELECT symbol, count(*) AS trades, round(avg(price)::numeric, 2) AS avg_price
  FROM trades
  WHERE price > 100
  WINDOW TUMBLING(5s)
  GROUP BY symbol
  EMIT CHANGES
\$\$);"

say "Trades arrive; the result is an ordinary table, kept up to date:"
echo "SELECT * FROM avg_price ORDER BY window_start DESC, symbol LIMIT 8;"
for ((i = 1; i <= seconds; i++)); do
	sleep 1
	printf '\n--- after %d s: ' "$i"
	psql -XAtq -c "SELECT records_in || ' records in, ' || lag || ' to go' FROM velo.queries"
	psql -Xq -P footer=off -c "SELECT to_char(window_start, 'HH24:MI:SS') AS window_start,
		to_char(window_end, 'HH24:MI:SS') AS window_end, symbol, trades, avg_price
		FROM avg_price ORDER BY 1 DESC, symbol LIMIT 8"
done

stop_feeding
say "The same question to PostgreSQL, over what the topic holds now:"
psql -XAtq -c "SELECT velo.wait('avg_price')" >/dev/null
sql "WITH expected AS (
  SELECT lower(velo.tumble(ts, '5 s')), upper(velo.tumble(ts, '5 s')),
    symbol, count(*), round(avg(price)::numeric, 2)
  FROM trades WHERE price > 100 GROUP BY velo.tumble(ts, '5 s'), symbol)
SELECT (SELECT count(*) FROM avg_price) AS rows,
  (SELECT count(*) FROM (TABLE avg_price EXCEPT TABLE expected) AS x) AS wrong,
  (SELECT count(*) FROM (TABLE expected EXCEPT TABLE avg_price) AS x) AS missing;"

say "How to go on"
cat <<'END'
Your own server: shared_preload_libraries = 'velo' in postgresql.conf, and for a broker to play with also
velo.dev_broker_port = 9092; restart it, then CREATE EXTENSION velo.  README.md has the rest; make test proves it.
END
