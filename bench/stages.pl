#!/usr/bin/env perl
# stages.pl: where the time of a pipeline goes, stage by stage, as Linux's perf sees it; prints Markdown.  To be run through
# test/run.sh; README.md in this directory says how to read it.
#
#	stages.pl [FD]
#
#	FD				of a file that is open: the stacks go there, for flame.pl, which says what they look like
#	BENCH			a regular expression: only cases whose name it matches (those below)
#	BENCH_RECORDS	records in the topic (5000000)
#
# A pipeline's threads are interrupted whenever they have spent another half a millisecond of CPU (two in long cases), from
# their start on, and a sample of the stack is taken unless they are in the kernel.  What the threads spent in all, less
# the samples, was the kernel's.  A sample counts for the stage whose code it finds on the stack, whatever that calls:
# hashing a key in PostgreSQL's code is "groups" if state/ asked for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use List::Util qw(sum);
use Velo::Bench;
use Velo::Bench::Report qw(circumstances);
use Velo::Bench::Single;
use Velo::Bench::Table;
use Velo::Process qw(run_command);

use constant MAIN_CASES => '^(?:tumbling 5m, final|group by, no window|filter and projection, appended|tumbling, look-up join'
  . '|tumbling, 20 fields|tumbling, 10 KB records|many groups)$';

# title, what the budget allows (ns per record)
my %stages = (
	fetch => [ 'librdkafka, its own threads', '200' ],
	decompress => [ 'decompression (lz4, zstd, gzip)', '' ],
	consume => [ 'librdkafka, the pipeline\'s thread', '190' ],
	decode => [ 'decode', '120-180' ],
	evaluate => [ 'evaluate', '140, with groups' ],
	groups => [ 'groups and transitions', '' ],
	write => [ 'emit and write', '4,000-6,000 a row; appended 900' ],
	checkpoint => [ 'checkpoint, stored groups', '' ],
	commit => [ 'commit', '' ],
	rest => [ 'the rest of the pipeline', '' ],
	fetch_kernel => [ 'kernel, librdkafka\'s threads', '' ],
	kernel => [ 'kernel, the pipeline\'s thread', '' ]);
my @order = qw(consume decode evaluate groups write checkpoint commit rest kernel fetch decompress fetch_kernel);

# Where in src/ a stage is at home: anywhere on the stack, or else at its innermost end.
my @anywhere = (
	[ qr{^pipeline/transaction\.c:commit_transaction$} => 'commit' ],
	[ qr{^(?:sink/|pipeline/emit\.c)} => 'write' ],
	[ qr{^(?:(?:state|catalog)/checkpoint\.c|catalog/run_blocks\.c|state/(?:stored|run)_?\w*\.[ch])|:save_partitions$} => 'checkpoint' ]);
my @innermost = (
	[ qr{^source/} => 'consume' ],
	[ qr{^format/} => 'decode' ],
	[ qr{^exec/} => 'evaluate' ],
	[ qr{^state/} => 'groups' ]);

# ---------------------------------------------------------------- recording

# The CPU time between samples, in ns.
sub period
{
	my ($case) = @_;

	return $case->{tell} ? 2_000_000 : 500_000;
}

# CPU of a process's threads, in ns, by name.
sub thread_cpu
{
	my ($pid) = @_;
	my %cpu;

	for my $task (glob "/proc/$pid/task/*")
	{
		chomp(my $name = Velo::Process::slurp("$task/comm"));
		$cpu{$name} += (split ' ', Velo::Process::slurp("$task/schedstat"))[0] // 0;
	}
	return \%cpu;
}

# Run the query of a case under perf; returns the pipeline's process id, and the CPU of its threads.
sub record
{
	my ($bench, $case, $file) = @_;
	my $pg = $bench->server;
	my $records = $bench->topic($case->{topic})->{records};

	$bench->prepare($case);
	# the pipeline is forked by the postmaster, and so inherits being observed
	my ($status, $out, $err) = run_command('', 'perf', 'record', '-q', '-B', '-N', '-o', $file, '-e', 'task-clock:u', '-c', period($case),
		'--call-graph', 'dwarf,32768', '-p', $pg->{pid}, '--',
		$pg->psql_command, '-c', $bench->creation('bench', $case), '-c', $bench->draining('bench', $records));
	die "perf record: $out$err(sysctl kernel.perf_event_paranoid must not be above 2)\n" if $status;
	my ($pid) = $pg->pipeline_pids('bench');
	my $cpu = thread_cpu($pid);

	$bench->drop_query('bench');
	$bench->clean_up($case);
	return ($pid, $cpu);
}

# ---------------------------------------------------------------- folding

