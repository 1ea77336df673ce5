"""The engine of sysctls, those it is asked about and no others, in the network namespace of the calling thread."""

import errno
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kernlb.counters import Counters
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import Key, Sysctl, SysctlKey, Table
from kernlb.plan import Operation

_ROOT = Path("/proc/sys")
_MODULES = (
    ("net.ipv4.vs.", "ip_vs", "CONFIG_IP_VS"),
    ("net.netfilter.nf_conntrack", "nf_conntrack", "CONFIG_NF_CONNTRACK"),
    ("net.bridge.", "br_netfilter", "CONFIG_BRIDGE_NETFILTER"),
    ("net.ipv6.", "ipv6", "CONFIG_IPV6"),
    ("net.mptcp.", "mptcp", "CONFIG_MPTCP"),
    ("net.sctp.", "sctp", "CONFIG_IP_SCTP"),
)


class Sysctls:
    handles: tuple[type, ...] = (SysctlKey,)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def read(self) -> Table:
        """Those of the names that this kernel has, blanks collapsed."""
        found = {SysctlKey(name): _value(name) for name in self._names}
        return {key: Sysctl(value) for key, value in found.items() if value is not None}

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            key, after = operation.key, operation.after
            if not isinstance(key, SysctlKey):
                continue
            if not isinstance(after, Sysctl):
                raise Unsupported(
                    f"sysctl {key.name} cannot be removed", where=key.name, hint="give it the value it had before"
                )
            try:
                _path(key.name).write_text(f"{after.value}\n")
            except OSError as error:
                raise _refused(key.name, after.value, error) from error

    def counters(self) -> Mapping[Key, Counters]:
        return {}


def _path(name: str) -> Path:
    """`sysctl` writes a dot within an interface's name as a slash: net.ipv4.conf.eth0/100.rp_filter."""
    return _ROOT / name.translate(str.maketrans("./", "/."))


def _value(name: str) -> str | None:
    try:
        return " ".join(_path(name).read_text().split())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KernelError(
            f"cannot read sysctl {name}: {error.strerror}", errno=error.errno or errno.EIO, where=name
        ) from error


def _refused(name: str, value: str, error: OSError) -> KernlbError:
    number = error.errno or errno.EIO
    if number in (errno.ENOENT, errno.ENOTDIR):
        module, option = next(((m, o) for prefix, m, o in _MODULES if name.startswith(prefix)), ("", ""))
        return Unsupported(
            f"kernel {platform.release()} has no sysctl {name}"
            + (f": module {module} is not loaded" if module else ""),
            where=name,
            hint=f"modprobe {module}, or boot a kernel with {option}" if module else "check its name",
        )
    meaning, hint = {
        errno.EINVAL: (f"the kernel does not take the value {value!r}", None),
        errno.EROFS: ("/proc/sys is read-only here", "set it outside the container, or make /proc/sys writable"),
        errno.EACCES: ("it needs root", "run as root"),
        errno.EPERM: ("it needs root in the user namespace that owns this network namespace", "run as root"),
    }.get(number, (os.strerror(number), None))
    return KernelError(f"cannot set sysctl {name} to {value}: {meaning}", errno=number, where=name, hint=hint)
