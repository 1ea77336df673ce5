"""The check of one server, from what its backend and its own words say."""

from collections.abc import Callable
from dataclasses import replace

from kernlb.checks.spec import (
    AgentProbe,
    Check,
    CommandProbe,
    Expect,
    Match,
    Probe,
    Send,
    SmtpProbe,
    TcpProbe,
    TlsOptions,
    TlsProbe,
)
from kernlb.formats.haproxy.settings import CheckKind, Proxy, ServerLine
from kernlb.formats.haproxy.values import PortKind
from kernlb.formats.report import Refused
from kernlb.model import IPAddress

# What HAProxy's own redis-check says.
_REDIS = (Send(data=b"*1\r\n$4\r\nPING\r\n"), Expect(match=Match(text=b"+PONG\r\n")))

Locate = Callable[[IPAddress | str], IPAddress]


def complain(backend: Proxy, line: ServerLine, *, verify_servers: bool) -> None:
    """Raises Refused for what HAProxy refuses in a server once its whole section is known."""
    options, rules = line.options, backend.checks
    if options.agent and options.agent_port is None:
        raise Refused(f"server {line.name!r} has an agent-check but no agent-port", hint="agent-port 8888")
    portless = line.place.port is not PortKind.RANGE and line.place.host is not None
    if options.check and portless and not (options.port or rules.port):
        raise Refused(f"server {line.name!r} has neither a port nor a check port", hint="add `port N`")
    verify = verify_servers if options.verify is None else options.verify
    if (options.tls or options.check_tls) and verify and options.ca_file is None:
        raise Refused(f"server {line.name!r} is to be verified without a ca-file", hint="ca-file FILE, or verify none")
    if options.check and rules.kind is CheckKind.COMMAND and not rules.command:
        raise Refused("option external-check needs `external-check command PROGRAM`")


def check(backend: Proxy, line: ServerLine, locate: Locate, *, verify_servers: bool) -> Check | None:
    """The check that `check` turns on; None without it."""
    options, rules = line.options, backend.checks
    if not options.check:
        return None
    tls = None
    if options.tls or options.check_tls or rules.tls:
        verify = verify_servers if options.verify is None else options.verify
        tls = TlsOptions(
            server_name=options.verifyhost or rules.sni or options.check_sni,
            verify=verify and options.ca_file is not None,
            ca_file=options.ca_file,
            alpn=options.check_alpn,
        )
    probe = _probe(backend, tls)
    return Check(
        probe=probe,
        interval=options.inter,
        timeout=_timeout(backend, options.inter, connect_only=probe == TcpProbe()),
        rise=options.rise,
        fall=options.fall,
        fast_interval=options.fastinter,
        down_interval=options.downinter,
        port=rules.port or options.port or None,
        address=None if options.addr is None else locate(options.addr),
        bind_address=backend.source[1] if backend.source else None,
    )


def agent(backend: Proxy, line: ServerLine, locate: Locate) -> Check | None:
    """The agent-check. One answer is enough for HAProxy to believe an agent."""
    options = line.options
    if not options.agent:
        return None
    return Check(
        probe=AgentProbe(send=options.agent_send.encode("utf-8", "surrogateescape")),
        interval=options.agent_inter or options.inter,
        rise=1,
        fall=1,
        port=options.agent_port,
        address=None if options.agent_addr is None else locate(options.agent_addr),
        bind_address=backend.source[1] if backend.source else None,
    )


def _timeout(backend: Proxy, inter: float, *, connect_only: bool) -> float | None:
    """None means the interval. With `timeout check` HAProxy limits the connect and the answer each by its own."""
    if "check" not in backend.timeouts:
        return None
    connect = min(backend.timeouts.get("connect", (0, inter))[1] or inter, inter)
    total = connect if connect_only else connect + backend.timeouts["check"][1]
    return None if total == inter or total <= 0 else total


def _probe(backend: Proxy, tls: TlsOptions | None) -> Probe:
    rules = backend.checks
    match rules.kind:
        case CheckKind.CONNECT:
            return TcpProbe(tls=tls)
        case CheckKind.HTTP:
            return replace(rules.http, tls=tls)
        case CheckKind.TCP:
            return TcpProbe(steps=rules.steps, tls=tls)
        case CheckKind.TLS:
            return TlsProbe(tls=TlsOptions(verify=False))
        case CheckKind.SMTP:
            return SmtpProbe(helo=rules.helo, tls=tls)
        case CheckKind.REDIS:
            return TcpProbe(steps=_REDIS, tls=tls)
        case CheckKind.COMMAND:
            listener = backend.binds[0].place if backend.binds else None
            address = str(listener.host) if listener else "NOT_USED"
            port = str(listener.first) if listener else "NOT_USED"
            return CommandProbe(argv=(rules.command, address, port, "{address}", "{port}"))
