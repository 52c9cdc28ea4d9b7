# Velo::Bench::Query - a query of the benchmarks in its two texts: velo's, over a stream, and plain SQL over an ordinary
# table that holds the same records, whose answer it must give.
#
#   my $query = Velo::Bench::Query->new(list => 'symbol, count(*) AS n', group => 'symbol', size => '5m', emit => 'FINAL');
#   my $hopping = $query->with(slide => '1m');
#
#	list	what is selected
#	join	a join that follows the stream
#	where	a condition
#	group	what it is grouped by; none: rows are appended
#	size	of a window; with slide, they hop
#	grace	of the windows
#	emit	CHANGES, FINAL, or velo's default

package Velo::Bench::Query;

use strict;
use warnings;

sub new
{
	my ($class, %parts) = @_;

	return bless {%parts}, $class;
}

# The same but for some parts.
sub with
{
	my ($self, %parts) = @_;

	return ref($self)->new(%$self, %parts);
}

sub continuous
{
	my ($self, $stream) = @_;
	my $text = "SELECT $self->{list} FROM $stream";

	$text .= " $self->{join}" if $self->{join};
	$text .= " WHERE $self->{where}" if $self->{where};
	$text .= ' WINDOW ' . ($self->{slide} ? "HOPPING($self->{size}, $self->{slide})" : "TUMBLING($self->{size})") if $self->{size};
	$text .= " GRACE $self->{grace}" if $self->{grace};
	$text .= " GROUP BY $self->{group}" if $self->{group};
	$text .= " EMIT $self->{emit}" if $self->{emit};
	return $text;
}

# Over a table that has the stream's columns and "partition", for a bound of disorder, if no record is late.  What EMIT
# FINAL has not emitted yet, windows that are still open, is not in the answer.
sub plain
{
	my ($self, $table, $delay) = @_;
	my $list = $self->{list};
	my $from = join ' ', $table, $self->{join} // ();
	my @conditions = $self->{where} // ();
	my @group = $self->{group} // ();
	my $having = '';

	if ($self->{size})
	{
		my $slide = $self->{slide} // $self->{size};
		my $grace = $self->{grace} // '0';
		my $pane = "date_bin('$slide', ts, '1970-01-01 UTC')";

		$list = "window_start, window_start + interval '$self->{size}' AS window_end, $list";
		$from .= " CROSS JOIN generate_series($pane - interval '$self->{size}' + interval '$slide', $pane, '$slide') AS window_start";
		unshift @group, 'window_start';
		$having = <<"SQL" if $self->{emit} eq 'FINAL';
HAVING window_start + interval '$self->{size}' + interval '$grace' <=
	(SELECT min(latest) - interval '$delay' FROM (SELECT max(ts) AS latest FROM $table GROUP BY partition) AS p)
SQL
	}
	my $text = "SELECT $list FROM $from";
	$text .= ' WHERE ' . join ' AND ', @conditions if @conditions;
	$text .= ' GROUP BY ' . join ', ', @group if @group;
	return "$text $having";
}

1;
