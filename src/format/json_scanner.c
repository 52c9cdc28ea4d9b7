/*
 * json_scanner.c
 *		One pass over a JSON text: is it well formed, and where are the wanted values?
 *
 * Accepts exactly what PostgreSQL's own parser (json_in) accepts, but for the depth of nesting, which is
 * only reported: the caller lets PostgreSQL judge unusual ones.
 *
 * Records of a topic look alike.  So each object of which something is wanted remembers the bytes between
 * its values (brace or comma, key, colon and white space) as the last records had them, a "step" for each
 * key.  Where a step's bytes recur, they need no look-up and not even a parse: what was well formed there
 * is so again.  Otherwise the key is read and looked up.
 */
#include "format/internal.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"

#define MAX_STEPS 1024  /* keys of an object whose bytes are remembered */
#define MAX_STEP_LEN 56 /* of each */
#define LOOK_AHEAD 4    /* steps tried where keys may be missing */
#define NESTING_SIZE 64 /* open containers there is room for at first */
#define MAX_MISSES 16   /* keys read in vain before the steps are learnt anew */

typedef struct JsonNode JsonNode;

/* A wanted key of an object. */
typedef struct JsonField
{
	char *name; /* in the server's encoding, of "len" bytes */
	int len;
	const char *utf8_name; /* for keys with escapes, which can name any character */
	int slot;              /* where its value goes; -1: only something inside it is wanted */
	int first_slot;        /* slots of it and of all that is inside: [first_slot, end_slot) */
	int end_slot;
	JsonNode *node; /* the wanted keys inside; NULL: none */
} JsonField;

typedef struct JsonStep
{
	JsonField *field; /* NULL: not wanted */
	int len;
	char bytes[MAX_STEP_LEN];
} JsonStep;

/* An object of which something is wanted. */
struct JsonNode
{
	int nfields;
	JsonField *fields;
	int next_field; /* where find_field() starts */
	int nsteps;
	int misses;
	JsonStep steps[MAX_STEPS];
};

struct JsonScanner
{
	JsonNode *root;
	int nslots;
	JsonSlot *slots;
	JsonSlot unused; /* of fields without a slot */
	/* of the text being scanned */
	const char *end;
	int depth;
	int max_depth;
	/* of each open container below the wanted ones: is it an object? */
	bool *nesting;
	int nesting_size;
};

static const char *scan_object(JsonScanner *scanner, JsonNode *node, const char *p);

/* ------------------------------------------------------------------ what is wanted */

static JsonField *
want_field(JsonNode *node, char *name)
{
	JsonField *field;
	int len = strlen(name);

	for (int i = 0; i < node->nfields; i++)
		if (node->fields[i].len == len && memcmp(node->fields[i].name, name, len) == 0)
			return &node->fields[i];

	if (node->fields == NULL)
		node->fields = palloc(sizeof(JsonField));
	else
		node->fields = repalloc(node->fields, sizeof(JsonField) * (node->nfields + 1));
	field = &node->fields[node->nfields++];
	*field = (JsonField){
		.name = name, .len = len, .utf8_name = pg_server_to_any(name, len, PG_UTF8), .slot = -1};
	return field;
}

static void
want_path(JsonNode *node, char **path, int npath)
{
	JsonField *field = want_field(node, path[0]);

	check_stack_depth();
	if (npath == 1)
		field->slot = 0; /* numbered later */
	else
	{
		if (field->node == NULL)
			field->node = palloc0(sizeof(JsonNode));
		want_path(field->node, path + 1, npath - 1);
	}
}

/* Number the slots such that those of a field and of all inside it are neighbours. */
static int
number_slots(JsonNode *node, int next)
{
	check_stack_depth();
	for (int i = 0; i < node->nfields; i++)
	{
		JsonField *field = &node->fields[i];

		field->first_slot = next;
		if (field->slot >= 0)
			field->slot = next++;
		if (field->node)
			next = number_slots(field->node, next);
		field->end_slot = next;
	}
	return next;
}

