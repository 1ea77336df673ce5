#!/bin/bash
# The package upgraded, removed and installed again while a client asks through the VIP; then purged.
set -u
# shellcheck source=tests/debian/report.sh
. /report.sh

wire() { # NAMESPACE ADDRESS DEVICE-OF-THE-DIRECTOR ITS-ADDRESS
	ip netns add "$1"
	ip link add "$3" type veth peer name eth0 netns "$1"
	ip address add "$4/24" dev "$3"
	ip link set "$3" up
	ip -n "$1" link set lo up
	ip -n "$1" address add "$2/24" dev eth0
	ip -n "$1" link set eth0 up
}

wire client 192.0.2.10 front 192.0.2.1
wire server 10.0.0.1 back 10.0.0.254
ip -n client route add default via 192.0.2.1
cd /load || exit
ip netns exec server python3 -B -c 'from kernlb.demo.http import serve; serve("s1", "10.0.0.1", 80)' &

up() { kernlb status --json >/run/status && grep -q '"status": "up"' /run/status; }
until_true 500 systemctl is-active kernlb.service
until_true 120 up
say up "$(tr -d '\n' </run/status)"
say granted "$(grep CapEff "/proc/$(pid)/status")"

ip netns exec client python3 -B load.py 203.0.113.10 80 5 >/run/load &
load=$!
until_true 60 test -s /run/load
steps() { # NAME COMMAND...: the command, and what the load had seen by then
	"${@:2}" >/run/step 2>&1
	local status=$?
	[ "$status" = 0 ] || cat /run/step >&2
	say "$1" "$status" "$(systemctl is-active kernlb.service)" "$(table | grep -c 0A000001:0050)"
}
old=$(pid)
steps upgraded dpkg --install /next.deb
another() { [ "$(pid)" != "$old" ] && systemctl is-active kernlb.service; }
until_true 120 another
say restarted "$(dpkg-query --show --showformat='${Version}' kernlb)" "$(another)"
steps removed dpkg --remove kernlb
sleep 5
steps installed dpkg --install /kernlb.deb
until_true 120 systemctl is-active kernlb.service
say back "$(systemctl is-active kernlb.service)"
sleep 3
kill -TERM "$load"
wait "$load"
say load "$(tail -n 1 /run/load)"
steps purged dpkg --purge kernlb
say left "$(table; nft list tables; ip -brief address show to 203.0.113.10; ls -d /sys/fs/bpf/kernlb /var/lib/kernlb)"
journalctl --no-pager --unit kernlb.service --unit kernlb-apply.service >&2
