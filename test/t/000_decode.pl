# The decoders and encoders by themselves: cases, and some seconds of fuzz beside PostgreSQL's own JSON functions.

use strict;
use warnings;

use Test::More;
use Velo::Regress qw(run_regress);
use Velo::Server;

my $pg = Velo::Server->new;

run_regress($pg, 'test/decode');

# where the server's encoding is not that of the records
$pg->query("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
{
	local $ENV{PG_ABS_SRCDIR} = "$ENV{PWD}/test/decode";

	is($pg->query("\\i test/decode/functions.sql\nSELECT mismatches FROM decode_fuzz(extract(epoch FROM now())::bigint, 100000)", 'latin1'),
		0, 'fuzz in a database of encoding LATIN1');
}
done_testing;
