/*
 * native_types.c
 *		Text to Datum: what PostgreSQL's input functions make of it, faster.
 *
 * velo's own parsers know the usual spellings only, and there give the very result of the type's input
 * function, to the last bit.  All else goes to the input function itself, which so defines what is accepted
 * and which error is reported.
 */
#include "format/internal.h"

#include <float.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

/* ------------------------------------------------------------------ readers */

static NativeType
native_type(Oid typid, int32 typmod)
{
	switch (typid)
	{
		case BOOLOID:
			return NATIVE_BOOL;
		case INT2OID:
			return NATIVE_INT2;
		case INT4OID:
			return NATIVE_INT4;
		case INT8OID:
			return NATIVE_INT8;
		case FLOAT4OID:
			return NATIVE_FLOAT4;
		case FLOAT8OID:
			return NATIVE_FLOAT8;
		case NUMERICOID:
			return typmod < 0 ? NATIVE_NUMERIC : NATIVE_NONE;
		case TEXTOID:
		case VARCHAROID:
			return NATIVE_TEXT;
		case JSONOID:
			return NATIVE_JSON;
		case DATEOID:
			return NATIVE_DATE;
		case TIMESTAMPOID:
			return NATIVE_TIMESTAMP;
		case TIMESTAMPTZOID:
			return NATIVE_TIMESTAMPTZ;
		case UUIDOID:
			return NATIVE_UUID;
		default:
			return NATIVE_NONE;
	}
}

static JsonShape
json_shape(Oid typid)
{
	char typtype = get_typtype(typid);

	if (typtype == TYPTYPE_DOMAIN)
		return SHAPE_DOMAIN;
	if (typtype == TYPTYPE_COMPOSITE || typid == RECORDOID || OidIsValid(get_element_type(typid)))
		return SHAPE_NESTED;
	return SHAPE_SCALAR;
}

/*
 * Input functions whose complaints value_from_cstring() may catch without a subtransaction: they are known
 * to hold nothing (locks, pins, references to caches) when they complain about their argument.
 */
static bool
input_is_catchable(Oid input)
{
	switch (input)
	{
		case F_BOOLIN:
		case F_INT2IN:
		case F_INT4IN:
		case F_INT8IN:
		case F_FLOAT4IN:
		case F_FLOAT8IN:
		case F_NUMERIC_IN:
		case F_TEXTIN:
		case F_VARCHARIN:
		case F_BPCHARIN:
		case F_BYTEAIN:
		case F_UUID_IN:
		case F_JSON_IN:
		case F_JSONB_IN:
		case F_DATE_IN:
		case F_TIME_IN:
		case F_TIMETZ_IN:
		case F_TIMESTAMP_IN:
		case F_TIMESTAMPTZ_IN:
		case F_INTERVAL_IN:
		case F_INET_IN:
		case F_CIDR_IN:
			return true;
		default:
			return false;
	}
}

/* The power of ten that turns a unit, of which "unit" make a second, into microseconds. */
static int
unit_shift(int64 unit)
{
	int shift = 6;

	for (; unit >= 10; unit /= 10)
		shift--;
	return shift;
}

void
value_reader_init(ValueReader *reader, Oid typid, int32 typmod, int64 unit)
{
	Oid input;

	memset(reader, 0, sizeof(*reader));
	reader->typid = typid;
	reader->typmod = typmod;
	reader->unit_shift = unit_shift(unit);
	reader->native = native_type(typid, typmod);
	reader->shape = json_shape(typid);
	get_typlenbyvalalign(typid, &reader->typlen, &reader->typbyval, &reader->typalign);
	getTypeInputInfo(typid, &input, &reader->typioparam);
	fmgr_info(input, &reader->input);
	reader->catchable = input_is_catchable(input);

	if (reader->shape != SHAPE_SCALAR)
	{
		reader->record_context = AllocSetContextCreate(CurrentMemoryContext, "velo json_to_record",
													   ALLOCSET_SMALL_SIZES);
		fmgr_info_cxt(F_JSON_TO_RECORD, &reader->json_to_record, reader->record_context);
		reader->record_desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(reader->record_desc, 1, "value", typid, typmod, 0);
		BlessTupleDesc(reader->record_desc);
	}
	if (reader->shape == SHAPE_NESTED)
	{
		Oid element = get_element_type(typid);

		if (native_type(element, typmod) != NATIVE_NONE && element != JSONOID)
		{
			reader->element = palloc(sizeof(ValueReader));
			value_reader_init(reader->element, element, typmod, 0);
		}
	}
}

