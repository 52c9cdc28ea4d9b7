/*
 * velo_catalog.h
 *		The door of catalog/: streams, queries, checkpoints and dead letters as rows.
 *
 * The only code that knows velo's tables.  (Not catalog.h: PostgreSQL has a header of that name.)
 * All functions need a transaction; what they return is palloc'd in the current memory context.
 */
#ifndef VELO_CATALOG_H
#define VELO_CATALOG_H

#include "velo.h"

#include "access/tupdesc.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* ------------------------------------------------------------------ the extension */

/*
 * Are the objects in this database, if there are any, of the version that this library knows?  If not, there are no
 * queries for it: what has to open velo's tables fails, and what may find none finds none.
 */
extern bool extension_fits(void);
/* ereport(elevel) if they are not, with what to do. */
extern void extension_check(int elevel);
/* The extension has got another version: tell all who have found out whether it fits, when the transaction commits. */
extern void extension_changed(void);

/* ------------------------------------------------------------------ whose code runs */

/* A user, and the restrictions that code runs under. */
typedef struct UserState
{
	Oid user;
	int security_context;
} UserState;

/*
 * Run somebody's code, such as triggers, with the rights of who chose it, and security-restricted if that is not the
 * current user.  *caller is for become_caller(); after an error the end of the (sub)transaction does that.
 */
extern void become_owner(Oid owner, UserState *caller);
extern void become_caller(const UserState *caller);

/* ------------------------------------------------------------------ streams */

typedef enum MetadataKind
{
	META_NONE, /* an ordinary column, decoded from the value */
	META_TOPIC,
	META_PARTITION,
	META_OFFSET,
	META_TIMESTAMP,
	META_KEY,
	META_HEADERS,
	META_VALUE
} MetadataKind;

typedef struct StreamColumn
{
	MetadataKind metadata;
	char **path; /* path in the value, npath names; the column's own name by default */
	int npath;
	int64 unit; /* of a JSON number read as timestamptz: how many make a second (default 1000) */
} StreamColumn;

typedef enum StreamFormat
{
	FORMAT_JSON,
	FORMAT_RAW
} StreamFormat;

/* All there is to know about a stream, read from its foreign table, server and options. */
typedef struct StreamInfo
{
	Oid relid;
	Oid serverid;
	Oid owner;
	char *name;            /* as regclass prints it */
	TupleDesc tupdesc;     /* a copy */
	StreamColumn *columns; /* [tupdesc->natts] */
	char *topic;
	char *brokers;    /* NULL: the server names none and neither does the stream */
	bool brokers_own; /* named by the stream itself: then no user mapping is used */
	StreamFormat format;
	AttrNumber event_time; /* 0: none */
	int64 watermark;       /* microseconds of disorder */
	bool has_watermark;    /* given, or defaulted to 0 */
	int nkeys;
	AttrNumber *keys;         /* columns that decide a record's partition */
	int64 idle_timeout;       /* ms; -1: not given */
	int64 max_future;         /* microseconds; -1: none */
	int64 partitions_refresh; /* ms */
	bool skip_errors;         /* on_error of ad-hoc scans */
	/* of DefElem: librdkafka's, of the server and of the current user's mapping (not of that if brokers_own) */
	List *properties;
} StreamInfo;

/* true if the relation is a foreign table of the velo wrapper; false for anything else, also a missing one */
extern bool stream_is(Oid relid);
/* ereport(ERROR) if it is none.  Checks options again, for they may come from a dump of another version. */
extern StreamInfo *stream_get(Oid relid);
/* The same with the user mapping of "userid" in place of the current user's: a view's owner reads its streams. */
extern StreamInfo *stream_get_as(Oid relid, Oid userid);

/* The topic of a stream, even where something else about it is wrong; NULL if there is no such foreign table. */
extern char *stream_topic(Oid relid);

/* ereport(ERROR) for what is wrong in the options (list of DefElem) of a stream or of a column, as far as they tell. */
extern void stream_options_check(List *options);
extern void column_options_check(List *options);
/* ereport(ERROR) if Kafka allows no topic of that name. */
#define MAX_TOPIC_LENGTH 249
extern void stream_topic_check(const char *topic);
/*
 * ereport(ERROR) for an option that does not exist, with the one of the comma-separated "valid" that it was probably
 * meant to be.  "what" is its kind, as in "invalid stream option".
 */
extern void option_unknown(const char *what, const char *name, const char *valid)
	pg_attribute_noreturn();

/* ------------------------------------------------------------------ queries */

typedef enum OnError
{
	ON_ERROR_FAIL,
	ON_ERROR_SKIP,
	ON_ERROR_DEAD_LETTER
} OnError;

typedef enum EmitMode
{
	EMIT_CHANGES,
	EMIT_FINAL
} EmitMode;

