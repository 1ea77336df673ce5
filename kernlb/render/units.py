"""The units of the daemon and of the one shot at boot, with no more rights than they use."""

import re
from collections.abc import Iterable, Iterator

from kernlb.checks.spec import Check, CommandProbe
from kernlb.config.values import Config
from kernlb.render.options import Options, fill

PROGRAM = "/usr/bin/kernlb"
CAPABILITIES = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON")
# KILL, because a program of another user that takes too long must be ended.
_OTHER_USER = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=,-]+")


def service(config: Config, options: Options) -> str:
    """kernlb.service. Changing users is granted only where a command check names a user."""
    other_user = any(isinstance(c.probe, CommandProbe) and c.probe.user for c in _checks(config))
    return fill(
        "kernlb.service.j2",
        run=command([options.program or PROGRAM, "run", *options.arguments]),
        reload=command([options.program or PROGRAM, "reload"]),
        capabilities=[*CAPABILITIES, *(_OTHER_USER if other_user else ())],
        netns=None if options.namespace == "default" else options.namespace,
    )


def apply_service(config: Config, options: Options) -> str:
    """kernlb-apply.service: the only one that may load kernel modules."""
    return fill(
        "kernlb-apply.service.j2",
        apply=command([options.program or PROGRAM, "apply", *options.arguments]),
        capabilities=[*CAPABILITIES, "CAP_SYS_MODULE"],
        netns=None if options.namespace == "default" else options.namespace,
    )


def command(words: Iterable[str]) -> str:
    """A command line as systemd.service(5) reads it."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word.replace("%%", "").replace("$$", "") or "x"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checks(config: Config) -> Iterator[Check]:
    for each in config.services:
        for server in (*each.servers, *filter(None, (each.sorry_server,))):
            yield from server.probed
