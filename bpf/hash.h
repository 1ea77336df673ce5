/* SPDX-License-Identifier: GPL-2.0 */
/* The hash of a flow. Every gateway computes the same one, and so does kernlb/hashing.py (flow_hash). */
#ifndef KERNLB_HASH_H
#define KERNLB_HASH_H

#include "abi.h"

#define MIX_1 0x9e3779b97f4a7c15ULL
#define MIX_2 0xd6e8feb86659fd93ULL

/* A bijection: flows that differ in what goes in differ in what comes out. */
static __always_inline __u64 mix(__u64 x)
{
	x ^= x >> 32;
	x *= MIX_1;
	x ^= x >> 29;
	x *= MIX_2;
	return x ^ x >> 32;
}

static __always_inline __u64 pair_of_words(__be32 high, __be32 low)
{
	return (__u64)high << 32 | low;
}

static __always_inline __u32 ports_of(const struct tuple *tuple)
{
	return (__u32)tuple->destination_port << 16 | tuple->source_port;
}

/* source_only: a client keeps its slot whatever its port. */
static __always_inline __u64 flow_hash(const struct tuple *tuple, const _Bool ipv6, _Bool source_only)
{
	const __be32 *source = tuple->source.word;
	const __be32 *destination = tuple->destination.word;
	__u64 x;

	if (ipv6) {
		x = (pair_of_words(source[0], source[1]) ^ MIX_2) * MIX_1;
		x = ((x ^ x >> 32) + pair_of_words(source[2], source[3])) * MIX_2;
		if (source_only)
			return mix(x);
		x = ((x ^ x >> 29) + pair_of_words(destination[0], destination[1])) * MIX_1;
		x = ((x ^ x >> 32) + pair_of_words(destination[2], destination[3])) * MIX_2;
		x = (x ^ x >> 29) + ((__u64)tuple->protocol << 32 | ports_of(tuple));
	} else {
		if (source_only)
			return mix(source[3]);
		x = pair_of_words(source[3], ports_of(tuple)) + pair_of_words(tuple->protocol, destination[3]) * MIX_2;
	}
	return mix(x);
}

#endif
