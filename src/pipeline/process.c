/*
 * process.c
 *		One batch of a pipeline: decode, advance the watermarks, evaluate, apply.
 *
 * Decoding and evaluating touch no state.  Each runs under one subtransaction for the whole batch; when a record
 * throws, the subtransaction is rolled back, the record becomes a failure and the others go on, so that the price of a
 * bad record is one subtransaction, and that of none is one per batch.  Applying comes after.
 */
#include "pipeline/worker.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/*
 * After a record has thrown in apply, how many are applied so that each can be taken back.  Loading the groups anew is dear
 * (a second or two for a million of them); a million records take about ten times as long then.
 */
#define CAREFUL_RECORDS 1000000

/* A copy of "error" as a failure of a record of the current batch. */
void
fail_record(Pipeline *pipeline, const char *kind, int stream, int record, const ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(pipeline->round_context);
	Failure *failure = palloc0_object(Failure);

	failure->kind = kind;
	failure->stream = stream;
	failure->record = record;
	failure->sqlerrcode = error->sqlerrcode;
	failure->message = pstrdup(error->message ? error->message : "unknown error");
	failure->detail = error->detail ? pstrdup(error->detail) : NULL;
	pipeline->failures = lappend(pipeline->failures, failure);
	MemoryContextSwitchTo(old);
}

/*
 * Run "step" in a subtransaction.  Returns NULL, or what it threw, in round_context; what comes from outside rather
 * than from a record is thrown on.
 */
typedef void (*Step)(Pipeline *pipeline, void *arg);

typedef struct StepCall
{
	Step step;
	Pipeline *pipeline;
	void *arg;
} StepCall;

static void
call_step(void *arg)
{
	StepCall *call = arg;

	call->step(call->pipeline, call->arg);
}

