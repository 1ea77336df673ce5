/* SPDX-License-Identifier: GPL-2.0 */
/* A new full NAT flow: a source address and port that nobody holds, a way back to the client, and both directions in the table. */
#ifndef KERNLB_OPEN_H
#define KERNLB_OPEN_H

#include "flow.h"
#include "send.h"
#include "table.h"

#define PORT_ATTEMPTS 24
#define FIB_TUPLE_LENGTH 40

struct opening {
	struct tuple tuple; /* of the client's packet */
	struct tuple reverse; /* of the server's answers */
	struct hop back; /* to the client */
	struct address next;
	__u64 hash;
	__u32 server;
	__u32 now;
	__u16 first_source;
	__u16 source_count;
	__u8 datagram;
};

/* Too large for the stack. One a CPU: nothing interrupts a program to run another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct opening);
} openings SEC(".maps");

/* Back to the client by the kernel's routes; where they have no neighbour, to whom the packet came from. */
static __always_inline void find_way_back(void *ctx, struct opening *opening, const enum hook hook)
{
	struct bpf_fib_lookup route = { .ifindex = interface(ctx, hook) };
	struct hop *back = &opening->back, *link;
	const struct tuple *tuple = &opening->tuple;
	__u32 out;
	long found;

	route.l4_protocol = tuple->protocol;
	if (tuple->family == 4) {
		route.family = FAMILY_IPV4;
		route.ipv4_src = tuple->destination.word[3];
		route.ipv4_dst = tuple->source.word[3];
	} else {
		route.family = FAMILY_IPV6;
		__builtin_memcpy(route.ipv6_src, &tuple->destination, sizeof(struct address));
		__builtin_memcpy(route.ipv6_dst, &tuple->source, sizeof(struct address));
	}
	found = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	out = interface(ctx, hook);
	opening->next = tuple->source;
	if (found == BPF_FIB_LKUP_RET_SUCCESS || (found == BPF_FIB_LKUP_RET_NO_NEIGH && route.ifindex != out)) {
		out = route.ifindex;
		if (route.family == FAMILY_IPV4)
			map_ipv4(&opening->next, route.ipv4_dst);
		else
			__builtin_memcpy(&opening->next, route.ipv6_dst, sizeof(struct address));
	}
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		__builtin_memcpy(back->destination, route.dmac, 6);
		__builtin_memcpy(back->source, route.smac, 6);
	}
	back->interface = out;
	back->method = HOP_ADDRESSES;
	link = bpf_map_lookup_elem(MAP(links), &out);
	if (link)
		back->method = link->method;
	/* Without a route, only the neighbour that the packet came from is known to be right. */
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH && back->method == HOP_NEIGHBOUR)
		back->method = HOP_ADDRESSES;
}

static __always_inline void write_flow(struct flow *flow, const struct tuple *key, const struct opening *opening, __u8 flags,
				       __u32 pair)
{
	_Bool forward = flags & FLOW_FORWARD;

	flow->state = FLOW_FREE;
	flow->key = *key;
	flow->source = forward ? opening->reverse.destination : opening->tuple.destination;
	flow->destination = forward ? opening->reverse.source : opening->tuple.source;
	flow->source_port = forward ? opening->reverse.destination_port : opening->tuple.destination_port;
	flow->destination_port = forward ? opening->reverse.source_port : opening->tuple.source_port;
	flow->hop = opening->back;
	flow->next = opening->next;
	flow->clock = 0;
	flow->seen = opening->now;
	flow->pair = pair;
	flow->server = opening->server;
	flow->flags = flags;
	/* Last: a reader takes no entry that is not whole. */
	*(volatile __u8 *)&flow->state = opening->datagram ? FLOW_DATAGRAM : FLOW_OPENING;
}

static __always_inline struct opening *current_opening(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(MAP(openings), &zero);
}

#define INSERT_TAKEN (-1)
#define INSERT_FULL (-2)

