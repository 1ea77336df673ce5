/* SPDX-License-Identifier: GPL-2.0 */
/* A new full NAT flow: a source address and port that nobody holds, a way back to the client, and both directions in the table. */
#ifndef KERNLB_OPEN_H
#define KERNLB_OPEN_H

#include "admit.h"
#include "flow.h"
#include "send.h"
#include "table.h"
#include "timestamp.h"
#include "way.h"

#define PORT_ATTEMPTS 32
#define FRESH_ATTEMPTS 8 /* before a port is taken that its last client is done with */
#define MODEST_ATTEMPTS 20 /* before the last place of a bucket is taken */
#define REST 2 /* ticks of silence after which nothing more is on its way */

static __always_inline void write_flow(struct flow *flow, const struct tuple *key, const struct opening *opening, __u8 flags,
				       __u32 pair)
{
	_Bool forward = flags & FLOW_FORWARD;

	flow->state = FLOW_FREE;
	flow->key = *key;
	flow->key.limit = opening->limit;
	flow->source = forward ? opening->reverse.destination : opening->tuple.destination;
	flow->destination = forward ? opening->reverse.source : opening->tuple.source;
	flow->source_port = forward ? opening->reverse.destination_port : opening->tuple.destination_port;
	flow->destination_port = forward ? opening->reverse.source_port : opening->tuple.source_port;
	flow->hop = opening->back;
	if (forward)
		flow->hop.interface = opening->from;
	flow->next = opening->next;
	flow->clock = forward ? opening->clock : 0;
	flow->seen = opening->now;
	flow->pair = pair;
	flow->server = opening->server;
	flow->flags = flags | (opening->shifted ? FLOW_CLOCK : 0) | (settings.limits ? FLOW_COUNTED : 0);
	/* Last: a reader takes no entry that is not whole. */
	*(volatile __u8 *)&flow->state = opening->datagram ? FLOW_DATAGRAM : FLOW_OPENING;
}

/* Every word at once: the verifier would walk each way through comparisons one by one. IPv4 addresses are mapped. */
static __always_inline _Bool is_key(const struct flow *flow, const struct tuple *key)
{
	const __u32 *have = flow->key.source.word, *want = key->source.word;
	__u32 difference = ports_of(&flow->key) ^ ports_of(key), i;

	_Static_assert(__builtin_offsetof(struct tuple, destination) == sizeof(struct address), "eight words of addresses");
#pragma unroll
	for (i = 0; i < 8; i++)
		difference |= have[i] ^ want[i];
	return !(difference | (flow->key.protocol ^ key->protocol) | (flow->key.family ^ key->family));
}

#define INSERT_TAKEN (-1)
#define INSERT_FULL (-2)
#define NO_SOURCE (-3)
#define INSERT_OVER 0x100 /* over a flow that is closed, if need be */
#define INSERT_LAST 0x200 /* into the last place of a bucket too */

/* Whether nothing is on its way any more, and the server has nothing in TIME_WAIT because it did not close first. */
static __always_inline _Bool forgotten(const struct flow *flow, __u32 now)
{
	return now - flow->seen >= REST && !(flow->flags & FLOW_SERVER_FIRST);
}

/* Whether the server takes a SYN on the ports of a flow that is closed: it has forgotten them, or the timestamps go on. */
static __always_inline _Bool reusable(const struct flow *flow, const struct opening *opening)
{
	if (flow->state != FLOW_CLOSED || opening->now - flow->seen < REST)
		return 0;
	return forgotten(flow, opening->now) || (flow->flags & FLOW_TIMED && opening->timed);
}

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
	__u32 i, choice = FLOWS_PER_BUCKET, closed = FLOWS_PER_BUCKET, taken = 0, before = 0, room = 0, silent = 0;
	const struct tuple *key;

	if (!opening || !bucket || !lock)
		return INSERT_FULL;
	key = flags & FLOW_FORWARD ? &opening->tuple : &opening->reverse;
	bpf_spin_lock(&lock->lock);
#pragma unroll
	for (i = 0; i < FLOWS_PER_BUCKET; i++) {
		struct flow *flow = &bucket->flow[i];

		_Bool own = flow->state != FLOW_FREE && is_key(flow, key);

		if (expired(flow, opening->now)) {
			/* In its own place, where it has one: a key is nowhere twice. */
			choice = before ? choice : i;
			before |= own;
			room++;
		} else if (own) {
			choice = i;
			room = FLOWS_PER_BUCKET;
			taken = !(flags & INSERT_OVER) || !reusable(flow, opening);
			opening->shifted = !taken && flow->flags & FLOW_TIMED && opening->timed;
			opening->clock = flow->clock + (opening->now - flow->seen) * TIMESTAMPS_A_TICK - opening->timestamp;
			break;
		} else if (flow->state == FLOW_CLOSED && (flow->flags & FLOW_FORWARD || forgotten(flow, opening->now))) {
			if (opening->now - flow->seen >= silent) {
				silent = opening->now - flow->seen;
				closed = i;
			}
			room += !!(flags & INSERT_OVER);
		}
	}
	/* Whoever had it only loses the claim to the same port. */
	if (choice == FLOWS_PER_BUCKET && flags & INSERT_OVER)
		choice = closed;
	/* Ports can be drawn again: the last place that is to be had is for a client, who has but two buckets. */
	if (room < 2 && !(flags & (FLOW_FORWARD | INSERT_LAST)))
		choice = FLOWS_PER_BUCKET;
	if (!taken && choice < FLOWS_PER_BUCKET)
		write_flow(&bucket->flow[choice & (FLOWS_PER_BUCKET - 1)], key, opening, flags & FLOW_FORWARD, pair);
	bpf_spin_unlock(&lock->lock);
	if (taken)
		return INSERT_TAKEN;
	return choice < FLOWS_PER_BUCKET ? (int)(number * FLOWS_PER_BUCKET + choice) : INSERT_FULL;
}