JsonScanner *
json_scanner_create(int nwanted, char ***paths, const int *npaths, const JsonSlot **slots)
{
	JsonScanner *scanner = palloc0(sizeof(JsonScanner));

	scanner->root = palloc0(sizeof(JsonNode));
	for (int i = 0; i < nwanted; i++)
		want_path(scanner->root, paths[i], npaths[i]);
	scanner->nslots = number_slots(scanner->root, 0);
	scanner->slots = palloc0(sizeof(JsonSlot) * Max(scanner->nslots, 1));
	scanner->nesting_size = NESTING_SIZE;
	scanner->nesting = palloc(sizeof(bool) * scanner->nesting_size);

	for (int i = 0; i < nwanted; i++)
	{
		JsonNode *node = scanner->root;
		JsonField *field = NULL;

		for (int j = 0; j < npaths[i]; j++)
		{
			Assert(node != NULL);
			field = want_field(node, paths[i][j]);
			node = field->node;
		}
		Assert(field != NULL);
		slots[i] = &scanner->slots[field->slot];
	}
	return scanner;
}

/* ------------------------------------------------------------------ tokens */

static inline const char *
skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

#define BYTES(b) (UINT64CONST(0x0101010101010101) * (b))
/* The lowest byte of x that is 0 has its high bit set in the result; bits above that one mean nothing. */
#define ZERO_BYTES(x) (((x) -BYTES(0x01)) & ~(x) &BYTES(0x80))

/*
 * The next byte of a string that is special: quote, backslash or control character; "end" if there is none.
 */
static inline const char *
string_special(const char *p, const char *end)
{
#ifndef WORDS_BIGENDIAN
	while (end - p >= (ptrdiff_t) sizeof(uint64))
	{
		uint64 word;
		uint64 hit;

		memcpy(&word, p, sizeof(word));
		hit = ZERO_BYTES(word ^ BYTES('"')) | ZERO_BYTES(word ^ BYTES('\\')) |
			  ((word - BYTES(0x20)) & ~word & BYTES(0x80));
		if (hit)
			return p + pg_rightmost_one_pos64(hit) / BITS_PER_BYTE;
		p += sizeof(word);
	}
#endif
	while (p < end && *p != '"' && *p != '\\' && (unsigned char) *p >= 0x20)
		p++;
	return p;
}

const char *
json_string_end(const char *p, const char *end, bool *escapes)
{
	for (;;)
	{
		p = string_special(p, end);
		if (p == end)
			return NULL;
		if (likely(*p == '"'))
			return p;
		if (*p != '\\' || end - p < 2)
			return NULL;
		*escapes = true;
		switch (p[1])
		{
			case '"':
			case '\\':
			case '/':
			case 'b':
			case 'f':
			case 'n':
			case 'r':
			case 't':
				p += 2;
				break;
			case 'u':
				if (end - p < 6)
					return NULL;
				for (int i = 2; i < 6; i++)
					if (!isxdigit((unsigned char) p[i]))
						return NULL;
				p += 6;
				break;
			default:
				return NULL;
		}
	}
}

static inline bool
is_digit(const char *p, const char *end)
{
	return p < end && *p >= '0' && *p <= '9';
}

/* The end of the number that starts at p; NULL: malformed.  What follows it is the caller's to check. */
const char *
json_number_end(const char *p, const char *end)
{
	if (p < end && *p == '-')
		p++;
	if (!is_digit(p, end))
		return NULL;
	if (*p == '0')
		p++;
	else
		while (is_digit(p, end))
			p++;
	if (p < end && *p == '.')
	{
		p++;
		if (!is_digit(p, end))
			return NULL;
		while (is_digit(p, end))
			p++;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (!is_digit(p, end))
			return NULL;
		while (is_digit(p, end))
			p++;
	}
	return p;
}

static inline bool
is_word(const char *p, const char *end, const char *word, int len)
{
	return end - p >= len && memcmp(p, word, len) == 0;
}

/*
 * Read the scalar at p into "slot"; returns its end, NULL if it is malformed.  Sets neither kind nor anything
 * else for a brace or bracket: those are for the caller.
 */
static inline const char *
scan_scalar(const char *p, const char *end, JsonSlot *slot)
{
	switch (*p)
	{
		case '"':
			slot->kind = JSON_STRING;
			slot->start = ++p;
			slot->escapes = false;
			p = json_string_end(p, end, &slot->escapes);
			if (p == NULL)
				return NULL;
			slot->len = p - slot->start;
			return p + 1;
		case 't':
			slot->kind = JSON_TRUE;
			slot->start = p;
			slot->len = 4;
			return is_word(p, end, "true", 4) ? p + 4 : NULL;
		case 'f':
			slot->kind = JSON_FALSE;
			slot->start = p;
			slot->len = 5;
			return is_word(p, end, "false", 5) ? p + 5 : NULL;
		case 'n':
			slot->kind = JSON_NULL;
			return is_word(p, end, "null", 4) ? p + 4 : NULL;
		default:
			slot->kind = JSON_NUMBER;
			slot->start = p;
			p = json_number_end(p, end);
			if (p == NULL)
				return NULL;
			slot->len = p - slot->start;
			return p;
	}
}

