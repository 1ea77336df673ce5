"""The proxies of a haproxy.cfg as one Config: a service for each frontend, with the servers of its backend."""

from collections.abc import Iterable
from math import ceil

from kernlb.config.values import AddressBind, Addresses, Config, Policy, Server, Service
from kernlb.formats.haproxy.pools import Finder, Pools
from kernlb.formats.haproxy.sections import Document
from kernlb.formats.haproxy.settings import Bind, Kind, Proxy
from kernlb.formats.report import Ledger, Refused, approximated, dropped, exact
from kernlb.model import Family, IPAddress, Persistence, Scheduler, SchedulerFlag, Timers, family_of

# The kernel's own, for the timers that haproxy.cfg leaves open.
KERNEL_TIMERS = Timers(tcp=900, tcp_fin=120, udp=300)

SCHEDULERS: dict[str, Scheduler | Policy] = {
    "roundrobin": Scheduler.WRR,
    "static-rr": Scheduler.WRR,
    "leastconn": Scheduler.WLC,
    "first": Scheduler.FO,
    "random": Scheduler.WLC,
}


def assemble(document: Document, ledger: Ledger, finder: Finder) -> Config:
    return _Assembly(document, ledger, finder).config()


class _Assembly:
    def __init__(self, document: Document, ledger: Ledger, finder: Finder) -> None:
        self.document = document
        self.ledger = ledger
        self.finder = finder
        self.pools = Pools(document, ledger, finder)
        self.used: list[tuple[Proxy, Proxy]] = []
        self.taken: dict[IPAddress | Family, list[tuple[AddressBind, int]]] = {}
        self.backends = {proxy.name: proxy for proxy in document.proxies if proxy.back}

    def config(self) -> Config:
        for proxy in self.document.proxies:
            if proxy.back:
                self.pools.complain(proxy)
        services = tuple(service for proxy in self.document.proxies if proxy.front for service in self._service(proxy))
        self._say_unused()
        return Config(
            services=services,
            addresses=Addresses(source=self._sources()),
            max_connections=self.document.settings.maxconn,
            timers=self._timers(),
        )

    def _service(self, front: Proxy) -> Iterable[Service]:
        back = self._backend(front)
        if front.disabled:
            self.ledger.say(front.line, exact("disabled: no service"))
            return
        if not front.binds:
            self.ledger.say(front.line, exact("no bind is left: no service"))
            return
        if back is None or back.disabled or not back.servers:
            self.ledger.say(front.line, dropped("no servers to send connections to: add a default_backend with some"))
            return
        self._say_missing_timeouts(front, back)
        servers = self.pools.servers(back, front.binds)
        if not servers:
            self.ledger.say(front.line, dropped("none of its servers can be served, so neither can this"))
            return
        binds, servers = self._matched(front, back, servers)
        if not binds:
            return
        self.used.append((front, back))
        scheduler, flags = _scheduler(back)
        yield Service(
            name=front.name,
            pool=None if back is front else back.name,
            binds=binds,
            scheduler=scheduler,
            flags=flags,
            persistence=self._persistence(back, binds),
            max_connections=front.maxconn or None,
            servers=servers,
            all_backups=back.allbackups,
        )

    def _backend(self, front: Proxy) -> Proxy | None:
        known = self.backends
        for name in front.conditional_backends:
            if name not in known and "%" not in name:
                self._refuse(front, front.line, f"use_backend names {name!r}, which there is none of")
        chosen = front.fixed_backend or front.default_backend
        if chosen is None:
            return front if front.kind is Kind.LISTEN else None
        line, name = chosen
        if name not in known:
            self._refuse(front, line, f"there is no backend {name!r}", hint=_nearest(known))
            return None
        if front.mode == "http" and known[name].mode != "http":
            self._refuse(front, line, f"{name!r} is in mode {known[name].mode}, {front.name!r} in mode http")
        return known[name]

    def _refuse(self, proxy: Proxy, line: int, message: str, hint: str | None = None) -> None:
        self.ledger.refuse(line, Refused(message, hint=hint), path=f"{proxy.kind} {proxy.name}")

    def _matched(
        self, front: Proxy, back: Proxy, servers: tuple[Server, ...]
    ) -> tuple[tuple[AddressBind, ...], tuple[Server, ...]]:
        """Binds and servers without those whose address family the other side lacks."""
        families = {family_of(server.address) for server in servers}
        binds: list[AddressBind] = []
        for bind in front.binds:
            for address in self._addresses(front, bind):
                family = address if isinstance(address, Family) else family_of(address)
                wanted = AddressBind(address, bind.place.first, bind.place.last)
                if family not in families:
                    note = f"no server has an {family} address, and the kernel does not translate: give it some"
                    self.ledger.say(bind.line, dropped(note))
                elif other := self._conflict(wanted):
                    self.ledger.say(bind.line, dropped(f"bound already at line {other}, which takes the connections"))
                else:
                    self.taken.setdefault(address, []).append((wanted, bind.line))
                    binds.append(wanted)
        served = {b.address if isinstance(b.address, Family) else family_of(b.address) for b in binds}
        lines = {line.name: line.line for line in back.servers}
        for server in servers:
            if binds and family_of(server.address) not in served:
                self.ledger.say(lines[server.name], dropped(f"no bind of {front.name!r} has an address of its family"))
        return tuple(binds), tuple(server for server in servers if family_of(server.address) in served)

    def _addresses(self, front: Proxy, bind: Bind) -> list[IPAddress | Family]:
        host = bind.place.host
        if isinstance(host, Family):
            return [Family.IPV4, Family.IPV6] if bind.both and host is Family.IPV6 else [host]
        try:
            return list(self.finder.all(host, bind.place.family)) if host is not None else []
        except Refused as refused:
            self.ledger.refuse(bind.line, refused, path=f"{front.kind} {front.name}")
            return []

    def _conflict(self, wanted: AddressBind) -> int | None:
        for bind, line in self.taken.get(wanted.address, ()):
            if bind.first <= wanted.last and wanted.first <= bind.last:
                return line
        return None

    def _persistence(self, back: Proxy, binds: tuple[AddressBind, ...]) -> Persistence | None:
        if back.stick_on is None:
            return None
        if back.sticky is None:
            self.ledger.say(back.stick_on, dropped("it has no stick-table by address of its own"))
            return None
        v6 = any((b.address if isinstance(b.address, Family) else family_of(b.address)) is Family.IPV6 for b in binds)
        return Persistence(timeout=max(1, ceil(back.sticky)), prefix=128 if v6 else 32)

    def _say_missing_timeouts(self, front: Proxy, back: Proxy) -> None:
        missing = [name for name in ("connect", "server") if name not in back.timeouts]
        missing += [name for name in ("client",) if name not in front.timeouts]
        if missing:
            note = f"no timeout {', '.join(missing)}: HAProxy warns; the kernel's own timers hold"
            self.ledger.say(front.line, approximated(note))

    def _say_unused(self) -> None:
        used = {id(back) for _, back in self.used}
        conditional = {name for proxy in self.document.proxies for name in proxy.conditional_backends}
        for proxy in self.document.proxies:
            if proxy.kind is not Kind.BACKEND or id(proxy) in used:
                continue
            if proxy.name in conditional:
                self.ledger.say(proxy.line, dropped("reached only by a use_backend with a condition"))
            else:
                self.ledger.say(proxy.line, exact("no service sends here"))

    def _sources(self) -> tuple[IPAddress, ...]:
        backs = {id(back): back for _, back in self.used}.values()
        found = {back.source[1] if back.source else None for back in backs}
        if len(found) == 1:
            return tuple(address for address in found if address is not None)
        for back in backs:
            if back.source:
                self.ledger.say(back.source[0], dropped("backends with different sources: one holds for all services"))
        return ()

    def _timers(self) -> Timers | None:
        wishes = [(_idle(front, back), front, back) for front, back in self.used]
        longest = max((idle for idle, _, _ in wishes), default=0.0)
        for idle, front, back in wishes:
            for proxy, name in ((front, "client"), (back, "server"), (back, "tunnel")):
                if 0 < idle < longest and name in proxy.timeouts:
                    note = (
                        f"{front.name!r} wants connections to idle {idle:g} s, another service {longest:g} s: the "
                        f"kernel has one timer, and the longest counts"
                    )
                    self.ledger.say(proxy.timeouts[name][0], dropped(note))
        closing = max(
            (
                proxy.timeouts[name][1]
                for pair in self.used
                for proxy in pair
                for name in ("client-fin", "server-fin")
                if name in proxy.timeouts
            ),
            default=0.0,
        )
        if not longest and not closing:
            return None
        return Timers(
            tcp=max(1, ceil(longest)) if longest else KERNEL_TIMERS.tcp,
            tcp_fin=max(1, ceil(closing)) if closing else KERNEL_TIMERS.tcp_fin,
            udp=KERNEL_TIMERS.udp,
        )


def _idle(front: Proxy, back: Proxy) -> float:
    wishes = ((front, "client"), (back, "server"), (back, "tunnel"))
    return max((proxy.timeouts[name][1] for proxy, name in wishes if name in proxy.timeouts), default=0.0)


def _scheduler(back: Proxy) -> tuple[Scheduler | Policy, frozenset[SchedulerFlag]]:
    if back.balance == "source":
        # HAProxy hashes over the live servers; without the flag the kernel drops what hashes to an overloaded one.
        return Scheduler.MH if back.consistent else Scheduler.SH, frozenset({SchedulerFlag.FALLBACK})
    return SCHEDULERS[back.balance], frozenset()


def _nearest(known: Iterable[str]) -> str:
    names = ", ".join(sorted(known)[:8])
    return f"there are: {names}" if names else "add a backend section"
