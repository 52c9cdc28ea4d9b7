/*
 * aggregate.c
 *		Transition and final functions as PostgreSQL's executor calls them, and states as bytes.
 *
 * The rules are those of nodeAgg.c: strictness, the first input as the initial value, FILTER, who owns a transition
 * value by reference.  Functions see an AggState as their caller, whose aggregate context is the window's: states live
 * and die with it.
 */
#include "state/group_table.h"

#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* Of anonymous records, whose values carry a number of their type that is good for one process only? */
bool
type_is_anonymous(Oid type)
{
	return type == RECORDOID || type == RECORDARRAYOID;
}

static bool
takes_anonymous(const Aggref *aggref)
{
	ListCell *cell;

	foreach (cell, aggref->aggargtypes)
		if (type_is_anonymous(lfirst_oid(cell)))
			return true;
	return false;
}

/*
 * Must the input rows of an aggregate be kept, because its transition state can't be checkpointed, combined or
 * continued after the final function?  States made of anonymous records can't be checkpointed either.
 */
bool
aggregate_is_collected(const Aggref *aggref)
{
	HeapTuple tuple;
	Form_pg_aggregate form;
	bool result;

	if (aggref->aggdistinct != NIL || aggref->aggorder != NIL ||
		aggref->aggkind != AGGKIND_NORMAL || takes_anonymous(aggref))
		return true;

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	result = !OidIsValid(form->aggcombinefn) || form->aggfinalmodify != AGGMODIFY_READ_ONLY ||
			 (form->aggtranstype == INTERNALOID &&
			  (!OidIsValid(form->aggserialfn) || !OidIsValid(form->aggdeserialfn)));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Transitions whose result is the same in whatever order, and whichever of equal values, they get their input: sums of
 * integers, and counts.
 */
static bool
takes_any_order(Oid function)
{
	switch (function)
	{
		case F_INT8INC_ANY:
		case F_INT2_SUM:
		case F_INT4_SUM:
		case F_INT2_AVG_ACCUM:
		case F_INT4_AVG_ACCUM:
		case F_INT8_AVG_ACCUM:
			return true;
		default:
			return false;
	}
}

bool
aggregate_is_distinct(const Aggref *aggref)
{
	SortGroupClause *item;
	HeapTuple tuple;
	bool result;

	if (list_length(aggref->aggdistinct) != 1 || list_length(aggref->args) != 1 ||
		takes_anonymous(aggref))
		return false;
	item = linitial_node(SortGroupClause, aggref->aggdistinct);
	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	result = aggref->aggfnoid < FirstNormalObjectId && item->hashable &&
			 takes_any_order(((Form_pg_aggregate) GETSTRUCT(tuple))->aggtransfn);
	ReleaseSysCache(tuple);
	return result;
}

/* ------------------------------------------------------------------ setting up */

static void
check_execute(Oid function, Oid role, ObjectType type)
{
	AclResult result = compat_proc_aclcheck(function, role);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, type, get_func_name(function));
}

/* As the executor does: the user may call the aggregate, and its owner what it consists of. */
static void
check_aggregate(Oid aggregate)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	HeapTuple proctuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggregate);
	if (!HeapTupleIsValid(proctuple))
		elog(ERROR, "cache lookup failed for function %u", aggregate);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	owner = ((Form_pg_proc) GETSTRUCT(proctuple))->proowner;

	check_execute(aggregate, GetUserId(), OBJECT_AGGREGATE);
	check_execute(form->aggtransfn, owner, OBJECT_FUNCTION);
	if (OidIsValid(form->aggfinalfn))
		check_execute(form->aggfinalfn, owner, OBJECT_FUNCTION);
	if (OidIsValid(form->aggcombinefn))
		check_execute(form->aggcombinefn, owner, OBJECT_FUNCTION);
	if (OidIsValid(form->aggserialfn))
		check_execute(form->aggserialfn, owner, OBJECT_FUNCTION);
	if (OidIsValid(form->aggdeserialfn))
		check_execute(form->aggdeserialfn, owner, OBJECT_FUNCTION);
	ReleaseSysCache(proctuple);
	ReleaseSysCache(tuple);
}

