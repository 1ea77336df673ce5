/* SPDX-License-Identifier: GPL-2.0 */
/* What XDP and tc do differently: their contexts and what a program may answer. Everything else is written once. */
#ifndef KERNLB_HOOK_H
#define KERNLB_HOOK_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* A function that the verifier walks once, and not for every way that leads there. */
#ifndef GLOBAL
#define GLOBAL __noinline
#endif

/* A constant wherever it is used, so that each program keeps only its own branch. */
enum hook {
	HOOK_XDP,
	HOOK_TC,
	HOOK_EXPLAIN, /* XDP that changes nothing */
};

#define TC_NEXT (-1) /* TC_ACT_UNSPEC, TCX_NEXT: the next program, then the stack */

/* Fields are read at constant offsets from the context itself: a compiler that computes their addresses apart is stopped. */
static __always_inline struct __sk_buff *skb_of(void *ctx)
{
	asm volatile("" : "+r"(ctx));
	return ctx;
}

static __always_inline struct xdp_md *xdp_of(void *ctx)
{
	asm volatile("" : "+r"(ctx));
	return ctx;
}

static __always_inline void *data(void *ctx, const enum hook hook)
{
	return hook == HOOK_TC ? (void *)(long)skb_of(ctx)->data : (void *)(long)xdp_of(ctx)->data;
}

static __always_inline void *data_end(void *ctx, const enum hook hook)
{
	return hook == HOOK_TC ? (void *)(long)skb_of(ctx)->data_end : (void *)(long)xdp_of(ctx)->data_end;
}

static __always_inline __u32 interface(void *ctx, const enum hook hook)
{
	return hook == HOOK_TC ? skb_of(ctx)->ifindex : xdp_of(ctx)->ingress_ifindex;
}

static __always_inline int passed(const enum hook hook)
{
	return hook == HOOK_TC ? TC_NEXT : XDP_PASS;
}

static __always_inline int dropped(const enum hook hook)
{
	return hook == HOOK_TC ? TC_ACT_SHOT : XDP_DROP;
}

static __always_inline struct explanation *explanation(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(MAP(explanations), &zero);
}

static __always_inline void count(__u32 cause)
{
	__u64 *counter = bpf_map_lookup_elem(MAP(causes), &cause);

	if (counter)
		(*counter)++;
}

/* The stack has the packet, and the cause is counted. */
static __always_inline int pass(const enum hook hook, enum cause cause)
{
	if (hook == HOOK_EXPLAIN) {
		struct explanation *why = explanation();

		if (why)
			why->cause = cause;
	} else {
		count(cause);
	}
	return passed(hook);
}

static __always_inline __u32 ticks(void)
{
	return bpf_jiffies64() >> settings.tick_shift;
}

#endif