Size
json_unescaped_size(Size len, int encoding)
{
	/* the shortest escape of a character outside ASCII has 6 bytes */
	StaticAssertStmt(MAX_UNICODE_EQUIVALENT_STRING <= 6 * 3, "unexpectedly long characters");
	return encoding == PG_UTF8 ? len : len * 3;
}

char *
json_unescape(const char *p, const char *end, int encoding, char *out, const char **detail,
			  bool *zero)
{
	pg_wchar high = 0; /* the first half of a surrogate pair */

	*zero = false;
	*detail = "Unicode low surrogate must follow a high surrogate.";
	while (p < end)
	{
		const char *special = string_special(p, end);
		pg_wchar ch = 0;

		if (high && (special > p || p[1] != 'u'))
			return NULL;
		memcpy(out, p, special - p);
		out += special - p;
		p = special;
		if (p == end)
			break;

		if (p[1] != 'u')
		{
			static const char letters[] = "bfnrt";
			static const char controls[] = "\b\f\n\r\t";
			const char *letter = strchr(letters, p[1]);

			*out++ = letter ? controls[letter - letters] : p[1];
			p += 2;
			continue;
		}

		for (int i = 2; i < 6; i++)
			ch = ch * 16 + (p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
		p += 6;
		if (is_utf16_surrogate_first(ch))
		{
			if (high)
			{
				*detail = "Unicode high surrogate must not follow a high surrogate.";
				return NULL;
			}
			high = ch;
			continue;
		}
		if (is_utf16_surrogate_second(ch) != (high != 0))
			return NULL;
		if (high)
			ch = surrogate_pair_to_codepoint(high, ch);
		high = 0;
		if (ch == 0)
		{
			*zero = true;
			*detail = "\\u0000 cannot be converted to text.";
			return NULL;
		}
		if (encoding == PG_UTF8)
		{
			unicode_to_utf8(ch, (unsigned char *) out);
			out += pg_utf_mblen((unsigned char *) out);
		}
		else
		{
			char converted[MAX_UNICODE_EQUIVALENT_STRING + 1];
			Size len;

			pg_unicode_to_server(ch, (unsigned char *) converted);
			len = strlen(converted);
			memcpy(out, converted, len);
			out += len;
		}
	}
	return high ? NULL : out;
}

/* ------------------------------------------------------------------ objects and arrays */

static inline void
enter(JsonScanner *scanner)
{
	if (++scanner->depth > scanner->max_depth)
		scanner->max_depth = scanner->depth;
}

static void
push_container(JsonScanner *scanner, int level, bool object)
{
	enter(scanner);
	if (level >= scanner->nesting_size)
	{
		scanner->nesting = repalloc(scanner->nesting, sizeof(bool) * scanner->nesting_size * 2);
		scanner->nesting_size *= 2;
	}
	scanner->nesting[level] = object;
}

/* The key at p (or no key, which is an error) with its colon; returns where the value starts. */
static inline const char *
skip_key(const char *p, const char *end, bool *escapes)
{
	if (p >= end || *p != '"')
		return NULL;
	p = json_string_end(p + 1, end, escapes);
	if (p == NULL)
		return NULL;
	p = skip_space(p + 1, end);
	if (p >= end || *p != ':')
		return NULL;
	return skip_space(p + 1, end);
}

/*
 * Check the object or array at p, of which nothing inside is wanted; returns its end, NULL if it is
 * malformed.  A loop and not a recursion, for the sender decides how deep it nests.
 */
static const char *
skip_container(JsonScanner *scanner, const char *p, bool *escapes)
{
	const char *end = scanner->end;
	JsonSlot scalar;
	int level = 0; /* containers open */

	for (;;)
	{
		/* p is at a value */
		if (p >= end)
			return NULL;
		if (*p == '{' || *p == '[')
		{
			bool object = *p == '{';

			push_container(scanner, level++, object);
			p = skip_space(p + 1, end);
			if (p >= end)
				return NULL;
			if (*p != (object ? '}' : ']'))
			{
				if (object)
				{
					p = skip_key(p, end, escapes);
					if (p == NULL)
						return NULL;
				}
				continue;
			}
		}
		else
		{
			p = scan_scalar(p, end, &scalar);
			if (p == NULL)
				return NULL;
			if (scalar.kind == JSON_STRING && scalar.escapes)
				*escapes = true;
			p = skip_space(p, end);
		}

		/* p is behind a value, or at the end of an empty container */
		for (;;)
		{
			bool object = scanner->nesting[level - 1];

			if (p >= end)
				return NULL;
			if (*p == ',')
				break;
			if (*p != (object ? '}' : ']'))
				return NULL;
			p++;
			scanner->depth--;
			if (--level == 0)
				return p;
			p = skip_space(p, end);
		}

		p = skip_space(p + 1, end);
		if (scanner->nesting[level - 1])
		{
			p = skip_key(p, end, escapes);
			if (p == NULL)
				return NULL;
		}
	}
}

/* Starts behind the field that was found last, for keys tend to come in the order of columns. */
static JsonField *
find_field(JsonNode *node, const char *key, int len)
{
	for (int i = 0; i < node->nfields; i++)
	{
		JsonField *field;

		if (node->next_field >= node->nfields)
			node->next_field = 0;
		field = &node->fields[node->next_field++];
		if (field->len == len && memcmp(field->name, key, len) == 0)
			return field;
	}
	return NULL;
}

/*
 * A key with escapes.  One that is no text, as of \u0000, is none of the wanted.  Compared as UTF-8, for it may have
 * characters that the server's encoding has not.
 */
static JsonField *
find_escaped_field(JsonNode *node, const char *key, int len)
{
	char *utf8 = pg_server_to_any(key, len, PG_UTF8);
	int utf8_len = utf8 == key ? len : (int) strlen(utf8);
	char *name = palloc(json_unescaped_size(utf8_len, PG_UTF8) + 1);
	const char *detail;
	bool zero;
	char *name_end = json_unescape(utf8, utf8 + utf8_len, PG_UTF8, name, &detail, &zero);
	JsonField *field = NULL;

	if (name_end != NULL)
	{
		*name_end = '\0';
		for (int i = 0; i < node->nfields && field == NULL; i++)
			if (strcmp(node->fields[i].utf8_name, name) == 0)
				field = &node->fields[i];
	}
	pfree(name);
	if (utf8 != key)
		pfree(utf8);
	return field;
}

/*
 * The brace or comma at p, the key behind it and its colon, not as remembered.  Returns where the value
 * starts; or the end of the object, with *at_end set; or NULL if it is malformed.
 */
static const char *
read_key(JsonScanner *scanner, JsonNode *node, const char *p, bool first, JsonField **field,
		 bool *at_end)
{
	const char *end = scanner->end;
	const char *key;
	bool escapes = false;

	if (first)
		p++;
	p = skip_space(p, end);
	if (p >= end)
		return NULL;
	if (*p == '}')
	{
		*at_end = true;
		return p + 1;
	}
	if (!first)
	{
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1, end);
	}
	if (p >= end || *p != '"')
		return NULL;
	key = p + 1;
	p = json_string_end(key, end, &escapes);
	if (p == NULL)
		return NULL;
	*field = escapes ? find_escaped_field(node, key, p - key) : find_field(node, key, p - key);
	p = skip_space(p + 1, end);
	if (p >= end || *p != ':')
		return NULL;
	return skip_space(p + 1, end);
}

