/*
 * handwritten.c
 *		The query by hand, as fast as it gets: what velo's general engine is measured against.
 *
 *	SELECT symbol, avg(price), count(*) FROM ... WHERE price > 100 WINDOW TUMBLING(5m) GROUP BY symbol
 *
 *	handwritten BROKERS TOPIC
 *
 * One pass over the JSON takes the three wanted values and checks the whole record's syntax and UTF-8, as PostgreSQL
 * would; records are late or not as in velo; then a hash table by window and symbol.  Nothing is stored: a line on
 * standard error sums the groups up, and the benchmark compares it with velo's result.
 *
 * What makes it fast is written for these records, and nothing but speed depends on it: records up to 128 bytes without
 * escapes go a short way, on which strings are found by the bits of their quotes and digits are converted eight at once;
 * all others, and all that seem wrong on that way, go the long way.  The minute of a time is converted when it changes.
 */
#include "bench.h"

#include <ctype.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define WINDOW_US (INT64_C(300) * 1000000)
#define DELAY_US (INT64_C(10) * 1000000) /* of the watermark */
#define SYMBOL_WORDS 3
#define MAX_SYMBOL (SYMBOL_WORDS * 8)
#define MAX_DEPTH 64

/* ---------------------------------------------------------------- groups */

typedef struct Group
{
	int64_t window;
	uint64_t symbol[SYMBOL_WORDS]; /* its bytes, then zeros, which no symbol holds */
	int64_t count;                 /* 0: the place is free */
	double sum;
} Group;

static Group *groups;
static uint32_t ngroups;
static uint32_t capacity; /* a power of two */

static int64_t max_time = INT64_MIN + DELAY_US;
static int64_t nlate;
static int64_t nbad;

/* The place of a group, or the free one where it belongs. */
static inline Group *
find_group(int64_t window, const uint64_t *symbol)
{
	uint64_t hash = (uint64_t) window * UINT64_C(0x9e3779b97f4a7c15);

	for (int i = 0; i < SYMBOL_WORDS; i++)
	{
		hash = (hash ^ symbol[i]) * UINT64_C(0xff51afd7ed558ccd);
		hash ^= hash >> 32;
	}
	for (uint32_t place = hash & (capacity - 1);; place = (place + 1) & (capacity - 1))
	{
		Group *group = &groups[place];

		if (group->count == 0 || (group->window == window && group->symbol[0] == symbol[0] &&
								  group->symbol[1] == symbol[1] && group->symbol[2] == symbol[2]))
			return group;
	}
}

static void
grow(void)
{
	Group *old = groups;
	uint32_t old_capacity = capacity;

	capacity = old ? 2 * capacity : 4096;
	groups = calloc(capacity, sizeof(Group));
	if (!groups)
		bench_die("out of memory");
	for (uint32_t i = 0; i < old_capacity; i++)
	{
		if (old[i].count)
			*find_group(old[i].window, old[i].symbol) = old[i];
	}
	free(old);
}

static inline void
add_to_group(int64_t window, const uint64_t *symbol, double price)
{
	Group *group;

	if (2 * ngroups >= capacity)
		grow();
	group = find_group(window, symbol);
	if (group->count == 0)
	{
		group->window = window;
		memcpy(group->symbol, symbol, sizeof(group->symbol));
		ngroups++;
	}
	group->count++;
	group->sum += price;
}

/* ---------------------------------------------------------------- values */

typedef struct Wanted
{
	const char *symbol; /* NULL: none */
	uint32_t symbol_len;
	bool has_price;
	bool has_time;
	double price;
	int64_t time; /* microseconds since 1970 */
} Wanted;

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
is_key(const char *key, size_t key_len, const char *name, size_t len)
{
	return key_len == len && memcmp(key, name, len) == 0;
}

static inline int
two_digits(const char *p)
{
	return (p[0] - '0') * 10 + (p[1] - '0');
}

