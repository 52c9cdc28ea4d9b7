/*
 * group_table.h
 *		What the files of state/ share: the inside of a group table.
 *
 * A table has windows, a window has an expression context (its memory, and what aggregates take for theirs) and a
 * hash table of entries; an entry is a group with its transition values and, where collected aggregates need them, its
 * kept input rows.
 *
 *	group_table.c	windows, entries, what changed
 *	apply.c			rows into entries
 *	hopping.c		the same where windows overlap
 *	closing.c		windows that are over
 *	group_keys.c	hash, equality and order of group keys
 *	aggregate.c		transition and final functions, states to bytes and back
 *	transition.c	the commonest transitions, for many rows at once
 *	collected.c		kept input rows
 *	distinct.c		the distinct values of aggregates, which are kept like such rows
 *	group_record.c	entries as bytes, for the two below
 *	checkpoint.c	the log of chunks that makes a table of one pipeline durable
 *	stored.c		groups outside of memory: what there is, and what of it is wanted
 *	stored_shared.c	those of a merged query
 *	stored_runs.c	cold ones of one pipeline, in runs
 *	run_filter.c	which groups are surely not in a run
 *	run_merge.c		few runs of many
 *	stored_move.c	which groups are cold
 *	undo.c			what a record did to entries, to be taken back
 *	fold.c			one table into another: partial groups into shared ones
 */
#ifndef VELO_GROUP_TABLE_H
#define VELO_GROUP_TABLE_H

#include "state/state.h"

#include "executor/nodeAgg.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "utils/memutils.h"
#include "utils/sortsupport.h"

typedef struct Entry Entry;
typedef struct Window Window;
typedef struct ClosingOrder ClosingOrder;
typedef struct DistinctSet DistinctSet;
typedef struct Run Run;
typedef struct RunMerge RunMerge;
typedef struct RunWriter RunWriter;
typedef struct Stretch Stretch;

/* ------------------------------------------------------------------ keys */

typedef enum KeyKind
{
	KEY_BITS,   /* by value and equal when the bits are */
	KEY_BYTES,  /* text and equal when the bytes are */
	KEY_GENERIC /* by the type's functions */
} KeyKind;

typedef struct Key
{
	KeyKind kind;
	int column;
	int16 typlen;
	bool byval;
	uint64 mask;           /* KEY_BITS: the bits that count */
	FunctionCallInfo hash; /* NULL: no hash support, all values hash alike */
	bool extended;         /* it is a 64-bit hash function */
	FunctionCallInfo equal;
} Key;

/* ------------------------------------------------------------------ aggregates */

typedef struct TransValue
{
	Datum value;
	bool isnull;
	bool unset; /* the first input that isn't NULL becomes the value */
} TransValue;

/* rows that are advanced together: many enough for loops over them, few enough for the processor's cache */
#define ENTRANCES 1024

/* A row on its way into a group. */
typedef struct Entrance
{
	Entry *entry;
	int row;
} Entrance;

typedef struct Transition Transition;

/*
 * What many rows do to transition number "index" of the groups that they enter, as the transition function would; sets
 * rows->applied before it throws.
 */
typedef void (*KnownTransition)(const Transition *trans, int index, const Entrance *entrances,
								int n, InputRows *rows);

/* A transition: aggregates with the same one (sum and avg of the same column) share it, as in PostgreSQL. */
struct Transition
{
	int nargs;
	int *args;
	int filter;
	Oid transfn_oid;
	Oid transtype;
	Oid collation;
	int16 typlen;
	bool byval;
	bool strict;
	bool internal;         /* kept as bytes by serialise, read by deserialise and combine */
	Key *distinct;         /* NULL: not DISTINCT */
	KnownTransition known; /* NULL: the function is called row by row */
	Datum init;
	bool init_isnull;
	FunctionCallInfo call; /* of the transition function */
	FunctionCallInfo serialise;
	FunctionCallInfo deserialise;
	FunctionCallInfo combine;
	AggStatePerTransData pertrans; /* for functions that look at their aggregate */
};

