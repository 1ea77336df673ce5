/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which server a flow has had while its slot is in transition. A two-way bucketed array: it forgets what is oldest, and
 * what never got past its SYN before anything else. Every memory is one word, so there is nothing to lock.
 */
#ifndef KERNLB_MEMORY_H
#define KERNLB_MEMORY_H

#include "hash.h"
#include "hook.h"

static __always_inline __u64 memory_of(__u32 tag, __u32 server, __u32 state, __u32 now)
{
	return (__u64)tag << 32 | server << 16 | state << TICK_BITS | (now & TICK_MASK);
}

static __always_inline __u32 memory_tag(__u64 hash)
{
	return hash >> 32 | 1;
}

static __always_inline __u32 memory_server(__u64 memory)
{
	return (__u32)memory >> 16;
}

static __always_inline __u32 memory_state(__u64 memory)
{
	return memory >> TICK_BITS & 3;
}

static __always_inline __u32 memory_age(__u64 memory, __u32 now)
{
	return (now - (__u32)memory) & TICK_MASK;
}

struct recollection {
	__u64 *memory; /* of this flow, or NULL */
	__u32 bucket[2];
};



static __always_inline __u64 *find_memory(struct memory_bucket *bucket, __u32 tag)
{
	int i;

#pragma unroll
	for (i = 0; i < MEMORIES_PER_BUCKET; i++)
		if (bucket->memory[i] >> 32 == tag)
			return &bucket->memory[i];
	return NULL;
}

static __always_inline __u64 *recall_in(__u32 number, __u32 tag)
{
	struct memory_bucket *bucket = bpf_map_lookup_elem(MAP(memories), &number);

	return bucket ? find_memory(bucket, tag) : NULL;
}

static __always_inline void recall(__u64 hash, struct recollection *found)
{
	__u32 tag = memory_tag(hash);

	found->bucket[0] = hash & settings.memory_mask;
	found->bucket[1] = (found->bucket[0] ^ (tag * 0x9e3779b1 >> 8 | 1)) & settings.memory_mask;
	found->memory = recall_in(found->bucket[0], tag);
	if (!found->memory)
		found->memory = recall_in(found->bucket[1], tag);
}

/*
 * How gladly a memory is given up, its place in the low bits. Without branches: the verifier would walk each of the
 * 3^16 ways through two buckets.
 */
static __always_inline __u32 memory_waste(__u64 memory, __u32 now, __u32 idle, __u32 place)
{
	__u32 age = memory_age(memory, now), state = memory_state(memory);
	__u32 unused = (state - 1) >> 31 | (idle - age) >> 31;
	__u32 opening = ((state ^ MEMORY_OPENING) - 1) >> 31;

	return unused << 20 | opening << 18 | age << 4 | place;
}

static __always_inline __u32 larger(__u32 a, __u32 b)
{
	__u32 more = b - a;
	__u32 keep = more >> 31; /* 1: a is larger */

	/* Or else the compiler makes a branch of it. */
	asm volatile("" : "+r"(keep));
	return a + (more & (keep - 1));
}

static __always_inline __u32 least_needed(const struct memory_bucket *bucket, __u32 now, __u32 idle)
{
	__u32 most = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < MEMORIES_PER_BUCKET; i++)
		most = larger(most, memory_waste(bucket->memory[i], now, idle, i));
	return most;
}

/* Global, so that the verifier walks it once and not for every way that leads here. */
GLOBAL int remember(__u32 first, __u32 second, __u64 memory, __u32 idle)
{
	struct memory_bucket *bucket = bpf_map_lookup_elem(MAP(memories), &first);
	struct memory_bucket *other = bpf_map_lookup_elem(MAP(memories), &second);
	__u32 waste, alternative;

	if (!bucket || !other)
		return 0;
	waste = least_needed(bucket, memory, idle);
	if (!(waste >> 20)) {
		alternative = least_needed(other, memory, idle);
		if (alternative >> 4 > waste >> 4) {
			waste = alternative;
			bucket = other;
		}
	}
	bucket->memory[waste & (MEMORIES_PER_BUCKET - 1)] = memory;
	return 1;
}

#endif
