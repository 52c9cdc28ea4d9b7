# Velo::Disk - a small disk of a test's own, which can be filled to the last byte: a tmpfs that only those see who are
# inside of its namespaces, so that nobody has to be root.
#
#   my $disk = Velo::Disk->new('8m');
#   plan skip_all => Velo::Disk->missing if Velo::Disk->missing;
#   my $pg = Velo::Server->new(disk => $disk);     # it sees $disk->{dir}
#   $disk->resize('16m');
#
# It goes with the process that made it.

package Velo::Disk;

use strict;
use warnings;

use Velo::Process qw(scratch_dir wait_for spawn run_command);

# What makes a mount of one's own: a user namespace in which one is root.
my @as_root = ('unshare', '--user', '--map-root-user', '--mount');

# Why there can't be a disk; undef if there can.
sub missing
{
	my ($status, undef, $error) = run_command('', @as_root, 'mount', '-t', 'tmpfs', 'tmpfs', '/tmp');

	return undef if $status == 0;
	$error =~ s/\s+/ /g;
	return "no file system may be mounted in a user namespace here: $error";
}

# $size as mount(8) takes it
sub new
{
	my ($class, $size) = @_;
	my $dir = scratch_dir('disk');
	my $self = bless {dir => $dir}, $class;

	# somebody has to be inside, or all is gone when a server stops
	$self->{pid} = spawn("$dir.log", 'KILL', @as_root, 'sh', '-c',
		'mount -t tmpfs -o "size=$1,mode=777" tmpfs "$0" && touch "$0/mounted" && exec setpriv --pdeathsig KILL sleep infinity',
		$dir, $size);
	wait_for(sub { -e "/proc/$self->{pid}/root$dir/mounted" }, 10) or die "could not mount a disk, see $dir.log\n";
	return $self;
}

# The command that runs a command inside, as the user that we are: PostgreSQL's programs refuse to be root.  It gets
# $signal when this process dies: what spawn() asks for is forgotten on the way into a namespace.
sub inside
{
	my ($self, $signal, @command) = @_;

	return ($self->enter, 'unshare', '--user', "--map-user=$>", '--map-group=' . (split ' ', $))[0],
		'setpriv', '--pdeathsig', $signal, '--', @command);
}

sub enter
{
	my ($self) = @_;

	return ('nsenter', '--target', $self->{pid}, '--user', '--mount', '--preserve-credentials');
}

sub resize
{
	my ($self, $size) = @_;
	my ($status, $out, $error) = run_command('', $self->enter, 'mount', '-o', "remount,size=$size", 'tmpfs', $self->{dir});

	die "could not resize $self->{dir}: $error" if $status;
	return;
}

1;
