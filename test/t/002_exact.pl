# Random topics, random queries, and kill -9 of workers, server and broker while they run: in the end every result must
# be what PostgreSQL itself answers to the same SELECT over an ordinary table that holds the same records, less the late
# ones.  Which records are late is told by plain SQL, by the rule of the documentation: a record enters those of its
# windows for which end + grace > its partition's watermark, the greatest event time of the partition's earlier decoded
# records less the stream's bound of disorder.  Of EMIT FINAL a trigger on the result bears witness: each row was written
# once.
#
#	VELO_ROUNDS	number of rounds (50)
#	VELO_SEED	seed of the first round, the next has the next number; printed if a round fails
#
# The first round that fails ends the test; its server and broker directories are kept.

use strict;
use warnings;

use List::Util qw(max min sum);
use POSIX qw(floor strftime);
use Test::More;
use Time::HiRes qw(sleep time);
use Velo::Kafka;
use Velo::Process qw(wait_for);
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
my @floats = (undef, '0.5', '-2.25', '100.75', 'NaN', 'Infinity', '-Infinity', '-0', '0');
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

# A record {st, partition, kind, id, k, a, n, f, t, ts, value} of stream number st; kind: good, bad, tombstone.
sub random_record
{
	my ($id, $shape, $st) = @_;
	my $stream = $shape->{streams}[$st];
	my $k = pick(@keys[ 0 .. $shape->{nkeys} ]);
	my $partition = pick(@{ $stream->{busy} });

	$partition = $stream->{busy}[ unpack('%32C*', $k // '') % @{ $stream->{busy} } ]
	  if $shape->{key} && !($shape->{untrue} && chance(0.1));

	my $clock = \$stream->{clock}[$partition];
	my $size = $shape->{size};

	$$clock += int rand $size / 10;
	$$clock += 5 * $size if chance(0.01);

	my $ts = $$clock;

	$ts -= int rand 3 * $size if chance(0.2);
	$ts = floor($ts / $shape->{slide}) * $shape->{slide} + pick(0, 0, 0, -1, 1) if chance(0.15);

	my %record = (
		st => $st,
		partition => $partition,
		kind => 'good',
		id => $id,
		k => $k,
		a => chance(0.1) ? undef : int(rand 20) - 10,
		n => chance(0.1) ? undef : pick('0', '1.50', '-3.25', '1e3', '12345678901234567890.123', int rand 1000),
		f => pick(@floats),
		t => pick(@texts),
		ts => $ts);
	my %json = (
		id => $id,
		k => json_string($k),
		a => $record{a} // 'null',
		n => $record{n} // 'null',
		f => ($record{f} // 'null') =~ s/^(-?[NI].*)/"$1"/r,
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

# Produce records of one stream, and load those that decode into table "rec" with their offsets; phase is kept with them.
sub produce_to
{
	my ($shape, $topic, $phase, @records) = @_;
	my $copy = '';
	my $places = $kafka->produce($topic, [ map { [ $_->{partition}, $_->{k}, undef, $_->{value} ] } @records ]);

	for my $i (0 .. $#records)
	{
		my $r = $records[$i];

		die "record $i went to partition $places->[$i][0] instead of $r->{partition}\n"
		  if $places->[$i][0] != $r->{partition};
		push @{ $shape->{produced}[$phase] }, $r;
		next if $r->{kind} ne 'good';
		$copy .= join("\t",
			map { my $v = $_ // '\N'; $v =~ s/\\(?!N$)/\\\\/g; $v =~ s/\n/\\n/g; $v } $phase, $r->{st}, @{ $places->[$i] },
			@$r{qw(id k a n f t)}, iso_time($r->{ts}, ' ') . '+00')
		  . "\n";
	}
	$pg->query("COPY rec FROM STDIN;\n$copy\\.\n") if $copy;
	return;
}

sub produce
{
	my ($shape, $phase, @records) = @_;

	for my $st (0 .. $#{ $shape->{streams} })
	{
		my @its = grep { $_->{st} == $st } @records;

		produce_to($shape, $shape->{streams}[$st]{topic}, $phase, @its) if @its;
	}
	return;
}

# ---------------------------------------------------------------- queries

my @aggregates = (
	'count(*)', 'sum(a)', 'sum(n)', 'avg(a)', 'avg(n)', 'min(n)', 'max(a)', 'min(t)', 'max(ts)',
	'array_agg(id ORDER BY id)', 'count(DISTINCT a)', q{string_agg(t, ',' ORDER BY id DESC)},
	'count(*) FILTER (WHERE a > 0)', 'bool_or(a > 0)', 'sum(a * 2 + 1)', 'var_pop(a)',
	'percentile_disc(0.5) WITHIN GROUP (ORDER BY n)', 'max(DISTINCT t)', 'jsonb_agg(id ORDER BY o, id)',
	'percentile_cont(0.25) WITHIN GROUP (ORDER BY a)', 'mode() WITHIN GROUP (ORDER BY t)',
	'array_agg(DISTINCT a ORDER BY a DESC)', 'jsonb_object_agg(id, t)', 'bit_xor(id)',
	'sum(CASE WHEN a > 0 THEN n ELSE -1 END)', '(SELECT count(*) FROM dim) + max(a)',
	# 0 and -0 are equal, so either may be the least
	'min(f) + 0', 'max(f) + 0', 'count(DISTINCT f)',
	# exact in whatever order
	'sum(f) FILTER (WHERE abs(f) < 1000)', 'avg(f) FILTER (WHERE abs(f) < 1000)',
	# aggregates of the user's own: with a combine function, without, and with a state by reference
	'xor_combined(id)', 'xor_kept(id)', 'longest(t)');
# DISTINCT that is kept as values, where no other aggregate keeps rows
my @distinct = (
	'count(*)', 'sum(a)', 'max(n)', 'count(DISTINCT a)', 'count(DISTINCT t)', 'count(DISTINCT f)', 'count(DISTINCT n)', 'sum(DISTINCT a)',
	'sum(DISTINCT id)', 'avg(DISTINCT a)', 'count(DISTINCT id) FILTER (WHERE a > 0)', 'count(DISTINCT 10 / a) FILTER (WHERE a > 0)',
	'sum(DISTINCT id % 100000)');
my @conditions = (
	'true', 'a > 0', 'n < 500', "t IS NOT NULL AND k <> 'a'", 'id % 3 <> 0', 'a IS NULL OR a % 2 = 0',
	'k IN (SELECT k FROM dim)', '(SELECT count(*) FROM dim AS e WHERE e.k = s.t) = 0', "f <> 'NaN'");
my @havings = ('count(*) > 2', 'sum(a) > 0', 'max(n) IS NOT NULL');
# GROUP BY, and the same as a column
my %groups = (
	k => 'k', t => 't', 'k, t' => 'k, t', 'a % 3' => 'a % 3 AS m', 'd.label' => 'd.label', 'f + 0' => 'f + 0 AS g',
	'CASE WHEN a > 0 THEN k END' => 'CASE WHEN a > 0 THEN k END AS c', 'hashint8(id) % 3000' => 'hashint8(id) % 3000 AS i');
my $many_groups = 'hashint8(id) % 3000';
my $large_state = 'md5(max(repeat(md5(id::text), 60)))';

# A random expression of a type (bool, int, bigint, float, numeric, text or time): what velo evaluates a column at a time, and
# what only PostgreSQL's executor can, in and beside each other.  None fails, for no value that there is.
my %leaves = (
	bool => [ '(a > 0)', 'true', 'NULL::bool', "(t LIKE '%o%')", "(t ~ '^[a-y]')" ],
	int => [ 'a', 'a', '3', 'NULL::int', 'length(t)', 'twice(a)', '(SELECT count(*)::int FROM dim AS e WHERE e.k = s.t)' ],
	bigint => [ 'id', 'id', '5000000000', 'o' ],
	float => [ 'f', 'f', '2.5::float8', "'NaN'::float8" ],
	numeric => [ 'n', 'n', '100.25' ],
	text => [ 't', 'k', "'x'", "''", 'upper(t)', 'NULL::text', 'p::text' ],
	time => [ 'ts', 'ts', "'2026-01-01 00:00:10+00'::timestamptz" ]);

sub random_expression
{
	my ($type, $depth) = @_;

	return pick(@{ $leaves{$type} }) if $depth <= 0;

	my $of = sub { return random_expression($_[0], $depth - 1 - int rand 2) };
	my $other = pick(sort keys %leaves);
	my @all = (
		sub { 'CASE WHEN ' . $of->('bool') . ' THEN ' . $of->($type) . ' ELSE ' . $of->($type) . ' END' },
		sub { 'CASE ' . $of->('int') . ' WHEN 3 THEN ' . $of->($type) . ' WHEN ' . $of->('int') . ' THEN ' . $of->($type) . ' END' },
		sub { 'coalesce(' . $of->($type) . ', ' . $of->($type) . ')' });
	my %some = (
		bool => [
			map({ my $join = $_; sub { '(' . $of->('bool') . " $join " . $of->('bool') . ')' } } 'AND', 'AND', 'OR', 'OR'),
			sub { '(NOT ' . $of->('bool') . ')' },
			map({ my $test = $_; sub { '((' . $of->('bool') . ") IS $test)" } } 'TRUE', 'NOT TRUE', 'FALSE', 'NOT FALSE', 'UNKNOWN', 'NOT UNKNOWN'),
			map({ my $test = $_; sub { '((' . $of->($other) . ") IS $test)" } } 'NULL', 'NOT NULL'),
			map({ my $op = $_; sub { '(' . $of->($other) . " $op " . $of->($other) . ')' } } '=', '<>', '<', '<=', '>', '>=', 'IS DISTINCT FROM'),
			map({ my $op = $_; sub { '(' . $of->(pick('int', 'bigint', 'float')) . " $op " . $of->(pick('int', 'bigint', 'float')) . ')' } } '=', '<', '>='),
			sub { '(' . $of->('int') . pick(' IN (-1, 2, 3)', ' NOT IN (1, NULL)', ' IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)') . ')' },
			sub { '(' . $of->('text') . pick(q{ IN ('x', 'a', '')}, q{ <> ALL ('{y,b}')}) . ')' }
		],
		int => [
			map({ my $op = $_; sub { '(' . $of->('int') . " $op " . pick(-1 .. 7) . ')' } } '+', '-', '*'),
			sub { 'nullif(' . $of->('int') . ', 3)' },
			sub { 'greatest(' . $of->('int') . ', ' . $of->('int') . ')' }
		],
		bigint => [ map { my $op = $_; sub { '(' . $of->('int') . " $op " . $of->('bigint') . ')' } } '+', '-' ],
		float => [ map({ my $op = $_; sub { '(' . $of->('float') . " $op " . $of->('float') . ')' } } '+', '-'), sub { $of->('int') . '::float8' } ],
		numeric => [ sub { '(' . $of->('numeric') . ' + ' . $of->('int') . ')' }, sub { 'round(' . $of->('numeric') . ', 1)' } ],
		text => [ sub { '(' . $of->('text') . " || 'z')" }, sub { '(' . $of->('int') . ')::text' } ],
		time => [ sub { '(' . $of->('time') . " + interval '1 s')" } ]);

	return pick(@all, @{ $some{$type} }, @{ $some{$type} })->();
}

sub random_aggregate
{
	my $depth = 1 + int rand 3;
	my $filter = chance(0.3) ? ' FILTER (WHERE ' . random_expression('bool', $depth) . ')' : '';
	my ($function, $type) = @{
		pick(
			[ sum => 'int' ], [ avg => 'int' ], [ sum => 'bigint' ], [ avg => 'numeric' ], [ max => 'numeric' ], [ count => 'text' ],
			[ min => 'text' ], [ max => 'int' ], [ min => 'time' ], [ bool_and => 'bool' ], [ bool_or => 'bool' ], [ max => 'bigint' ],
			[ min => 'float' ], [ count => 'bool' ], [ stddev_pop => 'int' ])
	};
	my $argument = random_expression($type, $depth);

	# 0 and -0 are equal, so either may be the least
	return "$function($argument)$filter" . ($type eq 'float' ? ' + 0' : '');
}

sub random_condition
{
	# with a condition that is false for PostgreSQL's planner no column would be wanted
	return chance(0.4) ? random_expression('bool', 1 + int rand 3) . ' OR id < 0' : pick(@conditions);
}

sub random_aggregates
{
	my %chosen = map { $_ => 1 } chance(0.3)
	  ? map { pick(@distinct) } 1 .. 3
	  : map { chance(0.5) ? random_aggregate() : pick(@aggregates) } 1 .. 1 + int rand 4;
	my $i = 0;

	# every query wants columns a and f, for what is bad in a column that nobody wants is not a bad record
	return join ', ', 'count(a) AS v0', map { $i++; "$_ AS v$i" } sort keys %chosen;
}

# A query {text, stop, oracle, late, errors, options...}: "oracle" answers what the result must be, "late" and "errors"
# how many records are late and how many can't be evaluated, "failing" how many groups have no row because their output
# can't be evaluated.  %s in them is a condition on rec's rows that are read.
sub random_query
{
	my ($shape) = @_;
	my $kind = pick(qw(append divide grouped grouped grouped global windowed windowed windowed windowed windowed native binned));
	my @streams = @{ $shape->{streams} };
	my $union = @streams > 1 && chance(0.6);

	@streams = $streams[0] if !$union;
	my $on_error = pick('dead_letter', 'dead_letter', 'skip');
	my %query = (
		kind => $kind,
		streams => scalar @streams,
		stop => chance(0.4),
		late => 'SELECT 0',
		errors => 'SELECT 0',
		failing => 'SELECT 0',
		on_error => $on_error,
		first_on_error => chance(0.2) ? 'fail' : $on_error,
		on_late => pick('drop', 'dead_letter'),
		pipelines => min(pick(1, 2, 4), max(map { $_->{partitions} } @streams)),
		options => {
			batch_size => pick(1, 7, 50, 500, 10_000),
			commit_interval => pick('1 ms', '10 ms', '100 ms'),
			idle_timeout => 0,
			chance(0.3) ? (pipeline_memory => '8 MB') : ()
		});
	my $where = random_condition();
	my $columns = 'id, k, a, n, f, t, ts, p, o';
	my $stream = $union ? "(SELECT $columns FROM s UNION ALL SELECT $columns FROM s1) AS s" : 's';
	my $from = 'rec AS s';

	if ($kind eq 'append')
	{
		my $list = "id, k, a * 2 AS a2, upper(t) AS t, n + 1 AS n1, f, ts, p, o, d.label, "
		  . "CASE WHEN a > 0 THEN 'up' ELSE 'down' END AS way, (SELECT max(label) FROM dim AS e WHERE e.k = s.t) AS looked_up";
		my $join = pick('LEFT JOIN dim AS d USING (k)', 'JOIN dim AS d USING (k)', '');

		$list =~ s/d\.label/NULL AS label/ if !$join;
		$list .= ', ' . random_expression(pick(sort keys %leaves), 1 + int rand 3) . " AS e$_" for 1 .. int rand 4;
		$query{text} = "SELECT $list FROM $stream $join WHERE $where";
		$query{oracle} = "SELECT $list FROM $from $join WHERE ($where) AND %s";
		return \%query;
	}
	if ($kind eq 'divide')
	{
		my $join = pick('', '', 'JOIN dim AS d USING (k)', 'LEFT JOIN dim AS d USING (k)');

		$query{text} = "SELECT id, f, 1000 / a AS q FROM $stream $join WHERE $where";
		$query{oracle} = "SELECT id, f, 1000 / a AS q FROM $from $join WHERE ($where) AND a IS DISTINCT FROM 0 AND %s";
		$query{errors} = "SELECT count(DISTINCT id) FROM $from $join WHERE ($where) AND a = 0 AND %s";
		return \%query;
	}

	my $list = random_aggregates();
	my $having = chance(0.3) ? pick(@havings) : 'true';
	my $group = pick('k', sort keys %groups);
	my $join = $group eq 'd.label' ? pick('LEFT ', '') . 'JOIN dim AS d USING (k)' : '';
	my $failing = chance(0.2);

	if ($group eq $many_groups)
	{
		$list .= ", $large_state AS vl";
		$query{options}{pipeline_memory} = '8 MB';
	}
	$list .= ', 12 / (count(*) - 3) AS e' if $failing;

	# What is asked of velo, and what of the table: $from has the rows that are in time, $groups and $head are what
	# stands in GROUP BY and before the list.
	my $complete = sub {
		my ($text_head, $text_tail, $text_groups, $head, $source, $in_time, $by) = @_;

		$text_groups = "GROUP BY $text_groups" if $text_groups;
		$by = "GROUP BY $by" if $by;
		$query{text} = "SELECT ${text_head}$list FROM $stream $join WHERE $where $text_tail $text_groups "
		  . ($having eq 'true' ? '' : "HAVING $having");
		my $rows = "FROM $source $join WHERE ($where) AND $in_time $by HAVING ($having) AND count(*)";

		$query{oracle} = "SELECT ${head}$list $rows " . ($failing ? '<> 3' : '>= 0');
		$query{failing} = "SELECT count(*) FROM (SELECT $rows = 3) AS g" if $failing;
		return \%query;
	};

	return $complete->('', '', '', '', $from, '%s', '') if $kind eq 'global';

	$list = "$groups{$group}, $list";
	$query{group} = [ $groups{$group} =~ /(\w+)(?:,|$)/g ];
	return $complete->('', '', $group, '', $from, '%s', $group) if $kind eq 'grouped';
	if ($kind eq 'binned')
	{
		my $bin = sprintf "date_bin('%d s', ts, '1970-01-01 00:00:00+00')", $shape->{size} / $second;

		unshift @{ $query{group} }, 'bin';
		return $complete->("$bin AS bin, ", '', "$bin, $group", "$bin AS bin, ", $from, '%s', "$bin, $group");
	}

	# a window; tumbling is hopping with a slide of the size
	my $size = $shape->{size} / $second;
	my $slide = chance(0.5) ? $size : $shape->{slide} / $second;
	my $grace = pick(0, 0, 3, $size);

	$query{final} = chance(0.6);
	$query{advance} = $query{final} && !$query{stop} && chance(0.5);

	# every record with its partition's watermark before it, once for each of its windows
	my $delay = 'CASE st ' . join(' ', map { "WHEN $_ THEN interval '$shape->{streams}[$_]{delay} us'" } 0 .. $#streams) . ' END';
	my $entered = <<"SQL";
(SELECT r.*, w.start AS window_start, w.start + interval '$size s' AS window_end,
		coalesce(w.start + interval '$size s' + interval '$grace s' > r.watermark, true) AS open
	FROM (SELECT *, max(ts) OVER (PARTITION BY st, p ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
				- $delay AS watermark
			FROM rec WHERE %s) AS r
		CROSS JOIN LATERAL (SELECT date_bin('$slide s', r.ts, '1970-01-01 00:00:00+00') - i * interval '$slide s' AS start
			FROM generate_series(0, $size / $slide + 1) AS i) AS w
	WHERE w.start + interval '$size s' > r.ts) AS s
SQL
	my $closed = 'true';

	# without the end, or an operator, that closes everything: windows that the least watermark has reached; a partition without
	# records holds all of them open
	my $partitions = sum(map { $_->{partitions} } @streams);
	$closed = <<"SQL" if $query{final} && !$query{stop} && !$query{advance};
window_end + interval '$grace s' <=
	(SELECT CASE WHEN count(*) = $partitions THEN min(top) END
	 FROM (SELECT max(ts) - $delay AS top FROM rec WHERE %s GROUP BY st, p) AS m)
SQL
	$query{late} = "SELECT count(*) FROM (SELECT FROM $entered $join WHERE ($where) GROUP BY st, p, o HAVING NOT bool_or(open)) AS l";
	unshift @{ $query{group} }, 'window_start';

	my $by = "window_start, window_end, $group";
	my @oracle = ('window_start, window_end, ', $entered, "open AND $closed", $by);

	if ($kind eq 'native')
	{
		my $window = $slide == $size ? "velo.tumble(ts, '$size s')" : "velo.hop(ts, '$size s', '$slide s')";

		$query{options}{grace} = "$grace s" if $grace;
		$complete->("lower($window) AS window_start, upper($window) AS window_end, ", '', "$window, $group", @oracle);
	}
	else
	{
		my $window = $slide == $size ? "TUMBLING(ts, ${size}s)" : sprintf 'HOPPING(ts, %ds, %dms)', $size, $slide * 1000;

		$window .= " GRACE ${grace}s" if $grace;
		$complete->('', "WINDOW $window", $group, @oracle);
	}
	$query{text} .= $query{final} ? ' EMIT FINAL' : ' EMIT CHANGES';
	return \%query;
}

# A table for the query, with more than the query knows of.
sub create_target
{
	my ($query, $name) = @_;
	my $empty = $query->{oracle} =~ s/%s/true/gr;

	$pg->query("CREATE TABLE $name AS $empty WITH NO DATA");
	$pg->query("CREATE UNIQUE INDEX ON $name (@{[join ', ', @{ $query->{group} }]}) NULLS NOT DISTINCT")
	  if $query->{group};
	$pg->query("ALTER TABLE $name ADD stamp timestamptz NOT NULL DEFAULT now(), ADD touched int, "
		  . "ADD row_hash bigint GENERATED ALWAYS AS (hashint8extended(@{[$query->{kind} =~ /append|divide/ ? 'id' : 'v0']}, 0)) STORED");
	$pg->query("CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION touch()");
	return;
}

sub create_query
{
	my ($query, $name) = @_;
	my $json = '{' . join(', ', map { qq("$_": "$query->{options}{$_}") } sort keys %{ $query->{options} }) . '}';
	my $stop = $query->{stop} ? "'end'" : 'NULL';
	my $target = 'NULL';

	$query->{name} = $query->{target} = $name;
	if (chance(0.25))
	{
		$query->{target} = "${name}_target";
		$target = "'$query->{target}'";
		create_target($query, $query->{target});
	}
	$query->{call} = "SELECT velo.create_query('$name', \$q\$$query->{text}\$q\$, target => $target, stop => $stop, "
	  . "pipelines => $query->{pipelines}, on_error => '$query->{first_on_error}', on_late => '$query->{on_late}', "
	  . "options => '$json')";
	$pg->query("BEGIN; $query->{call}; CREATE TRIGGER witness AFTER INSERT OR UPDATE OR DELETE ON $query->{target} "
		  . 'FOR EACH ROW EXECUTE FUNCTION witness(); COMMIT');
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
	},
	'evaluate otherwise' => sub {
		$pg->query('ALTER SYSTEM SET velo.vectorized = ' . pick('on', 'off'));
		$pg->query('SELECT pg_reload_conf()');
	},
	'alter a query' => sub {
		my $name = 'q' . int rand 3;
		my $change = pick(
			map({ qq("pipelines": $_) } 1 .. 4),
			'"batch_size": 3', '"batch_size": 1000', '"commit_interval": "50 ms"', '"pipeline_memory": "8 MB"');

		$pg->query("SELECT velo.alter_query('$name', '{$change}')");
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

# Wait for a query, and go on where on_error => 'fail' has ended it.
sub wait_for_query
{
	my ($query) = @_;

	for (1 .. 2)
	{
		my ($status, $done, $error) = $pg->psql("SELECT velo.wait('$query->{name}', '60 s')");

		return $done eq 't' if !$status;
		die $error if $query->{first_on_error} ne 'fail' || $error !~ /has failed/;
		$pg->query("SELECT velo.alter_query('$query->{name}', '{\"on_error\": \"$query->{on_error}\"}'), "
			  . "velo.restart_query('$query->{name}')");
	}
	return 0;
}

sub check_query
{
	my ($shape, $query) = @_;
	my @phases = $query->{stop} ? 0 : (0, 1);
	my $read = "st < $query->{streams} AND phase <= $phases[-1]";
	my @records = grep { $_->{st} < $query->{streams} } map { @{ $shape->{produced}[$_] // [] } } @phases;
	my %sql = map { ($_ => $query->{$_} =~ s/%s/$read/gr) } qw(oracle late errors failing);

	my $done = wait_for_query($query);
	my $state = <<"SQL";
SELECT (SELECT count(*) FROM velo.query_state WHERE query = id) + (SELECT count(*) FROM velo.query_group WHERE query = id)
	+ (SELECT count(*) FROM velo.query_run WHERE query = id)
FROM velo.query WHERE name = '$query->{name}'
SQL
	if ($query->{advance})
	{
		$pg->query("SELECT velo.advance_watermark('$query->{name}', '2200-01-01')");
		$pg->wait_until(
			"SELECT ($state) = 0 OR (SELECT state = 'failed' FROM velo.queries WHERE name = '$query->{name}')");
		# a group of the last windows may be what ends it
		wait_for_query($query);
		$pg->wait_until("SELECT ($state) = 0");
	}
	my $columns = $pg->query(<<"SQL");
SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
WHERE attrelid = '$query->{target}'::regclass AND attnum > 0 AND attname NOT IN ('stamp', 'touched', 'row_hash')
SQL
	my $result = $pg->query(qq{SELECT r::text FROM (SELECT $columns FROM $query->{target}) AS r ORDER BY 1});
	my $oracle = $pg->query(qq{SELECT r::text FROM ($sql{oracle}) AS r ORDER BY 1});
	my $late = $pg->query($sql{late});
	my $bad = $pg->query($sql{errors}) + grep { $_->{kind} eq 'bad' } @records;
	my $letters = ($query->{on_error} eq 'dead_letter' ? $bad : 0) + ($query->{on_late} eq 'dead_letter' ? $late : 0);
	my $of_groups = $query->{on_error} eq 'dead_letter' ? $pg->query($sql{failing}) : 0;
	my $expected = join '|', $query->{stop} ? 'finished' : 'running', scalar @records, $late,
	  scalar(grep { $_->{kind} eq 'tombstone' } @records), $letters, $query->{on_error} eq 'skip' ? $bad : 0,
	  $letters + $of_groups;
	my $figures;

	# a worker that was killed when it had done everything is started anew
	wait_for(
		sub {
			$figures = $pg->query(<<"SQL");
SELECT state, records_in, late, tombstones, dead_letters, skipped,
	(SELECT count(*) FROM velo.dead_letters WHERE query = name)
FROM velo.queries WHERE name = '$query->{name}'
SQL
			return $figures eq $expected;
		},
		20);
	my $rows = $pg->query("SELECT count(*) FROM ($sql{oracle}) AS r");
	my $label = "seed $shape->{seed}: $query->{name} $query->{kind}";
	my $witness = $pg->query("SELECT operation, count(*) FROM witnessed WHERE relation = '$query->{target}'::regclass GROUP BY 1");

	return 1
	  if ok($done, "$label: processed")
	  & ok($result eq $oracle, "$label: $rows rows")
	  & is($figures, $expected, "$label: figures")
	  & (!($query->{stop} || $query->{advance}) || is($pg->query($state), 0, "$label: no state is left"))
	  & (!$query->{final} || is($witness, $rows ? "INSERT|$rows" : '', "$label: each row was written once"));

	diag($query->{call});
	diag("oracle: $sql{oracle}");
	diag("missing: $_") for missing($oracle, $result);
	diag("too much: $_") for missing($result, $oracle);
	diag($pg->query("SELECT * FROM velo.queries WHERE name = '$query->{name}'"));
	return 0;
}

sub create_stream
{
	my ($shape, $st) = @_;
	my $stream = $shape->{streams}[$st];
	my $name = $st ? "s$st" : 's';
	my $key = $shape->{key} ? ", key => 'k'" : '';

	$kafka->create_topic($stream->{topic}, $stream->{partitions});
	$pg->query(<<"SQL");
SELECT velo.create_stream('$name',
	columns => 'id bigint, k text, a int, n numeric, f float8, t text, ts timestamptz,
		p int OPTIONS (metadata ''partition''), o bigint OPTIONS (metadata ''offset'')',
	topic => '$stream->{topic}', brokers => '@{[$kafka->brokers]}', event_time => 'ts',
	watermark => interval '$stream->{delay} us'$key);
SQL
	return;
}

sub run_round
{
	my ($seed) = @_;

	srand $seed;
	my $size = pick(7, 10, 60, 300) * $second;
	my $base = pick(0, -3_600, 1_767_225_600) * $second;
	my $keyed = chance(0.5);
	my %shape = (
		seed => $seed,
		size => $size,
		slide => pick($size / 2, int($size / $second / 3) * $second, $size - $second),
		key => $keyed,
		untrue => $keyed && chance(0.3),
		nkeys => pick(1, 4, $#keys),
		bad => pick(0, 0.01, 0.1));

	for my $st (0 .. (chance(0.4) ? 1 : 0))
	{
		my $partitions = pick(1, 2, 3, 5);

		$shape{streams}[$st] = {
			topic => "exact_${seed}_$st",
			partitions => $partitions,
			busy => [ grep { $_ == 0 || chance(0.85) } 0 .. $partitions - 1 ],
			delay => pick(0, 0, 1, $size / $second) * $second,
			clock => [ map { $base + int rand $size } 1 .. $partitions ]
		};
	}

	my $count = pick(0, 1, 100, 500, 500, 2000, 2000, 5000);
	my $before = pick($count, int rand $count + 1);
	my @records = map { random_record($_, \%shape, int rand @{ $shape{streams} }) } 1 .. $count;
	my @later = splice @records, $before;

	$pg->query(<<'SQL');
DROP TABLE IF EXISTS rec;
CREATE TABLE rec (phase int, st int, p int, o bigint, id bigint, k text, a int, n numeric, f float8, t text, ts timestamptz);
TRUNCATE witnessed;
SQL
	create_stream(\%shape, $_) for 0 .. $#{ $shape{streams} };
	produce(\%shape, 0, @records);

	my @queries = map { random_query(\%shape) } 1 .. 3;

	$pg->query('ALTER SYSTEM SET velo.vectorized = ' . pick('on', 'on', 'off'));
	$pg->query('SELECT pg_reload_conf()');

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
	$pg->query('SELECT velo.drop_query(name) FROM velo.queries; SELECT velo.drop_stream(stream) FROM velo.streams');
	$pg->query("DROP TABLE IF EXISTS $_") for map { $_->{target} } @queries;
	$kafka->delete_topic($_->{topic}) for @{ $shape{streams} };
	return 1;
}

$pg->query(<<'SQL');
CREATE EXTENSION velo;
CREATE TABLE dim (k text, label text);
INSERT INTO dim VALUES ('a', 'first'), ('a', 'other'), ('b', 'second'), ('c', 'first'), (NULL, 'nobody'), ('x', 'looked up');

CREATE AGGREGATE xor_combined(bigint) (sfunc = int8xor, stype = int8, combinefunc = int8xor, parallel = safe);
CREATE AGGREGATE xor_kept(bigint) (sfunc = int8xor, stype = int8);
CREATE FUNCTION longer(a text, b text) RETURNS text IMMUTABLE PARALLEL SAFE LANGUAGE sql
	RETURN CASE WHEN b IS NULL OR (length(a), a) > (length(b), b) THEN a ELSE b END;
CREATE FUNCTION twice(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2 * a; END';
CREATE AGGREGATE longest(text) (sfunc = longer, stype = text, combinefunc = longer, initcond = '', parallel = safe);

CREATE TABLE witnessed (relation regclass, operation text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.witnessed VALUES (TG_RELID, TG_OP); RETURN NULL; END';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN NEW.touched := coalesce(NEW.touched, 0) + 1; RETURN NEW; END';
SQL
note("VELO_SEED=$first_seed");
for my $seed ($first_seed .. $first_seed + $rounds - 1)
{
	last unless eval { run_round($seed) } // do { fail("seed $seed: $@"); 0 };
}
done_testing;
