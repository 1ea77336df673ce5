/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The contract between the program and kernlb: every key and value of every map, and the program's constants.
 * kernlb/engines/abi.py packs the same bytes; tests/bpf/test_abi.py compares the two through BTF.
 * ABI_VERSION changes with any of it: a newer program then takes over no flow of an older one.
 */
#ifndef KERNLB_ABI_H
#define KERNLB_ABI_H

#include <linux/types.h>

#define ABI_VERSION 3

/* Which destinations a packet may have to interest us at all; one byte of flags a hash value, false positives allowed. */
#define FILTER_SIZE 16384

enum filter {
	FILTER_SERVICE = 1, /* some service listens on such an address */
	FILTER_NAT = 2, /* full NAT flows arrive at such an address */
};

/* IPv4 addresses are written as ::ffff:a.b.c.d everywhere. */
struct address {
	__be32 word[4];
};

struct service_key {
	struct address address;
	__be16 port; /* 0: any port that no other service has */
	__u8 protocol;
	__u8 zero;
};

enum service_flag {
	SERVICE_SOURCE_HASH = 1, /* the client's address alone chooses the slot */
	SERVICE_TWO_CHOICES = 2, /* full NAT: of two servers a connection goes to the one that has fewer for its weight */
};

struct service {
	__u32 id; /* index into tables */
	__u32 slots;
	__u16 flags;
	__u16 idle; /* ticks; a flow silent for longer may be forgotten. At most TICK_MASK / 2 */
	__u32 connections; /* full NAT: no more at a time; 0: any number */
	__u32 together; /* no more of all services with such a limit together; 0: any number */
	__u16 limit; /* the number of its limit, which it may share with others */
	__u16 zero;
};

/*
 * A slot belongs to its current server. While it is in transition (previous != current) flows that were there before
 * keep the server they had; SLOT_TRACKED makes a slot track although both are the same server.
 */
#define SLOT_TRACKED 0x8000

struct slot {
	__u16 current;
	__u16 previous; /* | SLOT_TRACKED */
};

#define SLOTS_PER_GROUP 16

/* The inner map of a service: its groups of slots, then as many groups of ticks at which a slot last used a server that is not current. */
struct slot_group {
	union {
		struct slot slot[SLOTS_PER_GROUP];
		__u32 used[SLOTS_PER_GROUP];
	};
};

enum hop_method {
	HOP_UNRESOLVED = 0, /* no neighbour yet: the stack has the packet */
	HOP_ADDRESSES = 1, /* write the MAC addresses and send */
	HOP_NEIGHBOUR = 2, /* tc: the kernel's neighbour table by the next hop's address; XDP: as HOP_ADDRESSES */
	HOP_PEER = 3, /* tc: the other end of a veth, in its namespace; XDP: as HOP_ADDRESSES */
};

struct hop {
	__u32 interface; /* 0: where the packet came from */
	__u8 destination[6];
	__u8 source[6];
	__u16 mtu; /* 0: unlimited */
	__u8 method;
	__u8 zero;
};

enum forwarding {
	FORWARD_NOWHERE = 0, /* no such server: the stack has the packet */
	FORWARD_DIRECT = 1,
	FORWARD_IPIP = 2,
	FORWARD_GUE = 3,
	FORWARD_FULLNAT = 4,
};

enum server_flag {
	SERVER_DEAD = 1, /* its flows go elsewhere */
	SERVER_QUIESCED = 2, /* its flows stay, a connection that begins goes elsewhere */
	SERVER_IPV6 = 4, /* its address is; the outer header is IPv6 */
	SERVER_COUNTED = 8, /* full NAT: how many connections it has is known */
};

struct server {
	struct hop hop;
	__be16 port;
	__u8 forwarding;
	__u8 flags;
	__be16 tunnel_port;
	__u16 first_source; /* full NAT: index into sources */
	__u16 source_count;
	__u16 zero;
	struct address address;
	struct address source; /* outer source of a tunnel */
	struct address next; /* next hop for HOP_NEIGHBOUR */
	__u32 connections; /* full NAT: at so many it is passed over; 0: never */
	__u32 resume; /* until it has fewer than so many */
	__u32 weight; /* by which its connections are compared */
	__u32 rest;
	__u64 reserved[4]; /* two cache lines, aligned */
};

struct source {
	struct address address;
	__u16 first_port;
	__u16 port_count;
};

struct tuple {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u16 limit; /* in the key of a forward flow: its service's. No part of the comparison */
};

/* Order matters: the index into settings.timeout. */
enum flow_state {
	FLOW_FREE = 0,
	FLOW_OPENING = 1, /* SYN seen, nothing else from the client */
	FLOW_ESTABLISHED = 2,
	FLOW_CLOSING = 3, /* one FIN */
	FLOW_CLOSED = 4, /* both FIN, or RST: the tuple waits as long as the server's TIME_WAIT */
	FLOW_DATAGRAM = 5,
	FLOW_STATES = 6,
};

