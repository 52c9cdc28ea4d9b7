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
SHLIB_LINK = -lrdkafka -lm

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# a change of any header rebuilds everything: there is no dependency tracking in PGXS
$(OBJS): $(wildcard src/*.h $(ROOMS:%=src/%/*.h))

.PHONY: format
format:
	clang-format -i src/*.[ch] src/*/*.[ch]
