#!/usr/bin/env bash
# run.sh COMMAND...: run a command that starts servers, as a user that may (PostgreSQL refuses root), from the top of the
# checkout.  The environment it gets:
#	VELO_BINDIR		PostgreSQL's programs
#	VELO_BUILD		what was built for the tests, and Kafka's jars
#	VELO_SCRATCH	a directory for data and logs; removed unless the command fails (or VELO_KEEP is set)
#	PERL5LIB		test/lib
set -euo pipefail
cd "$(dirname "$0")/.."

export VELO_BINDIR VELO_BUILD=$PWD/build VELO_SCRATCH PERL5LIB=$PWD/test/lib
VELO_BINDIR=$("${PG_CONFIG:-pg_config}" --bindir)
VELO_SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/velo.XXXXXX")

as_user=()
if [ "$(id -u)" = 0 ]; then
	user=postgres
	id "$user" >/dev/null 2>&1 || user=nobody
	as_user=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups env "HOME=$VELO_SCRATCH")
	chown "$user" "$VELO_SCRATCH"
	# a checkout that this user can't read, as one below /root, is copied
	if ! "${as_user[@]}" test -r "$PWD/test/run.sh"; then
		mkdir "$VELO_SCRATCH/checkout"
		cp -R Makefile sql expected test bench build "$VELO_SCRATCH/checkout/" 2>/dev/null || true
		chown -R "$user" "$VELO_SCRATCH/checkout"
		cd "$VELO_SCRATCH/checkout"
		VELO_BUILD=$PWD/build PERL5LIB=$PWD/test/lib
	fi
fi

status=0
"${as_user[@]}" "$@" || status=$?
if [ $status = 0 ] && [ -z "${VELO_KEEP:-}" ]; then
	rm -rf "$VELO_SCRATCH"
else
	echo "data and logs are kept in $VELO_SCRATCH"
fi
exit $status