/* Remember a key's bytes as the next step, if there is room. */
static void
learn_step(JsonNode *node, JsonField *field, const char *bytes, int len)
{
	JsonStep *step;

	if (node->nsteps == MAX_STEPS || len > MAX_STEP_LEN)
		return;
	step = &node->steps[node->nsteps++];
	step->field = field;
	step->len = len;
	memcpy(step->bytes, bytes, len);
}

/* Are the step's bytes what stands at p?  (A call of memcmp() costs more than the comparison.) */
static inline bool
step_matches(const JsonStep *step, const char *p, const char *end)
{
	int len = step->len;

	if (end - p < len)
		return false;
	if (len >= (int) sizeof(uint64))
	{
		uint64 a;
		uint64 b;
		int i = 0;

		for (;;)
		{
			memcpy(&a, p + i, sizeof(a));
			memcpy(&b, step->bytes + i, sizeof(b));
			if (a != b)
				return false;
			if (i == len - (int) sizeof(uint64))
				return true;
			i = Min(i + (int) sizeof(uint64), len - (int) sizeof(uint64));
		}
	}
	return memcmp(p, step->bytes, len) == 0;
}

/* The value at p of a wanted field, or of one that something is wanted in; returns its end. */
static const char *
scan_field(JsonScanner *scanner, JsonField *field, const char *p)
{
	JsonSlot *slot = field->slot >= 0 ? &scanner->slots[field->slot] : &scanner->unused;
	bool object;
	int len;

	/* what a duplicate of this key has left is gone, as a whole */
	if (field->node)
		for (int i = field->first_slot; i < field->end_slot; i++)
			scanner->slots[i].kind = JSON_MISSING;

	if (*p != '{' && *p != '[')
		return scan_scalar(p, scanner->end, slot);

	object = *p == '{';
	slot->kind = object ? JSON_OBJECT : JSON_ARRAY;
	slot->start = p;
	slot->escapes = false;
	if (object && field->node)
	{
		/* whether the keys have escapes is not known */
		slot->escapes = true;
		p = scan_object(scanner, field->node, p);
	}
	else
		p = skip_container(scanner, p, &slot->escapes);
	if (p == NULL)
		return NULL;
	len = p - slot->start;
	slot->len = len;
	return p;
}