/* Does FILTER keep the row from the aggregate? */
static inline bool
is_filtered_out(const Transition *trans, const InputRows *rows, int row)
{
	return trans->filter >= 0 &&
		   (rows->nulls[trans->filter][row] || !DatumGetBool(rows->values[trans->filter][row]));
}

typedef struct Final
{
	int transition;        /* -1: a collected aggregate */
	FunctionCallInfo call; /* of the final function; NULL: the transition value is the result */
	int nargs;             /* of the final function */
	int16 typlen;          /* of the result */
	bool byval;
} Final;

/* ------------------------------------------------------------------ the log */

/* A chunk of the log, as far as memory needs to know it. */
typedef struct LogChunk
{
	dlist_node node; /* in the table's list, by seq */
	int64 seq;
	Size bytes;
	int64 live;   /* records that are the latest of what they describe */
	bool forgets; /* holds records that take back older ones */
} LogChunk;

/* Where the latest record of something stands.  chunk NULL: nowhere. */
typedef struct LogPlace
{
	LogChunk *chunk;
	uint32 bytes;
} LogPlace;

/* ------------------------------------------------------------------ kept rows */

typedef struct RowBlock
{
	struct RowBlock *next;
	Size start; /* position of its first byte in the group's rows */
	uint32 used;
	uint32 size;
	char data[FLEXIBLE_ARRAY_MEMBER]; /* MinimalTuples or DistinctValues, each MAXALIGNed */
} RowBlock;

/* A stretch of a group's rows that stands in one record of the log. */
typedef struct RowSegment
{
	Size from;
	Size to;
	LogPlace place;
} RowSegment;

/*
 * The kept rows of a group are one string of bytes, of which blocks are pieces in memory, and segments in the log;
 * neither ends within a row.  Segments follow one another without a gap from 0; what is behind the last is unsaved.
 */
typedef struct RowList
{
	RowBlock *head;
	RowBlock *tail;
	Size end;
	int nsegments;
	int max_segments;
	RowSegment *segments;
	bool resave;      /* some segment has lost its place to compaction */
	DistinctSet *set; /* of the rows; NULL: not made, or they are no distinct values */
} RowList;

/* Where a group's rows end, for collected_cut_back(). */
typedef struct RowMark
{
	RowBlock *tail; /* NULL: no rows */
	uint32 used;
} RowMark;

/* ------------------------------------------------------------------ entries and windows */

#define ENTRY_CHANGED 0x01 /* in the window's list of changed ones */
#define ENTRY_UNSAVED 0x02 /* in the window's list of unsaved ones */
#define ENTRY_GONE 0x04    /* closed; its memory goes with the window */
#define ENTRY_STORED 0x08  /* an older version stands in the stored groups */

struct Entry
{
	StateGroup group; /* must be first */
	Window *window;
	Entry *next_changed;
	Entry *next_unsaved;
	RowList *rows; /* NULL: none */
	LogPlace place;
	TransValue values[FLEXIBLE_ARRAY_MEMBER];
};

typedef struct EntryList
{
	Entry *head;
	Entry *tail;
} EntryList;

typedef struct HashSlot
{
	uint64 hash;
	Entry *entry; /* NULL: free */
} HashSlot;

struct Window
{
	TimestampTz start;
	TimestampTz end;
	TimestampTz close;    /* end + grace */
	ExprContext *context; /* its per-tuple memory holds all of the window */
	char *arena;          /* free memory for entries and their keys */
	Size arena_left;
	Size arena_next; /* size of the next piece of it */
	HashSlot *slots;
	uint64 mask; /* number of slots - 1 */
	int64 nentries;
	int64 ngone;
	/* groups of it that are stored; of a table of one pipeline only those that are not in memory */
	int64 nstored;
	Run **runs; /* that they are stored in, newest first; NULL: none ever */
	int nruns;
	int max_runs;
	bool logged;         /* the log has records of it */
	bool stored_changed; /* what is known of its stored groups must be written */
	ClosingOrder *order; /* in which closing takes the groups in memory; NULL: it hasn't begun */
	uint64 slice_from;   /* then, stored ones with a lesser hash have left */
	uint64 slice_to;     /* up to which those go that take_closed() returned */
	bool stored_left;    /* all of them have left */
	Window *taken;       /* those that take_closed() returned; NULL: none */
	/* while loading: a copy of the last group that the log says has left, in the order of keys; NULL: none has */
	Entry *left_through;
	EntryList changed;
	EntryList unsaved;
};

