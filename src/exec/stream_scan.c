/*
 * stream_scan.c
 *		The scan of a stream: ad hoc, over what a topic holds; or continuous, over a batch that a pipeline holds.
 *
 * Both hand out the rows of a RecordBatch.  The continuous scan finds it ready (stream_scan_set_batches) and never
 * sees a source.  The ad-hoc scan opens one, fills and decodes the batch itself, as often as there is more, and ends at
 * the end offsets seen when it began.
 */
#include "stream_scan.h"

#include "access/xact.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

/* the first batch is small, for LIMIT; each further one is twice as large */
#define FIRST_BATCH 128
/* look at the state of the connection at least that often */
#define WAIT_MS 1000
/* how long EXPLAIN waits for a broker to tell the number of partitions */
#define EXPLAIN_TIMEOUT_MS 1000

/* What an ad-hoc scan keeps beside the batch. */
typedef struct AdHocScan
{
	MemoryContext context; /* lives as long as the scan */
	StreamInfo *stream;
	List *bounds;
	List *bound_exprs; /* of ExprState */
	Bitmapset *wanted;
	bool started; /* the partitions to read are known */
	int npartitions;
	PartitionRange *topic;    /* [npartitions], what the topic held when the scan began */
	Source *source;           /* NULL: not open, or nothing to read */
	int nassigned;            /* partitions to read */
	PartitionRange *assigned; /* [nassigned], in the source's order */
	Decoder *decoder;
	int batch_limit; /* records of the next batch */
	int next_error;  /* index in batch->errors */
	int64 read;      /* records, bytes and the like: for EXPLAIN ANALYZE, over all rescans */
	int64 bytes;
	int64 bad;
	int64 tombstones;
} AdHocScan;

typedef struct StreamScan
{
	RecordBatch *batch;
	int next; /* records [next, to) are still to be handed out */
	int to;
	int ncolumns;
	int *columns;  /* [ncolumns], columns to deliver: attribute number - 1 */
	BatchSet *set; /* continuous: where the batch is from; NULL: ad hoc */
	int index;     /* in the set */
	AdHocScan *ad_hoc;
} StreamScan;

static BatchSet *batch_set = NULL;

void
stream_scan_set_batches(BatchSet *set)
{
	batch_set = set;
}

StreamInfo *
stream_get_connectable(Oid relid, Oid userid)
{
	StreamInfo *stream = stream_get_as(relid, OidIsValid(userid) ? userid : GetUserId());

	if (stream->brokers == NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
						errmsg("stream \"%s\" has no brokers to connect to", stream->name),
						errhint("Set option \"brokers\" of the stream or of its server.")));
	return stream;
}

/* ------------------------------------------------------------------ continuous */

static void
continuous_begin(StreamScan *scan, Oid relid)
{
	BatchSet *set = batch_set;

	if (set == NULL)
		elog(ERROR, "continuous scan of a stream outside of a pipeline");
	while (scan->index < set->nstreams && set->relids[scan->index] != relid)
		scan->index++;
	if (scan->index == set->nstreams)
		elog(ERROR, "no batch for stream %u", relid);
	scan->set = set;
	scan->batch = set->batches[scan->index];
	scan->next = set->from[scan->index];
	scan->to = set->to[scan->index];
	for (int i = 0; i < scan->ncolumns; i++)
		if (scan->batch->values[scan->columns[i]] == NULL)
			elog(ERROR, "column %d of stream %u was not decoded", scan->columns[i] + 1, relid);
}

/* ------------------------------------------------------------------ ad hoc */

static void
ad_hoc_begin(ForeignScanState *node, StreamScan *scan)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	AdHocScan *ad_hoc = palloc0(sizeof(AdHocScan));

	ad_hoc->context = CurrentMemoryContext;
	ad_hoc->stream = stream_get_connectable(RelationGetRelid(node->ss.ss_currentRelation),
											compat_scan_user(node));
	ad_hoc->bounds = list_nth(plan->fdw_private, SCAN_PRIVATE_BOUNDS);
	ad_hoc->bound_exprs = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	for (int i = 0; i < scan->ncolumns; i++)
		ad_hoc->wanted = bms_add_member(ad_hoc->wanted, scan->columns[i] + 1);
	ad_hoc->decoder = decoder_create(ad_hoc->stream, ad_hoc->wanted);
	ad_hoc->batch_limit = FIRST_BATCH;
	scan->ad_hoc = ad_hoc;

	/* the decoder checks the event time of every record */
	if (ad_hoc->stream->event_time != 0)
		ad_hoc->wanted = bms_add_member(ad_hoc->wanted, ad_hoc->stream->event_time);
	scan->batch = record_batch_create(ad_hoc->context, Max(velo_batch_size, FIRST_BATCH),
									  ad_hoc->stream->tupdesc->natts, ad_hoc->wanted);
	scan->batch->topic = ad_hoc->stream->topic;
}

