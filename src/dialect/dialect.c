/*
 * dialect.c
 *		Cuts the stream clauses out of a query's text, so that the rest can go to PostgreSQL's own parser.
 *
 * The core scanner can't be used: it refuses 5m and 500ms ("trailing junk after numeric literal").  The scanner here
 * knows where strings, quoted identifiers and comments begin and end, and words, numbers and parentheses; every other
 * byte is a token of its own.  A clause counts only where it can't be anything else in SQL: "emit" and "grace" are
 * ordinary identifiers to PostgreSQL, and WINDOW w AS (...) is its own.
 */
#include "velo.h"

#include "common/int.h"
#include "dialect/dialect.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "parser/parser.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

typedef enum TokenKind
{
	TOKEN_END,
	TOKEN_WORD,   /* an identifier or key word without quotes */
	TOKEN_QUOTED, /* a quoted identifier */
	TOKEN_NUMBER, /* digits, perhaps with a fraction */
	TOKEN_STRING,
	TOKEN_OTHER /* one byte */
} TokenKind;

typedef struct Token
{
	TokenKind kind;
	int start; /* byte offsets in the text */
	int end;
} Token;

typedef struct Scanner
{
	const char *text;
	int pos;
} Scanner;

typedef struct Parser
{
	Scanner scanner;
	Token token;    /* the current one */
	Token previous; /* the one before it */
	int clause_end; /* where the last stream clause ended; -1: there was none yet */
	DialectQuery *query;
} Parser;

/* words that may follow a stream clause, other than another stream clause */
static const char *const clause_words[] = {"where", "group",  "having",   "window", "emit",
										   "order", "limit",  "offset",   "fetch",  "for",
										   "union", "except", "intersect"};

/* ------------------------------------------------------------------ scanner */

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_word_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_word_part(char c)
{
	return is_word_start(c) || is_digit(c) || c == '$';
}

/*
 * The offset after white space and comments.  *newline is set if a line ended on the way (may be NULL).  A comment that
 * doesn't end is refused here: for a run of openings the core scanner needs a time that grows with the square of its
 * length, and all of it would stand in the message.
 */
static int
skip_space(const char *text, int pos, bool *newline)
{
	for (;;)
	{
		if (is_space(text[pos]))
		{
			if (newline && (text[pos] == '\n' || text[pos] == '\r'))
				*newline = true;
			pos++;
		}
		else if (text[pos] == '-' && text[pos + 1] == '-')
		{
			while (text[pos] != '\0' && text[pos] != '\n' && text[pos] != '\r')
				pos++;
		}
		else if (text[pos] == '/' && text[pos + 1] == '*')
		{
			int start = pos;
			int depth = 0;

			do
			{
				if (text[pos] == '/' && text[pos + 1] == '*')
				{
					depth++;
					pos += 2;
				}
				else if (text[pos] == '*' && text[pos + 1] == '/')
				{
					depth--;
					pos += 2;
				}
				else
					pos++;
			} while (depth > 0 && text[pos] != '\0');
			if (depth > 0)
				ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("unterminated /* comment"),
								errposition(pg_mbstrlen_with_len(text, start) + 1)));
		}
		else
			return pos;
	}
}

/*
 * The offset after a quoted text whose opening quote is at "pos".  An unterminated one ends with the text: PostgreSQL's
 * parser will complain.
 */
static int
skip_quoted(const char *text, int pos, char quote, bool backslashes)
{
	for (;;)
	{
		int next;
		bool newline = false;

		pos++;
		while (text[pos] != '\0' && text[pos] != quote)
			pos += (backslashes && text[pos] == '\\' && text[pos + 1] != '\0') ? 2 : 1;
		if (text[pos] == '\0')
			return pos;
		pos++;
		if (text[pos] == quote)
			continue; /* a doubled quote */

		/* strings on successive lines are one */
		if (quote != '\'')
			return pos;
		next = skip_space(text, pos, &newline);
		if (!newline || text[next] != quote)
			return pos;
		pos = next;
	}
}

