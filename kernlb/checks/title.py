"""What people call a check, in a word or a few: which one of several it was. Pure."""

from pathlib import PurePath

from kernlb.checks.spec import Check, CommandProbe, DnsProbe, FileProbe, GrpcProbe, HttpProbe, Probe


def title(check: Check) -> str:
    """`http /healthz`, `tcp port 9090`, `dns example.org at 10.0.0.9`."""
    words = [_kind(check.probe), _about(check.probe)]
    if check.address is not None:
        words.append(f"at {check.address}")
    if check.port is not None:
        words.append(f"port {check.port}")
    return " ".join(word for word in words if word)


def _kind(probe: Probe) -> str:
    if isinstance(probe, HttpProbe):
        return "https" if probe.tls else "http"
    return type(probe).__name__.removesuffix("Probe").lower()


def _about(probe: Probe) -> str:
    match probe:
        case HttpProbe(host=host, path=path):
            return f"{host or ''}{path}"
        case FileProbe(path=path):
            return path
        case CommandProbe(argv=argv):
            return PurePath(argv[0]).name
        case DnsProbe(name=name):
            return name
        case GrpcProbe(service=service):
            return service
        case _:
            return ""
