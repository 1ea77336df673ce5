/* SPDX-License-Identifier: GPL-2.0 */
/* Packet too big, for a packet that does not fit through the link that it would leave by (RFC 1191, RFC 4443). */
#ifndef KERNLB_TOOBIG_H
#define KERNLB_TOOBIG_H

#include "checksum.h"
#include "send.h"

#define QUOTED_IPV4 68 /* the longest IP header and eight bytes */
#define QUOTED_IPV6 512 /* what bpf_csum_diff takes */

/* GSO segments are cut after us: what has to fit is one of them. Each has the whole TCP header, options and all. */
static __always_inline __u32 largest_segment(void *ctx, const struct packet *packet, const enum hook hook)
{
	__u32 segment = hook == HOOK_TC ? skb_of(ctx)->gso_size : 0, header = sizeof(struct udphdr);

	if (likely(!segment))
		return packet->length;
	if (packet->tuple.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = at_offset(data(ctx, hook), packet->transport, ANY_TRANSPORT);

		header = (void *)(tcp + 1) > data_end(ctx, hook) ? sizeof(*tcp) : tcp->doff * 4;
	}
	return segment + packet->transport - packet->network + header;
}

/* Whether it is too big for this hop with so much in front of it. */
static __always_inline _Bool exceeds(void *ctx, const struct packet *packet, __u32 outer, const struct hop *hop,
				     const enum hook hook)
{
	__u32 mtu = hop->mtu;

	return unlikely(packet->length + outer > mtu) && mtu && largest_segment(ctx, packet, hook) + outer > mtu;
}

static __always_inline void swap_addresses(struct ethhdr *ethernet)
{
	__u8 address[6];

	__builtin_memcpy(address, ethernet->h_dest, 6);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, 6);
	__builtin_memcpy(ethernet->h_source, address, 6);
}

/* Room for the answer's headers first: where there is none the packet is still whole. */
static __always_inline long make_room(void *ctx, const __u32 grown, const enum hook hook)
{
	return hook == HOOK_TC ? bpf_skb_adjust_room(ctx, grown, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) :
				 bpf_xdp_adjust_head(ctx, -(int)grown);
}

static __always_inline long cut(void *ctx, __u32 length, const enum hook hook)
{
	long had;

	if (hook == HOOK_TC)
		return bpf_skb_change_tail(ctx, length, 0);
	had = data_end(ctx, hook) - data(ctx, hook);
	/* The compiler would subtract pointers in 32 bits, which the verifier forbids. */
	asm volatile("" : "+r"(had));
	return bpf_xdp_adjust_tail(ctx, (int)(length - had));
}

/* Where a packet has its checksum, from its IP header on; 0: nowhere that needs care. */
static __always_inline __u32 check_of(const struct packet *packet, const _Bool ipv6)
{
	__u32 header = packet->transport - packet->network;

	if (ipv6 && header != sizeof(struct ipv6hdr))
		return 0;
	return header + (packet->tuple.protocol == IPPROTO_UDP ? __builtin_offsetof(struct udphdr, check) :
								 __builtin_offsetof(struct tcphdr, check));
}

/*
 * What is quoted may have come without its checksum, which is then made on the way out, within the quotation, and the
 * error's own would be wrong. Nobody tells whether it did, so it gets the one that making it again leaves as it is: half of
 * what all else sums up to, negated, modulo 0xffff. The sum of an IPv4 header is nothing.
 */
static __always_inline void settle_check(void *quotation, __u16 *check, const __u32 quoted, const _Bool ipv6)
{
	const __u32 apart = ipv6 ? sizeof(struct ipv6hdr) : 0;
	__u32 sum;

	*check = 0;
	sum = (__u16)~fold((__u32)bpf_csum_diff(NULL, 0, quotation + apart, quoted - apart, 0));
	*check = (sum & 1 ? sum + 0xffff : sum) / 2;
}