/* The offset after a dollar-quoted string that begins at "pos", or "pos" if there is none. */
static int
skip_dollar_quoted(const char *text, int pos)
{
	int tag = pos + 1;
	const char *close;
	char *delimiter;

	if (is_word_start(text[tag]))
	{
		while (is_word_part(text[tag]) && text[tag] != '$')
			tag++;
	}
	if (text[tag] != '$')
		return pos;
	tag++;
	delimiter = pnstrdup(text + pos, tag - pos);
	close = strstr(text + tag, delimiter);
	if (close == NULL)
		return tag + strlen(text + tag);
	return close - text + strlen(delimiter);
}

static Token
scan(Scanner *scanner)
{
	const char *text = scanner->text;
	int pos = skip_space(text, scanner->pos, NULL);
	Token token = {TOKEN_OTHER, pos, pos + 1};
	char c = text[pos];

	if (c == '\0')
	{
		token.kind = TOKEN_END;
		token.end = pos;
	}
	else if ((c == 'e' || c == 'E') && text[pos + 1] == '\'')
	{
		token.kind = TOKEN_STRING;
		token.end = skip_quoted(text, pos + 1, '\'', true);
	}
	else if (c == '\'')
	{
		token.kind = TOKEN_STRING;
		token.end = skip_quoted(text, pos, '\'', !standard_conforming_strings);
	}
	else if (c == '"')
	{
		token.kind = TOKEN_QUOTED;
		token.end = skip_quoted(text, pos, '"', false);
	}
	else if (c == '$' && skip_dollar_quoted(text, pos) > pos)
	{
		token.kind = TOKEN_STRING;
		token.end = skip_dollar_quoted(text, pos);
	}
	else if (is_word_start(c))
	{
		token.kind = TOKEN_WORD;
		while (is_word_part(text[token.end]))
			token.end++;
	}
	else if (is_digit(c))
	{
		token.kind = TOKEN_NUMBER;
		while (is_digit(text[token.end]))
			token.end++;
		if (text[token.end] == '.' && is_digit(text[token.end + 1]))
		{
			token.end++;
			while (is_digit(text[token.end]))
				token.end++;
		}
	}

	scanner->pos = token.end;
	return token;
}

/* ------------------------------------------------------------------ parser: helpers */

static int
position(const Parser *parser, int location)
{
	return errposition(pg_mbstrlen_with_len(parser->scanner.text, location) + 1);
}

static void
advance(Parser *parser)
{
	parser->previous = parser->token;
	parser->token = scan(&parser->scanner);
}

static Token
peek(const Parser *parser)
{
	Scanner scanner = parser->scanner;

	return scan(&scanner);
}

static char *
token_text(const Parser *parser, Token token)
{
	return pnstrdup(parser->scanner.text + token.start, token.end - token.start);
}

static bool
token_is_word(const Parser *parser, Token token, const char *word)
{
	return token.kind == TOKEN_WORD && token.end - token.start == (int) strlen(word) &&
		   pg_strncasecmp(parser->scanner.text + token.start, word, strlen(word)) == 0;
}

static bool
token_is(const Parser *parser, Token token, char c)
{
	return token.kind == TOKEN_OTHER && parser->scanner.text[token.start] == c;
}

static bool
token_is_clause_word(const Parser *parser, Token token)
{
	for (int i = 0; i < (int) lengthof(clause_words); i++)
	{
		if (token_is_word(parser, token, clause_words[i]))
			return true;
	}
	return false;
}

/* true if a clause may end before this token */
static bool
token_ends_clause(const Parser *parser, Token token)
{
	return token.kind == TOKEN_END || token_is(parser, token, ';') ||
		   token_is(parser, token, ')') || token_is_clause_word(parser, token);
}

static void syntax_error(const Parser *parser, Token token, const char *hint)
	pg_attribute_noreturn();

static void
syntax_error(const Parser *parser, Token token, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
					token.kind == TOKEN_END
						? errmsg("syntax error at end of input")
						: errmsg("syntax error at or near \"%s\"", token_text(parser, token)),
					errhint("%s", hint), position(parser, token.start)));
}

static void
expect(Parser *parser, char c, const char *hint)
{
	if (!token_is(parser, parser->token, c))
		syntax_error(parser, parser->token, hint);
	advance(parser);
}

