#!/bin/bash
# alone.sh CONFIGURATION LOAD VIP NAME=PORT...: balances these services for a client, until it has asked each of them.
#   client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1 real server
set -euo pipefail
configuration=$1 load=$2 vip=$3
services=("${@:4}")
ports=("${services[@]#*=}")
export PYTHONPATH=/usr/lib/kernlb
server=
finish() {
	[ -z "$server" ] || kill "$server"
	ip netns del alone-client
	ip netns del alone-server
	kernlb reload
}
trap 'finish >&2' EXIT

for side in client:192.0.2.1:192.0.2.10 server:10.0.0.254:10.0.0.1; do
	IFS=: read -r name here there <<<"$side"
	ip netns add "alone-$name"
	ip link add "alone-$name" type veth peer name eth0 netns "alone-$name"
	ip address add "$here/24" dev "alone-$name"
	ip link set "alone-$name" up
	ip -n "alone-$name" address add "$there/24" dev eth0
	ip -n "alone-$name" link set eth0 up
	ip -n "alone-$name" route add default via "$here"
done
ip netns exec alone-server python3 "$load" serve alone "${ports[@]}" >&2 &
server=$!
for port in "${ports[@]}"; do
	# shellcheck disable=SC2016
	timeout 60 bash -c 'until (: <"/dev/tcp/10.0.0.1/$0") 2>/dev/null; do sleep 0.2; done' "$port"
done
kernlb apply --temporary "$configuration" >&2
ip netns exec alone-client python3 "$load" ask "$vip" 4 "${services[@]}"