void
value_reader_refresh(ValueReader *reader)
{
	if (reader->shape == SHAPE_SCALAR)
		return;
	MemoryContextReset(reader->record_context);
	fmgr_info_cxt(F_JSON_TO_RECORD, &reader->json_to_record, reader->record_context);
}

/* ------------------------------------------------------------------ errors and input functions */

bool
value_error(ValueContext *context, int sqlerrcode, const char *message, const char *detail)
{
	MemoryContext batch = context->batch->context;

	context->sqlerrcode = sqlerrcode;
	context->message = MemoryContextStrdup(batch, message);
	context->detail = detail ? MemoryContextStrdup(batch, detail) : NULL;
	return false;
}

bool
value_from_cstring(ValueContext *context, ValueReader *reader, char *str, Datum *value)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context->scratch);
	volatile bool done = false;
	Datum result = (Datum) 0;

	if (!reader->catchable)
	{
		result = InputFunctionCall(&reader->input, str, reader->typioparam, reader->typmod);
		done = true;
	}
	else
	{
		PG_TRY();
		{
			*value = InputFunctionCall(&reader->input, str, reader->typioparam, reader->typmod);
			done = true;
		}
		PG_CATCH();
		{
			ErrorData *error;

			MemoryContextSwitchTo(context->scratch);
			error = CopyErrorData();
			if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
				PG_RE_THROW();
			FlushErrorState();
			value_error(context, error->sqlerrcode, error->message, error->detail);
		}
		PG_END_TRY();
		result = *value;
	}
	MemoryContextSwitchTo(context->batch->context);
	if (done)
		*value = datumCopy(result, reader->typbyval, reader->typlen);
	MemoryContextSwitchTo(oldcontext);
	return done;
}

/* ------------------------------------------------------------------ numbers */

static const uint64 powers_of_ten[] = {
	UINT64CONST(1),
	UINT64CONST(10),
	UINT64CONST(100),
	UINT64CONST(1000),
	UINT64CONST(10000),
	UINT64CONST(100000),
	UINT64CONST(1000000),
	UINT64CONST(10000000),
	UINT64CONST(100000000),
	UINT64CONST(1000000000),
	UINT64CONST(10000000000),
	UINT64CONST(100000000000),
	UINT64CONST(1000000000000),
	UINT64CONST(10000000000000),
	UINT64CONST(100000000000000),
	UINT64CONST(1000000000000000),
	UINT64CONST(10000000000000000),
	UINT64CONST(100000000000000000),
	UINT64CONST(1000000000000000000),
	UINT64CONST(10000000000000000000),
};

static const double powers_of_ten_double[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
											  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
											  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static const float powers_of_ten_float[] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f,
											1e6f, 1e7f, 1e8f, 1e9f, 1e10f};

#define MAX_MANTISSA_DIGITS 19 /* what a uint64 holds in any case */
#define MAX_EXPONENT 100000000 /* as good as infinite, the digits of a record counted */

/* mantissa * 10^exponent: a number in JSON's grammar */
typedef struct Decimal
{
	uint64 mantissa;
	int digits; /* of the mantissa */
	int exponent;
	int fraction; /* digits behind the point */
	bool negative;
	bool scientific; /* has an exponent of its own */
	bool truncated;  /* mantissa has the first MAX_MANTISSA_DIGITS only */
	bool round_up;   /* the first digit that is missing is 5 or more */
} Decimal;

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline void
add_digit(Decimal *decimal, char digit)
{
	if (decimal->digits < MAX_MANTISSA_DIGITS)
	{
		decimal->mantissa = decimal->mantissa * 10 + (digit - '0');
		if (decimal->mantissa)
			decimal->digits++;
		return;
	}
	if (!decimal->truncated)
		decimal->round_up = digit >= '5';
	decimal->truncated = true;
	decimal->exponent++;
}

/* Returns false if this is no number in JSON's grammar. */
static inline bool
parse_decimal(const char *p, int len, Decimal *result)
{
	const char *end = p + len;
	const char *start;
	Decimal decimal = {0};

	if (p < end && *p == '-')
	{
		decimal.negative = true;
		p++;
	}
	start = p;
	while (p < end && is_digit(*p))
		add_digit(&decimal, *p++);
	if (p == start || (*start == '0' && p - start > 1))
		return false;
	if (p < end && *p == '.')
	{
		start = ++p;
		while (p < end && is_digit(*p))
			add_digit(&decimal, *p++);
		if (p == start)
			return false;
		decimal.fraction = p - start;
		decimal.exponent -= decimal.fraction;
	}
	if (p < end)
	{
		bool negative = false;
		int exponent = 0;

		if (*p != 'e' && *p != 'E')
			return false;
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			negative = *p++ == '-';
		if (p == end)
			return false;
		for (; p < end; p++)
		{
			if (!is_digit(*p))
				return false;
			if (exponent < MAX_EXPONENT)
				exponent = exponent * 10 + (*p - '0');
		}
		decimal.exponent += negative ? -exponent : exponent;
		decimal.scientific = true;
	}
	*result = decimal;
	return true;
}