/* What an entry was before a row of the current record changed it. */
typedef struct UndoStep
{
	Entry *entry;
	int values; /* where its transition values stand in the table's undo_values; -1: it was made */
	RowMark rows;
} UndoStep;

struct GroupTable
{
	const GroupingSpec *spec;
	Oid query;
	int pipeline;
	Size memory_limit; /* above which cold groups are moved out */
	Size move_at;      /* the same, or more after an attempt that moved little */
	Size allocated;    /* what they took at the last checkpoint */
	/* when to look next for groups whose bin has passed: by the watermark, and not before by the wall clock */
	TimestampTz passes_at;
	TimestampTz look_at;
	bool shared;

	MemoryContext context; /* the table's own; windows are children */
	MemoryContext temp;    /* reset for each row */

	AggState *aggstate; /* what aggregate functions are shown as their caller */
	int ntransitions;
	Transition *transitions;
	Final *finals; /* [spec->naggs] */
	bool collects; /* some aggregate is collected */
	bool distinct; /* some are DISTINCT, and none is collected */
	TupleDesc collected_desc;
	Oid *collected_records;  /* [spec->ncollected] type if it is anonymous, and kept as bytes */
	Datum *collected_values; /* [spec->ncollected], scratch */
	bool *collected_nulls;
	Key *keys;
	bool hashable;          /* all keys have hash functions */
	SortSupport key_order;  /* [nkeys]; NULL: not asked for yet */
	SortSupport lead_order; /* of the first key, abbreviated where its type can be */
	Datum *probe;           /* [nkeys] keys looked for */
	bool *probe_nulls;
	Size keys_offset; /* in an entry */
	Size nulls_offset;
	Size entry_size;
	uint32 fingerprint; /* of what the bytes of a state depend on */

	int nwindows;
	int max_windows;
	Window **windows; /* by start */
	Window *last;     /* the one used last */
	int max_entered;  /* window_max() */
	Window **entered; /* [max_entered] windows that a row enters */
	Entrance *
		entrances; /* rows whose groups are found, and not yet advanced; in all ENTRANCES or max_entered */
	int nentrances;
	Stretch *stretch; /* NULL: no windows overlap */

	uint64 *hashes; /* of the rows being applied */
	int max_hashes;
	StateGroup **result; /* what take_changed() and take_closed() return */
	int nresult;
	int max_result;
	Window *closing; /* whose groups take_closed() returned; NULL: none */

	/* what the current record did */
	UndoStep *undo_steps;
	int nundo_steps;
	int max_undo_steps;
	StringInfoData undo_values;
	/* about how much memory of the windows has had values in it that were undone, and is lost */
	Size abandoned;

	/* the stored groups */
	int64 nstored;   /* sum over the windows */
	bool refreshed;  /* the windows know how many */
	int64 next_run;  /* id of the next one */
	int64 in_runs;   /* groups in all runs, those included that memory or another run has newer */
	int nunlearnt;   /* runs whose filters don't know all of them yet */
	RunMerge *merge; /* NULL: none is going on */
	bool may_merge;  /* there is a run more since it was found that none is worth merging */

	/* the log */
	dlist_head chunks;
	int nchunks;
	int64 next_seq;
	Size log_bytes;
	Size live_bytes;
	Size leaving_bytes;    /* that were live until their groups left a window that is closing */
	uint32 checkpoint;     /* number of the next one since loading */
	StringInfoData buffer; /* records on their way into a chunk */
	LogChunk *open_chunk;  /* what they will stand in */
};

