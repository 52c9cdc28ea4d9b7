/*
 * dev_broker.c
 *		The development broker: a volatile Kafka on loopback, in a background worker.
 *
 * librdkafka's mock cluster does the work, in a thread of its own.  It listens on a port that the kernel
 * chooses and names that one in its metadata, so the worker listens on velo.dev_broker_port and relays what
 * comes there; clients use that connection only to learn where the broker is.
 *
 * The mock can't be asked over Kafka's protocol to create a topic: velo.dev_create_topic() sends a line of text to
 * the same port, which can't be mistaken for a Kafka request (that begins with its length, so with a zero byte).
 * With librdkafka 2.0 topics that a client asks for appear by themselves, with 2.8 they don't.
 */
#include "source/kafka.h"

#include <librdkafka/rdkafka_mock.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_PARTITIONS 1000
#define MAX_RELAYS 200
#define RELAY_BUFFER 8192

/* How long velo.dev_create_topic() waits for the worker to start and to answer, in ms */
#define CONTROL_TIMEOUT 5000

/* A connection to the chosen port, and the one to the mock cluster that it is relayed to */
typedef struct Relay
{
	int fds[2];     /* client, mock; -1 until the first bytes tell that it is a client of Kafka's */
	int pending[2]; /* bytes read from fds[i], not yet written to the other */
	char buffer[2][RELAY_BUFFER];
} Relay;

PG_FUNCTION_INFO_V1(velo_dev_create_topic);

static void
loopback_address(struct sockaddr_in *address, int port)
{
	memset(address, 0, sizeof(*address));
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address->sin_port = htons(port);
}

/* A socket that listens on the chosen port */
static int
listen_on_loopback(int port)
{
	struct sockaddr_in address;
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	loopback_address(&address, port);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 || listen(fd, 64) < 0)
	{
		bool in_use = (errno == EADDRINUSE);

		ereport(FATAL, errcode_for_socket_access(),
				errmsg("velo's development broker could not listen on 127.0.0.1:%d: %m", port),
				in_use ? errhint("Another program listens there: end it, or set "
								 "\"velo.dev_broker_port\" to another port.")
					   : 0);
	}
	return fd;
}

/* A connection to a port on loopback; -1 with errno if there is none.  Connecting to loopback does not wait. */
static int
connect_to_loopback(int port)
{
	struct sockaddr_in address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int saved_errno;

	loopback_address(&address, port);
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0 &&
		fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
		return fd;
	saved_errno = errno;
	if (fd >= 0)
		close(fd);
	errno = saved_errno;
	return -1;
}

static void
relay_close(Relay *relay)
{
	for (int i = 0; i < 2; i++)
	{
		if (relay->fds[i] >= 0)
			close(relay->fds[i]);
	}
	pfree(relay);
}

/* Did a call on a socket fail, rather than have nothing to do just now? */
static bool
socket_failed(ssize_t result)
{
	return result < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
}

/* Do what a line of velo.dev_create_topic() asks for, and answer it.  true: the line is not complete yet. */
static bool
handle_control(Relay *relay, rd_kafka_mock_cluster_t *cluster)
{
	char topic[MAX_TOPIC_LENGTH + 1];
	char answer[256];
	int partitions;
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_INVALID_REQUEST;

	if (relay->buffer[0][relay->pending[0] - 1] != '\n')
		return relay->pending[0] < RELAY_BUFFER;
	relay->buffer[0][relay->pending[0] - 1] = '\0';
	if (sscanf(relay->buffer[0], "CREATE %d %249s", &partitions, topic) == 2)
		err = rd_kafka_mock_topic_create(cluster, topic, partitions, 1);
	snprintf(answer, sizeof(answer), "%d %s\n", err, rd_kafka_err2str(err));
	(void) send(relay->fds[0], answer, strlen(answer), MSG_NOSIGNAL);
	return false;
}

/* Take what has come from one side.  false: the connection is over. */
static bool
relay_receive(Relay *relay, int side)
{
	ssize_t n;

	if (relay->pending[side] == RELAY_BUFFER)
		return true;
	n = recv(relay->fds[side], relay->buffer[side] + relay->pending[side],
			 RELAY_BUFFER - relay->pending[side], 0);
	if (n == 0 || socket_failed(n))
		return false;
	relay->pending[side] += Max(n, 0);
	return true;
}

/* Hand what has come from one side to the other.  false: the connection is over. */
static bool
relay_send(Relay *relay, int side)
{
	ssize_t n = send(relay->fds[1 - side], relay->buffer[side], relay->pending[side], MSG_NOSIGNAL);

	if (socket_failed(n))
		return false;
	if (n > 0)
	{
		relay->pending[side] -= n;
		memmove(relay->buffer[side], relay->buffer[side] + n, relay->pending[side]);
	}
	return true;
}

/* Move what has come.  false: the connection is over. */
static bool
relay_serve(Relay *relay, rd_kafka_mock_cluster_t *cluster, int mock_port)
{
	for (int side = 0; side < 2; side++)
	{
		if (relay->fds[side] < 0)
			continue;
		if (!relay_receive(relay, side))
			return false;
		if (relay->pending[side] == 0)
			continue;
		if (relay->fds[1] < 0)
		{
			if (relay->buffer[0][0] != '\0')
				return handle_control(relay, cluster);
			relay->fds[1] = connect_to_loopback(mock_port);
			if (relay->fds[1] < 0)
				return false;
		}
		if (!relay_send(relay, side))
			return false;
	}
	return true;
}