/* Find out what there is to read and open a source for it. */
static void
ad_hoc_start(AdHocScan *scan, ExprContext *econtext)
{
	PartitionRange *ranges;
	SourcePartition *partitions;

	scan->nassigned = 0;
	scan->started = true;
	if (scan->topic == NULL)
	{
		SourceBounds *bounds = source_bounds(scan->stream, &scan->npartitions, BROKER_TIMEOUT_MS);

		scan->topic = palloc(sizeof(PartitionRange) * Max(scan->npartitions, 1));
		for (int p = 0; p < scan->npartitions; p++)
			scan->topic[p] = (PartitionRange){.from = bounds[p].low, .to = bounds[p].end};
		pfree(bounds);
	}

	ranges = palloc(sizeof(PartitionRange) * Max(scan->npartitions, 1));
	memcpy(ranges, scan->topic, sizeof(PartitionRange) * scan->npartitions);
	stream_bounds_apply(scan->stream, scan->bounds, scan->bound_exprs, econtext, ranges,
						scan->npartitions);

	partitions = palloc0(sizeof(SourcePartition) * Max(scan->npartitions, 1));
	for (int p = 0; p < scan->npartitions; p++)
		if (ranges[p].from < ranges[p].to)
		{
			partitions[scan->nassigned].partition = p;
			partitions[scan->nassigned].position = ranges[p].from;
			partitions[scan->nassigned].low = -1;
			partitions[scan->nassigned].end = -1;
			ranges[scan->nassigned++] = ranges[p];
		}
	scan->assigned = ranges;
	if (scan->nassigned > 0)
		scan->source = source_open(scan->stream, NULL, partitions, scan->nassigned,
								   velo_pipeline_memory / SOURCE_QUEUE_SHARE, NULL);
	pfree(partitions);
}

/* Is everything up to the end offsets handed out? */
static bool
ad_hoc_at_end(AdHocScan *scan)
{
	SourcePartition *partitions;
	int npartitions;

	if (scan->source == NULL)
		return true;
	partitions = source_partitions(scan->source, &npartitions);
	for (int i = 0; i < npartitions; i++)
		if (partitions[i].position < scan->assigned[i].to && !partitions[i].at_end)
			return false;
	return true;
}

/* ereport(ERROR) if the source can't go on, or has not reached a broker for too long. */
static void
ad_hoc_check_trouble(AdHocScan *scan, TimestampTz waiting_since)
{
	const char *message = NULL;
	SourceTrouble trouble = source_trouble(scan->source, &message);
	int sqlerrcode = ERRCODE_FDW_ERROR;

	switch (trouble)
	{
		case SOURCE_FINE:
			return;
		case SOURCE_UNREACHABLE:
			if (!TimestampDifferenceExceeds(waiting_since, GetCurrentTimestamp(),
											BROKER_TIMEOUT_MS))
				return;
			sqlerrcode = ERRCODE_CONNECTION_FAILURE;
			break;
		case SOURCE_NO_TOPIC:
			sqlerrcode = ERRCODE_UNDEFINED_OBJECT;
			break;
		case SOURCE_NOT_AUTHORIZED:
			sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
			break;
		case SOURCE_OUT_OF_RANGE: /* records were deleted while the scan was on its way to them */
		case SOURCE_OTHER_TOPIC:
		case SOURCE_FAILED:
			break;
	}
	ereport(ERROR, (errcode(sqlerrcode),
					errmsg("could not read topic \"%s\" of stream \"%s\"", scan->stream->topic,
						   scan->stream->name),
					message ? errdetail_internal("%s", message) : 0));
}

