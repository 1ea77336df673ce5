/* SPDX-License-Identifier: GPL-2.0 */
/* Rewriting a packet of a full NAT flow: addresses, ports, TTL, and the checksums by what changed. */
#ifndef KERNLB_NAT_H
#define KERNLB_NAT_H

#include "flow.h"
#include "send.h"
#include "summed.h"
#include "timestamp.h"

static __always_inline __u64 address_change(const struct address *from, const struct address *to, const _Bool ipv6)
{
	__u64 sum = change(from->word[3], to->word[3]);

	if (ipv6)
		sum += change(from->word[0], to->word[0]) + change(from->word[1], to->word[1]) + change(from->word[2], to->word[2]);
	return sum;
}

static __always_inline void rewrite_ipv4(struct iphdr *ip, const struct flow *flow, __u64 difference)
{
	/* TTL is the high byte of its word. */
	ip->check = changed(ip->check, difference + (__u16)~bpf_htons(0x0100));
	ip->ttl--;
	ip->saddr = flow->source.word[3];
	ip->daddr = flow->destination.word[3];
}

static __always_inline void rewrite_ipv6(struct ipv6hdr *ip, const struct flow *flow)
{
	ip->hop_limit--;
	__builtin_memcpy(&ip->saddr, &flow->source, sizeof(struct address));
	__builtin_memcpy(&ip->daddr, &flow->destination, sizeof(struct address));
}

static __always_inline int translate(void *ctx, struct packet *packet, const struct flow *flow, const struct hop *hop,
				     const struct address *next, const enum hook hook, const _Bool ipv6)
{
	const _Bool udp = packet->tuple.protocol == IPPROTO_UDP;
	__u32 network = packet->network, transport = packet->transport;
	__u32 before = ports_of(&packet->tuple), after = (__u32)flow->destination_port << 16 | flow->source_port;
	void *start = data(ctx, hook), *end = data_end(ctx, hook);
	__u32 at = udp ? __builtin_offsetof(struct udphdr, check) : __builtin_offsetof(struct tcphdr, check);
	__u64 addresses, others;
	void *header;
	__u32 *ports;
	__u16 *check;

	others = change(before, after);
	if (unlikely(flow->flags & FLOW_CLOCK)) {
		others += shift_timestamps(ctx, transport, flow, hook);
		start = data(ctx, hook);
		end = data_end(ctx, hook);
	}
	addresses = address_change(&packet->tuple.source, &flow->source, ipv6) +
		    address_change(&packet->tuple.destination, &flow->destination, ipv6);
	if (network > 64 || transport > 512)
		return pass(hook, CAUSE_MALFORMED);
	header = at_offset(start, network, ANY_NETWORK);
	ports = at_offset(start, transport, ANY_TRANSPORT);
	check = settled((void *)ports + at);
	if (start + sizeof(struct ethhdr) > end || header + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > end)
		return pass(hook, CAUSE_MALFORMED);
	if ((void *)(check + 1) > end || (void *)(ports + 1) > end)
		return pass(hook, CAUSE_MALFORMED);
	if (ipv6) {
		struct ipv6hdr *ip = header;

		if (ip->hop_limit <= 1)
			return pass(hook, CAUSE_TTL);
		rewrite_ipv6(ip, flow);
	} else {
		struct iphdr *ip = header;

		if (ip->ttl <= 1)
			return pass(hook, CAUSE_TTL);
		rewrite_ipv4(ip, flow, addresses);
	}
	write_addresses(start, hop);
	*ports = after;
	if (hook == HOOK_TC)
		fix_check_of_buffer(ctx, check, transport + at, addresses, others, udp);
	else
		fix_check(check, addresses + others, udp);
	return send(ctx, hop, next, hook);
}

#endif
