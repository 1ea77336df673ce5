"""The program compiled on this machine by BCC: a child process compiles, the code is linked and loaded here."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from kernlb.engines import abi, bcc_compiler, specialise
from kernlb.engines.bytecode import Code
from kernlb.errors import Unsupported

SOURCE = "balancer.bpf.c"
HINT = "Debian: apt install python3-bpfcc linux-libc-dev (the package bcc on PyPI is something else)"
PATIENCE = 240.0
_DISTRIBUTION = "/usr/bin/python3"
"""The Python that python3-bpfcc is for."""
_TOLD = 12


class Compilation:
    """One that is under way in a process of its own."""

    def __init__(
        self, directory: Path, settings: abi.Settings, *, programs: Sequence[str], maps: Sequence[str]
    ) -> None:
        """`directory` of the source; `maps` in the order of their numbers. Raises Unsupported where there is no BCC."""
        self._unit = specialise.unit(
            SOURCE,
            lambda name: (directory / name).read_text(),
            programs=programs,
            # With full NAT the verifier would walk more than it is ready to.
            inline=not settings.fullnat,
        )
        self._functions = (*self._unit.entries, *self._unit.callees)
        self._asked = json.dumps(
            {
                "unit": {specialise.UNIT: self._unit.text},
                "main": self._unit.main,
                "flags": [*_flags(directory), *specialise.definitions(settings, maps)],
                "functions": [each.name for each in self._functions],
            }
        )
        self._environment = {**os.environ, "BCC_KERNEL_SOURCE": str(directory / "bcc")}
        self._left = [python for python in dict.fromkeys((sys.executable, _DISTRIBUTION)) if Path(python).exists()]
        self._answer: IO[bytes]
        self._told: IO[bytes]
        self._process = self._start()

    def done(self) -> bool:
        """Whether there is an answer by now. Where one Python has no BCC, the next is asked."""
        if self._process.poll() is None:
            return False
        if self._process.returncode == bcc_compiler.NO_BCC and self._left:
            self._process = self._start()
            return False
        return True

    def result(self) -> Code:
        """Waits for it. Raises Unsupported with what the compiler said."""
        try:
            while not self.done():
                self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired as late:
            self.stop()
            raise Unsupported(f"BCC compiled for {PATIENCE:.0f} s without an end") from late
        self._told.seek(0)
        told = self._told.read().decode(errors="replace").strip().splitlines()
        if self._process.returncode == bcc_compiler.NO_BCC:
            raise Unsupported("no BCC on this machine", hint=HINT)
        if self._process.returncode:
            raise Unsupported("BCC does not compile the program", hint="\n".join([*told[:_TOLD], HINT]))
        self._answer.seek(0)
        code = json.loads(self._answer.read())
        compiled = {each: bytes.fromhex(code[each.name]) for each in self._functions}
        return Code(self._unit.entries, self._unit.callees, compiled)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        # Files, not pipes: nobody has to read while it works.
        self._answer, self._told = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        command = (self._left.pop(0), "-I", str(Path(bcc_compiler.__file__)))
        with tempfile.TemporaryFile() as asked:
            asked.write(self._asked.encode())
            asked.seek(0)
            return subprocess.Popen(command, stdin=asked, stdout=self._answer, stderr=self._told, env=self._environment)


def _flags(directory: Path) -> list[str]:
    places = (directory, Path(f"/usr/include/{platform.machine()}-linux-gnu"), Path("/usr/include"))
    return [*(f"-I{place}" for place in places), "-g0"]