/* A source address and port for the flow that is being opened, as drawn; the place of its reverse. */
GLOBAL int draw_port(__u64 draw, __u32 flags)
{
	struct opening *opening = current_opening();
	struct source *source;
	__u32 index;

	if (!opening || !opening->source_count)
		return NO_SOURCE;
	index = opening->first_source + (__u32)(draw >> 48) % opening->source_count;
	source = bpf_map_lookup_elem(MAP(sources), &index);
	if (!source || !source->port_count)
		return NO_SOURCE;
	opening->reverse.destination = source->address;
	opening->reverse.destination_port = bpf_htons(source->first_port + ((draw & 0xffffffff) * source->port_count >> 32));
	return insert_flow(first_bucket(flow_hash(&opening->reverse, opening->reverse.family == 6, 0)), flags, 0);
}

/* The same, drawn at random until one is free. */
GLOBAL int claim_port(__u32 unused)
{
	struct opening *opening = current_opening();
	__u32 attempt;
	__u64 draw;
	int place = NO_SOURCE;

	if (!opening)
		return NO_SOURCE;
	draw = mix(opening->hash ^ settings.secret ^ (__u64)opening->now << 32);
#pragma unroll
	for (attempt = 0; attempt < PORT_ATTEMPTS; attempt++) {
		draw = mix(draw + MIX_1);
		place = draw_port(draw, (attempt < FRESH_ATTEMPTS ? 0 : INSERT_OVER) | (attempt < MODEST_ATTEMPTS ? 0 : INSERT_LAST));
		if (place >= 0 || place == NO_SOURCE)
			break;
	}
	return place;
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
	reverse = claim_port(0);
	*cause = reverse == INSERT_FULL ? CAUSE_NO_ROOM : CAUSE_NO_PORT;
	if (reverse < 0)
		return NULL;
	forward = insert_flow(first_bucket(opening->hash), FLOW_FORWARD, reverse);
	if (forward == INSERT_FULL)
		forward = insert_flow(second_bucket(opening->hash), FLOW_FORWARD, reverse);
	if (forward == INSERT_FULL)
		forward = insert_flow(first_bucket(opening->hash), FLOW_FORWARD | INSERT_OVER, reverse);
	if (forward == INSERT_FULL)
		forward = insert_flow(second_bucket(opening->hash), FLOW_FORWARD | INSERT_OVER, reverse);
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

/* Whether the slot of a flow leads to another server by now, which has nothing of it in TIME_WAIT. */
static __always_inline _Bool leads_elsewhere(const struct flow *flow)
{
	struct question question = { .service = find_service(&flow->key) };
	struct slot *slot;

	if (!question.service)
		return 1;
	question.hash = flow_hash(&flow->key, flow->key.family == 6, 0);
	slot = find_slot(&question, &flow->key);
	return !slot || slot->current != flow->server;
}

/* Whether the port of a forward flow is none that is drawn today: all sources of a server have the same. */
static __always_inline _Bool has_anothers_port(const struct flow *flow, const struct server *server)
{
	__u32 index = server->first_source;
	struct source *source = bpf_map_lookup_elem(MAP(sources), &index);

	return !source || (__u32)bpf_ntohs(flow->source_port) - source->first_port >= source->port_count;
}

/*
 * A SYN for a connection that is known: on the same ports again, unless its server takes no more, the slot has another, or
 * the port is another gateway's by now.
 */
static __noinline _Bool flow_reopened(struct flow *flow, __u32 now)
{
	struct flow *pair;
	struct server *server;
	__u8 flags;

	if (!flow)
		return 0;
	server = server_of(flow->server);
	pair = pair_of(flow);
	if (!pair || !server || server->forwarding != FORWARD_FULLNAT || server->flags & SERVER_DEAD ||
	    (flow->state == FLOW_CLOSING && server->flags & SERVER_QUIESCED) || expired(flow, now)) {
		release(flow);
		return 0;
	}
	flags = flow->flags & FLOW_CLOCK;
	if (flow->state == FLOW_CLOSING)
		set_state(flow, pair, FLOW_OPENING, flags, now);
	if (flow->state != FLOW_CLOSED)
		return 1;
	if (server->flags & SERVER_QUIESCED || leads_elsewhere(flow) || has_anothers_port(flow, server) ||
	    (settings.limits && !admit_again(flow, step_of(now + timeout_of(FLOW_OPENING))))) {
		forsake(flow);
		return 0;
	}
	flags |= settings.limits ? FLOW_COUNTED : 0;
	write_state(flow, FLOW_OPENING, flags, now);
	write_state(pair, FLOW_OPENING, flags, now);
	return 1;
}

#endif