/* 2026-01-01T00:00 to microseconds since 1970 */
static bool
parse_minute(const char *p, int64_t *time)
{
	static const unsigned char month_days[] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	static const char layout[] = "0000-00-00T00:00";
	int year, month, day, era_year;
	int64_t days;

	for (int i = 0; i < 16; i++)
	{
		if (layout[i] == '0' ? !is_digit(p[i]) : p[i] != layout[i])
			return false;
	}
	year = two_digits(p) * 100 + two_digits(p + 2);
	month = two_digits(p + 5);
	day = two_digits(p + 8);
	if (month < 1 || month > 12 || day < 1 || day > month_days[month] ||
		(month == 2 && day == 29 && (year % 4 || (year % 100 == 0 && year % 400))) ||
		two_digits(p + 11) > 23 || two_digits(p + 14) > 59)
		return false;

	/* the year begins in March, so that leap days end it */
	era_year = month > 2 ? year : year - 1;
	days = INT64_C(365) * era_year + era_year / 4 - era_year / 100 + era_year / 400 +
		   (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1 - 719468;
	*time = ((days * 24 + two_digits(p + 11)) * 60 + two_digits(p + 14)) * INT64_C(60000000);
	return true;
}

/* 2026-01-01T00:00:00[.123456]Z to microseconds since 1970 */
static inline bool
parse_time(const char *p, size_t len, int64_t *time)
{
	static const int fraction_units[] = {1000000, 100000, 10000, 1000, 100, 10, 1};
	static char minute[16]; /* the one converted last */
	static int64_t minute_time;
	int64_t fraction = 0;

	if (len < 20 || len > 27 || p[len - 1] != 'Z' || p[16] != ':' || p[17] < '0' || p[17] > '5' ||
		!is_digit(p[18]))
		return false;
	if (memcmp(p, minute, 16) != 0)
	{
		if (!parse_minute(p, &minute_time))
			return false;
		memcpy(minute, p, 16);
	}
	if (len > 20)
	{
		if (p[19] != '.' || len < 22)
			return false;
		for (size_t i = 20; i < len - 1; i++)
		{
			if (!is_digit(p[i]))
				return false;
			fraction = fraction * 10 + (p[i] - '0');
		}
		fraction *= fraction_units[len - 21];
	}
	*time = minute_time + two_digits(p + 17) * INT64_C(1000000) + fraction;
	return true;
}

/* ---------------------------------------------------------------- the long way: any JSON */

static inline const char *
skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

/* The end of the UTF-8 sequence that starts at p with a byte above 0x7f; NULL if it is none. */
static const char *
skip_utf8(const char *p, const char *end)
{
	const unsigned char *u = (const unsigned char *) p;
	int len = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;

	if (u[0] < 0xc2 || u[0] > 0xf4 || end - p < len)
		return NULL;
	for (int i = 1; i < len; i++)
	{
		if ((u[i] & 0xc0) != 0x80)
			return NULL;
	}
	if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) ||
		(u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
		return NULL;
	return p + len;
}

/*
 * p stands behind the opening quote; returns the place of the closing one, NULL for a malformed string.  *plain: it has
 * no escapes, so that its bytes are its value.
 */
static const char *
scan_string(const char *p, const char *end, bool *plain)
{
	*plain = true;
	while (p && p < end)
	{
		if (*p == '"')
			return p;
		if ((unsigned char) *p < 0x20)
			return NULL;
		if (*p & 0x80)
			p = skip_utf8(p, end);
		else if (*p != '\\')
			p++;
		else
		{
			*plain = false;
			if (end - p < 2 || !p[1] || !strchr("\"\\/bfnrtu", p[1]))
				return NULL;
			if (p[1] != 'u')
				p += 2;
			else if (end - p >= 6 && isxdigit((unsigned char) p[2]) &&
					 isxdigit((unsigned char) p[3]) && isxdigit((unsigned char) p[4]) &&
					 isxdigit((unsigned char) p[5]))
				p += 6;
			else
				return NULL;
		}
	}
	return NULL;
}

/* The end of the number at p, NULL if it is malformed.  value may be NULL. */
static const char *
scan_number(const char *p, const char *end, double *value)
{
	char number[512];
	const char *start = p;
	const char *first;

	p += *p == '-';
	first = p;
	while (p < end && is_digit(*p))
		p++;
	if (p == first || (*first == '0' && p - first > 1))
		return NULL;
	if (p < end && *p == '.')
	{
		first = ++p;
		while (p < end && is_digit(*p))
			p++;
		if (p == first)
			return NULL;
	}
	if (p < end && (*p | 32) == 'e')
	{
		p++;
		p += p < end && (*p == '+' || *p == '-');
		first = p;
		while (p < end && is_digit(*p))
			p++;
		if (p == first)
			return NULL;
	}
	if (value)
	{
		if ((size_t) (p - start) >= sizeof(number))
			return NULL;
		memcpy(number, start, p - start);
		number[p - start] = '\0';
		*value = strtod(number, NULL);
	}
	return p;
}

static const char *scan_value(const char *p, const char *end, Wanted *wanted, int depth);

/* As scan_value, for the value of a key of the record itself; p is not at the end. */
static const char *
scan_member(const char *p, const char *end, const char *key, size_t key_len, Wanted *wanted)
{
	bool is_symbol = is_key(key, key_len, "symbol", 6);
	bool is_price = is_key(key, key_len, "price", 5);
	bool is_time = is_key(key, key_len, "ts", 2);
	bool plain;

	if (is_symbol)
		wanted->symbol = NULL;
	if (is_price)
		wanted->has_price = false;
	if (is_time)
		wanted->has_time = false;
	if (!(is_symbol || is_price || is_time) || *p == 'n')
		return scan_value(p, end, NULL, 1);
	if (is_price)
	{
		wanted->has_price = true;
		return *p == '-' || is_digit(*p) ? scan_number(p, end, &wanted->price) : NULL;
	}
	if (*p != '"')
		return NULL;
	key = p + 1;
	p = scan_string(key, end, &plain);
	if (!p || !plain)
		return NULL;
	if (is_symbol)
	{
		wanted->symbol = key;
		wanted->symbol_len = p - key;
	}
	else
	{
		wanted->has_time = true;
		if (!parse_time(key, p - key, &wanted->time))
			return NULL;
	}
	return p + 1;
}

/*
 * The end of the value at p, NULL if it is malformed.  wanted: take the three values out of this object; NULL for
 * everything inside it.
 */
static const char *
scan_value(const char *p, const char *end, Wanted *wanted, int depth)
{
	bool is_object;
	bool plain;

	if (p == end || depth > MAX_DEPTH)
		return NULL;
	if (*p == '"')
	{
		p = scan_string(p + 1, end, &plain);
		return p ? p + 1 : NULL;
	}
	if (*p == '-' || is_digit(*p))
		return scan_number(p, end, NULL);
	if (end - p >= 4 && (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0))
		return p + 4;
	if (end - p >= 5 && memcmp(p, "false", 5) == 0)
		return p + 5;
	if (*p != '{' && *p != '[')
		return NULL;

	is_object = *p == '{';
	p = skip_space(p + 1, end);
	if (p < end && *p == (is_object ? '}' : ']'))
		return p + 1;
	while (p < end)
	{
		const char *key = p + 1;
		size_t key_len = 0;

		if (is_object)
		{
			p = *p == '"' ? scan_string(key, end, &plain) : NULL;
			if (!p)
				return NULL;
			key_len = p - key;
			p = skip_space(p + 1, end);
			if (p == end || *p != ':')
				return NULL;
			p = skip_space(p + 1, end);
			if (p == end)
				return NULL;
		}
		p = is_object && wanted ? scan_member(p, end, key, key_len, wanted)
								: scan_value(p, end, NULL, depth + 1);
		if (!p)
			return NULL;
		p = skip_space(p, end);
		if (p < end && *p == (is_object ? '}' : ']'))
			return p + 1;
		if (p == end || *p != ',')
			return NULL;
		p = skip_space(p + 1, end);
	}
	return NULL;
}

static bool
decode_any(const char *p, const char *end, Wanted *wanted)
{
	p = scan_value(skip_space(p, end), end, wanted, 0);
	return p && skip_space(p, end) == end && wanted->has_time &&
		   (!wanted->symbol || wanted->symbol_len <= MAX_SYMBOL);
}

/* ---------------------------------------------------------------- the short way: small, flat, no escapes, no blanks */

#define MAX_SHORT 128
#define NO_QUOTE 0xff

/*
 * The places of all quotes of a record of 16 to MAX_SHORT bytes, and NO_QUOTE twice behind them.  False if it holds a
 * backslash, a control character or a byte above 0x7f.
 */
static inline bool
find_quotes(const char *p, size_t len, unsigned char *places)
{
	unsigned __int128 quotes = 0;
#ifdef __SSE2__
	__m128i odd = _mm_setzero_si128();

	for (size_t i = 0; i < len; i += 16)
	{
		/* the last sixteen bytes may overlap those before */
		size_t at = i + 16 <= len ? i : len - 16;
		__m128i bytes = _mm_loadu_si128((const __m128i *) (p + at));
		__m128i is_quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
		__m128i is_backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));

		/* a signed comparison: above 0x7f is below zero */
		odd = _mm_or_si128(odd, _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20)));
		odd = _mm_or_si128(odd, is_backslash);
		quotes |= (unsigned __int128) (unsigned) _mm_movemask_epi8(is_quote) << at;
	}
	if (_mm_movemask_epi8(odd))
		return false;
