/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Stands where BCC looks for the running kernel's headers, and is read before everything else. The program needs nothing
 * of the kernel but its user API, so BCC gets what its own helpers.h asks for, and no more; its other files are empty.
 */
#ifndef KERNLB_BCC_H
#define KERNLB_BCC_H

#include <linux/types.h>

#define CONFIG_BPF_SYSCALL 1
#define LINUX_VERSION_CODE 0x050a00
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define NULL ((void *)0)
#define bool _Bool
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))

typedef __u64 u64;
typedef __u32 u32;
typedef __u16 u16;
typedef __u8 u8;
typedef __s64 s64;
typedef __s32 s32;
typedef __s16 s16;
typedef __s8 s8;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;

#endif
