"""The engine of the eBPF balancer: a Table in its maps, the program at the interfaces, all of it without a process.

What is carried lives pinned in the BPF file system; every call finds it there, so processes come and go.
"""

import hashlib
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from kernlb.engines import abi, flows, pins
from kernlb.engines.attach import Attachments, Hook
from kernlb.engines.carried import NOBODY, Book, Member, Wish, from_text, to_text
from kernlb.engines.clock import TICK, TICK_SHIFT, seconds_of
from kernlb.engines.dataplane import EXPLAIN, MAPS, TC, XDP, Dataplane, Sizes
from kernlb.engines.libbpf import Map
from kernlb.engines.nexthops import Surroundings
from kernlb.engines.placement import GONE, Contents, keep_known, name_of, one_armed, place, weights
from kernlb.engines.playing import played
from kernlb.engines.rtnetlink import Link, Rtnetlink
from kernlb.errors import KernlbError, Unsupported
from kernlb.hashing import SLOTS, Assignment, assign
from kernlb.model import Counters, Endpoint, Forwarding, IPAddress, Key, ServerKey, Table
from kernlb.places import namespace_inode
from kernlb.plan import Operation
from kernlb.resources import shipped
from kernlb.transition import Transition

OBJECT = "balancer.bpf.o"
_REST = 60.0
"""Seconds beyond the idle timeout for which the number of a server that left is not given to another."""


