/* SPDX-License-Identifier: GPL-2.0 */
/* A cursor checks bounds and advances. */
#ifndef KERNLB_CURSOR_H
#define KERNLB_CURSOR_H

#include "hook.h"

struct cursor {
	void *position;
	void *end;
};

/*
 * A number that the verifier knows to be at most `mask`, whatever the compiler made of comparisons before: it computes
 * what it compares and what it adds to a pointer apart.
 */
static __always_inline __u32 bounded(__u32 number, const __u32 mask)
{
	asm volatile("" : "+r"(number));
	return number & mask;
}

/* A pointer that is checked as it is used. */
static __always_inline void *settled(void *pointer)
{
	asm volatile("" : "+r"(pointer));
	return pointer;
}

static __always_inline void *take(struct cursor *cursor, __u32 length)
{
	void *taken = cursor->position;

	if (taken + length > cursor->end)
		return NULL;
	cursor->position = taken + length;
	return taken;
}

#endif
