"""One boot of User Mode Linux, a kernel that is a process of this machine: a command run in it as root, like guest.py.

It has IPVS and one processor. Programs run at this machine's own speed, where QEMU without KVM emulates each
instruction; a system call costs some 50 µs, for it goes through ptrace. Of nftables it has no family but bridge.
"""

import os
import shutil
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from bench.usage import processor_seconds
from tests.vm.errors import GuestError
from tests.vm.guest import Job, outcome, process, shared, workplace

PROGRAM = "linux.uml"
INIT = Path(__file__).with_name("init-uml")
CLOCK = "KERNLB_MACHINE_CLOCK"
"""In the guest's environment: a terminal that answers a line with the processor seconds spent on the guest so far."""
TERMINAL = "/dev/tty1"


def run(job: Job, *, stdout: BinaryIO, stderr: BinaryIO) -> int:
    """As guest.run; whatever the job says, the guest has one processor."""
    program = shutil.which(PROGRAM)
    if not program:
        raise GuestError(f"no program {PROGRAM}, a kernel that is a process (Debian: apt install user-mode-linux)")
    if os.geteuid() != 0:
        raise GuestError("User Mode Linux runs in a PID namespace, so that it leaves no process: that takes root")
    job = replace(job, environment={CLOCK: TERMINAL, **job.environment})
    clock, theirs = socket.socketpair()
    with clock, theirs, workplace(job, "\n".join([*shared(job), ""])) as work:
        boot = [f"mem={job.memory}M", "root=/dev/root", "rootfstype=hostfs", "ro", "quiet", "panic=-1"]
        boot += [f"init={INIT}", f"uml_dir={work}", "con=null", "con0=null,fd:1", f"con1=fd:{theirs.fileno()}"]
        # The shell is there to be process 1, which cannot abort as a kernel in panic does.
        contained = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", '"$@"; exit', "sh"]
        command = [*contained, program, *boot, f"job={work}"]
        # unshare ignores every milder signal while it waits.
        with process(command, work / "console", descriptors=[theirs.fileno()], stop=signal.SIGKILL) as machine:
            theirs.close()
            threading.Thread(target=_tell_time, args=(clock, machine.pid), daemon=True).start()
            return outcome(machine, job, work, stdout=stdout, stderr=stderr)


def _tell_time(clock: socket.socket, machine: int) -> None:
    with clock.makefile("rw") as lines:
        for _ in lines:
            lines.write(f"{processor_seconds(machine)}\n")
            lines.flush()
