/* SPDX-License-Identifier: GPL-2.0 */
/*
 * At tc: how far the kernel has come with a packet's transport checksum. struct __sk_buff does not tell, the kernel's own
 * buffer does. The helper that knows costs several calls a packet, and is asked where the kernel lets nobody look.
 */
#ifndef KERNLB_SUMMED_H
#define KERNLB_SUMMED_H

#include "checksum.h"
#include "hook.h"

/* Calls of what no kernel has by these numbers: the loader puts there what this kernel has (kernlb/engines/linking.py). */
#define KERNEL_BUFFER 0x4b4b0000 /* bpf_cast_to_kern_ctx (6.2): struct sk_buff; or none */
#define KERNEL_SUMMED 0x4b4b0001 /* the bit of it at which ip_summed begins */

/* CHECKSUM_* of linux/skbuff.h */
enum summed {
	SUMMED_NONE = 0, /* the field holds the whole sum, which somebody has still to verify */
	SUMMED_UNNECESSARY = 1, /* the same, and it was right */
	SUMMED_COMPLETE = 2, /* the device has summed all there is, and that number changes with the packet */
	SUMMED_PARTIAL = 3, /* the field holds the sum of the pseudo header alone, and not inverted */
	SUMMED_UNKNOWN,
};

static __always_inline enum summed summed_of(void *ctx)
{
	const __u8 *buffer = ((void *(*)(void *))KERNEL_BUFFER)(ctx);
	__u64 bit;

	if (!buffer)
		return SUMMED_UNKNOWN;
	bit = ((__u64(*)(void))KERNEL_SUMMED)();
	return buffer[bit >> 3] >> (bit & 7) & 3;
}

/* A checksum of zero: UDP without one. */
static __always_inline __u16 stated(__u16 sum, const _Bool udp)
{
	return udp && !sum ? 0xffff : sum;
}

/* The whole sum in place, by what has changed in the packet. */
static __always_inline void fix_check(__u16 *check, __u64 difference, const _Bool udp)
{
	if (udp && !*check)
		return;
	*check = stated(changed(*check, difference), udp);
}

/* At tc; `addresses` is what the pseudo header changes by, `others` all else. */
static __always_inline void fix_check_of_buffer(void *ctx, __u16 *check, __u32 offset, __u64 addresses, __u64 others,
						const _Bool udp)
{
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;

	switch (summed_of(ctx)) {
	case SUMMED_NONE:
	case SUMMED_UNNECESSARY:
		fix_check(check, addresses + others, udp);
		break;
	case SUMMED_PARTIAL:
		if (!udp || *check)
			*check = stated(fold(*check + addresses), udp);
		break;
	default:
		bpf_l4_csum_replace(ctx, offset, 0, fold(addresses), flags | BPF_F_PSEUDO_HDR);
		bpf_l4_csum_replace(ctx, offset, 0, fold(others), flags);
	}
}

#endif
