/*
 * kafka_properties.c
 *		Which of librdkafka's properties may be set by whom.
 *
 * Three lists.  What velo must decide itself is refused with the reason, even to superusers: exactly-once and
 * the memory limit hang on it.  What is harmless is open to everybody, secrets in user mappings only.
 * Everything else that librdkafka knows, now or in a later version, is for superusers: it may load code, run
 * commands, read files or call URLs as the server's operating system user.
 */
#include "source/kafka.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/memutils.h"

typedef struct OwnedProperty
{
	const char *name;
	const char *reason;
} OwnedProperty;

#define REASON_BROKERS "Use the option \"brokers\"."
#define REASON_GROUP                                                                               \
	"velo assigns partitions to pipelines itself; the consumer group's name is the query option "  \
	"\"group_id\"."
#define REASON_OFFSETS "Offsets are committed in PostgreSQL, together with the results."
#define REASON_RESET                                                                               \
	"A query's first offsets are its \"start\", and no offset is ever skipped silently."
#define REASON_MEMORY "The fetch queue is part of velo.pipeline_memory."
#define REASON_PRODUCER "INSERT waits for the acknowledgement of all replicas, without duplicates."
#define REASON_EVENTS "velo takes librdkafka's events, logs and statistics itself."

static const OwnedProperty owned_properties[] = {
	{"bootstrap.servers", REASON_BROKERS},
	{"metadata.broker.list", REASON_BROKERS},
	{"test.mock.num.brokers", REASON_BROKERS},
	{"group.id", REASON_GROUP},
	{"group.instance.id", REASON_GROUP},
	{"group.protocol", REASON_GROUP},
	{"group.protocol.type", REASON_GROUP},
	{"group.remote.assignor", REASON_GROUP},
	{"partition.assignment.strategy", REASON_GROUP},
	{"session.timeout.ms", REASON_GROUP},
	{"heartbeat.interval.ms", REASON_GROUP},
	{"max.poll.interval.ms", REASON_GROUP},
	{"coordinator.query.interval.ms", REASON_GROUP},
	{"enable.auto.commit", REASON_OFFSETS},
	{"auto.commit.enable", REASON_OFFSETS},
	{"auto.commit.interval.ms", REASON_OFFSETS},
	{"enable.auto.offset.store", REASON_OFFSETS},
	{"offset.store.method", REASON_OFFSETS},
	{"offset.store.path", REASON_OFFSETS},
	{"offset.store.sync.interval.ms", REASON_OFFSETS},
	{"consume.callback.max.messages", REASON_OFFSETS},
	{"auto.offset.reset", REASON_RESET},
	{"enable.partition.eof", "velo must know when it has reached the end of a partition."},
	{"isolation.level", "Aborted transactions are never read."},
	{"allow.auto.create.topics", "A stream over a topic that does not exist is an error."},
	{"queued.min.messages", REASON_MEMORY},
	{"queued.max.messages.kbytes", REASON_MEMORY},
	{"acks", REASON_PRODUCER},
	{"request.required.acks", REASON_PRODUCER},
	{"enable.idempotence", REASON_PRODUCER},
	{"enable.gapless.guarantee", REASON_PRODUCER},
	{"max.in.flight", REASON_PRODUCER},
	{"max.in.flight.requests.per.connection", REASON_PRODUCER},
	{"message.send.max.retries", REASON_PRODUCER},
	{"retries", REASON_PRODUCER},
	{"queuing.strategy", REASON_PRODUCER},
	{"delivery.report.only.error", REASON_PRODUCER},
	{"transactional.id", REASON_PRODUCER},
	{"transaction.timeout.ms", REASON_PRODUCER},
	{"log.queue", REASON_EVENTS},
	{"enabled_events", REASON_EVENTS},
	{"statistics.interval.ms", REASON_EVENTS},
	{"internal.termination.signal", "PostgreSQL handles the signals of its processes."},
	{"enable.random.seed", "PostgreSQL seeds the random numbers of its processes."},
	/* pointers, for programs that call librdkafka */
	{"opaque", REASON_EVENTS},
	{"default_topic_conf", REASON_EVENTS},
	{"interceptors", REASON_EVENTS},
	{"msg_order_cmp", REASON_EVENTS},
	{"ssl_engine_callback_data", REASON_EVENTS},
	{"ssl_ca", "Use the property \"ssl.ca.pem\"."},
	{"ssl_certificate", "Use the property \"ssl.certificate.pem\"."},
	{"ssl_key", "Use the property \"ssl.key.pem\"."},
};