void
aggregates_check_rights(const GroupingSpec *spec)
{
	for (int i = 0; i < spec->naggs; i++)
		check_aggregate(spec->aggs[i].aggref->aggfnoid);
}

static FunctionCallInfo
make_call(AggState *aggstate, Oid function, int nargs, Oid collation, Expr *expr)
{
	FunctionCallInfo call = palloc0(SizeForFunctionCallInfo(nargs));
	FmgrInfo *info = palloc0(sizeof(FmgrInfo));

	fmgr_info(function, info);
	if (expr != NULL)
		fmgr_info_set_expr((Node *) expr, info);
	InitFunctionCallInfoData(*call, info, nargs, collation, (Node *) aggstate, NULL);
	for (int i = 1; i < nargs; i++)
		call->args[i].isnull = true;
	return call;
}

static Datum
initial_value(HeapTuple tuple, Oid transtype, bool *isnull)
{
	Datum init = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, isnull);
	Oid input, ioparam;
	char *string;

	if (*isnull)
		return (Datum) 0;
	getTypeInputInfo(transtype, &input, &ioparam);
	string = TextDatumGetCString(init);
	return OidInputFunctionCall(input, string, ioparam, -1);
}

static bool
same_transition(const Transition *a, const Transition *b)
{
	return a->transfn_oid == b->transfn_oid && a->transtype == b->transtype &&
		   (a->distinct == NULL) == (b->distinct == NULL) && a->collation == b->collation &&
		   a->filter == b->filter && a->nargs == b->nargs &&
		   memcmp(a->args, b->args, sizeof(int) * a->nargs) == 0 &&
		   a->init_isnull == b->init_isnull &&
		   (a->init_isnull || datumIsEqual(a->init, b->init, a->byval, a->typlen)) &&
		   a->combine->flinfo->fn_oid == b->combine->flinfo->fn_oid &&
		   (a->serialise == NULL ||
			(a->serialise->flinfo->fn_oid == b->serialise->flinfo->fn_oid &&
			 a->deserialise->flinfo->fn_oid == b->deserialise->flinfo->fn_oid));
}

static void
init_aggregate(GroupTable *table, const AggSpec *spec, Final *final)
{
	Aggref *aggref = spec->aggref;
	Transition trans = {0};
	HeapTuple tuple;
	Form_pg_aggregate form;
	Oid inputs[FUNC_MAX_ARGS];
	int ninputs;
	Expr *expr;

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	ninputs = get_aggregate_argtypes(aggref, inputs);
	trans.nargs = spec->nargs;
	trans.args = spec->args;
	trans.filter = spec->filter;
	trans.transfn_oid = form->aggtransfn;
	trans.transtype =
		resolve_aggregate_transtype(aggref->aggfnoid, form->aggtranstype, inputs, ninputs);
	trans.collation = aggref->inputcollid;
	get_typlenbyval(trans.transtype, &trans.typlen, &trans.byval);
	trans.internal = trans.transtype == INTERNALOID;
	trans.init = initial_value(tuple, trans.transtype, &trans.init_isnull);
	if (spec->distinct)
	{
		const SortGroupClause *item = linitial_node(SortGroupClause, aggref->aggdistinct);

		trans.distinct = palloc0(sizeof(Key));
		(void) key_init(trans.distinct,
						exprType((Node *) linitial_node(TargetEntry, aggref->args)->expr),
						aggref->inputcollid, item->eqop);
	}
	else
		trans.known = known_transition(aggref->aggfnoid, form->aggtransfn);
	trans.pertrans.aggref = aggref;

	build_aggregate_transfn_expr(inputs, ninputs, 0, aggref->aggvariadic, trans.transtype,
								 aggref->inputcollid, form->aggtransfn, InvalidOid, &expr, NULL);
	trans.call =
		make_call(table->aggstate, form->aggtransfn, trans.nargs + 1, aggref->inputcollid, expr);
	trans.strict = trans.call->flinfo->fn_strict;
	if (trans.strict && trans.init_isnull &&
		(ninputs == 0 || !IsBinaryCoercible(inputs[0], trans.transtype)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("aggregate %u needs to have compatible input type and transition type",
						aggref->aggfnoid)));

	if (trans.internal)
	{
		build_aggregate_serialfn_expr(form->aggserialfn, &expr);
		trans.serialise = make_call(table->aggstate, form->aggserialfn, 1, InvalidOid, expr);
		build_aggregate_deserialfn_expr(form->aggdeserialfn, &expr);
		trans.deserialise = make_call(table->aggstate, form->aggdeserialfn, 2, InvalidOid, expr);
	}
	build_aggregate_transfn_expr(&trans.transtype, 1, 0, false, trans.transtype,
								 aggref->inputcollid, form->aggcombinefn, InvalidOid, &expr, NULL);
	trans.combine = make_call(table->aggstate, form->aggcombinefn, 2, aggref->inputcollid, expr);

	for (final->transition = 0; final->transition < table->ntransitions; final->transition++)
		if (same_transition(&trans, &table->transitions[final->transition]))
			break;
	if (final->transition == table->ntransitions)
		table->transitions[table->ntransitions++] = trans;

	get_typlenbyval(aggref->aggtype, &final->typlen, &final->byval);
	if (OidIsValid(form->aggfinalfn))
	{
		final->nargs = form->aggfinalextra ? ninputs + 1 : 1;
		build_aggregate_finalfn_expr(inputs, final->nargs, trans.transtype, aggref->aggtype,
									 aggref->inputcollid, form->aggfinalfn, &expr);
		final->call =
			make_call(table->aggstate, form->aggfinalfn, final->nargs, aggref->inputcollid, expr);
	}
	ReleaseSysCache(tuple);
}