/* Has a group kept rows: input of collected aggregates, or the values of DISTINCT? */
static inline bool
keeps_rows(const GroupTable *table)
{
	return table->collects || table->distinct;
}

/* Fetch what in_memory() will look at first into the processor's cache. */
static inline void
slot_prefetch(const Window *window, uint64 hash)
{
	__builtin_prefetch(&window->slots[hash & window->mask]);
}

/* group_keys.c */
/* How values of a type are hashed and told apart, in the current memory context; false if they can't be hashed. */
extern bool key_init(Key *key, Oid type, Oid collation, Oid eqop);
/* Both may leave garbage in the current memory context.  Values by reference must be detoasted. */
extern uint64 key_hash(const Key *key, Datum value);
extern bool key_equal(const Key *key, Datum a, Datum b);
extern void keys_init(GroupTable *table);
extern void keys_hash_rows(GroupTable *table, const InputRows *rows);
extern uint64 keys_hash(GroupTable *table, const Datum *keys, const bool *nulls);
extern bool keys_equal(GroupTable *table, const Datum *keys, const bool *nulls, const Datum *others,
					   const bool *other_nulls);
extern void keys_order_init(GroupTable *table);
extern Datum keys_lead(GroupTable *table, const Entry *entry, bool *isnull);
extern int keys_compare(GroupTable *table, const Entry *a, const Entry *b);

/*
 * Order of two groups by what keys_lead() gives for them; 0: it does not tell.
 */
static inline int
keys_compare_leads(GroupTable *table, Datum a, bool a_isnull, Datum b, bool b_isnull)
{
	return table->spec->nkeys == 0
			   ? 0
			   : ApplySortComparator(a, a_isnull, b, b_isnull, table->lead_order);
}

/*
 * Fetch what entry_find() will look at into the processor's cache: the place of one group, and of another, for which
 * that was done before, the group itself.
 */
static inline void
window_prefetch(const Window *window, uint64 place_hash, uint64 group_hash)
{
	__builtin_prefetch(&window->slots[place_hash & window->mask]);
	group_prefetch((const StateGroup *) window->slots[group_hash & window->mask].entry);
}

/* group_table.c */
extern Window *window_find(GroupTable *table, TimestampTz start);
extern Window *window_get(GroupTable *table, TimestampTz start);
extern void *window_alloc(Window *window, Size size);
extern Datum window_copy_value(Window *window, Datum value, bool byval, int16 typlen);
extern void window_empty(GroupTable *table, Window *window);
extern void window_free(GroupTable *table, Window *window);
extern bool window_is_closed(const Window *window, TimestampTz watermark);
extern Window *window_copy(GroupTable *table, const Window *window);
extern void window_discard(Window *window);
extern void window_rebuild(GroupTable *table, Window *window);
/*
 * First and last start of the open windows that a row falls into, for windowed queries; false if there are none.
 * "late": all of them are closed.
 */
extern bool windows_of_row(const GroupTable *table, const InputRows *rows, int row,
						   TimestampTz closed, TimestampTz *first, TimestampTz *last, bool *late);
/* The same as windows into table->entered, made as needed, for all queries; returns their number. */
extern int windows_for_row(GroupTable *table, const InputRows *rows, int row, TimestampTz closed,
						   bool *late);
extern Entry *entry_find(GroupTable *table, Window *window, uint64 hash, const Datum *keys,
						 const bool *nulls);
extern Entry *entry_alloc(GroupTable *table, Window *window, uint64 hash, const Datum *keys,
						  const bool *nulls);
extern Entry *entry_create(GroupTable *table, Window *window, uint64 hash, const Datum *keys,
						   const bool *nulls);
extern void entry_left(Entry *entry);
extern void entry_unsaved(Entry *entry);
extern void entry_changed(Entry *entry);
extern void entry_gone(GroupTable *table, Entry *entry);
extern void result_add(GroupTable *table, Entry *entry);

/* apply.c */
/* The keys of a row, detoasted in the current memory context. */
extern void keys_of_row(const GroupTable *table, const InputRows *rows, int row, Datum *keys,
						bool *nulls);