static const char *const public_properties[] = {
	"api.version.request.timeout.ms",
	"batch.num.messages",
	"batch.size",
	"broker.address.family",
	"broker.address.ttl",
	"check.crcs",
	"client.dns.lookup",
	"client.id",
	"client.rack",
	"compression.codec",
	"compression.level",
	"compression.type",
	"connections.max.idle.ms",
	"delivery.timeout.ms",
	"enable.ssl.certificate.verification",
	"fetch.error.backoff.ms",
	"fetch.max.bytes",
	"fetch.message.max.bytes",
	"fetch.min.bytes",
	"fetch.queue.backoff.ms",
	"fetch.wait.max.ms",
	"linger.ms",
	"log.connection.close",
	"max.partition.fetch.bytes",
	"message.max.bytes",
	"message.timeout.ms",
	"metadata.max.age.ms",
	"metadata.recovery.strategy",
	"partitioner",
	"queue.buffering.max.ms",
	"receive.message.max.bytes",
	"reconnect.backoff.max.ms",
	"reconnect.backoff.ms",
	"request.timeout.ms",
	"retry.backoff.max.ms",
	"retry.backoff.ms",
	"sasl.mechanism",
	"sasl.mechanisms",
	"sasl.username",
	"security.protocol",
	"socket.connection.setup.timeout.ms",
	"socket.keepalive.enable",
	"socket.nagle.disable",
	"socket.receive.buffer.bytes",
	"socket.send.buffer.bytes",
	"socket.timeout.ms",
	"ssl.ca.pem",
	"ssl.certificate.pem",
	"ssl.cipher.suites",
	"ssl.curves.list",
	"ssl.endpoint.identification.algorithm",
	"ssl.sigalgs.list",
	"sticky.partitioning.linger.ms",
	"topic.metadata.refresh.interval.ms",
};

static const char *const secret_properties[] = {
	"sasl.oauthbearer.assertion.private.key.passphrase",
	"sasl.oauthbearer.assertion.private.key.pem",
	"sasl.oauthbearer.client.credentials.client.secret",
	"sasl.oauthbearer.client.secret",
	"sasl.password",
	"ssl.key.password",
	"ssl.key.pem",
	"ssl.keystore.password",
};

/* true if this librdkafka knows the property; they come and go with its versions */
static bool
property_exists(const char *name)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool exists;

	/* no value means: its default */
	exists = rd_kafka_conf_set(conf, name, NULL, NULL, 0) != RD_KAFKA_CONF_UNKNOWN;
	rd_kafka_conf_destroy(conf);
	return exists;
}

static bool
is_listed(const char *name, const char *const *list, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(name, list[i]) == 0)
			return true;
	}
	return false;
}

PropertyKind
source_property_kind(const char *name, const char **reason)
{
	static const char topic_prefix[] = "topic.";
	Size len;

	/* librdkafka takes those of a topic with this before them as well */
	if (strncmp(name, topic_prefix, strlen(topic_prefix)) == 0)
		name += strlen(topic_prefix);
	len = strlen(name);

	for (int i = 0; i < (int) lengthof(owned_properties); i++)
	{
		if (strcmp(name, owned_properties[i].name) == 0)
		{
			if (reason != NULL)
				*reason = owned_properties[i].reason;
			return PROPERTY_OWNED;
		}
	}
	if (!property_exists(name))
		return PROPERTY_UNKNOWN;
	if (len > strlen("_cb") && strcmp(name + len - strlen("_cb"), "_cb") == 0)
	{
		if (reason != NULL)
			*reason = REASON_EVENTS;
		return PROPERTY_OWNED;
	}
	if (is_listed(name, public_properties, lengthof(public_properties)))
		return PROPERTY_PUBLIC;
	if (is_listed(name, secret_properties, lengthof(secret_properties)))
		return PROPERTY_SECRET;
	return PROPERTY_SUPERUSER;
}

/* Kerberos as librdkafka has understood the value: it leaves out blanks before it. */
static bool
uses_kerberos(const rd_kafka_conf_t *conf)
{
	char mechanism[64] = "";
	size_t size = sizeof(mechanism);

	return rd_kafka_conf_get(conf, "sasl.mechanisms", mechanism, &size) == RD_KAFKA_CONF_OK &&
		   pg_strcasecmp(mechanism, "GSSAPI") == 0;
}

void
source_check_property(const char *name, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char errstr[512] = "";
	char detail[512];
	rd_kafka_conf_res_t res;
	bool kerberos;

	res = rd_kafka_conf_set(conf, name, value, errstr, sizeof(errstr));
	kerberos = uses_kerberos(conf);
	rd_kafka_conf_destroy(conf);
	if (res == RD_KAFKA_CONF_OK)
	{
		/* it is librdkafka's default, so it only matters where it was set */
		if (strncmp(name, "sasl.mechanism", strlen("sasl.mechanism")) == 0 && kerberos &&
			!superuser())
			ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("permission denied to set option \"%s\" to \"%s\"", name, value),
					errdetail("Only superusers may use the Kerberos identity of the server."),
					errhint("Other mechanisms are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512."));
		return;
	}

	/* librdkafka's text quotes the value */
	if (source_property_kind(name, NULL) == PROPERTY_SECRET)
		ereport(ERROR, errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				errmsg("invalid value for option \"%s\"", name));
	kafka_clean_text(detail, sizeof(detail), errstr);
	ereport(ERROR, errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			errdetail("%s.", detail));
}

const char *
source_property_list(bool secrets)
{
	static char *lists[2] = {NULL, NULL};
	const char *const *names = secrets ? secret_properties : public_properties;
	int n = secrets ? (int) lengthof(secret_properties) : (int) lengthof(public_properties);
	StringInfoData list;

	if (lists[secrets] != NULL)
		return lists[secrets];

	initStringInfo(&list);
	for (int i = 0; i < n; i++)
	{
		if (property_exists(names[i]))
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", names[i]);
	}
	lists[secrets] = MemoryContextStrdup(TopMemoryContext, list.data);
	pfree(list.data);
	return lists[secrets];
}
