/*
 * handwritten.c
 *		The query by hand, as fast as it gets: what velo's general engine is measured against.
 *
 *	SELECT symbol, avg(price), count(*) FROM ... WHERE price > 100 WINDOW TUMBLING(5m) GROUP BY symbol
 *
 *	handwritten BROKERS TOPIC
 *
 * One pass over the JSON that checks its syntax and UTF-8 as PostgreSQL would, and takes the three wanted values; then
 * a hash table by window and symbol.  Nothing is written anywhere but a line on standard error that sums the groups up.
 */
#include "bench.h"

#include <emmintrin.h>

#define WINDOW_US (INT64_C(300) * 1000000)
#define MAX_SYMBOL 24
#define MAX_DEPTH 64

/* ---------------------------------------------------------------- groups */

typedef struct Group
{
	int64_t window;
	int64_t count;
	double sum;
	uint32_t hash;
	uint32_t symbol_len; /* 0: the place is free */
	char symbol[MAX_SYMBOL];
} Group;

static Group *groups;
static uint32_t ngroups;
static uint32_t capacity = 1024; /* a power of two */

static int64_t nbad;

static uint32_t
hash_group(const char *symbol, uint32_t len, int64_t window)
{
	uint64_t h = (uint64_t) window * UINT64_C(0x9e3779b97f4a7c15) ^ len;
	uint64_t word;

	for (; len >= 8; symbol += 8, len -= 8)
	{
		memcpy(&word, symbol, 8);
		h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	word = 0;
	for (uint32_t i = 0; i < len; i++)
		word = word << 8 | (unsigned char) symbol[i];
	h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
	return (uint32_t) (h ^ h >> 32);
}

static void
grow(void)
{
	Group *old = groups;
	uint32_t old_capacity = old ? capacity : 0;

	if (old)
		capacity *= 2;
	groups = calloc(capacity, sizeof(Group));
	for (uint32_t i = 0; i < old_capacity; i++)
	{
		uint32_t place = old[i].hash & (capacity - 1);

		if (old[i].symbol_len == 0)
			continue;
		while (groups[place].symbol_len)
			place = (place + 1) & (capacity - 1);
		groups[place] = old[i];
	}
	free(old);
}

static void
add_to_group(const char *symbol, uint32_t len, int64_t time, double price)
{
	int64_t window = time / WINDOW_US - (time % WINDOW_US < 0);
	uint32_t hash = hash_group(symbol, len, window);
	Group *group;

	if (2 * ngroups >= capacity || !groups)
		grow();
	for (uint32_t place = hash & (capacity - 1);; place = (place + 1) & (capacity - 1))
	{
		group = &groups[place];
		if (group->symbol_len == 0)
		{
			memcpy(group->symbol, symbol, len);
			group->symbol_len = len;
			group->hash = hash;
			group->window = window;
			ngroups++;
			break;
		}
		if (group->hash == hash && group->window == window && group->symbol_len == len &&
			memcmp(group->symbol, symbol, len) == 0)
			break;
	}
	group->count++;
	group->sum += price;
}

/* ---------------------------------------------------------------- JSON */

typedef struct Wanted
{
	const char *symbol; /* NULL: none */
	uint32_t symbol_len;
	bool has_price;
	bool has_time;
	double price;
	int64_t time; /* microseconds since 1970 */
} Wanted;

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
static inline const char *
scan_string(const char *p, const char *end, bool *plain)
{
	*plain = true;
	while (p < end)
	{
		if (end - p >= 16)
		{
			__m128i bytes = _mm_loadu_si128((const __m128i *) p);
			/* a signed comparison: control characters and all bytes above 0x7f */
			__m128i odd = _mm_or_si128(_mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20)),
									   _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')),
													_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'))));
			int mask = _mm_movemask_epi8(odd);

			if (mask == 0)
			{
				p += 16;
				continue;
			}
			p += __builtin_ctz(mask);
		}

		if (*p == '"')
			return p;
		if (*p == '\\')
		{
			*plain = false;
			if (end - p < 2)
				return NULL;
			if (p[1] == 'u')
			{
				if (end - p < 6)
					return NULL;
				for (int i = 2; i < 6; i++)
				{
					if (!((p[i] >= '0' && p[i] <= '9') ||
						  ((p[i] | 32) >= 'a' && (p[i] | 32) <= 'f')))
						return NULL;
				}
				p += 6;
			}
			else if (p[1] && strchr("\"\\/bfnrt", p[1]))
				p += 2;
			else
				return NULL;
		}
		else if ((unsigned char) *p < 0x20)
			return NULL;
		else if (*p & 0x80)
		{
			p = skip_utf8(p, end);
			if (!p)
				return NULL;
		}
		else
			p++;
	}
	return NULL;
}

