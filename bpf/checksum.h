/* SPDX-License-Identifier: GPL-2.0 */
/* Internet checksums, whole and incremental (RFC 1071, RFC 1624). */
#ifndef KERNLB_CHECKSUM_H
#define KERNLB_CHECKSUM_H

#include "abi.h"

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 change(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline __u16 changed(__u16 check, __u64 difference)
{
	return ~fold((__u16)~check + difference);
}

#endif
