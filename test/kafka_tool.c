/*
 * kafka_tool.c
 *		What the tests do to a Kafka that kcat can't: make topics, trim them, and produce exact lists of records.
 *
 *	kafka_tool BROKERS wait
 *	kafka_tool BROKERS create TOPIC PARTITIONS [CONFIG=VALUE ...]
 *	kafka_tool BROKERS grow TOPIC PARTITIONS				add partitions up to that number
 *	kafka_tool BROKERS delete TOPIC
 *	kafka_tool BROKERS trim TOPIC PARTITION OFFSET			delete the records before OFFSET
 *	kafka_tool BROKERS allow|forbid TOPIC PRINCIPAL			all that one can do with a topic, where Kafka asks for rights
 *	kafka_tool BROKERS committed GROUP TOPIC PARTITION		the offset that a consumer group has committed
 *	kafka_tool BROKERS consume TOPIC OFFSET ...				partition 0 from the first OFFSET on, 1 from the second ...
 *	kafka_tool BROKERS produce TOPIC [PROPERTY=VALUE ...]	properties are librdkafka's
 *
 * "produce" reads a record a line from standard input, fields separated by tabs:
 *
 *		partition  key  timestamp  value  [header=value ...]
 *
 * \N is no key or no value; \t, \n, \\ and \xHH stand for bytes; an empty timestamp (milliseconds since 1970) is the
 * broker's business.  The lines !begin, !commit and !abort steer transactions (with transactional.id=...), !flush waits
 * for all acknowledgements.  It prints "partition<TAB>offset" for each record, in the order of the input.
 *
 * "consume" prints the records that are committed now, those of a partition in order: partition, offset, key, timestamp
 * and value, written the same way, which COPY understands as well.
 */
#include <librdkafka/rdkafka.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 30000

typedef struct Delivery
{
	int32_t partition;
	int64_t offset;
} Delivery;

static Delivery *deliveries;
static size_t ndeliveries;
static size_t nprinted;
static size_t nfailed;

static void
die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "kafka_tool: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/* End with the text of a librdkafka error object, if there is one. */
static void
check(const char *what, rd_kafka_error_t *error)
{
	if (error)
		die("%s: %s", what, rd_kafka_error_string(error));
}

/* End if the result of an admin operation is an error. */
static void
check_topic_result(const char *what, const rd_kafka_topic_result_t *result)
{
	if (rd_kafka_topic_result_error(result))
		die("%s: %s", what, rd_kafka_topic_result_error_string(result));
}

static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	Delivery *delivery = &deliveries[(size_t) message->_private];

	(void) rk;
	(void) opaque;
	delivery->partition = message->partition;
	delivery->offset = message->offset;
	if (message->err)
	{
		nfailed++;
		fprintf(stderr, "kafka_tool: not delivered: %s\n", rd_kafka_err2str(message->err));
	}
}

static rd_kafka_t *
connect_consumer(const char *brokers)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512];
	rd_kafka_t *rk;

	if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "group.id", "kafka_tool", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "enable.auto.commit", "false", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "enable.partition.eof", "true", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "auto.offset.reset", "error", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "log_level", "3", error, sizeof(error)))
		die("%s", error);
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (!rk)
		die("%s", error);
	return rk;
}

static rd_kafka_t *
connect_brokers(const char *brokers, char **properties, int nproperties, bool *transactional)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512];
	rd_kafka_t *rk;

	if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "enable.idempotence", "true", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "linger.ms", "1", error, sizeof(error)) ||
		rd_kafka_conf_set(conf, "log_level", "3", error, sizeof(error)))
		die("%s", error);
	for (int i = 0; i < nproperties; i++)
	{
		char *value = strchr(properties[i], '=');

		if (!value)
			die("\"%s\" is not PROPERTY=VALUE", properties[i]);
		*value++ = '\0';
		if (rd_kafka_conf_set(conf, properties[i], value, error, sizeof(error)))
			die("%s", error);
		if (strcmp(properties[i], "transactional.id") == 0)
			*transactional = true;
	}
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (!rk)
		die("%s", error);
	return rk;
}

/* Wait for the one result of an admin operation. */
static rd_kafka_event_t *
admin_result(const char *what, rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);

	if (!event)
		die("%s: no answer", what);
	if (rd_kafka_event_error(event))
		die("%s: %s", what, rd_kafka_event_error_string(event));
	return event;
}

static void
wait_for_broker(rd_kafka_t *rk)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, NULL, &metadata, 1000);

	if (err)
		die("%s", rd_kafka_err2str(err));
	rd_kafka_metadata_destroy(metadata);
}

