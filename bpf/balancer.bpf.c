// SPDX-License-Identifier: GPL-2.0
/*
 * The balancer: parse, decide, rewrite, send. One source for XDP, for tc, and for `kernlb explain`.
 * What is not understood belongs to the kernel's stack, and is counted by cause.
 */
#include "abi.h"
#include "forward.h"
#include "fragments.h"
#include "gather.h"
#include "hook.h"
#include "open.h"
#include "parse.h"
#include "related.h"
#include "reset.h"
#include "table.h"
#include "toobig.h"
#include "traffic.h"

static __always_inline int follow(void *ctx, struct packet *packet, struct flow *flow, const enum hook hook, const _Bool ipv6)
{
	_Bool outward = !(flow->flags & FLOW_FORWARD);
	const struct address *next = &flow->next;
	const struct hop *hop = &flow->hop;

	if (!outward) {
		struct server *server = server_of(flow->server);

		if (unlikely(!server || server->flags & SERVER_DEAD))
			return refuse(flow->server, hook, CAUSE_NO_SERVER);
		hop = &server->hop;
		next = &server->next;
		if (unlikely(hop->method == HOP_UNRESOLVED))
			return refuse(flow->server, hook, CAUSE_NO_HOP);
	}
	if (exceeds(ctx, packet, 0, hop, hook) && !packet->related)
		return answer_too_big(ctx, packet, hop->mtu, hook, ipv6);
	account(flow->server, packet->length, begins(packet), outward);
	if (unlikely(packet->related))
		return translate_related(ctx, packet->network, flow, hop, next, hook, ipv6);
	return translate(ctx, packet, flow, hop, next, hook, ipv6);
}

/* The first packet of a connection within a tick. */
static __always_inline void heard_again(void *ctx, const struct flow *flow, const enum hook hook)
{
	__u32 came = flow->flags & FLOW_FORWARD ? interface(ctx, hook) : 0;

	if (hook == HOOK_TC)
		follow_routes_tc(ctx, flow->pair, came);
	else
		follow_routes_xdp(ctx, flow->pair, came);
}

/* A flow that is known goes on, unless its port is another's, or this packet would begin it anew and its server takes no more. */
static __always_inline _Bool continues(void *ctx, const struct packet *packet, struct flow *flow, const enum hook hook)
{
	__u32 now = ticks(), before = flow->seen;

	if (unlikely(packet->related))
		return !(flow->flags & FLOW_FORWARD) || pair_of(flow);
	if (unlikely(begins(packet) && flow->flags & FLOW_FORWARD)) {
		if (!flow_reopened(flow, now))
			return 0;
		if (flow->seen != before)
			heard_again(ctx, flow, hook);
		return 1;
	}
	if (unlikely(flow->state == FLOW_DATAGRAM && flow->flags & FLOW_FORWARD)) {
		struct server *server = server_of(flow->server);

		if (!server || server->flags & SERVER_DEAD || server->forwarding != FORWARD_FULLNAT ||
		    expired(flow, now)) {
			release(flow);
			return 0;
		}
	}
	if (unlikely(before != now || flow->state == FLOW_OPENING || packet->flags & (TCP_FIN | TCP_RST))) {
		if (!flow_advanced(flow, packet->flags, now))
			return 0;
		if (flow->seen != before)
			heard_again(ctx, flow, hook);
	}
	if (unlikely((flow->state == FLOW_CLOSING || flow->state == FLOW_CLOSED) && flow->flags & FLOW_FORWARD))
		note_clock(ctx, packet->transport, flow, hook);
	return 1;
}

static __always_inline struct flow *begin(void *ctx, const struct packet *packet, const struct choice *choice, __u64 hash,
					  __u16 limit, const enum hook hook, __u32 *cause)
{
	struct opening *opening = current_opening();
	struct ethhdr *ethernet;

	if (!opening)
		return NULL;
	opening->tuple = packet->tuple;
	opening->hash = hash;
	opening->server = choice->id;
	opening->now = ticks();
	opening->limit = limit;
	opening->timed = opening->shifted = 0;
	opening->clock = 0;
	if (packet->tuple.protocol == IPPROTO_TCP) {
		_Bool odd;
		struct timestamps *found = timestamps_of(ctx, packet->transport, &odd, hook);

		opening->timed = !!found;
		opening->timestamp = found ? read_word(found->value) : 0;
	}
	ethernet = data(ctx, hook);
	if ((void *)(ethernet + 1) > data_end(ctx, hook))
		return NULL;
	opening->first_source = choice->server->first_source;
	opening->source_count = choice->server->source_count;
	opening->datagram = packet->tuple.protocol == IPPROTO_UDP;
	__builtin_memcpy(opening->back.destination, ethernet->h_source, 6);
	__builtin_memcpy(opening->back.source, ethernet->h_dest, 6);
	find_way_back(ctx, opening, hook);
	return open_flow(opening, choice->server, cause);
}