/*
 * Overwrite a clause with spaces.  Characters of several bytes stay, inside a comment: a parser counts characters for
 * its error positions.
 */
static void
blank(DialectQuery *query, int start, int end)
{
	bool wide = false;

	for (int i = start; i < end; i++)
	{
		if (IS_HIGHBIT_SET(query->sql[i]))
			wide = true;
		else
			query->sql[i] = ' ';
	}
	if (wide)
	{
		memcpy(query->sql + start, "/*", 2);
		memcpy(query->sql + end - 2, "*/", 2);
	}
}

/* ------------------------------------------------------------------ durations */

#define DURATION_HINT                                                                              \
	"A duration is a number with a unit such as 500ms, 10s, 5m, 1h, 2d or 1w, or an interval: "    \
	"'5 minutes', INTERVAL '5' MINUTE, 5 MINUTES."

/* Reads what interval_in() reads, if it has a fixed length; a day is 24 hours. */
bool
dialect_parse_duration(const char *text, int64 *microseconds)
{
	char buffer[MAXDATELEN + MAXDATEFIELDS];
	char *field[MAXDATEFIELDS];
	int ftype[MAXDATEFIELDS];
	int nf;
	int dtype;
	struct pg_itm_in itm;
	Interval interval;
	int64 days;

	if (ParseDateTime(text, buffer, sizeof(buffer), field, ftype, MAXDATEFIELDS, &nf) != 0)
		return false;
	if (DecodeInterval(field, ftype, nf, INTERVAL_FULL_RANGE, &dtype, &itm) != 0 &&
		DecodeISO8601Interval(pstrdup(text), &dtype, &itm) != 0)
		return false;
	if (dtype != DTK_DELTA)
		return false;
	if (itmin2interval(&itm, &interval) != 0 || interval.month != 0)
		return false;
	return !pg_mul_s64_overflow(interval.day, USECS_PER_DAY, &days) &&
		   !pg_add_s64_overflow(interval.time, days, microseconds);
}

/* The content of a string token, for durations: neither escapes nor doubled quotes have any business there. */
static char *
string_content(const Parser *parser, Token token)
{
	const char *text = parser->scanner.text;

	if (text[token.start] != '\'' || token.end - token.start < 2)
		syntax_error(parser, token, DURATION_HINT);
	return pnstrdup(text + token.start + 1, token.end - token.start - 2);
}

static bool
is_number(const char *text)
{
	return text[0] != '\0' && strspn(text, "0123456789.") == strlen(text);
}

/* Parse a duration at the current token; "what" names it in messages. */
static int64
parse_duration(Parser *parser, const char *what, bool zero_allowed)
{
	Token first = parser->token;
	StringInfoData text;
	bool interval = false;
	bool unit_wanted = false;
	int64 result;

	initStringInfo(&text);
	if (token_is_word(parser, parser->token, "interval"))
	{
		interval = true;
		advance(parser);
	}
	else if (token_is(parser, parser->token, '-'))
	{
		appendStringInfoChar(&text, '-');
		advance(parser);
	}

	if (parser->token.kind == TOKEN_STRING)
	{
		char *content = string_content(parser, parser->token);

		appendStringInfoString(&text, content);
		unit_wanted = interval && is_number(content) && peek(parser).kind == TOKEN_WORD &&
					  !token_is_clause_word(parser, peek(parser));
	}
	else if (parser->token.kind == TOKEN_NUMBER)
	{
		appendStringInfoString(&text, token_text(parser, parser->token));
		unit_wanted = true;
	}
	else
		syntax_error(parser, parser->token, DURATION_HINT);
	advance(parser);

	if (unit_wanted)
	{
		if (parser->token.kind != TOKEN_WORD || token_is_clause_word(parser, parser->token))
			ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("%s has no unit", what),
							errhint(DURATION_HINT), position(parser, first.start)));
		appendStringInfo(&text, "%s%s", parser->token.start > parser->previous.end ? " " : "",
						 token_text(parser, parser->token));
		advance(parser);
	}

	if (!dialect_parse_duration(text.data, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s: \"%s\"", what, text.data),
				 errdetail("It must be a duration of fixed length, without months or years."),
				 errhint(DURATION_HINT), position(parser, first.start)));
	if (result < 0 || (result == 0 && !zero_allowed))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be %s", what,
							   zero_allowed ? "zero or greater" : "greater than zero"),
						position(parser, first.start)));
	return result;
}

