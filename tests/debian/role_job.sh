#!/bin/bash
# A director that Ansible reaches by ssh, with a client and a real server in namespaces:
# client 192.0.2.10 -- 192.0.2.1 director 10.0.0.254 -- 10.0.0.1 server
set -eu
until ls -d /sys/class/net/en* >/dev/null 2>&1; do sleep 0.2; done
outside=$(basename /sys/class/net/en*)
ip address add 10.0.2.15/24 dev "$outside"
ip link set "$outside" up
for side in client:front:192.0.2.1:192.0.2.10 server:back:10.0.0.254:10.0.0.1; do
	IFS=: read -r name device here there <<<"$side"
	ip netns add "$name"
	ip link add "$device" type veth peer name eth0 netns "$name"
	ip address add "$here/24" dev "$device"
	ip link set "$device" up
	ip -n "$name" address add "$there/24" dev eth0
	ip -n "$name" link set eth0 up
done
mkdir /run/served
echo "it is me" >/run/served/index.html
ip netns exec server python3 -m http.server --directory /run/served 80 >/dev/null 2>&1 &
until [ -e /run/enough ]; do sleep 0.5; done
