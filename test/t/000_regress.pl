# The regression tests sql/*.sql against expected/*.out, on a private server with the development broker.  ("make
# installcheck" runs them on a server of yours that has velo in shared_preload_libraries.)

use strict;
use warnings;

use Test::More;
use Velo::Regress qw(run_regress);
use Velo::Server;

run_regress(Velo::Server->new(dev_broker => 1), '.');
done_testing;
