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

/* Masks for offsets that have been checked already: of the IP header, of what follows it. */
#define ANY_NETWORK 0x7f
#define ANY_TRANSPORT 0x3ff

/* A pointer that is checked as it is used. */
static __always_inline void *settled(void *pointer)
{
	asm volatile("" : "+r"(pointer));
	return pointer;
}

/* Where an offset lies that is at most `mask`: nothing is known yet of what there is. */
static __always_inline void *at_offset(void *start, __u32 offset, const __u32 mask)
{
	return settled(start + bounded(offset, mask));
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