/* Set up the aggregates of a table, in its memory context, which must be the current one. */
void
aggregates_init(GroupTable *table)
{
	const GroupingSpec *spec = table->spec;

	table->aggstate = makeNode(AggState);
	table->aggstate->tmpcontext = makeNode(ExprContext);
	table->aggstate->tmpcontext->ecxt_per_query_memory = table->context;
	table->aggstate->tmpcontext->ecxt_per_tuple_memory = table->temp;
	table->transitions = palloc0(sizeof(Transition) * Max(spec->naggs, 1));
	table->finals = palloc0(sizeof(Final) * Max(spec->naggs, 1));
	for (int i = 0; i < spec->naggs; i++)
	{
		if (spec->aggs[i].collected)
		{
			table->finals[i].transition = -1;
			table->collects = true;
		}
		else
			init_aggregate(table, &spec->aggs[i], &table->finals[i]);
		table->distinct |= spec->aggs[i].distinct;
	}
}

/*
 * Are the bytes of states the same in all versions of PostgreSQL that this code is for?  Values are as in tables, which
 * pg_upgrade takes over; but what a serialisation function writes is its own business.  These write the same from 15 to
 * 17.
 */
bool
aggregates_are_portable(const GroupTable *table)
{
	for (int i = 0; i < table->ntransitions; i++)
	{
		const Transition *trans = &table->transitions[i];

		if (!trans->internal)
			continue;
		switch (trans->deserialise->flinfo->fn_oid)
		{
			case F_INT8_AVG_DESERIALIZE:
			case F_NUMERIC_AVG_DESERIALIZE:
			case F_NUMERIC_DESERIALIZE:
			case F_NUMERIC_POLY_DESERIALIZE:
				break;
			default:
				return false;
		}
	}
	return true;
}

/* What the bytes of states depend on, beyond the major version. */
uint32
aggregates_fingerprint(const GroupTable *table)
{
	uint32 result = table->ntransitions;

	for (int i = 0; i < table->ntransitions; i++)
	{
		const Transition *trans = &table->transitions[i];

		result = hash_combine(result, trans->transtype);
		if (trans->internal)
		{
			ListCell *lc;

			/* array_agg() writes the OID of its argument's type */
			result = hash_combine(result, trans->deserialise->flinfo->fn_oid);
			foreach (lc, trans->pertrans.aggref->aggargtypes)
				result = hash_combine(result, lfirst_oid(lc));
		}
		if (trans->distinct != NULL)
			result = hash_combine(result, trans->distinct->equal->flinfo->fn_oid);
	}
	return result;
}

/* ------------------------------------------------------------------ transition values */

