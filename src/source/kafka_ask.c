/*
 * kafka_ask.c
 *		Questions that librdkafka answers by blocking, asked such that the caller still sees interrupts.
 *
 * librdkafka can't be told to stop waiting for a broker that hangs, and to ask again and again with short waits would
 * never get the answer of one that is merely slow.  So each question is asked in a thread, which calls librdkafka and
 * nothing else; the process waits for its answer and for its latch.  If it stops waiting, because of an interrupt or an
 * error, the thread gets the handle and closes it as soon as librdkafka returns, which is after SLICE at the latest.
 */
#include "source/kafka.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Longest wait of the thread within librdkafka, in ms: a process that ends has to wait as long */
#define SLICE 1000

/* Wait of the thread before it asks a broker again that could not answer yet, in ms */
#define PAUSE 50

/* No answer at all for this time, with the connection refused: give up, in ms */
#define GIVE_UP_AFTER 1000

/* States of a question: who changes it from ASKING first, thread or process, leaves the handle to the other */
#define QUESTION_ASKING 0
#define QUESTION_ANSWERED 1
#define QUESTION_ABANDONED 2

/* Questions whose answer nobody waits for any more, until their threads have ended */
static dlist_head abandoned = DLIST_STATIC_INIT(abandoned);

KafkaQuestion *
kafka_question_create(KafkaClient *client,
					  rd_kafka_resp_err_t (*ask)(KafkaQuestion *question, int timeout_ms),
					  int npartitions)
{
	KafkaQuestion *question = calloc(1, sizeof(KafkaQuestion));
	int64 *offsets = calloc(Max(npartitions, 1), sizeof(int64));

	Assert(client->question == NULL);
	if (question == NULL || offsets == NULL)
	{
		free(question);
		free(offsets);
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	}
	question->ask = ask;
	question->rk = client->rk;
	question->topic = client->topic;
	question->npartitions = npartitions;
	question->offsets = offsets;
	question->answered_fd = -1;
	client->question = question;
	return question;
}

/* Free a question whose thread has ended, or has never begun. */
static void
free_question(KafkaQuestion *question)
{
	if (question->answered_fd >= 0)
		close(question->answered_fd);
	free(question->offsets);
	free(question);
}

void
kafka_question_free(KafkaClient *client)
{
	free_question(client->question);
	client->question = NULL;
}

static int64
monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The thread: nothing of PostgreSQL's may be called here. */
static void *
ask(void *arg)
{
	KafkaQuestion *question = arg;
	int64 deadline = monotonic_ms() + question->timeout_ms;
	uint64 one = 1;

	for (;;)
	{
		int64 left = deadline - monotonic_ms();

		question->err = question->ask(question, (int) Max(1, Min(left, SLICE)));
		if (kafka_trouble_of(question->err) != SOURCE_UNREACHABLE || monotonic_ms() >= deadline ||
			pg_atomic_read_u32(&question->state) == QUESTION_ABANDONED)
			break;
		if (question->err != RD_KAFKA_RESP_ERR__TIMED_OUT)
			usleep(PAUSE * 1000);
	}

	if (pg_atomic_exchange_u32(&question->state, QUESTION_ANSWERED) == QUESTION_ABANDONED)
		kafka_handle_close(question->rk, question->topic, question->events);
	else if (write(question->answered_fd, &one, sizeof(one)) < 0)
	{
		/* whoever waits looks now and then */
	}
	return NULL;
}

static void
start_thread(KafkaQuestion *question)
{
	int err;

	question->answered_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (question->answered_fd < 0)
		ereport(ERROR, errcode_for_file_access(),
				errmsg("could not create an event descriptor: %m"));
	pg_atomic_init_u32(&question->state, QUESTION_ASKING);
	err = kafka_thread_create(&question->thread, ask, question);
	if (err != 0)
	{
		errno = err;
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				errmsg("could not create a thread: %m"));
	}
	question->running = true;
}

/* Does what the client has heard meanwhile say that there is no use in waiting? */
static bool
is_hopeless(KafkaClient *client, TimestampTz start)
{
	kafka_client_serve(client, 0);
	if (client->trouble == SOURCE_NOT_AUTHORIZED || client->trouble == SOURCE_FAILED)
		return true;
	/* a name with several addresses is tried with one after the other, so don't believe the first refusal */
	return client->trouble == SOURCE_UNREACHABLE &&
		   TimestampDifferenceExceeds(start, GetCurrentTimestamp(), GIVE_UP_AFTER) &&
		   kafka_client_trouble(client) == SOURCE_UNREACHABLE;
}

rd_kafka_resp_err_t
kafka_ask(KafkaClient *client, int timeout_ms)
{
	KafkaQuestion *question = client->question;
	TimestampTz start = GetCurrentTimestamp();
	bool hopeless = false;
	bool latch_was_set = false;

	question->timeout_ms = timeout_ms;
	start_thread(question);
	while (pg_atomic_read_u32(&question->state) == QUESTION_ASKING && !hopeless)
	{
		int events = WaitLatchOrSocket(
			MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
			question->answered_fd, KAFKA_WAIT_SLICE, PG_WAIT_EXTENSION);

		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			latch_was_set = true;
		}
		CHECK_FOR_INTERRUPTS();
		hopeless = is_hopeless(client, start);
	}
	/* somebody may have set it for what the caller waits for */
	if (latch_was_set)
		SetLatch(MyLatch);
	if (hopeless)
		return RD_KAFKA_RESP_ERR__TRANSPORT;
	pthread_join(question->thread, NULL);
	question->running = false;
	return question->err;
}

bool
kafka_question_abandon(KafkaClient *client)
{
	KafkaQuestion *question = client->question;

	client->question = NULL;
	if (question == NULL)
		return false;
	if (!question->running)
	{
		free_question(question);
		return false;
	}
	question->events = client->events;
	dlist_push_tail(&abandoned, &question->link);
	return pg_atomic_exchange_u32(&question->state, QUESTION_ABANDONED) == QUESTION_ASKING;
}

void
kafka_questions_reap(bool wait)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify (iter, &abandoned)
	{
		KafkaQuestion *question = dlist_container(KafkaQuestion, link, iter.cur);

		if (wait)
			pthread_join(question->thread, NULL);
		else if (pthread_tryjoin_np(question->thread, NULL) != 0)
			continue;
		dlist_delete(iter.cur);
		free_question(question);
	}
}
