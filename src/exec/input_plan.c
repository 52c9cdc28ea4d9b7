/*
 * input_plan.c
 *		Runs the input plan of a continuous query over batches of records.
 *
 * The executor is started and ended per batch, so that snapshots, locks, rights and resource owners are PostgreSQL's own
 * business.  The rows that it yields are kept column by column in InputRows.  Values that a scan took straight from its
 * batch are not copied: a batch lives until its rows are applied.
 *
 * Where the plan is nothing but scans of streams, the rows need not come one by one: see vector.h.
 */
#include "exec/vector.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

struct InputPlan
{
	PlannedStmt *plan;
	int records;         /* of each stream, that it was made for */
	PlannedStmt *of_few; /* NULL: none */
	int record_column;   /* 0-based */
	bool windowed;
	bool in_order;
	TupleDesc desc;
	bool *copy;    /* [natts]: the value lives no longer than the row, so it must be copied */
	int16 *typlen; /* [natts] */
	/* [nvectors] if the plan is a scan, or a list of scans; NULL: another one */
	VectorPlan **vectors;
	int nvectors;
};

/*
 * A value that comes unchanged from the stream's batch: a plain column of a scan that is the top of the plan.
 */
static bool
is_batch_value(Plan *top, TargetEntry *tle)
{
	Var *var = (Var *) tle->expr;

	return IsA(top, ForeignScan) && IsA(var, Var) &&
		   var->varno == (int) ((Scan *) top)->scanrelid && var->varattno > 0;
}

/* The scans that the plan consists of; NIL if it is more than that. */
static List *
scans_of(Plan *top)
{
	ListCell *cell;

	if (IsA(top, ForeignScan))
		return list_make1(top);
	if (!IsA(top, Append) || ((Append *) top)->part_prune_info != NULL)
		return NIL;
	foreach (cell, ((Append *) top)->appendplans)
		if (!IsA(lfirst(cell), ForeignScan))
			return NIL;
	return ((Append *) top)->appendplans;
}

static void
create_vectors(InputPlan *input)
{
	List *scans = scans_of(input->plan->planTree);
	ListCell *cell;

	if (scans == NIL)
		return;
	input->vectors = palloc_array(VectorPlan *, list_length(scans));
	foreach (cell, scans)
	{
		VectorPlan *vector = vector_plan_create(lfirst(cell), input->record_column);

		if (vector == NULL)
		{
			input->vectors = NULL;
			return;
		}
		input->vectors[input->nvectors++] = vector;
	}
}

InputPlan *
input_plan_create(PlannedStmt *plan, int records, PlannedStmt *of_few, int record_column,
				  bool windowed)
{
	InputPlan *input = palloc0_object(InputPlan);
	Plan *top = plan->planTree;
	ListCell *lc;
	int i = 0;

	input->plan = plan;
	input->records = records;
	input->of_few = of_few;
	input->record_column = record_column - 1;
	input->windowed = windowed;
	input->in_order = IsA(top, ForeignScan);
	input->desc = ExecTypeFromTL(top->targetlist);
	input->copy = palloc0_array(bool, input->desc->natts);
	input->typlen = palloc0_array(int16, input->desc->natts);
	foreach (lc, top->targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Form_pg_attribute att = TupleDescAttr(input->desc, i);

		input->copy[i] = !att->attbyval && i != input->record_column && !is_batch_value(top, tle);
		input->typlen[i] = att->attlen;
		i++;
	}
	create_vectors(input);
	return input;
}

TupleDesc
input_plan_desc(InputPlan *plan)
{
	return plan->desc;
}

bool
input_plan_in_order(InputPlan *plan)
{
	return plan->in_order;
}

static void
append_row(InputPlan *input, BatchSet *set, TupleTableSlot *slot, InputRows *rows)
{
	ItemPointer record;
	int row = rows->nrows;
	int stream;
	int index;

	slot_getallattrs(slot);
	for (int i = 0; i < input->desc->natts; i++)
	{
		rows->nulls[i][row] = slot->tts_isnull[i];
		if (slot->tts_isnull[i])
			rows->values[i][row] = (Datum) 0;
		else if (input->copy[i])
			rows->values[i][row] = datumCopy(slot->tts_values[i], false, input->typlen[i]);
		else
			rows->values[i][row] = slot->tts_values[i];
	}

	record = (ItemPointer) DatumGetPointer(slot->tts_values[input->record_column]);
	index = (int) ItemPointerGetBlockNumberNoCheck(record);
	stream = ItemPointerGetOffsetNumberNoCheck(record) - 1;
	/* the row's ctid lives no longer than the row; nobody needs it once it is taken apart */
	rows->values[input->record_column][row] = (Datum) 0;
	rows->nulls[input->record_column][row] = true;
	rows->record[row] = index;
	rows->stream[row] = stream;
	rows->late[row] = rows->created[row] = false;
	if (input->windowed)
	{
		RecordBatch *batch = set->batches[stream];

		rows->time[row] = DatumGetTimestampTz(batch->values[set->event_time[stream] - 1][index]);
		rows->watermark[row] = batch->watermark[index];
	}
	rows->nrows = row + 1;
}

