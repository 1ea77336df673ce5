/* SPDX-License-Identifier: GPL-2.0 */
/* What is counted of each server: its traffic, and what it did not get. */
#ifndef KERNLB_TRAFFIC_H
#define KERNLB_TRAFFIC_H

#include "hook.h"

static __always_inline void account(__u32 id, __u32 length, _Bool begins, _Bool outward)
{
	struct traffic *counters = bpf_map_lookup_elem(MAP(traffic), &id);

	if (!counters)
		return;
	if (outward) {
		counters->packets_out++;
		counters->bytes_out += length;
	} else {
		counters->packets_in++;
		counters->bytes_in += length;
		counters->flows += begins;
	}
}

static __always_inline int refuse(__u32 id, const enum hook hook, enum cause cause)
{
	struct traffic *counters = bpf_map_lookup_elem(MAP(traffic), &id);

	if (counters)
		counters->refused++;
	return pass(hook, cause);
}

#endif