#else
	for (size_t i = 0; i < len; i++)
	{
		if (p[i] == '\\' || (unsigned char) p[i] < 0x20 || (unsigned char) p[i] > 0x7f)
			return false;
		quotes |= (unsigned __int128) (p[i] == '"') << i;
	}
#endif
	for (uint64_t bits = (uint64_t) quotes; bits; bits &= bits - 1)
		*places++ = __builtin_ctzll(bits);
	for (uint64_t bits = (uint64_t) (quotes >> 64); bits; bits &= bits - 1)
		*places++ = 64 + __builtin_ctzll(bits);
	places[0] = places[1] = NO_QUOTE;
	return true;
}

/* Eight bytes, the first of which is the lowest: for little-endian machines, as all are that velo is built for. */
static inline uint64_t
load_word(const char *p)
{
	uint64_t word;

	memcpy(&word, p, 8);
	return word;
}

/* How many bytes of a word are digits before the first that is none, from its lowest byte on. */
static inline int
count_digits(uint64_t word)
{
	uint64_t values = word ^ UINT64_C(0x3030303030303030);
	uint64_t others =
		((values + UINT64_C(0x7676767676767676)) | values) & UINT64_C(0x8080808080808080);

	return others ? __builtin_ctzll(others) / 8 : 8;
}

