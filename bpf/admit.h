/* SPDX-License-Identifier: GPL-2.0 */
/* Whether one more full NAT connection is let in: by all services together, by its service, and by a server. */
#ifndef KERNLB_ADMIT_H
#define KERNLB_ADMIT_H

#include "limit.h"
#include "table.h"

#define OTHER_SERVERS 64 /* drawn, before a connection is refused */

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
	return !server->connections || enter_limit(LIMIT_SERVER | (__u16)id, thresholds(server->connections, server->resume), end);
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
		struct slot_group *group;
		__u32 slot, index, id;

		hash = mix(hash + MIX_1);
		slot = (hash >> 32) * slots >> 32;
		index = slot / SLOTS_PER_GROUP;
		group = bpf_map_lookup_elem(groups, &index);
		if (!group)
			return -1;
		id = group->slot[slot % SLOTS_PER_GROUP].current;
		if (id == full)
			continue;
		full = id;
		server = server_of(id);
		if (server && server->forwarding == FORWARD_FULLNAT && server->hop.method != HOP_UNRESOLVED &&
		    (server->flags & (SERVER_IPV6 | SERVER_DEAD | SERVER_QUIESCED)) == family && enter_server(server, id, end))
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
