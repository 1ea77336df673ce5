/* SPDX-License-Identifier: GPL-2.0 */
/* How a finished packet leaves. */
#ifndef KERNLB_SEND_H
#define KERNLB_SEND_H

#include "checksum.h"
#include "parse.h"

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10

static __always_inline void write_addresses(struct ethhdr *ethernet, const struct hop *hop)
{
	__builtin_memcpy(ethernet->h_dest, hop->destination, 6);
	__builtin_memcpy(ethernet->h_source, hop->source, 6);
}

static __always_inline void decrement_ttl(void *header, const _Bool ipv6)
{
	if (ipv6) {
		((struct ipv6hdr *)header)->hop_limit--;
	} else {
		struct iphdr *ip = header;

		/* TTL is the high byte of its word. */
		ip->check = changed(ip->check, (__u16)~bpf_htons(0x0100));
		ip->ttl--;
	}
}

static __always_inline long redirect_neighbour(__u32 interface, const struct address *next)
{
	struct bpf_redir_neigh neighbour = {};

	if (next->word[0] == 0 && next->word[1] == 0 && next->word[2] == bpf_htonl(0xffff)) {
		neighbour.nh_family = FAMILY_IPV4;
		neighbour.ipv4_nh = next->word[3];
	} else {
		neighbour.nh_family = FAMILY_IPV6;
		__builtin_memcpy(neighbour.ipv6_nh, next, sizeof(*next));
	}
	return bpf_redirect_neigh(interface, &neighbour, sizeof(neighbour), 0);
}

/* The MAC addresses are written already. */
static __always_inline int send(void *ctx, const struct hop *hop, const struct address *next, const enum hook hook)
{
	__u32 out = hop->interface;

	if (hook == HOOK_TC) {
		if (hop->method == HOP_PEER)
			return bpf_redirect_peer(out, 0);
		if (hop->method == HOP_NEIGHBOUR)
			return redirect_neighbour(out, next);
		return bpf_redirect(out ? out : interface(ctx, hook), 0);
	}
	if (!out || out == interface(ctx, hook))
		return XDP_TX;
	return bpf_redirect(out, 0);
}

#endif
