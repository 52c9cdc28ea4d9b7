/*
 * run_merge.c
 *		Few runs of many.
 *
 * Each run more is one more to look into for a group that memory doesn't have, and what a newer run has, or memory, lies
 * uselessly in an older one.  So runs that are neighbours in age are merged into one that takes their place: when at
 * least MERGE_WIDTH of them are such that none is much larger than all newer of them together; then the number of runs grows
 * with the logarithm of the number of groups, and so does how often each is written.  Also when most of what a window's
 * runs have is of no use.
 *
 * A merge proceeds with the checkpoints, each does a bounded amount of it, in proportion to what it has appended to the
 * log.  The new run stands right before those that it is made of, so at any time all are runs like any other; when a merge
 * is cut short, nothing is lost but that somebody has to choose anew.
 */
#include "state/run_block.h"

#define MERGE_WIDTH 4
/* all in bytes: smaller runs count as if they were as large */
#define SMALL_RUN (64 * 1024)
/* what is of no use and not worth the trouble */
#define USELESS_SLACK (1024 * 1024)
/* what one checkpoint reads of runs at least, and what beginning to costs */
#define MERGE_BYTES (256 * 1024)
#define BEGIN_BYTES (16 * 1024)
/* how many buckets ahead is looked whether memory has them */
#define PREFETCH 8

struct RunMerge
{
	Window *window;
	Run *output;
	int ninputs; /* the runs right behind it */
};

/* One of the runs that are merged. */
typedef struct Input
{
	Run *run;
	RunReader *reader;
	bool ended;
	Block block;
	Size bytes;      /* of the block */
	uint64 greatest; /* in it */
	int next;        /* bucket of the block */
} Input;

/* ------------------------------------------------------------------ what to merge */

/* Is most of what a window's runs have of no use? */
static bool
is_mostly_useless(const Window *window)
{
	int64 groups = 0;
	int64 bytes = 0;

	for (int i = 0; i < window->nruns; i++)
	{
		groups += window->runs[i]->groups;
		bytes += window->runs[i]->bytes;
	}
	/* memory and newer runs have the others */
	return groups > 2 * window->nstored &&
		   bytes * ((double) (groups - window->nstored) / groups) > USELESS_SLACK;
}

/* The runs [*first, *first + n) of a window are worth merging; returns n, 0 if none are. */
static int
choose_runs(const Window *window, int *first)
{
	*first = 0;
	if (is_mostly_useless(window))
		return window->nruns;
	for (; *first + MERGE_WIDTH <= window->nruns; (*first)++)
	{
		int64 newer = 0;
		int n = 0;

		while (*first + n < window->nruns)
		{
			int64 bytes = Max(window->runs[*first + n]->bytes, SMALL_RUN);

			if (n > 0 && bytes > newer + newer / 4)
				break;
			newer += bytes;
			n++;
		}
		if (n >= MERGE_WIDTH)
			return n;
	}
	return 0;
}

/* Begin to merge what is worth it; returns false if nothing is. */
static bool
begin_merge(GroupTable *table)
{
	for (int i = 0; i < table->nwindows; i++)
	{
		Window *window = table->windows[i];
		int64 groups = 0;
		int first;
		int n;

		/* not what is about to leave */
		if (window->nruns == 0 || window->slice_from > 0)
			continue;
		n = choose_runs(window, &first);
		if (n == 0)
			continue;
		for (int k = first; k < first + n; k++)
			groups += window->runs[k]->groups;
		table->merge = MemoryContextAlloc(table->context, sizeof(RunMerge));
		table->merge->window = window;
		table->merge->ninputs = n;
		table->merge->output = run_add(table, window, first, table->next_run);
		run_filter_create(table, table->merge->output, groups);
		VELO_INJECTION_POINT("before-merge");
		return true;
	}
	return false;
}

/* If runs of this window are being merged, they are no longer. */
void
runs_stop_merge(GroupTable *table, const Window *window)
{
	if (table->merge == NULL || table->merge->window != window)
		return;
	pfree(table->merge);
	table->merge = NULL;
	table->may_merge = true;
}

/* ------------------------------------------------------------------ merging */

/* The next block of an input; false if there is none. */
static bool
next_block(GroupTable *table, Input *input, uint64 from)
{
	RunBlock stored;

	input->ended = !run_reader_next(input->reader, &stored);
	if (input->ended)
		return false;
	block_open(table, &input->block, &stored);
	input->bytes = stored.len + VARHDRSZ;
	input->greatest = stored.hash;
	input->next = block_find(&input->block, from);
	return true;
}