/*
 * A copy that depends on nothing outside the current memory context: neither on a TOAST table, whose rows may be gone
 * after this transaction, nor on an expanded object.
 */
static Datum
own_copy(Datum value, bool byval, int16 typlen)
{
	if (typlen == -1 && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(value)))
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return datumCopy(value, byval, typlen);
}

/*
 * Transition values that are never replaced, only changed, need not be freed one by one, and so take no more memory than
 * they are long.
 */
static inline bool
lies_in_arena(const Transition *trans)
{
	return trans->known != NULL && !trans->byval;
}

/* Make a new transition value the state's own and let go of the old one, as ExecAggTransReparent() does. */
static Datum
adopt(GroupTable *table, const Transition *trans, Datum value, bool isnull, Datum old,
	  bool old_isnull)
{
	MemoryContext context = table->aggstate->curaggcontext->ecxt_per_tuple_memory;

	if (isnull)
		value = (Datum) 0;
	else if (!(DatumIsReadWriteExpandedObject(value, false, trans->typlen) &&
			   MemoryContextGetParent(DatumGetEOHP(value)->eoh_context) == context))
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		value = own_copy(value, trans->byval, trans->typlen);
		MemoryContextSwitchTo(caller);
	}
	if (!old_isnull && !lies_in_arena(trans))
	{
		if (DatumIsReadWriteExpandedObject(old, false, trans->typlen))
			DeleteExpandedObject(old);
		else
			pfree(DatumGetPointer(old));
	}
	return value;
}

/* Functions called from here on belong to this window. */
void
aggregates_enter(GroupTable *table, Window *window)
{
	table->aggstate->curaggcontext = window->context;
}

/* The transition values of a group that has no row yet. */
void
aggregates_begin(GroupTable *table, Entry *entry)
{
	MemoryContext old = MemoryContextSwitchTo(entry->window->context->ecxt_per_tuple_memory);

	for (int i = 0; i < table->ntransitions; i++)
	{
		const Transition *trans = &table->transitions[i];
		TransValue *value = &entry->values[i];

		if (trans->init_isnull)
			value->value = (Datum) 0;
		else if (lies_in_arena(trans))
			value->value =
				window_copy_value(entry->window, trans->init, trans->byval, trans->typlen);
		else
			value->value = datumCopy(trans->init, trans->byval, trans->typlen);
		value->isnull = trans->init_isnull;
		value->unset = trans->init_isnull;
	}
	MemoryContextSwitchTo(old);
}

/*
 * By calling the transition function with the arguments in its call.  Garbage goes to the current memory context.
 */
static void
advance(GroupTable *table, Transition *trans, TransValue *value)
{
	FunctionCallInfo call = trans->call;
	Datum result;

	if (trans->strict)
	{
		for (int i = 0; i < trans->nargs; i++)
			if (call->args[i + 1].isnull)
				return;
		if (value->unset)
		{
			MemoryContext old =
				MemoryContextSwitchTo(table->aggstate->curaggcontext->ecxt_per_tuple_memory);

			value->value = own_copy(call->args[1].value, trans->byval, trans->typlen);
			value->isnull = false;
			value->unset = false;
			MemoryContextSwitchTo(old);
			return;
		}
		if (value->isnull)
			return;
	}

	table->aggstate->curpertrans = &trans->pertrans;
	call->args[0].value = value->value;
	call->args[0].isnull = value->isnull;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	if (!trans->byval && DatumGetPointer(result) != DatumGetPointer(value->value))
		result = adopt(table, trans, result, call->isnull, value->value, value->isnull);
	value->value = result;
	value->isnull = call->isnull;
	value->unset = false;
}

static inline void
advance_row(GroupTable *table, Transition *trans, TransValue *value, const InputRows *rows, int row)
{
	for (int i = 0; i < trans->nargs; i++)
	{
		int column = trans->args[i];

		trans->call->args[i + 1].value = rows->values[column][row];
		trans->call->args[i + 1].isnull = rows->nulls[column][row];
	}
	advance(table, trans, value);
}

void
aggregates_advance_one(GroupTable *table, Entry *entry, int transition, Datum argument)
{
	Transition *trans = &table->transitions[transition];

	aggregates_enter(table, entry->window);
	trans->call->args[1].value = argument;
	trans->call->args[1].isnull = false;
	advance(table, trans, &entry->values[transition]);
}

