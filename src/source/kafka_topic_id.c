/*
 * kafka_topic_id.c
 *		Which topic it is that has a name: Kafka gives each one an id, and librdkafka tells it since 2.3.
 *
 * A topic that was deleted and made anew has the old name, and may have as many records as the old one: nothing but its
 * id shows that offsets of the one mean nothing in the other.
 */
#include "source/kafka.h"

#if RD_KAFKA_VERSION >= 0x02030000

/* How long brokers may take to answer, in ms; then they are to be asked again */
#define ANSWER_TIMEOUT 5000

bool
kafka_topic_id_ask(KafkaClient *client, const char *topic)
{
	rd_kafka_TopicCollection_t *topics = rd_kafka_TopicCollection_of_topic_names(&topic, 1);
	rd_kafka_AdminOptions_t *options =
		rd_kafka_AdminOptions_new(client->rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);

	(void) rd_kafka_AdminOptions_set_request_timeout(options, ANSWER_TIMEOUT, NULL, 0);
	rd_kafka_DescribeTopics(client->rk, topics, options, client->events);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_TopicCollection_destroy(topics);
	return true;
}

bool
kafka_topic_id_answer(rd_kafka_event_t *event, char *id, rd_kafka_resp_err_t *err)
{
	const rd_kafka_TopicDescription_t *topic;
	const rd_kafka_Uuid_t *uuid;
	size_t ntopics;

	if (rd_kafka_event_type(event) != RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT)
		return false;
	id[0] = '\0';
	*err = rd_kafka_event_error(event);
	if (*err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	topic = rd_kafka_DescribeTopics_result_topics(rd_kafka_event_DescribeTopics_result(event),
												  &ntopics)[0];
	*err = rd_kafka_error_code(rd_kafka_TopicDescription_error(topic));
	uuid = rd_kafka_TopicDescription_topic_id(topic);
	if (*err == RD_KAFKA_RESP_ERR_NO_ERROR && uuid != NULL &&
		(rd_kafka_Uuid_most_significant_bits(uuid) != 0 ||
		 rd_kafka_Uuid_least_significant_bits(uuid) != 0))
		strlcpy(id, rd_kafka_Uuid_base64str(uuid), TOPIC_ID_SIZE);
	return true;
}

#else /* librdkafka before 2.3 */

bool
kafka_topic_id_ask(KafkaClient *client, const char *topic)
{
	return false;
}

bool
kafka_topic_id_answer(rd_kafka_event_t *event, char *id, rd_kafka_resp_err_t *err)
{
	return false;
}

#endif
