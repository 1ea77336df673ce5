/* SPDX-License-Identifier: GPL-2.0 */
/* The extension headers of IPv6 (RFC 8200), so many of them. */
#ifndef KERNLB_EXTENSIONS_H
#define KERNLB_EXTENSIONS_H

#include <linux/in.h>

#include "cursor.h"

#define EXTENSION_HEADERS 6
#define EIGHTS 0x7ff /* all of these headers can be as long as so many eights of bytes */

struct extension {
	__u8 next;
	__u8 length; /* beyond the first eight bytes, in eights */
	__be16 fragment;
	__be32 identification;
};

static __always_inline _Bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_FRAGMENT;
}

/* In bytes. */
static __always_inline __u32 length_of(const struct extension *extension, __u8 protocol)
{
	return protocol == IPPROTO_FRAGMENT ? sizeof(*extension) : sizeof(*extension) + extension->length * 8;
}

static __always_inline _Bool is_later_fragment(const struct extension *extension)
{
	return extension->fragment & bpf_htons(0xfff8);
}

/*
 * Where those that begin at `offset` end, in eights of bytes; the protocol that follows, from bit 22 on; and from bit 11
 * on where the fragment header lies, in eights counted from 1, or 0. Negative: cut short.
 */
static __always_inline int walk_extensions(void *ctx, __u32 offset, __u32 protocol, const enum hook hook)
{
	struct cursor cursor = { .position = data(ctx, hook), .end = data_end(ctx, hook) };
	__u32 length = 0, fragment = 0;
	int i;

	if (!take(&cursor, bounded(offset, ANY_NETWORK)))
		return -1;
#pragma unroll
	for (i = 0; i < EXTENSION_HEADERS; i++) {
		struct extension *extension = cursor.position;

		if (!is_extension(protocol))
			break;
		if ((void *)(extension + 1) > cursor.end)
			return -1;
		cursor.position += length_of(extension, protocol);
		if (cursor.position > cursor.end)
			return -1;
		length += length_of(extension, protocol);
		if (protocol == IPPROTO_FRAGMENT)
			fragment = length / 8;
		protocol = extension->next;
		if (fragment == length / 8 && is_later_fragment(extension))
			break;
	}
	return protocol << 22 | fragment << 11 | length / 8;
}

GLOBAL int extensions_xdp(struct xdp_md *ctx, __u32 offset, __u32 protocol)
{
	return walk_extensions(ctx, offset, protocol, HOOK_XDP);
}

GLOBAL int extensions_tc(struct __sk_buff *ctx, __u32 offset, __u32 protocol)
{
	return walk_extensions(ctx, offset, protocol, HOOK_TC);
}

#endif
