/* SPDX-License-Identifier: GPL-2.0 */
/* Outer headers: IPIP, IP6IP6, IPv4 in IPv6, and GUE (variant 0, as IPVS sends it) over either. */
#ifndef KERNLB_TUNNEL_H
#define KERNLB_TUNNEL_H

#include "checksum.h"
#include "send.h"

#define OUTER_TTL 64

struct gue {
	struct udphdr udp;
	__u8 control; /* version, control and header length: all 0 */
	__u8 protocol;
	__be16 flags;
};

static __always_inline __u32 outer_length(const struct server *server)
{
	__u32 length = server->flags & SERVER_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	return server->forwarding == FORWARD_GUE ? length + sizeof(struct gue) : length;
}

/* UDP over IPv6 goes without checksum, as RFC 6935 allows tunnels; what is inside has its own. */
static __always_inline void write_gue(struct gue *gue, const struct server *server, __u8 inner, __u32 length, __u32 hash)
{
	gue->udp.source = bpf_htons(0xc000 | (hash & 0x3fff));
	gue->udp.dest = server->tunnel_port;
	gue->udp.len = bpf_htons(length + sizeof(*gue));
	gue->udp.check = 0;
	gue->control = 0;
	gue->protocol = inner;
	gue->flags = 0;
}

static __always_inline void write_outer4(struct iphdr *ip, const struct server *server, __u8 protocol, __u32 length, __u8 tos,
					 __be16 df, __u32 hash)
{
	__be16 id = df ? 0 : (__be16)hash;
	__u64 sum;

	*(__u16 *)ip = bpf_htons(0x4500 | tos);
	ip->tot_len = bpf_htons(length);
	ip->id = id;
	ip->frag_off = df;
	ip->ttl = OUTER_TTL;
	ip->protocol = protocol;
	ip->saddr = server->source.word[3];
	ip->daddr = server->address.word[3];
	sum = (__u64)bpf_htons(0x4500 | tos) + bpf_htons(length) + id + df + bpf_htons(OUTER_TTL << 8 | protocol) + ip->saddr + ip->daddr;
	ip->check = ~fold(sum);
}

static __always_inline void write_outer6(struct ipv6hdr *ip, const struct server *server, __u8 protocol, __u32 length, __u8 tos,
					 __u32 hash)
{
	*(__be32 *)ip = bpf_htonl(6 << 28 | (__u32)tos << 20 | (hash & 0xfffff));
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &server->source, sizeof(struct address));
	__builtin_memcpy(&ip->daddr, &server->address, sizeof(struct address));
}

/* What is cut into segments later is cut as its sender wanted: that they fit has been checked, and datagrams stay what they are. */
static __always_inline long grow_tc(struct __sk_buff *skb, const _Bool outer6, const _Bool gue)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (outer6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	__u32 length = outer6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	if (gue) {
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
		length += sizeof(struct gue);
	}
	return bpf_skb_adjust_room(skb, length, BPF_ADJ_ROOM_MAC, flags);
}

/*
 * One combination of outer header, GUE and inner family, its lengths constants. The inner header has been checked, and
 * changes only once there is room for the outer one.
 */
static __always_inline int encapsulate(void *ctx, const struct packet *packet, const struct server *server, const enum hook hook,
				       const _Bool outer6, const _Bool gue, const _Bool inner6, __u8 tos, __be16 df, __u32 hash)
{
	const __u32 ip_length = outer6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 grown = ip_length + (gue ? sizeof(struct gue) : 0);
	const __u8 inner = inner6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	const __u8 protocol = gue ? IPPROTO_UDP : inner;
	__u32 length = packet->length, network = packet->network, at = network - sizeof(__be16);
	struct ethhdr *ethernet;
	void *start, *end, *outer;
	__be16 *type;

	if (hook == HOOK_TC) {
		if (grow_tc(ctx, outer6, gue))
			return pass(hook, CAUSE_ROOM);
	} else if (bpf_xdp_adjust_head(ctx, -(int)grown)) {
		return pass(hook, CAUSE_ROOM);
	}
	start = data(ctx, hook);
	end = data_end(ctx, hook);
	ethernet = start;
	/* The verifier takes no negative offset, so the type has a pointer of its own. */
	asm volatile("" : "+r"(at));
	at &= 0x1f;
	if (network > sizeof(*ethernet) + VLAN_TAGS * sizeof(struct vlan))
		return dropped(hook);
	outer = start + network;
	type = start + at;
	if (start + sizeof(*ethernet) + grown > end || (void *)(type + 1) > end ||
	    outer + grown + (inner6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > end)
		return dropped(hook);
	if (hook != HOOK_TC && unlikely(network != sizeof(*ethernet))) {
		int i;

		/* The tags stay where they were before the IP header. */
#pragma unroll
		for (i = 0; i < VLAN_TAGS; i++) {
			__u32 tag = sizeof(*ethernet) - 2 + i * sizeof(struct vlan);

			if (tag + 2 < network) {
				if (start + tag + grown + sizeof(struct vlan) > end)
					return dropped(hook);
				__builtin_memcpy(start + tag, start + tag + grown, sizeof(struct vlan));
			}
		}
	}
	decrement_ttl(outer + grown, inner6);
	write_addresses(ethernet, &server->hop);
	*type = outer6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (gue)
		write_gue(outer + ip_length, server, inner, length, hash);
	if (outer6)
		write_outer6(outer, server, protocol, length + grown - ip_length, tos, hash);
	else
		write_outer4(outer, server, protocol, length + grown, tos, df, hash);
	return send(ctx, &server->hop, &server->next, hook);
}

#endif
