# velo: continuous queries in PostgreSQL.  `make demo` and `make test` do everything on a fresh Debian machine.

EXTENSION = velo
DATA = velo--1.0.sql
MODULE_big = velo
PGFILEDESC = "velo - continuous queries over Kafka streams"

ROOMS = catalog dialect exec format observe pipeline plan sink source state
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c $(ROOMS:%=src/%/*.c))))

PG_CONFIG ?= pg_config
# PostgreSQL's own headers are not held to our warnings
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server) -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-unused-parameter
# calls from one file of velo to another need not go through the table of symbols
SHLIB_LINK = -lrdkafka -lm -Wl,-Bsymbolic-functions
# bitcode for JIT inlining would need clang, and buys nothing here
override with_llvm := no

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
EXTRA_CLEAN = build/kafka_tool build/injection_points build/older_version build/analyze \
	$(wildcard build/bench/* build/fuzz/src test/decode/*.o test/decode/*.so)

# on a fresh machine there is no pg_config before `make setup`
ifneq ($(shell command -v $(PG_CONFIG)),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
else
all install installcheck clean:
	@echo "$(PG_CONFIG) not found: set PG_CONFIG, or let \`make setup\` install PostgreSQL" >&2; exit 1
endif

# a change of any header rebuilds everything: there is no dependency tracking in PGXS
HEADERS = $(wildcard src/*.h $(ROOMS:%=src/%/*.h))
$(OBJS): $(HEADERS)

# the same with injection points, for tests (see src/injection_point.h)
INJECTION_POINTS = build/injection_points/velo.so

build/injection_points/%.o: %.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -DVELO_INJECTION_POINTS -c -o $@ $<

$(INJECTION_POINTS): $(OBJS:%=build/injection_points/%)
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $^ $(SHLIB_LINK)

# the same, but of the version before, for tests (see src/catalog/extension.c)
OLDER_VERSION = build/older_version/velo.so

build/older_version/extension.o: src/catalog/extension.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(CPPFLAGS) -DVELO_VERSION='"0.9"' -c -o $@ $<

$(OLDER_VERSION): $(filter-out src/catalog/extension.o,$(OBJS)) build/older_version/extension.o
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $^ $(SHLIB_LINK)

# and for libFuzzer: what UndefinedBehaviorSanitizer finds is a trap, for its own library can't be in a server
FUZZ = build/fuzz/velo.so
FUZZ_CFLAGS = -std=gnu11 -O1 -g -fPIC -fwrapv -fno-strict-aliasing -fsanitize=fuzzer-no-link,undefined \
	-fno-sanitize=alignment -fsanitize-trap=undefined $(PG_CFLAGS) -Wno-ignored-attributes

build/fuzz/%.o: %.c $(HEADERS)
	@mkdir -p $(@D)
	clang $(FUZZ_CFLAGS) $(CPPFLAGS) -c -o $@ $<

$(FUZZ): $(OBJS:%=build/fuzz/%) build/fuzz/test/fuzz/velo_fuzz.o
	clang -shared -o $@ $^ $(SHLIB_LINK) $(shell clang -print-file-name=libclang_rt.fuzzer_no_main-$(shell uname -m).a) -lstdc++

# ---------------------------------------------------------------- for users and developers

.PHONY: setup installed demo test ready soak check-assert sanitize valgrind fuzz analyze bench bench-peers bench-stages format

BENCH_PROGRAMS = build/bench/bare_consumer build/bench/handwritten build/bench/load

# what is missing of packages and jars (Debian)
setup:
	@PG_CONFIG=$(PG_CONFIG) test/setup.sh

# built, and installed where $(PG_CONFIG) says, through sudo where that is not ours to write
installed: all build/kafka_tool
	@if [ -w "$(DESTDIR)$(pkglibdir)" ]; then $(MAKE) -s install; else sudo $(MAKE) -s install PG_CONFIG=$(PG_CONFIG); fi

# each is a process of its own after the set-up, because PGXS may have been missing before
demo: setup
	@$(MAKE) -s installed
	@test/run.sh test/demo.sh

# TESTS="test/t/001_quickstart.pl ...": only these
test: setup
	@$(MAKE) -s ready
	@test/run.sh perl test/run.pl $(TESTS)

# all that the tests need
ready: installed $(BENCH_PROGRAMS) $(INJECTION_POINTS) $(OLDER_VERSION)
	@$(MAKE) -s -C test/decode

# the tests, or libFuzzer, on a PostgreSQL with assertions, with sanitizers, under valgrind, built for that
check-assert sanitize valgrind fuzz: setup
	@test/check.sh $(patsubst check-%,%,$@) $(TESTS)

# SOAK_MINUTES=5, SOAK_SEED=..., SOAK_FAULTS='REGEXP': see test/soak.pl
soak: setup
	@$(MAKE) -s installed
	@test/run.sh perl test/soak.pl

# BENCH='REGEXP': only the cases whose names match
bench: setup
	@$(MAKE) -s installed $(BENCH_PROGRAMS)
	@test/run.sh perl bench/run.pl

# beside Kafka Streams and Flink SQL, which come from Maven Central; and the picture in README.md
bench-peers:
	@PG_CONFIG=$(PG_CONFIG) test/setup.sh peers
	@$(MAKE) -s installed $(BENCH_PROGRAMS) build/peers/streams/classes build/peers/flink/classes
	@bash -o pipefail -c 'test/run.sh perl bench/peers/run.pl | tee build/bench-peers.md'
	@bench/picture.pl build/bench-peers.md > bench/peers.svg

# where the time of a pipeline goes, and flame graphs of that in build/flame; needs Linux's perf
bench-stages: setup
	@$(MAKE) -s installed $(BENCH_PROGRAMS)
	@test/run.sh perl bench/stages.pl 3 3> build/stacks
	@bench/flame.pl build/stacks build/flame

# clang's static analyser, which is to find nothing; what can't be, assertions tell it
analyze: $(OBJS:%.o=build/analyze/%.txt)

build/analyze/%.txt: %.c $(HEADERS)
	@mkdir -p $(@D)
	@clang --analyze --analyzer-output text -Xclang -analyzer-werror -std=gnu11 -DUSE_ASSERT_CHECKING -w $(CPPFLAGS) -o $@ $<
	@touch $@

build/kafka_tool: test/kafka_tool.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -o $@ $< -lrdkafka

build/bench/%: bench/%.c bench/bench.h
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O3 -march=native -Wall -Wextra -Werror -o $@ $< -lrdkafka

build/peers/%/classes: $(wildcard bench/peers/*.java bench/peers/*/*.java)
	@rm -rf $@ && mkdir -p $@
	javac -Xlint:all,-classfile -Werror -d $@ -cp '$(@D)/lib/*' bench/peers/Progress.java bench/peers/$*/*.java
	$(if $(wildcard bench/peers/$*/META-INF),@cp -R bench/peers/$*/META-INF $@)

format:
	clang-format -i src/*.[ch] src/*/*.[ch] test/*.c test/fuzz/*.c bench/*.[ch]
