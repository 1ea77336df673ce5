/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From a flow to its server. A slot that has one server answers without state. In transition the memory answers; a
 * flow that it does not know is new (SYN: the current server) or was there before (the previous server).
 */
#ifndef KERNLB_TABLE_H
#define KERNLB_TABLE_H

#include "memory.h"
#include "parse.h"

static __always_inline struct service *find_service(const struct tuple *tuple)
{
	struct service_key key = {
		.address = tuple->destination,
		.port = tuple->destination_port,
		.protocol = tuple->protocol,
	};
	struct service *service = bpf_map_lookup_elem(MAP(services), &key);

	if (likely(service))
		return service;
	key.port = 0;
	return bpf_map_lookup_elem(MAP(services), &key);
}

static __always_inline struct server *server_of(__u32 id)
{
	return bpf_map_lookup_elem(MAP(servers), &id);
}

struct choice {
	struct server *server;
	__u32 id;
};

struct question {
	const struct service *service;
	void *table;
	__u64 hash;
	__u32 slot;
	_Bool begins;
	_Bool ends;
};

/* Fills in the table and the number of the slot. */
static __always_inline struct slot *find_slot(struct question *question, const struct tuple *tuple)
{
	const struct service *service = question->service;
	__u32 id = service->id, index;
	__u64 place = question->hash;
	struct slot_group *group;

	question->table = bpf_map_lookup_elem(MAP(tables), &id);
	if (!question->table)
		return NULL;
	if (unlikely(service->flags & SERVICE_SOURCE_HASH))
		place = flow_hash(tuple, tuple->family == 6, 1);
	question->slot = (place >> 32) * service->slots >> 32;
	index = question->slot / SLOTS_PER_GROUP;
	group = bpf_map_lookup_elem(question->table, &index);
	return group ? &group->slot[question->slot % SLOTS_PER_GROUP] : NULL;
}

static __always_inline _Bool begins(const struct packet *packet)
{
	return (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && !packet->related;
}

static __always_inline void explain(const struct question *question, const struct slot *slot, __u32 id, enum reason reason)
{
	struct explanation *why = explanation();

	if (!why)
		return;
	why->service = question->service->id;
	why->slot = question->slot;
	why->hash = question->hash >> 32;
	why->current = slot->current;
	why->previous = slot->previous;
	why->server = id;
	why->reason = reason;
}

static __always_inline void stamp(const struct question *question, __u32 now)
{
	__u32 groups = (question->service->slots + SLOTS_PER_GROUP - 1) / SLOTS_PER_GROUP;
	__u32 index = groups + question->slot / SLOTS_PER_GROUP;
	struct slot_group *group = bpf_map_lookup_elem(question->table, &index);

	if (group && group->used[question->slot % SLOTS_PER_GROUP] != now)
		group->used[question->slot % SLOTS_PER_GROUP] = now;
}

static __always_inline __u32 tracked(const struct question *question, const struct slot *slot, const enum hook hook)
{
	__u32 now = ticks(), idle = question->service->idle, state, id;
	struct recollection found;
	enum reason reason;

	recall(question->hash, &found);
	if (found.memory) {
		__u64 memory = *found.memory;
		struct server *server = server_of(memory_server(memory));

		state = memory_state(memory);
		/* Connections of full NAT that are in use are known elsewhere: one that begins is new, whatever it was. */
		if (server && !(server->flags & SERVER_DEAD) && memory_age(memory, now) <= idle &&
		    !(question->begins && (state == MEMORY_CLOSING || server->forwarding == FORWARD_FULLNAT))) {
			id = memory_server(memory);
			if (question->ends)
				state = MEMORY_CLOSING;
			else if (state == MEMORY_OPENING && !question->begins)
				state = MEMORY_ESTABLISHED;
			memory = memory_of(memory >> 32, id, state, now);
			if (hook != HOOK_EXPLAIN && memory != *found.memory)
				*found.memory = memory;
			reason = REASON_REMEMBERED;
			goto answer;
		}
	}
	if (question->begins) {
		id = slot->current;
		state = MEMORY_OPENING;
		reason = REASON_NEW;
	} else {
		id = slot->previous & ~SLOT_TRACKED;
		state = question->ends ? MEMORY_CLOSING : MEMORY_ESTABLISHED;
		reason = REASON_BEFORE;
	}
	if (hook != HOOK_EXPLAIN) {
		__u64 memory = memory_of(memory_tag(question->hash), id, state, now);

		if (found.memory)
			*found.memory = memory;
		else
			remember(found.bucket[0], found.bucket[1], memory, idle);
	}
answer:
	if (hook == HOOK_EXPLAIN)
		explain(question, slot, id, reason);
	else if (id != slot->current)
		stamp(question, now);
	return id;
}

/* The server of a flow. An ICMP error asks like the flow's own packets, and changes nothing. */
static __always_inline _Bool choose(const struct service *service, const struct packet *packet, __u64 hash, const enum hook hook,
				    struct choice *choice)
{
	struct question question = {
		.service = service,
		.hash = hash,
		.begins = begins(packet),
		.ends = packet->flags & (TCP_FIN | TCP_RST),
	};
	struct slot *slot = find_slot(&question, &packet->tuple);
	__u32 id;

	if (!slot)
		return 0;
	id = slot->current;
	if (settings.transition && unlikely(id != slot->previous))
		id = tracked(&question, slot, hook);
	else if (hook == HOOK_EXPLAIN)
		explain(&question, slot, id, REASON_STEADY);
	choice->id = id;
	choice->server = server_of(id);
	return choice->server && choice->server->forwarding != FORWARD_NOWHERE;
}

#endif
