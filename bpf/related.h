/* SPDX-License-Identifier: GPL-2.0 */
/* ICMP errors about full NAT flows: to the end that sent what the error quotes, in the terms that end knows (RFC 5508). */
#ifndef KERNLB_RELATED_H
#define KERNLB_RELATED_H

#include "nat.h"

static __always_inline int related_ipv4(struct cursor *cursor, const struct flow *flow)
{
	struct iphdr *ip = take(cursor, sizeof(*ip)), *quoted;
	struct icmphdr *icmp;
	struct ports *ports;
	__u32 options, before, after;
	__u64 difference;

	if (!ip || ip->ttl <= 1)
		return CAUSE_TTL;
	options = (ip->ihl * 4 - sizeof(*ip)) & 0x3c;
	if (options && !take(cursor, options))
		return CAUSE_MALFORMED;
	icmp = take(cursor, sizeof(*icmp));
	if (!icmp)
		return CAUSE_MALFORMED;
	quoted = take(cursor, sizeof(*quoted));
	if (!quoted)
		return CAUSE_MALFORMED;
	options = (quoted->ihl * 4 - sizeof(*quoted)) & 0x3c;
	if (options && !take(cursor, options))
		return CAUSE_MALFORMED;
	ports = take(cursor, sizeof(*ports));
	if (!ports)
		return CAUSE_MALFORMED;
	difference = change(quoted->saddr, flow->destination.word[3]) + change(quoted->daddr, flow->source.word[3]);
	quoted->check = changed(quoted->check, difference);
	quoted->saddr = flow->destination.word[3];
	quoted->daddr = flow->source.word[3];
	before = *(__u32 *)ports;
	after = (__u32)flow->source_port << 16 | flow->destination_port;
	*(__u32 *)ports = after;
	/* The quoted header and its checksum cancel out. */
	icmp->checksum = changed(icmp->checksum, change(before, after));
	ip->check = changed(ip->check, change(ip->daddr, flow->destination.word[3]) + (__u16)~bpf_htons(0x0100));
	ip->daddr = flow->destination.word[3];
	ip->ttl--;
	return PARSED_FLOW;
}

static __always_inline int related_ipv6(struct cursor *cursor, const struct flow *flow)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip)), *quoted;
	struct icmp6hdr *icmp;
	struct ports *ports;
	__u32 before, after;
	__u64 difference;

	if (!ip || ip->hop_limit <= 1)
		return CAUSE_TTL;
	/* An error behind extension headers is rare enough for the stack. */
	if (ip->nexthdr != IPPROTO_ICMPV6)
		return CAUSE_EXTENSIONS;
	icmp = take(cursor, sizeof(*icmp));
	if (!icmp)
		return CAUSE_MALFORMED;
	quoted = take(cursor, sizeof(*quoted));
	if (!quoted)
		return CAUSE_MALFORMED;
	ports = take(cursor, sizeof(*ports));
	if (!ports)
		return CAUSE_MALFORMED;
	before = *(__u32 *)ports;
	after = (__u32)flow->source_port << 16 | flow->destination_port;
	difference = address_change((struct address *)&ip->daddr, &flow->destination, 1) +
		     address_change((struct address *)&quoted->saddr, &flow->destination, 1) +
		     address_change((struct address *)&quoted->daddr, &flow->source, 1) + change(before, after);
	icmp->icmp6_cksum = changed(icmp->icmp6_cksum, difference);
	__builtin_memcpy(&ip->daddr, &flow->destination, sizeof(struct address));
	__builtin_memcpy(&quoted->saddr, &flow->destination, sizeof(struct address));
	__builtin_memcpy(&quoted->daddr, &flow->source, sizeof(struct address));
	*(__u32 *)ports = after;
	ip->hop_limit--;
	return PARSED_FLOW;
}

static __always_inline int translate_related(void *ctx, __u32 network, const struct flow *flow, const struct hop *hop,
					     const struct address *next, const enum hook hook, const _Bool ipv6)
{
	struct cursor cursor = { .position = data(ctx, hook), .end = data_end(ctx, hook) };
	void *start = cursor.position;
	int cause;

	if (network > 64 || !take(&cursor, bounded(network, ANY_NETWORK)))
		return pass(hook, CAUSE_MALFORMED);
	cause = ipv6 ? related_ipv6(&cursor, flow) : related_ipv4(&cursor, flow);
	if (cause != PARSED_FLOW)
		return pass(hook, cause);
	if (start + sizeof(struct ethhdr) > cursor.end)
		return pass(hook, CAUSE_MALFORMED);
	write_addresses(start, hop);
	return send(ctx, hop, next, hook);
}

#endif