/* Wait until there may be something to poll, an interrupt, or a second has passed. */
static void
ad_hoc_wait(AdHocScan *scan)
{
	int events = WaitLatchOrSocket(
		MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
		source_wakeup_fd(scan->source), WAIT_MS, PG_WAIT_EXTENSION);

	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Take out the records that came after the scan had begun. */
static void
drop_newer_records(AdHocScan *scan, RecordBatch *batch)
{
	int kept = 0;

	for (int i = 0; i < batch->nrecords; i++)
	{
		Record *record = &batch->records[i];

		if (record->offset >= scan->assigned[record->partition].to)
			continue;
		scan->bytes += record->value_len + record->key_len;
		if (kept != i)
			batch->records[kept] = *record;
		kept++;
	}
	scan->read += kept;
	batch->nrecords = kept;
}

/* Name the record that an error is about; for the parentheses of ereport(), too. */
static int
record_error_context(AdHocScan *scan, RecordBatch *batch, int record)
{
	return errcontext("record at offset " INT64_FORMAT " of partition %d of topic \"%s\"",
					  batch->records[record].offset,
					  batch->partitions[batch->records[record].partition], scan->stream->topic);
}

typedef struct DecodeContext
{
	AdHocScan *scan;
	RecordBatch *batch;
	int position;
} DecodeContext;

static void
decode_error_callback(void *arg)
{
	DecodeContext *context = arg;

	if (context->position < context->batch->nrecords)
		record_error_context(context->scan, context->batch, context->position);
}

static void
decode_rest(void *arg)
{
	DecodeContext *context = arg;
	RecordBatch *batch = context->batch;

	decoder_decode(context->scan->decoder, batch, context->position, batch->nrecords,
				   &context->position);
	context->position = batch->nrecords;
}

/*
 * Decode from context->position on, to the end or up to and with a record for which a type's input function throws:
 * that one is marked bad and position set behind it.
 */
static void
decode_up_to_error(DecodeContext *context)
{
	RecordBatch *batch = context->batch;
	ErrorData *error = try_in_subtransaction(decode_rest, context);

	if (error == NULL)
		return;
	if (!error_is_of_record(error->sqlerrcode))
		ReThrowError(error);
	record_batch_set_error(batch, context->position, error->sqlerrcode, error->message,
						   error->detail);
	FreeErrorData(error);
	context->position++;
}

/*
 * Decode the batch.  Bad records only get their status and an entry in batch->errors, for it is not known yet whether
 * somebody wants to see them.  But while a query has parallel workers, PostgreSQL 15 and 16 can't start a
 * subtransaction; what an input function throws then ends the query, whatever on_error says.
 */
static void
decode_batch(AdHocScan *scan, RecordBatch *batch)
{
	DecodeContext context = {.scan = scan, .batch = batch};

	if (compat_can_start_subtransaction())
	{
		while (context.position < batch->nrecords)
			decode_up_to_error(&context);
	}
	else
	{
		ErrorContextCallback callback = {.callback = decode_error_callback, .arg = &context};

		callback.previous = error_context_stack;
		error_context_stack = &callback;
		decoder_decode(scan->decoder, batch, 0, batch->nrecords, &context.position);
		error_context_stack = callback.previous;
	}
}

/* Give back the records of the batch. */
static void
ad_hoc_forget_batch(StreamScan *scan)
{
	scan->next = scan->to = 0;
	scan->ad_hoc->next_error = 0;
	record_batch_reset(scan->batch);
	scan->batch->nrecords = 0;
	if (scan->ad_hoc->source != NULL)
		source_release(scan->ad_hoc->source);
}

/* Fill the batch again, waiting for records where necessary; false if there are no more. */
static bool
ad_hoc_fill(ForeignScanState *node, StreamScan *scan)
{
	AdHocScan *ad_hoc = scan->ad_hoc;
	RecordBatch *batch = scan->batch;
	MemoryContext caller_context = MemoryContextSwitchTo(ad_hoc->context);
	TimestampTz waiting_since = 0;

	if (!ad_hoc->started)
		ad_hoc_start(ad_hoc, node->ss.ps.ps_ExprContext);
	ad_hoc_forget_batch(scan);
	while (batch->nrecords == 0 && !ad_hoc_at_end(ad_hoc))
	{
		Size budget = (Size) velo_pipeline_memory * 1024 / SOURCE_QUEUE_SHARE;

		if (source_poll(ad_hoc->source, batch, ad_hoc->batch_limit, &budget) > 0)
		{
			drop_newer_records(ad_hoc, batch);
			if (batch->nrecords == 0)
				source_release(ad_hoc->source);
			waiting_since = 0;
			CHECK_FOR_INTERRUPTS();
		}
		else if (!ad_hoc_at_end(ad_hoc))
		{
			if (waiting_since == 0)
				waiting_since = GetCurrentTimestamp();
			ad_hoc_check_trouble(ad_hoc, waiting_since);
			ad_hoc_wait(ad_hoc);
		}
	}
	if (batch->nrecords > 0)
	{
		decode_batch(ad_hoc, batch);
		ad_hoc->batch_limit = Min(ad_hoc->batch_limit * 2, batch->capacity);
	}
	scan->to = batch->nrecords;
	MemoryContextSwitchTo(caller_context);
	return scan->to > 0;
}

/* Count a record that makes no row, or ereport(ERROR) if the stream does not skip bad ones. */
static void
ad_hoc_no_row(StreamScan *scan, int record)
{
	AdHocScan *ad_hoc = scan->ad_hoc;
	RecordError *error;

	if (scan->batch->status[record] == RECORD_TOMBSTONE)
	{
		ad_hoc->tombstones++;
		return;
	}
	ad_hoc->bad++;
	if (ad_hoc->stream->skip_errors)
		return;

	do
		error = list_nth(scan->batch->errors, ad_hoc->next_error++);
	while (error->record != record);
	ereport(ERROR, (errcode(error->sqlerrcode), errmsg_internal("%s", error->message),
					error->detail ? errdetail_internal("%s", error->detail) : 0,
					errhint("To skip such records: ALTER FOREIGN TABLE %s OPTIONS (ADD on_error "
							"'skip').",
							ad_hoc->stream->name),
					record_error_context(ad_hoc, scan->batch, record)));
}

/*
 * Begin anew, within the same end offsets; what is read may depend on parameters that have changed.  The consumer is
 * made anew as well: librdkafka can fail an assertion when partitions are assigned again in quick succession (issue
 * 5573), and where rescans matter PostgreSQL keeps the rows (Materialize, Hash).
 */
static void
ad_hoc_rescan(StreamScan *scan)
{
	AdHocScan *ad_hoc = scan->ad_hoc;

	if (!ad_hoc->started)
		return;
	ad_hoc_forget_batch(scan);
	if (ad_hoc->source != NULL)
		source_close(ad_hoc->source);
	ad_hoc->source = NULL;
	pfree(ad_hoc->assigned);
	ad_hoc->started = false;
}

/* ------------------------------------------------------------------ the executor's methods */

static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	List *attributes = list_nth(plan->fdw_private, SCAN_PRIVATE_ATTRS);
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	StreamScan *scan;
	ListCell *cell;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	scan = palloc0(sizeof(StreamScan));
	scan->columns = palloc(sizeof(int) * Max(list_length(attributes), 1));
	foreach (cell, attributes)
		scan->columns[scan->ncolumns++] = lfirst_int(cell) - 1;
	/* columns that nobody wants stay NULL */
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);

	if (boolVal(list_nth(plan->fdw_private, SCAN_PRIVATE_CONTINUOUS)))
		continuous_begin(scan, RelationGetRelid(node->ss.ss_currentRelation));
	else
		ad_hoc_begin(node, scan);
	node->fdw_state = scan;
}

