"""Which format a configuration is written in, by its content and never by its name: files are validated under any."""

import re
from enum import StrEnum


class Format(StrEnum):
    TOML = "toml"
    HAPROXY = "haproxy"
    KEEPALIVED = "keepalived"
    IPVSADM = "ipvsadm"


_IPVSADM = re.compile(r"(?:ipvsadm\s+)?(?:-[Aa]|--add-(?:service|server))\s")
_TOML = re.compile(r"\[{1,2}\s*[\w\"'.-][^\]]*\]{1,2}\s*(?:#.*)?$|[\w\"'.-]+\s*=")
_KEEPALIVED = re.compile(
    r"(?:global_defs|virtual_server|virtual_server_group|vrrp_\w+|static_\w+|track_\w+|bfd_instance|SSL|"
    r"net_namespace|include\w*|garp_group)\b[^=]*$|\$\w+="
)
_HAPROXY = re.compile(
    r"(?:global|defaults|frontend|backend|listen|userlist|resolvers|peers|mailers|cache|program|ring|http-errors|"
    r"log-forward|fcgi-app|crt-store|\.if|\.diag|\.notice|\.warning|\.alert)(?:\s|$)"
)


def detect(text: str) -> Format:
    """By the first line that says something. What is none of them is read as TOML, whose mistakes are then named."""
    for raw in text.splitlines():
        line = raw.strip().lstrip("\ufeff")
        if not line or line[0] in "#!":
            continue
        if _IPVSADM.match(line):
            return Format.IPVSADM
        if _KEEPALIVED.match(line) and not _TOML.match(line):
            return Format.KEEPALIVED
        if _HAPROXY.match(line) and not _TOML.match(line):
            return Format.HAPROXY
        return Format.TOML
    return Format.TOML
