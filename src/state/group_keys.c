/*
 * group_keys.c
 *		Hash, equality and order of group keys, by the types' own functions.
 *
 * NULLs are equal to each other and come last.  Hashes are part of the keys of stored groups, so they must not depend
 * on anything but the values and the major version of PostgreSQL.
 */
#include "state/group_table.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#define NULL_HASH UINT64CONST(0x9e3779b97f4a7c15)

/* How many bytes of a by-value type count when this is its equality; 0: unknown, ask the function. */
static int
equal_bits(Oid function)
{
	switch (function)
	{
		case F_BOOLEQ:
		case F_CHAREQ:
			return 1;
		case F_INT2EQ:
			return 2;
		case F_INT4EQ:
		case F_OIDEQ:
		case F_DATE_EQ:
			return 4;
		case F_INT8EQ:
		case F_TIMESTAMP_EQ:
		case F_TIMESTAMPTZ_EQ:
		case F_TIME_EQ:
			return 8;
		default:
			return 0;
	}
}

static FunctionCallInfo
make_call(Oid function, int nargs, Oid collation)
{
	FunctionCallInfo call = palloc0(SizeForFunctionCallInfo(nargs));
	FmgrInfo *info = palloc0(sizeof(FmgrInfo));

	fmgr_info(function, info);
	InitFunctionCallInfoData(*call, info, nargs, collation, NULL, NULL);
	return call;
}

bool
key_init(Key *key, Oid type, Oid collation, Oid eqop)
{
	Oid equal = get_opcode(eqop);
	TypeCacheEntry *cached =
		lookup_type_cache(type, TYPECACHE_EQ_OPR | TYPECACHE_HASH_EXTENDED_PROC);
	bool hashable = true;
	Oid left, right;
	int bits;

	get_typlenbyval(type, &key->typlen, &key->byval);
	key->equal = make_call(equal, 2, collation);

	if (cached->eq_opr == eqop && OidIsValid(cached->hash_extended_proc))
	{
		key->hash = make_call(cached->hash_extended_proc, 2, collation);
		key->hash->args[1].value = UInt64GetDatum(0);
		key->extended = true;
	}
	else if (op_hashjoinable(eqop, type) && get_op_hash_functions(eqop, &left, &right))
		key->hash = make_call(left, 1, collation);
	else
		hashable = false;

	bits = equal_bits(equal);
	if (bits > 0 && key->byval)
	{
		key->kind = KEY_BITS;
		key->mask = bits == 8 ? PG_UINT64_MAX : (UINT64CONST(1) << (8 * bits)) - 1;
	}
	else if (equal == F_TEXTEQ && OidIsValid(collation) && get_collation_isdeterministic(collation))
		key->kind = KEY_BYTES;
	else
		key->kind = KEY_GENERIC;
	return hashable;
}

/* Set up the keys of a table, in its memory context, which must be the current one. */
void
keys_init(GroupTable *table)
{
	const GroupingSpec *spec = table->spec;

	table->keys = palloc0(sizeof(Key) * Max(spec->nkeys, 1));
	table->hashable = true;
	for (int i = 0; i < spec->nkeys; i++)
	{
		const KeySpec *from = &spec->keys[i];

		table->keys[i].column = from->column;
		table->hashable &= key_init(&table->keys[i], from->type, from->collation, from->eqop);
	}
}

