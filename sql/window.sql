-- velo.tumble and velo.hop over ordinary values; date_bin and generate_series are the oracles
SET client_min_messages = warning; -- the extension may be there already
CREATE EXTENSION IF NOT EXISTS velo;
RESET client_min_messages;
SET TimeZone = 'UTC';

SELECT velo.tumble('2024-05-01 10:07:30+00', '5 minutes');
SELECT velo.tumble('2024-05-01 10:05:00+00', '5 minutes');
SELECT velo.tumble('2024-05-01 10:04:59.999999+00', '5 minutes');
SELECT velo.tumble('2024-05-01 10:07:30+00', '5 minutes', '2024-01-01 00:02:00+00');
SELECT velo.tumble('2024-05-01 10:07:30+00', '5 minutes', origin => '2030-01-01 00:02:00+00');
SELECT velo.tumble(NULL, '5 minutes') IS NULL AS null_time;

SELECT velo.hop('2024-05-01 10:07:30+00', '10 minutes', '3 minutes');
-- a slide longer than the size leaves gaps
SELECT velo.hop('2024-05-01 10:07:30+00', '1 minute', '5 minutes');
SELECT velo.hop('2024-05-01 10:05:30+00', '1 minute', '5 minutes');

-- before the epoch, before the origin, far away, on and beside the edges
CREATE TEMP TABLE times AS
    SELECT t + d AS ts
    FROM generate_series(timestamptz '1969-12-20 00:00:00+00', '1970-01-10', '17 hours 13 minutes') t,
         (VALUES (interval '0'), ('1 microsecond'), ('-1 microsecond')) v(d)
    UNION ALL
    SELECT t + d
    FROM (VALUES (timestamptz '1970-01-01 00:00:00+00'), ('2000-01-01 00:00:00+00'),
                 ('2024-02-29 12:00:00+00'), ('0044-03-15 BC'), ('20000-01-01')) o(t),
         (VALUES (interval '0'), ('1 microsecond'), ('-1 microsecond'), ('1 day')) v(d);
CREATE TEMP TABLE sizes(size interval);
INSERT INTO sizes VALUES ('1 microsecond'), ('7 milliseconds'), ('1 second'), ('5 minutes'), ('7 minutes'),
                         ('1 hour'), ('1 day'), ('36 hours'), ('7 days');
CREATE TEMP TABLE origins(origin timestamptz);
INSERT INTO origins VALUES ('epoch'), ('2000-01-03 00:00:00.5+00'), ('2500-06-01 11:11:11+00');

SELECT count(*) AS compared,
       count(*) FILTER (WHERE velo.tumble(ts, size, origin) IS DISTINCT FROM
                              tstzrange(start, start + size)) AS differ
FROM times, sizes, origins,
     LATERAL (SELECT date_bin(size, ts, origin) - CASE WHEN date_bin(size, ts, origin) > ts THEN size ELSE '0' END) o(start);

-- a hop's windows: those of the grid of the slide that hold the time
SELECT count(*) AS compared,
       count(*) FILTER (WHERE got IS DISTINCT FROM expected) AS differ,
       max(cardinality(got)) AS most
FROM times, (VALUES (interval '10 minutes', interval '1 minute'), ('10 minutes', '3 minutes'), ('1 day', '5 hours'),
                    ('5 minutes', '5 minutes'), ('1 minute', '7 minutes')) v(size, slide), origins,
     LATERAL (SELECT array_agg(w) FROM velo.hop(ts, size, slide, origin) w) g(got),
     LATERAL (SELECT array_agg(tstzrange(s, s + size) ORDER BY s)
              FROM generate_series(lower(velo.tumble(ts, slide, origin)) - 11 * slide, ts, slide) s
              WHERE tstzrange(s, s + size) @> ts) e(expected);

-- days of a wall clock: 23 and 25 hours long, and local midnight all the same
SELECT ts, lower(w) AT TIME ZONE 'Europe/Berlin' AS local_start, upper(w) - lower(w) AS length
FROM (VALUES (timestamptz '2024-03-31 10:00+00'), ('2024-10-27 00:30+00'), ('2024-07-01 22:30+00')) v(ts),
     LATERAL velo.tumble(ts, '1 day', zone => 'Europe/Berlin') w;
