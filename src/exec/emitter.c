/*
 * emitter.c
 *		From groups to rows of the result: HAVING and the SELECT list.
 *
 * The groups to be emitted are put into a tuplestore, which the output plan reads as an ephemeral named relation, as
 * the transition tables of triggers are.  Collected aggregates are computed first, by a plan of their own over the
 * kept rows.  All of a call runs in one subtransaction; when an expression fails, the groups are tried by halves until
 * those that it fails for are found.
 */
#include "exec/exec.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/* how many groups ahead they are fetched */
#define PREFETCH_GROUPS 8

struct Emitter
{
	GroupedPlan *plan;
	MemoryContext context; /* of one run over some groups */
	int ncollected;        /* collected aggregates */
};

/* One call of emitter_run(), as its parts see it. */
typedef struct EmitState
{
	Emitter *emitter;
	GroupTable *table;
	StateGroup **groups;
	EmittedRow *rows;
	MemoryContext result;
	int first; /* the group with group_number 0 */
	int ngroups;
	/* values of the collected aggregates, [ngroups * ncollected] */
	Datum *collected;
	bool *collected_nulls;
	bool *has_collected; /* [ngroups] */
	/* the collected rows being written */
	Tuplestorestate *store;
	int group_number;
} EmitState;

typedef struct EmitReceiver
{
	DestReceiver pub;
	EmitState *state;
} EmitReceiver;

/* "plan" must live as long as the emitter, which lives in the current memory context. */
Emitter *
emitter_create(GroupedPlan *plan)
{
	Emitter *emitter = palloc0(sizeof(Emitter));

	emitter->plan = plan;
	emitter->context =
		AllocSetContextCreate(CurrentMemoryContext, "velo emission", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < plan->grouping->naggs; i++)
		if (plan->grouping->aggs[i].collected)
			emitter->ncollected++;
	return emitter;
}

/* ------------------------------------------------------------------ running a plan */

static void
receiver_startup(DestReceiver *self pg_attribute_unused(), int operation pg_attribute_unused(),
				 TupleDesc desc pg_attribute_unused())
{
}

static void
receiver_shutdown(DestReceiver *self pg_attribute_unused())
{
}

/* Run a plan over what is in "store", known to it as "name". */
static void
run_plan(EmitState *state, PlannedStmt *plan, const char *name, TupleDesc desc,
		 Tuplestorestate *store, bool (*receive)(TupleTableSlot *slot, DestReceiver *self))
{
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	EmitReceiver receiver = {
		{receive, receiver_startup, receiver_shutdown, receiver_shutdown, DestNone}, state};
	QueryDesc *query;

	relation->md.name = pstrdup(name);
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = tuplestore_tuple_count(store);
	relation->reldata = store;
	register_ENR(environment, relation);

	query = CreateQueryDesc(plan, "", GetActiveSnapshot(), InvalidSnapshot,
							(DestReceiver *) &receiver, NULL, environment, 0);
	ExecutorStart(query, 0);
	ExecutorRun(query, ForwardScanDirection, 0, true);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
}

/* The number of the group that a row is about, in the attribute "attno". */
static int
row_group(EmitState *state, TupleTableSlot *slot, int attno)
{
	bool isnull;
	Datum number = slot_getattr(slot, attno, &isnull);

	if (isnull || DatumGetInt32(number) < 0 || DatumGetInt32(number) >= state->ngroups)
		elog(ERROR, "row of no group in the output of a continuous query");
	return DatumGetInt32(number);
}

static void
copy_values(TupleTableSlot *slot, int first, int n, Datum *values, bool *nulls)
{
	slot_getallattrs(slot);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(slot->tts_tupleDescriptor, first + i);

		nulls[i] = slot->tts_isnull[first + i];
		values[i] = nulls[i] ? (Datum) 0
							 : datumCopy(slot->tts_values[first + i], attribute->attbyval,
										 attribute->attlen);
	}
}

/* ------------------------------------------------------------------ collected aggregates */

/* A CollectedReader. */
static void
put_collected(const Datum *values, const bool *nulls, void *arg)
{
	EmitState *state = arg;
	TupleDesc desc = state->emitter->plan->collected_relation;
	Datum *row = palloc(sizeof(Datum) * desc->natts);
	bool *row_nulls = palloc(sizeof(bool) * desc->natts);

	CHECK_FOR_INTERRUPTS();
	row[0] = Int32GetDatum(state->group_number);
	row_nulls[0] = false;
	memcpy(row + 1, values, sizeof(Datum) * (desc->natts - 1));
	memcpy(row_nulls + 1, nulls, sizeof(bool) * (desc->natts - 1));
	tuplestore_putvalues(state->store, desc, row, row_nulls);
	pfree(row);
	pfree(row_nulls);
}