# The samples of a process: [thread, frame...], the innermost frame first, each [library, address, symbol].
sub read_samples
{
	my ($file, $pid) = @_;
	my @samples;

	# ignore what perf has to say on standard error
	open my $script, '-|', "perf script -f -i '$file' --no-inline -F comm,pid,tid,ip,sym,dso 2>/dev/null" or die "perf script: $!\n";
	my $sample;
	while (<$script>)
	{
		if (/^(\S.*?)\s+(\d+)\/\d+\s*$/)
		{
			$sample = [$1];
			push @samples, $sample if $2 == $pid;
		}
		elsif (/^\s+([0-9a-f]+) (.*) \((.*)\)$/)
		{
			push @$sample, [ $3, $1, $2 ];
		}
	}
	close $script or die "perf script failed\n";
	return @samples;
}

# Where in src/ the addresses of velo's library are: a hash by address of lists of "room/file.c:function", the innermost
# first.  Inlined functions count as themselves, those of PostgreSQL's headers not at all.
sub find_places
{
	my ($library, @addresses) = @_;
	my ($status, $out) = run_command(join('', map { "0x$_\n" } @addresses), 'addr2line', '-e', $library, '-a', '-f', '-i');
	my (%places, $address, $function);

	die "addr2line (Debian's package binutils) failed\n" if $status;
	for (split /\n/, $out)
	{
		if (/^0x0*([0-9a-f]+)$/)
		{
			($address, $function) = ($1, undef);
		}
		elsif (!defined $function)
		{
			$function = $_;
		}
		else
		{
			push @{ $places{$address} }, "$1:$function" if m{(?:^|/)src/((?:\w+/)?\w+\.[ch]):};
			undef $function;
		}
	}
	die "$library has no debugging information: compile with -g\n" unless %places;
	return \%places;
}

sub stage_of
{
	my ($thread, $frames, @places) = @_;

	if ($thread =~ /^rdk:/)
	{
		return (grep { $_->[0] =~ /lib(?:lz4|zstd|z)\.so/ } @$frames) ? 'decompress' : 'fetch';
	}
	for my $rule (@anywhere)
	{
		return $rule->[1] if grep { $_ =~ $rule->[0] } @places;
	}
	for my $rule (@innermost)
	{
		return $rule->[1] if @places && $places[0] =~ $rule->[0];
	}
	return 'rest';
}

# The name of a library without directory and version.
sub name_of
{
	my ($library) = @_;

	return $library =~ m{([^/]+?)(?:\.so[.\d]*)?$} ? $1 : $library;
}

