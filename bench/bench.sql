-- bench.sql: what the benchmarks need in their database.

CREATE EXTENSION velo;

-- CPU seconds of all threads of a process: the 14th and 15th field, in ticks of 10 ms; the 2nd may hold blanks.
CREATE FUNCTION cpu_seconds(pid int) RETURNS float8 LANGUAGE sql AS $$
	SELECT (f[12]::float8 + f[13]::float8) / 100
	FROM regexp_split_to_array(regexp_replace(pg_read_file('/proc/' || pid || '/stat'), '^.*\) ', ''), ' ') AS f
$$;

CREATE FUNCTION cpu_seconds_of(q text) RETURNS float8 LANGUAGE sql AS $$
	SELECT sum(cpu_seconds(pid)) FROM velo.pipelines WHERE query = q AND pid IS NOT NULL
$$;

-- The greatest memory of its own, in MB, that a pipeline of the query has.
CREATE FUNCTION memory_of(q text) RETURNS float8 LANGUAGE sql AS $$
	SELECT max(substring(pg_read_file('/proc/' || pid || '/status') FROM 'RssAnon:\s*(\d+)')::float8 / 1024)
	FROM velo.pipelines WHERE query = q AND pid IS NOT NULL
$$;

-- Watch a query until it has committed everything; an error if it commits nothing for a minute.  The pause is the longest
-- time in which it committed nothing, in seconds.  A procedure, whose snapshots are short: an old one would keep the row
-- versions that the query replaces.
CREATE PROCEDURE drain(q text, total bigint, INOUT rate float8 DEFAULT NULL, INOUT half_rate float8 DEFAULT NULL,
	INOUT cpu float8 DEFAULT NULL, INOUT half_cpu float8 DEFAULT NULL, INOUT memory float8 DEFAULT NULL,
	INOUT pause float8 DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	committed bigint := 0;
	before bigint;
	moved_at timestamptz := clock_timestamp();
	first bigint;
	first_at timestamptz;
	half bigint;
	half_at timestamptz;
	cpu_at_half float8;
	cpu_at_end float8;
	ended_at timestamptz;
BEGIN
	LOOP
		before := committed;
		SELECT coalesce(sum(committed_offset), 0) INTO committed FROM velo.partitions WHERE query = q;
		IF committed > before THEN
			pause := greatest(pause, extract(epoch FROM clock_timestamp() - moved_at));
			moved_at := clock_timestamp();
		ELSIF clock_timestamp() > moved_at + interval '1 min' THEN
			RAISE EXCEPTION 'only % records of % are committed', committed, total;
		END IF;
		memory := greatest(memory, memory_of(q));
		IF first IS NULL AND committed > 0 THEN
			first := committed;
			first_at := clock_timestamp();
		END IF;
		IF half IS NULL AND committed >= total / 2 THEN
			half := committed;
			half_at := clock_timestamp();
			cpu_at_half := cpu_seconds_of(q);
		END IF;
		EXIT WHEN committed >= total;
		PERFORM pg_sleep(0.02);
		COMMIT;
	END LOOP;
	ended_at := clock_timestamp();
	cpu_at_end := cpu_seconds_of(q);
	rate := (total - first) / extract(epoch FROM nullif(ended_at, first_at) - first_at);
	half_rate := (total - half) / extract(epoch FROM nullif(ended_at, half_at) - half_at);
	cpu := cpu_at_end / total * 1e6;
	half_cpu := (cpu_at_end - cpu_at_half) / nullif(total - half, 0) * 1e6;
END
$$;

-- How many rows of a query's result and of plain SQL's answer are not also in the other.  Digits beyond the fourth
-- decimal depend on the order in which numbers were added up.
CREATE FUNCTION differences(result regclass, plain text, OUT nrows bigint, OUT ndifferent bigint)
LANGUAGE plpgsql AS $$
DECLARE
	columns text;
BEGIN
	SELECT string_agg(CASE WHEN atttypid IN ('float8'::regtype, 'numeric'::regtype) THEN format('round(%I::numeric, 4)', attname)
			ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
	INTO columns FROM pg_attribute WHERE attrelid = result AND attnum > 0 AND NOT attisdropped;
	EXECUTE format('WITH velo AS (SELECT %1$s FROM %2$s), plain AS (SELECT %1$s FROM (%3$s) AS p)
		SELECT (SELECT count(*) FROM plain),
			(SELECT count(*) FROM ((TABLE velo EXCEPT ALL TABLE plain) UNION ALL (TABLE plain EXCEPT ALL TABLE velo)) AS d)',
		columns, result, plain) INTO nrows, ndifferent;
END
$$;
