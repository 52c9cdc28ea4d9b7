# Brokers that ask who one is: passwords, certificates, rights to topics.  Whoever may gets in; whoever may not is told so
# and, once let in, has lost nothing; and no secret turns up anywhere.

use strict;
use warnings;

use Test::More;
use Velo::Kafka;
use Velo::Process qw(run_command scratch_dir);
use Velo::Server;

plan skip_all => Velo::Kafka->missing if Velo::Kafka->missing;

# What must not be seen holds "hush".
my %password = (alice => 'hush-alice', bob => 'hush-bob', wrong => 'hush-wrong', key => 'hush-key');

# ---------------------------------------------------------------- certificates

my $dir = scratch_dir('certificates');

sub slurp { return Velo::Process::slurp("$dir/$_[0]"); }

# NAME.pem and NAME.key: signed by the authority "ca", or by itself.
sub make_certificate
{
	my ($name, $signer, @options) = @_;
	my ($status, undef, $error) = run_command('', 'openssl', 'req', '-x509', '-days', 30, '-subj', "/CN=$name",
		'-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-keyout', "$dir/$name.key", '-out', "$dir/$name.pem",
		$signer ? ('-CA', "$dir/$signer.pem", '-CAkey', "$dir/$signer.key", '-addext', 'basicConstraints=CA:FALSE') : (),
		@options);

	die "openssl: $error" if $status;
	return;
}

make_certificate($_, undef, '-nodes') for 'ca', 'stranger';
make_certificate('broker', 'ca', '-nodes', '-addext', 'subjectAltName=IP:127.0.0.1');
make_certificate('client', 'ca', '-passout', "pass:$password{key}");
open my $both, '>', "$dir/broker.both" or die "broker.both: $!\n";
print $both slurp('broker.key'), slurp('broker.pem');
close $both or die "broker.both: $!\n";

# ---------------------------------------------------------------- servers

# Alice may do everything, Bob what he is allowed to.
my $modules = 'org.apache.kafka.common.security';
my $plain = "$modules.plain.PlainLoginModule required " . join(' ', map { qq(user_$_="$password{$_}") } 'alice', 'bob') . ';';
my $kafka = Velo::Kafka->new(
	listeners => {SASL => 'SASL_PLAINTEXT', TLS => 'SSL', BOTH => 'SASL_SSL'},
	scram => ["SCRAM-SHA-256=[name=alice,password=$password{alice}]"],
	properties => {
		'authorizer.class.name' => 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
		'super.users' => 'User:ANONYMOUS;User:alice;User:CN=client',
		'sasl.enabled.mechanisms' => 'PLAIN,SCRAM-SHA-256',
		(map { ("listener.name.$_.plain.sasl.jaas.config" => $plain,
			"listener.name.$_.scram-sha-256.sasl.jaas.config" => "$modules.scram.ScramLoginModule required;") } 'sasl', 'both'),
		'ssl.keystore.type' => 'PEM', 'ssl.keystore.location' => "$dir/broker.both",
		'ssl.truststore.type' => 'PEM', 'ssl.truststore.location' => "$dir/ca.pem",
		'listener.name.tls.ssl.client.auth' => 'required',
		'connection.failed.authentication.delay.ms' => 0
	});
my $pg = Velo::Server->new(conf => {'velo.retry_max_delay' => '1 s', log_min_messages => 'debug2'});

$pg->query('CREATE EXTENSION velo; CREATE ROLE analyst LOGIN; GRANT CREATE ON SCHEMA public TO analyst');
$kafka->create_topic('t', 2);

my %sasl = ('security.protocol' => 'SASL_PLAINTEXT', 'sasl.mechanism' => 'PLAIN');
my %tls = ('security.protocol' => 'SSL', 'ssl.ca.pem' => slurp('ca.pem'));
my %client = ('ssl.certificate.pem' => slurp('client.pem'));
my %client_key = ('ssl.key.pem' => slurp('client.key'), 'ssl.key.password' => $password{key});
my %alice = ('sasl.username' => 'alice', 'sasl.password' => $password{alice});

sub options
{
	my (%options) = @_;

	return 'OPTIONS (' . join(', ', map { qq("$_" '$options{$_}') } sort keys %options) . ')';
}