/* An integer of at most 18 digits; false: leave it to the input function. */
static inline bool
parse_int(const char *p, int len, int64 *value)
{
	const char *end = p + len;
	bool negative = false;
	int64 result = 0;

	if (len > 1 && *p == '-')
	{
		negative = true;
		p++;
	}
	if (p == end || end - p > 18)
		return false;
	for (; p < end; p++)
	{
		if (!is_digit(*p))
			return false;
		result = result * 10 + (*p - '0');
	}
	*value = negative ? -result : result;
	return true;
}

/*
 * If mantissa and power of ten are both exact in the type, one multiplication or division rounds just once,
 * so that the result is that of a correctly rounding strtod() (Clinger, 1990).
 */
static inline bool
parse_float8(const char *p, int len, float8 *value)
{
	Decimal decimal;
	float8 result;

	if (FLT_EVAL_METHOD != 0 || !parse_decimal(p, len, &decimal) || decimal.truncated ||
		decimal.mantissa > (UINT64CONST(1) << DBL_MANT_DIG) || decimal.exponent < -22 ||
		decimal.exponent > 22)
		return false;
	result = (float8) (int64) decimal.mantissa;
	if (decimal.exponent < 0)
		result /= powers_of_ten_double[-decimal.exponent];
	else
		result *= powers_of_ten_double[decimal.exponent];
	*value = decimal.negative ? -result : result;
	return true;
}

static inline bool
parse_float4(const char *p, int len, float4 *value)
{
	Decimal decimal;
	float4 result;

	if (FLT_EVAL_METHOD != 0 || !parse_decimal(p, len, &decimal) || decimal.truncated ||
		decimal.mantissa > (UINT64CONST(1) << FLT_MANT_DIG) || decimal.exponent < -10 ||
		decimal.exponent > 10)
		return false;
	result = (float4) (int64) decimal.mantissa;
	if (decimal.exponent < 0)
		result /= powers_of_ten_float[-decimal.exponent];
	else
		result *= powers_of_ten_float[decimal.exponent];
	*value = decimal.negative ? -result : result;
	return true;
}

static bool
parse_numeric(const char *p, int len, Numeric *value)
{
	Decimal decimal;

	if (!parse_decimal(p, len, &decimal) || decimal.truncated || decimal.scientific ||
		decimal.mantissa > PG_INT64_MAX)
		return false;
	*value = int64_div_fast_to_numeric(
		decimal.negative ? -(int64) decimal.mantissa : (int64) decimal.mantissa, decimal.fraction);
	return true;
}

/* ------------------------------------------------------------------ dates and times */

/* Two digits, or a number above 99 if they are none. */
static inline unsigned
two_digits(const char *p)
{
	unsigned tens = (unsigned char) p[0] - '0';
	unsigned ones = (unsigned char) p[1] - '0';

	return tens > 9 || ones > 9 ? 100 : tens * 10 + ones;
}

/* YYYY-MM-DD as days since 2000-01-01; the reader remembers the last, for times come in order. */
static inline bool
parse_date(ValueReader *reader, const char *p, int32 *days)
{
	unsigned century;
	unsigned year;
	unsigned month;
	unsigned day;

	if (memcmp(p, reader->date, sizeof(reader->date)) == 0)
	{
		*days = reader->date_days;
		return true;
	}

	century = two_digits(p);
	year = two_digits(p + 2);
	month = two_digits(p + 5);
	day = two_digits(p + 8);
	if (century > 99 || year > 99 || p[4] != '-' || p[7] != '-' || month < 1 || month > 12 ||
		day < 1)
		return false;
	year += century * 100;
	if (year == 0 || (int) day > day_tab[isleap(year)][month - 1])
		return false;
	*days = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	reader->date_days = *days;
	memcpy(reader->date, p, sizeof(reader->date));
	return true;
}

