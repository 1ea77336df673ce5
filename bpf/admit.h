/* SPDX-License-Identifier: GPL-2.0 */
/* Who gets one more full NAT connection, and whether it is let in: by all services together, by its service, and by a server. */
#ifndef KERNLB_ADMIT_H
#define KERNLB_ADMIT_H

#include "limit.h"
#include "table.h"

#define OTHER_SERVERS 64 /* drawn, before a connection is refused */
#define OTHER_DRAWS 8 /* for one that is not the flow's own, before it has that */
#define ANY_NUMBER 0xffffffff

static __always_inline __u64 thresholds(__u32 upper, __u32 lower)
{
	return (__u64)lower << 32 | upper;
}

static __always_inline _Bool enter_service(const struct service *service, __u32 end)
{
	if (service->together && !enter_limit(LIMIT_TOGETHER, thresholds(service->together, service->together), end))
		return 0;
	if (!service->connections ||
	    enter_limit(LIMIT_SERVICE | service->limit, thresholds(service->connections, service->connections), end))
		return 1;
	move_in_limit(LIMIT_TOGETHER, end, NO_STEP);
	return 0;
}

static __always_inline void leave_service(const struct service *service, __u32 end)
{
	move_in_limit(LIMIT_TOGETHER, end, NO_STEP);
	move_in_limit(LIMIT_SERVICE | service->limit, end, NO_STEP);
}

static __always_inline _Bool enter_server(const struct server *server, __u32 id, __u32 end)
{
	__u32 upper = server->connections ? server->connections : ANY_NUMBER;

	if (!server->connections && !(server->flags & SERVER_COUNTED))
		return 1;
	return enter_limit(LIMIT_SERVER | (__u16)id, thresholds(upper, server->connections ? server->resume : upper), end);
}

/* Whether a connection of this family may begin there. */
static __always_inline _Bool takes(const struct server *server, __u32 family)
{
	return server && server->forwarding == FORWARD_FULLNAT && server->hop.method != HOP_UNRESOLVED &&
	       (server->flags & (SERVER_IPV6 | SERVER_DEAD | SERVER_QUIESCED)) == family;
}

static __always_inline __u32 drawn_server(void *groups, __u32 slots, __u64 hash)
{
	__u32 slot = (hash >> 32) * slots >> 32, index = slot / SLOTS_PER_GROUP;
	struct slot_group *group = bpf_map_lookup_elem(groups, &index);

	return group ? group->slot[slot % SLOTS_PER_GROUP].current : 0;
}

/*
 * Of two servers the one that will have fewer connections for its weight: the flow's own, and another that its hash draws.
 * Two are enough (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001), and slots go by weight.
 */
GLOBAL int fewer_connections(__u32 table, __u32 slots, __u64 hash, __u32 own)
{
	void *groups = bpf_map_lookup_elem(MAP(tables), &table);
	struct server *server = server_of(own), *other;
	__u32 i, id = own;

	if (!groups || !server)
		return own;
	for (i = 0; i < OTHER_DRAWS && id == own; i++) {
		hash = mix(hash + MIX_1);
		id = drawn_server(groups, slots, hash);
	}
	other = server_of(id);
	if (id == own || !takes(other, server->flags & SERVER_IPV6))
		return own;
	return (__u64)(live_connections(LIMIT_SERVER | (__u16)id) + 1) * server->weight <
			       (__u64)(live_connections(LIMIT_SERVER | (__u16)own) + 1) * other->weight ?
		       id :
		       own;
}

static __always_inline _Bool choose_fewer(const struct service *service, __u64 hash, const enum hook hook, struct choice *choice)
{
	__u32 id = fewer_connections(service->id, service->slots, hash, choice->id);

	if (id == choice->id)
		return 1;
	choice->id = id;
	choice->server = server_of(id);
	if (hook == HOOK_EXPLAIN) {
		struct explanation *why = explanation();

		if (why) {
			why->server = id;
			why->reason = REASON_FEWER;
		}
	}
	return !!choice->server;
}

/* A server that has room, in place of the one that has none: other slots, drawn by the flow's hash. Its number, or -1. */
GLOBAL int another_server(__u32 table, __u32 slots, __u64 hash, __u32 full, __u32 end)
{
	void *groups = bpf_map_lookup_elem(MAP(tables), &table);
	struct server *server = server_of(full);
	__u32 i, family;

	if (!groups || !server)
		return -1;
	family = server->flags & SERVER_IPV6;
	for (i = 0; i < OTHER_SERVERS; i++) {
		__u32 id;

		hash = mix(hash + MIX_1);
		id = drawn_server(groups, slots, hash);
		if (id == full)
			continue;
		full = id;
		server = server_of(id);
		if (takes(server, family) && enter_server(server, id, end))
			return id;
	}
	return -1;
}

/* The connection is counted then, and its server may be another. */
static __always_inline _Bool admit(const struct service *service, struct choice *choice, __u64 hash, __u32 end)
{
	int other;

	if (!enter_service(service, end))
		return 0;
	if (enter_server(choice->server, choice->id, end))
		return 1;
	other = another_server(service->id, service->slots, hash, choice->id, end);
	if (other >= 0) {
		choice->id = other;
		choice->server = server_of(other);
		if (choice->server)
			return 1;
	}
	leave_service(service, end);
	return 0;
}

/* A connection that begins again on its ports. */
static __always_inline _Bool admit_again(const struct flow *flow, __u32 end)
{
	struct service *service = find_service(&flow->key);
	struct server *server = server_of(flow->server);

	if (!service || !server || !enter_service(service, end))
		return 0;
	if (enter_server(server, flow->server, end))
		return 1;
	leave_service(service, end);
	return 0;
}

#endif