enum flow_flag {
	FLOW_FORWARD = 1, /* client to server */
	FLOW_CLIENT_FIN = 2,
	FLOW_SERVER_FIN = 4,
	FLOW_SERVER_FIRST = 8, /* the server closed first, so TIME_WAIT is the server's, unless a reset has ended it */
	FLOW_CLOCK = 16, /* the forward flow's clock is added to the client's timestamps */
	FLOW_TIMED = 32, /* the reverse flow's clock is the last timestamp that the server saw */
	FLOW_COUNTED = 64, /* in the limits of its service and server */
};

/* One direction of a full NAT connection: a packet with this key gets the other addresses, and leaves by hop. */
struct flow {
	struct tuple key;
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	struct hop hop; /* to the client; a server's own is in servers. Forward: the interface that the client comes in by */
	__u32 clock; /* FLOW_CLOCK, FLOW_TIMED */
	struct address next;
	__u32 seen; /* ticks */
	__u32 pair; /* bucket * FLOWS_PER_BUCKET + index of the other direction */
	__u16 server;
	__u8 state;
	__u8 flags;
};

#define FLOWS_PER_BUCKET 4

struct flow_bucket {
	struct flow flow[FLOWS_PER_BUCKET];
};

#define LOCKS 4096

/* What a limit counts; with the number of a service's limit, or of a server, it is the key of the limit. */
enum limit_kind {
	LIMIT_TOGETHER = 0,
	LIMIT_SERVICE = 1 << 16,
	LIMIT_SERVER = 2 << 16,
};

/* A limit's connections by when they expire; a step is 2^step_shift ticks, and the longest timeout fits. */
#define LIMIT_STEPS 256

/*
 * What is remembered of a flow through a slot in transition, in one word so that it is never half written:
 * tag 32, server 16, state 2, ticks 14.
 */
#define MEMORIES_PER_BUCKET 8
#define TICK_BITS 14
#define TICK_MASK ((1 << TICK_BITS) - 1)

enum memory_state {
	MEMORY_OPENING = 1, /* SYN seen: the first to be forgotten */
	MEMORY_ESTABLISHED = 2,
	MEMORY_CLOSING = 3, /* FIN or RST seen: a SYN begins a new flow */
};

struct memory_bucket {
	__u64 memory[MEMORIES_PER_BUCKET];
};

struct fragment_key {
	struct address source;
	struct address destination;
	__be32 identification;
	__u32 protocol;
};

struct traffic {
	__u64 flows;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 refused; /* no port, no room for the flow, no next hop */
};

/* Why a packet to one of our addresses went to the stack, or was answered or dropped. */
enum cause {
	CAUSE_MALFORMED = 0, /* headers cut short, lengths that contradict each other */
	CAUSE_EXTENSIONS, /* more IPv6 extension headers than we follow */
	CAUSE_FRAGMENT, /* a fragment whose server is not known, or of a full NAT flow */
	CAUSE_PROTOCOL, /* neither TCP, UDP nor ICMP */
	CAUSE_ICMP, /* echo and other ICMP that belongs to no flow */
	CAUSE_NO_SERVICE, /* one of our addresses, but no such port */
	CAUSE_NO_SERVER, /* the slot is empty, or its server went away */
	CAUSE_NO_FLOW, /* full NAT: a packet in the middle of a connection that we never saw */
	CAUSE_NO_PORT, /* full NAT: no port free at any source address */
	CAUSE_NO_ROOM, /* full NAT: no room in the flow table */
	CAUSE_NO_HOP, /* the next hop has no neighbour yet */
	CAUSE_TTL, /* would die here */
	CAUSE_FAMILY, /* the server is not reachable over this family */
	CAUSE_TOO_BIG, /* answered with packet too big */
	CAUSE_ROOM, /* the driver had no room for an outer header */
	CAUSE_LIMIT, /* full NAT: too many connections; answered with a reset, datagrams dropped */
	CAUSES,
};

/* Constants of a loaded program (.rodata). Where a feature is off the verifier removes its code. */
struct settings {
	__u32 abi_version;
	__u32 tick_shift; /* a tick is 2^tick_shift jiffies */
	__u32 memory_mask; /* buckets - 1 */
	__u32 flow_mask; /* buckets - 1 */
	__u64 secret; /* of the flow tables; differs from gateway to gateway */
	__u32 timeout[FLOW_STATES]; /* ticks */
	__u8 ipv6;
	__u8 fullnat;
	__u8 tunnel;
	__u8 transition;
	__u8 limits;
	__u8 step_shift;
};

/* What the program would do, for `kernlb explain`. */
enum reason {
	REASON_NONE = 0,
	REASON_STEADY, /* the slot has one server */
	REASON_REMEMBERED, /* the flow is in the memory */
	REASON_NEW, /* begins in a slot in transition: the current server */
	REASON_BEFORE, /* was there before the transition: the previous server */
	REASON_FLOW, /* a full NAT flow */
	REASON_FEWER, /* of two servers it has fewer connections for its weight */
};

struct explanation {
	__u32 service;
	__u32 slot;
	__u32 hash;
	__u16 current;
	__u16 previous;
	__u16 server;
	__u8 reason;
	__u8 cause; /* CAUSES: none */
};

#endif
