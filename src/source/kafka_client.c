/*
 * kafka_client.c
 *		librdkafka handles that PostgreSQL's memory contexts own: configuration, lifetime, errors and logs.
 *
 * A handle has threads and sockets of its own, which an ereport(ERROR) would leave behind.  So each is tied
 * to a memory context by a reset callback, and closed at process exit if it is still there (contexts are not
 * reset then).  librdkafka's threads run none of our code: logs, errors and reports are queued as events,
 * which kafka_client_serve() takes in the calling thread.
 */
#include "source/kafka.h"

#include <pthread.h>
#include <signal.h>
#include <syslog.h>

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

/* How long librdkafka may take to end its threads, in s */
#define CLOSE_TIMEOUT 5

/* Clients of this process that are open */
static dlist_head open_clients = DLIST_STATIC_INIT(open_clients);

int
kafka_thread_create(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all_signals;
	sigset_t saved_signals;
	int err;

	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &saved_signals);
	err = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &saved_signals, NULL);
	return err;
}

/* The thread: nothing of PostgreSQL's may be called here. */
static void *
destroy_handle(void *rk)
{
	rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return NULL;
}

/*
 * To destroy a handle, librdkafka waits for its threads, and for some it waits for ever: such as those that know
 * partitions of a topic that was deleted.  So that is left to a thread which need not be waited for.
 */
bool
kafka_handle_close(rd_kafka_t *rk, rd_kafka_topic_t *topic, rd_kafka_queue_t *events)
{
	struct timespec deadline;
	pthread_t thread;
	int err;

	if (topic != NULL)
		rd_kafka_topic_destroy(topic);
	rd_kafka_queue_destroy(events);
	/* nobody waits for what is still to be sent */
	if (rd_kafka_type(rk) == RD_KAFKA_PRODUCER)
		rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
							   RD_KAFKA_PURGE_F_NON_BLOCKING);

	err = kafka_thread_create(&thread, destroy_handle, rk);
	if (err != 0)
	{
		destroy_handle(rk);
		return true;
	}
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += CLOSE_TIMEOUT;
	if (pthread_timedjoin_np(thread, NULL, &deadline) == 0)
		return true;
	pthread_detach(thread);
	return false;
}

/* Close the handle; quick, or within CLOSE_TIMEOUT, and safe to call again.  Must not throw. */
static void
client_shutdown(KafkaClient *client)
{
	rd_kafka_t *rk = client->rk;

	if (rk == NULL)
		return;
	if (client->before_close != NULL)
		client->before_close(client->owner);
	client->rk = NULL;
	dlist_delete(&client->link);
	if (!kafka_question_abandon(client) && !kafka_handle_close(rk, client->topic, client->events))
		ereport(
			LOG, errmsg("could not close the connection to Kafka broker \"%s\"", client->brokers),
			errdetail("librdkafka does not end its threads; they stay until the process ends."));
}

static void
client_context_reset(void *arg)
{
	client_shutdown(arg);
}

static void
clients_at_exit(int code pg_attribute_unused(), Datum arg pg_attribute_unused())
{
	while (!dlist_is_empty(&open_clients))
		client_shutdown(dlist_container(KafkaClient, link, dlist_head_node(&open_clients)));
	kafka_questions_reap(true);
}

/*
 * The first librdkafka that sends what RFC 5802 says as the last message of SCRAM; Kafka takes nothing else since 4.0.
 */
#define SCRAM_RIGHT_SINCE 0x02060100

/* Where a password was refused, is that perhaps librdkafka's fault?  Then the message says so. */
static void
doubt_scram(KafkaClient *client)
{
	Size len = strlen(client->message);

	if (rd_kafka_version() < SCRAM_RIGHT_SINCE &&
		strstr(client->message, "invalid credentials with SASL mechanism SCRAM") != NULL)
		snprintf(client->message + len, sizeof(client->message) - len,
				 "; librdkafka %s can't use SCRAM with Kafka 4.0 and later, as 2.6.1 can",
				 rd_kafka_version_str());
}

/*
 * Note an error of the connection or the topic, for kafka_client_trouble().  Those about a topic come to
 * librdkafka's error callback, for they are in the consumer's queue; but it is called by whoever polls that
 * queue, so not in another thread.  Must not throw.
 */
static void
note_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	KafkaClient *client = opaque;
	rd_kafka_resp_err_t err = (rd_kafka_resp_err_t) code;
	char fatal[400];

	switch (err)
	{
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
			if (client->trouble == SOURCE_FINE)
				client->trouble = SOURCE_UNREACHABLE;
			/* the broker's own error came just before and says more */
			if (client->message[0] != '\0')
				return;
			break;
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
			/* one broker: no trouble as long as another one answers */
			break;
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
			/* the group only shows our offsets to others */
			return;
		case RD_KAFKA_RESP_ERR__FATAL:
			client->trouble = SOURCE_FAILED;
			(void) rd_kafka_fatal_error(rk, fatal, sizeof(fatal));
			reason = fatal;
			break;
		default:
			client->trouble = kafka_trouble_of(err);
			break;
	}
	kafka_clean_text(client->message, sizeof(client->message), reason);
	if (err == RD_KAFKA_RESP_ERR__AUTHENTICATION)
		doubt_scram(client);
}

