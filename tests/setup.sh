#!/bin/bash
# Brings what a make target needs, and says so: Debian packages and Python's, the guest kernel.
# Usage: tests/setup.sh check|demo [ipvs]|test|bench|deb|vagrant. What is there is left alone; without root, what is missing is named.
set -euo pipefail
cd "$(dirname "$0")/.."

venv_packages=(python3 python3-venv)
build_packages=(clang dpkg libbpf-dev libc6-dev llvm make)
bpf_packages=(clang libbpf-dev libbpf1 libc6-dev llvm make)
demo_packages=(curl ipvsadm iproute2 iputils-ping kmod nftables)
guest_packages=(busybox-static kmod qemu-system-common qemu-system-x86)
test_packages=(bird2 bpftool clang conntrack ethtool frr gcc groff-base haproxy iputils-ping keepalived libbpf-dev libc6-dev llvm
	make mmdebstrap openssl procps python3-bpfcc shellcheck tcpdump user-mode-linux wrk)
vagrant_packages=(dnsmasq-base e2fsprogs extlinux fdisk iptables libvirt-clients libvirt-daemon-system mmdebstrap openssh-client
	qemu-utils slirp4netns syslinux-common vagrant vagrant-libvirt)

say() { echo "setup: $*"; }

has_ipvs() {
	[ -e /proc/net/ip_vs ] || modprobe --quiet ip_vs 2>/dev/null
	[ -e /proc/net/ip_vs ]
}

missing_packages() {
	local package
	for package; do
		[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
			echo "$package"
	done
}

# haproxy and keepalived are wanted as programs: their services stay off, as a policy of Debian's own allows.
without_services() {
	local policy=/usr/sbin/policy-rc.d status=0
	if [ -e "$policy" ]; then
		"$@"
		return
	fi
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	"$@" || status=$?
	rm -f "$policy"
	return "$status"
}

install_packages() {
	local missing
	mapfile -t missing < <(missing_packages "$@" | sort -u)
	[ "${#missing[@]}" -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ]; then
		say "not root, so left out: Debian packages ${missing[*]}"
		return 0
	fi
	say "installing Debian packages ${missing[*]}"
	apt-get update --quiet=2 -o DPkg::Lock::Timeout=300
	without_services env DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends \
		-o DPkg::Lock::Timeout=300 "${missing[@]}" </dev/null >/dev/null
}

install_python() { # EXTRA of pyproject.toml, or nothing
	local extra=${1:-} stamp
	stamp=.venv/installed${extra:+-$extra}
	[ "$stamp" -nt pyproject.toml ] && return
	install_packages "${venv_packages[@]}"
	if [ ! -x .venv/bin/pip ]; then
		say "creating .venv, which sees Debian's Python packages (python3-bpfcc is not on PyPI)"
		/usr/bin/python3 -m venv --system-site-packages .venv
	fi
	say "installing kernlb${extra:+[$extra]} into .venv"
	.venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore --editable ".${extra:+[$extra]}"
	touch "$stamp"
}

# The eBPF program, from source: an editable installation has no other.
build_program() {
	install_packages "${bpf_packages[@]}"
	if command -v clang >/dev/null; then
		make --silent -C bpf
	else
		say "no clang, so left out: the eBPF program"
	fi
}

prepare_guest() {
	has_ipvs && return
	say "kernel $(uname -r) has no IPVS: a guest kernel in QEMU will"
	install_packages "${guest_packages[@]}"
	.venv/bin/python -m tests.vm || say "no guest kernel, so left out: what needs IPVS"
}

case ${1:-} in
check)
	install_python test
	;;
deb)
	install_packages "${build_packages[@]}"
	install_python test
	;;
vagrant)
	install_packages "${build_packages[@]}" "${guest_packages[@]}" "${vagrant_packages[@]}"
	install_python test
	;;
demo)
	install_packages "${demo_packages[@]}"
	install_python
	build_program
	if [ "${2:-}" = ipvs ]; then prepare_guest; fi
	;;
test | bench)
	install_packages "${demo_packages[@]}" "${guest_packages[@]}" "${test_packages[@]}"
	install_python test
	if [ "$1" = test ]; then
		install_packages "${vagrant_packages[@]}"
		install_python ansible
	fi
	build_program
	if [ "$(id -u)" = 0 ]; then prepare_guest; else say "not root, so left out: what needs root, IPVS included"; fi
	;;
*)
	echo "usage: tests/setup.sh check|demo|test|bench|deb|vagrant" >&2
	exit 64
	;;
esac
