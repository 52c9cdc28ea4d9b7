/*
 * user.c
 *		Running code with the rights of who chose it.
 */
#include "velo.h"

#include "catalog/velo_catalog.h"
#include "miscadmin.h"

void
become_owner(Oid owner, UserState *caller)
{
	GetUserIdAndSecContext(&caller->user, &caller->security_context);
	SetUserIdAndSecContext(owner, caller->security_context | SECURITY_LOCAL_USERID_CHANGE |
									  (owner != caller->user ? SECURITY_RESTRICTED_OPERATION : 0));
}

void
become_caller(const UserState *caller)
{
	SetUserIdAndSecContext(caller->user, caller->security_context);
}