/* Weaker than all other settings. */
static const KafkaSetting common_defaults[] = {
	{"client.id", "velo"},
	{"sasl.mechanisms", "PLAIN"},
	/* closing would wait a second for the last metrics to be pushed (librdkafka 2.5), which nobody asked for */
	{"enable.metrics.push", "false"},
	{NULL},
};

/* Set what this librdkafka knows. */
static void
set_defaults(rd_kafka_conf_t *conf, const KafkaSetting *defaults)
{
	for (const KafkaSetting *s = defaults; s != NULL && s->name != NULL; s++)
		rd_kafka_conf_set(conf, s->name, s->value, NULL, 0);
}

/* Returns false, with the reason in errstr, if librdkafka refuses one of the properties. */
static bool
configure(rd_kafka_conf_t *conf, const StreamInfo *stream, const KafkaSetting *defaults,
		  const KafkaSetting *owned, char *errstr, Size errsize)
{
	ListCell *lc;

	set_defaults(conf, common_defaults);
	set_defaults(conf, defaults);
	foreach (lc, stream->properties)
	{
		DefElem *def = (DefElem *) lfirst(lc);

		if (source_property_kind(def->defname, NULL) == PROPERTY_OWNED)
			continue;
		if (rd_kafka_conf_set(conf, def->defname, strVal(def->arg), errstr, errsize) !=
			RD_KAFKA_CONF_OK)
			return false;
	}

	for (const KafkaSetting *s = owned; s->name != NULL; s++)
	{
		if (rd_kafka_conf_set(conf, s->name, s->value, errstr, errsize) != RD_KAFKA_CONF_OK)
			return false;
	}
	if (rd_kafka_conf_set(conf, "bootstrap.servers", stream->brokers, errstr, errsize) !=
			RD_KAFKA_CONF_OK ||
		rd_kafka_conf_set(conf, "log.queue", "true", errstr, errsize) != RD_KAFKA_CONF_OK)
		return false;
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_LOG);
	return true;
}

KafkaClient *
kafka_client_open(rd_kafka_type_t type, const StreamInfo *stream, const KafkaSetting *defaults,
				  const KafkaSetting *owned)
{
	static bool exit_registered = false;
	MemoryContext context;
	KafkaClient *client;
	rd_kafka_conf_t *conf;
	char errstr[512] = "";
	sigset_t all_signals;
	sigset_t saved_signals;

	if (stream->brokers == NULL || stream->brokers[0] == '\0')
		ereport(ERROR, errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				errmsg("stream \"%s\" has no brokers", stream->name),
				errhint("Set the option \"brokers\" of its server or of the stream."));

	if (!exit_registered)
	{
		before_shmem_exit(clients_at_exit, (Datum) 0);
		exit_registered = true;
	}
	kafka_questions_reap(false);

	context =
		AllocSetContextCreate(CurrentMemoryContext, "velo Kafka client", ALLOCSET_SMALL_SIZES);
	client = MemoryContextAllocZero(context, sizeof(KafkaClient));
	client->context = context;
	client->brokers = MemoryContextStrdup(context, stream->brokers);
	client->callback.func = client_context_reset;
	client->callback.arg = client;
	MemoryContextRegisterResetCallback(context, &client->callback);

	conf = rd_kafka_conf_new();
	rd_kafka_conf_set_opaque(conf, client);
	rd_kafka_conf_set_error_cb(conf, note_error);
	if (configure(conf, stream, defaults, owned, errstr, sizeof(errstr)))
	{
		/* librdkafka's threads inherit the mask: no signal handler of PostgreSQL's may run in them */
		sigfillset(&all_signals);
		pthread_sigmask(SIG_SETMASK, &all_signals, &saved_signals);
		client->rk = rd_kafka_new(type, conf, errstr, sizeof(errstr));
		pthread_sigmask(SIG_SETMASK, &saved_signals, NULL);
	}
	if (client->rk == NULL)
	{
		char detail[512];

		rd_kafka_conf_destroy(conf);
		kafka_clean_text(detail, sizeof(detail), errstr);
		ereport(ERROR, errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				errmsg("could not set up a Kafka client for stream \"%s\"", stream->name),
				errdetail("%s.", detail),
				errhint("See the options of the stream's server and user mapping."));
	}
	dlist_push_tail(&open_clients, &client->link);
	client->events = rd_kafka_queue_get_main(client->rk);
	rd_kafka_set_log_queue(client->rk, NULL);
	return client;
}

void
kafka_client_close(KafkaClient *client)
{
	MemoryContextDelete(client->context);
}