class Xdp:
    """`wish` is None where nobody says how: then what was said before holds."""

    handles: tuple[type, ...] = (Endpoint, ServerKey)

    def __init__(
        self,
        directory: Path,
        *,
        wish: Wish | None = None,
        sizes: Sizes | None = None,
        slots: int = SLOTS,
        tcx: bool = True,
    ) -> None:
        self.writes = 0
        self._directory = directory
        self._wish = wish
        self._sizes = sizes or Sizes()
        self._slots = slots
        self._attachments = Attachments(directory, tcx=tcx)
        self._ledger: pins.Ledger | None = None
        self._plane: Dataplane | None = None
        self._transitions: dict[int, Transition] = {}
        self._assignments: dict[int, Assignment] = {}
        self._filter: dict[abi.Address, abi.Filter] | None = None

    def close(self) -> None:
        """Nothing ends with it but the descriptors."""
        if self._plane is not None:
            self._plane.close()
        if self._ledger is not None:
            self._ledger.close()
        self._plane, self._ledger, self._filter = None, None, None
        self._transitions.clear()
        self._assignments.clear()

    # --- the engine

    def read(self) -> Table:
        book = self._book()
        return book.table() if book else {}

    def apply(self, operations: Sequence[Operation]) -> None:
        book = self._book()
        before: Table = book.table() if book else {}
        after, done, refused = played(operations, before)
        if done:
            if any(isinstance(key, Endpoint) for key in after):
                self._carry(book or self._new_book(), after)
            else:
                self._clear()
            self.writes += done
        if refused is not None:
            raise refused

    def counters(self) -> Mapping[Key, Counters]:
        book = self._book()
        if book is None:
            return {}
        plane = self._opened(book)
        live = flows.count(plane.maps["flows"], _timeouts(book.wish))
        counted: dict[Key, Counters] = {}
        for service, carried in book.services.items():
            parts = []
            for key, member in carried.members.items():
                traffic = plane.traffic(member.id)
                active, inactive = live.get(member.id, (0, 0))
                translated = member.value.forwarding is Forwarding.FULLNAT
                parts.append(
                    Counters(
                        connections=traffic.flows,
                        packets_in=traffic.packets_in,
                        packets_out=traffic.packets_out if translated else None,
                        bytes_in=traffic.bytes_in,
                        bytes_out=traffic.bytes_out if translated else None,
                        active_connections=active if translated else None,
                        inactive_connections=inactive if translated else None,
                    )
                )
                counted[key] = parts[-1]
            counted[service] = _sum(parts)
        return counted

    # --- what else can be asked of it

    def tend(self) -> None:
        """Follow the network, end transitions that are over, hang the program where it is missing."""
        book = self._book()
        if book is not None:
            self._adopt_wish(book)
            self._write(book, changed=(), left=(), new=())

    def causes(self) -> Mapping[abi.Cause, int]:
        """Packets to addresses of services that the program left to the stack, by why."""
        book = self._book()
        return self._opened(book).causes() if book else {}

    def hooks(self) -> Mapping[int, Hook]:
        """Where the program hangs, by interface."""
        return {each.interface: each.hook for each in self._attachments.read()}

    def explain(self, packet: bytes) -> tuple[abi.Explanation, Endpoint | None, Mapping[int, ServerKey]]:
        """What the program would do with an Ethernet frame, of which service, and its servers by number."""
        book = self._book()
        if book is None:
            raise Unsupported("the eBPF program is not loaded here", hint="kernlb apply FILE loads it")
        told = self._opened(book).explain(packet)
        service = next((key for key, carried in book.services.items() if carried.id == told.service), None)
        return told, service, {member.id: key for _, key, member in book.members()}

    # --- what is pinned

    def _book(self) -> Book | None:
        """As it stands in the kernel; another process may have written it."""
        found = pins.Ledger.open(self._directory)
        if found is None:
            self.close()
            return None
        if self._ledger is not None and self._ledger.map.id == found.map.id:
            found.close()
        else:
            self.close()
            self._ledger = found
        assert self._ledger is not None
        text = self._ledger.read()
        try:
            book = from_text(text) if text is not None else None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise KernlbError(
                f"another version of kernlb carries services here ({error})",
                where=str(self._directory),
                hint="clear with that version, or remove the directory: its connections end",
            ) from error
        # A namespace of the same name is gone, and with it all that hung there.
        return book if book is not None and book.namespace == namespace_inode() else None

    def _opened(self, book: Book) -> Dataplane:
        if self._plane is None:
            self._plane = Dataplane.pinned(self._directory)
        return self._plane

    def _new_book(self) -> Book:
        self._clear()
        return Book(
            abi=abi.ABI_VERSION,
            namespace=namespace_inode(),
            secret=int.from_bytes(os.urandom(8), "little"),
            fingerprint="",
            tick_shift=TICK_SHIFT,
            memory_buckets=self._sizes.memory_buckets,
            flow_buckets=self._sizes.flow_buckets,
            wish=self._wish or Wish(),
            slots=self._slots,
        )

    def _adopt_wish(self, book: Book) -> None:
        if self._wish is not None:
            book.wish = self._wish

    def _carry(self, book: Book, after: Table) -> None:
        self._adopt_wish(book)
        rest = book.wish.idle + _REST
        numbers = {carried.id for carried in book.services.values()}
        known = {server.address for _, server, _ in book.members()}
        changed, left = book.follow(after, now=time.monotonic(), servers=self._sizes.servers, rest=rest)
        new = {server.address for _, server, _ in book.members()} - known
        if not self._write(book, changed=changed, left=left, new=new):
            where = ", ".join(book.wish.interfaces) or "no interface with an address"
            raise Unsupported(f"nowhere to attach the eBPF program: {where}", hint="see [engine] interfaces")
        for number in numbers - {carried.id for carried in book.services.values()}:
            self._opened(book).remove_table(number)
            self._transitions.pop(number, None)
            self._assignments.pop(number, None)

    def _clear(self) -> None:
        """Nothing of it is left in the kernel."""
        for attached in self._attachments.read():
            self._attachments.detach(attached.interface)
        self.close()
        pins.remove(self._directory)

    def _write(
        self, book: Book, *, changed: Collection[Endpoint], left: Sequence[Member], new: Collection[IPAddress]
    ) -> bool:
        """Whether the program hangs anywhere then."""
        dead = [member.id for member in left]
        at_once = bool(book.fingerprint) and not new
        if at_once:
            # Weights need nothing of the network, which takes a while to look at.
            self._move(book, self._opened(book), changed, dead)
        with Rtnetlink() as netlink:
            seen = Surroundings(netlink)
            seen.resolve({key.address for _, key, _ in book.members()}, await_=new)
            ends = seen.named(book.wish.interfaces) if book.wish.interfaces else seen.ends()
            native = {link.index for link in ends if one_armed(book, seen, link)}
            contents = place(book, seen, tick=TICK, native=bool(native))
        plane = self._loaded(book, native=bool(native))
        self._fill(plane, contents)
        if not at_once:
            self._move(book, plane, changed, dead)
        self._open_services(plane, contents)
        for member in left:
            plane.set_server(member.id, GONE)
        self._hang(plane, ends, native)
        self._note(book)
        return bool(ends)

    def _hang(self, plane: Dataplane, ends: Sequence[Link], native: Collection[int]) -> None:
        """At these interfaces, and at no others."""
        attached = {each.interface: each for each in self._attachments.read()}
        loaded = {program.id for program in plane.programs.values()}
        for link in ends:
            if link.index not in attached or attached[link.index].program not in loaded:
                self._attachments.attach(link, plane.programs, native=link.index in native)
        for interface in set(attached) - {link.index for link in ends}:
            self._attachments.detach(interface)

    def _note(self, book: Book) -> None:
        assert self._ledger is not None
        text = to_text(book)
        if text != self._ledger.read():
            self._ledger.write(text)

    def _loaded(self, book: Book, *, native: bool) -> Dataplane:
        """The plane with the program that this version of kernlb brings. One before it hands over all it knows."""
        settings = abi.Settings(
            secret=book.secret,
            memory_buckets=book.memory_buckets,
            flow_buckets=book.flow_buckets,
            tick_shift=book.tick_shift,
            timeouts=_timeouts(book.wish),
        )
        path = _object()
        # The verifier takes its time for each.
        programs = (TC, EXPLAIN, XDP) if native else (TC, EXPLAIN)
        parts = (path.read_bytes(), settings.pack(), repr(programs).encode())
        fingerprint = hashlib.sha256(b"".join(parts)).hexdigest()
        if book.fingerprint == fingerprint:
            return self._opened(book)
        pins.prepare(self._directory)
        reuse: dict[str, Map] = {}
        if book.fingerprint and book.abi == abi.ABI_VERSION:
            reuse = {name: Map.pinned(self._directory / name) for name in MAPS}
        elif book.fingerprint:
            for name in MAPS:
                (self._directory / name).unlink(missing_ok=True)
        plane = Dataplane.load(path, settings=settings, sizes=self._sizes, programs=programs, reuse=reuse)
        plane.pin(self._directory)
        if self._ledger is None:
            self._ledger = pins.Ledger.create()
            self._ledger.pin(self._directory)
        if self._plane is not None:
            self._plane.close()
        self._plane, self._filter = plane, None
        book.fingerprint, book.abi = fingerprint, abi.ABI_VERSION
        return plane

    # --- maps

    def _fill(self, plane: Dataplane, contents: Contents) -> None:
        """Everything that services refer to."""
        for number, source in contents.sources.items():
            _put(plane.maps["sources"], abi.index(number), source.pack())
        for interface, hop in contents.links.items():
            _put(plane.maps["links"], abi.index(interface), hop.pack())
        servers = plane.maps["servers"]
        before: dict[int, abi.Server] = {}
        for number in contents.servers:
            packed = servers.get(abi.index(number))
            if packed is not None and any(packed):
                before[number] = abi.Server.unpack(packed)
        keep_known(before, contents.servers)
        traffic = plane.maps["traffic"]
        for number, server in contents.servers.items():
            had = before.get(number)
            if had is None or had.address != server.address:
                traffic[abi.index(number)] = bytes(traffic.value_size * traffic.values_per_key)
            _put(servers, abi.index(number), server.pack())

    def _open_services(self, plane: Dataplane, contents: Contents) -> None:
        services = plane.maps["services"]
        wanted = {key.pack(): service.pack() for key, service in contents.services.items()}
        for key, value in wanted.items():
            _put(services, key, value)
        if self._filter != contents.filter:
            plane.set_filter(contents.filter)
            self._filter = dict(contents.filter)
        for key in [key for key in services.keys() if key not in wanted]:  # noqa: SIM118
            with suppress(KeyError):
                del services[key]

    def _move(self, book: Book, plane: Dataplane, changed: Collection[Endpoint], dead: Collection[int]) -> None:
        """Bring the slots of services to their servers; those that nothing changed only settle."""
        now = time.monotonic()
        for key, carried in book.services.items():
            fresh = not carried.changed
            table = plane.table(carried.id, book.slots)
            transition = self._transitions.get(carried.id)
            if transition is None:
                transition = _found(*table.read(), changed=carried.changed, now=now)
            if key in changed:
                numbers = {name_of(server): member.id for server, member in carried.members.items()}
                known = assign(weights(carried), slots=book.slots, previous=self._assignments.get(carried.id))
                self._assignments[carried.id] = known
                by_owner = np.array([*(numbers[name] for name in known.names), NOBODY], dtype=np.uint16)
                desired = by_owner[known.owner]
                stateful = all(m.value.forwarding is Forwarding.FULLNAT for m in carried.members.values())
                if fresh or (stateful and not transition.active):
                    # Connections of full NAT are known one by one: there is nothing to find out.
                    transition = Transition.settled(desired)
                else:
                    transition = transition.toward(desired, now=now, dead=dead)
                carried.changed = now
            elif transition.active:
                transition = transition.settle(now=now, idle=book.wish.idle, used=seconds_of(table.used(), now=now))
            else:
                self._transitions[carried.id] = transition
                continue
            self._transitions[carried.id] = transition
            table.write(*transition.words())


