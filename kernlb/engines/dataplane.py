"""The loaded balancer program, its maps by what they mean. Takes numbers that others chose; attaches nothing."""

import mmap
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernlb.engines import abi, kernel_types
from kernlb.engines.bytecode import Code
from kernlb.engines.libbpf import Object, Program
from kernlb.engines.linking import Buffer, resolve
from kernlb.engines.maps import INNER_MAP, MMAPABLE, Map
from kernlb.errors import KernelError

XDP, TC, EXPLAIN = "balancer_xdp", "balancer_tc", "balancer_explain"
PROGRAMS = (XDP, TC, EXPLAIN)
NOTHING = "none"
"""The name of no program."""
SHARED = ("filter", "services", "tables", "servers", "sources", "links", "fragments", "traffic", "causes")
MAPS = (*SHARED, "memories", "flows", "locks", "limits", "explanations")

Slots = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much the maps hold. Buckets are powers of two: 8 memories of 8 bytes, 4 flows of 128 bytes each."""

    services: int = 1024
    keys: int = 8192
    servers: int = 16384
    sources: int = 256
    memory_buckets: int = 1 << 16
    flow_buckets: int = 1 << 17


class Table:
    """The slots of one service in the kernel, written through memory: a slot changes in one store."""

    def __init__(self, slots: int, *, existing: Map | None = None) -> None:
        self.slots = slots
        self._groups = abi.table_elements(slots) // 2
        self.map = existing or Map.create_array(
            "slots",
            value_size=4 * abi.SLOTS_PER_GROUP,
            max_entries=abi.table_elements(slots),
            flags=MMAPABLE | INNER_MAP,
        )
        size = self.map.max_entries * 4 * abi.SLOTS_PER_GROUP
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(self.map.fd, pages)
        words = np.frombuffer(self._memory, dtype=np.uint32, count=size // 4)
        self._words = words[: self.slots]
        self._stamps = words[self._groups * abi.SLOTS_PER_GROUP :][: self.slots]

    def write(self, current: Slots, previous: Slots) -> int:
        """Bring the kernel's slots to these; the number of slots that changed."""
        words = current.astype(np.uint32) | previous.astype(np.uint32) << np.uint32(16)
        (different,) = np.nonzero(words != self._words)
        self._words[different] = words[different]
        return len(different)

    def read(self) -> tuple[Slots, Slots]:
        words = self._words.copy()
        return (words & 0xFFFF).astype(np.uint16), (words >> 16).astype(np.uint16)

    def used(self) -> NDArray[np.uint32]:
        """By slot: the tick at which it last sent a packet to a server that is not its current one; 0 never."""
        return self._stamps.copy()

    def close(self) -> None:
        del self._words, self._stamps
        self._memory.close()
        self.map.close()


