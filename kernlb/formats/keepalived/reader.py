"""The virtual servers of a keepalived.conf as a Config. What belongs to VRRP stays with keepalived, and is so named."""

import pwd
from collections.abc import Callable, Iterator
from dataclasses import replace

from kernlb.checks.spec import HEAVIEST
from kernlb.config.values import AddressBind, Bind, Config, MarkBind, OnFailure, Server, Service
from kernlb.formats.ipvsadm import service_name
from kernlb.formats.keepalived.checkers import KINDS, checks
from kernlb.formats.keepalived.files import TrackFile
from kernlb.formats.keepalived.pace import Pace, paced
from kernlb.formats.keepalived.places import Method, addresses_in, method_of, prefix_of
from kernlb.formats.keepalived.scripts import Account, grouped, script_account
from kernlb.formats.keepalived.sessions import Instance
from kernlb.formats.keepalived.syntax import Statement, parse
from kernlb.formats.keepalived.values import address, flag, number
from kernlb.formats.report import EXACT, Imported, Ledger, Refused, Remark, approximated, dropped, exact
from kernlb.model import (
    Endpoint,
    EngineName,
    Family,
    Fwmark,
    Persistence,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Timers,
    family_of,
)

_VRRP = dropped("VRRP stays with keepalived: `kernlb render keepalived.conf` writes the companion that moves the VIPs")
_ROOTS: dict[str, Remark] = {
    "global_defs": exact("about keepalived itself"),
    "include": dropped("join the files first: kernlb reads one"),
    "SSL": dropped("checks show no certificate of their own"),
    "net_namespace": dropped("run kernlb in that namespace: `--netns NAME`"),
}
_ROOT_PREFIXES = ("vrrp_", "static_", "track_", "garp_", "include", "linkbeat", "process_", "instance")
_NOTIFY = dropped("no script is run: watch the journal, the metrics or `kernlb status --json`")
_MAIL = dropped("no mail is sent: watch the journal or the metrics")
_ITSELF = exact("about keepalived itself")
_GLOBAL: dict[str, Remark] = {
    "smtp_alert_vrrp": _ITSELF,
    "smtp_alert": _MAIL,
    "notification_email_from": approximated("no mail is sent"),
    "notification_email": _MAIL,
    "smtp_": approximated("no mail is sent"),
    "lvs_notify_fifo": _NOTIFY,
    "notify_fifo": _NOTIFY,
    "lvs_flush": approximated("what is not kernlb's is left alone, and traffic flows on when the daemon ends"),
    "enable_script_security": approximated("a script that others may write to is run all the same: see to its rights"),
}
"""What global_defs say, by how it begins; the first that fits."""
_FLAGS = {
    "sh-fallback": SchedulerFlag.FALLBACK,
    "mh-fallback": SchedulerFlag.FALLBACK,
    "flag-1": SchedulerFlag.FALLBACK,
    "sh-port": SchedulerFlag.PORT,
    "mh-port": SchedulerFlag.PORT,
    "flag-2": SchedulerFlag.PORT,
    "flag-3": SchedulerFlag.FLAG_3,
}


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def read(text: str, *, file: str, config_id: str = "", known: Callable[[str], bool] = _is_user) -> Imported:
    """Raises ConfigError with every mistake. `config_id` chooses the lines that begin with @; `known` tells whether
    there is a user of that name."""
    ledger = Ledger()
    return ledger.imported(file, _Reader(ledger).config(parse(text, ledger, config_id=config_id), known))