/*
 * An option's interval.  Options are read again and again, in other sessions and by workers, so they must mean the same
 * whatever IntervalStyle says of signs there.
 */
extern Interval *option_interval(const char *text);

/* What a query's options say, with the settings filled in where they are silent. */
typedef struct QueryOptions
{
	int batch_size;      /* records */
	int commit_interval; /* ms */
	int64 grace;         /* microseconds */
	int64 idle_timeout;  /* ms; -1: look at the stream, then at the setting */
	int pipeline_memory; /* kB */
	int retry_max_delay; /* ms */
	bool gap_continue;   /* on_gap */
	char *group_id;
} QueryOptions;

/* The state that its owner or an error put it in; what it is doing beyond that is in shared memory. */
typedef enum QueryState
{
	QUERY_ACTIVE, /* should be running */
	QUERY_PAUSED,
	QUERY_FAILED,
	QUERY_FINISHED
} QueryState;

typedef struct QueryInfo
{
	Oid id;          /* OID of the view in VELO_QUERY_SCHEMA */
	Oid owner;       /* the view's owner */
	char *name;      /* as regclass prints a relation */
	char *text;      /* as typed; for display only */
	Oid target;      /* the table it writes */
	bool own_target; /* velo made it */
	EmitMode emit;
	/* has a window of the dialect or a native one, or is FINAL over date_bin or date_trunc: lateness applies */
	bool windowed;
	bool stop_at_end;
	int npipelines; /* 0: not known yet (no contact with the broker so far) */
	bool merged;    /* groups are shared by the pipelines */
	OnError on_error;
	bool keep_late; /* on_late => 'dead_letter' */
	QueryOptions options;
	QueryState state;
	char *start;    /* as given */
	List *settings; /* of DefElem: pinned configuration parameters */
	int generation; /* counts restarts and alterations; a pipeline that sees another one ends */

	char *schema;     /* of the query's name */
	char *plain_name; /* the name itself, neither quoted nor qualified */
	int64 grace;      /* microseconds, as the text or the setting said at creation */
	Jsonb *own_options;
	int pipelines_wanted;   /* 0: not said, so decided at the first contact with the broker */
	TimestampTz advanced;   /* event time is at least this; DT_NOBEGIN: not advanced by hand */
	TimestampTz created_at; /* transaction time */
	/* why a query that was running elsewhere is found paused, or NULL */
	const char *paused_because;
	bool in_progress; /* the running transaction made or changed it */
} QueryInfo;

/* Room for the id that Kafka gives a topic: 16 bytes in base64 */
#define TOPIC_ID_SIZE 32

/* What is committed about one partition of one stream of a query. */
typedef struct PartitionInfo
{
	Oid stream;
	int32 partition;
	int32 pipeline;
	int64 next_offset;     /* the next to read */
	int64 stop_offset;     /* -1: none */
	int64 end_offset;      /* as last seen; for lag */
	TimestampTz watermark; /* DT_NOBEGIN: none yet */
	bool idle;
	char topic_id[TOPIC_ID_SIZE]; /* of the topic that the offsets are of; "": not known */
} PartitionInfo;

/* Committed figures of one pipeline, since the query was created or restarted. */
typedef struct PipelineCounters
{
	int64 records_in;
	int64 rows_out;
	int64 late;
	int64 tombstones;
	int64 dead_letters;
	int64 skipped;
	int64 batches;
	/* the query's watermark that its windows were last closed by, for records; DT_NOBEGIN: none */
	TimestampTz closed;
	/* the time up to which the rows of windows that have closed are written, too */
	TimestampTz written;
} PipelineCounters;

/* NULL if there is no such query (any more). */
extern QueryInfo *query_get(Oid id);
/* By any spelling that PostgreSQL would resolve; ereport(ERROR) if missing_ok is false. */
extern Oid query_lookup(const char *name, bool missing_ok);
/* OIDs of all queries of the database. */
extern List *query_list(void);
/* (schema, name) as regclass would print it */
extern char *query_display_name(const char *schema, const char *name);
/*
 * For who wants to create a query of that name: waits for all others who do, in whatever schema (their views are all in
 * one), until the transaction ends.  Returns whether there is a query of that name in the schema.
 */
extern bool query_reserve_name(const char *schema, const char *name);
/* Store a new query, or all that may change of a known one; query->owner becomes the one it runs as. */
extern void query_insert(const QueryInfo *query);
extern void query_update(const QueryInfo *query);
/* Forget everything about a query; no error if there is nothing. */
extern void query_delete(Oid id);
/* Forget what it has read: partitions, state, dead letters, counters; errors too. */
extern void query_reset(Oid id);
/* A schema may have got a new name. */
extern void query_refresh_schemas(void);
/* Make the view depend on the target and on the schema of the query's name (once). */
extern void query_record_dependencies(const QueryInfo *query);
/* Owner of the view; InvalidOid if it is gone. */
extern Oid query_owner(Oid id);

