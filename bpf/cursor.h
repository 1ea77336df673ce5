/* SPDX-License-Identifier: GPL-2.0 */
/* A cursor checks bounds and advances. */
#ifndef KERNLB_CURSOR_H
#define KERNLB_CURSOR_H

#include "hook.h"

struct cursor {
	void *position;
	void *end;
};

static __always_inline void *take(struct cursor *cursor, __u32 length)
{
	void *taken = cursor->position;

	if (taken + length > cursor->end)
		return NULL;
	cursor->position = taken + length;
	return taken;
}

#endif
