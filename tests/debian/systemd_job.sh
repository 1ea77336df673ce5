#!/bin/bash
# What the shipped units do under a real systemd, step by step, as lines "step: what was seen". The package is installed.
set -u
# shellcheck source=tests/debian/report.sh
. /report.sh

until_true 500 systemctl is-active kernlb.service
say active "$(systemctl is-active kernlb.service kernlb-apply.service)"
until_true 60 test -s /run/kernlb/capabilities
say daemon "$(grep CapEff "/proc/$(pid)/status")"
say check "$(cat /run/kernlb/capabilities)"
say table "$(table)"
say vip "$(ip -brief address show dev lo)"
say track "$(cat /run/kernlb/default/track)"
say nft "$(nft list table inet kernlb | grep -c chain)"

sysctl -qw net.ipv4.vs.expire_nodest_conn=0
repaired() { [ "$(sysctl -n net.ipv4.vs.expire_nodest_conn)" = 1 ]; }
until_true 90 repaired
say repaired "$(sysctl -n net.ipv4.vs.expire_nodest_conn)"

sed -i 's/weight = 3/weight = 5/' /etc/kernlb/kernlb.toml
systemctl reload kernlb.service
say reload "$?" "$(table)"
say shown "$(kernlb show --json)"

before=$(table)
systemctl restart kernlb.service
say restart "$(systemctl is-active kernlb.service)" "$([ "$before" = "$(table)" ] && echo same)"

old=$(pid)
kill -STOP "$old"
another() { [ "$(pid)" != "$old" ] && systemctl is-active kernlb.service; }
until_true 90 another
say watchdog "$(systemctl show --property NRestarts --value kernlb.service)" "$(systemctl is-active kernlb.service)" \
	"$([ "$before" = "$(table)" ] && echo same)"

systemctl stop kernlb.service
say stopped "$(systemctl is-active kernlb.service)" "$([ "$before" = "$(table)" ] && echo same)"
journalctl --no-pager --unit kernlb.service --unit kernlb-apply.service >&2