SELECT lower(velo.tumble('2024-05-01 10:00+00', '7 days', '2024-01-01 00:00+01', 'Europe/Berlin'))
       AT TIME ZONE 'Europe/Berlin' AS monday;
-- where midnight does not exist, comes twice, or a whole day is missing
SELECT zone, count(*) AS compared,
       count(*) FILTER (WHERE NOT w @> ts) AS outside,
       count(*) FILTER (WHERE lower(w) <> previous_upper AND lower(w) <> previous_lower) AS torn
FROM (SELECT zone, ts, w, lag(upper(w)) OVER o AS previous_upper, lag(lower(w)) OVER o AS previous_lower
      FROM (VALUES ('America/Sao_Paulo', timestamptz '2017-10-10'), ('America/St_Johns', '2009-10-28'),
                   ('Pacific/Apia', '2011-12-25'), ('Australia/Lord_Howe', '2024-04-03')) v(zone, first),
           generate_series(first, first + interval '10 days', '7 minutes') ts,
           LATERAL velo.tumble(ts, '1 day', zone => zone) w
      WINDOW o AS (PARTITION BY zone ORDER BY ts)) x
GROUP BY zone ORDER BY zone;

-- grouping works over ordinary tables
SELECT lower(velo.hop(ts, '2 minutes', '1 minute')) AS window_start, count(*)
FROM (VALUES (timestamptz '2024-05-01 10:00:30+00'), ('2024-05-01 10:01:30+00')) v(ts)
GROUP BY velo.hop(ts, '2 minutes', '1 minute') ORDER BY 1;

-- the ends of time: both bounds of all windows must be timestamps
SELECT velo.tumble('294276-12-31 23:59:59.999998+00', '1 microsecond');
SELECT velo.tumble('294276-12-31 23:59:59.999999+00', '1 microsecond');
SELECT velo.tumble('294276-12-31 23:59:59+00', '1 day');
SELECT velo.tumble('294276-12-31 00:00:00+00', '1 day', zone => 'Asia/Tokyo');
SELECT velo.tumble('294276-12-31 15:00:00+00', '1 day', zone => 'Asia/Tokyo');
SELECT velo.tumble('294276-12-20 00:00:00+00', '30 days', '1999-12-10 00:00:00+00');
SELECT velo.hop('294276-12-31 23:59:59+00', '3 days', '1 day');
SELECT count(*) FROM velo.hop('294276-12-29 00:00:00+00', '2 days', '1 day');
SELECT velo.tumble('4714-11-24 00:00:00+00 BC', '1 day');
SELECT velo.tumble('4714-11-24 00:00:00+00 BC', '7 days');
SELECT velo.tumble('4714-11-24 00:00:00+00 BC', '1 day', zone => 'Asia/Tokyo');
SELECT count(*) FROM velo.hop('4714-11-26 00:00:00+00 BC', '3 days', '1 day');
SELECT velo.hop('4714-11-25 23:59:59+00 BC', '3 days', '1 day');
SELECT velo.tumble('infinity', '1 day');
-- zones whose clocks never differ from UTC need no whole days
SELECT velo.tumble('2024-05-01 10:07:30+00', '5 minutes', zone => 'GMT') = velo.tumble('2024-05-01 10:07:30+00', '5 minutes') AS same;

-- refused
SELECT velo.tumble(now(), '1 month');
SELECT velo.tumble(now(), '0');
SELECT velo.tumble(now(), '-5 minutes');
SELECT velo.tumble(now(), '100000000 days');
SELECT velo.hop(now(), '5 minutes', '-1 minute');
SELECT velo.hop(now(), '1000 days', '1 microsecond');
SELECT velo.tumble(now(), '1 hour', zone => 'Europe/Berlin');
SELECT velo.tumble(now(), '1 day', zone => 'Nowhere/Land');
SELECT velo.session(now(), '5 minutes');
