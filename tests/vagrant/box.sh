#!/bin/bash
# box.sh FILE PACKAGES [MIRROR]: a Vagrant box for libvirt from Debian's archive alone, where no box server is reached.
# It promises what debian/bookworm64 does: user vagrant with Vagrant's well-known key and sudo, sshd, DHCP on eth0.
set -euo pipefail
suite=bookworm
# Without a MIRROR mmdebstrap takes its own; the box keeps what it took.
file=$1 packages=$2 mirror=("${@:3}")
key=$(find / -xdev -path '*/vagrant-*/keys/vagrant.pub' -print -quit)
work=$(mktemp -d "$file.XXXXXX")
loop=
root=$work/root
finish() {
	! mountpoint -q "$root" || umount "$root"
	[ -z "$loop" ] || losetup -d "$loop"
	rm -rf "$work"
}
trap finish EXIT
mkdir "$root"

packages+=,ca-certificates,dbus,ifupdown,initramfs-tools,iproute2,iputils-ping,isc-dhcp-client,kmod
packages+=,linux-image-cloud-amd64,openssh-server,procps,python3,python3-apt,sudo,systemd-sysv,udev,zstd
# Only what finds the disk: an emulated machine unpacks it sooner. mmdebstrap gives the hook its root as $1.
# shellcheck disable=SC2016
few='mkdir -p "$1/usr/share/initramfs-tools/modules.d" "$1/etc/initramfs-tools/conf.d"
	echo MODULES=list >"$1/etc/initramfs-tools/conf.d/few"
	printf "%s\n" virtio_pci virtio_blk ext4 crc32c_generic >"$1/usr/share/initramfs-tools/modules.d/few"'
mmdebstrap --quiet --variant=minbase --format=tar --include="$packages" --essential-hook="$few" \
	--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io --skip=cleanup/apt/lists \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	"$suite" "$work/root.tar" "${mirror[@]}"

truncate -s 8G "$work/disk"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q "$work/disk"
loop=$(losetup --find --show --offset $((2048 * 512)) "$work/disk")
mkfs.ext4 -q -O '^64bit,^metadata_csum' -L root "$loop" # extlinux reads no other
mount "$loop" "$root"
tar -C "$root" --numeric-owner --xattrs --xattrs-include='*' -xf "$work/root.tar"

chroot "$root" useradd --create-home --shell /bin/bash vagrant
install -d -m 700 -o 1000 -g 1000 "$root/home/vagrant/.ssh"
install -m 600 -o 1000 -g 1000 "$key" "$root/home/vagrant/.ssh/authorized_keys"
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
printf 'UseDNS no\nGSSAPIAuthentication no\nHostKey /etc/ssh/ssh_host_ed25519_key\n' \
	>"$root/etc/ssh/sshd_config.d/vagrant.conf"
echo box >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 box\n' >"$root/etc/hosts"
echo 'LABEL=root / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
# Each machine is itself: host keys and machine-id are made by its first boot.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/hostkeys.service" <<'UNIT'
[Unit]
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl -q enable hostkeys.service ssh.service
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer man-db.timer
# Only what Ansible starts.
chroot "$root" systemctl -q disable keepalived.service

mkdir -p "$root/boot/extlinux"
cat >"$root/boot/extlinux/extlinux.conf" <<'BOOT'
DEFAULT linux
PROMPT 0
TIMEOUT 1
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND root=LABEL=root ro net.ifnames=0 biosdevname=0 console=tty0 console=ttyS0,115200 quiet mitigations=off
BOOT
extlinux --install "$root/boot/extlinux" >/dev/null 2>&1
rm -rf "$root"/var/cache/apt/archives/*.deb
umount "$root"
losetup -d "$loop"
loop=
dd if=/usr/lib/EXTLINUX/mbr.bin of="$work/disk" conv=notrunc bs=440 count=1 status=none
qemu-img convert -O qcow2 "$work/disk" "$work/box.img"
rm "$work/disk"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 8}' >"$work/metadata.json"
echo 'Vagrant.configure("2") { |config| }' >"$work/Vagrantfile"
tar -C "$work" -cf "$work/box" metadata.json Vagrantfile box.img
mv "$work/box" "$file"