# A server with a user mapping, and a stream over topic t, all of that name; all as somebody who is no superuser may.  A
# pipeline without records has no reason to wake up.
sub make_stream
{
	my ($name, $listener, $server, $mapping) = @_;

	$pg->query("GRANT USAGE ON FOREIGN DATA WRAPPER velo TO analyst; SET ROLE analyst; CREATE SERVER $name FOREIGN DATA WRAPPER velo "
		  . options(brokers => $kafka->brokers($listener), %$server)
		  . "; CREATE USER MAPPING FOR analyst SERVER $name " . (%$mapping ? options(%$mapping) : '')
		  . "; SELECT velo.create_stream('$name', columns => 'id int', topic => 't', server => '$name', options => '{\"partitions_refresh\": \"1 h\"}')");
	return;
}

# psql as the analyst: whether it went well, output and errors together
sub analyst
{
	my ($sql) = @_;
	my ($status, $out, $err) = $pg->psql("SET ROLE analyst; $sql");

	return ($status == 0, "$out$err");
}

sub ids { my ($relation) = @_; return (analyst("SELECT string_agg(id::text, ',' ORDER BY id) FROM $relation"))[1]; }
sub set_mapping { my ($name, $option, $value) = @_; $pg->query(qq(ALTER USER MAPPING FOR analyst SERVER $name OPTIONS (SET "$option" '$value'))); return; }
sub produce { my ($id) = @_; return $kafka->produce('t', [ [ $id % 2, undef, undef, qq({"id": $id}) ] ]); }
sub waits
{
	my ($name, $sqlstate, $error, $what) = @_;

	ok($pg->wait_until(qq{SELECT state = 'waiting' AND error LIKE '%$error%' AND error_sqlstate = '$sqlstate' AND retry_at IS NOT NULL
		FROM velo.queries WHERE name = 'of_$name'}), "$name: $what")
	  or diag($pg->query('SELECT * FROM velo.queries'));
	return;
}

# ---------------------------------------------------------------- those who get in

my $scram_works = (run_command('', 'pkg-config', '--atleast-version=2.6.1', 'rdkafka'))[0] == 0;
my $last = 0;

for my $case (
	[ 'plain', 'SASL', \%sasl, \%alice ],
	[ 'tls', 'TLS', {%tls, %client}, \%client_key ],
	[ 'password_in_tls', 'BOTH', {%sasl, %tls, 'security.protocol' => 'SASL_SSL'}, \%alice ],
	[ 'scram', 'SASL', {%sasl, 'sasl.mechanism' => 'SCRAM-SHA-256'}, \%alice ])
{
	my ($name, @rest) = @$case;
	my ($inserted, $error);

	make_stream($name, @rest);
	($inserted, $error) = analyst("INSERT INTO $name VALUES ($last + 1)");
	if ($name eq 'scram' && !$scram_works)
	{
		like($error, qr/refused the connection.*invalid credentials.*librdkafka \S+ can't use SCRAM with Kafka 4/s,
			'scram: an old librdkafka does not get in, and is said to be the reason');
		next;
	}
	ok($inserted, "$name: INSERT") or diag($error);
	$last++;
	is(ids($name), join(',', 1 .. $last), "$name: ad hoc");
	analyst("SELECT velo.create_query('of_$name', 'SELECT id FROM $name')");
	is($pg->query("SELECT velo.wait('of_$name', '60 s')"), 't', "$name: a query");
	is(ids("of_$name"), join(',', 1 .. $last), "$name: its rows");
}

# ---------------------------------------------------------------- those who don't

for my $case (
	[ 'wrong', 'SASL', \%sasl, {%alice, 'sasl.password' => $password{wrong}}, '28000', 'Invalid username or password' ],
	[ 'nobody', 'SASL', \%sasl, {}, 'HV024', 'sasl.username and sasl.password must be set' ],
	[ 'silent', 'SASL', {}, {}, '08001', 'could not connect' ],
	[ 'untrusted', 'BOTH', {%sasl, %tls, 'security.protocol' => 'SASL_SSL', 'ssl.ca.pem' => slurp('stranger.pem')}, \%alice, '28000', 'certificate verify failed' ],
	[ 'anonymous', 'TLS', \%tls, {}, '08001', 'certificate' ],
	[ 'locked', 'TLS', {%tls, %client}, {%client_key, 'ssl.key.password' => $password{wrong}}, 'HV024', 'ssl.key.pem failed' ],
	[ 'damaged', 'TLS', {%tls, %client}, {'ssl.key.pem' => $password{wrong}}, 'HV024', 'ssl.key.pem failed' ],
	[ 'forbidden', 'SASL', \%sasl, {'sasl.username' => 'bob', 'sasl.password' => $password{bob}}, '42501', 'authorization failed' ])
{
	my ($name, $listener, $server, $mapping, $sqlstate, $error) = @$case;

	make_stream($name, $listener, $server, $mapping);
	like((analyst("SELECT * FROM $name"))[1], qr/ERROR:.*$error/s, "$name: ad hoc");
	like((analyst("INSERT INTO $name VALUES (0)"))[1], qr/ERROR:.*$error/s, "$name: INSERT") if $mapping->{'sasl.username'};
	like((analyst("SELECT velo.create_query('of_$name', 'SELECT id FROM $name')"))[1], qr/WARNING:.*of_$name.*$error/s, "$name: a query is made");
	waits($name, $sqlstate, $error, 'and waits');
}

