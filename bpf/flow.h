/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The flow table of full NAT: finding a flow, and what its packets mean for it. Two entries a connection, one a direction.
 * A forward flow lies in either of two buckets; a reverse flow in its first, because its port can be chosen to fit.
 * An entry that expired is free: nobody sweeps, so nothing is lost when the daemon is away.
 */
#ifndef KERNLB_FLOW_H
#define KERNLB_FLOW_H

#include "hash.h"
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

	if (!pair || pair->state == FLOW_FREE || pair->server != flow->server ||
	    pair->key.source_port != flow->destination_port || pair->key.destination_port != flow->source_port ||
	    pair->key.source.word[3] != flow->destination.word[3])
		return NULL;
	return pair;
}

static __always_inline void set_state(struct flow *flow, struct flow *pair, __u8 state, __u8 flags, __u32 now)
{
	flow->state = state;
	flow->flags = (flow->flags & FLOW_FORWARD) | flags;
	flow->seen = now;
	if (pair) {
		pair->state = state;
		pair->flags = (pair->flags & FLOW_FORWARD) | flags;
		pair->seen = now;
	}
}

static __always_inline void release(struct flow *flow)
{
	struct flow *pair = pair_of(flow);

	if (pair)
		pair->state = FLOW_FREE;
	flow->state = FLOW_FREE;
}

/* A packet of a flow arrived that may change its state, or the first one within this tick. */
static __noinline void flow_advanced(struct flow *flow, __u32 tcp, __u32 now)
{
	struct flow *pair;
	__u8 state, flags;

	if (!flow)
		return;
	pair = pair_of(flow);
	state = flow->state;
	flags = flow->flags & ~FLOW_FORWARD;
	if (tcp & TCP_RST) {
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
}

/* A SYN for a connection that is known: on the same ports again, unless its server takes no more. */
static __noinline _Bool flow_reopened(struct flow *flow, __u32 now)
{
	__u32 id;
	struct server *server;
	struct flow *pair;

	if (!flow)
		return 0;
	id = flow->server;
	server = bpf_map_lookup_elem(MAP(servers), &id);
	pair = pair_of(flow);
	/* Or else the compiler forgets that it has looked whether there is one. */
	asm volatile("" : "+r"(pair));
	if (!pair || !server || server->forwarding != FORWARD_FULLNAT || server->flags & SERVER_DEAD ||
	    (flow->state >= FLOW_CLOSING && server->flags & SERVER_QUIESCED)) {
		release(flow);
		return 0;
	}
	if (flow->state == FLOW_CLOSING || flow->state == FLOW_CLOSED)
		set_state(flow, pair, FLOW_OPENING, flow->flags & FLOW_CLOCK, now);
	return 1;
}

#endif