/* librdkafka's log goes to the server's: what needs a look as LOG, the rest at debug levels. */
static void
log_event(rd_kafka_event_t *event)
{
	const char *facility = "";
	const char *text = "";
	int level = LOG_DEBUG;
	char line[1024];
	int elevel;

	rd_kafka_event_log(event, &facility, &text, &level);
	/* lost connections come as errors, too; and we set properties on clients of either kind */
	if (strcmp(facility, "FAIL") == 0 || strcmp(facility, "CONFWARN") == 0)
		level = LOG_INFO;
	kafka_clean_text(line, sizeof(line), text);
	rd_kafka_event_destroy(event);

	elevel = level <= LOG_ERR ? LOG : (level < LOG_DEBUG ? DEBUG1 : DEBUG2);
	ereport(elevel, errmsg("librdkafka: %s", line));
}

bool
kafka_client_serve(KafkaClient *client, int timeout_ms)
{
	rd_kafka_event_t *event;
	bool any = false;

	while ((event = rd_kafka_queue_poll(client->events, any ? 0 : timeout_ms)) != NULL)
	{
		any = true;
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_LOG:
				log_event(event); /* destroys it: it may throw */
				continue;
			case RD_KAFKA_EVENT_ERROR:
				note_error(client->rk, rd_kafka_event_error(event),
						   rd_kafka_event_error_string(event), client);
				break;
			default:
				if (client->on_event != NULL)
					client->on_event(client->owner, event);
				break;
		}
		rd_kafka_event_destroy(event);
	}
	return any;
}

SourceTrouble
kafka_client_trouble(KafkaClient *client)
{
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_resp_err_t err;

	if (client->trouble != SOURCE_UNREACHABLE)
		return client->trouble;

	/*
	 * librdkafka does not say when a broker is back.  But a request without time to wait tells: it can't be
	 * sent (transport) or its answer does not come in time.
	 */
	err = rd_kafka_metadata(client->rk, 0, NULL, &metadata, 0);
	if (metadata != NULL)
		rd_kafka_metadata_destroy(metadata);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR || err == RD_KAFKA_RESP_ERR__TIMED_OUT)
	{
		client->trouble = SOURCE_FINE;
		client->message[0] = '\0';
	}
	return client->trouble;
}

bool
kafka_is_dev_broker(const char *brokers)
{
	char port[16];
	const char *colon = strrchr(brokers, ':');

	if (velo_dev_broker_port == 0 || colon == NULL)
		return false;
	snprintf(port, sizeof(port), ":%d", velo_dev_broker_port);
	return strcmp(colon, port) == 0 && (strncmp(brokers, "127.0.0.1:", strlen("127.0.0.1:")) == 0 ||
										strncmp(brokers, "localhost:", strlen("localhost:")) == 0);
}

SourceTrouble
kafka_trouble_of(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return SOURCE_FINE;
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__NODE_UPDATE:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS:
		case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
			return SOURCE_UNREACHABLE;
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return SOURCE_NO_TOPIC;
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
			return SOURCE_NOT_AUTHORIZED;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return SOURCE_OUT_OF_RANGE;
		default:
			return SOURCE_FAILED;
	}
}

int
kafka_sqlstate_of(rd_kafka_resp_err_t err)
{
	switch (kafka_trouble_of(err))
	{
		case SOURCE_UNREACHABLE:
			return ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
		case SOURCE_NO_TOPIC:
			return ERRCODE_UNDEFINED_OBJECT;
		case SOURCE_NOT_AUTHORIZED:
			return err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
						   err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
					   ? ERRCODE_INSUFFICIENT_PRIVILEGE
					   : ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case SOURCE_OUT_OF_RANGE:
			return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		default:
			break;
	}
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		default:
			return ERRCODE_FDW_ERROR;
	}
}

void
kafka_clean_text(char *dst, Size size, const char *src)
{
	Size i = 0;

	for (; src != NULL && src[i] != '\0' && i < size - 1; i++)
		dst[i] = (src[i] >= ' ' && src[i] <= '~') ? src[i] : (src[i] == '\n' ? ' ' : '?');
	while (i > 0 && (dst[i - 1] == ' ' || dst[i - 1] == '.'))
		i--;
	dst[i] = '\0';
}

void
kafka_error(const KafkaClient *client, rd_kafka_resp_err_t err, const char *doing)
{
	if (client->trouble == SOURCE_NOT_AUTHORIZED)
		ereport(ERROR, errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				errmsg("Kafka broker \"%s\" refused the connection", client->brokers),
				errdetail("%s.", client->message));
	if (kafka_trouble_of(err) == SOURCE_UNREACHABLE)
		ereport(ERROR, errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				errmsg("could not connect to Kafka broker \"%s\"", client->brokers),
				client->message[0] != '\0' ? errdetail("%s.", client->message)
										   : errdetail("It did not answer in time."));
	ereport(ERROR, errcode(kafka_sqlstate_of(err)),
			errmsg("could not %s: %s", doing, rd_kafka_err2str(err)),
			errdetail("The Kafka broker is \"%s\".", client->brokers));
}
