# The decoders and encoders by themselves: cases, and some seconds of fuzz beside PostgreSQL's own JSON functions.

use strict;
use warnings;

use Test::More;
use Velo::Regress qw(run_regress);
use Velo::Server;

run_regress(Velo::Server->new, 'test/decode');
done_testing;
