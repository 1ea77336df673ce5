/* SPDX-License-Identifier: GPL-2.0 */
/* From bytes to a tuple: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension headers, TCP, UDP, and ICMP errors. */
#ifndef KERNLB_PARSE_H
#define KERNLB_PARSE_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "extensions.h"

#define VLAN_TAGS 2
#define IP_FRAGMENT 0x2000
#define IP_OFFSET 0x1fff
#define IP_DF 0x4000

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* linux/icmp.h drags libc in. */
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 unused;
	__be16 mtu;
};

struct vlan {
	__be16 tag;
	__be16 type;
};

struct ports {
	__be16 source;
	__be16 destination;
};

/* What a packet is. An ICMP error has the tuple of the flow it speaks of, as that flow's packets come to us. */
struct packet {
	struct tuple tuple;
	__u32 network; /* offset of the IP header */
	__u32 transport; /* offset of what follows it */
	__u32 length; /* of the IP packet */
	__u32 flags; /* of TCP */
	__be32 identification;
	__u8 filter;
	__u8 related; /* an ICMP error */
	__u8 fragment; /* a fragment; first: with ports */
	__u8 first;
};

static __always_inline _Bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline __u32 filter_of(__be32 a, __be32 b, __be32 c, __be32 d)
{
	__u32 x = d ^ (a ^ b * 3 ^ c * 5);
	__u32 *flags;

	x *= 0x9e3779b1;
	x >>= 18;
	flags = bpf_map_lookup_elem(MAP(filter), &x);
	return flags ? *flags : 0;
}

static __always_inline void map_ipv4(struct address *address, __be32 ipv4)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = bpf_htonl(0xffff);
	address->word[3] = ipv4;
}

static __always_inline void copy_ipv6(struct address *address, const struct in6_addr *ipv6)
{
	__builtin_memcpy(address, ipv6, sizeof(*address));
}

static __always_inline _Bool same_address(const struct address *a, const struct address *b, const _Bool ipv6)
{
	if (ipv6 && (a->word[0] != b->word[0] || a->word[1] != b->word[1] || a->word[2] != b->word[2]))
		return 0;
	return a->word[3] == b->word[3];
}

static __always_inline _Bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

enum parsed {
	PARSED_FLOW = CAUSES, /* a tuple, or a fragment without one */
	PARSED_OTHER, /* not to any of our addresses */
};

/* Ports and flags. At tc the checksums are fixed later by helpers, at XDP in place, so the whole header has to be there. */
static __always_inline int parse_transport(struct cursor *cursor, struct packet *packet)
{
	__u32 room = packet->length - (packet->transport - packet->network);

	if (packet->tuple.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = take(cursor, sizeof(*tcp));

		if (unlikely(!tcp || (__s32)room < (__s32)sizeof(*tcp)))
			return CAUSE_MALFORMED;
		packet->tuple.source_port = tcp->source;
		packet->tuple.destination_port = tcp->dest;
		packet->flags = ((__u8 *)tcp)[13];
	} else {
		struct udphdr *udp = take(cursor, sizeof(*udp));

		if (unlikely(!udp || (__s32)room < (__s32)sizeof(*udp)))
			return CAUSE_MALFORMED;
		packet->tuple.source_port = udp->source;
		packet->tuple.destination_port = udp->dest;
	}
	return PARSED_FLOW;
}

/*
 * The packet that an ICMP error quotes went the other way: its source is our address. `length` is that of all headers
 * before its ports; what lies beyond the error's own length is no quotation.
 */
static __always_inline int parse_quoted_ports(struct cursor *cursor, struct packet *packet, __u8 protocol, __u32 length)
{
	struct ports *ports;

	if (!has_ports(protocol))
		return CAUSE_ICMP;
	ports = take(cursor, sizeof(*ports));
	if (!ports || packet->length < packet->transport - packet->network + length + sizeof(*ports))
		return CAUSE_MALFORMED;
	packet->tuple.protocol = protocol;
	packet->tuple.source_port = ports->destination;
	packet->tuple.destination_port = ports->source;
	packet->related = 1;
	return PARSED_FLOW;
}

static __always_inline int parse_icmp4(struct cursor *cursor, struct packet *packet)
{
	struct icmphdr *icmp = take(cursor, sizeof(*icmp));
	struct iphdr *quoted;
	__u32 options;

	if (!icmp)
		return CAUSE_MALFORMED;
	if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETERPROB)
		return CAUSE_ICMP;
	quoted = take(cursor, sizeof(*quoted));
	if (!quoted || quoted->version != 4 || quoted->ihl < 5)
		return CAUSE_MALFORMED;
	if (quoted->saddr != packet->tuple.destination.word[3] || quoted->frag_off & bpf_htons(IP_OFFSET))
		return CAUSE_ICMP;
	map_ipv4(&packet->tuple.source, quoted->daddr);
	options = (quoted->ihl * 4 - sizeof(*quoted)) & 0x3c;
	if (options && !take(cursor, options))
		return CAUSE_MALFORMED;
	return parse_quoted_ports(cursor, packet, quoted->protocol, sizeof(*icmp) + sizeof(*quoted) + options);
}

