"""Which format a configuration is in, told by its content and never by its name."""

import re
from enum import StrEnum


class Format(StrEnum):
    TOML = "toml"
    HAPROXY = "haproxy"
    KEEPALIVED = "keepalived"
    IPVSADM = "ipvsadm"


# What the first line that says anything looks like; the first pattern that fits decides.
_SIGNS = (
    (Format.IPVSADM, re.compile(r"\s*-{1,2}[AaEe]\b|\s*--(add|edit)-\w+")),
    (Format.TOML, re.compile(r"\s*\[{1,2}[^]]+\]{1,2}\s*(#.*)?$|\s*[\w\"'.-]+\s*=")),
    (Format.KEEPALIVED, re.compile(r"\s*(\w+(\s+[^{}]+)?\s*\{|include\s|global_defs\b|\$\w+\s*=|@\w+)")),
    (
        Format.HAPROXY,
        re.compile(r"\s*(global|defaults|frontend|backend|listen|resolvers|userlist|peers|cache|program|ring)\b[^={]*$"),
    ),
)


def detect(text: str) -> Format:
    """The format of the first line that is neither blank nor comment; TOML where nothing fits, since its errors are
    kernlb's own to explain."""
    for line in text.splitlines():
        if line.strip() and line.lstrip()[0] not in "#!":
            return next((format for format, sign in _SIGNS if sign.match(line)), Format.TOML)
    return Format.TOML