/*
 * Puts one direction of the flow that is being opened into a bucket where no live flow has its key. The answer is its
 * place. Global functions, so that the verifier walks each once.
 */
GLOBAL int insert_flow(__u32 number, __u32 flags, __u32 pair)
{
	struct opening *opening = current_opening();
	struct flow_bucket *bucket = bpf_map_lookup_elem(MAP(flows), &number);
	__u32 stripe = number & (LOCKS - 1);
	struct lock *lock = bpf_map_lookup_elem(MAP(locks), &stripe);
	__u32 i, choice = FLOWS_PER_BUCKET, taken = 0;
	const struct tuple *key;

	if (!opening || !bucket || !lock)
		return INSERT_FULL;
	key = flags & FLOW_FORWARD ? &opening->tuple : &opening->reverse;
	bpf_spin_lock(&lock->lock);
#pragma unroll
	for (i = 0; i < FLOWS_PER_BUCKET; i++) {
		struct flow *flow = &bucket->flow[i];

		if (expired(flow, opening->now))
			choice = i;
		else if (same_tuple(&flow->key, key, 1)) /* IPv4 addresses are mapped: all words serve both */
			taken = 1;
	}
	if (!taken && choice < FLOWS_PER_BUCKET)
		write_flow(&bucket->flow[choice & (FLOWS_PER_BUCKET - 1)], key, opening, flags, pair);
	bpf_spin_unlock(&lock->lock);
	if (taken)
		return INSERT_TAKEN;
	return choice < FLOWS_PER_BUCKET ? (int)(number * FLOWS_PER_BUCKET + choice) : INSERT_FULL;
}

/* A source address and port for the flow that is being opened, drawn at random until one is free; the place of its reverse. */
GLOBAL int claim_port(__u32 unused)
{
	struct opening *opening = current_opening();
	__u32 attempt, index;
	int place;
	__u64 draw;

	if (!opening || !opening->source_count)
		return INSERT_FULL;
	draw = mix(opening->hash ^ settings.secret ^ (__u64)opening->now << 32);
	for (attempt = 0; attempt < PORT_ATTEMPTS; attempt++) {
		struct source *source;

		draw = mix(draw + MIX_1);
		index = opening->first_source + (__u32)(draw >> 48) % opening->source_count;
		source = bpf_map_lookup_elem(MAP(sources), &index);
		if (!source || !source->port_count)
			return INSERT_FULL;
		opening->reverse.destination = source->address;
		opening->reverse.destination_port = bpf_htons(source->first_port + ((draw & 0xffffffff) * source->port_count >> 32));
		place = insert_flow(first_bucket(flow_hash(&opening->reverse, opening->reverse.family == 6, 0)), 0, 0);
		if (place >= 0)
			return place;
	}
	return INSERT_TAKEN;
}

/* NULL, and the cause, when there is no room or no port. */
static __always_inline struct flow *open_flow(struct opening *opening, const struct server *server, __u32 *cause)
{
	int reverse, forward;
	struct flow *flow;

	opening->reverse.source = server->address;
	opening->reverse.source_port = server->port ? server->port : opening->tuple.destination_port;
	opening->reverse.protocol = opening->tuple.protocol;
	opening->reverse.family = opening->tuple.family;
	opening->reverse.zero = 0;
	reverse = claim_port(0);
	*cause = CAUSE_NO_PORT;
	if (reverse < 0)
		return NULL;
	forward = insert_flow(first_bucket(opening->hash), FLOW_FORWARD, reverse);
	if (forward == INSERT_FULL)
		forward = insert_flow(second_bucket(opening->hash), FLOW_FORWARD, reverse);
	flow = flow_at(reverse);
	if (!flow)
		return NULL;
	if (forward < 0) {
		/* Full, or another CPU has opened the same flow: the client sends its SYN again. */
		flow->state = FLOW_FREE;
		*cause = CAUSE_NO_ROOM;
		return NULL;
	}
	flow->pair = forward;
	return flow_at(forward);
}

#endif
