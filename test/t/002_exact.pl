# Random topics, random queries, and kill -9 of workers, server and broker while they run: in the end every result must
# be what PostgreSQL itself answers to the same SELECT over an ordinary table that holds the same records, less the late
# ones.  Which records are late is told by plain SQL, by the rule of the documentation: a record enters those of its
# windows for which end + grace > its partition's watermark, the greatest event time of the partition's earlier decoded
# records less the stream's bound of disorder.
#
#	VELO_ROUNDS	number of rounds (50)
#	VELO_SEED	seed of the first round, the next has the next number; printed if a round fails
#
# The first round that fails ends the test; its server and broker directories are kept.

use strict;
use warnings;

use List::Util qw(min);
use POSIX qw(floor strftime);
use Test::More;
use Time::HiRes qw(sleep time);
use Velo::Kafka;
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

my $rounds = $ENV{VELO_ROUNDS} // 50;
my $first_seed = $ENV{VELO_SEED} // int(time) % 1_000_000_000;
my $second = 1_000_000;    # event times are in microseconds

my $kafka = Velo::Kafka->new;
my $pg = Velo::Server->new(conf => {TimeZone => 'UTC', 'velo.retry_max_delay' => '500 ms', 'backtrace_functions' => 'record_damaged'});

sub pick { return $_[ int rand @_ ] }
sub chance { return rand() < $_[0] }

# ---------------------------------------------------------------- records

my @keys = (undef, 'a' .. 'h', 'a key that is longer than most', "\xc3\xa9t\xc3\xa9", '');
my @texts = (undef, 'x', 'y', 'two words', "\xe6\x97\xa5\xe6\x9c\xac", '"quoted"', 'back\slash', "line\nbreak");