/* Does the group have the argument of a DISTINCT transition already, or is it NULL, which none of those minds? */
static bool
is_known_value(GroupTable *table, Entry *entry, int transition, const InputRows *rows, int row)
{
	int column = table->transitions[transition].args[0];

	return rows->nulls[column][row] ||
		   !distinct_add(table, entry, transition, rows->values[column][row]);
}

/*
 * Rows into the transition values of the groups that they enter, transition by transition, each in the order of the
 * entrances.  When a transition throws, rows->applied is its row.
 */
void
aggregates_advance(GroupTable *table, const Entrance *entrances, int n, InputRows *rows)
{
	MemoryContext old = MemoryContextSwitchTo(table->temp);

	for (int t = 0; t < table->ntransitions; t++)
	{
		Transition *trans = &table->transitions[t];

		if (trans->known != NULL)
		{
			trans->known(trans, t, entrances, n, rows);
			continue;
		}
		for (int i = 0; i < n; i++)
		{
			Entry *entry = entrances[i].entry;
			int row = entrances[i].row;

			if (is_filtered_out(trans, rows, row))
				continue;
			rows->applied = row;
			if (trans->distinct == NULL || !is_known_value(table, entry, t, rows, row))
			{
				aggregates_enter(table, entry->window);
				advance_row(table, trans, &entry->values[t], rows, row);
			}
			if (!table->temp->isReset)
				MemoryContextReset(table->temp);
		}
	}
	MemoryContextSwitchTo(old);
}

Datum
group_final(GroupTable *table, StateGroup *group, int agg, bool *isnull)
{
	Entry *entry = (Entry *) group;
	const Final *final = &table->finals[agg];
	Transition *trans = &table->transitions[final->transition];
	TransValue *value = &entry->values[final->transition];
	FunctionCallInfo call = final->call;
	Datum result;

	Assert(final->transition >= 0);
	result = MakeExpandedObjectReadOnly(value->value, value->isnull, trans->typlen);
	*isnull = value->isnull;
	if (call != NULL)
	{
		if (call->flinfo->fn_strict && (value->isnull || final->nargs > 1))
		{
			*isnull = true;
			return (Datum) 0;
		}
		aggregates_enter(table, entry->window);
		trans->pertrans.aggref = table->spec->aggs[agg].aggref;
		table->aggstate->curpertrans = &trans->pertrans;
		call->args[0].value = result;
		call->args[0].isnull = value->isnull;
		call->isnull = false;
		result = FunctionCallInvoke(call);
		*isnull = call->isnull;
	}
	/* it may be the state itself, which goes on changing */
	return *isnull ? (Datum) 0 : datumCopy(result, final->byval, final->typlen);
}

/*
 * Collected aggregates have no transition here, but for no input none is needed: the final function gets the initial
 * value and the direct arguments, which depend on no row.
 */
Datum
aggregate_of_nothing(Aggref *aggref, bool *isnull)
{
	ExprContext *context = CreateStandaloneExprContext();
	AggState *aggstate = makeNode(AggState);
	AggStatePerTransData pertrans = {0};
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	Oid inputs[FUNC_MAX_ARGS];
	int ninputs;
	Oid transtype;
	Datum value;
	int16 typlen;
	bool byval;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	pertrans.aggref = aggref;
	aggstate->curaggcontext = aggstate->tmpcontext = context;
	aggstate->curpertrans = &pertrans;

	ninputs = get_aggregate_argtypes(aggref, inputs);
	transtype = resolve_aggregate_transtype(aggref->aggfnoid, form->aggtranstype, inputs, ninputs);
	value = initial_value(tuple, transtype, isnull);
	if (OidIsValid(form->aggfinalfn))
	{
		int ndirect = list_length(aggref->aggdirectargs);
		int nargs = form->aggfinalextra ? ninputs + 1 : ndirect + 1;
		FunctionCallInfo call;
		bool anynull = *isnull;
		Expr *expr;

		build_aggregate_finalfn_expr(inputs, nargs, transtype, aggref->aggtype, aggref->inputcollid,
									 form->aggfinalfn, &expr);
		call = make_call(aggstate, form->aggfinalfn, nargs, aggref->inputcollid, expr);
		call->args[0].value = value;
		call->args[0].isnull = *isnull;
		for (int i = 0; i < ndirect; i++)
		{
			ExprState *state = ExecInitExpr(
				expression_planner(copyObject(list_nth(aggref->aggdirectargs, i))), NULL);

			call->args[i + 1].value = ExecEvalExpr(state, context, &call->args[i + 1].isnull);
		}
		for (int i = 1; i < nargs; i++)
			anynull |= call->args[i].isnull;
		if (call->flinfo->fn_strict && anynull)
			*isnull = true;
		else
		{
			value = FunctionCallInvoke(call);
			*isnull = call->isnull;
		}
	}
	if (!*isnull)
	{
		get_typlenbyval(aggref->aggtype, &typlen, &byval);
		value = datumCopy(value, byval, typlen);
	}
	ReleaseSysCache(tuple);
	FreeExprContext(context, true);
	return value;
}