static __always_inline int parse_icmp6(struct cursor *cursor, struct packet *packet)
{
	struct icmp6hdr *icmp = take(cursor, sizeof(*icmp));
	struct ipv6hdr *quoted;

	if (!icmp)
		return CAUSE_MALFORMED;
	if (icmp->icmp6_type < ICMPV6_DEST_UNREACH || icmp->icmp6_type > ICMPV6_PARAMPROB)
		return CAUSE_ICMP;
	quoted = take(cursor, sizeof(*quoted));
	if (!quoted || quoted->version != 6)
		return CAUSE_MALFORMED;
	if (!same_address((struct address *)&quoted->saddr, &packet->tuple.destination, 1))
		return CAUSE_ICMP;
	copy_ipv6(&packet->tuple.source, &quoted->daddr);
	return parse_quoted_ports(cursor, packet, quoted->nexthdr, sizeof(*icmp) + sizeof(*quoted));
}

static __always_inline int parse_ipv4(struct cursor *cursor, struct packet *packet, const enum hook hook)
{
	struct iphdr *ip = take(cursor, sizeof(*ip));
	__u32 length;

	if (!ip)
		return PARSED_OTHER;
	packet->filter = filter_of(0, 0, 0, ip->daddr);
	if (likely(!packet->filter))
		return PARSED_OTHER;
	if (unlikely(ip->version != 4 || ip->ihl < 5))
		return CAUSE_MALFORMED;
	length = bounded(bpf_ntohs(ip->tot_len), 0xffff);
	/* At tc the buffer knows its length, data_end does not. */
	if (hook != HOOK_TC && unlikely((void *)ip + length > cursor->end))
		return CAUSE_MALFORMED;
	if (unlikely(length < ip->ihl * 4))
		return CAUSE_MALFORMED;
	packet->length = length;
	map_ipv4(&packet->tuple.source, ip->saddr);
	map_ipv4(&packet->tuple.destination, ip->daddr);
	packet->tuple.family = 4;
	packet->tuple.protocol = ip->protocol;
	packet->transport = packet->network + sizeof(*ip);
	if (unlikely(ip->ihl > 5)) {
		__u32 options = (ip->ihl * 4 - sizeof(*ip)) & 0x3c;

		if (!take(cursor, options))
			return CAUSE_MALFORMED;
		packet->transport += options;
	}
	if (unlikely(ip->frag_off & bpf_htons(IP_FRAGMENT | IP_OFFSET))) {
		packet->fragment = 1;
		packet->first = !(ip->frag_off & bpf_htons(IP_OFFSET));
		packet->identification = ip->id;
		if (!packet->first)
			return PARSED_FLOW;
	}
	if (likely(has_ports(ip->protocol)))
		return parse_transport(cursor, packet);
	if (ip->protocol != IPPROTO_ICMP)
		return CAUSE_PROTOCOL;
	return packet->fragment ? CAUSE_FRAGMENT : parse_icmp4(cursor, packet);
}

static __always_inline int skip_extensions(void *ctx, struct cursor *cursor, struct packet *packet, const enum hook hook)
{
	__u32 first = packet->transport, fragment;
	int found = hook == HOOK_TC ? extensions_tc(ctx, first, packet->tuple.protocol) :
				      extensions_xdp(ctx, first, packet->tuple.protocol);

	if (found < 0)
		return CAUSE_MALFORMED;
	fragment = (__u32)found >> 11 & EIGHTS;
	if (fragment) {
		struct extension *extension = at_offset(data(ctx, hook), first + (fragment - 1) * sizeof(*extension), 0x3fff);

		if ((void *)(extension + 1) > cursor->end)
			return CAUSE_MALFORMED;
		packet->fragment = 1;
		packet->first = !is_later_fragment(extension);
		packet->identification = extension->identification;
	}
	packet->transport += (found & EIGHTS) * 8;
	packet->tuple.protocol = (__u32)found >> 22;
	cursor->position = at_offset(data(ctx, hook), packet->transport, 0x3fff);
	return PARSED_FLOW;
}

static __always_inline int parse_ipv6(void *ctx, struct cursor *cursor, struct packet *packet, const enum hook hook)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	__u32 length;

	if (!ip)
		return PARSED_OTHER;
	packet->filter = filter_of(ip->daddr.in6_u.u6_addr32[0], ip->daddr.in6_u.u6_addr32[1], ip->daddr.in6_u.u6_addr32[2],
				   ip->daddr.in6_u.u6_addr32[3]);
	if (likely(!packet->filter))
		return PARSED_OTHER;
	if (unlikely(ip->version != 6))
		return CAUSE_MALFORMED;
	length = bounded(bpf_ntohs(ip->payload_len), 0xffff) + sizeof(*ip);
	if (hook != HOOK_TC && unlikely((void *)ip + length > cursor->end))
		return CAUSE_MALFORMED;
	packet->length = length;
	copy_ipv6(&packet->tuple.source, &ip->saddr);
	copy_ipv6(&packet->tuple.destination, &ip->daddr);
	packet->tuple.family = 6;
	packet->tuple.protocol = ip->nexthdr;
	packet->transport = packet->network + sizeof(*ip);
	if (unlikely(!has_ports(ip->nexthdr))) {
		int cause = skip_extensions(ctx, cursor, packet, hook);

		if (cause != PARSED_FLOW)
			return cause;
		if (packet->fragment && !packet->first)
			return PARSED_FLOW;
		switch (packet->tuple.protocol) {
		case IPPROTO_TCP:
		case IPPROTO_UDP:
			break;
		case IPPROTO_ICMPV6:
			return packet->fragment ? CAUSE_FRAGMENT : parse_icmp6(cursor, packet);
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
			return CAUSE_EXTENSIONS;
		default:
			return CAUSE_PROTOCOL;
		}
	}
	return parse_transport(cursor, packet);
}

#endif
