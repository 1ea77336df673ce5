"""One boot of a guest: QEMU started, a command run in it as root, its output and exit status handed back.

The guest sees this machine's files where they are; what it writes vanishes, except under the shared directories.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.vm.errors import GuestError, GuestTimeout
from tests.vm.kernel import Filesystem, Kernel

QEMU = "qemu-system-x86_64"
VIRTIOFSD = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# An old model boots in two thirds of the time of `max`: fewer instructions to patch in and emulate.
CPU = "Nehalem-v1,+rdrand,+rdseed"
STREAMS = ("stdout", "stderr", "status")
POLL = 0.02
SOCKET_DEADLINE = 10
STOP_DEADLINE = 5
CONSOLE_TAIL = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command and all that its guest should be; memory in MiB, timeout in seconds, boot included. `root` is a tree
    of this machine that becomes the guest's; with `systemd` that is the first process, and the command a service."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    shared: Sequence[Path] = ()
    timeout: float = 300
    memory: int = 1024
    cpus: int = 1
    kvm: bool = False
    merge_output: bool = False
    root: Path = Path("/")
    systemd: bool = False


def run(job: Job, *, kernel: Kernel, initramfs: Path, stdout: BinaryIO, stderr: BinaryIO) -> int:
    """Boot, run the command, copy its output as it comes, power off; the command's exit status (128 + n for signal n).

    Raises GuestTimeout, or GuestError with the end of the guest's console.
    """
    with ExitStack() as resources:
        work = resources.enter_context(workplace(job, _settings(job, kernel)))
        filesystem = kernel.filesystem
        shares = _shares(resources, job, filesystem, work)
        qemu = _qemu(job, kernel, initramfs, filesystem, work)
        machine = resources.enter_context(process([*qemu, *shares], work / "qemu.log"))
        return outcome(machine, job, work, stdout=stdout, stderr=stderr)


@contextmanager
def workplace(job: Job, settings: str) -> Iterator[Path]:
    """A directory with what the guest reads, and the files it writes its output and status to."""
    with tempfile.TemporaryDirectory(prefix="kernlb-vm-") as name:
        work = Path(name)
        (work / "settings").write_text(settings)
        (work / "command").write_text(_command(job))
        for stream in STREAMS:
            (work / stream).touch()
        yield work


def outcome(machine: subprocess.Popen[bytes], job: Job, work: Path, *, stdout: BinaryIO, stderr: BinaryIO) -> int:
    """Hands over the output as it comes, until the machine ends; the command's exit status."""
    with (work / "stdout").open("rb") as ours, (work / "stderr").open("rb") as complaints:
        outputs = [(ours, stdout), (complaints, stderr)]
        deadline = time.monotonic() + job.timeout
        while machine.poll() is None:
            if time.monotonic() > deadline:
                _copy(outputs)
                raise GuestTimeout(f"the guest was stopped: {shlex.join(job.command)} took over {job.timeout:g} s")
            _copy(outputs)
            time.sleep(POLL)
        _copy(outputs)
    return _status(work)


def _copy(outputs: Sequence[tuple[BinaryIO, BinaryIO]]) -> None:
    for source, sink in outputs:
        if data := source.read():
            sink.write(data)
            sink.flush()


def _status(work: Path) -> int:
    status = (work / "status").read_text().strip()
    if status.isdigit():
        return int(status)
    places = [work / name for name in ("console", "qemu.log") if (work / name).exists()]
    logs = [place.read_text(errors="replace")[-CONSOLE_TAIL:] for place in places]
    raise GuestError("\n".join(["the guest ended before its command did; its last words:", *logs]).rstrip())


def _settings(job: Job, kernel: Kernel) -> str:
    """What `init` sources: where the modules are, and the directories to mount read-write."""
    return "\n".join([f"modules={shlex.quote(str(kernel.modules))}", *shared(job), ""])


def shared(job: Job) -> list[str]:
    return [f"share share{number} {shlex.quote(str(path))}" for number, path in enumerate(job.shared)]