/*
 * To be called by a pipeline early in each of its transactions, after it has locked the relations that it uses: keeps
 * others from changing the query until the transaction ends.  False: it is no longer what the pipeline was started
 * for, so the pipeline should end without writing anything.  *advanced: QueryInfo.advanced as of now.
 */
extern bool query_enter(Oid id, int generation, TimestampTz *advanced);
/* The same for those who change it: waits for pipelines to commit.  False if the query is gone. */
extern bool query_lock(Oid id);

/*
 * Reads a query's options into "options", with the settings where they are silent; ereport(ERROR) with a hint for
 * what is not valid.  extra: more names that are valid here, for the hint, or NULL.
 */
extern void query_read_options(Jsonb *json, const char *extra, QueryOptions *options);

extern List *query_partitions(Oid id); /* of PartitionInfo, all pipelines */
extern void query_save_partition(Oid id, const PartitionInfo *partition); /* insert or update */

/* False, with figures of nothing, as long as the pipeline has not committed yet. */
extern bool query_read_counters(Oid id, int pipeline, PipelineCounters *counters);
extern void query_save_counters(Oid id, int pipeline, const PipelineCounters *counters);

/*
 * The watermark of a query by what is committed of its partitions (list of PartitionInfo): the least of those that are
 * not idle, the greatest when all are; DT_NOBEGIN: none.
 */
extern TimestampTz partitions_watermark(List *partitions);

/* The greatest "closed" of the query's pipelines; DT_NOBEGIN if none has closed a window. */
extern TimestampTz query_closed(Oid id);
/* The same of "written". */
extern TimestampTz query_written(Oid id);
/* The least "closed" of the pipelines 0 to npipelines - 1; DT_NOBEGIN if one of them has closed no window. */
extern TimestampTz query_closed_by_all(Oid id, int npipelines);

/* Whatever is not active makes all its pipelines end. */
extern void query_set_state(Oid id, QueryState state);

/* What troubles a pipeline. */
typedef struct QueryError
{
	int pipeline; /* -1: the query as a whole */
	const char *message;
	int sqlerrcode;
	const char *hint; /* or NULL */
	TimestampTz at;
	TimestampTz retry_at; /* DT_NOEND: it tells of no time; DT_NOBEGIN: there is none */
} QueryError;

#define QUERY_AS_A_WHOLE (-1)

/*
 * The present trouble of the calling pipeline; outside of pipelines, of the query as a whole.  error: NULL, it is
 * over.  retry_at DT_NOEND: no retry.
 */
extern void query_set_error(Oid id, ErrorData *error, TimestampTz retry_at);
extern void query_set_pipeline_error(Oid id, int pipeline, ErrorData *error, TimestampTz retry_at);
/* Says whose errors query_set_error() reports in this process. */
extern void query_errors_are_of(int pipeline);
/*
 * The calling pipeline begins a run.  It is unproven until query_set_error() is called with or without an error; if a
 * run is unproven and gone, it has crashed, perhaps with the whole server.  The transaction's commit is synchronous.
 */
extern void query_begin_run(Oid id);
extern bool query_run_is_unproven(Oid id, int pipeline);
/*
 * An unproven run is gone.  True if there was no failure before it: then it may begin anew at once, for it may well
 * have been somebody else who crashed or stopped the server; but it counts.
 */
extern bool query_forgive_crash(Oid id, int pipeline);
extern List *query_errors(Oid id); /* of QueryError */
/* The one to show: of a failed query that which it failed of, for others may still have waited; NULL if there is none. */
extern const QueryError *query_latest_error(List *errors);
/*
 * Is it that of a pipeline which waits for a worker slot?  That is over when its run begins.  What else has the code, such as
 * temp_file_limit, is tried again at a time.
 */
extern bool query_error_is_of_slot(int sqlerrcode, TimestampTz retry_at);
extern void query_clear_errors(Oid id);
/*
 * When to try again after one more failure: at twice the delay of the last time, up to the query's
 * retry_max_delay; failures
 * that lie longer apart don't count.
 */
extern TimestampTz query_next_attempt(Oid id, int pipeline);
extern void query_set_pipelines(Oid id, int npipelines);
/* From now on the groups of the query are shared; see query_forget_written(). */
extern void query_set_merged(Oid id);
/*
 * Groups of windows that have closed may come from elsewhere before they are written: nothing counts as written until
 * some pipeline has found that all is.  The caller has the query locked (query_lock()).
 */
extern void query_forget_written(Oid id);

/*
 * Look at the partitions of a stream of the query and take in those that are new, from their first record on; bumps the
 * query's generation if there are any.  Runs its own transactions; waits for the broker.  Returns true if there are.
 */
