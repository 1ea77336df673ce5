"""The real servers of one backend as one frontend uses them: addresses found, checks attached."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from kernlb.checks.spec import Check
from kernlb.config.values import Server
from kernlb.formats.haproxy import probes
from kernlb.formats.haproxy.sections import Document
from kernlb.formats.haproxy.settings import Bind, Proxy, ServerLine
from kernlb.formats.haproxy.values import PortKind
from kernlb.formats.report import Ledger, Refused, Remark, Resolve, approximated, dropped
from kernlb.model import Family, Forwarding, IPAddress


@dataclass(slots=True)
class Finder:
    """Host names to addresses, each asked for once."""

    resolve: Resolve | None
    known: dict[str, list[IPAddress]]

    def all(self, host: IPAddress | str, family: Family | None = None) -> list[IPAddress]:
        if not isinstance(host, str):
            return [host]
        try:
            return [ip_address(host)]
        except ValueError:
            pass
        if self.resolve is None:
            raise Refused(f"{host!r} is a name, and names are not resolved here", hint="write its address")
        if host not in self.known:
            try:
                self.known[host] = list(self.resolve(host))
            except (OSError, UnicodeError) as error:
                raise Refused(f"cannot resolve {host!r}: {error}", hint="write its address") from None
        version = {None: None, Family.IPV4: 4, Family.IPV6: 6}[family]
        found = [address for address in self.known[host] if version in (None, address.version)]
        if not found:
            raise Refused(f"{host!r} has no {family or 'IP'} address", hint="write its address")
        return found

    def one(self, host: IPAddress | str) -> IPAddress:
        return self.all(host)[0]


@dataclass(slots=True)
class Pools:
    """Builds servers, saying in the ledger what became of each line."""

    document: Document
    ledger: Ledger
    finder: Finder

    @property
    def verify(self) -> bool:
        return self.document.settings.verify_servers

    def complain(self, backend: Proxy) -> None:
        """Enters what HAProxy refuses in a backend, used or not."""
        for line in backend.servers:
            try:
                probes.complain(backend, line, verify_servers=self.verify)
                if line.options.track:
                    self._tracked(backend, line)
            except Refused as refused:
                self.ledger.refuse(line.line, refused, path=f"{backend.kind} {backend.name} server {line.name}")

    def servers(self, backend: Proxy, binds: Iterable[Bind]) -> tuple[Server, ...]:
        ports = {(bind.place.first, bind.place.last) for bind in binds}
        built = (self._server(backend, line, ports) for line in backend.servers)
        servers = [server for server in built if server is not None]
        if backend.balance == "first":
            servers = [replace(server, weight=len(servers) - at) for at, server in enumerate(servers)]
        return tuple(servers)

    def _server(self, backend: Proxy, line: ServerLine, ports: set[tuple[int, int]]) -> Server | None:
        options = line.options
        try:
            if remark := self._impossible(line):
                self.ledger.say(line.line, remark)
                return None
            assert isinstance(line.place.host, str) or not isinstance(line.place.host, Family | None)
            addresses = self.finder.all(line.place.host, line.place.family)
            named = isinstance(line.place.host, str)
            if named and line.slot is not None and line.slot >= len(addresses):
                return None
            address = addresses[line.slot or 0] if named else addresses[0]
            if named and line.slot is None and len(addresses) > 1:
                self.ledger.say(line.line, approximated(f"the name has {len(addresses)} addresses: the first is taken"))
            elif named:
                self.ledger.say(line.line, approximated("the name is resolved once, when the file is read"))
            port = self._port(line, ports)
            check = self._tracked(backend, line) if options.track else self._check(backend, line)
            return Server(
                name=line.name,
                address=address,
                port=port,
                weight=options.weight,
                forwarding=Forwarding.NAT if backend.transparent else Forwarding.FULLNAT,
                max_connections=options.maxconn,
                backup=options.backup,
                disabled=options.disabled,
                slow_start=options.slowstart,
                checks=() if check is None else (check,),
                agent=probes.agent(backend, line, self.finder.one),
            )
        except Refused as refused:
            self.ledger.refuse(line.line, refused, path=f"{backend.kind} {backend.name} server {line.name}")
            return None

    @staticmethod
    def _impossible(line: ServerLine) -> Remark | None:
        if line.place.host is None:
            return dropped("packets cannot be forwarded to a UNIX socket: let the server listen on an address")
        if isinstance(line.place.host, Family):
            return dropped("a server at the address that the client asked for is plain routing: no service is needed")
        if line.options.tls:
            return dropped("TLS towards the server is not made, so the server is left out")
        if line.options.unreachable:
            return dropped(f"the server needs {line.options.unreachable!r}, so it is left out")
        return None

    @staticmethod
    def _port(line: ServerLine, ports: set[tuple[int, int]]) -> int:
        match line.place.port:
            case PortKind.NONE:
                return 0
            case PortKind.RANGE:
                return line.place.first
            case PortKind.OFFSET:
                if line.place.first == 0:
                    return 0
                ((first, last),) = ports if len(ports) == 1 else ((0, 1),)
                port = first + line.place.first
                if first != last or not 0 < port < 65536:
                    raise Refused(
                        "the kernel adds nothing to ports, and the frontend has not one port only",
                        hint="write one frontend with one port, or the server's port itself",
                    )
                return port

    def _check(self, backend: Proxy, line: ServerLine) -> Check | None:
        return probes.check(backend, line, self.finder.one, verify_servers=self.verify)

    def _tracked(self, backend: Proxy, line: ServerLine) -> Check | None:
        """The check of the server that is tracked, aimed at that server."""
        seen = {(backend.name, line.name)}
        while line.options.track:
            proxy_name, _, name = line.options.track.rpartition("/")
            backend = self._backend(proxy_name) if proxy_name else backend
            found = next((server for server in backend.servers if server.name == name), None)
            if found is None:
                raise Refused(f"cannot track {name!r}: {backend.name!r} has no such server")
            line = found
            if (backend.name, line.name) in seen:
                raise Refused(f"{name!r} tracks itself in a circle")
            seen.add((backend.name, line.name))
        if not (line.options.check or line.options.agent):
            raise Refused(f"cannot track {backend.name}/{line.name}, which is not checked", hint="add `check` to it")
        check = self._check(backend, line)
        if check is None or line.place.host is None or isinstance(line.place.host, Family):
            return None
        return replace(
            check,
            address=check.address or self.finder.one(line.place.host),
            port=check.port or line.place.first or None,
        )

    def _backend(self, name: str) -> Proxy:
        for proxy in self.document.proxies:
            if proxy.back and proxy.name == name:
                return proxy
        raise Refused(f"cannot track a server of {name!r}: there is no such backend")
