/* SPDX-License-Identifier: GPL-2.0 */
/* At tc: headers that lie outside the linear part of a buffer are brought into it, where they are ours to read. */
#ifndef KERNLB_GATHER_H
#define KERNLB_GATHER_H

#include "parse.h"

#define PLAIN_HEADERS 54 /* Ethernet, IPv4 and TCP, or Ethernet and IPv6 */
#define ALL_HEADERS 192 /* two tags, IP with options, an ICMP error, what it quotes; or most extension headers */

/*
 * Headers may lie outside the linear part of a buffer. What is ours has them pulled there: TCP and UDP right behind an IP
 * header without options need little, and payload is better left where it is.
 */
GLOBAL int gather_headers(struct __sk_buff *skb)
{
	void *start = data(skb, HOOK_TC), *end = data_end(skb, HOOK_TC);
	__u32 length = skb_of(skb)->len;
	struct ethhdr *ethernet = start;

	if (start + PLAIN_HEADERS > end)
		return 0;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(ethernet + 1);

		if (!filter_of(0, 0, 0, ip->daddr) || (ip->ihl == 5 && has_ports(ip->protocol)))
			return 0;
	} else if (settings.ipv6 && ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(ethernet + 1);
		__be32 *address = ip->daddr.in6_u.u6_addr32;

		if (!filter_of(address[0], address[1], address[2], address[3]) ||
		    (has_ports(ip->nexthdr) && (void *)(ip + 1) + sizeof(struct tcphdr) <= end))
			return 0;
	} else if (!is_vlan(ethernet->h_proto)) {
		return 0;
	}
	return bpf_skb_pull_data(skb, length < ALL_HEADERS ? length : ALL_HEADERS);
}

#endif
