"""Which prober serves which kind of probe; each is made at its first use, so that unused libraries are never loaded."""

import resource
from importlib import import_module

from kernlb.checks.base import Late, Prober, Report, Target, unheeded
from kernlb.checks.spec import (
    AgentProbe,
    BfdProbe,
    CommandProbe,
    DnsProbe,
    FileProbe,
    GrpcProbe,
    HttpProbe,
    PingProbe,
    Probe,
    SmtpProbe,
    TcpProbe,
    TlsProbe,
    UdpProbe,
)

# Modules with a coroutine `talk`.
DIALOGUES: dict[type[Probe], str] = {
    TcpProbe: "script",
    HttpProbe: "http",
    TlsProbe: "tls",
    DnsProbe: "dns",
    UdpProbe: "udp",
    PingProbe: "ping",
    SmtpProbe: "smtp",
    GrpcProbe: "grpc",
    CommandProbe: "command",
    AgentProbe: "agent",
    FileProbe: "file",
}
SPARED = 512  # descriptors left to the rest of the program
PARALLEL = {"command": 64}  # processes weigh more than sockets


class Probers:
    """The probers of one event loop."""

    def __init__(self, report: Report, late: Late = unheeded) -> None:
        self._report = report
        self._late = late
        self._made: dict[str, Prober] = {}
        self._room = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARED, 64)

    def of(self, target: Target) -> Prober:
        probe = target.check.probe
        plain = type(probe) is TcpProbe and not probe.steps and probe.tls is None
        name = "tcp" if plain else "bfd" if type(probe) is BfdProbe else DIALOGUES[type(probe)]
        prober = self._made.get(name)
        return self._make(name) if prober is None else prober

    def _make(self, name: str) -> Prober:
        module = import_module(f"kernlb.checks.{name}")
        prober: Prober
        if name == "tcp":
            prober = module.TcpProber(self._report, descriptors=self._room * 3 // 4, late=self._late)
        elif name == "bfd":
            prober = module.BfdProber(self._report, most=self._room // 4)
        else:
            from kernlb.checks.dialogue import DialogueProber

            parallel = PARALLEL.get(name, min(2048, self._room // 16))
            prober = DialogueProber(module.talk, self._report, parallel=parallel, late=self._late)
        self._made[name] = prober
        return prober

    def close(self) -> None:
        for prober in self._made.values():
            prober.close()