extern Entry *entry_enter(GroupTable *table, Window *window, uint64 hash, const Datum *keys,
						  const bool *nulls, bool undoable, bool *created);
/* Make the transitions of all entrances. */
extern void entrances_advance(GroupTable *table, InputRows *rows);

/* A row is to enter a group.  There must be room for it. */
static inline void
entrance_add(GroupTable *table, Entry *entry, int row)
{
	table->entrances[table->nentrances].entry = entry;
	table->entrances[table->nentrances++].row = row;
}

/* hopping.c */
extern void hopping_init(GroupTable *table);
extern void hopping_apply(GroupTable *table, InputRows *rows, int from, TimestampTz closed);

/* aggregate.c */
extern bool type_is_anonymous(Oid type);
extern void aggregates_init(GroupTable *table);
extern uint32 aggregates_fingerprint(const GroupTable *table);
extern bool aggregates_are_portable(const GroupTable *table);
extern void aggregates_enter(GroupTable *table, Window *window);
extern void aggregates_begin(GroupTable *table, Entry *entry);
extern void aggregates_advance(GroupTable *table, const Entrance *entrances, int n,
							   InputRows *rows);
extern void aggregates_advance_one(GroupTable *table, Entry *entry, int transition, Datum argument);
extern void aggregates_write(GroupTable *table, Entry *entry, StringInfo out);
extern void aggregates_read(GroupTable *table, Entry *entry, StringInfo in);
extern void aggregates_combine(GroupTable *table, Entry *into, GroupTable *source, Entry *from);
extern void datum_write(StringInfo out, Datum value, bool byval, int16 typlen);
extern Datum datum_read(StringInfo in, bool byval);

/* transition.c */
/* That of a built-in aggregate by its transition function; NULL if it has none. */
extern KnownTransition known_transition(Oid aggregate, Oid function);

/* collected.c */
extern void collected_init(GroupTable *table);
extern void collected_advance(GroupTable *table, Entry *entry, const InputRows *rows, int row);
extern void collected_copy(const Entry *from, Entry *to);
extern void collected_append(Entry *entry, const char *data, Size len);
extern Size collected_cut(const RowList *list, Size from, Size to, Size target);
extern void collected_write(const RowList *list, Size from, Size to, StringInfo out);
extern RowMark collected_mark(const Entry *entry);
extern void collected_cut_back(Entry *entry, const RowMark *mark);

/* distinct.c */
/*
 * Is the argument of DISTINCT transition number "transition" one that the group hasn't had?  Then it has it from now on.
 * The current memory context takes garbage.
 */
extern bool distinct_add(GroupTable *table, Entry *entry, int transition, Datum value);
/* Before rows of a list are taken back. */
extern void distinct_forget(RowList *list);
extern void distinct_fold(GroupTable *table, Entry *into, const Entry *from);

/* group_record.c */
extern void record_init(GroupTable *table);
extern void record_write_header(const GroupTable *table, StringInfo out);
extern void record_check_header(const GroupTable *table, StringInfo in);
extern void record_damaged(void) pg_attribute_noreturn();
extern void record_write_keys(GroupTable *table, const Entry *entry, StringInfo out);
extern void record_read_keys(GroupTable *table, StringInfo in);
extern void record_write_name(GroupTable *table, const Entry *entry, StringInfo out);
extern TimestampTz record_read_name(GroupTable *table, StringInfo in);
extern void record_write_state(GroupTable *table, Entry *entry, StringInfo out);
extern void record_read_state(GroupTable *table, Entry *entry, StringInfo in);
extern void bytes_read(StringInfo in, void *to, Size len);
extern char *bytes_skip(StringInfo in, Size len);

/* undo.c */
extern void undo_init(GroupTable *table);
extern void undo_begin_record(GroupTable *table);
extern void undo_note_made(GroupTable *table, Entry *entry);
extern void undo_note_change(GroupTable *table, Entry *entry);
extern void undo_reclaim(GroupTable *table);