/* ------------------------------------------------------------------ clauses */

#define WINDOW_HINT                                                                                \
	"Write WINDOW TUMBLING([time,] size), HOPPING([time,] size, slide), SLIDING([time,] size, "    \
	"slide) or SESSION([time,] gap), followed by GRACE duration if wanted."

/* The kind of window that a word names; WINDOW_NONE if none. */
static WindowKind
window_kind(const Parser *parser, Token token)
{
	if (token_is_word(parser, token, "tumbling"))
		return WINDOW_TUMBLING;
	if (token_is_word(parser, token, "hopping") || token_is_word(parser, token, "sliding"))
		return WINDOW_HOPPING;
	if (token_is_word(parser, token, "session"))
		return WINDOW_SESSION;
	return WINDOW_NONE;
}

/* The optional time column, up to and with the comma after it. */
static void
parse_time_column(Parser *parser)
{
	DialectQuery *query = parser->query;
	int start = parser->token.start;
	Token next = peek(parser);

	if (parser->token.kind != TOKEN_WORD && parser->token.kind != TOKEN_QUOTED)
		return;
	if (token_is_word(parser, parser->token, "interval") &&
		(next.kind == TOKEN_STRING || next.kind == TOKEN_NUMBER))
		return;

	advance(parser);
	while (token_is(parser, parser->token, '.'))
	{
		advance(parser);
		if (parser->token.kind != TOKEN_WORD && parser->token.kind != TOKEN_QUOTED)
			syntax_error(parser, parser->token, WINDOW_HINT);
		advance(parser);
	}
	query->time_column = pnstrdup(parser->scanner.text + start, parser->previous.end - start);
	query->time_location = start;
	expect(parser, ',', WINDOW_HINT);
}

/* Parse a window clause whose WINDOW is the current token, and blank it. */
static void
parse_window(Parser *parser)
{
	DialectQuery *query = parser->query;
	int start = parser->token.start;

	if (query->window != WINDOW_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("a query can have only one stream window"),
				 position(parser, start)));
	query->window_location = start;

	advance(parser);
	query->window = window_kind(parser, parser->token);
	if (query->window == WINDOW_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("unrecognized kind of window \"%s\"", token_text(parser, parser->token)),
				 errhint(WINDOW_HINT), position(parser, parser->token.start)));
	advance(parser);
	expect(parser, '(', WINDOW_HINT);
	parse_time_column(parser);
	query->size = parse_duration(
		parser, query->window == WINDOW_SESSION ? "session gap" : "window size", false);
	query->slide = query->size;
	if (query->window == WINDOW_HOPPING)
	{
		expect(parser, ',', WINDOW_HINT);
		query->slide = parse_duration(parser, "window slide", false);
	}
	expect(parser, ')', WINDOW_HINT);
	if (token_is_word(parser, parser->token, "grace"))
	{
		advance(parser);
		query->grace = parse_duration(parser, "grace", true);
	}
	if (!token_ends_clause(parser, parser->token))
		syntax_error(parser, parser->token, WINDOW_HINT);
	parser->clause_end = parser->previous.end;
	blank(query, start, parser->clause_end);
}

/* Parse an EMIT clause whose EMIT is the current token, and blank it. */
static void
parse_emit(Parser *parser)
{
	DialectQuery *query = parser->query;
	int start = parser->token.start;

	if (query->emit != EMIT_UNSAID)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("a query can have only one EMIT clause"), position(parser, start)));
	query->emit_location = start;

	advance(parser);
	if (token_is_word(parser, parser->token, "changes"))
		query->emit = EMIT_SAID_CHANGES;
	else if (token_is_word(parser, parser->token, "final"))
		query->emit = EMIT_SAID_FINAL;
	else if (parser->token.kind != TOKEN_WORD)
		syntax_error(parser, parser->token, "Write EMIT CHANGES or EMIT FINAL.");
	else
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("unrecognized EMIT mode \"%s\"", token_text(parser, parser->token)),
						errhint("Valid modes are CHANGES and FINAL."),
						position(parser, parser->token.start)));
	advance(parser);
	parser->clause_end = parser->previous.end;
	blank(query, start, parser->clause_end);
}

