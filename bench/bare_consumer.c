/*
 * bare_consumer.c
 *		The ceiling: librdkafka hands the records over, and nothing is done with them.
 *
 *	bare_consumer BROKERS TOPIC
 */
#include "bench.h"

int
main(int argc, char **argv)
{
	if (argc != 3)
		bench_die("usage: bare_consumer BROKERS TOPIC");
	consume_all(argv[1], argv[2], NULL);
	return 0;
}
