"""What a check command may: nothing of what its daemon was granted."""

import subprocess
import sys

import pytest

from kernlb.checks.privileges import BECOME
from tests.checks.servers import without_capabilities

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


_RUN = '''
from kernlb.daemon.machine import machine
from kernlb.errors import Unsupported
from kernlb.places import Places
from kernlb.reconciler import Consent
this = machine("f", None, places=Places(), consent=Consent())
text = b"""
[service.web]
bind = ["192.0.2.1:80"]
forwarding = "fullnat"
check = {{ type = "command", argv = ["true"]{user} }}
servers.a = "10.0.0.1:80"
"""
try:
    this.meaning(this.understand(text, "f", "toml").config)
    print("fine")
except Unsupported as refused:
    print(refused.message, refused.hint, sep="; ")
'''


def test_a_daemon_that_may_become_nobody_else_takes_no_file_that_asks_for_it() -> None:
    assert without_capabilities(_RUN.format(user="")) == "fine"
    refused = without_capabilities(_RUN.format(user=', user = "nobody"'))
    assert refused == f"the check of a is to run as nobody, which this process may not become; {BECOME}"


@pytest.mark.root
def test_a_command_inherits_no_capability_and_other_programs_still_do() -> None:
    granted = ["setpriv", "--securebits=+noroot", "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"]
    done = subprocess.run([*granted, sys.executable, "-c", _CHECK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{1 << 12} 0 {1 << 12}\n", "")