static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	StreamScan *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(slot);
	for (;;)
	{
		RecordBatch *batch = scan->batch;

		while (scan->next < scan->to)
		{
			int record = scan->next++;

			if (batch->status[record] != RECORD_OK)
			{
				if (scan->set == NULL)
					ad_hoc_no_row(scan, record);
				continue;
			}
			for (int i = 0; i < scan->ncolumns; i++)
			{
				int column = scan->columns[i];

				slot->tts_values[column] = batch->values[column][record];
				slot->tts_isnull[column] = batch->nulls[column][record];
			}
			ExecStoreVirtualTuple(slot);
			if (scan->set != NULL)
			{
				ItemPointerSet(&slot->tts_tid, record, scan->index + 1);
				scan->set->current_stream = scan->index;
				scan->set->current_record = record;
			}
			return slot;
		}
		if (scan->set != NULL || !ad_hoc_fill(node, scan))
			return slot;
	}
}

static void
rescan(ForeignScanState *node)
{
	StreamScan *scan = node->fdw_state;

	if (scan->set != NULL)
		scan->next = scan->set->from[scan->index];
	else
		ad_hoc_rescan(scan);
}

static void
end_scan(ForeignScanState *node)
{
	StreamScan *scan = node->fdw_state;

	if (scan != NULL && scan->ad_hoc != NULL && scan->ad_hoc->source != NULL)
		source_close(scan->ad_hoc->source);
}

