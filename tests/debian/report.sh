# shellcheck shell=bash
# What the scripts that run in a booted guest share. Each reports lines "step: what was seen".
say() { echo "$1: $(echo "${*:2}" | tr -s ' \n' ' ')"; }

until_true() { # SECONDS COMMAND [ARGUMENT...]
	local end=$((SECONDS + $1))
	until "${@:2}" >/dev/null 2>&1 || [ "$SECONDS" -ge "$end" ]; do sleep 0.5; done
}

table() { grep -v '^IP Virtual\|^Prot\|RemoteAddress' /proc/net/ip_vs; }

pid() { systemctl show --property MainPID --value kernlb.service; }