extern bool query_add_partitions(Oid id, const StreamInfo *stream);

/* ------------------------------------------------------------------ state chunks (state/ knows their content) */

typedef void (*StateChunkReader)(int64 seq, const char *data, Size len, void *arg);

extern void state_chunk_append(Oid query, int pipeline, int64 seq, const char *data, Size len);
extern void state_chunk_delete(Oid query, int pipeline, const int64 *seqs, int nseqs);
/* Calls "reader" for every chunk in order of seq. */
extern void state_chunk_scan(Oid query, int pipeline, StateChunkReader reader, void *arg);
/* true if the pipeline has any */
extern bool state_chunk_exists(Oid query, int pipeline);
extern bytea *state_chunk_read(Oid query, int pipeline, int64 seq);

/* Groups kept one by one: those of a merged query.  "key" is state/'s encoding of window and group. */
typedef struct StoredGroup
{
	bytea *key;
	bytea *state; /* NULL on save: delete */
} StoredGroup;

/* List of StoredGroup: those of the keys that are stored, in no particular order. */
extern List *stored_groups_fetch(Oid query, bytea **keys, int nkeys);
/* The current memory context takes garbage. */
extern void stored_groups_save(Oid query, const StoredGroup *groups, int ngroups);
/* Calls "reader" for all groups with key in [from, to) in key order; a NULL bound is open */
typedef void (*StoredGroupReader)(const StoredGroup *group, void *arg);
extern void stored_groups_scan(Oid query, bytea *from, bytea *to, StoredGroupReader reader,
							   void *arg);
extern void stored_groups_delete_range(Oid query, bytea *from, bytea *to);

/*
 * Runs of groups, in blocks.  A run is written in ascending order of hashes; no two blocks of it have the same greatest
 * hash.
 */
typedef struct RunAppender RunAppender;

extern RunAppender *run_appender_begin(Oid query, int pipeline);
/* RUN_BLOCK_BYTES of data fill a page; what is much longer is stored out of line. */
#define RUN_BLOCK_BYTES (BLCKSZ - 128)
extern void run_appender_add(RunAppender *appender, int64 run, uint64 hash, bytea *data);
extern void run_appender_end(RunAppender *appender);

typedef struct RunBlock
{
	uint64 hash; /* its greatest */
	const char *data;
	Size len;
} RunBlock;

/* Reads what was there when it began, in the order of the hashes. */
typedef struct RunReader RunReader;

/* "deletes": it will do that, too */
extern RunReader *run_reader_begin(Oid query, int pipeline, bool deletes);
/*
 * Go to the blocks of a run whose greatest hash is in [from, to].  The first of them costs something for each that stands
 * on the same page of the index.
 */
extern void run_reader_seek(RunReader *reader, int64 run, uint64 from, uint64 to);
/* The next block, valid until the next call; false if there is none. */
extern bool run_reader_next(RunReader *reader, RunBlock *block);
/* Delete the block that was read last. */
extern void run_reader_delete(RunReader *reader);
extern void run_reader_end(RunReader *reader);

/* ------------------------------------------------------------------ stream keys */

/* A value of the stream's key, by its hash, that one pipeline has for the windows of a generation of event time. */
typedef struct StreamKeyClaim
{
	int64 generation;
	uint64 hash;
} StreamKeyClaim;

/*
 * An exclusive query trusts the stream's key: no two pipelines meet the same value.  Note that "pipeline" has met
 * these, in ascending order and each once.  ereport(ERROR) with ERRCODE_UNIQUE_VIOLATION if another pipeline has met
 * one of them; waits for its transaction to end if that is running, which may end in a deadlock.
 */
extern void stream_keys_claim(Oid query, int pipeline, const StreamKeyClaim *claims, int nclaims);
/* Forget the claims of generations before "first". */
extern void stream_keys_delete(Oid query, int64 first);

/* ------------------------------------------------------------------ dead letters */

typedef struct DeadLetter
{
	const char *kind; /* decode, evaluate, apply, sink, late */
	Oid stream;       /* InvalidOid: belongs to a group, see detail */
	int32 partition;
	int64 offset;
	TimestampTz timestamp; /* DT_NOBEGIN: none */
	const char *key;       /* NULL: none */
	Size key_len;
	const char *value; /* NULL: none */
	Size value_len;
	Jsonb *headers; /* or NULL */
	int sqlerrcode; /* 0: none (late) */
	const char *message;
	const char *detail; /* or NULL; the group as text where it belongs to one */
} DeadLetter;

extern void dead_letter_add(const QueryInfo *query, const DeadLetter *letters, int nletters);
/* Take back the letter of a group whose row succeeds now. */
extern void dead_letter_remove_group(Oid query, const char *detail);

#endif /* VELO_CATALOG_H */