class Dataplane:
    """One program and its maps, loaded or found pinned. Closing it leaves in the kernel what is pinned or attached."""

    def __init__(self, maps: dict[str, Map], programs: dict[str, Program], object_: Object | None = None) -> None:
        self.maps = maps
        self.tables: dict[int, Table] = {}
        self._directory: Path | None = None  # where it is pinned
        self._programs = programs
        self._object = object_

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        settings: abi.Settings,
        sizes: Sizes,
        programs: tuple[str, ...] = PROGRAMS,
        reuse: Mapping[str, Map] | None = None,
        code: Code | None = None,
    ) -> "Dataplane":
        """`reuse`: maps of a program before this one, which live on in it with all that is in them. `code`: what BCC
        made of the programs; the object then gives nothing but the maps."""
        load = partial(cls._load, path, settings=settings, sizes=sizes, programs=programs, reuse=reuse or {}, code=code)
        buffer = kernel_types.socket_buffer() if TC in programs else None
        try:
            return load(buffer=buffer)
        except KernelError:
            # A kernel may have the function and not call it from a program: without it all works, with more calls.
            if buffer is None:
                raise
            return load(buffer=None)

    @classmethod
    def _load(
        cls,
        path: Path,
        *,
        settings: abi.Settings,
        sizes: Sizes,
        programs: tuple[str, ...],
        reuse: Mapping[str, Map],
        code: Code | None,
        buffer: Buffer | None,
    ) -> "Dataplane":
        object_ = Object(path)
        object_.set_constants(settings.pack())
        entries = {
            "services": sizes.keys,
            "tables": sizes.services,
            "servers": sizes.servers,
            "traffic": sizes.servers,
            "sources": sizes.sources,
            "memories": settings.memory_buckets,
            "flows": settings.flow_buckets,
        }
        try:
            for name, count in entries.items():
                if name not in reuse:
                    object_.set_max_entries(name, count)
            for name, existing in reuse.items():
                object_.reuse(name, existing.fd)
            if code is None:
                object_.rewrite(partial(resolve, buffer=buffer))
                object_.load(*programs)
                return cls({n: Map(object_.map(n)) for n in MAPS}, {n: object_.program(n) for n in programs}, object_)
            object_.load(NOTHING)
            with ExitStack() as opened:
                maps = [opened.enter_context(Map(object_.map(name))) for name in object_.map_names()]
                loaded = {each.name: each for each in code.load([each.fd for each in maps], buffer)}
            plane = cls({n: Map(object_.map(n)) for n in MAPS}, loaded)
        except BaseException:
            object_.close()
            raise
        object_.close()
        return plane

    @classmethod
    def pinned(cls, directory: Path) -> "Dataplane":
        maps = {name: Map.pinned(directory / name) for name in MAPS}
        names = [name for name in PROGRAMS if (directory / name).exists()]
        plane = cls(maps, {name: Program.pinned(name, directory / name) for name in names})
        plane._directory = directory
        return plane

    def pin(self, directory: Path) -> None:
        """Everything that is not pinned there yet; programs take the place of those before them."""
        for name, each in self.maps.items():
            if not (directory / name).exists():
                each.pin(directory / name)
        for name in PROGRAMS:
            (directory / name).unlink(missing_ok=True)
        for name, program in self._programs.items():
            program.pin(directory / name)
        self._directory = directory
        for service, table in self.tables.items():
            self._pin_table(service, table)

    def close(self) -> None:
        for table in self.tables.values():
            table.close()
        self.tables.clear()
        for each in self.maps.values():
            each.close()
        if self._object is not None:
            self._object.close()
        else:
            for program in self._programs.values():
                program.close()

    def __enter__(self) -> "Dataplane":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def programs(self) -> Mapping[str, Program]:
        return self._programs

    def program(self, name: str) -> Program:
        return self._programs[name]

    def set_filter(self, flags: Mapping[abi.Address, abi.Filter]) -> None:
        """Which addresses interest the program: all of them, those before are forgotten."""
        wanted = [0] * abi.FILTER_SIZE
        for address, flag in flags.items():
            wanted[abi.filter_index(address)] |= flag
        keys = b"".join(map(abi.index, range(abi.FILTER_SIZE)))
        self.maps["filter"].update_packed(keys, struct.pack(f"={abi.FILTER_SIZE}I", *wanted), abi.FILTER_SIZE)

    def set_service(self, key: abi.ServiceKey, service: abi.Service) -> None:
        self.maps["services"][key.pack()] = service.pack()

    def remove_service(self, key: abi.ServiceKey) -> None:
        del self.maps["services"][key.pack()]

    def table(self, service: int, slots: int) -> Table:
        """The table of a service, made when it has none. The kernel sees it at once: write it before the service."""
        table = self.tables.get(service)
        if table is None:
            tables = self.maps["tables"]
            # By its path: to open a map by its number takes CAP_SYS_ADMIN.
            path = self._table_path(service)
            known = path is not None and path.exists() and tables.get(abi.index(service)) is not None
            table = self.tables[service] = Table(slots, existing=Map.pinned(path) if path and known else None)
            if not known:
                self._pin_table(service, table)
                tables[abi.index(service)] = struct.pack("=I", table.map.fd)
        return table

    def leave_table(self, service: int) -> None:
        """Not look at a service's table any more: what this process has mapped of it counts as its memory."""
        table = self.tables.pop(service, None)
        if table is not None:
            table.close()

    def remove_table(self, service: int) -> None:
        self.leave_table(service)
        if self.maps["tables"].get(abi.index(service)):
            del self.maps["tables"][abi.index(service)]
        if path := self._table_path(service):
            path.unlink(missing_ok=True)

    def _table_path(self, service: int) -> Path | None:
        return self._directory and self._directory / f"slots-{service}"

    def _pin_table(self, service: int, table: Table) -> None:
        if path := self._table_path(service):
            path.unlink(missing_ok=True)
            table.map.pin(path)

    def set_server(self, id_: int, server: abi.Server) -> None:
        self.maps["servers"][abi.index(id_)] = server.pack()

    def set_source(self, number: int, source: abi.Source) -> None:
        self.maps["sources"][abi.index(number)] = source.pack()

    def set_link(self, interface: int, hop: abi.Hop) -> None:
        """How replies of full NAT flows leave through an interface."""
        self.maps["links"][abi.index(interface)] = hop.pack()

    def traffic(self, server: int) -> abi.Traffic:
        return abi.Traffic.unpack(self.maps["traffic"][abi.index(server)])

    def counted(self, servers: int) -> NDArray[np.uint64]:
        """The traffic of the servers with the first numbers: a row a server, a column a field of struct traffic."""
        counters = self.maps["traffic"]
        packed = np.frombuffer(counters.first(servers), dtype=np.uint64)
        summed: NDArray[np.uint64] = packed.reshape(servers, counters.values_per_key, -1).sum(axis=1)
        return summed

    def causes(self) -> dict[abi.Cause, int]:
        counters = self.maps["causes"]
        layout = struct.Struct(f"={counters.values_per_key}Q")
        return {cause: sum(layout.unpack(counters[abi.index(cause)])) for cause in abi.Cause}

    def explain(self, packet: bytes) -> abi.Explanation:
        """What the program itself says it would do with this packet; it changes nothing. Packets come one at a time."""
        self.program(EXPLAIN).run(packet)
        return abi.Explanation.unpack(self.maps["explanations"][abi.index(0)])
