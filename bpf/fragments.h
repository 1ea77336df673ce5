/* SPDX-License-Identifier: GPL-2.0 */
/* Fragments have ports only in the first one: the others go where that went. */
#ifndef KERNLB_FRAGMENTS_H
#define KERNLB_FRAGMENTS_H

#include "table.h"

static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	struct fragment_key key = {
		.source = packet->tuple.source,
		.destination = packet->tuple.destination,
		.identification = packet->identification,
		.protocol = packet->tuple.protocol,
	};

	return key;
}

static __always_inline _Bool recall_fragment(const struct packet *packet, struct choice *choice)
{
	struct fragment_key key = fragment_key(packet);
	__u32 *id = bpf_map_lookup_elem(MAP(fragments), &key);

	if (!id)
		return 0;
	choice->id = *id;
	choice->server = server_of(choice->id);
	return choice->server && choice->server->forwarding != FORWARD_NOWHERE && choice->server->forwarding != FORWARD_FULLNAT;
}

static __always_inline void remember_fragment(const struct packet *packet, __u32 id)
{
	struct fragment_key key = fragment_key(packet);

	bpf_map_update_elem(MAP(fragments), &key, &id, BPF_ANY);
}

#endif