/* The end of the number at p, NULL if it is malformed.  value may be NULL. */
static inline const char *
scan_number(const char *p, const char *end, double *value)
{
	static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
									1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
									1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
	const char *start = p;
	bool negative = *p == '-';
	uint64_t digits = 0;
	int ndigits = 0;
	int scale = 0;
	bool has_exponent = false;

	p += negative;
	if (p == end || *p < '0' || *p > '9' ||
		(*p == '0' && p + 1 < end && p[1] >= '0' && p[1] <= '9'))
		return NULL;
	for (; p < end && *p >= '0' && *p <= '9'; p++, ndigits++)
		digits = digits * 10 + (*p - '0');
	if (p < end && *p == '.')
	{
		const char *point = p++;

		for (; p < end && *p >= '0' && *p <= '9'; p++, ndigits++)
			digits = digits * 10 + (*p - '0');
		scale = p - point - 1;
		if (scale == 0)
			return NULL;
	}
	if (p < end && (*p | 32) == 'e')
	{
		const char *first;

		has_exponent = true;
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		for (first = p; p < end && *p >= '0' && *p <= '9'; p++)
			;
		if (p == first)
			return NULL;
	}
	if (!value)
		return p;

	/* both exact, so their quotient is rounded right */
	if (ndigits <= 15 && !has_exponent)
		*value = (double) digits / powers[scale];
	else
	{
		char buffer[512];
		size_t len = p - start;

		if (len >= sizeof(buffer))
			return NULL;
		memcpy(buffer, start, len);
		buffer[len] = '\0';
		*value = strtod(buffer, NULL);
		return p;
	}
	if (negative)
		*value = -*value;
	return p;
}

static inline int
two_digits(const char *p)
{
	return (p[0] - '0') * 10 + (p[1] - '0');
}

