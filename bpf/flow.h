/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The flow table of full NAT: finding a flow, and what its packets mean for it. Two entries a connection, one a direction.
 * A forward flow lies in either of two buckets; a reverse flow in its first, because its port can be chosen to fit.
 * An entry that expired is free: nobody sweeps, so nothing is lost when the daemon is away.
 */
#ifndef KERNLB_FLOW_H
#define KERNLB_FLOW_H

#include "hash.h"
#include "limit.h"
#include "parse.h"

static __always_inline __u32 first_bucket(__u64 hash)
{
	return mix(hash ^ settings.secret) & settings.flow_mask;
}

static __always_inline __u32 second_bucket(__u64 hash)
{
	return mix(hash ^ settings.secret) >> 32 & settings.flow_mask;
}

static __always_inline _Bool same_tuple(const struct tuple *a, const struct tuple *b, const _Bool ipv6)
{
	return ports_of(a) == ports_of(b) && same_address(&a->source, &b->source, ipv6) &&
	       same_address(&a->destination, &b->destination, ipv6) && a->protocol == b->protocol && a->family == b->family;
}

static __always_inline struct flow *find_in(__u32 number, const struct tuple *tuple, const _Bool ipv6)
{
	struct flow_bucket *bucket = bpf_map_lookup_elem(MAP(flows), &number);
	int i;

	if (!bucket)
		return NULL;
#pragma unroll
	for (i = 0; i < FLOWS_PER_BUCKET; i++)
		if (same_tuple(&bucket->flow[i].key, tuple, ipv6) && bucket->flow[i].state != FLOW_FREE)
			return &bucket->flow[i];
	return NULL;
}

static __always_inline struct flow *find_flow(const struct tuple *tuple, __u64 hash, const _Bool ipv6)
{
	struct flow *flow = find_in(first_bucket(hash), tuple, ipv6);

	return likely(flow) ? flow : find_in(second_bucket(hash), tuple, ipv6);
}

/* Not an index: settings that are compiled in have no address. */
static __always_inline __u32 timeout_of(__u32 state)
{
	switch (state) {
	case FLOW_OPENING:
		return settings.timeout[FLOW_OPENING];
	case FLOW_ESTABLISHED:
		return settings.timeout[FLOW_ESTABLISHED];
	case FLOW_CLOSING:
		return settings.timeout[FLOW_CLOSING];
	case FLOW_CLOSED:
		return settings.timeout[FLOW_CLOSED];
	case FLOW_DATAGRAM:
		return settings.timeout[FLOW_DATAGRAM];
	default:
		return 0;
	}
}

static __always_inline _Bool expired(const struct flow *flow, __u32 now)
{
	__u32 state = flow->state;

	if (state == FLOW_FREE || state >= FLOW_STATES)
		return 1;
	return now - flow->seen > timeout_of(state);
}

static __always_inline struct flow *flow_at(__u32 place)
{
	__u32 number = place / FLOWS_PER_BUCKET;
	struct flow_bucket *bucket = bpf_map_lookup_elem(MAP(flows), &number);

	return bucket ? &bucket->flow[place % FLOWS_PER_BUCKET] : NULL;
}

/* The other direction, unless its place has been given to another flow. */
static __always_inline struct flow *pair_of(const struct flow *flow)
{
	struct flow *pair = flow_at(flow->pair);

	if (pair && (pair->state == FLOW_FREE || pair->server != flow->server || pair->key.source_port != flow->destination_port ||
		     pair->key.destination_port != flow->source_port || pair->key.source.word[3] != flow->destination.word[3] ||
		     pair->destination_port != flow->key.source_port || pair->destination.word[3] != flow->key.source.word[3]))
		pair = NULL;
	return settled(pair);
}

/* When a flow of this state expires that was last seen then. Global: to the verifier one number, not one a state. */
GLOBAL int step_of_expiry(__u32 seen, __u32 state, __u32 flags)
{
	if (!(flags & FLOW_COUNTED) || state == FLOW_FREE || state == FLOW_CLOSED || state >= FLOW_STATES)
		return NO_STEP;
	return step_of(seen + timeout_of(state));
}

