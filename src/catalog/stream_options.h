/*
 * stream_options.h
 *		The options of a stream, its columns, its server and user mappings; private to catalog/.
 */
#ifndef VELO_STREAM_OPTIONS_H
#define VELO_STREAM_OPTIONS_H

#include "catalog/velo_catalog.h"
#include "foreign/foreign.h"

/* Options of the foreign table, checked as far as is possible without looking at its columns. */
typedef struct StreamOptions
{
	char *topic;   /* NULL: the table's name */
	char *brokers; /* NULL: the server's */
	StreamFormat format;
	char *event_time; /* a column's name, NULL: none */
	bool has_watermark;
	int64 watermark;          /* microseconds */
	List *keys;               /* of char *, columns' names */
	int64 idle_timeout;       /* ms; -1: not given */
	int64 max_future;         /* microseconds; -1: none */
	int64 partitions_refresh; /* ms */
	bool skip_errors;
} StreamOptions;

/* Read a foreign table's options (list of DefElem); ereport(ERROR) for what is wrong. */
extern StreamOptions *stream_options_read(List *options);

/* Read a column's options into *column; path NULL and unit 0 stand for options that are not given. */
extern void column_options_read(List *options, StreamColumn *column);

/* true if the server is of the velo wrapper */
extern bool server_is_for_streams(const ForeignServer *server);

/* A column option's spelling of a kind of metadata. */
extern const char *metadata_name(MetadataKind kind);

#endif /* VELO_STREAM_OPTIONS_H */