static Input *
open_inputs(GroupTable *table, const RunMerge *merge)
{
	Input *inputs = palloc(sizeof(Input) * merge->ninputs);
	int at = 0;

	while (merge->window->runs[at] != merge->output)
		at++;
	for (int i = 0; i < merge->ninputs; i++)
	{
		Input *input = &inputs[i];

		input->run = merge->window->runs[at + 1 + i];
		input->reader = run_reader_begin(table->query, table->pipeline, true);
		run_reader_seek(input->reader, input->run->id, input->run->from, PG_UINT64_MAX);
		(void) next_block(table, input, input->run->from);
	}
	return inputs;
}

/* The input that has the least hash, the newest of them; NULL if all have ended. */
static Input *
least_input(Input *inputs, int ninputs)
{
	Input *least = NULL;
	uint64 least_hash = 0;

	for (int i = 0; i < ninputs; i++)
	{
		uint64 hash;

		if (inputs[i].ended)
			continue;
		hash = block_hash(&inputs[i].block, inputs[i].next);
		if (least == NULL || hash < least_hash)
		{
			least = &inputs[i];
			least_hash = hash;
		}
	}
	return least;
}

/* Consume what the inputs have with this hash; returns the bytes of blocks that are deleted. */
static Size
consume(GroupTable *table, Input *inputs, int ninputs, uint64 hash)
{
	Size bytes = 0;

	for (int i = 0; i < ninputs; i++)
	{
		Input *input = &inputs[i];

		if (input->ended || block_hash(&input->block, input->next) != hash)
			continue;
		input->run->groups--;
		table->in_runs--;
		if (hash < input->greatest)
		{
			input->next++;
			continue;
		}
		bytes += input->bytes;
		input->run->bytes -= input->bytes;
		run_reader_delete(input->reader);
		(void) next_block(table, input, 0);
	}
	return bytes;
}

/* Copy the bytes of the bucket that an input has next, unless memory has it. */
static void
copy_bucket(const RunMerge *merge, const Input *input, RunWriter *writer, uint64 hash)
{
	StringInfoData in;

	if (input->next + PREFETCH < input->block.n)
		slot_prefetch(merge->window, block_hash(&input->block, input->next + PREFETCH));
	if (in_memory(merge->window, hash, false))
		return;
	block_bucket(&input->block, input->next, &in);
	appendBinaryStringInfo(run_writer_bytes(writer), in.data, in.len);
	run_writer_add(writer, hash);
}

/* Go on until about so many bytes have been read; returns how many.  The merge is over when the inputs have ended. */
static Size
merge_piece(GroupTable *table, Size budget)
{
	RunMerge *merge = table->merge;
	RunWriter *writer = run_writer_begin(table, merge->output);
	Input *inputs = open_inputs(table, merge);
	Size bytes = 0;
	uint64 hash = 0;
	Input *least;

	while ((least = least_input(inputs, merge->ninputs)) != NULL && bytes < budget)
	{
		hash = block_hash(&least->block, least->next);
		copy_bucket(merge, least, writer, hash);
		bytes += consume(table, inputs, merge->ninputs, hash);
	}
	for (int i = 0; i < merge->ninputs; i++)
	{
		run_reader_end(inputs[i].reader);
		if (least == NULL)
			run_remove(table, merge->window, inputs[i].run);
		else
			inputs[i].run->from = hash + 1;
	}
	run_writer_end(writer);
	VELO_INJECTION_POINT("in-merge");
	merge->window->stored_changed = true;
	if (least == NULL)
	{
		if (merge->output->groups == 0)
			run_remove(table, merge->window, merge->output);
		runs_stop_merge(table, merge->window);
	}
	pfree(inputs);
	VELO_INJECTION_POINT("after-merge");
	return bytes + BEGIN_BYTES;
}

/* At a checkpoint that has appended so much to the log: some of what there is to merge. */
void
runs_merge(GroupTable *table, Size appended)
{
	Size read = 0;

	while (table->merge != NULL || (table->may_merge && begin_merge(table)))
	{
		/* the more there are, the sooner they are to be fewer */
		Size budget = MERGE_BYTES + appended * table->merge->window->nruns;

		if (read >= budget)
			return;
		read += merge_piece(table, budget - read);
	}
	table->may_merge = false;
}
