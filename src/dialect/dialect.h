/*
 * dialect.h
 *		The door of dialect/: streaming SQL text -> plain PostgreSQL SQL of the same length, plus its stream clauses.
 *
 * Knows quoting and comments as PostgreSQL does, and nothing else of SQL: it needs no catalog and no
 * transaction.  The cut clauses are blanked with spaces, so that error positions stay right.
 */
#ifndef VELO_DIALECT_H
#define VELO_DIALECT_H

#include "velo.h"

#include "datatype/timestamp.h"

typedef enum WindowKind
{
	WINDOW_NONE,
	WINDOW_TUMBLING,
	WINDOW_HOPPING,
	WINDOW_SESSION
} WindowKind;

typedef enum EmitClause
{
	EMIT_UNSAID,
	EMIT_SAID_CHANGES,
	EMIT_SAID_FINAL
} EmitClause;

typedef struct DialectQuery
{
	char *sql; /* the text with the clauses blanked */
	WindowKind window;
	char *time_column;   /* as written (quoted identifiers and qualification kept), or NULL */
	int time_location;   /* byte offset in the text, -1 */
	int64 size;          /* microseconds (gap, for a session) */
	int64 slide;         /* microseconds */
	int64 grace;         /* microseconds; -1: not given */
	int window_location; /* byte offset of WINDOW, -1 */
	EmitClause emit;
	int emit_location; /* byte offset of EMIT, -1 */
} DialectQuery;

/*
 * Cut the stream clauses of the outermost SELECT out of "text".  ereport(ERROR) with errposition into "text" for a
 * clause that is malformed, given twice or not known.  Palloc'd.
 */
extern DialectQuery *dialect_parse(const char *text);

/* A duration as the dialect writes it ('5m', 500ms, INTERVAL '5' MINUTE, '5 minutes', 5 MINUTES), in microseconds. */
extern bool dialect_parse_duration(const char *text, int64 *microseconds);

#endif /* VELO_DIALECT_H */