/* ------------------------------------------------------------------ states as bytes */

/* Append a value that isn't NULL, without alignment. */
void
datum_write(StringInfo out, Datum value, bool byval, int16 typlen)
{
	uint32 len;

	if (byval)
	{
		appendBinaryStringInfo(out, (char *) &value, sizeof(Datum));
		return;
	}
	if (typlen == -1 && VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(value)))
	{
		ExpandedObjectHeader *header = DatumGetEOHP(value);
		Size size = EOH_get_flat_size(header);

		len = size;
		appendBinaryStringInfo(out, (char *) &len, sizeof(len));
		/* flattening wants alignment, which the buffer doesn't have here */
		value = PointerGetDatum(palloc(size));
		EOH_flatten_into(header, DatumGetPointer(value), size);
		appendBinaryStringInfo(out, DatumGetPointer(value), size);
		pfree(DatumGetPointer(value));
		return;
	}
	len = datumGetSize(value, byval, typlen);
	appendBinaryStringInfo(out, (char *) &len, sizeof(len));
	appendBinaryStringInfo(out, DatumGetPointer(value), len);
}

/* Read what datum_write() wrote, into the current memory context. */
Datum
datum_read(StringInfo in, bool byval)
{
	uint32 len;
	char *data;

	if (byval)
	{
		Datum value;

		bytes_read(in, &value, sizeof(value));
		return value;
	}
	bytes_read(in, &len, sizeof(len));
	data = palloc(len);
	bytes_read(in, data, len);
	return PointerGetDatum(data);
}

/* The bytes of an internal state.  The current memory context takes garbage. */
static Datum
serialise(GroupTable *table, Transition *trans, Datum state)
{
	FunctionCallInfo call = trans->serialise;
	Datum bytes;

	table->aggstate->curpertrans = &trans->pertrans;
	call->args[0].value = state;
	call->args[0].isnull = false;
	call->isnull = false;
	bytes = FunctionCallInvoke(call);
	Assert(!call->isnull);
	return bytes;
}

/* An internal state as deserialisation leaves it, which only a combine function can take. */
static Datum
deserialise(GroupTable *table, Transition *trans, Datum bytes)
{
	FunctionCallInfo call = trans->deserialise;

	table->aggstate->curpertrans = &trans->pertrans;
	call->args[0].value = bytes;
	call->args[0].isnull = false;
	call->isnull = false;
	return FunctionCallInvoke(call);
}

/* Append a group's transition values.  The current memory context takes garbage. */
void
aggregates_write(GroupTable *table, Entry *entry, StringInfo out)
{
	aggregates_enter(table, entry->window);
	for (int i = 0; i < table->ntransitions; i++)
	{
		Transition *trans = &table->transitions[i];
		TransValue *value = &entry->values[i];

		appendStringInfoCharMacro(out, (value->isnull ? 1 : 0) | (value->unset ? 2 : 0));
		if (value->isnull)
			continue;
		if (trans->internal)
			datum_write(out, serialise(table, trans, value->value), false, -1);
		else
			datum_write(out, value->value, trans->byval, trans->typlen);
	}
}

