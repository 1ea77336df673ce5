/* SPDX-License-Identifier: GPL-2.0 */
/* Every map of the program. Sizes are the smallest that load; kernlb sets them before loading. */
#ifndef KERNLB_MAPS_H
#define KERNLB_MAPS_H

#include "abi.h"

#ifdef SETTINGS
/* Compiled for one configuration: a feature that is off leaves no code. */
static const struct settings settings = SETTINGS;
#else
const volatile struct settings settings = {
	.abi_version = ABI_VERSION,
	.tick_shift = 8,
	.timeout = { 0, 30, 900, 120, 60, 300 },
	.ipv6 = 1,
	.fullnat = 1,
	.tunnel = 1,
	.transition = 1,
	.limits = 1,
	.step_shift = 2,
};
#endif

/* A map as helpers take it. */
#ifndef MAP
#define MAP(name) (&name)
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILTER_SIZE);
	__type(key, __u32);
	__type(value, __u32);
} filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct slots {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct slot_group));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct slots);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct server);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct source);
} sources SEC(".maps");

/* By interface: how replies leave through it, where not HOP_ADDRESSES. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct hop);
} links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE); /* userland forgets in place */
	__type(key, __u32);
	__type(value, struct memory_bucket);
} memories SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE); /* userland counts connections in place */
	__type(key, __u32);
	__type(value, struct flow_bucket);
} flows SEC(".maps");

struct lock {
	struct bpf_spin_lock lock;
};

/* A writer of a flow bucket holds the lock of its number; readers hold nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCKS);
	__type(key, __u32);
	__type(value, struct lock);
} locks SEC(".maps");

struct limit {
	struct bpf_spin_lock lock;
	__u32 live;
	__u32 step; /* the first that has not expired */
	__u16 full; /* the upper number was reached, and not yet the lower one */
	__u16 timeouts; /* userland's: which ones it was made for */
	__u32 ending[LIMIT_STEPS]; /* connections by the step at which they expire, if nothing is heard of them */
};

/* Userland makes one for each number that is configured, anew when timeouts change, and never writes to it otherwise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct limit);
} limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, __u32);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CAUSES);
	__type(key, __u32);
	__type(value, __u64);
} causes SEC(".maps");

/* One question at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct explanation);
} explanations SEC(".maps");

#endif