def _found(current: np.ndarray, previous: np.ndarray, *, changed: float, now: float) -> Transition:
    """A transition that another process began: each slot in it counts as having begun with the last change."""
    tracked = previous & abi.SLOT_TRACKED != 0
    began = np.where(tracked, min(changed, now), -np.inf)
    before = np.where(tracked, previous & ~np.uint16(abi.SLOT_TRACKED), current).astype(np.uint16)
    return Transition(current.copy(), before, tracked, began, began.copy())


def _put(target: Map, key: bytes, value: bytes) -> None:
    if target.get(key) != value:
        target[key] = value


def _timeouts(wish: Wish) -> tuple[int, ...]:
    """Ticks by state of a flow. One that is closed waits as long as its server's TIME_WAIT."""
    opening, closed = 30.0, 60.0
    seconds = (0.0, opening, wish.tcp, wish.tcp_fin, closed, wish.udp)
    return tuple(int(each / TICK) + 1 if each else 0 for each in seconds)


def _object() -> Path:
    path = Path(str(shipped("bpf") / OBJECT))
    if not path.is_file():
        raise Unsupported("the eBPF program is not built", where=str(path), hint="make -C bpf (needs clang)")
    return path


def _sum(parts: Sequence[Counters]) -> Counters:
    def total(name: str) -> int | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    return Counters(*(total(name) for name in Counters.__dataclass_fields__))
