/*
 * emit.c
 *		From groups (or rows) to the sink: changes, closing windows, appended rows.
 *
 * The sink isolates rows that the target refuses.  Of an ungrouped query such a row is its record's dead letter; of a
 * grouped query it belongs to the group: while the error lasts the group has no row and one dead letter.
 */
#include "pipeline/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "state/state.h"

/* groups emitted at once: bounds memory, and the work between two looks at interrupts */
#define EMIT_GROUPS 10000
/* fewer of a window that closes where transactions are to be short: a set takes about a third of that time */
#define CLOSE_GROUPS_PER_MS 100
#define MIN_CLOSE_GROUPS 500

/* ---------------------------------------------------------------- appended rows */

static int64
write_rows(Pipeline *pipeline, SinkRow *rows, const int *sources, int nrows)
{
	int64 written = sink_write(pipeline->sink, rows, nrows);

	for (int i = 0; i < nrows; i++)
		if (rows[i].error != NULL)
			fail_record(pipeline, "sink", pipeline->rows->stream[sources[i]],
						pipeline->rows->record[sources[i]], rows[i].error);
	return written;
}

/* The rows of the batch for the sink, and where they come from.  Rows of records that were cut off are left out. */
static int
make_sink_rows(Pipeline *pipeline, SinkRow *sink_rows, int *sources)
{
	InputRows *rows = pipeline->rows;
	int natts = pipeline->plan->result->natts;
	int n = 0;

	for (int i = 0; i < rows->nrows; i++)
	{
		SinkRow *row = &sink_rows[n];

		if (rows->record[i] >= pipeline->streams[rows->stream[i]].batch->nrecords)
			continue;
		row->action = SINK_APPEND;
		row->values = palloc_array(Datum, natts);
		row->nulls = palloc_array(bool, natts);
		for (int a = 0; a < natts; a++)
		{
			row->values[a] = rows->values[a][i];
			row->nulls[a] = rows->nulls[a][i];
		}
		sources[n++] = i;
	}
	return n;
}

void
emit_appended(Pipeline *pipeline)
{
	InputRows *rows = pipeline->rows;
	SinkRow *sink_rows = palloc_array(SinkRow, rows->nrows + 1);
	int *sources = palloc_array(int, rows->nrows + 1);
	int nrows = make_sink_rows(pipeline, sink_rows, sources);

	if (pipeline->query->on_error != ON_ERROR_FAIL)
	{
		pipeline->counters.rows_out += write_rows(pipeline, sink_rows, sources, nrows);
		return;
	}

	/* nothing after a refused row may be written: take all back, cut, and write what precedes it */
	for (;;)
	{
		MemoryContext context = CurrentMemoryContext;
		ResourceOwner owner = CurrentResourceOwner;
		int64 written;
		bool cut;

		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		written = write_rows(pipeline, sink_rows, sources, nrows);
		cut = cut_at_failures(pipeline);
		if (cut)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!cut)
		{
			pipeline->counters.rows_out += written;
			return;
		}
		nrows = make_sink_rows(pipeline, sink_rows, sources);
	}
}

/* ---------------------------------------------------------------- groups */

/* A group as text, to find its dead letter by: its window and keys. */
static char *
describe_group(Pipeline *pipeline, StateGroup *group)
{
	GroupingSpec *grouping = pipeline->plan->grouped->grouping;
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "Group");
	if (grouping->window.kind != WINDOW_NONE)
		appendStringInfo(&text, " window_start=%s", timestamptz_to_str(group->window));
	for (int i = 0; i < grouping->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(grouping->input, grouping->keys[i].column);
		Oid output;
		bool varlena;

		appendStringInfo(&text, " %s=", NameStr(att->attname));
		if (group->key_nulls[i])
		{
			appendStringInfoString(&text, "NULL");
			continue;
		}
		getTypeOutputInfo(grouping->keys[i].type, &output, &varlena);
		appendStringInfo(&text, "\"%s\"", OidOutputFunctionCall(output, group->keys[i]));
	}
	appendStringInfoChar(&text, '.');
	return text.data;
}

static void
fail_group(Pipeline *pipeline, StateGroup *group, const char *kind, const ErrorData *error)
{
	DeadLetter letter = {0};
	char *detail = describe_group(pipeline, group);

	switch (pipeline->query->on_error)
	{
		case ON_ERROR_FAIL:
			/* nothing of this transaction is committed */
			pipeline->group_failed = true;
			ereport(ERROR, (errcode(error->sqlerrcode),
							errmsg("a group of the query could not be written: %s", error->message),
							errdetail_internal("%s", detail),
							errhint("To go on without it, set on_error to 'skip' or 'dead_letter' "
									"with velo.alter_query() and call velo.restart_query().")));
			break;
		case ON_ERROR_SKIP:
			break;
		case ON_ERROR_DEAD_LETTER:
			if (group->failed)
				dead_letter_remove_group(pipeline->id, detail);
			letter.kind = kind;
			letter.partition = -1;
			letter.offset = -1;
			letter.timestamp = DT_NOBEGIN;
			letter.sqlerrcode = error->sqlerrcode;
			letter.message = error->message;
			letter.detail = detail;
			dead_letter_add(pipeline->query, &letter, 1);
			break;
	}
	group->failed = true;
	group_touch(pipeline->groups, group);
}

static void
group_succeeded(Pipeline *pipeline, StateGroup *group)
{
	if (!group->failed)
		return;
	dead_letter_remove_group(pipeline->id, describe_group(pipeline, group));
	group->failed = false;
	group_touch(pipeline->groups, group);
}

