#!/bin/bash
# First process of a lab: libvirtd in mount, network and process namespaces of its own. Nothing of the machine changes:
# libvirt's places are directories of DIR, its bridges and rules live here, and all ends when this process does.
set -euo pipefail
directory=$1
mount --make-rprivate /
mkdir -p /run/lab-cgroup
mount --rbind /sys/fs/cgroup /run/lab-cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/lab-cgroup /sys/fs/cgroup
cp -a /etc/libvirt "$directory/etc"
rm -rf "$directory/etc/qemu/networks/autostart"
cat >"$directory/etc/qemu.conf" <<'CONF'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
CONF
cat >"$directory/etc/libvirtd.conf" <<'CONF'
unix_sock_group = "root"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
CONF
for place in etc:/etc/libvirt lib:/var/lib/libvirt run:/run/libvirt cache:/var/cache/libvirt log:/var/log/libvirt; do
	mkdir -p "$directory/${place%%:*}" "${place#*:}"
	mount --bind "$directory/${place%%:*}" "${place#*:}"
done
ip link set lo up
# Not the first process itself: that one takes in what others leave behind.
libvirtd --pid-file "$directory/libvirtd.pid" &
wait