static __always_inline int balance(void *ctx, struct cursor *cursor, __u32 network, const enum hook hook,
				   const _Bool ipv6)
{
	struct packet packet = { .network = network };
	struct service *service;
	struct choice choice;
	__u32 cause = CAUSE_NO_ROOM, expiry = NO_STEP;
	struct flow *flow;
	__u64 hash;
	int parsed;

	parsed = ipv6 ? parse_ipv6(ctx, cursor, &packet, hook) : parse_ipv4(cursor, &packet, hook);
	if (parsed == PARSED_OTHER)
		return passed(hook);
	if (unlikely(parsed < CAUSES))
		return pass(hook, parsed);
	/* The tail may lie in fragments of the buffer, beyond data_end. */
	if (hook == HOOK_TC && unlikely(network + packet.length > skb_of(ctx)->len))
		return pass(hook, CAUSE_MALFORMED);
	if (unlikely(packet.fragment && !packet.first)) {
		if (!recall_fragment(&packet, &choice))
			return pass(hook, CAUSE_FRAGMENT);
		hash = packet.identification;
		goto deliver;
	}
	hash = flow_hash(&packet.tuple, ipv6, 0);
	if (settings.fullnat && packet.filter & FILTER_NAT && !packet.fragment) {
		flow = find_flow(&packet.tuple, hash, ipv6);
		if (flow && hook == HOOK_EXPLAIN && flow->state == FLOW_CLOSED && begins(&packet) && leads_elsewhere(flow))
			flow = NULL;
		if (flow && hook == HOOK_EXPLAIN) {
			struct explanation *why = explanation();

			if (why) {
				why->server = flow->server;
				why->reason = REASON_FLOW;
			}
			return passed(hook);
		}
		if (flow && continues(ctx, &packet, flow, hook))
			return follow(ctx, &packet, flow, hook, ipv6);
	}
	if (!(packet.filter & FILTER_SERVICE))
		return pass(hook, CAUSE_NO_FLOW);
	service = find_service(&packet.tuple);
	if (unlikely(!service))
		return pass(hook, CAUSE_NO_SERVICE);
	if (unlikely(!choose(service, &packet, hash, hook, &choice)))
		return pass(hook, CAUSE_NO_SERVER);
	if (settings.limits && service->flags & SERVICE_TWO_CHOICES && choice.server->forwarding == FORWARD_FULLNAT &&
	    (packet.tuple.protocol == IPPROTO_UDP || begins(&packet)) && !packet.related &&
	    !choose_fewer(service, hash, hook, &choice))
		return pass(hook, CAUSE_NO_SERVER);
	if (hook == HOOK_EXPLAIN) {
		if (choice.server->hop.method == HOP_UNRESOLVED)
			return pass(hook, CAUSE_NO_HOP);
		if (settings.fullnat && choice.server->forwarding == FORWARD_FULLNAT &&
		    packet.tuple.protocol == IPPROTO_TCP && !begins(&packet))
			return pass(hook, CAUSE_NO_FLOW);
		return passed(hook);
	}
	if (!settings.fullnat || choice.server->forwarding != FORWARD_FULLNAT) {
		if (unlikely(packet.fragment))
			remember_fragment(&packet, choice.id);
		goto deliver;
	}
	if (packet.fragment)
		return pass(hook, CAUSE_FRAGMENT);
	if (packet.related || (packet.tuple.protocol == IPPROTO_TCP && !begins(&packet)))
		return pass(hook, CAUSE_NO_FLOW);
	if (ipv6 != !!(choice.server->flags & SERVER_IPV6))
		return refuse(choice.id, hook, CAUSE_FAMILY);
	if (choice.server->hop.method == HOP_UNRESOLVED)
		return refuse(choice.id, hook, CAUSE_NO_HOP);
	if (settings.limits) {
		expiry = step_of(ticks() + timeout_of(packet.tuple.protocol == IPPROTO_TCP ? FLOW_OPENING : FLOW_DATAGRAM));
		if (unlikely(!admit(service, &choice, hash, expiry))) {
			refuse(choice.id, hook, CAUSE_LIMIT);
			return packet.tuple.protocol == IPPROTO_TCP ? answer_reset(ctx, &packet, hook, ipv6) : dropped(hook);
		}
	}
	/* The server stands now. What does not fit the way to it gives back the place that it was counted in. */
	if (exceeds(ctx, &packet, 0, &choice.server->hop, hook)) {
		if (settings.limits)
			move_in_limits(service->limit, choice.id, expiry, NO_STEP);
		return answer_too_big(ctx, &packet, choice.server->hop.mtu, hook, ipv6);
	}
	flow = begin(ctx, &packet, &choice, hash, service->limit, hook, &cause);
	if (!flow) {
		if (settings.limits)
			move_in_limits(service->limit, choice.id, expiry, NO_STEP);
		refuse(choice.id, hook, cause);
		/* A SYN is sent again, when there may be room: the stack would refuse it for good. */
		return cause == CAUSE_NO_ROOM && packet.tuple.protocol == IPPROTO_TCP ? dropped(hook) : passed(hook);
	}
	account(choice.id, packet.length, 1, 0);
	return translate(ctx, &packet, flow, &choice.server->hop, &choice.server->next, hook, ipv6);
deliver:
	if (hook == HOOK_EXPLAIN)
		return passed(hook);
	if (hook == HOOK_TC)
		return ipv6 ? forward_ipv6_tc(ctx, choice.id, outline(&packet), hash) :
			      forward_ipv4_tc(ctx, choice.id, outline(&packet), hash);
	return ipv6 ? forward_ipv6_xdp(ctx, choice.id, outline(&packet), hash) :
		      forward_ipv4_xdp(ctx, choice.id, outline(&packet), hash);
}

