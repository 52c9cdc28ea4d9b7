/*
 * injection_point.c
 *		Places where a test makes velo crash, fail or be cancelled.
 *
 * A point is armed by a file in the data directory, "velo_injection_point", with its name, a space and an action.  The
 * first process to come by removes the file, which no other then does: each point acts once, in one process, and a
 * server that it crashed starts without it.
 */
#include "velo.h"

#ifdef VELO_INJECTION_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"

#define ARMED_FILE "velo_injection_point"

/* What the file says, as a string; false if there is none. */
static bool
read_armed(char *armed, Size size)
{
	int fd = open(ARMED_FILE, O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return false;
	len = read(fd, armed, size - 1);
	close(fd);
	if (len <= 0)
		return false;
	armed[len] = '\0';
	return true;
}

void
injection_point_reach(const char *name)
{
	char armed[128];
	Size len = strlen(name);
	const char *action;

	if (!read_armed(armed, sizeof(armed)) || strncmp(armed, name, len) != 0 || armed[len] != ' ')
		return;
	if (unlink(ARMED_FILE) != 0)
		return;
	action = armed + len + 1;
	ereport(LOG, (errmsg("injection point \"%s\": %s", name, action)));
	if (strcmp(action, "crash") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(action, "cancel") == 0)
		raise(SIGINT);
	else if (strcmp(action, "terminate") == 0)
		raise(SIGTERM);
	else if (strcmp(action, "out of memory") == 0)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
						errdetail("Injected at \"%s\".", name)));
	else
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("injected at \"%s\"", name)));
}

#endif