/* The metadata that a scan's bounds are about, each once. */
static List *
bound_names(List *bounds)
{
	static const struct
	{
		MetadataKind kind;
		char *name;
	} kinds[] = {
		{META_PARTITION, "partition"}, {META_OFFSET, "offset"}, {META_TIMESTAMP, "timestamp"}};
	List *names = NIL;

	for (int i = 0; i < (int) lengthof(kinds); i++)
	{
		ListCell *cell;

		foreach (cell, bounds)
			if (linitial_int((List *) lfirst(cell)) == (int) kinds[i].kind)
			{
				names = lappend(names, kinds[i].name);
				break;
			}
	}
	return names;
}

typedef struct PartitionCount
{
	ForeignScanState *node;
	int npartitions;
} PartitionCount;

static void
count_partitions(void *arg)
{
	PartitionCount *count = arg;
	StreamInfo *stream = stream_get_connectable(
		RelationGetRelid(count->node->ss.ss_currentRelation), compat_scan_user(count->node));

	count->npartitions = source_partition_count(stream, EXPLAIN_TIMEOUT_MS);
}

/* How many partitions the topic has, as a broker says; or why none does, which is no error of EXPLAIN's. */
static void
explain_partitions(ForeignScanState *node, ExplainState *es)
{
	/* a client lives in the context that it is opened in */
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "velo EXPLAIN", ALLOCSET_SMALL_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(context);
	PartitionCount count = {.node = node};
	ErrorData *error = try_in_subtransaction(count_partitions, &count);

	MemoryContextSwitchTo(caller_context);
	if (error == NULL)
		ExplainPropertyInteger("Partitions", NULL, count.npartitions, es);
	else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			 error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
		ReThrowError(error);
	else
		ExplainPropertyText("Partitions", psprintf("unknown: %s", error->message), es);
	MemoryContextDelete(context);
}

static void
explain_event_time(const StreamInfo *stream, ExplainState *es)
{
	const char *column = NameStr(TupleDescAttr(stream->tupdesc, stream->event_time - 1)->attname);
	Interval interval = {.time = stream->watermark};
	char *delay = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&interval)));

	ExplainPropertyText("Event Time", column, es);
	if (es->format == EXPLAIN_FORMAT_TEXT)
		delay = stream->watermark > 0 ? psprintf("%s behind the greatest %s", delay, column)
									  : psprintf("the greatest %s", column);
	ExplainPropertyText("Watermark", delay, es);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	List *bounds = list_nth(((ForeignScan *) node->ss.ps.plan)->fdw_private, SCAN_PRIVATE_BOUNDS);
	StreamScan *scan = node->fdw_state;
	AdHocScan *ad_hoc = scan ? scan->ad_hoc : NULL;
	StreamInfo *stream =
		ad_hoc ? ad_hoc->stream : stream_get(RelationGetRelid(node->ss.ss_currentRelation));

	ExplainPropertyText("Stream", stream->name, es);
	ExplainPropertyText("Topic", stream->topic, es);
	if (ad_hoc == NULL)
		explain_partitions(node, es);
	else if (ad_hoc->topic != NULL)
		ExplainPropertyInteger("Partitions", NULL, ad_hoc->npartitions, es);
	ExplainPropertyText("Format", stream->format == FORMAT_JSON ? "json" : "raw", es);
	if (stream->event_time != 0)
		explain_event_time(stream, es);
	if (bounds != NIL)
		ExplainPropertyList("Narrowed By", bound_names(bounds), es);
	if (es->analyze && ad_hoc != NULL)
	{
		ExplainPropertyInteger("Partitions Read", NULL, ad_hoc->nassigned, es);
		ExplainPropertyInteger("Records Read", NULL, ad_hoc->read, es);
		ExplainPropertyInteger("Bytes Read", NULL, ad_hoc->bytes, es);
		ExplainPropertyInteger("Tombstones", NULL, ad_hoc->tombstones, es);
		ExplainPropertyInteger("Bad Records Skipped", NULL, ad_hoc->bad, es);
	}
}

void
stream_scan_methods(FdwRoutine *routine)
{
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
}
