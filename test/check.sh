#!/usr/bin/env bash
# check.sh assert|sanitize|valgrind|fuzz [TEST FILE...]: run the tests (all, or those given) on a PostgreSQL that finds more:
#
#	assert		with assertions; PostgreSQL's own regression tests, too, with velo at work in another database
#	sanitize	with assertions, AddressSanitizer and UndefinedBehaviorSanitizer
#	valgrind	with assertions, under valgrind, which knows PostgreSQL's memory contexts
#	fuzz		with assertions; libFuzzer over velo's parsers instead of the tests (see test/fuzz/run.pl)
#
# It is built from the source package of the PostgreSQL that $PG_CONFIG belongs to (the same major version, as new as can be
# had), once, in build/servers; velo is built for it in a copy of the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=$1
shift
major=$("${PG_CONFIG:-pg_config}" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
server=$kind
configure=(--enable-debug --enable-cassert --with-icu --with-lz4 --without-readline --without-zstd)
packages=(bison flex libicu-dev liblz4-dev zlib1g-dev)
cflags='-O1 -g -fno-omit-frame-pointer'
case $kind in
	assert) cflags='-O2 -g' ;;
	fuzz)
		server=assert
		cflags='-O2 -g'
		;;
	sanitize)
		# PostgreSQL itself passes NULL with a length of 0, and reads unaligned where the machine allows it
		cflags+=' -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=nonnull-attribute,alignment'
		# the server frees nothing when it ends
		export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
		;;
	valgrind)
		cflags+=' -DUSE_VALGRIND'
		packages+=(valgrind)
		export VELO_VALGRIND=$PWD/build/servers/$server-$major/source/src/tools/valgrind.supp
		;;
	*) sed -n '2,/^set/s/^# //p' "$0" >&2; exit 2 ;;
esac
dir=$PWD/build/servers/$server-$major

as_root()
{
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages()
{
	local package missing=()

	for package in "${packages[@]}"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] || as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The system's own sources of packages, as sources of source packages.
source_lists()
{
	awk '/^deb / { $1 = "deb-src"; print }' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | grep /debian || true
	awk -v RS= '/(^|\n)URIs:[^\n]*\/debian/ {
			delete field
			n = split($0, lines, "\n")
			for (i = 1; i <= n; i++)
				if (match(lines[i], /^[A-Za-z-]+: */))
					field[substr(lines[i], 1, index(lines[i], ":") - 1)] = substr(lines[i], RLENGTH + 1)
			option = field["Signed-By"] ~ /^\// ? "[signed-by=" field["Signed-By"] "] " : ""
			m = split(field["Suites"], suites, " ")
			for (i = 1; i <= m; i++)
				print "deb-src " option field["URIs"] " " suites[i] " " field["Components"]
		}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
}

# Unpack PostgreSQL's source into $dir/source, of the newest version that can be had.
get_source()
{
	local apt=$dir/apt version

	rm -rf "$apt"
	mkdir -p "$apt/lists/partial"
	source_lists >"$apt/sources.list"
	apt=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$apt/lists"
		-o APT::Sandbox::User=root -o "Dir::Cache=$apt")
	apt-get "${apt[@]}" -qq update
	# a security update's source can be gone when the next one is there
	for version in $(apt-cache "${apt[@]}" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rVu); do
		(cd "$dir/apt" && apt-get "${apt[@]}" -qq source --download-only "postgresql-$major=$version" 2>"$dir/apt.log") && break
	done
	mkdir -p "$dir/source"
	tar -C "$dir/source" --strip-components=1 -xf "$dir"/apt/postgresql-"$major"_*.orig.tar.*
	rm -rf "$dir/apt"
}

build_server()
{
	[ ! -e "$dir/built" ] || return 0
	rm -rf "$dir"
	mkdir -p "$dir"
	echo "check: building PostgreSQL $major for $server in $dir; some minutes"
	get_source
	# make's own variables are those of whoever called this
	if ! (
		unset MAKEFLAGS MAKELEVEL MFLAGS
		export ASAN_OPTIONS=detect_leaks=0
		cd "$dir/source" && ./configure --prefix="$dir" "${configure[@]}" CFLAGS="$cflags" && make -j"$(nproc)" world-bin &&
			make install-world-bin
	) >"$dir/build.log" 2>&1; then
		tail -n 20 "$dir/build.log" >&2
		exit 1
	fi
	touch "$dir/built"
}

install_packages
build_server
if [ "$kind" = fuzz ]; then
	packages=(clang)
	install_packages
	packages=("libclang-rt-$(clang -dumpversion | sed 's/\..*//')-dev")
	install_packages
fi
checkout=$dir/checkout
mkdir -p "$checkout/build"
tar -c --exclude='*.o' --exclude='*.so' --exclude='*.bc' Makefile velo.control velo--1.0.sql src sql expected test bench |
	tar -C "$checkout" -x
ln -sfn "$PWD/build/kafka" "$checkout/build/kafka"
export PG_CONFIG=$dir/bin/pg_config VELO_PG_SOURCE=$dir/source
cd "$checkout"
if [ "$kind" = fuzz ]; then
	mkdir -p "$OLDPWD"/build/fuzz/{corpus,findings}
	# the server that writes there is not root's
	chmod 777 "$OLDPWD"/build/fuzz/{corpus,findings}
	ln -sfn "$OLDPWD/build/fuzz" build/fuzz
	make -s -j"$(nproc)" installed build/fuzz/velo.so
	exec test/run.sh perl test/fuzz/run.pl "$@"
fi
ASAN_OPTIONS=detect_leaks=0 make -s -j"$(nproc)" ready
if [ $# = 0 ]; then
	set -- test/t/*.pl
	[ "$kind" != assert ] || set -- "$@" test/postgresql/*.pl
fi
exec test/run.sh perl test/run.pl "$@"