/* checkpoint.c */
extern void log_init(GroupTable *table);
extern void log_load(GroupTable *table);
extern Size log_checkpoint(GroupTable *table);
extern void log_delete(GroupTable *table);
extern void log_forget(GroupTable *table, Entry *entry);
extern void log_forget_moved(GroupTable *table, Window *window, const HashSlot *slots, int64 n);
extern void log_forget_through(GroupTable *table, Window *window, StateGroup **groups, int n);
extern void log_forget_window(GroupTable *table, Window *window);

/* ------------------------------------------------------------------ stored groups */

/* A bucket that is wanted in memory: all groups of a window with the same hash. */
typedef struct Wanted
{
	TimestampTz window;
	uint64 hash;
} Wanted;

struct Run
{
	int64 id;
	int64 groups; /* in it; those with the same hash count as one */
	int64 bytes;  /* of its blocks */
	uint64 from;  /* what had a lesser hash has left it */
	/* run_filter.c: lines of eight words each; NULL: none */
	uint64 *filter;
	char *filter_memory;
	uint32 filter_lines;
	bool learnt;      /* it knows the whole run */
	uint64 learnt_to; /* or else what has a lesser hash */
};

/* stored.c */
extern void stored_refresh(GroupTable *table);
extern void stored_fetch(GroupTable *table, const InputRows *rows, TimestampTz closed);
extern void stored_fetch_like(GroupTable *table, const Window *like);
extern void stored_fetch_one(GroupTable *table, TimestampTz start, uint64 hash);
extern void stored_take(GroupTable *table, Window *window, int max);
extern void stored_drop_taken(GroupTable *table, Window *window);
extern bool stored_drop_slice(GroupTable *table, Window *window, int max);
extern void stored_drop_window(GroupTable *table, Window *window);
extern void stored_save_windows(GroupTable *table);
extern bool stored_is_empty(Oid query, int pipeline);
extern bool in_memory(const Window *window, uint64 hash, bool gone);
extern void count_stored(GroupTable *table, Window *window, int64 n);
extern void bucket_write(GroupTable *table, Entry *entry, StringInfo out);
extern int bucket_read(GroupTable *table, Window *window, uint64 hash, StringInfo in, uint8 flags);

/* stored_shared.c */
extern void shared_fetch(GroupTable *table, const Wanted *wanted, int64 nwanted);
extern void shared_take_slice(GroupTable *table, Window *window, uint64 to);
extern void shared_delete_slice(GroupTable *table, Window *window, uint64 to);
extern void shared_save(GroupTable *table);

/* stored_runs.c */
extern Run *run_add(GroupTable *table, Window *window, int at, int64 id);
extern void run_remove(GroupTable *table, Window *window, Run *run);
extern RunWriter *run_writer_begin(GroupTable *table, Run *run);
extern StringInfo run_writer_bytes(RunWriter *writer);
extern void run_writer_add(RunWriter *writer, uint64 hash);
extern void run_writer_end(RunWriter *writer);
extern bool runs_may_have(const Window *window, uint64 hash);
extern void runs_prefetch(const Window *window, uint64 hash);
extern void runs_learn(GroupTable *table);
extern void runs_fetch(GroupTable *table, const Wanted *wanted, int64 nwanted);
extern void runs_take_slice(GroupTable *table, Window *window, uint64 to);
extern void runs_delete_slice(GroupTable *table, Window *window, uint64 to);

/* run_filter.c */
extern void run_filter_create(GroupTable *table, Run *run, int64 groups);
extern void run_filter_add(Run *run, uint64 hash);

/* run_merge.c */
extern void runs_merge(GroupTable *table, Size appended);
extern void runs_stop_merge(GroupTable *table, const Window *window);

/* stored_move.c */
extern void sort_by_hash(HashSlot *slots, size_t n);
extern void stored_move_passed(GroupTable *table, TimestampTz watermark);
extern void stored_move_cold(GroupTable *table);

#endif /* VELO_GROUP_TABLE_H */
