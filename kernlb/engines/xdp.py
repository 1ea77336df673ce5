"""The engine of the eBPF balancer: a Table in its maps, the program at the interfaces, all of it without a process.

What is carried lives pinned in the BPF file system; every call finds it there, so processes come and go.
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernlb.config.values import Loader
from kernlb.counters import Counters
from kernlb.engines import Loaded, Transit, abi, counting, flows, pins, specialise, strangers
from kernlb.engines.attach import Attachments, Hook, told_of
from kernlb.engines.books import Books
from kernlb.engines.building import Build, Builder, line_of, loaded_by, object_path
from kernlb.engines.carried import Book, Change, Wish
from kernlb.engines.clock import TICK, TICK_SHIFT
from kernlb.engines.dataplane import EXPLAIN, MAPS, TC, XDP, Dataplane, Sizes
from kernlb.engines.filling import bury, fill, flag, offer
from kernlb.engines.maps import Map
from kernlb.engines.nexthops import Outlook, Surroundings
from kernlb.engines.placement import Contents, one_armed, place
from kernlb.engines.playing import played
from kernlb.engines.rtnetlink import Link, Rtnetlink
from kernlb.engines.silence import Silence
from kernlb.engines.slots import Slots
from kernlb.engines.stillness import Stillness
from kernlb.errors import Conflict, KernelError, Unsupported
from kernlb.hashing import SLOTS
from kernlb.model import Endpoint, Forwarding, Key, Protocol, ServerKey, ServiceKey, Table, service_of
from kernlb.parts import Parts, cut, whole
from kernlb.places import namespace_inode
from kernlb.plan import Operation

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
        loader: Loader = Loader.OBJECT,
        lasting: bool = False,
        force: bool = False,
        virtual: bool = False,
    ) -> None:
        """`virtual`: native XDP also on interfaces that are no hardware's, whatever that costs bulk."""
        self.writes = 0
        self._directory = directory
        self._wish = wish
        self._sizes = sizes or Sizes()
        self._slots = slots
        self._attachments = Attachments(directory, tcx=tcx)
        self._builder = Builder(loader, lasting=lasting)
        self._force = force
        self._virtual = virtual
        self._ways: set[Forwarding] = set()
        self._books = Books(directory, lost=self._let_go)
        self._outlook = Outlook()
        self._tables = Slots()
        self._stillness = Stillness()
        self._silence = Silence()
        self._plane: Dataplane | None = None
        self._filter: dict[abi.Address, abi.Filter] | None = None

    def close(self) -> None:
        """Nothing ends with it but the descriptors."""
        self._let_go()
        self._books.close()
        self._builder.close()

    # --- the engine

    def read(self) -> Table:
        return self._books.table()

    def parts(self) -> Parts:
        book = self._books.current()
        return book.parts() if book else {}

    def apply(self, operations: Sequence[Operation]) -> None:
        book = self._books.current()
        touched = dict.fromkeys(key for each in operations if isinstance(key := service_of(each.key), Endpoint))
        before: Table = whole(book.parts(), touched) if book else {}
        wish = self._wish or (book.wish if book else Wish())
        after, done, refused = played(operations, before, within=wish.ports)
        if done:
            parts = cut(after)
            self._carry(book or self._new_book(), {key: parts.get(key, {}) for key in touched})
            self.writes += done
        if refused is not None:
            raise refused

    def counters(self) -> Mapping[Key, Counters]:
        book = self._understood()
        if book is None:
            return {}
        plane = self._opened()
        counted = plane.counted(book.numbers())
        names = abi.Traffic.__dataclass_fields__
        traffics = [abi.Traffic(**dict(zip(names, row, strict=True))) for row in counted.tolist()]
        translating = any(member.value.forwarding is Forwarding.FULLNAT for _, _, member in book.members())
        live = flows.count(plane.maps["flows"], _timeouts(book.wish)) if translating else {}
        return counting.counters(book, traffics, live=live, unused=self._unused(book, counted))

    def _unused(self, book: Book, counted: NDArray[np.uint64]) -> Set[int]:
        """The servers of which no connection can be in use any more: they were sent nothing for the idle timeout."""
        now = time.monotonic()
        packets = counted[:, 1].tolist()  # struct traffic of abi.h
        self._stillness.look({member.id: packets[member.id] for _, _, member in book.members()}, now=now)
        return self._stillness.of(book.wish.idle, now=now)

    # --- what else can be asked of it

    def silent(self) -> Collection[ServerKey]:
        """Real servers of TCP that were sent SYNs and nothing else since the last call."""
        book = self._understood()
        if book is None:
            return ()
        counted = self._opened().counted(book.numbers())
        flows_begun, packets_in = counted[:, 0], counted[:, 1]  # struct traffic of abi.h
        numbers = self._silence.look(flows_begun, packets_in)
        if not numbers:
            return ()
        members = ((service, key) for service, key, member in book.members() if member.id in numbers)
        return [key for service, key in members if service.protocol is Protocol.TCP]

    def tend(self) -> None:
        """Follow the network, end transitions that are over, hang the program where it is missing."""
        book = self._books.current()
        if book is not None:
            self._books.doubt()
            self._write(book, Change())

    def transits(self) -> Mapping[ServiceKey, Transit]:
        """The services whose connections of before still go by other weights."""
        book = self._understood()
        return self._tables.transits(book, self._opened()) if book else {}

    def causes(self) -> Mapping[abi.Cause, int]:
        """Packets to addresses of services that the program left to the stack, by why."""
        return self._opened().causes() if self._understood() else {}

    def in_the_way(self) -> Conflict | None:
        """Somebody else's XDP program on an interface where this one would hang: it has each packet first."""
        book = self._books.current()
        wish = self._wish or (book.wish if book else Wish())
        hanging = {each.interface for each in self._attachments.read()}
        with Rtnetlink() as netlink:
            seen = Surroundings(netlink)
        ends = seen.named(wish.interfaces) if wish.interfaces else seen.ends()
        found = [stranger for link in ends if link.index not in hanging for stranger in strangers.named(link)]
        if self._force or not found:
            return None
        return Conflict(
            f"an XDP program that kernlb did not attach has each packet first: {', '.join(map(str, found))}",
            hint="take it off, leave the interface out of [engine] interfaces, or displace it for good with --force",
        )

    def hooks(self) -> Mapping[int, Hook]:
        """Where the program hangs, by interface."""
        return {each.interface: each.hook for each in self._attachments.read()}

    def loaded(self) -> Loaded | None:
        book = self._books.current()
        told = loaded_by(book.fingerprint) if book else None
        if book is None or told is None:
            return None
        return replace(told, attached=tuple(told_of(each, book.refused) for each in self._attachments.read()))

    def explain(self, packet: bytes) -> tuple[abi.Explanation, Endpoint | None, Mapping[int, ServerKey]]:
        """What the program would do with an Ethernet frame, of which service, and its servers by number."""
        book = self._books.current()
        if book is None:
            raise Unsupported("the eBPF program is not loaded here", hint="kernlb apply FILE loads it")
        if not _understands(book):
            raise Unsupported(
                "the eBPF program here is another version's",
                hint="kernlb apply FILE loads this one's, and so does a daemon",
            )
        told = self._opened().explain(packet)
        service = next((key for key, carried in book.services.items() if carried.id == told.service), None)
        return told, service, {member.id: key for _, key, member in book.members()}

    # --- what is pinned

    def _understood(self) -> Book | None:
        """What is carried, where its maps can be read: those of another version's program hold what it alone knows."""
        book = self._books.current()
        return book if book is not None and _understands(book) else None

    def _let_go(self) -> None:
        """What is known of it may hold no more."""
        if self._plane is not None:
            self._plane.close()
        self._plane, self._filter = None, None
        self._tables.forget_all()
        self._outlook.close()

    def _opened(self) -> Dataplane:
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

    def _clear(self) -> None:
        """Nothing of it is left in the kernel."""
        for attached in self._attachments.read():
            self._attachments.detach(attached.interface)
        self._ways.clear()
        self.close()
        pins.remove(self._directory)

    # --- writing

    def _carry(self, book: Book, parts: Mapping[Endpoint, Table]) -> None:
        rest = book.wish.idle + _REST
        numbers = {carried.id for carried in book.services.values()}
        self._books.doubt()
        change = book.follow(parts, now=time.monotonic(), servers=self._sizes.servers, rest=rest)
        if not book.services:
            self._clear()
            return
        if not self._write(book, change):
            where = ", ".join(book.wish.interfaces) or "no interface with an address"
            raise Unsupported(f"nowhere to attach the eBPF program: {where}", hint="see [engine] interfaces")
        for number in numbers - {carried.id for carried in book.services.values()}:
            self._opened().remove_table(number)
            self._tables.forget(number)

    def _write(self, book: Book, change: Change) -> bool:
        """Whether the program hangs anywhere then."""
        dead = [member.id for member in change.left]
        told = self._wish is not None and book.wish != self._wish
        if self._wish is not None:
            book.wish = self._wish
        # Who is known already needs nothing of the network, which takes a while to look at.
        understood = _understands(book)
        at_once = understood and not change.came
        if at_once:
            plane = self._opened()
            self._tables.move(book, plane, change.services, dead)
            for key in () if change.reshaped else change.services:
                for member in book.services[key].members.values():
                    flag(plane, member)
        hangs = True
        if change.reshaped or told or not understood or self._builder.ready() or not self._outlook.holds():
            hangs = self._surround(book, change, moved=at_once)
        plane = self._opened()
        self._tables.settle(book, plane, unused=lambda: self._unused(book, plane.counted(book.numbers())))
        self._books.keep(book)
        return hangs

    def _surround(self, book: Book, change: Change, *, moved: bool) -> bool:
        """The program at the interfaces, and everything it needs of the network; whether it hangs anywhere."""
        came = set(change.came)
        known = {server.address for _, server, _ in book.members() if server not in came} if came else set()
        with Rtnetlink() as netlink:
            seen = self._outlook.look(netlink)
            seen.resolve({key.address for _, key, _ in book.members()}, await_={key.address for key in came} - known)
            ends = seen.named(book.wish.interfaces) if book.wish.interfaces else seen.ends()
            native = {link.index for link in ends if one_armed(book, seen, link, virtual=self._virtual)}
            book.refused = {index: why for index, why in book.refused.items() if index in seen.links}
            native -= book.refused.keys()
            contents = place(book, seen, tick=TICK, native=bool(native))
        anew = not _understands(book)
        plane = self._loaded(book, contents, native=bool(native))
        fill(plane, contents, timeouts=_timeouts(book.wish))
        if anew:
            self._tables.begin(book, plane)
        elif not moved:
            self._tables.move(book, plane, change.services, [member.id for member in change.left])
        if self._filter != contents.filter:
            plane.set_filter(contents.filter)
            self._filter = dict(contents.filter)
        offer(plane, contents)
        for member in change.left:
            bury(plane, member)
        self._attachments.forget(seen.links)
        if refused := self._hang(plane, ends, native):
            # At tc other hops are right, and less of a program.
            book.refused |= refused
            return self._surround(book, Change(), moved=True)
        return bool(ends)

    def _hang(self, plane: Dataplane, ends: Sequence[Link], native: Collection[int]) -> Mapping[int, str]:
        """At these interfaces, and at no others. Those that refused native XDP, and why."""
        refused: dict[int, str] = {}
        attached = {each.interface: each for each in self._attachments.read()}
        loaded = {program.id for program in plane.programs.values()}
        for link in ends:
            if link.index not in attached and self._force and link.xdp_programs:
                strangers.displace(link)
            if link.index not in attached or attached[link.index].program not in loaded:
                attachment = self._attachments.attach(link, plane.programs, native=link.index in native)
                if attachment.refused:
                    refused[link.index] = attachment.refused
        for interface in set(attached) - {link.index for link in ends}:
            self._attachments.detach(interface)
        return refused

    def _loaded(self, book: Book, contents: Contents, *, native: bool) -> Dataplane:
        """The plane with the program for what is carried. One before it hands over all it knows, where its maps are
        understood."""
        settings = abi.Settings(
            secret=book.secret,
            memory_buckets=book.memory_buckets,
            flow_buckets=book.flow_buckets,
            tick_shift=book.tick_shift,
            timeouts=_timeouts(book.wish),
        )
        understood = _understands(book)
        moving = understood and bool(self._tables.transits(book, self._opened()))
        # A server that is dead for the moment comes back, and finds what it needs.
        self._ways |= {member.value.forwarding for _, _, member in book.members()}
        limited = bool(contents.limits)
        need = specialise.needed(settings, self._ways, list(contents.filter), limited=limited, moving=moving)
        # The verifier takes its time for each.
        programs = (TC, EXPLAIN, XDP) if native else (TC, EXPLAIN)
        have = line_of(book.fingerprint) if understood else ""
        build = self._builder.choose(have, need, programs)
        if have == build.line:
            book.fingerprint = self._builder.written(build)
            return self._opened()
        pins.prepare(self._directory)
        reuse = {name: Map.pinned(self._directory / name) for name in MAPS} if understood else {}
        try:
            plane = self._load(build, programs, reuse)
        except KernelError as error:
            build = self._builder.refused(build, programs, error)
            plane = self._load(build, programs, reuse)
        if not understood:
            for name in MAPS:
                (self._directory / name).unlink(missing_ok=True)
        plane.pin(self._directory)
        if self._plane is not None:
            self._plane.close()
        self._plane, self._filter = plane, None
        book.fingerprint, book.abi = self._builder.written(build), abi.ABI_VERSION
        return plane

    def _load(self, build: Build, programs: tuple[str, ...], reuse: Mapping[str, Map]) -> Dataplane:
        return Dataplane.load(
            object_path(), settings=build.settings, sizes=self._sizes, programs=programs, reuse=reuse, code=build.code
        )


def _understands(book: Book) -> bool:
    """Whether a program is loaded, and its maps are as this version writes them."""
    return bool(book.fingerprint) and book.abi == abi.ABI_VERSION


def _timeouts(wish: Wish) -> tuple[int, ...]:
    """Ticks by state of a flow. One that is closed waits as long as its server's TIME_WAIT: 60 seconds, and some more
    where the kernel's timer wheel counts by the half dozen (512 jiffies at 100 Hz)."""
    opening, closed = 30.0, 66.0
    seconds = (0.0, opening, wish.tcp, wish.tcp_fin, closed, wish.udp)
    return tuple(int(each / TICK) + 1 if each else 0 for each in seconds)