/* The deletion of a group's row: only the key is needed. */
static SinkRow
retraction(Pipeline *pipeline, StateGroup *group)
{
	GroupedPlan *plan = pipeline->plan->grouped;
	SinkRow row = {.action = SINK_DELETE};

	row.values = palloc0_array(Datum, plan->result->natts);
	row.nulls = palloc_array(bool, plan->result->natts);
	memset(row.nulls, true, plan->result->natts);
	for (int i = 0; i < plan->nresult_keys; i++)
	{
		int column = plan->result_keys[i];
		int source = plan->result_key_sources[i];

		row.nulls[column] = source >= 0 && group->key_nulls[source];
		if (source == KEY_IS_WINDOW_START)
			row.values[column] = TimestampTzGetDatum(group->window);
		else if (source == KEY_IS_WINDOW_END)
			row.values[column] =
				TimestampTzGetDatum(window_end(&plan->grouping->window, group->window));
		else
			row.values[column] = group->keys[source];
	}
	return row;
}

/* Take back the rows of some groups.  One that the target keeps all the same is out, and its group has failed. */
static void
retract_groups(Pipeline *pipeline, StateGroup **groups, int ngroups)
{
	SinkRow *rows = palloc_array(SinkRow, ngroups);

	for (int i = 0; i < ngroups; i++)
		rows[i] = retraction(pipeline, groups[i]);
	(void) sink_write(pipeline->sink, rows, ngroups);
	for (int i = 0; i < ngroups; i++)
	{
		groups[i]->out = rows[i].error != NULL;
		group_touch(pipeline->groups, groups[i]);
		if (rows[i].error != NULL)
			fail_group(pipeline, groups[i], "sink", rows[i].error);
	}
}

/*
 * Evaluate the output of some groups and write it.  A group whose row should not be there (HAVING, an error) loses the
 * row that it had.
 */
static void
emit_groups(Pipeline *pipeline, StateGroup **groups, int ngroups)
{
	EmittedRow *emitted;
	SinkRow *rows;
	StateGroup **retracted;
	StateGroup **written;
	int nrows = 0;
	int nretracted = 0;

	MemoryContextReset(pipeline->emit_context);
	MemoryContextSwitchTo(pipeline->emit_context);
	emitted = emitter_run(pipeline->emitter, pipeline->groups, groups, ngroups);
	rows = palloc_array(SinkRow, ngroups);
	retracted = palloc_array(StateGroup *, ngroups);
	written = palloc_array(StateGroup *, ngroups);

	for (int i = 0; i < ngroups; i++)
	{
		StateGroup *group = groups[i];

		if (emitted[i].error != NULL)
			fail_group(pipeline, group, "evaluate", emitted[i].error);
		if (emitted[i].has_row)
		{
			rows[nrows].action = group->out ? SINK_UPSERT : SINK_NEW;
			rows[nrows].values = emitted[i].values;
			rows[nrows].nulls = emitted[i].nulls;
			written[nrows++] = group;
			continue;
		}
		if (emitted[i].error == NULL)
			group_succeeded(pipeline, group);
		if (group->out)
			retracted[nretracted++] = group;
	}
	retract_groups(pipeline, retracted, nretracted);
	pipeline->counters.rows_out += sink_write(pipeline->sink, rows, nrows);

	nretracted = 0;
	for (int i = 0; i < nrows; i++)
	{
		StateGroup *group = written[i];

		if (rows[i].error != NULL)
		{
			fail_group(pipeline, group, "sink", rows[i].error);
			if (group->out)
				retracted[nretracted++] = group;
			continue;
		}
		group_succeeded(pipeline, group);
		if (!group->out)
		{
			group->out = true;
			group_touch(pipeline->groups, group);
		}
	}
	retract_groups(pipeline, retracted, nretracted);
	MemoryContextSwitchTo(pipeline->round_context);
}

static void
emit_in_sets(Pipeline *pipeline, StateGroup **groups, int ngroups)
{
	for (int i = 0; i < ngroups; i += EMIT_GROUPS)
	{
		CHECK_FOR_INTERRUPTS();
		emit_groups(pipeline, groups + i, Min(EMIT_GROUPS, ngroups - i));
	}
}

void
emit_changed(Pipeline *pipeline)
{
	int ngroups;
	StateGroup **groups = group_table_take_changed(pipeline->groups, &ngroups);

	if (pipeline->query->emit == EMIT_CHANGES)
		emit_in_sets(pipeline, groups, ngroups);
}

/* Write or drop the next set of groups of windows that close.  Returns false when there is none. */
static bool
close_set(Pipeline *pipeline, TimestampTz watermark)
{
	int64 wanted = (int64) pipeline->query->options.commit_interval * CLOSE_GROUPS_PER_MS;
	int max = (int) Max(MIN_CLOSE_GROUPS, Min(wanted, EMIT_GROUPS));
	StateGroup **groups;
	int ngroups;

	CHECK_FOR_INTERRUPTS();
	if (pipeline->query->emit == EMIT_CHANGES)
		return group_table_drop_unseen(pipeline->groups, watermark, max);
	if (!group_table_take_closed(pipeline->groups, watermark, max, &groups, &ngroups))
		return false;
	emit_in_sets(pipeline, groups, ngroups);
	VELO_INJECTION_POINT("in-close");
	group_table_drop_closed(pipeline->groups);
	VELO_INJECTION_POINT("after-close");
	return true;
}

bool
close_windows(Pipeline *pipeline, TimestampTz watermark, TimestampTz until)
{
	while (close_set(pipeline, watermark))
		if (until != DT_NOEND && (GetCurrentTimestamp() >= until || is_waited_for(pipeline)))
			return group_table_count_closed(pipeline->groups, watermark) == 0;
	return true;
}