/* The number that the lowest n (1 to 8) bytes of a word, all digits, spell. */
static inline uint64_t
convert_digits(uint64_t word, int n)
{
	word = word << (64 - 8 * n) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	word = word * (10 * 256 + 1) >> 8 & UINT64_C(0x00ff00ff00ff00ff);
	word = word * (100 * 65536 + 1) >> 16 & UINT64_C(0x0000ffff0000ffff);
	return word * (UINT64_C(10000) * 4294967296 + 1) >> 32;
}

/* The end of the number at p, which 18 bytes follow at least; NULL: not for this way.  value may be NULL. */
static inline const char *
short_number(const char *p, double *value)
{
	static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
	uint64_t word = load_word(p);
	int n = count_digits(word);
	uint64_t number;

	if (n == 0 || n == 8 || (n > 1 && *p == '0'))
		return NULL;
	number = convert_digits(word, n);
	p += n;
	n = 0;
	if (*p == '.')
	{
		word = load_word(++p);
		n = count_digits(word);
		if (n == 0 || n == 8)
			return NULL;
		number = number * (uint64_t) powers[n] + convert_digits(word, n);
		p += n;
	}
	/* both are exact, so their quotient is rounded right */
	if (value)
		*value = (double) number / powers[n];
	return p;
}

/* False: not for this way, or malformed; then wanted may hold anything. */
static inline bool
decode_short(const char *p, const char *end, Wanted *wanted)
{
	unsigned char places[MAX_SHORT + 2];
	const unsigned char *quote = places;
	const char *start = p;

	if (end - p < 16 || end - p > MAX_SHORT || *p != '{' || end[-1] != '}' ||
		!find_quotes(p, end - p, places))
		return false;
	do
	{
		const char *key = ++p + 1;
		size_t key_len = quote[1] - quote[0] - 1;

		if (quote[1] == NO_QUOTE || start + quote[0] != p)
			return false;
		p = start + quote[1] + 1;
		quote += 2;
		if (*p != ':')
			return false;
		p++;
		if (start + quote[0] == p)
		{
			const char *string = p + 1;
			size_t len = quote[1] - quote[0] - 1;

			if (quote[1] == NO_QUOTE)
				return false;
			p = start + quote[1] + 1;
			quote += 2;
			if (is_key(key, key_len, "symbol", 6))
			{
				if (len > MAX_SYMBOL)
					return false;
				wanted->symbol = string;
				wanted->symbol_len = len;
			}
			else if (is_key(key, key_len, "ts", 2))
			{
				if (!parse_time(string, len, &wanted->time))
					return false;
				wanted->has_time = true;
			}
			else if (is_key(key, key_len, "price", 5))
				return false;
		}
		else
		{
			bool is_price = is_key(key, key_len, "price", 5);

			if (end - p < 19 || is_key(key, key_len, "symbol", 6) || is_key(key, key_len, "ts", 2))
				return false;
			p = short_number(p, is_price ? &wanted->price : NULL);
			if (!p)
				return false;
			wanted->has_price |= is_price;
		}
	} while (p < end && *p == ',');
	return p == end - 1 && wanted->has_time;
}

