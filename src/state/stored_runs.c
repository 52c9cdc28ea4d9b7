/*
 * stored_runs.c
 *		Cold groups of one pipeline: runs.
 *
 * A run is what moves out of a window at once: buckets sorted by hash, packed into blocks (catalog/run_blocks.c).  It is
 * written once and never changed, until it is merged with others into a new one (run_merge.c) or its window closes.  A
 * bucket that is fetched stays in its run, too, and is in another one when it has moved out again.  So newest wins:
 * what memory has goes before all runs, and a newer run before an older one.  Groups leave a window only when it closes,
 * so nothing needs to be taken back.
 *
 * A run that is merged, or whose window closes, is consumed from its least hash on.  Run.from tells how far: below it
 * nobody looks, though the block that has its bucket may have others before.  It is saved with the window, and blocks
 * that are consumed as a whole are deleted, in the same transaction; so what goes on in many transactions needs no other
 * note of where it stands.
 *
 *	block:	header, number of buckets n, their hashes [n], where their bytes end [n], the bytes
 */
#include "state/run_filter.h"
#include "state/run_block.h"

/* blocks that a filter learns in one go */
#define LEARN_BLOCKS 512
/* at least as many as a block has, twice */
#define NEAR_GROUPS (2 * MAX_BLOCK_BUCKETS)

/* ------------------------------------------------------------------ runs of a window */

/* A new run of a window, with so many newer ones. */
Run *
run_add(GroupTable *table, Window *window, int at, int64 id)
{
	Run *run = MemoryContextAllocZero(table->context, sizeof(Run));

	run->id = id;
	table->next_run = Max(table->next_run, id + 1);
	table->nunlearnt++;
	if (window->nruns == window->max_runs)
	{
		window->max_runs = Max(4, window->max_runs * 2);
		window->runs = window->runs == NULL
						   ? MemoryContextAlloc(table->context, sizeof(Run *) * window->max_runs)
						   : repalloc(window->runs, sizeof(Run *) * window->max_runs);
	}
	memmove(&window->runs[at + 1], &window->runs[at], sizeof(Run *) * (window->nruns - at));
	window->runs[at] = run;
	window->nruns++;
	window->stored_changed = true;
	window->stored_left = false;
	window->slice_from = 0;
	table->may_merge = true;
	return run;
}

static void
set_learnt(GroupTable *table, Run *run)
{
	if (!run->learnt)
		table->nunlearnt--;
	run->learnt = true;
}

/* A run whose blocks are deleted. */
void
run_remove(GroupTable *table, Window *window, Run *run)
{
	int at = 0;

	set_learnt(table, run);
	table->in_runs -= run->groups;
	while (window->runs[at] != run)
		at++;
	window->nruns--;
	memmove(&window->runs[at], &window->runs[at + 1], sizeof(Run *) * (window->nruns - at));
	window->stored_changed = true;
	if (window->nruns == 0)
	{
		pfree(window->runs);
		window->runs = NULL;
		window->max_runs = 0;
	}
	if (run->filter_memory != NULL)
		pfree(run->filter_memory);
	pfree(run);
}

/* ------------------------------------------------------------------ writing */

struct RunWriter
{
	GroupTable *table;
	Run *run;
	RunAppender *appender;
	int n; /* of the block that is being filled */
	uint64 hashes[MAX_BLOCK_BUCKETS];
	uint32 ends[MAX_BLOCK_BUCKETS];
	StringInfoData bytes;
	StringInfoData block;
};

/* Write a run that is new and empty; its filter knows what is written. */
RunWriter *
run_writer_begin(GroupTable *table, Run *run)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	RunWriter *writer = palloc(sizeof(RunWriter));

	set_learnt(table, run);
	writer->table = table;
	writer->run = run;
	writer->n = 0;
	initStringInfo(&writer->bytes);
	initStringInfo(&writer->block);
	writer->appender = run_appender_begin(table->query, table->pipeline);
	MemoryContextSwitchTo(old);
	return writer;
}