# ---------------------------------------------------------------- rights that come and go

# a password that was changed, and is mended
set_mapping('plain', 'sasl.password', $password{wrong});
waits('plain', '28000', 'Invalid username or password', 'the password was changed');
produce(++$last);
set_mapping('plain', 'sasl.password', $password{alice});
set_mapping('wrong', 'sasl.password', $password{alice});

# rights to the topic are enough, without any to a consumer group
$kafka->tool_ok('', 'allow', 't', 'User:bob');
for my $name ('plain', 'wrong', 'forbidden')
{
	ok($pg->wait_until("SELECT velo.wait('of_$name', '5 s')"), "$name: let in");
	is(ids("of_$name"), join(',', 1 .. $last), "$name: nothing is lost");
	is(ids($name), join(',', 1 .. $last), "$name: ad hoc");
	ok($pg->wait_until("SELECT state = 'running' AND error IS NULL FROM velo.queries WHERE name = 'of_$name'"), "$name: and the error is over")
	  or diag($pg->query('SELECT * FROM velo.queries'));
}
$kafka->tool_ok('', 'forbid', 't', 'User:bob');
produce(++$last);
waits('forbidden', '28000', 'authorization failed', 'the right was taken away');
$kafka->tool_ok('', 'allow', 't', 'User:bob');
ok($pg->wait_until("SELECT velo.wait('of_forbidden', '5 s')"), 'forbidden: and given back');
is(ids('of_forbidden'), join(',', 1 .. $last), 'forbidden: nothing is lost');

# ---------------------------------------------------------------- secrets

# librdkafka says all it has to say, its configuration included
$pg->query("ALTER SERVER $_ OPTIONS (ADD debug 'all')") for 'plain', 'tls', 'password_in_tls';
is(ids($_), join(',', 1 .. $last), "$_: with librdkafka's debug messages") for 'plain', 'tls', 'password_in_tls';
ok($pg->wait_until(qq(SELECT velo.wait('of_$_', '5 s'))), "$_: and the query") for 'plain', 'tls', 'password_in_tls';
like($pg->log, qr/librdkafka: .*sasl\.password = \[redacted\]/, 'its configuration is in the log');

{
	# all that is told: views, plans, tables of velo's, running processes, errors, log
	my @views = split /\n/, $pg->query(q{SELECT c.oid::regclass FROM pg_class AS c WHERE relnamespace = 'velo'::regnamespace AND relkind IN ('r', 'v')});
	my $told = $pg->query(join('; ', map { "TABLE $_" } @views, 'pg_stat_activity', 'pg_foreign_server', 'information_schema.foreign_table_options')
		  . '; SET ROLE analyst; EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM plain; EXPLAIN (VERBOSE) INSERT INTO plain VALUES (0); SELECT velo.explain($$SELECT count(*) FROM plain$$)')
	  . $pg->query('CREATE ROLE guard IN ROLE pg_monitor; SET ROLE guard; TABLE pg_user_mappings; TABLE velo.queries');

	cmp_ok(scalar @views, '>', 10, 'there is much to be looked at');
	like($told, qr/SASL_PLAINTEXT/, 'what is public is told');
	unlike($told, qr/hush|PRIVATE KEY/, 'secrets are not');
	# statements that fail are PostgreSQL's to log, and none with a secret did
	unlike($pg->log, qr/hush|PRIVATE KEY/, 'nor are they in the log');
	like($pg->log, qr/librdkafka/, 'which tells what librdkafka says');

	my (undef, undef, $error) = $pg->psql(qq(SET ROLE analyst; ALTER USER MAPPING FOR analyst SERVER plain OPTIONS (ADD "ssl.ca.location" '/etc/passwd')));
	like($error, qr/permission denied to set property "ssl.ca.location"/, 'nor may everybody name files of the server');
}
unlike($pg->log, qr/PANIC|terminated by signal|TRAP/, 'nothing crashed');

done_testing;
