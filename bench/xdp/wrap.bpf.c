// SPDX-License-Identifier: GPL-2.0
/*
 * BPF_PROG_TEST_RUN with repeat feeds a program its own output. This one restores the packet, varies the flow and
 * tail-calls the program under test; swap, through the same wrapper, is what parsing and a MAC swap alone cost, and
 * empty what the wrapper does.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SHORTEST 54
#define LONGEST 74
#define WORD(type, at) (*(type *)(packet + (at)) = *(type *)((void *)plan->packet + (at)))

struct plan {
	__u32 length;
	__u32 family; /* 0: the flow does not vary */
	__u32 mask; /* flows - 1 */
	__u32 scatter; /* in random order, or each after the other */
	__u32 next;
	__u32 zero;
	__u64 packet[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} target SEC(".maps");

static __always_inline void vary(struct plan *plan, void *packet, void *end)
{
	__u32 flow = plan->next++ * 2654435761u;

	if (plan->scatter) {
		flow ^= flow >> 15;
		flow *= 0x85ebca77;
		flow ^= flow >> 13;
	}
	flow &= plan->mask;
	if (plan->family == 4) {
		*(__u16 *)(packet + 28) = flow >> 14;
		*(__u16 *)(packet + 34) = 4 + (flow & 0x3fff);
	} else if (packet + 58 <= end) {
		*(__u16 *)(packet + 36) = flow >> 14;
		*(__u16 *)(packet + 54) = 4 + (flow & 0x3fff);
	}
}

/* Whether the packet is as it was; its length has been seen to. */
static __always_inline int restored(struct plan *plan, void *packet, void *end)
{
	int i;

	if (packet + SHORTEST > end)
		return 0;
#pragma unroll
	for (i = 0; i < 48; i += 8)
		WORD(__u64, i);
	WORD(__u32, 48);
	WORD(__u16, 52);
	if (packet + LONGEST <= end) {
		WORD(__u16, 54);
		WORD(__u64, 56);
		WORD(__u64, 64);
		WORD(__u16, 72);
	}
	if (plan->family)
		vary(plan, packet, end);
	return 1;
}

SEC("xdp")
int wrap(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	void *packet = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int grown;

	if (!plan)
		return XDP_ABORTED;
	grown = (int)(end - packet) - (int)plan->length;
	if (grown) {
		if (bpf_xdp_adjust_head(ctx, grown))
			return XDP_ABORTED;
		packet = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	if (restored(plan, packet, end))
		bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

/* For what does not change the length. */
SEC("tc")
int wrap_tc(struct __sk_buff *ctx)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	void *packet = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (plan && restored(plan, packet, end))
		bpf_tail_call(ctx, &target, 0);
	return TC_ACT_SHOT;
}

SEC("xdp")
int empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int empty_tc(struct __sk_buff *ctx)
{
	return TC_ACT_OK;
}

SEC("xdp")
int swap(struct xdp_md *ctx)
{
	void *packet = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = packet;
	__u8 address[6];
	__u16 *ports;

	if ((void *)(ethernet + 1) > end)
		return XDP_DROP;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))
			return XDP_PASS;
		if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
			return XDP_PASS;
		ports = (void *)(ip + 1);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP))
			return XDP_PASS;
		ports = (void *)(ip + 1);
	} else {
		return XDP_PASS;
	}
	if ((void *)(ports + 4) > end || !ports[1])
		return XDP_DROP;
	__builtin_memcpy(address, ethernet->h_dest, 6);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, 6);
	__builtin_memcpy(ethernet->h_source, address, 6);
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