/* What the first "n" buckets take in a block. */
static Size
block_size(const RunWriter *writer, int n)
{
	return BLOCK_HEADER + n * BLOCK_BUCKET_OVERHEAD + (n > 0 ? writer->ends[n - 1] : 0);
}

/* Write a block of the first "n" buckets. */
static void
flush(RunWriter *writer, int n)
{
	StringInfo block = &writer->block;
	uint32 count = n;
	uint32 len = writer->ends[n - 1];

	resetStringInfo(block);
	appendStringInfoSpaces(block, VARHDRSZ);
	record_write_header(writer->table, block);
	appendBinaryStringInfo(block, (char *) &count, sizeof(count));
	appendBinaryStringInfo(block, (char *) writer->hashes, sizeof(uint64) * n);
	appendBinaryStringInfo(block, (char *) writer->ends, sizeof(uint32) * n);
	appendBinaryStringInfo(block, writer->bytes.data, len);
	SET_VARSIZE(block->data, block->len);
	writer->run->bytes += block->len;
	run_appender_add(writer->appender, writer->run->id, writer->hashes[n - 1],
					 (bytea *) block->data);

	/* what is left is the beginning of the next block */
	writer->n -= n;
	for (int i = 0; i < writer->n; i++)
	{
		writer->hashes[i] = writer->hashes[n + i];
		writer->ends[i] = writer->ends[n + i] - len;
	}
	writer->bytes.len -= len;
	memmove(writer->bytes.data, writer->bytes.data + len, writer->bytes.len);
}

/* Where the bytes of the next bucket are to be appended. */
StringInfo
run_writer_bytes(RunWriter *writer)
{
	return &writer->bytes;
}

/* They are: this is its hash, greater than all before. */
void
run_writer_add(RunWriter *writer, uint64 hash)
{
	writer->hashes[writer->n] = hash;
	writer->ends[writer->n++] = writer->bytes.len;
	run_filter_add(writer->run, hash);
	writer->run->groups++;
	writer->table->in_runs++;
	if (block_size(writer, writer->n) > RUN_BLOCK_BYTES && writer->n > 1)
		flush(writer, writer->n - 1);
	if (block_size(writer, writer->n) > RUN_BLOCK_BYTES || writer->n == MAX_BLOCK_BUCKETS)
		flush(writer, writer->n);
}

void
run_writer_end(RunWriter *writer)
{
	if (writer->n > 0)
		flush(writer, writer->n);
	run_appender_end(writer->appender);
	pfree(writer->bytes.data);
	pfree(writer->block.data);
	pfree(writer);
}

/* ------------------------------------------------------------------ reading */

void
block_open(const GroupTable *table, Block *block, const RunBlock *stored)
{
	StringInfoData in;
	uint32 n;

	in.data = unconstify(char *, stored->data);
	in.len = in.maxlen = stored->len;
	in.cursor = 0;
	record_check_header(table, &in);
	bytes_read(&in, &n, sizeof(n));
	block->n = n;
	block->hashes = bytes_skip(&in, sizeof(uint64) * (Size) n);
	block->ends = bytes_skip(&in, sizeof(uint32) * (Size) n);
	block->bytes = in.data + in.cursor;
	block->len = in.len - in.cursor;
	if (n == 0 || n > MAX_BLOCK_BUCKETS || block_hash(block, n - 1) != stored->hash)
		record_damaged();
}