static void
create_topic(rd_kafka_t *rk, const char *topic, int partitions, char **configs, int nconfigs)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	char error[512];
	rd_kafka_NewTopic_t *new_topic =
		rd_kafka_NewTopic_new(topic, partitions, 1, error, sizeof(error));
	const rd_kafka_topic_result_t **results;
	size_t nresults;

	if (!new_topic)
		die("%s", error);
	for (int i = 0; i < nconfigs; i++)
	{
		char *value = strchr(configs[i], '=');

		if (!value)
			die("\"%s\" is not CONFIG=VALUE", configs[i]);
		*value++ = '\0';
		rd_kafka_NewTopic_set_config(new_topic, configs[i], value);
	}
	rd_kafka_CreateTopics(rk, &new_topic, 1, NULL, queue);
	results = rd_kafka_CreateTopics_result_topics(
		rd_kafka_event_CreateTopics_result(admin_result("create", queue)), &nresults);
	check_topic_result("create", results[0]);
}

static void
grow_topic(rd_kafka_t *rk, const char *topic, int partitions)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	char error[512];
	rd_kafka_NewPartitions_t *new_partitions =
		rd_kafka_NewPartitions_new(topic, partitions, error, sizeof(error));
	const rd_kafka_topic_result_t **results;
	size_t nresults;

	if (!new_partitions)
		die("%s", error);
	rd_kafka_CreatePartitions(rk, &new_partitions, 1, NULL, queue);
	results = rd_kafka_CreatePartitions_result_topics(
		rd_kafka_event_CreatePartitions_result(admin_result("grow", queue)), &nresults);
	check_topic_result("grow", results[0]);
}

static void
delete_topic(rd_kafka_t *rk, const char *topic)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_DeleteTopic_t *old_topic = rd_kafka_DeleteTopic_new(topic);
	const rd_kafka_topic_result_t **results;
	size_t nresults;

	rd_kafka_DeleteTopics(rk, &old_topic, 1, NULL, queue);
	results = rd_kafka_DeleteTopics_result_topics(
		rd_kafka_event_DeleteTopics_result(admin_result("delete", queue)), &nresults);
	check_topic_result("delete", results[0]);
}

static void
trim_topic(rd_kafka_t *rk, const char *topic, int partition, int64_t offset)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *request;
	const rd_kafka_topic_partition_list_t *offsets;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
	request = rd_kafka_DeleteRecords_new(list);
	rd_kafka_DeleteRecords(rk, &request, 1, NULL, queue);
	offsets = rd_kafka_DeleteRecords_result_offsets(
		rd_kafka_event_DeleteRecords_result(admin_result("trim", queue)));
	if (offsets->elems[0].err)
		die("trim: %s", rd_kafka_err2str(offsets->elems[0].err));
}

static void
allow(rd_kafka_t *rk, const char *topic, const char *principal)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	char error[512];
	rd_kafka_AclBinding_t *acl = rd_kafka_AclBinding_new(
		RD_KAFKA_RESOURCE_TOPIC, topic, RD_KAFKA_RESOURCE_PATTERN_LITERAL, principal, "*",
		RD_KAFKA_ACL_OPERATION_ALL, RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW, error, sizeof(error));
	const rd_kafka_acl_result_t **results;
	size_t nresults;

	if (!acl)
		die("%s", error);
	rd_kafka_CreateAcls(rk, &acl, 1, NULL, queue);
	results = rd_kafka_CreateAcls_result_acls(
		rd_kafka_event_CreateAcls_result(admin_result("allow", queue)), &nresults);
	check("allow", (rd_kafka_error_t *) rd_kafka_acl_result_error(results[0]));
}

static void
forbid(rd_kafka_t *rk, const char *topic, const char *principal)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	char error[512];
	rd_kafka_AclBindingFilter_t *filter = rd_kafka_AclBindingFilter_new(
		RD_KAFKA_RESOURCE_TOPIC, topic, RD_KAFKA_RESOURCE_PATTERN_LITERAL, principal, "*",
		RD_KAFKA_ACL_OPERATION_ALL, RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW, error, sizeof(error));
	const rd_kafka_DeleteAcls_result_response_t **responses;
	size_t nresponses;

	if (!filter)
		die("%s", error);
	rd_kafka_DeleteAcls(rk, &filter, 1, NULL, queue);
	responses = rd_kafka_DeleteAcls_result_responses(
		rd_kafka_event_DeleteAcls_result(admin_result("forbid", queue)), &nresponses);
	check("forbid", (rd_kafka_error_t *) rd_kafka_DeleteAcls_result_response_error(responses[0]));
}