/* Both directions of a flow take the same one. */
static __always_inline struct lock *lock_of(const struct flow *flow)
{
	__u32 number = (flow->flags & FLOW_FORWARD ? flow->source_port : flow->key.destination_port) & (LOCKS - 1);

	return bpf_map_lookup_elem(MAP(locks), &number);
}

static __always_inline void write_state(struct flow *flow, __u8 state, __u8 flags, __u32 now)
{
	flow->state = state;
	flow->flags = (flow->flags & FLOW_FORWARD) | flags;
	flow->seen = now;
}

/* flags: but for FLOW_FORWARD those of both directions. What is not counted yet is from now on. */
static __always_inline void set_state(struct flow *flow, struct flow *pair, __u8 state, __u8 flags, __u32 now)
{
	struct flow *forward = flow->flags & FLOW_FORWARD ? flow : pair;
	struct lock *lock = lock_of(flow);
	__u32 seen, before, counted, from, to;

	if (!settings.limits || !forward || !lock) {
		write_state(flow, state, flags, now);
		if (pair)
			write_state(pair, state, flags, now);
		return;
	}
	bpf_spin_lock(&lock->lock);
	seen = forward->seen;
	before = forward->state;
	counted = forward->flags;
	write_state(flow, state, flags | FLOW_COUNTED, now);
	if (pair)
		write_state(pair, state, flags | FLOW_COUNTED, now);
	bpf_spin_unlock(&lock->lock);
	from = step_of_expiry(seen, before, counted);
	to = step_of_expiry(now, state, FLOW_COUNTED);
	if (from != to)
		move_in_limits(forward->key.limit, forward->server, from, to);
}

/* Forgotten, both directions. */
static __always_inline void release(struct flow *flow)
{
	struct flow *pair = pair_of(flow);

	set_state(flow, pair, FLOW_FREE, 0, flow->seen);
}

/* The client has left its port to the server's TIME_WAIT, which goes on. */
static __always_inline void forsake(struct flow *flow)
{
	*(volatile __u8 *)&flow->state = FLOW_FREE;
}

/*
 * A packet of a flow arrived that may change its state, or the first one within this tick. Whether the flow goes on: it is
 * over where its port has been given away, which never happens within the tick in which it was heard of.
 */
static __noinline _Bool flow_advanced(struct flow *flow, __u32 tcp, __u32 now)
{
	struct flow *pair;
	__u8 state, flags;

	if (!flow)
		return 0;
	pair = pair_of(flow);
	if (!pair && flow->flags & FLOW_FORWARD) {
		forsake(flow);
		return 0;
	}
	state = flow->state;
	flags = flow->flags & ~FLOW_FORWARD;
	if (tcp & TCP_RST) {
		/*
		 * Who resets a connection has forgotten it. The client's reset is believed to end the server's FIN-WAIT, as it is
		 * before any FIN (RFC 9293, 3.10.7.4); in TIME-WAIT, after the client's FIN, a server need not heed it (RFC 1337).
		 */
		if (!(flow->flags & FLOW_FORWARD) || !(flags & FLOW_CLIENT_FIN))
			flags &= ~FLOW_SERVER_FIRST;
		state = FLOW_CLOSED;
	} else if (tcp & TCP_FIN) {
		if (!(flow->flags & FLOW_FORWARD) && !(flags & FLOW_CLIENT_FIN))
			flags |= FLOW_SERVER_FIRST;
		flags |= flow->flags & FLOW_FORWARD ? FLOW_CLIENT_FIN : FLOW_SERVER_FIN;
		state = (flags & FLOW_CLIENT_FIN) && (flags & FLOW_SERVER_FIN) ? FLOW_CLOSED : FLOW_CLOSING;
	} else if (state == FLOW_OPENING && flow->flags & FLOW_FORWARD && !(tcp & TCP_SYN)) {
		state = FLOW_ESTABLISHED;
	}
	set_state(flow, pair, state, flags, now);
	return 1;
}

#endif
