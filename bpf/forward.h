/* SPDX-License-Identifier: GPL-2.0 */
/* Direct and tunnel: the packet itself stays as it is, but for its TTL, which ends loops. */
#ifndef KERNLB_FORWARD_H
#define KERNLB_FORWARD_H

#include "table.h"
#include "toobig.h"
#include "traffic.h"
#include "tunnel.h"

/*
 * The verifier walks a global function once, and not for every way that leads there. What it needs of the packet comes
 * in one number: length 32, begins 1, TCP 1, transport 9 of 14, network 6 of 16.
 */
static __always_inline __u64 outline(const struct packet *packet)
{
	return (__u64)packet->length << 32 | (__u32)begins(packet) << 31 | (packet->tuple.protocol == IPPROTO_TCP) << 30 |
	       packet->transport << 16 | packet->network;
}

static __always_inline int forward(void *ctx, __u32 id, __u64 outlined, __u64 hash, const enum hook hook, const _Bool ipv6)
{
	const struct server *server = server_of(id);
	const struct packet packet = {
		.length = outlined >> 32,
		.transport = outlined >> 16 & 0x1ff,
		.network = outlined & 0x3f,
		.tuple.protocol = outlined >> 30 & 1 ? IPPROTO_TCP : IPPROTO_UDP,
	};
	void *start = data(ctx, hook), *end = data_end(ctx, hook);
	__u32 network = packet.network, outer = 0;
	_Bool outer6;
	__be16 df = 0;
	__u8 tos;

	if (unlikely(!server))
		return pass(hook, CAUSE_NO_SERVER);
	outer6 = server->flags & SERVER_IPV6;
	if (unlikely(server->hop.method == HOP_UNRESOLVED))
		return refuse(id, hook, CAUSE_NO_HOP);
	if (start + sizeof(struct ethhdr) > end || start + network + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > end)
		return pass(hook, CAUSE_MALFORMED);
	if (settings.tunnel && server->forwarding != FORWARD_DIRECT) {
		if (ipv6 && !outer6)
			return refuse(id, hook, CAUSE_FAMILY);
		outer = outer_length(server);
	}
	if (exceeds(ctx, &packet, outer, &server->hop, hook))
		return answer_too_big(ctx, &packet, server->hop.mtu - outer, hook, ipv6);
	if (ipv6) {
		struct ipv6hdr *ip = start + network;

		if (unlikely(ip->hop_limit <= 1))
			return pass(hook, CAUSE_TTL);
		tos = bpf_ntohs(*(__be16 *)ip) >> 4;
	} else {
		struct iphdr *ip = start + network;

		if (unlikely(ip->ttl <= 1))
			return pass(hook, CAUSE_TTL);
		df = ip->frag_off & bpf_htons(IP_DF);
		tos = ip->tos;
	}
	account(id, packet.length, outlined >> 31 & 1, 0);
	if (!settings.tunnel || server->forwarding == FORWARD_DIRECT) {
		decrement_ttl(start + network, ipv6);
		write_addresses(start, &server->hop);
		return send(ctx, &server->hop, &server->next, hook);
	}
	if (server->forwarding == FORWARD_GUE)
		return outer6 ? encapsulate(ctx, &packet, server, hook, 1, 1, ipv6, tos, df, hash) :
				encapsulate(ctx, &packet, server, hook, 0, 1, ipv6, tos, df, hash);
	return outer6 ? encapsulate(ctx, &packet, server, hook, 1, 0, ipv6, tos, df, hash) :
			encapsulate(ctx, &packet, server, hook, 0, 0, ipv6, tos, df, hash);
}

GLOBAL int forward_ipv4_xdp(struct xdp_md *ctx, __u32 id, __u64 outlined, __u64 hash)
{
	return forward(ctx, id, outlined, hash, HOOK_XDP, 0);
}

GLOBAL int forward_ipv6_xdp(struct xdp_md *ctx, __u32 id, __u64 outlined, __u64 hash)
{
	return forward(ctx, id, outlined, hash, HOOK_XDP, 1);
}

GLOBAL int forward_ipv4_tc(struct __sk_buff *ctx, __u32 id, __u64 outlined, __u64 hash)
{
	return forward(ctx, id, outlined, hash, HOOK_TC, 0);
}

GLOBAL int forward_ipv6_tc(struct __sk_buff *ctx, __u32 id, __u64 outlined, __u64 hash)
{
	return forward(ctx, id, outlined, hash, HOOK_TC, 1);
}

#endif
