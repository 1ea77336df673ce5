"""What a check command may: nothing of what its daemon was granted."""

import subprocess
import sys

import pytest

_CHECK = """
import asyncio, os, subprocess
from pathlib import Path
from kernlb.checks.processes import Household

def effective(text):
    return int(text.partition("CapEff:")[2].split()[0], 16)

before = Path("/proc/thread-self/status").read_text()
command = Household().start(["/bin/cat", "/proc/self/status"], environment={}, user=None, group=None)
child, _ = command.communicate()
own = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True).stdout
print(effective(before), effective(child.decode()), effective(own))
"""


@pytest.mark.root
def test_a_command_inherits_no_capability_and_other_programs_still_do() -> None:
    granted = ["setpriv", "--securebits=+noroot", "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"]
    done = subprocess.run([*granted, sys.executable, "-c", _CHECK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{1 << 12} 0 {1 << 12}\n", "")
