/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TCP timestamps (RFC 7323). A server in TIME_WAIT takes a SYN on the same ports only if its timestamp is younger than the
 * last that it saw: a port that another client had before goes on with that one's clock.
 */
#ifndef KERNLB_TIMESTAMP_H
#define KERNLB_TIMESTAMP_H

#include "checksum.h"
#include "flow.h"

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_TIMESTAMP 8
#define TCPOLEN_TIMESTAMP 10
#define TCP_OPTIONS 40
#define TIMESTAMPS_A_TICK 1024 /* of the clocks that hosts have, at a tick of about a second */

struct timestamps {
	__u8 value[4];
	__u8 echo[4];
};

static __always_inline __u32 read_word(const __u8 *at)
{
	return (__u32)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static __always_inline void write_word(__u8 *at, __u32 value)
{
	at[0] = value >> 24;
	at[1] = value >> 16;
	at[2] = value >> 8;
	at[3] = value;
}

/* Where the timestamps lie in the packet; 0: nowhere. */
static __always_inline int locate_timestamps(void *ctx, __u32 transport, const enum hook hook)
{
	struct tcphdr *tcp = at_offset(data(ctx, hook), transport, ANY_TRANSPORT);
	void *end = data_end(ctx, hook);
	__u32 at = sizeof(*tcp), length, i;
	__u8 *option;

	if (transport > 512 || (void *)(tcp + 1) > end)
		return 0;
	length = tcp->doff * 4;
	if (hook == HOOK_TC && (void *)tcp + length > end) {
		if (bpf_skb_pull_data(ctx, transport + length))
			return 0;
		tcp = at_offset(data(ctx, hook), transport, ANY_TRANSPORT);
		end = data_end(ctx, hook);
	}
	for (i = 0; i < TCP_OPTIONS; i++) {
		if (at + TCPOLEN_TIMESTAMP > length)
			return 0;
		option = (__u8 *)tcp + at;
		if (option + TCPOLEN_TIMESTAMP > (__u8 *)end || *option == TCPOPT_EOL)
			return 0;
		if (*option == TCPOPT_TIMESTAMP && option[1] == TCPOLEN_TIMESTAMP)
			return transport + at + 2;
		if (*option != TCPOPT_NOP && option[1] < 2)
			return 0;
		at = (at + (*option == TCPOPT_NOP ? 1 : option[1])) & 0x1ff;
	}
	return 0;
}

GLOBAL int timestamps_xdp(struct xdp_md *ctx, __u32 transport)
{
	return locate_timestamps(ctx, transport, HOOK_XDP);
}

GLOBAL int timestamps_tc(struct __sk_buff *ctx, __u32 transport)
{
	return locate_timestamps(ctx, transport, HOOK_TC);
}

/* odd: they lie at an odd offset of the TCP header. */
static __always_inline struct timestamps *timestamps_of(void *ctx, __u32 transport, _Bool *odd, const enum hook hook)
{
	__u32 at = hook == HOOK_TC ? timestamps_tc(ctx, transport) : timestamps_xdp(ctx, transport);
	struct timestamps *found;

	if (!at || at > 1024)
		return NULL;
	*odd = (at - transport) & 1;
	found = at_offset(data(ctx, hook), at, 0x7ff);
	return (void *)(found + 1) > data_end(ctx, hook) ? NULL : found;
}

/* What the change of a word at any offset does to the checksum. */
static __always_inline __u32 shift_word(__u8 *at, __u32 amount, _Bool odd)
{
	__u32 before = read_word(at), after = before + amount;
	__u16 difference;

	write_word(at, after);
	difference = fold(change(bpf_htonl(before), bpf_htonl(after)));
	return odd ? (__u16)(difference << 8 | difference >> 8) : difference;
}

/* The client's time becomes that of the port, the echo of it the client's again. Returns the difference for the checksum. */
static __always_inline __u32 shift_timestamps(void *ctx, __u32 transport, const struct flow *flow, const enum hook hook)
{
	const struct flow *forward = flow->flags & FLOW_FORWARD ? flow : pair_of(flow);
	_Bool odd = 0;
	struct timestamps *found = timestamps_of(ctx, transport, &odd, hook);

	if (!found || !forward)
		return 0;
	if (forward == flow)
		return shift_word(found->value, forward->clock, odd);
	return read_word(found->echo) ? shift_word(found->echo, -forward->clock, odd) : 0;
}

/* The last time of a client that its server has seen: whoever gets the port next goes on from there. */
static __always_inline void note_clock(void *ctx, __u32 transport, struct flow *flow, const enum hook hook)
{
	_Bool odd;
	struct timestamps *found = timestamps_of(ctx, transport, &odd, hook);
	struct flow *pair = pair_of(flow);

	if (!found || !pair)
		return;
	pair->clock = read_word(found->value) + (flow->flags & FLOW_CLOCK ? flow->clock : 0);
	pair->flags |= FLOW_TIMED;
	flow->flags |= FLOW_TIMED;
}

#endif