sub json_string
{
	my ($text) = @_;

	return 'null' unless defined $text;
	$text =~ s/(["\\])/\\$1/g;
	$text =~ s/\n/\\n/g;
	$text =~ s/\xc3\xa9/\\u00e9/g if chance(0.5);
	return qq("$text");
}

# Microseconds since 1970 as ISO 8601 in UTC, also before 1970.
sub iso_time
{
	my ($us, $separator) = @_;
	my $whole = floor($us / $second);

	return strftime("%Y-%m-%d$separator%H:%M:%S", gmtime $whole)
	  . sprintf('.%06d', $us - $whole * $second);
}

sub json_time
{
	my ($us) = @_;

	return sprintf '"%sZ"', iso_time($us, 'T') if chance(0.6);
	return sprintf '"%s+05:30"', iso_time($us + 19_800 * $second, ' ') if chance(0.3);
	return sprintf '%s%d.%03d', $us < 0 ? '-' : '', abs($us) / 1000, abs($us) % 1000;
}

# A record {partition, kind, id, k, a, n, t, ts, value}; kind: good, bad, tombstone.
sub random_record
{
	my ($id, $shape) = @_;
	my $k = pick(@keys[ 0 .. $shape->{nkeys} ]);
	my $partition = pick(@{ $shape->{busy} });

	$partition = $shape->{busy}[ unpack('%32C*', $k // '') % @{ $shape->{busy} } ]
	  if $shape->{key} && !($shape->{untrue} && chance(0.1));

	my $clock = \$shape->{clock}[$partition];
	my $size = $shape->{size};

	$$clock += int rand $size / 10;
	$$clock += 5 * $size if chance(0.01);

	my $ts = $$clock;

	$ts -= int rand 3 * $size if chance(0.2);
	$ts = floor($ts / $shape->{slide}) * $shape->{slide} + pick(0, 0, 0, -1, 1) if chance(0.15);

	my %record = (
		partition => $partition,
		kind => 'good',
		id => $id,
		k => $k,
		a => chance(0.1) ? undef : int(rand 20) - 10,
		n => chance(0.1) ? undef : pick('0', '1.50', '-3.25', '1e3', '12345678901234567890.123', int rand 1000),
		t => pick(@texts),
		ts => $ts);
	my %json = (
		id => $id,
		k => json_string($k),
		a => $record{a} // 'null',
		n => $record{n} // 'null',
		t => json_string($record{t}),
		ts => json_time($ts));

	$json{a} = qq("$json{a}") if defined $record{a} && chance(0.1);
	delete $json{a} if !defined $record{a} && chance(0.5);
	delete $json{k} if !defined $k && chance(0.5);
	$json{other} = '{"deep": [1, {"k": "not this one"}, null, "\u0000"]}' if chance(0.1);
	$record{value} = '{' . join(', ', map { qq("$_": $json{$_}) } sort keys %json) . '}';

	if (chance($shape->{bad}))
	{
		$record{kind} = 'bad';
		$record{value} = pick(
			'', 'no json', '{"id": 1', qq({"t": "\xff"}), '{"id": 1, "a": 2}',
			qq({"id": 1, "ts": "infinity"}), qq({"id": 1, "a": "many", "ts": "2026-01-01"}),
			qq({"id": 1, "a": 1e3, "ts": "2026-01-01"}), $record{value} . '}', '[1, 2]');
	}
	elsif (chance($shape->{bad}))
	{
		$record{kind} = 'tombstone';
		$record{value} = undef;
	}
	return \%record;
}

# Produce records, and load those that decode into table "rec" with their offsets; phase is kept with them.
sub produce
{
	my ($shape, $phase, @records) = @_;
	my $copy = '';

	return unless @records;
	my $places =
	  $kafka->produce($shape->{topic}, [ map { [ $_->{partition}, $_->{k}, undef, $_->{value} ] } @records ]);

	for my $i (0 .. $#records)
	{
		my $r = $records[$i];

		die "record $i went to partition $places->[$i][0] instead of $r->{partition}\n"
		  if $places->[$i][0] != $r->{partition};
		push @{ $shape->{produced}[$phase] }, $r;
		next if $r->{kind} ne 'good';
		$copy .= join("\t",
			map { my $v = $_ // '\N'; $v =~ s/\\(?!N$)/\\\\/g; $v =~ s/\n/\\n/g; $v } $phase, @{ $places->[$i] },
			@$r{qw(id k a n t)}, iso_time($r->{ts}, ' ') . '+00')
		  . "\n";
	}
	$pg->query("COPY rec FROM STDIN;\n$copy\\.\n") if $copy;
	return;
}

# ---------------------------------------------------------------- queries

my @aggregates = (
	'count(*)', 'sum(a)', 'sum(n)', 'avg(a)', 'avg(n)', 'min(n)', 'max(a)', 'min(t)', 'max(ts)',
	'array_agg(id ORDER BY id)', 'count(DISTINCT a)', q{string_agg(t, ',' ORDER BY id DESC)},
	'count(*) FILTER (WHERE a > 0)', 'bool_or(a > 0)', 'sum(a * 2 + 1)', 'var_pop(a)',
	'percentile_disc(0.5) WITHIN GROUP (ORDER BY n)', 'max(DISTINCT t)', 'jsonb_agg(id ORDER BY o, p)');
my @conditions = ('true', 'a > 0', 'n < 500', "t IS NOT NULL AND k <> 'a'", 'id % 3 <> 0', 'a IS NULL OR a % 2 = 0');
my %groups = (k => 'k', t => 't', 'k, t' => 'k, t', 'a % 3' => 'a % 3 AS m', 'd.label' => 'd.label');

sub random_aggregates
{
	my %chosen = map { $_ => 1 } map { pick(@aggregates) } 1 .. 1 + int rand 4;
	my $i = 0;

	# every query wants column a, for what is bad in a column that nobody wants is not a bad record
	return join ', ', 'count(a) AS v0', map { $i++; "$_ AS v$i" } sort keys %chosen;
}

# A query {text, stop, oracle, late, errors, options...}: "oracle" answers what the result must be, "late" and "errors"
# how many records are late and how many can't be evaluated.  %s in them is a condition on rec's rows that are read.
sub random_query
{
	my ($shape) = @_;
	my $kind = pick(qw(append divide grouped grouped global windowed windowed windowed windowed native binned));
	my $where = pick(@conditions);
	my %query = (
		kind => $kind,
		stop => chance(0.4),
		late => 'SELECT 0',
		errors => 'SELECT 0',
		on_error => pick('dead_letter', 'dead_letter', 'skip'),
		on_late => pick('drop', 'dead_letter'),
		pipelines => min(pick(1, 2, 4), $shape->{partitions}),
		batch_size => pick(1, 7, 50, 500, 10_000),
		commit_interval => pick(1, 10, 100));
	my $from = 'rec AS s';

	if ($kind eq 'append')
	{
		my $list = "id, k, a * 2 AS a2, upper(t) AS t, n + 1 AS n1, ts, p, o, CASE WHEN a > 0 THEN 'up' ELSE 'down' END AS way";

		$query{text} = "SELECT $list FROM s WHERE $where";
		$query{oracle} = "SELECT $list FROM $from WHERE ($where) AND %s";
		return \%query;
	}
	if ($kind eq 'divide')
	{
		$query{text} = "SELECT id, 1000 / a AS q FROM s WHERE $where";
		$query{oracle} = "SELECT id, 1000 / a AS q FROM $from WHERE ($where) AND a IS DISTINCT FROM 0 AND %s";
		$query{errors} = "SELECT count(*) FROM $from WHERE ($where) AND a = 0 AND %s";
		return \%query;
	}

	my $list = random_aggregates();
	my $having = chance(0.3) ? pick('HAVING count(*) > 2', 'HAVING sum(a) > 0', 'HAVING max(n) IS NOT NULL') : '';

	if ($kind eq 'global')
	{
		$query{text} = "SELECT $list FROM s WHERE $where $having";
		$query{oracle} = "SELECT $list FROM $from WHERE ($where) AND %s $having";
		return \%query;
	}

	my $group = pick(sort keys %groups);
	my $join = $group eq 'd.label' ? 'JOIN dim AS d USING (k)' : '';

	$list = "$groups{$group}, $list";
	if ($kind eq 'grouped')
	{
		$query{text} = "SELECT $list FROM s $join WHERE $where GROUP BY $group $having";
		$query{oracle} = "SELECT $list FROM $from $join WHERE ($where) AND %s GROUP BY $group $having";
		return \%query;
	}
	if ($kind eq 'binned')
	{
		my $bin = sprintf "date_bin('%d s', ts, '1970-01-01 00:00:00+00')", $shape->{size} / $second;

		$query{text} = "SELECT $bin AS bin, $list FROM s $join WHERE $where GROUP BY $bin, $group $having";
		$query{oracle} = "SELECT $bin AS bin, $list FROM $from $join WHERE ($where) AND %s GROUP BY $bin, $group $having";
		return \%query;
	}

	# a window; tumbling is hopping with a slide of the size
	my $size = $shape->{size} / $second;
	my $slide = chance(0.5) ? $size : $shape->{slide} / $second;
	my $grace = pick(0, 0, 3, $size);

	$query{final} = chance(0.5);
	$query{grace} = $grace;
	if ($kind eq 'native')
	{
		my $window =
		  $slide == $size ? "velo.tumble(ts, '$size s')" : "velo.hop(ts, '$size s', '$slide s')";

		$query{grace_option} = $grace;
		$query{text} = "SELECT lower($window) AS window_start, upper($window) AS window_end, $list FROM s $join "
		  . "WHERE $where GROUP BY $window, $group $having";
	}
	else
	{
		my $window = $slide == $size ? "TUMBLING(${size}s)" : sprintf 'HOPPING(ts, %ds, %dms)', $size, $slide * 1000;

		$window .= " GRACE ${grace}s" if $grace;
		$query{text} = "SELECT $list FROM s $join WHERE $where WINDOW $window GROUP BY $group $having";
	}
	$query{text} .= $query{final} ? ' EMIT FINAL' : ' EMIT CHANGES';

	# every record with its partition's watermark before it, once for each of its windows
	my $entered = <<"SQL";
(SELECT r.*, w.start AS window_start, w.start + interval '$size s' AS window_end,
		coalesce(w.start + interval '$size s' + interval '$grace s' > r.watermark, true) AS open
	FROM (SELECT *, max(ts) OVER (PARTITION BY p ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
				- interval '$shape->{delay} us' AS watermark
			FROM rec WHERE %s) AS r
		CROSS JOIN LATERAL (SELECT date_bin('$slide s', r.ts, '1970-01-01 00:00:00+00') - i * interval '$slide s' AS start
			FROM generate_series(0, $size / $slide + 1) AS i) AS w
	WHERE w.start + interval '$size s' > r.ts) AS s
SQL
	my $closed = 'true';

	# without the end that closes everything: windows that the least watermark has reached; a partition without
	# records holds all of them open
	$closed = <<"SQL" if $query{final} && !$query{stop};
window_end + interval '$grace s' <=
	(SELECT CASE WHEN count(DISTINCT p) = $shape->{partitions} THEN min(top) END - interval '$shape->{delay} us'
	 FROM (SELECT p, max(ts) AS top FROM rec WHERE %s GROUP BY p) AS m)
SQL
	$query{oracle} = "SELECT window_start, window_end, $list FROM $entered $join WHERE ($where) AND open AND $closed "
	  . "GROUP BY window_start, window_end, $group $having";
	$query{late} = "SELECT count(*) FROM (SELECT FROM $entered $join WHERE ($where) GROUP BY p, o HAVING NOT bool_or(open)) AS l";
	return \%query;
}

sub create_query
{
	my ($query, $name) = @_;
	my %options = (
		batch_size => $query->{batch_size},
		commit_interval => qq("$query->{commit_interval} ms"),
		idle_timeout => 0);

	$options{grace} = qq("$query->{grace_option} s") if $query->{grace_option};
	my $json = '{' . join(', ', map { qq("$_": $options{$_}) } sort keys %options) . '}';
	my $stop = $query->{stop} ? "'end'" : 'NULL';

	$query->{name} = $name;
	$query->{call} = "SELECT velo.create_query('$name', \$q\$$query->{text}\$q\$, stop => $stop, "
	  . "pipelines => $query->{pipelines}, on_error => '$query->{on_error}', on_late => '$query->{on_late}', "
	  . "options => '$json')";
	$pg->query($query->{call});
	return;
}

# ---------------------------------------------------------------- trouble

my %troubles = (
	'kill a worker' => sub {
		my @pids = $pg->pipeline_pids;
		my $checkpointer = $pg->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});

		# all others are thrown out then; the server is back when it has another checkpointer
		$pg->wait_until("SELECT pid <> $checkpointer FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
		  if @pids && kill 'KILL', pick(@pids);
	},
	'terminate a worker' => sub {
		$pg->query('SELECT pg_terminate_backend(pid) FROM velo.pipelines WHERE pid IS NOT NULL ORDER BY random() LIMIT 1');
	},
	'kill the server' => sub { $pg->kill9; $pg->start; },
	'restart the server' => sub { $pg->restart },
	'kill the broker' => sub { $kafka->kill9; sleep rand 0.5; $kafka->start; },
	'pause and resume' => sub {
		# one that finishes just then can't be paused
		$pg->psql(q{SELECT velo.pause_query(name) FROM velo.queries WHERE state IN ('starting', 'running', 'waiting')});
		$pg->query(q{SELECT velo.resume_query(name) FROM velo.queries WHERE state = 'paused'});
	});

sub make_trouble
{
	my ($shape) = @_;
	# a dead broker costs seconds
	my $trouble = chance(0.1) ? 'kill the broker' : pick(grep { !/broker/ } sort keys %troubles);

	push @{ $shape->{troubles} }, $trouble;
	sleep rand 0.3;
	$troubles{$trouble}->();
	die "the server does not come back\n" unless $pg->wait_until('SELECT true');
	return;
}

# ---------------------------------------------------------------- a round

# The first lines of $left that $right hasn't.
sub missing
{
	my ($left, $right) = @_;
	my %count;

	$count{$_}++ for split /\n/, $right;
	my @missing = grep { --$count{$_} < 0 } split /\n/, $left;

	return @missing > 10 ? @missing[ 0 .. 9 ] : @missing;
}

sub check_query
{
	my ($shape, $query) = @_;
	my $read = $query->{stop} ? 'phase = 0' : 'true';
	my @records = map { @{ $shape->{produced}[$_] // [] } } $query->{stop} ? 0 : (0, 1);
	my %sql = map { ($_ => $query->{$_} =~ s/%s/$read/gr) } qw(oracle late errors);

	my $done = $pg->query("SELECT velo.wait('$query->{name}', '60 s')");
	# a worker that was killed when it had done everything is started anew
	$pg->wait_until("SELECT state IN ('running', 'finished') FROM velo.queries WHERE name = '$query->{name}'", 20);
	my $result = $pg->query(qq{SELECT r::text FROM $query->{name} AS r ORDER BY 1});
	my $oracle = $pg->query(qq{SELECT r::text FROM ($sql{oracle}) AS r ORDER BY 1});
	my $figures = $pg->query(<<"SQL");
SELECT state, records_in, late, tombstones, dead_letters, skipped,
	(SELECT count(*) FROM velo.dead_letters WHERE query = name)
FROM velo.queries WHERE name = '$query->{name}'
SQL
	my $late = $pg->query($sql{late});
	my $bad = $pg->query($sql{errors}) + grep { $_->{kind} eq 'bad' } @records;
	my $letters = ($query->{on_error} eq 'dead_letter' ? $bad : 0) + ($query->{on_late} eq 'dead_letter' ? $late : 0);
	my $expected = join '|', $query->{stop} ? 'finished' : 'running', scalar @records, $late,
	  scalar(grep { $_->{kind} eq 'tombstone' } @records), $letters, $query->{on_error} eq 'skip' ? $bad : 0,
	  $letters;
	my $label = "seed $shape->{seed}: $query->{name} $query->{kind}";

	return 1
	  if ok($done eq 't', "$label: processed")
	  & ok($result eq $oracle, "$label: " . split(/\n/, $oracle) . ' rows')
	  & is($figures, $expected, "$label: figures");

	diag($query->{call});
	diag("oracle: $sql{oracle}");
	diag("missing: $_") for missing($oracle, $result);
	diag("too much: $_") for missing($result, $oracle);
	diag($pg->query("SELECT * FROM velo.queries WHERE name = '$query->{name}'"));
	return 0;
}

sub run_round
{
	my ($seed) = @_;

	srand $seed;
	my $size = pick(7, 10, 60, 300) * $second;
	my $partitions = pick(1, 2, 3, 5);
	my @busy = grep { $_ == 0 || chance(0.85) } 0 .. $partitions - 1;
	my $base = pick(0, -3_600, 1_767_225_600) * $second;
	my $keyed = chance(0.5);
	my %shape = (
		seed => $seed,
		topic => "exact_$seed",
		partitions => $partitions,
		busy => \@busy,
		size => $size,
		slide => pick($size / 2, int($size / $second / 3) * $second, $size - $second),
		delay => pick(0, 0, 1, $size / $second) * $second,
		key => $keyed,
		untrue => $keyed && chance(0.2),
		nkeys => pick(1, 4, $#keys),
		bad => pick(0, 0.01, 0.1),
		clock => [ map { $base + int rand $size } 1 .. $partitions ]);
	my $count = pick(0, 1, 100, 500, 500, 2000, 2000, 5000);
	my $before = pick($count, int rand $count + 1);
	my @records = map { random_record($_, \%shape) } 1 .. $count;
	my @later = splice @records, $before;
	my $key = $keyed ? ", key => 'k'" : '';

	$kafka->create_topic($shape{topic}, $partitions);
	$pg->query(<<"SQL");
DROP TABLE IF EXISTS rec;
CREATE TABLE rec (phase int, p int, o bigint, id bigint, k text, a int, n numeric, t text, ts timestamptz);
SELECT velo.create_stream('s',
	columns => 'id bigint, k text, a int, n numeric, t text, ts timestamptz,
		p int OPTIONS (metadata ''partition''), o bigint OPTIONS (metadata ''offset'')',
	topic => '$shape{topic}', brokers => '@{[$kafka->brokers]}', event_time => 'ts',
	watermark => interval '$shape{delay} us'$key);
SQL
	produce(\%shape, 0, @records);

	my @queries = map { random_query(\%shape) } 1 .. 3;

	create_query($queries[$_], "q$_") for 0 .. $#queries;
	for (1 .. pick(0, 1, 2, 3))
	{
		produce(\%shape, 1, splice @later, 0, int rand @later + 1);
		make_trouble(\%shape);
	}
	produce(\%shape, 1, @later);

	my $good = 1;

	$good &= check_query(\%shape, $_) for @queries;
	if (!$good)
	{
		diag("round of VELO_SEED=$seed VELO_ROUNDS=1, $count records, troubles: @{ $shape{troubles} // [] }");
		diag("server: $pg->{dir}, broker: $kafka->{dir}");
		return 0;
	}
	$pg->query("SELECT velo.drop_query(name) FROM velo.queries; SELECT velo.drop_stream('s')");
	$kafka->delete_topic($shape{topic});
	return 1;
}

$pg->query('CREATE EXTENSION velo');
$pg->query(q{CREATE TABLE dim (k text, label text); INSERT INTO dim VALUES ('a', 'first'), ('b', 'second'), ('c', 'first')});
note("VELO_SEED=$first_seed");
for my $seed ($first_seed .. $first_seed + $rounds - 1)
{
	last unless eval { run_round($seed) } // do { fail("seed $seed: $@"); 0 };
}
done_testing;
