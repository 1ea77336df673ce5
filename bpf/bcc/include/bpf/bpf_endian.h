/* SPDX-License-Identifier: GPL-2.0 */
/* libbpf's names; BCC has functions for them. */
#ifndef KERNLB_BCC_ENDIAN_H
#define KERNLB_BCC_ENDIAN_H

#undef bpf_htons
#undef bpf_ntohs
#undef bpf_htonl
#undef bpf_ntohl

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htons(x) ((__be16)((__u16)(x) << 8 | (__u16)(x) >> 8))
#define bpf_htonl(x) ((__be32)__builtin_bswap32(x))
#else
#define bpf_htons(x) ((__be16)(x))
#define bpf_htonl(x) ((__be32)(x))
#endif
#define bpf_ntohs(x) ((__u16)bpf_htons(x))
#define bpf_ntohl(x) ((__u32)bpf_htonl(x))

#endif
