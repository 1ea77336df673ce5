/* SPDX-License-Identifier: GPL-2.0 */
/* A connection that is refused is answered with a reset (RFC 9293, 3.10.7.1): its own SYN, turned round, options and all. */
#ifndef KERNLB_RESET_H
#define KERNLB_RESET_H

#include "nat.h"
#include "toobig.h"

#define RESET_TTL 64

static __always_inline int write_reset(void *ctx, __u32 network, __u32 transport, __u32 length, const enum hook hook,
				       const _Bool ipv6)
{
	void *start = data(ctx, hook), *end = data_end(ctx, hook);
	struct ethhdr *ethernet = start;
	__u32 acknowledged, word;
	__u64 difference;
	__be32 *words;
	void *header;
	__u16 ports;

	if (network > 64 || transport > 512)
		return dropped(hook);
	words = at_offset(start, transport, ANY_TRANSPORT);
	header = at_offset(start, network, ANY_NETWORK);
	if (start + sizeof(*ethernet) > end || (void *)words + sizeof(struct tcphdr) > end ||
	    header + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > end)
		return dropped(hook);
	swap_addresses(ethernet);
	if (ipv6) {
		struct ipv6hdr *ip = header;
		struct in6_addr source = ip->saddr;

		ip->saddr = ip->daddr;
		ip->daddr = source;
		ip->hop_limit = RESET_TTL;
	} else {
		struct iphdr *ip = header;
		__be32 source = ip->saddr;

		ip->check = changed(ip->check, change(bpf_htons(ip->ttl << 8), bpf_htons(RESET_TTL << 8)));
		ip->saddr = ip->daddr;
		ip->daddr = source;
		ip->ttl = RESET_TTL;
	}
	/* Ports; sequence; acknowledgement; offset, flags, window. Swapping leaves the checksum as it is. */
	ports = words[0] >> 16;
	words[0] = words[0] << 16 | ports;
	acknowledged = bpf_ntohl(words[1]) + 1 + length - (transport - network) - ((struct tcphdr *)words)->doff * 4;
	word = (words[3] & bpf_htonl(0xff00ffff)) | bpf_htonl((TCP_RST | TCP_ACK) << 16);
	difference = change(words[1], 0) + change(words[2], bpf_htonl(acknowledged)) + change(words[3], word);
	words[1] = 0;
	words[2] = bpf_htonl(acknowledged);
	words[3] = word;
	if (hook == HOOK_TC) {
		bpf_l4_csum_replace(ctx, transport + __builtin_offsetof(struct tcphdr, check), 0, fold(difference), 0);
		return bpf_redirect(interface(ctx, hook), 0);
	}
	fix_check(&((struct tcphdr *)words)->check, difference, 0);
	return XDP_TX;
}

GLOBAL int reset_xdp(struct xdp_md *ctx, __u32 network, __u32 transport, __u32 length, _Bool ipv6)
{
	return ipv6 ? write_reset(ctx, network, transport, length, HOOK_XDP, 1) :
		      write_reset(ctx, network, transport, length, HOOK_XDP, 0);
}

GLOBAL int reset_tc(struct __sk_buff *ctx, __u32 network, __u32 transport, __u32 length, _Bool ipv6)
{
	return ipv6 ? write_reset(ctx, network, transport, length, HOOK_TC, 1) :
		      write_reset(ctx, network, transport, length, HOOK_TC, 0);
}

static __always_inline int answer_reset(void *ctx, const struct packet *packet, const enum hook hook, const _Bool ipv6)
{
	return hook == HOOK_TC ? reset_tc(ctx, packet->network, packet->transport, packet->length, ipv6) :
				 reset_xdp(ctx, packet->network, packet->transport, packet->length, ipv6);
}

#endif
