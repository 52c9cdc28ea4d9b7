/*
 * validator.c
 *		The validator of velo's wrapper: what may be set on a server, a user mapping, a stream or a column, and by whom.
 *
 * Options of streams and columns are velo's own and known to catalog/.  Those of servers and user mappings are, but for
 * the brokers, librdkafka's properties.
 */
#include "source/source.h"

#include <ctype.h>

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"

PG_FUNCTION_INFO_V1(velo_fdw_validator);

/* Is [p, end) the number of a port? */
static bool
is_port(const char *p, const char *end)
{
	int port = 0;

	if (p == end || end - p > 5)
		return false;
	for (; p < end; p++)
	{
		if (*p < '0' || *p > '9')
			return false;
		port = port * 10 + (*p - '0');
	}
	return port > 0 && port <= 65535;
}

/* Is [p, end) a broker as librdkafka reads it: host, host:port, IPv6 address or [IPv6 address]:port? */
static bool
is_broker(const char *p, const char *end)
{
	static const char *const protocols[] = {"plaintext://", "ssl://", "sasl_plaintext://",
											"sasl_ssl://"};
	const char *host;
	const char *port;
	bool bracket;

	for (int i = 0; i < (int) lengthof(protocols); i++)
	{
		int len = strlen(protocols[i]);

		if (end - p > len && pg_strncasecmp(p, protocols[i], len) == 0)
		{
			p += len;
			break;
		}
	}

	/* an address whose colons leave no room for a port */
	port = memchr(p, ':', end - p);
	if (*p != '[' && port != NULL && memchr(port + 1, ':', end - port - 1) != NULL)
		return strspn(p, "0123456789abcdefABCDEF:.") >= (Size) (end - p);

	bracket = *p == '[';
	host = bracket ? ++p : p;
	while (p < end && (isalnum((unsigned char) *p) || strchr(bracket ? ":%._-" : "._-", *p)))
		p++;
	if (p == host || (bracket && (p == end || *p++ != ']')))
		return false;
	return p == end || (*p == ':' && is_port(p + 1, end));
}

/* ereport(ERROR) if the value is no list of brokers. */
static void
check_brokers(DefElem *def)
{
	const char *value = defGetString(def);
	bool any = false;

	for (const char *p = value; *p != '\0';)
	{
		const char *end = p + strcspn(p, ", \t\r\n");

		if (end > p && !is_broker(p, end))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", def->defname, value),
					 errdetail("\"%.*s\" is not a host, or a host and a port.", (int) (end - p), p),
					 errhint("Write brokers as \"kafka-1:9092,kafka-2:9092\".")));
		any |= end > p;
		p = *end == '\0' ? end : end + 1;
	}
	if (!any)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						errmsg("option \"%s\" must not be empty", def->defname)));
}

/* The names that a server or a user mapping may set without being a superuser, for hints. */
static char *
property_names(bool is_mapping)
{
	return psprintf("%s, %s", is_mapping ? source_property_list(true) : "brokers",
					source_property_list(false));
}

/* Check an option of a server or user mapping that is not velo's own: a property of librdkafka. */
static void
check_property(DefElem *def, bool is_mapping)
{
	const char *name = def->defname;
	const char *reason = NULL;

	switch (source_property_kind(name, &reason))
	{
		case PROPERTY_UNKNOWN:
			option_unknown(is_mapping ? "user mapping" : "server", name,
						   property_names(is_mapping));
			break;
		case PROPERTY_OWNED:
			ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
							errmsg("property \"%s\" cannot be set", name),
							reason ? errdetail_internal("%s", reason) : 0,
							errhint("Valid options are: %s.", property_names(is_mapping))));
			break;
		case PROPERTY_SUPERUSER:
			if (!superuser())
				ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
								errmsg("permission denied to set property \"%s\"", name),
								errdetail("Only superusers may set it."),
								errhint("Options that need no superuser are: %s.",
										property_names(is_mapping))));
			break;
		case PROPERTY_SECRET:
			if (!is_mapping)
				ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
								errmsg("property \"%s\" is not allowed for a server", name),
								errdetail("It is a secret, and the options of a server can be read "
										  "by everybody."),
								errhint("Set it in a user mapping (CREATE USER MAPPING).")));
			break;
		case PROPERTY_PUBLIC:
			break;
	}
	source_check_property(name, defGetString(def));
}

static bool
is_brokers(DefElem *def)
{
	return strcmp(def->defname, "brokers") == 0;
}

/*
 * velo.velo_fdw_validator(options text[], catalog oid)
 */
Datum
velo_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	ListCell *cell;

	switch (PG_GETARG_OID(1))
	{
		case ForeignTableRelationId:
			stream_options_check(options);
			foreach (cell, options)
				if (is_brokers(lfirst(cell)))
					check_brokers(lfirst(cell));
			break;
		case AttributeRelationId:
			column_options_check(options);
			break;
		case ForeignServerRelationId:
			foreach (cell, options)
			{
				if (is_brokers(lfirst(cell)))
					check_brokers(lfirst(cell));
				else
					check_property(lfirst(cell), false);
			}
			break;
		case UserMappingRelationId:
			foreach (cell, options)
				check_property(lfirst(cell), true);
			break;
		case ForeignDataWrapperRelationId:
			if (options != NIL)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
						 errmsg("invalid option \"%s\"", linitial_node(DefElem, options)->defname),
						 errhint("Foreign-data wrapper \"%s\" has no options.", VELO_FDW)));
			break;
	}
	PG_RETURN_VOID();
}