static __always_inline int write_too_big(void *ctx, __u32 network, __u32 check, __u32 mtu, const enum hook hook,
					 const _Bool ipv6)
{
	const __u32 quoted = ipv6 ? QUOTED_IPV6 : QUOTED_IPV4;
	const __u32 grown = ipv6 ? sizeof(struct ipv6hdr) + sizeof(struct icmp6hdr) : sizeof(struct iphdr) + sizeof(struct icmphdr);
	__u32 tags[VLAN_TAGS] = {};
	struct ethhdr *ethernet;
	void *start, *end, *header;
	int i;

	if (network > sizeof(*ethernet) + VLAN_TAGS * sizeof(struct vlan))
		return pass(hook, CAUSE_ROOM);
	if (make_room(ctx, grown, hook))
		return pass(hook, CAUSE_ROOM);
	if (cut(ctx, network + grown + quoted, hook)) {
		count(CAUSE_ROOM);
		return dropped(hook);
	}
	start = data(ctx, hook);
	end = data_end(ctx, hook);
	ethernet = start;
	if (hook != HOOK_TC) {
		/* Ethernet and tags lie where the quotation's front was. */
		if (start + sizeof(*ethernet) + VLAN_TAGS * sizeof(struct vlan) + grown > end)
			return dropped(hook);
		for (i = 0; i < 7; i++)
			((__u16 *)start)[i] = ((__u16 *)(start + grown))[i];
#pragma unroll
		for (i = 0; i < VLAN_TAGS; i++)
			tags[i] = *(__u32 *)(start + grown + sizeof(*ethernet) + i * sizeof(struct vlan));
		if (network > sizeof(*ethernet))
			*(__u32 *)(start + sizeof(*ethernet)) = tags[0];
		if (network > sizeof(*ethernet) + sizeof(struct vlan))
			*(__u32 *)(start + sizeof(*ethernet) + sizeof(struct vlan)) = tags[1];
	}
	header = at_offset(start, network, 0x1f);
	if (start + sizeof(*ethernet) > end || header + grown + quoted > end)
		return dropped(hook);
	if (hook == HOOK_TC && check) {
		__u16 *transport = at_offset(header + grown, check, ANY_TRANSPORT);

		if ((void *)(transport + 1) <= end)
			settle_check(header + grown, transport, quoted, ipv6);
	}
	swap_addresses(ethernet);
	count(CAUSE_TOO_BIG);
	if (ipv6) {
		struct ipv6hdr *ip = header;
		struct icmp6hdr *icmp = (void *)(ip + 1);
		struct ipv6hdr *inner = (void *)(icmp + 1);

		*(__be32 *)ip = bpf_htonl(6 << 28);
		ip->payload_len = bpf_htons(sizeof(*icmp) + quoted);
		ip->nexthdr = IPPROTO_ICMPV6;
		ip->hop_limit = 64;
		ip->saddr = inner->daddr;
		ip->daddr = inner->saddr;
		icmp->icmp6_type = ICMPV6_PKT_TOOBIG;
		icmp->icmp6_code = 0;
		icmp->icmp6_cksum = 0;
		icmp->icmp6_mtu = bpf_htonl(mtu);
		icmp->icmp6_cksum = ~fold((__u64)(__u32)bpf_csum_diff(NULL, 0, (void *)inner, quoted, 0) +
					  (__u32)bpf_csum_diff(NULL, 0, (void *)&ip->saddr, 32, 0) +
					  (__u32)bpf_csum_diff(NULL, 0, (void *)icmp, sizeof(*icmp), 0) +
					  bpf_htons(sizeof(*icmp) + quoted) + bpf_htons(IPPROTO_ICMPV6));
	} else {
		struct iphdr *ip = header;
		struct icmphdr *icmp = (void *)(ip + 1);
		struct iphdr *inner = (void *)(icmp + 1);

		*(__be16 *)ip = bpf_htons(0x4500);
		ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quoted);
		ip->id = 0;
		ip->frag_off = bpf_htons(IP_DF);
		ip->ttl = 64;
		ip->protocol = IPPROTO_ICMP;
		ip->check = 0;
		ip->saddr = inner->daddr;
		ip->daddr = inner->saddr;
		ip->check = ~fold((__u32)bpf_csum_diff(NULL, 0, (void *)ip, sizeof(*ip), 0));
		icmp->type = ICMP_DEST_UNREACH;
		icmp->code = ICMP_FRAG_NEEDED;
		icmp->checksum = 0;
		icmp->unused = 0;
		icmp->mtu = bpf_htons(mtu);
		icmp->checksum = ~fold((__u32)bpf_csum_diff(NULL, 0, (void *)icmp, sizeof(*icmp) + quoted, 0));
	}
	return hook == HOOK_TC ? bpf_redirect(interface(ctx, hook), 0) : XDP_TX;
}

GLOBAL int too_big_xdp(struct xdp_md *ctx, __u32 network, __u32 mtu, _Bool ipv6)
{
	return ipv6 ? write_too_big(ctx, network, 0, mtu, HOOK_XDP, 1) : write_too_big(ctx, network, 0, mtu, HOOK_XDP, 0);
}

GLOBAL int too_big_tc(struct __sk_buff *ctx, __u32 network, __u32 check, __u32 mtu, _Bool ipv6)
{
	return ipv6 ? write_too_big(ctx, network, check, mtu, HOOK_TC, 1) : write_too_big(ctx, network, check, mtu, HOOK_TC, 0);
}

static __always_inline int answer_too_big(void *ctx, const struct packet *packet, __u32 mtu, const enum hook hook, const _Bool ipv6)
{
	return hook == HOOK_TC ? too_big_tc(ctx, packet->network, check_of(packet, ipv6), mtu, ipv6) :
				 too_big_xdp(ctx, packet->network, mtu, ipv6);
}

#endif
