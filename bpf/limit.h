/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How many connections there are of a service, of a server, and of all services together, where that is limited.
 * Connections are counted by when they will expire. What is heard of one moves it on; what expires is let go of when the
 * clock passes it, so that no sweep is needed and an error lives no longer than an idle connection.
 */
#ifndef KERNLB_LIMIT_H
#define KERNLB_LIMIT_H

#include "hook.h"

#define NO_STEP 0xffffffff /* of a connection that is not counted */

static __always_inline __u32 step_of(__u32 tick)
{
	return tick >> settings.step_shift;
}

/* Under the lock. */
static __always_inline void let_go(struct limit *limit, __u32 now)
{
	__u32 i;

	for (i = 0; i < LIMIT_STEPS && limit->step != now; i++) {
		__u32 *ending = &limit->ending[limit->step++ % LIMIT_STEPS];

		limit->live -= *ending;
		*ending = 0;
	}
	limit->step = now;
}

/* One more connection, which ends at this step unless it goes on; 0 where there may be no more. thresholds: lower 32, upper 32. */
GLOBAL int enter_limit(__u32 key, __u64 thresholds, __u32 end)
{
	struct limit *limit = bpf_map_lookup_elem(MAP(limits), &key);
	__u32 upper = thresholds, lower = thresholds >> 32, now = step_of(ticks()), full;

	if (!limit)
		return 1;
	bpf_spin_lock(&limit->lock);
	let_go(limit, now);
	full = limit->live >= upper || (limit->full && limit->live >= lower);
	limit->full = full;
	if (!full) {
		limit->live++;
		limit->ending[end % LIMIT_STEPS]++;
	}
	bpf_spin_unlock(&limit->lock);
	return !full;
}

/* How many connections there are by now. */
GLOBAL int live_connections(__u32 key)
{
	struct limit *limit = bpf_map_lookup_elem(MAP(limits), &key);
	__u32 now = step_of(ticks()), live;

	if (!limit)
		return 0;
	bpf_spin_lock(&limit->lock);
	let_go(limit, now);
	live = limit->live;
	bpf_spin_unlock(&limit->lock);
	return live;
}

/* A counted connection is heard of, or ends. Two CPUs may tell this in the wrong order: what is not there is not taken away. */
GLOBAL int move_in_limit(__u32 key, __u32 from, __u32 to)
{
	struct limit *limit = bpf_map_lookup_elem(MAP(limits), &key);
	__u32 now = step_of(ticks());

	if (!limit)
		return 0;
	bpf_spin_lock(&limit->lock);
	let_go(limit, now);
	if (from - now < LIMIT_STEPS && limit->ending[from % LIMIT_STEPS]) {
		limit->ending[from % LIMIT_STEPS]--;
		limit->live--;
	}
	if (to - now < LIMIT_STEPS) {
		limit->ending[to % LIMIT_STEPS]++;
		limit->live++;
	}
	bpf_spin_unlock(&limit->lock);
	return 0;
}

static __always_inline void move_in_limits(__u16 limit, __u16 server, __u32 from, __u32 to)
{
	move_in_limit(LIMIT_TOGETHER, from, to);
	move_in_limit(LIMIT_SERVICE | limit, from, to);
	move_in_limit(LIMIT_SERVER | server, from, to);
}

#endif
