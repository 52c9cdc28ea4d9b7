# Velo::Kafka - a real Apache Kafka of the test's own: one process in KRaft mode on free ports of 127.0.0.1.
#
#   plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;
#   my $kafka = Velo::Kafka->new;
#   $kafka->create_topic('trades', 4);
#   my $offsets = $kafka->produce('trades', [[0, 'key', 1767225600000, '{"a": 1}'], ...]);
#
# It stops with the process that made it.

package Velo::Kafka;

use strict;
use warnings;

use Velo::Process qw(scratch_dir free_port wait_for spawn finish run_command);

# Why there can't be a Kafka; undef if there can.
sub missing
{
	# in list context: as a condition, glob() would go on where the last call ended
	my @jars = glob "$ENV{VELO_BUILD}/kafka/lib/kafka_2.13-*.jar";

	return @jars ? undef : 'test/setup.sh could not get the jars of Apache Kafka from Maven Central';
}

# options: heap (of the JVM, default 512m), whole_heap (it is that large from the start on, as Kafka's own script has it:
# the broker's pauses come less often), start (default true), listeners (hash of further ones: name => security
# protocol), advertised (hash: name => address at which clients are to find a listener, if it isn't its own), properties
# (hash), scram (list of what StorageTool's --add-scram takes)
sub new
{
	my ($class, %options) = @_;
	my $dir = scratch_dir('kafka');
	my $self = bless {
		dir => $dir,
		logfile => "$dir/kafka.log",
		heap => $options{heap} // '512m',
		whole_heap => $options{whole_heap},
		port => free_port(),
		ports => {map { $_ => free_port() } keys %{ $options{listeners} // {} }}
	}, $class;
	my %protocols = (PLAINTEXT => 'PLAINTEXT', %{ $options{listeners} // {} });
	my $controller_port = free_port();
	my $listeners = join ',', map { "$_://" . $self->brokers($_) } sort keys %protocols;
	my $advertised = join ',', map { "$_://" . ($options{advertised}{$_} // $self->brokers($_)) } sort keys %protocols;
	my %properties = (
		'process.roles' => 'broker,controller',
		'node.id' => 1,
		'listeners' => "$listeners,CONTROLLER://127.0.0.1:$controller_port",
		'advertised.listeners' => $advertised,
		'controller.quorum.voters' => "1\@127.0.0.1:$controller_port",
		'controller.listener.names' => 'CONTROLLER',
		'inter.broker.listener.name' => 'PLAINTEXT',
		'listener.security.protocol.map' => join(',', 'CONTROLLER:PLAINTEXT', map { "$_:$protocols{$_}" } sort keys %protocols),
		'log.dirs' => "$dir/data",
		'auto.create.topics.enable' => 'false',
		# records may say that they are old
		'log.retention.ms' => -1,
		# after kill -9 a broker registers anew only when its old session is over
		'broker.heartbeat.interval.ms' => 250,
		'broker.session.timeout.ms' => 1000,
		'offsets.topic.replication.factor' => 1,
		'offsets.topic.num.partitions' => 4,
		'transaction.state.log.replication.factor' => 1,
		'transaction.state.log.min.isr' => 1,
		'transaction.state.log.num.partitions' => 4,
		'share.coordinator.state.topic.replication.factor' => 1,
		'share.coordinator.state.topic.min.isr' => 1,
		'group.initial.rebalance.delay.ms' => 0,
		%{ $options{properties} // {} });

	open my $file, '>', "$dir/server.properties" or die "server.properties: $!\n";
	print $file "$_=$properties{$_}\n" for sort keys %properties;
	close $file or die "server.properties: $!\n";

	# any 16 bytes in URL-safe base64 name a cluster
	my ($status, $out, $err) = run_command('', $self->java('kafka.tools.StorageTool'),
		'format', '-t', 'veloVeloVeloVeloVeloVQ', '-c', "$dir/server.properties",
		map { ('--add-scram', $_) } @{ $options{scram} // [] });
	die "could not format Kafka's storage:\n$out$err" if $status;

	$self->start unless exists $options{start} && !$options{start};
	return $self;
}

sub java
{
	my ($self, $class) = @_;

	return ('java', "-Xmx$self->{heap}", $self->{whole_heap} ? "-Xms$self->{heap}" : (), '-XX:+UseSerialGC',
		'-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-cp', "$ENV{VELO_BUILD}/kafka/lib/*", $class);
}

# The address of a listener; by default of the one that is open to everybody.
sub brokers
{
	my ($self, $listener) = @_;

	return '127.0.0.1:' . ($self->{ports}{ $listener // '' } // $self->{port});
}

sub start
{
	my ($self) = @_;

	$self->{pid} = spawn($self->{logfile}, 'KILL', $self->java('kafka.Kafka'),
		"$self->{dir}/server.properties");
	my $ready = wait_for(
		sub {
			die "Kafka ended, see $self->{logfile}\n" if Velo::Process::ended($self->{pid});
			return ($self->tool('', 'wait'))[0] == 0;
		},
		90);

	die "Kafka does not start, see $self->{logfile}\n" unless $ready;
	return;
}

sub stop
{
	my ($self) = @_;

	finish($self->{pid}, 'TERM');
	return;
}

# What was acknowledged survives: the operating system keeps the written pages.
sub kill9
{
	my ($self) = @_;

	finish($self->{pid}, 'KILL');
	return;
}

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->start;
	return;
}

# Run kafka_tool (see test/kafka_tool.c); returns exit status, output and errors.
sub tool
{
	my ($self, $input, @arguments) = @_;

	return run_command($input, "$ENV{VELO_BUILD}/kafka_tool", $self->brokers, @arguments);
}

sub tool_ok
{
	my ($self, @arguments) = @_;
	my ($status, $out, $err) = $self->tool(@arguments);

	die "kafka_tool @arguments[1 .. $#arguments]: $err" if $status;
	return $out;
}

sub create_topic
{
	my ($self, $topic, $partitions, %config) = @_;

	return $self->tool_ok('', 'create', $topic, $partitions, map { "$_=$config{$_}" } sort keys %config);
}

# Add partitions to a topic, up to that number.
sub grow_topic
{
	my ($self, $topic, $partitions) = @_;

	return $self->tool_ok('', 'grow', $topic, $partitions);
}

sub delete_topic
{
	my ($self, $topic) = @_;

	return $self->tool_ok('', 'delete', $topic);
}

# Delete the records of a partition before an offset, as retention does.
sub trim_topic
{
	my ($self, $topic, $partition, $offset) = @_;

	return $self->tool_ok('', 'trim', $topic, $partition, $offset);
}

# The offset that a consumer group has committed, -1001 if none.
sub committed
{
	my ($self, $group, $topic, $partition) = @_;

	return 0 + $self->tool_ok('', 'committed', $group, $topic, $partition);
}

# The records of a topic from an offset of each of its partitions on, as lines that COPY takes: partition, offset, key,
# timestamp in ms, value.
sub consume
{
	my ($self, $topic, @offsets) = @_;

	return $self->tool_ok('', 'consume', $topic, @offsets);
}

# Escape bytes for kafka_tool; undef is no key or no value.
sub escape
{
	my ($bytes) = @_;

	return '\N' unless defined $bytes;
	$bytes =~ s/([\\\t\n\0\r])/sprintf '\x%02x', ord $1/ge;
	return $bytes;
}

# Produce records [partition, key, timestamp in ms or undef, value, {headers}] in order; a record may also be a string
# such as '!commit' (properties then hold transactional.id).  Returns [partition, offset] for each.
sub produce
{
	my ($self, $topic, $records, %properties) = @_;
	my $input = '';

	for my $record (@$records)
	{
		if (!ref $record)
		{
			$input .= "$record\n";
			next;
		}
		my ($partition, $key, $timestamp, $value, $headers) = @$record;

		$input .= join("\t", $partition, escape($key), $timestamp // '', escape($value),
			map { "$_=" . escape($headers->{$_}) } sort keys %{ $headers // {} }) . "\n";
	}
	my $out = $self->tool_ok($input, 'produce', $topic, map { "$_=$properties{$_}" } sort keys %properties);

	return [ map { [ split /\t/ ] } split /\n/, $out ];
}

1;