/* splitmix64's finisher: every bit of the input reaches every bit of the output */
static inline uint64
mix(uint64 x)
{
	x = (x ^ (x >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static inline uint64
hash_value(const Key *key, Datum value, bool isnull)
{
	FunctionCallInfo call = key->hash;
	Datum result;

	if (isnull)
		return NULL_HASH;
	if (key->kind == KEY_BITS)
		return mix(value & key->mask);
	if (key->kind == KEY_BYTES)
	{
		struct varlena *text = PG_DETOAST_DATUM_PACKED(value);

		return hash_bytes_extended((const unsigned char *) VARDATA_ANY(text),
								   VARSIZE_ANY_EXHDR(text), 0);
	}
	if (call == NULL)
		return 0;
	call->args[0].value = value;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	/* a user's own function may be poor, and stored groups are divided by the leading bits */
	return mix(key->extended ? DatumGetUInt64(result) : DatumGetUInt32(result));
}

/* Hash the keys of all rows into table->hashes. */
void
keys_hash_rows(GroupTable *table, const InputRows *rows)
{
	MemoryContext old;

	if (rows->nrows > table->max_hashes)
	{
		if (table->hashes)
			pfree(table->hashes);
		table->max_hashes = rows->capacity;
		table->hashes = MemoryContextAllocHuge(table->context, sizeof(uint64) * rows->capacity);
	}
	if (rows->nrows > 0)
		memset(table->hashes, 0, sizeof(uint64) * rows->nrows);

	old = MemoryContextSwitchTo(table->temp);
	for (int k = 0; k < table->spec->nkeys; k++)
	{
		const Key *key = &table->keys[k];
		const Datum *values = rows->values[key->column];
		const bool *nulls = rows->nulls[key->column];

		for (int i = 0; i < rows->nrows; i++)
		{
			uint64 hash = hash_value(key, values[i], nulls[i]);

			table->hashes[i] = k == 0 ? hash : hash_combine64(table->hashes[i], hash);
			if (key->kind != KEY_BITS)
				MemoryContextReset(table->temp);
		}
	}
	MemoryContextSwitchTo(old);
}

/* The same for one group; may leave garbage in the current memory context. */
uint64
keys_hash(GroupTable *table, const Datum *keys, const bool *nulls)
{
	uint64 result = 0;

	for (int k = 0; k < table->spec->nkeys; k++)
	{
		uint64 hash = hash_value(&table->keys[k], keys[k], nulls[k]);

		result = k == 0 ? hash : hash_combine64(result, hash);
	}
	return result;
}

uint64
key_hash(const Key *key, Datum value)
{
	return hash_value(key, value, false);
}

static inline bool
values_equal(const Key *key, Datum a, Datum b)
{
	FunctionCallInfo call = key->equal;
	Size len;

	switch (key->kind)
	{
		case KEY_BITS:
			return ((a ^ b) & key->mask) == 0;
		case KEY_BYTES:
			len = VARSIZE_ANY_EXHDR(DatumGetPointer(a));
			return len == VARSIZE_ANY_EXHDR(DatumGetPointer(b)) &&
				   memcmp(VARDATA_ANY(DatumGetPointer(a)), VARDATA_ANY(DatumGetPointer(b)), len) ==
					   0;
		case KEY_GENERIC:
			call->args[0].value = a;
			call->args[1].value = b;
			call->isnull = false;
			return DatumGetBool(FunctionCallInvoke(call));
	}
	pg_unreachable();
}

bool
key_equal(const Key *key, Datum a, Datum b)
{
	return values_equal(key, a, b);
}

/* May leave garbage in the current memory context.  Keys by reference must be detoasted. */
bool
keys_equal(GroupTable *table, const Datum *keys, const bool *nulls, const Datum *others,
		   const bool *other_nulls)
{
	for (int k = 0; k < table->spec->nkeys; k++)
		if (nulls[k] != other_nulls[k] ||
			(!nulls[k] && !values_equal(&table->keys[k], keys[k], others[k])))
			return false;
	return true;
}

/* ------------------------------------------------------------------ order */

/* In the current memory context. */
static SortSupport
create_sort_support(const KeySpec *keys, int nkeys, bool abbreviate)
{
	SortSupport order = palloc0(sizeof(SortSupportData) * nkeys);

	for (int i = 0; i < nkeys; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(keys[i].type, TYPECACHE_LT_OPR);

		/* results have unique indexes on the keys, so this is hardly possible */
		if (!OidIsValid(type->lt_opr))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
							errmsg("could not identify an ordering operator for type %s",
								   format_type_be(keys[i].type))));
		order[i].ssup_cxt = CurrentMemoryContext;
		order[i].ssup_collation = keys[i].collation;
		order[i].ssup_attno = i + 1;
		order[i].abbreviate = abbreviate;
		PrepareSortSupportFromOrderingOp(type->lt_opr, &order[i]);
	}
	return order;
}

/* Before anything is asked about the order. */
void
keys_order_init(GroupTable *table)
{
	const GroupingSpec *spec = table->spec;
	MemoryContext old;

	if (table->key_order != NULL || spec->nkeys == 0)
		return;
	old = MemoryContextSwitchTo(table->context);
	table->lead_order = create_sort_support(&spec->keys[0], 1, true);
	table->key_order = create_sort_support(spec->keys, spec->nkeys, false);
	MemoryContextSwitchTo(old);
}

/* What keys_compare_leads() wants of a group, without another look at it. */
Datum
keys_lead(GroupTable *table, const Entry *entry, bool *isnull)
{
	const SortSupport order = table->lead_order;

	*isnull = table->spec->nkeys == 0 || entry->group.key_nulls[0];
	if (*isnull)
		return (Datum) 0;
	if (order->abbrev_converter == NULL)
		return entry->group.keys[0];
	return order->abbrev_converter(entry->group.keys[0], order);
}

/* Order of two groups of a window, 0 only if they are the same; may leave garbage in the current memory context. */
int
keys_compare(GroupTable *table, const Entry *a, const Entry *b)
{
	int result = 0;

	for (int i = 0; i < table->spec->nkeys && result == 0; i++)
		result = ApplySortComparator(a->group.keys[i], a->group.key_nulls[i], b->group.keys[i],
									 b->group.key_nulls[i], &table->key_order[i]);
	return result;
}