/* +hh, +hhmm or +hh:mm (or -), all there is, as seconds east of UTC */
static bool
parse_zone(const char *p, const char *end, int *seconds)
{
	unsigned hours;
	unsigned minutes = 0;
	int len = end - p;

	if (len != 3 && len != 5 && (len != 6 || p[3] != ':'))
		return false;
	hours = two_digits(p + 1);
	if (len > 3)
		minutes = two_digits(end - 2);
	if (hours > MAX_TZDISP_HOUR || minutes >= MINS_PER_HOUR)
		return false;
	*seconds = hours * SECS_PER_HOUR + minutes * SECS_PER_MINUTE;
	if (*p == '-')
		*seconds = -*seconds;
	return true;
}

/*
 * YYYY-MM-DD HH:MM:SS[.fraction][zone], the blank may be a T.  Without a zone, and "with_zone", it is the
 * session's; a zone is ignored where there is none in the type, as timestamp_in() does.
 */
static bool
parse_timestamp(ValueReader *reader, const char *p, int len, bool with_zone, Timestamp *value)
{
	const char *end = p + len;
	const char *start = p;
	int32 days;
	unsigned hour;
	unsigned minute;
	unsigned second;
	int64 microseconds = 0;
	int zone = 0;

	if (len < 19 || (p[10] != 'T' && p[10] != ' ') || p[13] != ':' || p[16] != ':' ||
		!parse_date(reader, p, &days))
		return false;
	hour = two_digits(p + 11);
	minute = two_digits(p + 14);
	second = two_digits(p + 17);
	if (hour > 23 || minute > 59 || second > 59)
		return false;
	p += 19;

	if (p < end && *p == '.')
	{
		int digits = 0;

		for (p++; p < end && is_digit(*p); p++, digits++)
			if (digits < DBL_DIG)
				microseconds = microseconds * 10 + (*p - '0');
		if (digits == 0 || digits > DBL_DIG)
			return false;
		if (digits <= 6)
			microseconds *= powers_of_ten[6 - digits];
		else
			microseconds =
				rint((double) microseconds / powers_of_ten_double[digits] * USECS_PER_SEC);
	}

	if (p == end)
	{
		if (with_zone)
		{
			struct pg_tm tm = {0};

			tm.tm_year = two_digits(start) * 100 + two_digits(start + 2);
			tm.tm_mon = two_digits(start + 5);
			tm.tm_mday = two_digits(start + 8);
			tm.tm_hour = hour;
			tm.tm_min = minute;
			tm.tm_sec = second;
			zone = -DetermineTimeZoneOffset(&tm, session_timezone);
		}
	}
	else if (*p == 'Z')
	{
		if (p + 1 != end)
			return false;
	}
	else if ((*p != '+' && *p != '-') || !parse_zone(p, end, &zone))
		return false;

	*value = (int64) days * USECS_PER_DAY + microseconds +
			 (int64) (hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE + second) * USECS_PER_SEC;
	if (with_zone)
		*value -= zone * USECS_PER_SEC;
	return true;
}

/* from 1970-01-01 to 2000-01-01, in microseconds */
#define EPOCH_DISTANCE ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

bool
timestamptz_from_number(ValueContext *context, const ValueReader *reader, const char *str, int len,
						Datum *value)
{
	Decimal decimal;
	int64 microseconds = 0;
	uint64 magnitude;
	int exponent;
	bool overflow = false;

	if (!parse_decimal(str, len, &decimal))
		elog(ERROR, "not a JSON number: %.*s", len, str);

	/* round half away from zero, as numeric does */
	magnitude = decimal.mantissa;
	exponent = decimal.exponent + reader->unit_shift;
	if (exponent > 0)
	{
		uint64 factor = powers_of_ten[Min(exponent, 19)];

		overflow = magnitude > PG_UINT64_MAX / factor;
		magnitude *= factor;
	}
	else if (exponent == 0)
		magnitude += decimal.round_up;
	else if (exponent < -MAX_MANTISSA_DIGITS)
		magnitude = 0;
	else
	{
		uint64 divisor = powers_of_ten[-exponent];
		uint64 remainder = magnitude % divisor;

		magnitude = magnitude / divisor + (remainder >= divisor - remainder);
	}

	/* from 1970 to 2000, with care: the last timestamps are beyond int64 when counted from 1970 */
	if (magnitude > (uint64) PG_INT64_MAX)
		overflow |= decimal.negative || magnitude - EPOCH_DISTANCE > (uint64) PG_INT64_MAX;
	if (decimal.negative)
		overflow |= pg_sub_s64_overflow(-(int64) magnitude, EPOCH_DISTANCE, &microseconds);
	else
		microseconds = (int64) (magnitude - EPOCH_DISTANCE);
	if (overflow || !IS_VALID_TIMESTAMP(microseconds))
		return value_error(context, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
						   psprintf("timestamp out of range: \"%.*s\"", len, str), NULL);

	*value = TimestampTzGetDatum(microseconds);
	if (reader->typmod >= 0)
		*value = DirectFunctionCall2(timestamptz_scale, *value, Int32GetDatum(reader->typmod));
	return true;
}