/* A new connection from a client; NULL if it is gone already. */
static Relay *
relay_accept(int listen_fd)
{
	int fd = accept(listen_fd, NULL, NULL);
	Relay *relay;

	if (fd < 0)
		return NULL;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	relay = palloc0(sizeof(Relay));
	relay->fds[0] = fd;
	relay->fds[1] = -1;
	return relay;
}

/* Relay connections until the server or the worker is told to end. */
static void
serve(int listen_fd, rd_kafka_mock_cluster_t *cluster, int mock_port)
{
	Relay *relays[MAX_RELAYS];
	int nrelays = 0;

	while (!ShutdownRequestPending && PostmasterIsAlive())
	{
		struct pollfd fds[1 + 2 * MAX_RELAYS];
		int nfds = 0;

		fds[nfds++] =
			(struct pollfd){.fd = nrelays < MAX_RELAYS ? listen_fd : -1, .events = POLLIN};
		for (int i = 0; i < nrelays; i++)
		{
			for (int side = 0; side < 2; side++)
			{
				short events = relays[i]->pending[side] < RELAY_BUFFER ? POLLIN : 0;

				if (relays[i]->pending[1 - side] > 0)
					events |= POLLOUT;
				fds[nfds++] = (struct pollfd){.fd = relays[i]->fds[side], .events = events};
			}
		}

		/* a signal ends the wait, or comes just before it */
		if (poll(fds, nfds, 200) <= 0)
			continue;

		for (int i = nrelays - 1; i >= 0; i--)
		{
			if (fds[1 + 2 * i].revents == 0 && fds[2 + 2 * i].revents == 0)
				continue;
			if (!relay_serve(relays[i], cluster, mock_port))
			{
				relay_close(relays[i]);
				relays[i] = relays[--nrelays];
			}
		}
		if (fds[0].revents != 0 && (relays[nrelays] = relay_accept(listen_fd)) != NULL)
			nrelays++;
	}
}

void
velo_dev_broker_main(Datum arg pg_attribute_unused())
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_mock_cluster_t *cluster = NULL;
	rd_kafka_t *rk;
	char errstr[512] = "";
	sigset_t all_signals;
	sigset_t saved_signals;
	int listen_fd;

	pqsignal(SIGHUP, SIG_IGN);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	listen_fd = listen_on_loopback(velo_dev_broker_port);

	rd_kafka_conf_set(conf, "log_level", "3", NULL, 0);
	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &saved_signals);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk != NULL)
		cluster = rd_kafka_mock_cluster_new(rk, 1);
	pthread_sigmask(SIG_SETMASK, &saved_signals, NULL);
	if (cluster == NULL)
		ereport(FATAL, errcode(ERRCODE_INTERNAL_ERROR),
				errmsg("velo's development broker could not start"), errdetail("%s.", errstr));

	ereport(
		LOG, errmsg("velo's development broker is listening on 127.0.0.1:%d", velo_dev_broker_port),
		errdetail(
			"It keeps its topics in memory, up to 5 MB a partition; it is not for production."));
	serve(listen_fd, cluster, atoi(strrchr(rd_kafka_mock_cluster_bootstraps(cluster), ':') + 1));

	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
	proc_exit(1); /* 0 would mean: never start it again */
}

/* Send a line to the development broker and take its answer; waits for a broker that is just starting. */
static void
control(const char *line, char *answer, Size size)
{
	TimestampTz start = GetCurrentTimestamp();
	volatile int fd = -1;
	Size len = 0;

	answer[0] = '\0';
	PG_TRY();
	{
		while (!TimestampDifferenceExceeds(start, GetCurrentTimestamp(), CONTROL_TIMEOUT))
		{
			int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT;
			ssize_t n;

			if (fd < 0 && (fd = connect_to_loopback(velo_dev_broker_port)) >= 0 &&
				send(fd, line, strlen(line), MSG_NOSIGNAL) < 0)
				break;
			if (fd >= 0)
			{
				n = recv(fd, answer + len, size - 1 - len, 0);
				len += Max(n, 0);
				answer[len] = '\0';
				if (n == 0 || strchr(answer, '\n') != NULL || len == size - 1)
					break;
				events |= WL_SOCKET_READABLE;
			}

			(void) WaitLatchOrSocket(MyLatch, events, fd, KAFKA_WAIT_SLICE, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		if (fd >= 0)
			close(fd);
	}
	PG_END_TRY();
}

/* velo.dev_create_topic(topic text, partitions int) */
Datum
velo_dev_create_topic(PG_FUNCTION_ARGS)
{
	char *topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int partitions = PG_GETARG_INT32(1);
	char answer[256];
	int err;

	if (velo_dev_broker_port == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("this server has no development broker"),
				errhint("Set \"velo.dev_broker_port\" and restart the server."));
	stream_topic_check(topic); /* it keeps the name on its line, too */
	if (partitions < 1 || partitions > MAX_PARTITIONS)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("number of partitions must be between 1 and %d", MAX_PARTITIONS));

	control(psprintf("CREATE %d %s\n", partitions, topic), answer, sizeof(answer));
	if (sscanf(answer, "%d", &err) != 1)
		ereport(ERROR, errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				errmsg("velo's development broker does not answer on 127.0.0.1:%d",
					   velo_dev_broker_port),
				errhint("See the server's log."));
	if (err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("topic \"%s\" already exists", topic));
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR, errcode(kafka_sqlstate_of(err)),
				errmsg("could not create topic \"%s\": %s", topic, rd_kafka_err2str(err)));
	PG_RETURN_VOID();
}
