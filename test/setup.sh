#!/usr/bin/env bash
# setup.sh [peers]: install what velo's build, tests and demo need: Debian's packages (as root, or through sudo), and the
# jars of a real Apache Kafka from Maven Central into build/kafka/lib; with "peers" also what `make bench-peers` needs.
# Does nothing, quickly, where nothing is missing.
#
# Without Maven Central everything but the tests on a real Kafka works: those are skipped, and say so.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-}
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
need openssl openssl version
need maven mvn --version
need default-jre-headless java_17
[ "$what" != peers ] || need default-jdk-headless javac -version
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

# get_jars NAME POM DIRECTORY: its dependencies into DIRECTORY/lib; the copy of the POM beside them says which they are
get_jars()
{
	local name=$1
	shift
	cmp -s "$1" "$2/pom.xml" && return
	echo "setup: getting the jars of $name from Maven Central"
	rm -rf "$2"
	mkdir -p "$2/lib"
	if mvn -q -B -f "$1" dependency:copy-dependencies -DincludeScope=runtime \
		-DoutputDirectory="$PWD/$2/lib" >"$2/maven.log" 2>&1; then
		cp "$1" "$2/pom.xml"
	else
		rm -rf "$2/lib"
		tail -n 5 "$2/maven.log" >&2
		return 1
	fi
}

get_jars "Apache Kafka" test/kafka/pom.xml build/kafka ||
	echo "setup: NO KAFKA: Maven Central can't be reached; tests and benchmarks that need a real Kafka can't run" >&2
if [ "$what" = peers ]; then
	get_jars "Kafka Streams" bench/peers/streams/pom.xml build/peers/streams
	get_jars "Flink SQL" bench/peers/flink/pom.xml build/peers/flink
fi