static __always_inline int received(void *ctx, const enum hook hook)
{
	struct cursor cursor = { .position = data(ctx, hook), .end = data_end(ctx, hook) };
	struct ethhdr *ethernet = take(&cursor, sizeof(*ethernet));
	__u32 network;
	__be16 type;
	int i;

	if (!ethernet)
		return passed(hook);
	type = ethernet->h_proto;
#pragma unroll
	for (i = 0; i < VLAN_TAGS; i++) {
		struct vlan *vlan;

		if (likely(!is_vlan(type)))
			break;
		vlan = take(&cursor, sizeof(*vlan));
		if (!vlan)
			return passed(hook);
		type = vlan->type;
	}
	/* A number that the verifier does not know: with tags and without is one case to it. */
	network = (cursor.position - data(ctx, hook)) & 0x1f;
	cursor.position = data(ctx, hook) + network;
	if (type == bpf_htons(ETH_P_IP))
		return balance(ctx, &cursor, network, hook, 0);
	if (settings.ipv6 && type == bpf_htons(ETH_P_IPV6))
		return balance(ctx, &cursor, network, hook, 1);
	return passed(hook);
}

SEC("xdp")
int balancer_xdp(struct xdp_md *ctx)
{
	return received(ctx, HOOK_XDP);
}

SEC("tc")
int balancer_tc(struct __sk_buff *skb)
{
	__u32 linear = data_end(skb, HOOK_TC) - data(skb, HOOK_TC), length = skb_of(skb)->len;

	if (unlikely(linear < PLAIN_HEADERS) && bpf_skb_pull_data(skb, length < PLAIN_HEADERS ? length : PLAIN_HEADERS))
		return TC_NEXT;
	if (linear < ALL_HEADERS && unlikely(linear < length) && gather_headers(skb))
		return TC_NEXT;
	return received(skb, HOOK_TC);
}

SEC("xdp")
int balancer_explain(struct xdp_md *ctx)
{
	struct explanation *why = explanation();

	if (!why)
		return XDP_PASS;
	__builtin_memset(why, 0, sizeof(*why));
	why->cause = CAUSES;
	return received(ctx, HOOK_EXPLAIN);
}

char our_license[] SEC("license") = "GPL";