/* GRACE is part of a window clause: say so where it stands elsewhere, as no name and no alias could. */
static void
refuse_stray_grace(const Parser *parser)
{
	Token next = peek(parser);

	if (token_is_word(parser, parser->token, "grace") &&
		(next.kind == TOKEN_NUMBER || token_is_word(parser, next, "interval")))
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("GRACE must stand directly behind a stream window"),
						errhint(WINDOW_HINT), position(parser, parser->token.start)));
}

/* true if a stream window begins at the current token */
static bool
at_window(const Parser *parser)
{
	Scanner ahead = parser->scanner;
	Token kind;
	Token after;

	if (!token_is_word(parser, parser->token, "window") ||
		token_is(parser, parser->previous, '.') || token_is_word(parser, parser->previous, "as"))
		return false;
	kind = scan(&ahead);
	after = scan(&ahead);
	if (kind.kind != TOKEN_WORD || token_is_word(parser, after, "as"))
		return false; /* PostgreSQL's own, or its error */
	return window_kind(parser, kind) != WINDOW_NONE || token_is(parser, after, '(');
}

/*
 * true if an EMIT clause begins at the current token: behind another stream clause, where no name can stand, or where
 * after it comes a word, and then nothing that makes it a name
 */
static bool
at_emit(const Parser *parser)
{
	static const char *const names_follow[] = {"select", "distinct", "all", "from", "join",
											   "only",   "lateral",  "as",  "by",   "where",
											   "having", "on",       "and", "or",   "not"};
	Scanner ahead = parser->scanner;
	Token mode;
	Token after;

	if (!token_is_word(parser, parser->token, "emit") || parser->previous.kind == TOKEN_END ||
		token_is(parser, parser->previous, '.') || token_is(parser, parser->previous, ',') ||
		token_is(parser, parser->previous, '('))
		return false;
	for (int i = 0; i < (int) lengthof(names_follow); i++)
	{
		if (token_is_word(parser, parser->previous, names_follow[i]))
			return false;
	}
	if (parser->previous.end == parser->clause_end)
		return true;
	mode = scan(&ahead);
	after = scan(&ahead);
	return mode.kind == TOKEN_WORD && !token_is_clause_word(parser, mode) &&
		   token_ends_clause(parser, after);
}

DialectQuery *
dialect_parse(const char *text)
{
	DialectQuery *query = palloc0(sizeof(DialectQuery));
	Parser parser = {.scanner = {text, 0}, .clause_end = -1, .query = query};
	int depth = 0;
	bool from_seen = false;
	bool ended = false;

	query->sql = pstrdup(text);
	query->grace = -1;
	query->time_location = query->window_location = query->emit_location = -1;

	parser.token.kind = TOKEN_END; /* nothing stands before the first token */
	advance(&parser);
	while (parser.token.kind != TOKEN_END)
	{
		bool window = at_window(&parser);

		if (ended && !token_is(&parser, parser.token, ';'))
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR), errmsg("a query must be a single statement"),
					 position(&parser, parser.token.start)));

		if (window || at_emit(&parser))
		{
			if (depth > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s is supported in the outermost SELECT only",
								window ? "a stream window" : "EMIT"),
						 errhint("Make a query of its own of the sub-select, and read its result."),
						 position(&parser, parser.token.start)));
			if (!from_seen)
				syntax_error(&parser, parser.token, "Stream clauses stand after FROM.");
			if (window)
				parse_window(&parser);
			else
				parse_emit(&parser);
			continue;
		}
		refuse_stray_grace(&parser);

		if (token_is(&parser, parser.token, '(') || token_is(&parser, parser.token, '['))
			depth++;
		else if (token_is(&parser, parser.token, ')') || token_is(&parser, parser.token, ']'))
			depth--;
		else if (depth == 0 && token_is(&parser, parser.token, ';'))
			ended = true;
		else if (depth == 0 && token_is_word(&parser, parser.token, "from"))
			from_seen = true;
		advance(&parser);
	}
	return query;
}
