/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What libbpf's header of this name gives, for BCC. BCC links nothing: static functions are inlined, calls of global
 * ones and maps are numbers that the loader replaces (kernlb/engines/linking.py).
 */
#ifndef KERNLB_BCC_HELPERS_H
#define KERNLB_BCC_HELPERS_H

#undef SEC
#define SEC(name) __attribute__((section(name), used))
#undef __noinline
#define __noinline __always_inline
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]

#define MAP(name) ((void *)bpf_pseudo_fd(1, MAP_##name)) /* 1: BPF_PSEUDO_MAP_FD */

/* BCC's own declaration lacks the flags. */
static long (*redirect_neigh)(__u32 interface, struct bpf_redir_neigh *next, int length,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;
#define bpf_redirect_neigh redirect_neigh

#endif
