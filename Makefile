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
EXTRA_CLEAN = build/kafka_tool $(wildcard build/bench/* test/decode/*.o test/decode/*.so)

# on a fresh machine there is no pg_config before `make setup`
ifneq ($(shell command -v $(PG_CONFIG)),)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
else
all install installcheck clean:
	@echo "$(PG_CONFIG) not found: set PG_CONFIG, or let \`make setup\` install PostgreSQL" >&2; exit 1
endif

# a change of any header rebuilds everything: there is no dependency tracking in PGXS
$(OBJS): $(wildcard src/*.h $(ROOMS:%=src/%/*.h))

# ---------------------------------------------------------------- for users and developers

.PHONY: setup installed demo test soak bench bench-peers bench-stages format

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
	@$(MAKE) -s installed $(BENCH_PROGRAMS)
	@$(MAKE) -s -C test/decode
	@test/run.sh perl test/run.pl $(TESTS)

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
	clang-format -i src/*.[ch] src/*/*.[ch] test/*.c bench/*.[ch]