def _command(job: Job) -> str:
    environment = {"PATH": SEARCH_PATH, "HOME": "/root", "LANG": "C.UTF-8", "KERNLB_GUEST": "1", **job.environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    merge = ["exec 2>&1"] if job.merge_output else []
    return "\n".join(
        [*merge, *exports, f"cd {shlex.quote(str(job.directory))} || exit", f"exec {shlex.join(job.command)}", ""]
    )


def best_filesystem() -> Filesystem:
    """virtiofs where its daemon is there and may run, else 9p."""
    if os.geteuid() == 0 and any(daemon.exists() for daemon in VIRTIOFSD):
        return Filesystem.VIRTIOFS
    return Filesystem.P9


def _qemu(job: Job, kernel: Kernel, initramfs: Path, filesystem: Filesystem, work: Path) -> list[str]:
    program = shutil.which(QEMU)
    if not program:
        raise GuestError(f"no program {QEMU}, which runs the guest kernel (Debian: apt install qemu-system-x86)")
    # A /dev/kvm that exists may still hang its guests, so it is used only when asked for.
    accelerator = ["-accel", "kvm", "-cpu", "host"] if job.kvm else ["-accel", "tcg,thread=multi", "-cpu", CPU]
    boot = (
        "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr tsc=reliable random.trust_cpu=on"
        " noreplace-smp cryptomgr.notests"
        f" vm.filesystem={filesystem} vm.job={work} vm.root={'' if job.root == Path('/') else job.root}"
    )
    if job.systemd:
        boot += " vm.systemd=yes systemd.wants=vm-job.service"
    arguments = [program, *accelerator, "-smp", str(job.cpus), "-m", str(job.memory), "-machine", "q35"]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]
    arguments += ["-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", boot]
    arguments += ["-serial", f"file:{work}/console", "-device", "virtio-serial-pci"]
    for name in STREAMS:
        # Files, not pipes: QEMU writes them whole, so nothing is in flight when the guest powers off.
        arguments += ["-chardev", f"file,id={name},path={work}/{name}"]
        arguments += ["-device", f"virtserialport,chardev={name},name=vm.{name}"]
    if filesystem is Filesystem.VIRTIOFS:
        arguments += ["-object", f"memory-backend-memfd,id=memory,size={job.memory}M,share=on"]
        arguments += ["-machine", "memory-backend=memory"]
    return arguments


def _shares(resources: ExitStack, job: Job, filesystem: Filesystem, work: Path) -> list[str]:
    """QEMU's arguments for the root and the shared directories; starts a virtiofsd for each where that is the way."""
    directories = [("root", Path("/")), *((f"share{number}", path) for number, path in enumerate(job.shared))]
    arguments: list[str] = []
    for tag, directory in directories:
        read_only = tag == "root"
        match filesystem:
            case Filesystem.P9:
                model = "none,readonly=on" if read_only else "passthrough" if os.geteuid() == 0 else "none"
                arguments += ["-fsdev", f"local,id={tag},path={directory},multidevs=remap,security_model={model}"]
                arguments += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
            case Filesystem.VIRTIOFS:
                socket = work / f"{tag}.socket"
                resources.enter_context(_virtiofsd(directory, socket, cache="always" if read_only else "auto"))
                arguments += ["-chardev", f"socket,id={tag},path={socket}"]
                arguments += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    return arguments


@contextmanager
def _virtiofsd(directory: Path, socket: Path, *, cache: str) -> Iterator[None]:
    program = next((path for path in VIRTIOFSD if path.exists()), None)
    if not program:
        raise GuestError("no virtiofsd (Debian 12: apt install qemu-system-common); --filesystem 9p does without")
    options = ["-o", f"source={directory}", "-o", "sandbox=chroot", "-o", f"cache={cache}"]
    log = socket.with_suffix(".log")
    with process([str(program), f"--socket-path={socket}", *options], log) as daemon:
        deadline = time.monotonic() + SOCKET_DEADLINE
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(errors="replace")[-CONSOLE_TAIL:]
                raise GuestError(f"virtiofsd does not start; --filesystem 9p does without\n{words}".rstrip())
            time.sleep(POLL / 4)
        yield


@contextmanager
def process(
    command: Sequence[str], log: Path, *, descriptors: Sequence[int] = (), stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this block, and with this process however that ends."""
    # setpriv (util-linux) asks the kernel to kill the child with its parent: even SIGKILL leaves nothing behind.
    wrapped = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        started = subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=descriptors,
        )
    try:
        yield started
    finally:
        started.send_signal(stop)
        try:
            started.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
