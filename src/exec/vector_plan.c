/*
 * vector_plan.c
 *		A continuous scan with its conditions and target list, a column at a time.
 *
 * PostgreSQL's executor has started the plan, with its checks of rights and the states of what is left to it; the rows
 * are made here.
 */
#include "exec/vector.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

struct VectorPlan
{
	int nconditions;
	VectorExpr **conditions; /* in the order in which the executor would evaluate them */
	int ntargets;
	VectorExpr **targets; /* NULL: the record */
	List *to_start;       /* of VectorExpr: what each run must get ready */
	uint16 *rows;         /* [VECTOR_SIZE] */
};

VectorPlan *
vector_plan_create(Plan *plan, int record_column)
{
	ForeignScan *scan = (ForeignScan *) plan;
	VectorPlan *result;
	ListCell *cell;

	if (!IsA(plan, ForeignScan) || scan->scan.scanrelid == 0 || scan->fdw_scan_tlist != NIL)
		return NULL;
	/* one may see what another has done for the same row, as currval() what nextval() has */
	if (contain_volatile_functions((Node *) plan->qual) ||
		contain_volatile_functions((Node *) plan->targetlist))
		return NULL;
	result = palloc0_object(VectorPlan);
	result->rows = palloc_array(uint16, VECTOR_SIZE);
	result->conditions = palloc_array(VectorExpr *, list_length(plan->qual) + 1);
	foreach (cell, plan->qual)
		result->conditions[result->nconditions++] =
			vector_expr_create(lfirst(cell), scan->scan.scanrelid, &result->to_start);
	result->targets = palloc0_array(VectorExpr *, list_length(plan->targetlist));
	foreach (cell, plan->targetlist)
	{
		if (result->ntargets != record_column)
			result->targets[result->ntargets] = vector_expr_create(
				lfirst_node(TargetEntry, cell)->expr, scan->scan.scanrelid, &result->to_start);
		result->ntargets++;
	}
	return result;
}

List *
vector_plan_row_by_row(const VectorPlan *plan)
{
	List *result = NIL;
	ListCell *cell;

	foreach (cell, plan->to_start)
	{
		const VectorExpr *expr = lfirst(cell);

		if (expr->call == NULL)
			result = lappend(result, expr->expr);
	}
	return result;
}

/* The values of a target for some rows, behind those that are there. */
static void
append_values(VectorExpr *target, const uint16 *rows, int nrows, InputRows *to, int column)
{
	Datum *values = to->values[column] + to->nrows;
	bool *nulls = to->nulls[column] + to->nrows;
	bool copy = !target->byval && !target->lasting;

	for (int i = 0; i < nrows; i++)
	{
		uint32 row = rows[i] & target->mask;

		nulls[i] = target->nulls[row];
		values[i] = nulls[i] ? (Datum) 0 : target->values[row];
	}
	if (!copy)
		return;
	MemoryContextSwitchTo(to->context);
	for (int i = 0; i < nrows; i++)
		if (!nulls[i])
			values[i] = datumCopy(values[i], false, target->typlen);
}

static void
append_rows(VectorPlan *plan, const VectorRun *run, int nrows, const Datum *event_time,
			InputRows *to)
{
	input_rows_reserve(to, to->nrows + nrows);
	for (int i = 0; i < plan->ntargets; i++)
	{
		if (plan->targets[i] == NULL)
		{
			memset(to->values[i] + to->nrows, 0, sizeof(Datum) * nrows);
			memset(to->nulls[i] + to->nrows, true, nrows);
			continue;
		}
		MemoryContextSwitchTo(run->scratch);
		vector_evaluate(plan->targets[i], run, plan->rows, nrows);
		append_values(plan->targets[i], plan->rows, nrows, to, i);
		MemoryContextReset(run->scratch);
	}
	for (int i = 0; i < nrows; i++)
	{
		int record = run->first + plan->rows[i];
		int row = to->nrows + i;

		to->record[row] = record;
		to->stream[row] = run->stream;
		to->late[row] = to->created[row] = false;
		if (event_time == NULL)
			continue;
		to->time[row] = DatumGetTimestampTz(event_time[record]);
		to->watermark[row] = run->batch->watermark[record];
	}
	to->nrows += nrows;
}

/* How many of the records [from, to) are taken at a time. */
static int
vector_size(const RecordBatch *batch, int from, int to)
{
	int most = Min(to - from, VECTOR_SIZE);
	Size bytes = batch->records[from].value_len;
	int n = 1;

	while (n < most && (bytes += batch->records[from + n].value_len) <= VECTOR_BYTES)
		n++;
	return n;
}

void
vector_plan_run(VectorPlan *plan, ForeignScanState *scan, const BatchSet *set, bool windowed,
				InputRows *rows)
{
	Oid relid = RelationGetRelid(scan->ss.ss_currentRelation);
	MemoryContext caller = CurrentMemoryContext;
	VectorRun run = {.scan = scan};
	const Datum *event_time = NULL;
	ListCell *cell;
	int to;
	int n;

	while (set->relids[run.stream] != relid)
		run.stream++;
	run.batch = set->batches[run.stream];
	to = set->to[run.stream];
	if (windowed)
		event_time = run.batch->values[set->event_time[run.stream] - 1];
	run.scratch = AllocSetContextCreate(caller, "velo vectors", ALLOCSET_DEFAULT_SIZES);
	run.temp = AllocSetContextCreate(caller, "velo vectors, temporary", ALLOCSET_DEFAULT_SIZES);
	foreach (cell, plan->to_start)
		vector_expr_start(lfirst(cell), scan, run.batch);

	for (run.first = set->from[run.stream]; run.first < to; run.first += n)
	{
		int nrows = 0;

		CHECK_FOR_INTERRUPTS();
		n = vector_size(run.batch, run.first, to);
		for (int i = 0; i < n; i++)
		{
			plan->rows[nrows] = i;
			nrows += run.batch->status[run.first + i] == RECORD_OK;
		}
		MemoryContextSwitchTo(run.scratch);
		for (int i = 0; i < plan->nconditions && nrows > 0; i++)
		{
			nrows = vector_filter(plan->conditions[i], &run, plan->rows, nrows, plan->rows);
			MemoryContextReset(run.scratch);
		}
		if (nrows > 0)
			append_rows(plan, &run, nrows, event_time, rows);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(run.temp);
	MemoryContextDelete(run.scratch);
}