/* ---------------------------------------------------------------- the query */

/* The bytes of a symbol, followed by zeros; end: of the record that holds them.  For NULL, what no symbol can be. */
static inline void
load_symbol(const char *symbol, uint32_t len, const char *end, uint64_t *words)
{
	if (!symbol)
	{
		memset(words, 0xff, MAX_SYMBOL);
		return;
	}
	for (int i = 0; i < SYMBOL_WORDS; i++, symbol += 8)
	{
		uint32_t n = len < 8 ? len : 8;

		words[i] = 0;
		if (n == 0)
			continue;
		if (end - symbol >= 8)
			words[i] = load_word(symbol) << (64 - 8 * n) >> (64 - 8 * n);
		else
			memcpy(&words[i], symbol, n);
		len -= n;
	}
}

static void
handle_batch(rd_kafka_message_t **messages, size_t nmessages)
{
	for (size_t i = 0; i < nmessages; i++)
	{
		const char *p = messages[i]->payload;
		const char *end = p + messages[i]->len;
		Wanted wanted = {0};
		uint64_t symbol[SYMBOL_WORDS];
		int64_t window;
		int64_t watermark;

		if (!p || !decode_short(p, end, &wanted))
		{
			wanted = (Wanted){0};
			if (!p || !decode_any(p, end, &wanted))
			{
				nbad++;
				continue;
			}
		}
		watermark = max_time - DELAY_US;
		if (wanted.time > max_time)
			max_time = wanted.time;
		if (!wanted.has_price || !(wanted.price > 100))
			continue;
		window = wanted.time / WINDOW_US - (wanted.time % WINDOW_US < 0);
		if ((window + 1) * WINDOW_US <= watermark)
		{
			nlate++;
			continue;
		}
		load_symbol(wanted.symbol, wanted.symbol_len, end, symbol);
		add_to_group(window, symbol, wanted.price);
	}
}

int
main(int argc, char **argv)
{
	int64_t count = 0;
	double sum = 0;

	if (argc != 3)
		bench_die("usage: handwritten BROKERS TOPIC");
	consume_all(argv[1], argv[2], handle_batch);
	for (uint32_t i = 0; i < capacity; i++)
	{
		count += groups[i].count;
		sum += groups[i].sum;
	}
	fprintf(stderr, "groups %u records %lld sum %.2f late %lld bad %lld\n", ngroups,
			(long long) count, sum, (long long) nlate, (long long) nbad);
	return 0;
}
