/*
 * format.h
 *		The door of format/: from the bytes of a record to the columns of a stream, and back.
 *
 * A source fills Records (bytes that it owns); a Decoder turns a range of them into columns of Datums in a
 * RecordBatch.  Columns, not tuples: the scan node makes tuples from them, and a column-at-a-time path can
 * read them as they are.
 */
#ifndef VELO_FORMAT_H
#define VELO_FORMAT_H

#include "velo.h"

#include "access/tupdesc.h"
#include "catalog/velo_catalog.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* One record as its source hands it over.  All pointers are the source's and live as long as the batch. */
typedef struct Record
{
	const char *value; /* NULL: a tombstone */
	const char *key;   /* NULL: no key */
	Size value_len;    /* bytes */
	Size key_len;      /* bytes */
	int64 offset;
	TimestampTz timestamp; /* broker's time, microseconds since 2000; DT_NOBEGIN: none */
	int32 partition; /* index into the source's assigned partitions, not the broker's number */
	void *handle;    /* the source's own; what RecordBatch.headers() needs */
} Record;

typedef enum RecordStatus
{
	RECORD_OK,        /* decoded: its columns are set */
	RECORD_TOMBSTONE, /* no value: makes no row in an append stream */
	RECORD_BAD        /* does not decode; see RecordBatch.errors */
} RecordStatus;

/* Why a record is bad.  Strings live in the batch's context. */
typedef struct RecordError
{
	int record; /* index in the batch */
	int sqlerrcode;
	char *message;
	char *detail; /* or NULL */
} RecordError;

/*
 * RecordBatch: the records that one pipeline (or ad-hoc scan) handles at once, of one stream.
 *
 * Everything by reference lives in "context", which record_batch_reset() empties; the arrays themselves live
 * as long as the batch.
 */
typedef struct RecordBatch
{
	MemoryContext context;
	int capacity; /* records */
	int nrecords;
	Record *records; /* [capacity] */
	uint8 *status;   /* [capacity], RecordStatus */
	int natts;       /* attributes of the stream */
	Datum **values;  /* [natts][capacity]; NULL for a column that nobody wants */
	bool **nulls;    /* [natts][capacity]; NULL likewise */
	/* [capacity]; the record's partition's watermark just before it, set by the pipeline; NULL in an ad-hoc scan */
	TimestampTz *watermark;
	List *errors;            /* of RecordError, in record order */
	const char *topic;       /* for metadata columns */
	const int32 *partitions; /* Record.partition -> the broker's partition number */
	/* the record's headers as jsonb array of {"key":..., "value":...}, NULL when it has none */
	Jsonb *(*headers)(const Record *record);

	/* decoded values go into chunks that are handed out front to back; private to format/ */
	char *arena;       /* the first chunk, kept over resets */
	char *arena_next;  /* free space of the current chunk */
	char *arena_limit; /* and its end */
} RecordBatch;

typedef struct Decoder Decoder;

/*
 * Make a batch for "capacity" records of a stream, columns allocated for the "wanted" attribute numbers
 * (1-based).  Memory comes from "parent" and goes with it.
 */
extern RecordBatch *record_batch_create(MemoryContext parent, int capacity, int natts,
										const Bitmapset *wanted);
extern void record_batch_reset(RecordBatch *batch);

/*
 * Make a decoder of a stream's format for the wanted attributes.  Lives in the current memory context.
 * The stream's event-time column is always decoded.
 */
extern Decoder *decoder_create(const StreamInfo *stream, const Bitmapset *wanted);

/*
 * Decode records [from, to) of the batch: sets their status and columns.
 *
 * What velo's own parsers find wrong marks the record RECORD_BAD and adds a RecordError; nothing is thrown.
 * A type's input function may throw: then *position is the index of the culprit, all records before it are
 * done, and the caller marks it with record_batch_set_error() and goes on at position + 1.
 */
extern void decoder_decode(Decoder *decoder, RecordBatch *batch, int from, int to, int *position);

/* Mark a record bad; message and detail are copied into the batch's context. */
extern void record_batch_set_error(RecordBatch *batch, int record, int sqlerrcode,
								   const char *message, const char *detail);

/* A row as the value of a record in the stream's format: what INSERT produces. */
typedef struct Encoder Encoder;
extern Encoder *encoder_create(const StreamInfo *stream);
/* Appends to "value" and sets *tombstone if the row has no value (raw format, NULL). */
extern void encoder_encode(Encoder *encoder, TupleTableSlot *slot, StringInfo value,
						   bool *tombstone);

/*
 * Text in the server's encoding as the bytes that a record holds, which are UTF-8 whatever that encoding is; *result_len
 * is set.  The result is "text" itself where nothing is to convert, else a C string in the current memory context.
 * Throws for bytes that are no text (in a database of encoding SQL_ASCII).
 */
extern const char *text_to_utf8(const char *text, int len, Size *result_len);

#endif /* VELO_FORMAT_H */