/* The rows one by one, from PostgreSQL's executor. */
static void
run_rows(InputPlan *input, BatchSet *set, QueryDesc *query, InputRows *rows)
{
	for (;;)
	{
		TupleTableSlot *slot;
		MemoryContext old;

		ResetPerTupleExprContext(query->estate);
		slot = ExecProcNode(query->planstate);
		if (TupIsNull(slot))
			break;
		if (rows->nrows == rows->capacity)
			input_rows_reserve(rows, rows->nrows + 1);
		old = MemoryContextSwitchTo(rows->context);
		append_row(input, set, slot, rows);
		MemoryContextSwitchTo(old);
	}
}

static void
run_vectors(InputPlan *input, BatchSet *set, QueryDesc *query, InputRows *rows)
{
	PlanState *top = query->planstate;

	for (int i = 0; i < input->nvectors; i++)
	{
		PlanState *scan = IsA(top, AppendState) ? ((AppendState *) top)->appendplans[i] : top;

		vector_plan_run(input->vectors[i], castNode(ForeignScanState, scan), set, input->windowed,
						rows);
	}
}

/* What a plan that was made for "planned" records would cost for another number. */
static Cost
cost_for(const PlannedStmt *statement, int planned, int records)
{
	const Plan *plan = statement->planTree;

	return plan->startup_cost + (plan->total_cost - plan->startup_cost) * records / planned;
}

static PlannedStmt *
choose_plan(const InputPlan *input, const BatchSet *set)
{
	int records = 0;

	if (input->of_few == NULL)
		return input->plan;
	for (int s = 0; s < set->nstreams; s++)
		records += set->to[s] - set->from[s];
	return cost_for(input->of_few, INPUT_FEW * set->nstreams, records) <
				   cost_for(input->plan, input->records * set->nstreams, records)
			   ? input->of_few
			   : input->plan;
}

void
input_plan_run(InputPlan *input, BatchSet *set, bool vectorized, InputRows *rows)
{
	QueryDesc *query;

	Assert(!vectorized || input_plan_can_vectorize(input));
	stream_scan_set_batches(set);
	query = CreateQueryDesc(vectorized ? input->plan : choose_plan(input, set), "",
							GetActiveSnapshot(), InvalidSnapshot, None_Receiver, NULL, NULL, 0);
	ExecutorStart(query, 0);
	if (vectorized)
		run_vectors(input, set, query, rows);
	else
		run_rows(input, set, query, rows);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	stream_scan_set_batches(NULL);
}

bool
input_plan_can_vectorize(InputPlan *plan)
{
	return plan->vectors != NULL;
}

List *
input_plan_row_by_row(InputPlan *plan)
{
	List *result = NIL;

	for (int i = 0; i < plan->nvectors; i++)
		result = list_concat(result, vector_plan_row_by_row(plan->vectors[i]));
	return result;
}

bool
plan_lock_relations(PlannedStmt *plan)
{
	ListCell *lc;

	foreach (lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		/* since 16 a view is the sub-select that it became */
		if (rte->rtekind != RTE_RELATION &&
			(rte->rtekind != RTE_SUBQUERY || !OidIsValid(rte->relid)))
			continue;
		LockRelationOid(rte->relid, rte->rellockmode);
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(rte->relid)))
			return false;
	}
	return true;
}

/*
 * Which errors a record (or row) causes, so that it is set aside, and which come from outside and would hit the next
 * one as well, so that the pipeline must wait and try again.
 */
bool
error_is_of_record(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'): /* connection */
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'): /* transaction state */
		case MAKE_SQLSTATE('3', 'D', '0', '0', '0'): /* catalog name */
		case MAKE_SQLSTATE('3', 'F', '0', '0', '0'): /* schema name */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'): /* deadlock, serialization failure */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'): /* resources: disk, memory, connections */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'): /* object in use, lock not available */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'): /* operator intervention */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'): /* system */
		case MAKE_SQLSTATE('F', '0', '0', '0', '0'): /* configuration file */
			return false;
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):
			/* corruption is the server's; any other internal error is what odd input brought about */
			return sqlerrcode == ERRCODE_INTERNAL_ERROR;
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
			/* what is missing or forbidden is so for every record; what a user's function raises is not */
			return sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE &&
				   sqlerrcode != ERRCODE_UNDEFINED_TABLE &&
				   sqlerrcode != ERRCODE_UNDEFINED_COLUMN &&
				   sqlerrcode != ERRCODE_UNDEFINED_FUNCTION &&
				   sqlerrcode != ERRCODE_UNDEFINED_OBJECT &&
				   sqlerrcode != ERRCODE_INVALID_COLUMN_REFERENCE &&
				   sqlerrcode != ERRCODE_INVALID_TABLE_DEFINITION;
		default:
			return true;
	}
}