static bool
receive_collected(TupleTableSlot *slot, DestReceiver *self)
{
	EmitState *state = ((EmitReceiver *) self)->state;
	int n = state->emitter->ncollected;
	int group = row_group(state, slot, 1);
	MemoryContext old = MemoryContextSwitchTo(state->emitter->context);

	copy_values(slot, 1, n, &state->collected[group * n], &state->collected_nulls[group * n]);
	state->has_collected[group] = true;
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * The collected aggregates of a group without rows, which only the group of a global aggregate can be: those of no
 * input.
 */
static void
collect_nothing(EmitState *state, int group)
{
	GroupingSpec *grouping = state->emitter->plan->grouping;
	int n = group * state->emitter->ncollected;

	for (int i = 0; i < grouping->naggs; i++)
		if (grouping->aggs[i].collected)
		{
			state->collected[n] =
				aggregate_of_nothing(grouping->aggs[i].aggref, &state->collected_nulls[n]);
			n++;
		}
}

static void
compute_collected(EmitState *state)
{
	Emitter *emitter = state->emitter;
	Size n = (Size) state->ngroups * emitter->ncollected;

	state->collected = palloc(sizeof(Datum) * n);
	state->collected_nulls = palloc(sizeof(bool) * n);
	state->has_collected = palloc0(sizeof(bool) * state->ngroups);
	state->store = tuplestore_begin_heap(false, false, work_mem);
	for (int i = 0; i < state->ngroups; i++)
	{
		state->group_number = i;
		group_collected(state->table, state->groups[state->first + i], put_collected, state);
	}
	run_plan(state, emitter->plan->collected, COLLECTED_RELATION, emitter->plan->collected_relation,
			 state->store, receive_collected);
	tuplestore_end(state->store);
	for (int i = 0; i < state->ngroups; i++)
		if (!state->has_collected[i])
			collect_nothing(state, i);
}

/* ------------------------------------------------------------------ the output */

static bool
receive_output(TupleTableSlot *slot, DestReceiver *self)
{
	EmitState *state = ((EmitReceiver *) self)->state;
	int natts = state->emitter->plan->result->natts;
	EmittedRow *row = &state->rows[state->first + row_group(state, slot, natts + 1)];
	MemoryContext old = MemoryContextSwitchTo(state->result);

	if (row->has_row)
		elog(ERROR, "more than one row for a group in the output of a continuous query");
	row->values = palloc(sizeof(Datum) * Max(natts, 1));
	row->nulls = palloc(sizeof(bool) * Max(natts, 1));
	copy_values(slot, 0, natts, row->values, row->nulls);
	row->has_row = true;
	MemoryContextSwitchTo(old);
	return true;
}

/* A group as a row of the relation that the output plan reads. */
static void
put_group(EmitState *state, int number, Tuplestorestate *store, Datum *values, bool *nulls)
{
	GroupingSpec *grouping = state->emitter->plan->grouping;
	bool windowed = grouping->window.kind != WINDOW_NONE;
	StateGroup *group = state->groups[state->first + number];
	int collected = number * state->emitter->ncollected;
	int n = 0;

	values[n] = Int32GetDatum(number);
	nulls[n++] = false;
	for (int i = 0; i < grouping->nkeys; i++)
	{
		values[n] = group->keys[i];
		nulls[n++] = group->key_nulls[i];
	}
	values[n] = TimestampTzGetDatum(group->window);
	nulls[n++] = !windowed;
	values[n] = windowed ? TimestampTzGetDatum(window_end(&grouping->window, group->window)) : 0;
	nulls[n++] = !windowed;
	for (int i = 0; i < grouping->naggs; i++, n++)
	{
		if (grouping->aggs[i].collected)
		{
			values[n] = state->collected[collected];
			nulls[n] = state->collected_nulls[collected];
			collected++;
		}
		else
			values[n] = group_final(state->table, group, i, &nulls[n]);
	}
	tuplestore_putvalues(store, state->emitter->plan->output_relation, values, nulls);
}

static void
compute_output(EmitState *state)
{
	GroupedPlan *plan = state->emitter->plan;
	int natts = plan->output_relation->natts;
	Datum *values = palloc(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	MemoryContext row_context =
		AllocSetContextCreate(state->emitter->context, "velo group", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < state->ngroups; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		if (i + PREFETCH_GROUPS < state->ngroups)
			group_prefetch(state->groups[state->first + i + PREFETCH_GROUPS]);
		put_group(state, i, store, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	run_plan(state, plan->output, OUTPUT_RELATION, plan->output_relation, store, receive_output);
	tuplestore_end(store);
}

/* ------------------------------------------------------------------ errors */

static void
emit_step(void *arg)
{
	EmitState *state = arg;

	MemoryContextSwitchTo(state->emitter->context);
	if (state->emitter->ncollected > 0)
		compute_collected(state);
	compute_output(state);
}

/* Emit groups [first, first + ngroups); NULL if that worked, else the error, with no harm done. */
static ErrorData *
try_emit(EmitState *state, int first, int ngroups)
{
	MemoryContext caller = MemoryContextSwitchTo(state->result);
	ErrorData *error;

	state->first = first;
	state->ngroups = ngroups;
	for (int i = first; i < first + ngroups; i++)
		state->rows[i].has_row = false;
	error = try_in_subtransaction(emit_step, state);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(state->emitter->context);
	return error;
}

static void
emit(EmitState *state, int first, int ngroups)
{
	ErrorData *error = try_emit(state, first, ngroups);

	if (error == NULL)
		return;
	if (!error_is_of_record(error->sqlerrcode))
		ReThrowError(error);
	if (ngroups == 1)
	{
		state->rows[first].has_row = false;
		state->rows[first].error = error;
		return;
	}
	FreeErrorData(error);
	emit(state, first, ngroups / 2);
	emit(state, first + ngroups / 2, ngroups - ngroups / 2);
}

EmittedRow *
emitter_run(Emitter *emitter, GroupTable *table, StateGroup **groups, int ngroups)
{
	EmitState state = {0};

	state.emitter = emitter;
	state.table = table;
	state.groups = groups;
	state.rows = palloc0(sizeof(EmittedRow) * Max(ngroups, 1));
	state.result = CurrentMemoryContext;
	for (int i = 0; i < ngroups; i++)
		state.rows[i].group = groups[i];

	if (!plan_lock_relations(emitter->plan->output) ||
		(emitter->plan->collected != NULL && !plan_lock_relations(emitter->plan->collected)))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("a relation that the query reads no longer exists")));
	if (ngroups > 0)
		emit(&state, 0, ngroups);
	return state.rows;
}