# What to name as the place where a sample was taken: velo's function, and the innermost that it called whose name is known.
sub label_of
{
	my ($frames, $place) = @_;
	my $library = name_of($frames->[0][0]);
	my ($caller) = ($place // '') =~ /:(.*)/;

	return $caller // $library if $library eq 'velo';
	my ($known) = grep { $_->[2] ne '[unknown]' || $_->[0] =~ m{/velo\.so$} } @$frames;
	my $callee = !$known || $known->[0] =~ m{/velo\.so$} ? $library : $known->[2];
	return defined $caller ? "$caller > $callee" : $callee;
}

# The functions on a stack, the outermost first, from where velo's or librdkafka's begin.  What has no name goes by that of
# its library, once.
sub functions_on
{
	my ($frames, $places) = @_;
	my @frames = reverse @$frames;
	my ($first) = grep { $frames[$_][0] =~ m{/(?:velo|librdkafka)\.so} } 0 .. $#frames;
	my @functions;

	for my $frame (@frames[ $first // 0 .. $#frames ])
	{
		my ($library, $address, $symbol) = @$frame;
		my @places = $library =~ m{/velo\.so$} ? reverse @{ $places->{$address} // [] } : ();
		my @names = map { s/.*://r } @places;

		@names = $symbol eq '[unknown]' ? name_of($library) : $symbol =~ s/^__GI_+|@.*|\.(?:part|isra|constprop)\..*//gr unless @names;
		push @functions, grep { !@functions || $_ ne $functions[-1] } @names;
	}
	return @functions;
}

sub thread_title
{
	my ($thread) = @_;

	return $thread =~ /^rdk:/ ? "librdkafka's thread $thread" : "the pipeline's thread";
}

# What the threads spent, in ns per record: a list of hashes "ns", "stage", "label" and "stack", the thread's title and the
# functions from the outermost on.  The kernel's part is one for each thread.
sub fold
{
	my ($samples, $cpu, $records, $period) = @_;
	my $ns = $period / $records;
	my (%addresses, %library, %kernel, @spent);

	for my $sample (@$samples)
	{
		my (undef, @frames) = @$sample;

		for my $i (0 .. $#frames)
		{
			next unless $frames[$i][0] =~ m{/velo\.so$};
			$library{ $frames[$i][0] } = 1;
			# of a caller that is where it goes on afterwards, which may be another line
			$frames[$i][1] = sprintf '%x', hex($frames[$i][1]) - 1 if $i > 0;
			$addresses{ $frames[$i][1] } = 1;
		}
	}
	my $places = find_places(keys %library, keys %addresses);

	$kernel{$_} = $cpu->{$_} / $records for keys %$cpu;
	for my $sample (@$samples)
	{
		my ($thread, @frames) = @$sample;
		my @places = map { $_->[0] =~ m{/velo\.so$} ? @{ $places->{ $_->[1] } // [] } : () } @frames;

		push @spent, {
			ns => $ns,
			stage => stage_of($thread, \@frames, @places),
			label => label_of(\@frames, $places[0]),
			stack => [ thread_title($thread), functions_on(\@frames, $places) ] };
		$kernel{$thread} -= $ns;
	}
	push @spent, { ns => $kernel{$_}, stage => /^rdk:/ ? 'fetch_kernel' : 'kernel', label => 'kernel', stack => [ thread_title($_), 'kernel' ] }
	  for sort keys %kernel;
	return \@spent;
}

# Nanoseconds per record by stage, and of functions by stage.
sub add_up
{
	my ($spent) = @_;
	my (%stages, %functions);

	for (@$spent)
	{
		$stages{ $_->{stage} } += $_->{ns};
		$functions{ $_->{stage} }{ $_->{label} } += $_->{ns} unless $_->{stage} =~ /kernel$/;
	}
	return (\%stages, \%functions);
}

# What flame.pl reads: stacks that are the same, added up.
sub write_stacks
{
	my ($file, $name, $circumstances, $spent) = @_;
	my %ns;

	$ns{ join "\t", $stages{ $_->{stage} }[0], join ';', @{ $_->{stack} } } += $_->{ns} for @$spent;
	print $file "$name\t$circumstances";
	printf $file "%s\t%s\n", $ns{$_}, $_ for sort keys %ns;
	return;
}

# ---------------------------------------------------------------- printing

sub print_table
{
	my ($names, $sums) = @_;
	my @shown = grep { my $stage = $_; grep { ($_->{$stage} // 0) >= 0.5 } @$sums } @order;

	print '| ns per record | budget |', map(" $_ |", @$names), "\n";
	print '| --- |', ' ---: |' x (@$names + 1), "\n";
	for my $stage (@shown)
	{
		print "| $stages{$stage}[0] | $stages{$stage}[1] |", map({ sprintf ' %.0f |', $_->{$stage} // 0 } @$sums), "\n";
	}
	print '| all threads | |', map({ sprintf ' %.0f |', sum(values %$_) } @$sums), "\n\n";
	return;
}

# The functions that take most in the pipeline's stages, those of little account left out.
sub print_functions
{
	my ($name, $sum, $functions) = @_;
	my $little = sum(values %$sum) / 250;

	print "* $name\n";
	for my $stage (grep { $_ ne 'fetch' } @order)
	{
		my $of = $functions->{$stage} // {};
		my @greatest = grep { $of->{$_} >= $little } sort { $of->{$b} <=> $of->{$a} } keys %$of;

		splice @greatest, 8 if @greatest > 8;
		printf "  * %s: %s\n", $stages{$stage}[0], join ', ', map { sprintf '`%s` %.0f', $_, $of->{$_} } @greatest if @greatest;
	}
	return;
}

my $wanted = $ENV{BENCH} // MAIN_CASES;
my @cases = grep { $_->{query} && Velo::Bench::Topics::is_known($_->{topic}) && $_->{name} =~ /$wanted/ }
  Velo::Bench::Table::cases(), Velo::Bench::Single::cases();

die "perf is missing: Debian's package linux-perf\n" if (run_command('', 'perf', '--version'))[0];
die "no case with a query matches $wanted\n" unless @cases;

my $bench = Velo::Bench->new(records => $ENV{BENCH_RECORDS});
my $circumstances = circumstances($bench, 'make bench-stages', qw(BENCH BENCH_RECORDS));
my (@sums, @functions, $stacks);

if (@ARGV)
{
	open $stacks, '>&=', $ARGV[0] or die "file descriptor $ARGV[0]: $!\n";
}
print "$circumstances\n";
for my $case (@cases)
{
	my $file = "$ENV{VELO_SCRATCH}/perf.data";
	my ($pid, $cpu) = record($bench, $case, $file);
	my @samples = read_samples($file, $pid);
	my $spent = fold(\@samples, $cpu, $bench->topic($case->{topic})->{records}, period($case));
	my ($sum, $functions) = add_up($spent);

	$bench->progress('%s: %d samples', $case->{name}, scalar @samples);
	write_stacks($stacks, $case->{name}, $circumstances, $spent) if $stacks;
	push @sums, $sum;
	push @functions, $functions;
}
print "\n";
print_table([ map { $_->{name} } @cases ], \@sums);
print_functions($cases[$_]{name}, $sums[$_], $functions[$_]) for 0 .. $#cases;