/* ------------------------------------------------------------------ uuid */

static inline int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* With hyphens at their usual places. */
static bool
parse_uuid(const char *p, int len, unsigned char *uuid)
{
	if (len != 36)
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high;
		int low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *p++ != '-')
			return false;
		high = hex_digit(p[0]);
		low = hex_digit(p[1]);
		if (high < 0 || low < 0)
			return false;
		uuid[i] = high << 4 | low;
		p += 2;
	}
	return true;
}

/* ------------------------------------------------------------------ all types */

Datum
value_varlena(ValueContext *context, const char *str, int len)
{
	char *result = record_batch_alloc(context->batch, len + VARHDRSZ);

	SET_VARSIZE(result, len + VARHDRSZ);
	memcpy(VARDATA(result), str, len);
	return PointerGetDatum(result);
}

static inline bool
native_from_text(ValueContext *context, ValueReader *reader, const char *str, int len, Datum *value)
{
	int64 integer;

	switch (reader->native)
	{
		case NATIVE_NONE:
		case NATIVE_JSON: /* a text need not be JSON; json_value() knows when it is */
			return false;

		case NATIVE_BOOL:
		{
			bool result;

			/* parse_bool_with_len() looks at the first byte in any case, and at two after an "o" */
			if (len < 2 && (len == 0 || *str == 'o' || *str == 'O'))
				return false;
			if (!parse_bool_with_len(str, len, &result))
				return false;
			*value = BoolGetDatum(result);
			return true;
		}

		case NATIVE_INT2:
			if (!parse_int(str, len, &integer) || integer != (int16) integer)
				return false;
			*value = Int16GetDatum((int16) integer);
			return true;

		case NATIVE_INT4:
			if (!parse_int(str, len, &integer) || integer != (int32) integer)
				return false;
			*value = Int32GetDatum((int32) integer);
			return true;

		case NATIVE_INT8:
			if (!parse_int(str, len, &integer))
				return false;
			*value = Int64GetDatum(integer);
			return true;

		case NATIVE_FLOAT4:
		{
			float4 result;

			if (!parse_float4(str, len, &result))
				return false;
			*value = Float4GetDatum(result);
			return true;
		}

		case NATIVE_FLOAT8:
		{
			float8 result;

			if (!parse_float8(str, len, &result))
				return false;
			*value = Float8GetDatum(result);
			return true;
		}

		case NATIVE_NUMERIC:
		{
			Numeric result;

			if (!parse_numeric(str, len, &result))
				return false;
			*value = NumericGetDatum(result);
			return true;
		}

		case NATIVE_TEXT:
			/* of varchar(n): as many characters are not more bytes */
			if (reader->typmod >= (int32) VARHDRSZ && len > reader->typmod - (int32) VARHDRSZ)
				return false;
			*value = value_varlena(context, str, len);
			return true;

		case NATIVE_DATE:
		{
			int32 days;

			if (len != 10 || !parse_date(reader, str, &days))
				return false;
			*value = DateADTGetDatum(days);
			return true;
		}

		case NATIVE_TIMESTAMP:
		case NATIVE_TIMESTAMPTZ:
		{
			bool with_zone = reader->native == NATIVE_TIMESTAMPTZ;
			Timestamp result;

			if (!parse_timestamp(reader, str, len, with_zone, &result))
				return false;
			*value = TimestampGetDatum(result);
			if (reader->typmod >= 0)
				*value = DirectFunctionCall2(with_zone ? timestamptz_scale : timestamp_scale,
											 *value, Int32GetDatum(reader->typmod));
			return true;
		}

		case NATIVE_UUID:
		{
			char *result = record_batch_alloc(context->batch, UUID_LEN);

			*value = PointerGetDatum(result);
			return parse_uuid(str, len, (unsigned char *) result);
		}
	}
	return false;
}

bool
value_from_text_natively(ValueContext *context, ValueReader *reader, const char *str, int len,
						 Datum *value)
{
	return native_from_text(context, reader, str, len, value);
}

bool
value_from_text(ValueContext *context, ValueReader *reader, const char *str, int len, Datum *value)
{
	char *copy;

	if (likely(native_from_text(context, reader, str, len, value)))
		return true;

	copy = MemoryContextAlloc(context->scratch, (Size) len + 1);
	memcpy(copy, str, len);
	copy[len] = '\0';
	return value_from_cstring(context, reader, copy, value);
}
