/* SPDX-License-Identifier: GPL-2.0 */
/* The way of answers back to a client: found when its connection begins, and again as routes change. */
#ifndef KERNLB_WAY_H
#define KERNLB_WAY_H

#include "flow.h"
#include "send.h"

#define LEAST_LENGTH 1 /* of the packet asked for; from 5.12 on the kernel puts the route's MTU in its place */

struct opening {
	struct tuple tuple; /* of the client's packet */
	struct tuple reverse; /* of the server's answers */
	struct hop back; /* to the client */
	struct address next;
	__u32 from; /* the interface that its packet came in by */
	__u64 hash;
	__u32 server;
	__u32 now;
	__u16 first_source;
	__u16 source_count;
	__u32 timestamp; /* of the client's SYN */
	__u32 clock; /* what has to be added to it */
	__u16 limit;
	__u8 datagram;
	__u8 timed; /* there is a timestamp */
	__u8 shifted; /* there is something to be added */
};

/* Too large for the stack. One a CPU: nothing interrupts a program to run another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct opening);
} openings SEC(".maps");

static __always_inline struct opening *current_opening(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(MAP(openings), &zero);
}

/*
 * Back to the client by the kernel's routes, as a packet goes that comes in by `from`: fills in the way of the flow that is
 * being opened. What routes and neighbours do not tell stays as it is. Returns BPF_FIB_LKUP_RET_*, or below 0.
 */
static __always_inline int ask_routes(void *ctx, __u32 from)
{
	struct bpf_fib_lookup route = { .ifindex = from, .tot_len = LEAST_LENGTH };
	struct opening *opening = current_opening();
	struct hop *back, *link;
	__u32 out;
	long found;

	if (!opening)
		return -1;
	back = &opening->back;
	route.l4_protocol = opening->tuple.protocol;
	if (opening->tuple.family == 4) {
		route.family = FAMILY_IPV4;
		route.ipv4_src = opening->tuple.destination.word[3];
		route.ipv4_dst = opening->tuple.source.word[3];
	} else {
		route.family = FAMILY_IPV6;
		__builtin_memcpy(route.ipv6_src, &opening->tuple.destination, sizeof(struct address));
		__builtin_memcpy(route.ipv6_dst, &opening->tuple.source, sizeof(struct address));
	}
	found = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	if (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		back->interface = route.ifindex;
		if (route.family == FAMILY_IPV4)
			map_ipv4(&opening->next, route.ipv4_dst);
		else
			__builtin_memcpy(&opening->next, route.ipv6_dst, sizeof(struct address));
	}
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		__builtin_memcpy(back->destination, route.dmac, 6);
		__builtin_memcpy(back->source, route.smac, 6);
	}
	back->method = HOP_ADDRESSES;
	back->mtu = found == BPF_FIB_LKUP_RET_SUCCESS && route.tot_len != LEAST_LENGTH ? route.tot_len : 0;
	out = back->interface;
	link = bpf_map_lookup_elem(MAP(links), &out);
	if (link) {
		back->method = link->method;
		back->mtu = back->mtu ? back->mtu : link->mtu;
	}
	return found;
}

GLOBAL int ask_routes_xdp(struct xdp_md *ctx, __u32 from)
{
	return ask_routes(ctx, from);
}

GLOBAL int ask_routes_tc(struct __sk_buff *ctx, __u32 from)
{
	return ask_routes(ctx, from);
}

/* Where there is no neighbour, to whom the packet came from; by another interface the kernel has to find him. */
static __always_inline void find_way_back(void *ctx, struct opening *opening, const enum hook hook)
{
	int found;

	opening->from = opening->back.interface = interface(ctx, hook);
	opening->next = opening->tuple.source;
	found = hook == HOOK_TC ? ask_routes_tc(ctx, opening->from) : ask_routes_xdp(ctx, opening->from);
	if (hook == HOOK_TC && found == BPF_FIB_LKUP_RET_NO_NEIGH && opening->back.interface != opening->from)
		opening->back.method = HOP_NEIGHBOUR;
	/* Without a route, only the neighbour that the packet came from is known to be right. */
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH && opening->back.method == HOP_NEIGHBOUR)
		opening->back.method = HOP_ADDRESSES;
}

static __always_inline _Bool leads_to(const struct flow *flow, const struct opening *opening)
{
	return flow->hop.interface == opening->back.interface && same_address(&flow->next, &opening->next, 1);
}

static __always_inline _Bool is_sent_alike(const struct hop *hop, const struct hop *other)
{
	const __u32 *words = (void *)hop, *others = (void *)other;
	__u32 difference = 0, i;

#pragma unroll
	for (i = 1; i < sizeof(*hop) / sizeof(*words); i++)
		difference |= words[i] ^ others[i];
	return !difference;
}

/*
 * A connection goes on: its answers go where the routes lead today. `place` is that of the direction that is not this
 * packet's; `came` the interface that a client's packet came in by. Where there is no way, the one before stays.
 */
static __always_inline int follow_routes(void *ctx, __u32 place, __u32 came, const enum hook hook)
{
	struct flow *other = flow_at(place), *pair = other ? pair_of(other) : NULL, *forward, *reverse;
	struct opening *opening = current_opening();
	__u32 from;
	int found;

	if (!pair || !opening)
		return 0;
	forward = other->flags & FLOW_FORWARD ? other : pair;
	reverse = other->flags & FLOW_FORWARD ? pair : other;
	from = came ? came : forward->hop.interface;
	if (forward->hop.interface != from)
		forward->hop.interface = from;
	opening->tuple.source = reverse->destination;
	opening->tuple.destination = reverse->source;
	opening->tuple.protocol = reverse->key.protocol;
	opening->tuple.family = reverse->key.family;
	opening->back = reverse->hop;
	opening->next = reverse->next;
	found = hook == HOOK_TC ? ask_routes_tc(ctx, from) : ask_routes_xdp(ctx, from);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH && !leads_to(reverse, opening) && hook == HOOK_TC)
		opening->back.method = HOP_NEIGHBOUR;
	else if (found != BPF_FIB_LKUP_RET_SUCCESS)
		return 0;
	if (!leads_to(reverse, opening) || !is_sent_alike(&reverse->hop, &opening->back)) {
		reverse->hop = opening->back;
		reverse->next = opening->next;
	}
	return 0;
}

GLOBAL int follow_routes_xdp(struct xdp_md *ctx, __u32 place, __u32 came)
{
	return follow_routes(ctx, place, came, HOOK_XDP);
}

GLOBAL int follow_routes_tc(struct __sk_buff *ctx, __u32 place, __u32 came)
{
	return follow_routes(ctx, place, came, HOOK_TC);
}

#endif