/* Prints the offset, -1001 if there is none. */
static void
print_committed(rd_kafka_t *rk, const char *group, const char *topic, int partition)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_ListConsumerGroupOffsets_t *request;
	const rd_kafka_group_result_t **results;
	size_t nresults;

	rd_kafka_topic_partition_list_add(list, topic, partition);
	request = rd_kafka_ListConsumerGroupOffsets_new(group, list);
	rd_kafka_ListConsumerGroupOffsets(rk, &request, 1, NULL, queue);
	results = rd_kafka_ListConsumerGroupOffsets_result_groups(
		rd_kafka_event_ListConsumerGroupOffsets_result(admin_result("committed", queue)),
		&nresults);
	check("committed", (rd_kafka_error_t *) rd_kafka_group_result_error(results[0]));
	printf("%lld\n", (long long) rd_kafka_group_result_partitions(results[0])->elems[0].offset);
}

/* Undo the escapes of a field in place and return its length; \N becomes NULL. */
static size_t
unescape(char **field_p)
{
	char *field = *field_p;
	char *to = field;

	if (strcmp(field, "\\N") == 0)
	{
		*field_p = NULL;
		return 0;
	}
	for (const char *from = field; *from; from++)
	{
		if (*from != '\\')
			*to++ = *from;
		else if (*++from == 't')
			*to++ = '\t';
		else if (*from == 'n')
			*to++ = '\n';
		else if (*from == 'x' && from[1] && from[2])
		{
			char hex[3] = {from[1], from[2], '\0'};

			*to++ = (char) strtol(hex, NULL, 16);
			from += 2;
		}
		else if (*from == '\\')
			*to++ = '\\';
		else
			die("unknown escape in \"%s\"", field);
	}
	*to = '\0';
	return to - field;
}

static void
flush_and_print(rd_kafka_t *rk)
{
	rd_kafka_resp_err_t err = rd_kafka_flush(rk, 4 * TIMEOUT_MS);

	if (err)
		die("flush: %s", rd_kafka_err2str(err));
	for (; nprinted < ndeliveries; nprinted++)
		printf("%d\t%lld\n", deliveries[nprinted].partition,
			   (long long) deliveries[nprinted].offset);
	fflush(stdout);
}

static void
produce_line(rd_kafka_t *rk, const char *topic, char *line)
{
	char *partition = strsep(&line, "\t");
	char *key = strsep(&line, "\t");
	char *timestamp = strsep(&line, "\t");
	char *value = strsep(&line, "\t");
	rd_kafka_headers_t *headers = NULL;
	size_t key_size;
	size_t value_size;
	size_t index = ndeliveries++;
	rd_kafka_resp_err_t err;

	if (!value)
		die("line %zu has fewer than four fields", index + 1);
	key_size = unescape(&key);
	value_size = unescape(&value);
	for (char *header; (header = strsep(&line, "\t")) != NULL;)
	{
		char *header_value = strchr(header, '=');
		size_t len;

		if (!header_value)
			die("\"%s\" is not HEADER=VALUE", header);
		*header_value++ = '\0';
		len = unescape(&header_value);
		if (!headers)
			headers = rd_kafka_headers_new(4);
		rd_kafka_header_add(headers, header, -1, header_value, len);
	}

	/* room for twice as many whenever their number reaches a power of two */
	if ((index & (index - 1)) == 0)
		deliveries = realloc(deliveries, sizeof(Delivery) * (index ? 2 * index : 1));
	deliveries[index] = (Delivery){-1, -1};

	do
	{
		err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(atoi(partition)),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								RD_KAFKA_V_KEY(key, key_size), RD_KAFKA_V_VALUE(value, value_size),
								RD_KAFKA_V_TIMESTAMP(*timestamp ? atoll(timestamp) : 0),
								RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE((void *) index),
								RD_KAFKA_V_END);
		rd_kafka_poll(rk, err == RD_KAFKA_RESP_ERR__QUEUE_FULL ? 100 : 0);
	} while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL);
	if (err)
		die("produce: %s", rd_kafka_err2str(err));
}

