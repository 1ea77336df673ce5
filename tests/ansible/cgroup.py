"""A control group of a machine's own: two systemd in one would remove and kill what the other has started."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.system.director import until

_PATIENCE = 60.0
# Mounted for this alone: not every machine has version 2 in the same place, or at all.
_MOUNTED = "mount --make-rprivate / && mount -t cgroup2 cgroup2 /mnt && "
_ENTER = _MOUNTED + 'mkdir "/mnt/$1" && echo $$ >"/mnt/$1/cgroup.procs" && umount /mnt && shift && exec "$@"'
_REMOVE = (
    _MOUNTED + 'if [ -d "/mnt/$1" ]; then find "/mnt/$1" -depth -type d -exec rmdir {} \\;; [ ! -d "/mnt/$1" ]; fi'
)


@contextmanager
def entered(name: str) -> Iterator[Sequence[str]]:
    """The command in front of another that runs it in a new group of that name; the group goes with its processes."""
    try:
        yield _command(_ENTER, name)
    finally:
        # The kernel takes a moment to end what was killed.
        removal = _command(_REMOVE, name)
        until(lambda: subprocess.run(removal, capture_output=True).returncode == 0, patience=_PATIENCE)


def _command(script: str, name: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", script, "sh", name]