static ErrorData *
try_step(Pipeline *pipeline, Step step, void *arg)
{
	StepCall call = {step, pipeline, arg};
	ErrorData *error;

	MemoryContextSwitchTo(pipeline->round_context);
	error = try_in_subtransaction(call_step, &call);
	if (error == NULL)
		return NULL;
	stream_scan_set_batches(NULL);
	if (!error_is_of_record(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* ---------------------------------------------------------------- decode */

typedef struct DecodeRange
{
	PipelineStream *stream;
	int from;
	int to;
	int position;
} DecodeRange;

static void
decode_step(Pipeline *pipeline, void *arg)
{
	DecodeRange *range = arg;

	decoder_decode(range->stream->decoder, range->stream->batch, range->from, range->to,
				   &range->position);
}

static void
decode(Pipeline *pipeline, PipelineStream *stream)
{
	RecordBatch *batch = stream->batch;
	DecodeRange range = {stream, 0, batch->nrecords, 0};

	while (range.from < range.to)
	{
		ErrorData *error = try_step(pipeline, decode_step, &range);

		if (error == NULL)
			break;
		record_batch_set_error(batch, range.position, error->sqlerrcode, error->message,
							   error->detail);
		range.from = range.position + 1;
	}
}

/* ---------------------------------------------------------------- watermarks */

/*
 * Give each record its own partition's watermark before it, and move that on: the greatest event time of the
 * partition's decoded records, in offset order, less the delay.
 */
static void
advance_stream_watermarks(PipelineStream *stream)
{
	RecordBatch *batch = stream->batch;
	const Datum *times = batch->values[stream->info->event_time - 1];
	int64 delay = stream->info->watermark;

	for (int i = 0; i < stream->npartitions; i++)
		stream->partitions[i].watermark = stream->partitions[i].round_watermark;
	for (int i = 0; i < batch->nrecords; i++)
	{
		PipelinePartition *partition = &stream->partitions[batch->records[i].partition];
		TimestampTz time;

		batch->watermark[i] = partition->watermark;
		if (batch->status[i] != RECORD_OK)
			continue;
		/* a watermark is a timestamp, too: before the first one there is none, which closes no window either */
		time = DatumGetTimestampTz(times[i]);
		if (time >= MIN_TIMESTAMP + delay && time - delay > partition->watermark)
			partition->watermark = time - delay;
	}
}

static void
advance_watermarks(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
		if (pipeline->streams[s].info->event_time != 0)
			advance_stream_watermarks(&pipeline->streams[s]);
}

/* ---------------------------------------------------------------- evaluate */

static void
evaluate_step(Pipeline *pipeline, void *arg)
{
	BatchSet *set = arg;

	set->current_stream = -1;
	input_plan_run(pipeline->input, set, false, pipeline->rows);
	VELO_INJECTION_POINT("in-evaluate-by-row");
}

static void
evaluate_vectorized_step(Pipeline *pipeline, void *arg)
{
	input_plan_run(pipeline->input, arg, true, pipeline->rows);
	VELO_INJECTION_POINT("in-evaluate-by-column");
}

/* A column at a time; false if that can't be done, or something threw: then it isn't known what, and nothing is done. */
static bool
evaluate_vectorized(Pipeline *pipeline, BatchSet *set)
{
	if (!velo_vectorized || !input_plan_can_vectorize(pipeline->input))
		return false;
	if (try_step(pipeline, evaluate_vectorized_step, set) == NULL)
		return true;
	pipeline->rows->nrows = 0;
	return false;
}

static void evaluate(Pipeline *pipeline, BatchSet *set);

/* The plan does not tell which record failed: halve until it stands alone. */
static void
evaluate_halves(Pipeline *pipeline, BatchSet *set, ErrorData *error)
{
	int widest = 0;
	int records = 0;
	BatchSet half = *set;
	size_t size = sizeof(int) * set->nstreams;

	for (int s = 0; s < set->nstreams; s++)
	{
		int n = set->to[s] - set->from[s];

		records += n;
		if (n > set->to[widest] - set->from[widest])
			widest = s;
	}
	if (records <= 1)
	{
		fail_record(pipeline, "evaluate", widest, set->from[widest], error);
		return;
	}

	half.from = palloc(size);
	half.to = palloc(size);
	memcpy(half.from, set->from, size);
	memcpy(half.to, set->to, size);
	if (set->to[widest] - set->from[widest] > 1)
		half.to[widest] = (set->from[widest] + set->to[widest]) / 2;
	else
	{
		/* one record each of several streams */
		memcpy(half.to, set->from, size);
		half.to[widest] = set->to[widest];
	}
	evaluate(pipeline, &half);
	if (set->to[widest] - set->from[widest] > 1)
	{
		/* the other streams' records went with the first half */
		int middle = (set->from[widest] + set->to[widest]) / 2;

		memcpy(half.from, set->to, size);
		memcpy(half.to, set->to, size);
		half.from[widest] = middle;
	}
	else
	{
		memcpy(half.from, set->from, size);
		memcpy(half.to, set->to, size);
		half.from[widest] = set->to[widest];
	}
	evaluate(pipeline, &half);
}

static void
evaluate(Pipeline *pipeline, BatchSet *set)
{
	InputRows *rows = pipeline->rows;

	for (;;)
	{
		int start = rows->nrows;
		ErrorData *error = try_step(pipeline, evaluate_step, set);

		if (error == NULL)
			return;
		if (!input_plan_in_order(pipeline->input) || set->current_stream < 0)
		{
			rows->nrows = start;
			evaluate_halves(pipeline, set, error);
			return;
		}
		/* the rows of all records before the culprit are there: go on behind it */
		fail_record(pipeline, "evaluate", set->current_stream, set->current_record, error);
		set->from[set->current_stream] = set->current_record + 1;
	}
}

/* ---------------------------------------------------------------- failures */

/* Forget the rows of records that are no good any more, or were cut off. */
void
keep_good_rows(Pipeline *pipeline)
{
	InputRows *rows = pipeline->rows;
	int n = 0;

	for (int i = 0; i < rows->nrows; i++)
	{
		const RecordBatch *batch = pipeline->streams[rows->stream[i]].batch;

		if (rows->record[i] >= batch->nrecords || batch->status[rows->record[i]] != RECORD_OK)
			continue;
		for (int a = 0; a < rows->natts; a++)
		{
			rows->values[a][n] = rows->values[a][i];
			rows->nulls[a][n] = rows->nulls[a][i];
		}
		rows->record[n] = rows->record[i];
		rows->stream[n] = rows->stream[i];
		rows->time[n] = rows->time[i];
		rows->watermark[n] = rows->watermark[i];
		rows->late[n] = rows->late[i];
		rows->created[n] = rows->created[i];
		n++;
	}
	rows->nrows = n;
}

static void
fill_dead_letter(Pipeline *pipeline, DeadLetter *letter, const Failure *failure)
{
	PipelineStream *stream = &pipeline->streams[failure->stream];
	RecordBatch *batch = stream->batch;
	const Record *record = &batch->records[failure->record];

	letter->kind = failure->kind;
	letter->stream = stream->info->relid;
	letter->partition = stream->partitions[record->partition].committed.partition;
	letter->offset = record->offset;
	letter->timestamp = record->timestamp;
	letter->key = record->key;
	letter->key_len = record->key_len;
	letter->value = record->value;
	letter->value_len = record->value_len;
	letter->headers = batch->headers != NULL ? batch->headers(record) : NULL;
	letter->sqlerrcode = failure->sqlerrcode;
	letter->message = failure->message;
	letter->detail = failure->detail;
}

static void
save_letters(Pipeline *pipeline, List *failures)
{
	DeadLetter *letters;
	int n = 0;
	ListCell *lc;

	if (failures == NIL)
		return;
	VELO_INJECTION_POINT("before-dead-letter");
	letters = palloc0_array(DeadLetter, list_length(failures));
	foreach (lc, failures)
		fill_dead_letter(pipeline, &letters[n++], lfirst(lc));
	dead_letter_add(pipeline->query, letters, n);
	VELO_INJECTION_POINT("after-dead-letter");
}

/* Settle the failures of the current batch as on_error says ('fail' was settled before). */
static void
save_failures(Pipeline *pipeline)
{
	if (pipeline->query->on_error == ON_ERROR_DEAD_LETTER)
	{
		pipeline->counters.dead_letters += list_length(pipeline->failures);
		save_letters(pipeline, pipeline->failures);
	}
	else
		pipeline->counters.skipped += list_length(pipeline->failures);
	pipeline->failures = NIL;
}

/* What the decoder found wrong joins the failures. */
static void
collect_decode_failures(Pipeline *pipeline)
{
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		ListCell *lc;

		foreach (lc, pipeline->streams[s].batch->errors)
		{
			RecordError *bad = lfirst(lc);
			ErrorData error = {
				.sqlerrcode = bad->sqlerrcode, .message = bad->message, .detail = bad->detail};

			fail_record(pipeline, "decode", s, bad->record, &error);
		}
	}
}

/* on_error => 'fail': remember why the query ends when this transaction has committed. */
static void
set_failed(Pipeline *pipeline, const Failure *failure)
{
	PipelineStream *stream = &pipeline->streams[failure->stream];
	const Record *record = &stream->batch->records[failure->record];
	MemoryContext old = MemoryContextSwitchTo(pipeline->context);
	ErrorData *error = palloc0_object(ErrorData);

	error->elevel = ERROR;
	error->sqlerrcode = failure->sqlerrcode;
	error->message =
		psprintf("record %s/%d/" INT64_FORMAT " could not be processed: %s", stream->info->topic,
				 stream->partitions[record->partition].committed.partition, record->offset,
				 failure->message);
	error->detail = failure->detail ? pstrdup(failure->detail) : NULL;
	error->hint = pstrdup("To go on past it, set on_error to 'skip' or 'dead_letter' with "
						  "velo.alter_query() and call velo.restart_query().");
	pipeline->failed = error;
	MemoryContextSwitchTo(old);
}

/*
 * on_error => 'fail': cut each batch before its first failing record, so that what precedes it is committed and nothing
 * after it.  Returns true if anything was cut.
 */
bool
cut_at_failures(Pipeline *pipeline)
{
	bool cut = false;
	ListCell *lc;

	foreach (lc, pipeline->failures)
	{
		Failure *failure = lfirst(lc);
		RecordBatch *batch = pipeline->streams[failure->stream].batch;

		if (failure->record >= batch->nrecords)
			continue;
		set_failed(pipeline, failure);
		batch->nrecords = failure->record;
		cut = true;
	}
	pipeline->failures = NIL;
	return cut;
}

/* ---------------------------------------------------------------- late records */

/*
 * A record is late if it had rows and all of them were: counted once, whatever number of windows it missed.
 */
static void
settle_late(Pipeline *pipeline)
{
	InputRows *rows = pipeline->rows;
	List *letters = NIL;
	int *order;
	int nlate = 0;

	for (int i = 0; i < rows->nrows; i++)
		nlate += rows->late[i];
	if (nlate == 0)
		return;

	/* rows of one record stand together unless a join has mixed them: sort by record */
	order = input_rows_order(rows);
	for (int i = 0; i < rows->nrows;)
	{
		int j = i;
		bool late = true;

		for (; j < rows->nrows && input_rows_same_record(rows, order[i], order[j]); j++)
			late &= rows->late[order[j]];
		if (late)
		{
			Failure *failure = palloc0_object(Failure);

			pipeline->counters.late++;
			failure->kind = "late";
			failure->stream = rows->stream[order[i]];
			failure->record = rows->record[order[i]];
			failure->message = psprintf("record is late: watermark of its partition was %s",
										timestamptz_to_str(rows->watermark[order[i]]));
			letters = lappend(letters, failure);
		}
		i = j;
	}
	if (pipeline->query->keep_late)
	{
		pipeline->counters.dead_letters += list_length(letters);
		save_letters(pipeline, letters);
	}
}

/* ---------------------------------------------------------------- offsets */

/* Count the batch's records and move the offsets behind them. */
static void
settle_offsets(Pipeline *pipeline)
{
	int records = 0;

	for (int s = 0; s < pipeline->nstreams; s++)
	{
		PipelineStream *stream = &pipeline->streams[s];
		RecordBatch *batch = stream->batch;

		for (int i = 0; i < batch->nrecords; i++)
		{
			PipelinePartition *partition = &stream->partitions[batch->records[i].partition];

			partition->next_offset = batch->records[i].offset + 1;
			pipeline->counters.tombstones += batch->status[i] == RECORD_TOMBSTONE;
		}
		records += batch->nrecords;
	}
	pipeline->counters.records_in += records;
	pipeline->careful = Max(0, pipeline->careful - records);
	pipeline->counters.batches++;
	record_stage(METRIC_BATCH_RECORDS, records);
}

static void
evaluate_all(Pipeline *pipeline)
{
	BatchSet *set = &pipeline->set;

	input_rows_reset(pipeline->rows);
	for (int s = 0; s < pipeline->nstreams; s++)
	{
		set->from[s] = 0;
		set->to[s] = pipeline->streams[s].batch->nrecords;
	}
	if (!evaluate_vectorized(pipeline, set))
		evaluate(pipeline, set);
	fail_bad_groups(pipeline);
}

/* ---------------------------------------------------------------- apply */

void
be_careful(Pipeline *pipeline)
{
	pipeline->careful =
		CAREFUL_RECORDS + pipeline->counters.records_in - pipeline->committed_counters.records_in;
}

static void
apply_step(Pipeline *pipeline, void *arg)
{
	group_table_apply(groups_to_apply(pipeline), pipeline->rows, *(int *) arg, pipeline->closed,
					  true);
}

/* Apply the rows, those of records that throw excepted.  Returns false if there are such. */
static bool
apply_carefully(Pipeline *pipeline, GroupTable *groups)
{
	InputRows *rows = pipeline->rows;
	bool all_good = true;
	int from = 0;

	while (from < rows->nrows)
	{
		ErrorData *error = try_step(pipeline, apply_step, &from);
		int stream;
		int record;

		if (error == NULL)
			break;
		/* not of a row after all */
		if (rows->applied < 0)
			ReThrowError(error);
		stream = rows->stream[rows->applied];
		record = rows->record[rows->applied];
		from = group_table_undo(groups, rows);
		fail_record(pipeline, "apply", stream, record, error);
		pipeline->streams[stream].batch->status[record] = RECORD_BAD;
		all_good = false;
		if (pipeline->query->on_error == ON_ERROR_FAIL)
			while (from < rows->nrows && rows->stream[from] == stream)
				from++;
	}
	return all_good;
}

/*
 * The evaluated rows into the groups.  That can hardly fail, so at first nothing is prepared for it: what throws here, or
 * when partial groups are folded, aborts the transaction, and all of its records are read again (see worker.c).  But then,
 * and for as long as it takes to make that worth its price, records are applied so that each can be taken back; those of
 * a merged query to the shared groups, for what a record does to partial ones says nothing yet.
 */
static void
apply(Pipeline *pipeline, GroupTable *groups)
{
	InputRows *rows = pipeline->rows;

	if (pipeline->careful == 0)
	{
		group_table_prepare(groups, rows, pipeline->closed);
		group_table_apply(groups, rows, 0, pipeline->closed, false);
		return;
	}
	input_rows_sort(rows);
	group_table_prepare(groups, rows, pipeline->closed);
	if (apply_carefully(pipeline, groups))
		return;
	be_careful(pipeline);
	/* what was applied of the stream that failed precedes the record */
	if (pipeline->query->on_error == ON_ERROR_FAIL && cut_at_failures(pipeline))
		advance_watermarks(pipeline);
	keep_good_rows(pipeline);
}

/* ---------------------------------------------------------------- the batch */

/*
 * Process what the streams' batches hold, within the running transaction.  Afterwards the groups (or, ungrouped, the
 * sink) have it, the partitions' pending offsets and watermarks are behind it, and bad and late records are settled.
 */
void
process_round(Pipeline *pipeline)
{
	GroupTable *groups = groups_to_apply(pipeline);
	bool fail = pipeline->query->on_error == ON_ERROR_FAIL;
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz decoded;
	TimestampTz evaluated;

	MemoryContextSwitchTo(pipeline->round_context);
	pipeline->failures = NIL;
	pipeline->stage = STAGE_EVALUATE;
	for (int s = 0; s < pipeline->nstreams; s++)
		for (int i = 0; i < pipeline->streams[s].npartitions; i++)
			pipeline->streams[s].partitions[i].round_watermark =
				pipeline->streams[s].partitions[i].watermark;
	VELO_INJECTION_POINT("before-decode");
	for (int s = 0; s < pipeline->nstreams; s++)
		decode(pipeline, &pipeline->streams[s]);
	VELO_INJECTION_POINT("after-decode");
	collect_decode_failures(pipeline);
	if (fail)
		(void) cut_at_failures(pipeline);
	advance_watermarks(pipeline);
	decoded = GetCurrentTimestamp();
	evaluate_all(pipeline);
	if (fail && cut_at_failures(pipeline))
	{
		/* once more without what comes after the bad record */
		advance_watermarks(pipeline);
		evaluate_all(pipeline);
	}

	if (groups == pipeline->groups)
		enter_shared_groups(pipeline);
	pipeline->stage = STAGE_APPLY;
	if (groups != NULL)
	{
		VELO_INJECTION_POINT("before-apply");
		apply(pipeline, groups);
		VELO_INJECTION_POINT("after-apply");
		pipeline->stage = STAGE_CLAIM;
		if (pipeline->stream_keys != NULL)
		{
			stream_keys_check(pipeline);
			VELO_INJECTION_POINT("after-claim");
		}
		pipeline->stage = STAGE_NONE;
		if (pipeline->query->windowed)
			settle_late(pipeline);
		evaluated = GetCurrentTimestamp();
	}
	else
	{
		pipeline->stage = STAGE_WRITE;
		evaluated = GetCurrentTimestamp();
		emit_appended(pipeline);
		record_stage(METRIC_WRITE, GetCurrentTimestamp() - evaluated);
	}
	record_stage(METRIC_DECODE, decoded - start);
	record_stage(METRIC_EVAL, evaluated - decoded);
	save_failures(pipeline);
	settle_offsets(pipeline);
	pipeline->stage = STAGE_NONE;
}