static void
produce(rd_kafka_t *rk, const char *topic, bool transactional)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	if (transactional)
		check("init transactions", rd_kafka_init_transactions(rk, TIMEOUT_MS));
	while ((len = getline(&line, &size, stdin)) > 0)
	{
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		if (strcmp(line, "!flush") == 0)
			flush_and_print(rk);
		else if (strcmp(line, "!begin") == 0)
			check("begin", rd_kafka_begin_transaction(rk));
		else if (strcmp(line, "!commit") == 0)
			check("commit", rd_kafka_commit_transaction(rk, TIMEOUT_MS));
		else if (strcmp(line, "!abort") == 0)
		{
			/* what is not sent yet would not be sent at all */
			flush_and_print(rk);
			check("abort", rd_kafka_abort_transaction(rk, TIMEOUT_MS));
		}
		else
			produce_line(rk, topic, line);
	}
	flush_and_print(rk);
	free(line);
	if (nfailed)
		die("%zu records were not delivered", nfailed);
}

/* Write bytes as produce_line() reads them. */
static void
print_field(const char *bytes, size_t len)
{
	if (!bytes)
		fputs("\\N", stdout);
	for (size_t i = 0; bytes && i < len; i++)
	{
		unsigned char c = bytes[i];

		if (c < ' ' || c == '\\')
			printf("\\x%02x", c);
		else
			putchar(c);
	}
}

static void
print_message(const rd_kafka_message_t *message)
{
	printf("%d\t%lld\t", message->partition, (long long) message->offset);
	print_field(message->key, message->key_len);
	printf("\t%lld\t", (long long) rd_kafka_message_timestamp(message, NULL));
	print_field(message->payload, message->len);
	putchar('\n');
}

static void
consume(const char *brokers, const char *topic, char **offsets, int npartitions)
{
	rd_kafka_t *rk = connect_consumer(brokers);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(npartitions);
	int nleft = npartitions;
	rd_kafka_resp_err_t err;

	for (int i = 0; i < npartitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = atoll(offsets[i]);
	err = rd_kafka_assign(rk, list);
	if (err)
		die("assign: %s", rd_kafka_err2str(err));
	while (nleft > 0)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, TIMEOUT_MS);

		if (!message)
			die("consume: no answer");
		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		{
			rd_kafka_topic_partition_list_t *done = rd_kafka_topic_partition_list_new(1);

			/* what comes from now on is not asked for */
			rd_kafka_topic_partition_list_add(done, topic, message->partition);
			check("consume", rd_kafka_incremental_unassign(rk, done));
			rd_kafka_topic_partition_list_destroy(done);
			nleft--;
		}
		else if (!message->err)
			print_message(message);
		/* what the library gets over by itself is no matter, such as a broker that is not there yet */
		else if (message->err != RD_KAFKA_RESP_ERR__TRANSPORT &&
				 message->err != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
			die("consume: %s", rd_kafka_message_errstr(message));
		rd_kafka_message_destroy(message);
	}
}

int
main(int argc, char **argv)
{
	const char *command = argc > 2 ? argv[2] : "";
	bool transactional = false;
	bool producing = strcmp(command, "produce") == 0 && argc >= 4;
	rd_kafka_t *rk;

	if (argc < 3)
		die("usage: kafka_tool BROKERS wait|create|grow|delete|trim|allow|forbid|committed|"
			"consume|produce ...");
	if (strcmp(command, "consume") == 0 && argc >= 5)
	{
		consume(argv[1], argv[3], argv + 4, argc - 4);
		return 0;
	}
	rk = connect_brokers(argv[1], argv + 4, producing ? argc - 4 : 0, &transactional);

	if (strcmp(command, "wait") == 0)
		wait_for_broker(rk);
	else if (strcmp(command, "create") == 0 && argc >= 5)
		create_topic(rk, argv[3], atoi(argv[4]), argv + 5, argc - 5);
	else if (strcmp(command, "grow") == 0 && argc == 5)
		grow_topic(rk, argv[3], atoi(argv[4]));
	else if (strcmp(command, "delete") == 0 && argc == 4)
		delete_topic(rk, argv[3]);
	else if (strcmp(command, "trim") == 0 && argc == 6)
		trim_topic(rk, argv[3], atoi(argv[4]), atoll(argv[5]));
	else if (strcmp(command, "allow") == 0 && argc == 5)
		allow(rk, argv[3], argv[4]);
	else if (strcmp(command, "forbid") == 0 && argc == 5)
		forbid(rk, argv[3], argv[4]);
	else if (strcmp(command, "committed") == 0 && argc == 6)
		print_committed(rk, argv[3], argv[4], atoi(argv[5]));
	else if (producing)
		produce(rk, argv[3], transactional);
	else
		die("unknown command or wrong number of arguments: \"%s\"", command);

	/* no rd_kafka_destroy(): the process ends anyway, and at once */
	return 0;
}
