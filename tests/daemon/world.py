"""A daemon on the memory engine, with real servers on loopback addresses that live and die as a test says."""

import asyncio
import io
import itertools
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kernlb.config.values import Config
from kernlb.control import Control
from kernlb.control_client import ControlClient
from kernlb.daemon.daemon import Daemon
from kernlb.daemon.options import Machine, Options, Signs
from kernlb.daemon.orders import Orders
from kernlb.desired import Meaning
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.memory import Memory
from kernlb.engines.nftables import Nftables, ruleset
from kernlb.errors import KernlbError
from kernlb.journal import Journal
from kernlb.kernel import Kernel
from kernlb.model import EngineName, ServerKey
from kernlb.reconciler import Consent, Reconciler
from kernlb.source import Source, read, understand
from kernlb.state import Store
from kernlb.systemd import Notifier
from kernlb.watch import Watch

PATIENCE = 20.0
FAST = 'check = { type = "tcp", interval = "50ms", timeout = "500ms", rise = 2, fall = 2 }\n'
_numbers = itertools.count(1)
_PORT = 8081


async def until(answer: Callable[[], Any], *, patience: float = PATIENCE) -> None:
    """Ask again until it is so. Fails at the deadline."""
    deadline = time.monotonic() + patience
    while not answer():
        assert time.monotonic() < deadline, f"not so within {patience:g} s"
        await asyncio.sleep(0.01)


@cache
def _network() -> tuple[str, socket.socket]:
    """Of loopback addresses one that no other run of the tests uses, as long as this process lives."""
    for number in range(100, 127):
        claim = socket.socket()
        try:
            claim.bind((f"127.{number}.255.255", _PORT))
        except OSError:
            claim.close()
        else:
            return f"127.{number}", claim
    raise RuntimeError("too many runs of the tests at a time")


class Server:
    """A listener on a loopback address of its own that can be killed and brought back. A dead one refuses."""

    def __init__(self) -> None:
        network, _ = _network()
        number = next(_numbers)
        self.address = f"{network}.{number // 250}.{number % 250 + 1}"
        self.port = _PORT
        self._server: asyncio.Server | None = None

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}"

    async def live(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._met, self.address, self.port, reuse_address=True)

    async def die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()


@dataclass(slots=True)
class World:
    """Memory engines outlive daemons, as a kernel does. `ipvs` holds services and servers, `rest` all else, but for
    what `filtering` holds. `closed`: why engines cannot be opened."""

    directory: Path
    ipvs: Memory = field(default_factory=Memory)
    filtering: Nftables | None = None
    rest: Memory = field(default_factory=Memory)
    log: io.StringIO = field(default_factory=io.StringIO)
    daemon: Daemon | None = None
    aside: Path | None = None
    closed: KernlbError | None = None
    options: Options = field(default_factory=lambda: Options(passive=False, deadline=1.0))

    @property
    def file(self) -> Path:
        return self.directory / "kernlb.toml"

    @property
    def state(self) -> Path:
        return self.directory / "state" / "state.json"

    def fill_disk(self) -> None:
        """The state can be written no more."""
        shutil.rmtree(self.state.parent, ignore_errors=True)
        self.state.parent.symlink_to(self.directory / "none")

    def make_room(self) -> None:
        self.state.parent.unlink()

    @property
    def client(self) -> ControlClient:
        return ControlClient(self.directory / "run" / "control.sock", timeout=PATIENCE)

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def weights(self) -> dict[str, int]:
        """By address, as in the kernel now."""
        return {str(k.address): v.weight for k, v in self.ipvs.read().items() if isinstance(k, ServerKey)}  # type: ignore[union-attr]

    async def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """A request of the control socket, from another thread as another process would."""
        return await asyncio.to_thread(self.client.ask, method, path, **body)

    def made(self) -> tuple[Machine, Signs, Reconciler]:
        """What a daemon is made from."""
        machine = Machine(
            open=lambda config, owned: self._open(),
            meaning=_meaning,
            read=self.source,
            understand=_understand,
            remember=lambda source: None,
        )
        signs = machine.open(None, None)  # type: ignore[arg-type]
        store = Store(self.state, aside=self.aside)
        return machine, signs, Reconciler(signs.kernel, store, Consent(), lambda key: None, lasting=True)

    @asynccontextmanager
    async def running(self, text: str | None = None, *, cut: bool = False) -> AsyncIterator[Daemon]:
        """A daemon with its control socket. `cut` ends it as kill -9 would: nothing is written down at the end."""
        if text is not None:
            self.write(text)
        machine, signs, reconciler = self.made()
        journal, notifier = Journal(self.log, clock=time.time, environment={}), Notifier({})
        daemon = Daemon(
            self.source(),
            reconciler=reconciler,
            signs=signs,
            machine=machine,
            options=self.options,
            journal=journal,
            notifier=notifier,
        )
        orders = Orders(daemon, machine=machine, journal=journal, notifier=notifier, accept_loss=False)
        control = Control(orders, self.directory / "run" / "control.sock")
        await daemon.start()
        await control.open()
        running = asyncio.create_task(daemon.run())
        self.daemon = daemon
        saved = self._saved()
        try:
            yield daemon
            saved = self._saved()
        finally:
            daemon.stop()
            await asyncio.wait_for(running, PATIENCE)
            await control.close()
            if cut:
                for path, content in saved.items():
                    path.write_bytes(content) if content is not None else path.unlink(missing_ok=True)

    def _saved(self) -> dict[Path, bytes | None]:
        places = [self.state] if self.aside is None else [self.state, self.aside]
        return {path: path.read_bytes() if path.is_file() else None for path in places}

    def _open(self) -> Watch:
        if self.closed is not None:
            raise self.closed
        return Watch(self._kernel())

    def _kernel(self) -> Kernel:
        self.ipvs.handles = Ipvs.handles
        return Kernel({EngineName.IPVS: self.ipvs}, (*filter(None, [self.filtering]), self.rest))

    def source(self) -> Source:
        return read(str(self.file))


def _meaning(config: Config) -> Meaning:
    engines = {each.name: EngineName.IPVS for each in config.services}
    return Meaning(config, engines=engines, ruleset=ruleset(mark_base=config.engine.mark_base))


def _understand(content: bytes, file: str, format: str | None) -> Source:
    return understand(content, file)


def service(*servers: Server, name: str = "web", more: str = "", check: str = FAST, bind: str = "192.0.2.1:80") -> str:
    listed = "".join(f's{n} = "{server.where}"\n' for n, server in enumerate(servers, start=1))
    return f'[service.{name}]\nbind = ["{bind}"]\n{check}{more}[service.{name}.servers]\n{listed}'


def half_request(path: Path, data: bytes) -> socket.socket:
    """A client that says so much and no more."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    sock.send(data)
    return sock


def reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