/* 2026-01-01T00:00:00[.123456]Z to microseconds since 1970 */
static inline bool
parse_time(const char *p, size_t len, int64_t *time)
{
	static const int fraction_units[] = {1000000, 100000, 10000, 1000, 100, 10, 1};
	static const unsigned char month_days[] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	static const char layout[] = "0000-00-00T00:00:00";
	int year, month, day, era_year;
	int64_t days, fraction = 0;
	size_t i;

	if (len < 20 || p[len - 1] != 'Z')
		return false;
	for (i = 0; i < 19; i++)
	{
		if (layout[i] == '0' ? p[i] < '0' || p[i] > '9' : p[i] != layout[i])
			return false;
	}
	if (len > 20)
	{
		if (p[19] != '.' || len < 22 || len > 27)
			return false;
		for (i = 20; i < len - 1; i++)
		{
			if (p[i] < '0' || p[i] > '9')
				return false;
			fraction = fraction * 10 + (p[i] - '0');
		}
		fraction *= fraction_units[len - 21];
	}
	year = two_digits(p) * 100 + two_digits(p + 2);
	month = two_digits(p + 5);
	day = two_digits(p + 8);
	if (month < 1 || month > 12 || day < 1 || day > month_days[month] ||
		(month == 2 && day == 29 && (year % 4 || (year % 100 == 0 && year % 400))) ||
		two_digits(p + 11) > 23 || two_digits(p + 14) > 59 || two_digits(p + 17) > 59)
		return false;

	/* the year begins in March, so that leap days end it */
	era_year = month > 2 ? year : year - 1;
	days = INT64_C(365) * era_year + era_year / 4 - era_year / 100 + era_year / 400 +
		   (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1 - 719468;
	*time = ((days * 24 + two_digits(p + 11)) * 60 + two_digits(p + 14)) * 60 + two_digits(p + 17);
	*time = *time * 1000000 + fraction;
	return true;
}

static inline bool
is_key(const char *key, const char *key_end, const char *name, size_t len)
{
	return (size_t) (key_end - key) == len && memcmp(key, name, len) == 0;
}

/*
 * The end of the value at p, NULL if it is malformed.  wanted: take the three values out of this object; NULL for
 * everything inside it.
 */
static const char *
scan_value(const char *p, const char *end, Wanted *wanted, int depth)
{
	bool plain;

	p = skip_space(p, end);
	if (p == end || depth > MAX_DEPTH)
		return NULL;
	if (*p == '"')
	{
		p = scan_string(p + 1, end, &plain);
		return p ? p + 1 : NULL;
	}
	if (*p == '-' || (*p >= '0' && *p <= '9'))
		return scan_number(p, end, NULL);
	if (*p == '{' || *p == '[')
	{
		char close = *p == '{' ? '}' : ']';

		p = skip_space(p + 1, end);
		if (p < end && *p == close)
			return p + 1;
		while (p)
		{
			const char *key = NULL;
			const char *key_end = NULL;

			p = skip_space(p, end);
			if (close == '}')
			{
				if (p == end || *p != '"')
					return NULL;
				key = p + 1;
				key_end = p = scan_string(key, end, &plain);
				if (!p)
					return NULL;
				p = skip_space(p + 1, end);
				if (p == end || *p != ':')
					return NULL;
				p = skip_space(p + 1, end);
			}
			if (wanted && key && p < end && *p == '"' && is_key(key, key_end, "symbol", 6))
			{
				wanted->symbol = p + 1;
				p = scan_string(p + 1, end, &plain);
				if (!p || !plain || p - wanted->symbol > MAX_SYMBOL || p == wanted->symbol)
					return NULL;
				wanted->symbol_len = p - wanted->symbol;
				p++;
			}
			else if (wanted && key && p < end && *p == '"' && is_key(key, key_end, "ts", 2))
			{
				const char *ts = p + 1;

				p = scan_string(ts, end, &plain);
				if (!p || !parse_time(ts, p - ts, &wanted->time))
					return NULL;
				wanted->has_time = true;
				p++;
			}
			else if (wanted && key && p < end && (*p == '-' || (*p >= '0' && *p <= '9')) &&
					 is_key(key, key_end, "price", 5))
			{
				p = scan_number(p, end, &wanted->price);
				wanted->has_price = true;
			}
			else
				p = scan_value(p, end, NULL, depth + 1);

			if (!p)
				return NULL;
			p = skip_space(p, end);
			if (p == end)
				return NULL;
			if (*p == close)
				return p + 1;
			if (*p != ',')
				return NULL;
			p++;
		}
		return NULL;
	}
	if (end - p >= 4 && (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0))
		return p + 4;
	if (end - p >= 5 && memcmp(p, "false", 5) == 0)
		return p + 5;
	return NULL;
}

static void
handle_batch(rd_kafka_message_t **messages, size_t nmessages)
{
	for (size_t i = 0; i < nmessages; i++)
	{
		const char *p = messages[i]->payload;
		const char *end = p + messages[i]->len;
		Wanted wanted = {0};

		p = p ? scan_value(p, end, &wanted, 0) : NULL;
		if (!p || skip_space(p, end) != end || !wanted.has_time)
			nbad++;
		else if (wanted.has_price && wanted.price > 100 && wanted.symbol)
			add_to_group(wanted.symbol, wanted.symbol_len, wanted.time, wanted.price);
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
	for (uint32_t i = 0; groups && i < capacity; i++)
	{
		count += groups[i].count;
		sum += groups[i].sum;
	}
	fprintf(stderr, "groups %u records %lld sum %.2f bad %lld\n", ngroups, (long long) count, sum,
			(long long) nbad);
	return 0;
}