/*
 * Did a combine function return NULL?  In older minor releases those of internal states, as numeric_avg_combine(), return
 * a NULL pointer for two NULLs, which no function that serialises can take.
 */
static bool
combined_is_null(const Transition *trans, FunctionCallInfo call, Datum result)
{
	return call->isnull || (trans->internal && DatumGetPointer(result) == NULL);
}

/*
 * Bytes of an internal state are read the way that parallel aggregation takes partial states in: combining with nothing
 * makes a state in the aggregate's own memory, which transitions can go on with.
 */
static Datum
read_internal(GroupTable *table, Transition *trans, StringInfo in, bool *isnull)
{
	FunctionCallInfo call = trans->combine;
	Datum partial = deserialise(table, trans, datum_read(in, false));

	call->args[0].value = (Datum) 0;
	call->args[0].isnull = true;
	call->args[1].value = partial;
	call->args[1].isnull = trans->deserialise->isnull;
	call->isnull = false;
	partial = FunctionCallInvoke(call);
	*isnull = combined_is_null(trans, call, partial);
	return partial;
}

/*
 * Read what aggregates_write() wrote into an entry without transition values.  The current memory context takes
 * garbage.
 */
void
aggregates_read(GroupTable *table, Entry *entry, StringInfo in)
{
	MemoryContext context = entry->window->context->ecxt_per_tuple_memory;

	aggregates_enter(table, entry->window);
	for (int i = 0; i < table->ntransitions; i++)
	{
		Transition *trans = &table->transitions[i];
		TransValue *value = &entry->values[i];
		char flags;

		bytes_read(in, &flags, 1);
		value->isnull = (flags & 1) != 0;
		value->unset = (flags & 2) != 0;
		value->value = (Datum) 0;
		if (value->isnull)
			continue;
		if (trans->internal)
			value->value = read_internal(table, trans, in, &value->isnull);
		else if (lies_in_arena(trans))
		{
			uint32 len;

			bytes_read(in, &len, sizeof(len));
			value->value = PointerGetDatum(window_alloc(entry->window, len));
			bytes_read(in, DatumGetPointer(value->value), len);
		}
		else
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			value->value = datum_read(in, trans->byval);
			MemoryContextSwitchTo(old);
		}
	}
}

/* Combine one partial state into another, as the final stage of a parallel aggregation does. */
static void
combine(GroupTable *table, Transition *trans, TransValue *into, Datum value, bool isnull)
{
	FunctionCallInfo call = trans->combine;
	Datum result;

	if (call->flinfo->fn_strict)
	{
		/* a state that is NULL, even if a transition function made it so, is no partial result to combine with */
		if (isnull)
			return;
		if (into->isnull)
		{
			into->value = adopt(table, trans, value, false, (Datum) 0, true);
			into->isnull = into->unset = false;
			return;
		}
	}
	table->aggstate->curpertrans = &trans->pertrans;
	call->args[0].value = into->value;
	call->args[0].isnull = into->isnull;
	call->args[1].value = value;
	call->args[1].isnull = isnull;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	if (!trans->byval && (into->isnull || call->isnull || result != into->value))
		result = adopt(table, trans, result, call->isnull, into->value, into->isnull);
	into->value = result;
	into->isnull = combined_is_null(trans, call, result);
	into->unset = false;
}

/*
 * Combine the transition values of a group of another table, of the same aggregates, into those of a group of this one,
 * but for those of DISTINCT (see distinct_fold()).  The current memory context takes garbage.
 */
void
aggregates_combine(GroupTable *table, Entry *into, GroupTable *source, Entry *from)
{
	for (int i = 0; i < table->ntransitions; i++)
	{
		Transition *trans = &table->transitions[i];
		TransValue *value = &from->values[i];
		Datum partial = value->value;

		if (trans->distinct != NULL)
			continue;
		if (trans->internal && !value->isnull)
		{
			aggregates_enter(source, from->window);
			partial = serialise(source, &source->transitions[i], partial);
			aggregates_enter(table, into->window);
			partial = deserialise(table, trans, partial);
		}
		else
			aggregates_enter(table, into->window);
		combine(table, trans, &into->values[i], partial, value->isnull);
	}
}