/* The first bucket with this hash or a greater one; block->n if there is none. */
int
block_find(const Block *block, uint64 hash)
{
	int low = 0;
	int high = block->n;

	while (low < high)
	{
		int middle = (low + high) / 2;

		if (block_hash(block, middle) < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The bytes of a bucket. */
void
block_bucket(const Block *block, int i, StringInfo in)
{
	uint32 from = i == 0 ? 0 : block_end(block, i - 1);
	uint32 to = block_end(block, i);

	if (from > to || to > block->len)
		record_damaged();
	in->data = unconstify(char *, block->bytes) + from;
	in->len = in->maxlen = to - from;
	in->cursor = 0;
}

/* A bucket into a window; returns the number of its groups. */
static int
read_bucket(GroupTable *table, Window *window, const Block *block, int i, uint8 flags)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);
	StringInfoData in;
	int n;

	block_bucket(block, i, &in);
	n = bucket_read(table, window, block_hash(block, i), &in, flags);
	MemoryContextSwitchTo(old);
	MemoryContextReset(table->temp);
	return n;
}

/* ------------------------------------------------------------------ looking for groups */

static inline bool
run_may_have(const Run *run, uint64 hash)
{
	return hash >= run->from && !run_filter_lacks(run, hash);
}

bool
runs_may_have(const Window *window, uint64 hash)
{
	for (int i = 0; i < window->nruns; i++)
		if (run_may_have(window->runs[i], hash))
			return true;
	return false;
}

/* What that will look at, into the processor's cache. */
void
runs_prefetch(const Window *window, uint64 hash)
{
	for (int i = 0; i < window->nruns; i++)
		if (window->runs[i]->filter != NULL)
			__builtin_prefetch(run_filter_line(window->runs[i], hash));
}

/* A run whose filter has not learnt all of it; there is one. */
static Run *
find_unlearnt(GroupTable *table)
{
	for (int w = 0;; w++)
		for (int i = 0; i < table->windows[w]->nruns; i++)
			if (!table->windows[w]->runs[i]->learnt)
				return table->windows[w]->runs[i];
}

/* Tell a filter of some groups that it doesn't know, for there is always something else to do. */
void
runs_learn(GroupTable *table)
{
	Run *run;
	RunReader *reader;
	RunBlock stored;
	bool more = true;

	if (table->nunlearnt == 0)
		return;
	run = find_unlearnt(table);
	if (run->filter == NULL)
	{
		/* it counts among those in all runs already */
		table->in_runs -= run->groups;
		run_filter_create(table, run, run->groups);
		table->in_runs += run->groups;
	}
	reader = run_reader_begin(table->query, table->pipeline, false);
	run_reader_seek(reader, run->id, Max(run->from, run->learnt_to), PG_UINT64_MAX);
	for (int i = 0; i < LEARN_BLOCKS && run->filter != NULL; i++)
	{
		Block block;

		more = run_reader_next(reader, &stored);
		if (!more)
			break;
		block_open(table, &block, &stored);
		for (int k = 0; k < block.n; k++)
			run_filter_add(run, block_hash(&block, k));
		run->learnt_to = stored.hash;
	}
	run_reader_end(reader);
	if (!more || run->filter == NULL)
		set_learnt(table, run);
}

/* Where a bucket that is wanted was found. */
typedef struct Fetch
{
	GroupTable *table;
	Window *window;
	const Wanted *wanted;
	int64 nwanted;
	bool *found;
	RunReader *reader;
} Fetch;

/* The block of a run that has a hash, if any has; false if there is none. */
static bool
find_block(RunReader *reader, const Run *run, uint64 hash, RunBlock *block)
{
	/* blocks are about evenly spread over the hashes: so many groups further on there is one, and there are not many */
	uint64 distance = (PG_UINT64_MAX - run->from) / Max(run->groups, 1);
	uint64 near = distance > (PG_UINT64_MAX - hash) / NEAR_GROUPS ? PG_UINT64_MAX
																  : hash + distance * NEAR_GROUPS;

	run_reader_seek(reader, run->id, hash, near);
	if (run_reader_next(reader, block))
		return true;
	run_reader_seek(reader, run->id, near, PG_UINT64_MAX);
	return run_reader_next(reader, block);
}

/* Fetch what a run has of those that no newer one has. */
static void
fetch_from(Fetch *fetch, const Run *run)
{
	bool have = false; /* a block, from which on there may be more */
	RunBlock stored;
	Block block;

	for (int64 k = 0; k < fetch->nwanted; k++)
	{
		uint64 hash = fetch->wanted[k].hash;
		int i;

		if (fetch->found[k] || !run_may_have(run, hash))
			continue;
		if (!have || hash > stored.hash)
		{
			have = find_block(fetch->reader, run, hash, &stored);
			if (!have)
				return;
			block_open(fetch->table, &block, &stored);
		}
		i = block_find(&block, hash);
		if (block_hash(&block, i) != hash)
			continue;
		count_stored(fetch->table, fetch->window,
					 -read_bucket(fetch->table, fetch->window, &block, i, 0));
		fetch->found[k] = true;
	}
}

/* The groups of a bucket that was fetched are to stand in the log. */
static void
mark_unsaved(const Window *window, uint64 hash)
{
	for (uint64 i = hash & window->mask; window->slots[i].entry != NULL; i = (i + 1) & window->mask)
		if (window->slots[i].hash == hash &&
			(window->slots[i].entry->group.flags & ENTRY_GONE) == 0)
			entry_unsaved(window->slots[i].entry);
}

/* Bring buckets into memory that are not there; "wanted" is sorted and holds each once. */
void
runs_fetch(GroupTable *table, const Wanted *wanted, int64 nwanted)
{
	Fetch fetch = {table};

	fetch.reader = run_reader_begin(table->query, table->pipeline, false);
	fetch.found = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(bool) * nwanted);
	for (int64 done = 0; done < nwanted; done += fetch.nwanted)
	{
		fetch.wanted = wanted + done;
		fetch.nwanted = 0;
		while (done + fetch.nwanted < nwanted &&
			   fetch.wanted[fetch.nwanted].window == fetch.wanted->window)
			fetch.found[fetch.nwanted++] = false;
		fetch.window = window_find(table, fetch.wanted->window);
		for (int i = 0; i < fetch.window->nruns; i++)
			fetch_from(&fetch, fetch.window->runs[i]);
		VELO_INJECTION_POINT("in-fetch");
		for (int64 k = 0; k < fetch.nwanted; k++)
			if (fetch.found[k])
				mark_unsaved(fetch.window, fetch.wanted[k].hash);
	}
	run_reader_end(fetch.reader);
	pfree(fetch.found);
}