class _Reader:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.groups: dict[str, tuple[Bind, ...]] = {}
        self.files: dict[str, TrackFile] = {}
        self.instances: dict[str, Instance] = {}
        self.account = Account(None)

    def config(self, statements: list[Statement], known: Callable[[str], bool]) -> Config:
        self.account = script_account(statements, known)
        timers: Timers | None = None
        services: list[Service] = []
        for statement in statements:
            try:
                match statement.keyword:
                    case "virtual_server_group":
                        self.groups[statement.argument()] = tuple(self._group(statement))
                    case "virtual_server":
                        services.append(self._service(statement))
                    case "global_defs":
                        timers = self._global(statement) or timers
                    case "track_file" | "vrrp_track_file":
                        self.files[statement.argument()] = TrackFile(statement)
                    case "bfd_instance":
                        self.instances[statement.argument()] = Instance(statement)
                    case _:
                        self._other(statement)
            except Refused as refused:
                self._refuse(statement, refused)
        named: list[TrackFile | Instance] = [*self.files.values(), *self.instances.values()]
        for inner in [inner for each in named if not each.used for inner in each.statement.all()]:
            self.ledger.say(inner.line, _VRRP)
        return Config(services=tuple(_distinct(services)), timers=timers)

    def _refuse(self, statement: Statement, refused: Refused) -> None:
        self.ledger.refuse(statement.line, refused, path=" ".join(statement.words[:3]))

    def _other(self, statement: Statement) -> None:
        remark = _ROOTS.get(statement.keyword)
        if remark is None and statement.keyword.startswith(_ROOT_PREFIXES):
            remark = _VRRP
        if remark is None:
            raise Refused(f"unknown keyword {statement.keyword!r}", hint="a misspelling, or a newer keepalived's")
        for inner in statement.all():
            self.ledger.say(inner.line, remark)

    def _global(self, statement: Statement) -> Timers | None:
        timers = None
        for inner in statement.body:
            match inner.words:
                case ["lvs_timeouts", *pairs]:
                    known = {"tcp": 900, "tcpfin": 120, "udp": 300}
                    for at in range(0, len(pairs) - 1, 2):
                        if pairs[at] in known:
                            known[pairs[at]] = number(inner, lowest=1, highest=2**31 - 1, at=at + 2)
                    timers = Timers(known["tcp"], known["tcpfin"], known["udp"])
                case ["lvs_sync_daemon", *_]:
                    self.ledger.say(inner.line, dropped("name the daemons under `[sync]` of kernlb's own file"))
                case ["script_user", *_]:
                    self.ledger.say(inner.line, grouped(inner))
                case [word, *_]:
                    for deeper in inner.all():
                        self.ledger.say(deeper.line, _about_itself(word, off=_is_off(inner)))
        return timers

    # --- addresses

    def _group(self, statement: Statement) -> Iterator[Bind]:
        for inner in statement.body:
            try:
                if inner.keyword == "fwmark":
                    family = Family.IPV6 if inner.words[2:] == ["inet6"] else Family.IPV4
                    yield MarkBind(family, number(inner, lowest=1, highest=2**32 - 1))
                    continue
                port = number(inner, highest=65535) if len(inner.words) > 1 else 0
                for found in addresses_in(inner.keyword):
                    yield AddressBind(found, port, port)
            except Refused as refused:
                self._refuse(inner, refused)

    def _binds(self, statement: Statement) -> tuple[Bind, ...]:
        match statement.words[1:]:
            case ["fwmark", _]:
                mark = number(statement, lowest=1, highest=2**32 - 1, at=2)
                return (MarkBind(_mark_family(statement), mark),)
            case ["group", name]:
                if not self.groups.get(name):
                    raise Refused(f"there is no virtual_server_group {name!r} above, or it is empty")
                return self.groups[name]
            case [host] | [host, _]:
                port = number(statement, highest=65535, at=2) if len(statement.words) > 2 else 0
                return (AddressBind(address(host), port, port),)
        raise Refused("virtual_server expects an address and port, `fwmark N` or `group NAME`")

    # --- one virtual server

    def _service(self, statement: Statement) -> Service:
        binds = self._binds(statement)
        protocol = _protocol(statement, binds)
        if protocol is Protocol.UDP and not any(inner.keyword == "protocol" for inner in statement.body):
            self.ledger.say(statement.line, exact("UDP, which keepalived takes where no `protocol` says otherwise"))
        service = Service(
            name=_name(statement, binds, protocol), binds=binds, protocol=protocol, scheduler=Scheduler.WLC
        )
        pace, forwarding = Pace(), Method()
        # What the virtual server says holds for real servers that stand before it, too.
        later: list[Statement] = []
        for inner in statement.body:
            try:
                if found := paced(pace, inner):
                    pace, remark = found
                    self.ledger.say(inner.line, remark)
                elif inner.keyword in ("lb_kind", "lvs_method"):
                    forwarding = method_of(inner)
                elif inner.keyword in ("real_server", "sorry_server", "sorry_server_lvs_method"):
                    later.append(inner)
                else:
                    service = self._setting(service, inner)
            except Refused as refused:
                self._refuse(inner, refused)
        return self._servers(service, later, pace, forwarding)

    def _setting(self, service: Service, statement: Statement) -> Service:
        match statement.keyword:
            case "lb_algo" | "lvs_sched":
                name = statement.argument()
                if name == "twos":
                    self.ledger.say(statement.line, approximated("weighted least connections"))
                    return replace(service, scheduler=Scheduler.WLC)
                if name not in set(Scheduler) - {Scheduler.MAGLEV}:
                    raise Refused(f"unknown scheduler {name!r}")
                return replace(service, scheduler=Scheduler(name))
            case word if word in _FLAGS:
                return replace(service, flags=service.flags | {_FLAGS[word]})
            case "ops":
                return replace(service, one_packet=True)
            case "protocol":
                protocol = statement.argument().lower()
                if protocol not in set(Protocol):
                    raise Refused(f"unknown protocol {protocol!r}", hint="TCP, UDP or SCTP")
                return replace(service, protocol=Protocol(protocol))
            case "persistence_timeout":
                seconds = number(statement, lowest=1, highest=31 * 86400) if len(statement.words) > 1 else 360
                return replace(service, persistence=replace(_persistence(service), timeout=seconds))
            case "persistence_granularity":
                return replace(service, persistence=replace(_persistence(service), prefix=prefix_of(statement)))
            case "persistence_engine":
                return replace(service, persistence=replace(_persistence(service), engine=statement.argument()))
            case "quorum":
                return replace(service, quorum=number(statement, lowest=1, highest=2**31 - 1))
            case "hysteresis":
                return replace(service, hysteresis=number(statement, highest=2**31 - 1))
            case "inhibit_on_failure":
                return replace(service, on_failure=OnFailure.QUIESCE if flag(statement) else OnFailure.REMOVE)
        self._said(statement)
        return service

    def _said(self, statement: Statement) -> None:
        match statement.keyword:
            case "quorum_up" | "quorum_down" | "notify_up" | "notify_down":
                remark = _NOTIFY
            case "smtp_alert":
                remark = _MAIL
            case "omega":
                remark = approximated("nothing changes when the daemon ends: traffic flows on")
            case "ha_suspend":
                remark = dropped('checks never pause: put the VIPs under `[addresses]` with announce = "quorum"')
            case "sorry_server_inhibit":
                remark = approximated("the sorry server comes and goes with the quorum")
            case "snmp_name" | "ip_family" | "hashed":
                remark = EXACT
            case "weight":
                remark = dropped("give each real server its weight")
            case word:
                raise Refused(f"unknown keyword {word!r}", hint="a misspelling, or a newer keepalived's")
        self.ledger.say(statement.line, remark)

    def _servers(self, service: Service, statements: list[Statement], pace: Pace, method: "Method") -> Service:
        sorry_method, servers, quiesced = method, list[Server](), list[bool]()
        for statement in statements:
            if statement.keyword == "sorry_server_lvs_method":
                sorry_method = method_of(statement)
        for statement in statements:
            try:
                if statement.keyword == "sorry_server":
                    sorry = self._server(service, statement, pace, sorry_method)[0]
                    service = replace(service, sorry_server=replace(sorry, name="sorry"))
                elif statement.keyword == "real_server":
                    server, quiesce = self._server(service, statement, pace, method)
                    if any((server.address, server.port) == (other.address, other.port) for other in servers):
                        raise Refused("this real server stands above already")
                    servers.append(server)
                    quiesced.append(quiesce)
            except Refused as refused:
                self._refuse(statement, refused)
        if any(quiesced):
            service = replace(service, on_failure=OnFailure.QUIESCE)
        if servers and all(isinstance(bind, MarkBind) for bind in service.binds):
            # A mark has no family of its own: it takes that of its servers.
            family = family_of(servers[0].address)
            marks = [bind for bind in service.binds if isinstance(bind, MarkBind)]
            if not servers[0].tunnel:
                service = replace(service, binds=tuple(MarkBind(family, bind.mark) for bind in marks))
        if service.persistence is not None and not service.persistence.prefix:
            v4 = all(server.address.version == 4 for server in servers)
            service = replace(service, persistence=replace(service.persistence, prefix=32 if v4 else 128))
        return replace(service, servers=tuple(servers))

    def _server(self, service: Service, statement: Statement, pace: Pace, method: "Method") -> tuple[Server, bool]:
        """A real server, and whether it says of itself that failures quiesce it."""
        host = address(statement.argument())
        first = next((bind for bind in service.binds if isinstance(bind, AddressBind)), None)
        port = number(statement, highest=65535, at=2) if len(statement.words) > 2 else first.first if first else 0
        server = Server(name=f"{host}-{port}", address=host, port=port)
        quiesce, checkers = False, list[Statement]()
        for inner in statement.body:
            try:
                if found := paced(pace, inner):
                    pace, remark = found
                    self.ledger.say(inner.line, remark)
                elif inner.keyword in KINDS:
                    checkers.append(inner)
                elif inner.keyword == "weight":
                    server = replace(server, weight=number(inner, highest=HEAVIEST))
                elif inner.keyword == "lvs_method":
                    method = method_of(inner)
                elif inner.keyword == "uthreshold":
                    server = replace(server, max_connections=number(inner, highest=2**31 - 1))
                elif inner.keyword == "lthreshold":
                    server = replace(server, min_connections=number(inner, highest=2**31 - 1))
                elif inner.keyword == "inhibit_on_failure":
                    quiesce = flag(inner)
                    if service.on_failure is OnFailure.REMOVE:
                        self.ledger.say(inner.line, approximated("holds for every server of its service"))
                else:
                    self._said(inner)
            except Refused as refused:
                self._refuse(inner, refused)
        asked = checks(checkers, host, pace, self.account, self.files, self.instances, self.ledger)
        return replace(server, checks=asked, forwarding=method.forwarding, tunnel=method.tunnel), quiesce