/* The object at p, of which "node" says what is wanted; returns its end, NULL if it is malformed. */
static const char *
scan_object(JsonScanner *scanner, JsonNode *node, const char *p)
{
	const char *end = scanner->end;
	bool learning = node->nsteps == 0;
	bool first = true;
	int next = 0; /* the step that is expected */

	check_stack_depth();
	enter(scanner);
	for (;;)
	{
		/* p is at the opening brace, or behind a value */
		JsonField *field = NULL;
		int last = Min(node->nsteps, next + LOOK_AHEAD);
		int step;

		if (!first && p < end && *p == '}')
		{
			scanner->depth--;
			return p + 1;
		}

		/* only the first step has the opening brace in it, and nothing else starts with one */
		for (step = next; step < last; step++)
			if (step_matches(&node->steps[step], p, end))
				break;
		if (likely(step < last))
		{
			field = node->steps[step].field;
			p = skip_space(p + node->steps[step].len, end);
			next = step + 1;
		}
		else
		{
			const char *start = p;
			bool at_end = false;

			p = read_key(scanner, node, p, first, &field, &at_end);
			if (p == NULL)
				return NULL;
			if (at_end)
			{
				scanner->depth--;
				return p;
			}
			if (learning)
			{
				learn_step(node, field, start, p - start);
				next = node->nsteps;
			}
			else
			{
				if (next == 0)
					next = 1;
				if (next < node->nsteps && ++node->misses > MAX_MISSES)
				{
					node->misses = 0;
					node->nsteps = 0;
				}
			}
		}
		first = false;

		if (p >= end)
			return NULL;
		if (field)
			p = scan_field(scanner, field, p);
		else if (*p == '{' || *p == '[')
		{
			bool escapes = false;

			p = skip_container(scanner, p, &escapes);
		}
		else
		{
			JsonSlot scalar;

			p = scan_scalar(p, end, &scalar);
		}
		if (p == NULL)
			return NULL;
	}
}

JsonVerdict
json_scan(JsonScanner *scanner, const char *str, int len, int *depth)
{
	const char *end = str + len;
	const char *p = skip_space(str, end);
	JsonVerdict verdict;

	scanner->end = end;
	scanner->depth = 0;
	scanner->max_depth = 0;
	for (int i = 0; i < scanner->nslots; i++)
		scanner->slots[i].kind = JSON_MISSING;

	if (p == end)
		return JSON_IS_INVALID;
	if (likely(*p == '{'))
	{
		verdict = JSON_IS_OBJECT;
		p = scan_object(scanner, scanner->root, p);
	}
	else if (*p == '[')
	{
		bool escapes = false;

		verdict = JSON_IS_ARRAY;
		p = skip_container(scanner, p, &escapes);
	}
	else
	{
		verdict = JSON_IS_SCALAR;
		p = scan_scalar(p, end, &scanner->unused);
	}
	*depth = scanner->max_depth;

	/* one hostile record must not hold its memory for ever */
	if (unlikely(scanner->nesting_size > NESTING_SIZE))
	{
		scanner->nesting = repalloc(scanner->nesting, sizeof(bool) * NESTING_SIZE);
		scanner->nesting_size = NESTING_SIZE;
	}
	if (p == NULL || skip_space(p, end) != end)
		return JSON_IS_INVALID;
	return verdict;
}