/* ------------------------------------------------------------------ leaving */

/* The buckets of a window's next slice, which ends at hash "to", into window->taken, but for those that memory has. */
void
runs_take_slice(GroupTable *table, Window *window, uint64 to)
{
	RunReader *reader = run_reader_begin(table->query, table->pipeline, false);

	/* the newest first: what is there is not taken again */
	for (int r = 0; r < window->nruns; r++)
	{
		uint64 from = Max(window->slice_from, window->runs[r]->from);
		bool is_over = from > to;
		RunBlock stored;

		run_reader_seek(reader, window->runs[r]->id, from, PG_UINT64_MAX);
		while (!is_over && run_reader_next(reader, &stored))
		{
			Block block;

			block_open(table, &block, &stored);
			for (int i = block_find(&block, from); i < block.n && block_hash(&block, i) <= to; i++)
				if (!in_memory(window, block_hash(&block, i), false) &&
					!in_memory(window->taken, block_hash(&block, i), false))
					(void) read_bucket(table, window->taken, &block, i, ENTRY_UNSAVED);
			is_over = stored.hash >= to;
		}
	}
	run_reader_end(reader);
}

/* Consume all runs up to the end of a window's next slice. */
void
runs_delete_slice(GroupTable *table, Window *window, uint64 to)
{
	RunReader *reader = run_reader_begin(table->query, table->pipeline, true);

	runs_stop_merge(table, window);
	for (int i = window->nruns - 1; i >= 0; i--)
	{
		Run *run = window->runs[i];
		RunBlock stored;

		if (run->from > to)
			continue;
		run_reader_seek(reader, run->id, run->from, to);
		while (run_reader_next(reader, &stored))
		{
			run_reader_delete(reader);
			run->bytes -= stored.len + VARHDRSZ;
		}
		if (to == PG_UINT64_MAX)
			run_remove(table, window, run);
		else
			run->from = to + 1;
	}
	run_reader_end(reader);
}