def _about_itself(word: str, *, off: bool) -> Remark:
    fits = (remark for begin, remark in _GLOBAL.items() if word.startswith(begin))
    return _ITSELF if off else next(fits, _ITSELF)


def _is_off(statement: Statement) -> bool:
    return [word.lower() for word in statement.words[1:]] in (["off"], ["no"], ["false"])


def _persistence(service: Service) -> Persistence:
    """Prefix 0 means not said yet."""
    if service.persistence is not None:
        return service.persistence
    return Persistence(360, 0)


def _mark_family(statement: Statement) -> Family:
    six = any(inner.words[:2] == ["ip_family", "inet6"] for inner in statement.body)
    return Family.IPV6 if six else Family.IPV4


def _protocol(statement: Statement, binds: tuple[Bind, ...]) -> Protocol:
    """A word that is none is refused where it stands. A mark alone says nothing of protocols."""
    said = [inner.words[1].lower() for inner in statement.body if inner.keyword == "protocol" and inner.words[1:]]
    if said:
        return Protocol(said[-1]) if said[-1] in set(Protocol) else Protocol.TCP
    return Protocol.UDP if any(isinstance(bind, AddressBind) for bind in binds) else Protocol.TCP


def _name(statement: Statement, binds: tuple[Bind, ...], protocol: Protocol) -> str:
    if statement.words[1:2] == ["group"]:
        return statement.words[2]
    match binds[0]:
        case MarkBind(family=family, mark=mark):
            return service_name(Fwmark(family, mark))
        case AddressBind(address=host, first=port):
            return service_name(Endpoint(EngineName.IPVS, protocol, host, port))


def _distinct(services: list[Service]) -> Iterator[Service]:
    """Names of their own for services that share a group by protocol."""
    seen: dict[str, int] = {}
    for service in services:
        seen[service.name] = seen.get(service.name, 0) + 1
        times = seen[service.name]
        yield service if times == 1 else replace(service, name=f"{service.name}-{service.protocol}-{times}")
