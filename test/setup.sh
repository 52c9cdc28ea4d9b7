#!/usr/bin/env bash
# Install what velo's build, tests and demo need: Debian's packages (as root, or through sudo), and the jars of a real
# Apache Kafka from Maven Central into build/kafka/lib.  Does nothing, quickly, where nothing is missing.
#
# Without Maven Central everything but the tests on a real Kafka works: those are skipped, and say so.
set -euo pipefail
cd "$(dirname "$0")/.."

pg_config=${PG_CONFIG:-pg_config}
packages=()

need()   # need PACKAGES COMMAND...: the packages, unless the command succeeds
{
	local wanted=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=($wanted)
}

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -n true 2>/dev/null || echo "setup: sudo is asked for: $*"
		sudo "$@"
	else
		echo "setup: neither root nor sudo; install these packages and run it again: ${packages[*]}" >&2
		exit 1
	fi
}

have_postgresql()
{
	# pg_config and pgxs.mk alone tell little: Debian has them in other packages than the headers
	command -v "$pg_config" && [ -e "$("$pg_config" --pgxs)" ] && [ -x "$("$pg_config" --bindir)/initdb" ] &&
		[ -e "$("$pg_config" --includedir-server)/postgres.h" ]
}

java_17()
{
	local version
	version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
	[ "${version:-0}" -ge 17 ]
}

need build-essential cc --version
need build-essential make --version
need pkg-config pkg-config --version
need librdkafka-dev pkg-config --exists rdkafka
need perl perl -MTest::More -MTime::HiRes -MTAP::Harness -e 1
need kcat kcat -V
need maven mvn --version
need default-jre-headless java_17
need postgresql have_postgresql

install_packages()
{
	local log=$1 version cluster_conf=/etc/postgresql-common/createcluster.d/velo.conf

	as_root apt-get update -qq >>"$log" 2>&1 || return
	if [[ " ${packages[*]} " == *" postgresql "* ]]; then
		version=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]\+\)$/\1/p')
		packages=("${packages[@]/%postgresql/postgresql-$version}" "postgresql-server-dev-$version")
		# the programs are wanted, not a server of the system's that starts by itself
		as_root mkdir -p "${cluster_conf%/*}"
		echo 'create_main_cluster = false' | as_root tee "$cluster_conf" >/dev/null
		trap 'as_root rm -f "$cluster_conf"; trap - RETURN' RETURN
	fi
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends "${packages[@]}" >>"$log" 2>&1
}

if [ ${#packages[@]} -gt 0 ]; then
	echo "setup: installing ${packages[*]}"
	log=$(mktemp)
	if ! install_packages "$log"; then
		cat "$log" >&2
		echo "setup: could not install the packages" >&2
		exit 1
	fi
	rm -f "$log"
fi

# the copy of pom.xml beside the jars says which ones they are
if ! cmp -s test/kafka/pom.xml build/kafka/pom.xml; then
	echo "setup: getting the jars of Apache Kafka from Maven Central"
	rm -rf build/kafka
	mkdir -p build/kafka/lib
	if mvn -q -B -f test/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
		-DoutputDirectory="$PWD/build/kafka/lib" >build/kafka/maven.log 2>&1; then
		cp test/kafka/pom.xml build/kafka/
	else
		rm -rf build/kafka/lib
		tail -n 5 build/kafka/maven.log >&2
		echo "setup: NO KAFKA: Maven Central can't be reached; tests and benchmarks that need a real Kafka can't run" >&2
	fi
fi
