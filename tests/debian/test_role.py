"""Ansible's role director, over ssh, on a Debian 12 that is booted with IPVS: once, and again."""

import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from tests.debian.booted import HERE, MARKS, installed
from tests.debian.package import REPOSITORY
from tests.vm import guest
from tests.vm.initramfs import initramfs
from tests.vm.kernel import kernel

pytestmark = [pytest.mark.ansible, *MARKS, pytest.mark.timeout(2400)]

VAGRANT = REPOSITORY / "vagrant"
CONFIGURATION = """
[service.web]
bind = "192.0.2.1:80"
forwarding = "fullnat"
check = { type = "tcp", timeout = "2s" }

[service.web.servers]
s1 = "10.0.0.1:80"
"""
# A busy machine, too, gets through it; minutes where nothing else runs.
PATIENCE = 1800
PLAY = """
- hosts: all
  roles: [kernlb.kernlb.director]
  vars:
    director_install: deb
    director_package: {package}
    director_apt_cache_valid_time: 1000000000
    kernlb_configuration: "{{{{ lookup('ansible.builtin.file', '{configuration}') }}}}"
"""
ASK = "import urllib.request as u; print(u.urlopen('http://192.0.2.1/', timeout=60).read().decode(), end='')"
RECAP = re.compile(r"ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)")


@dataclass(frozen=True, slots=True)
class Director:
    """A booted machine, reached by ssh; `directory` holds its key and the play."""

    directory: Path
    port: int

    def ssh(self, *command: str, patience: float = 120) -> subprocess.CompletedProcess[str]:
        options = ["-i", str(self.directory / "key"), "-p", str(self.port)]
        for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"):
            options += ["-o", option]
        return subprocess.run(
            ["ssh", *options, "root@127.0.0.1", shlex.join(command)], capture_output=True, text=True, timeout=patience
        )

    def play(self) -> int:
        """How many tasks changed something."""
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory", "play.yml"],
            cwd=self.directory,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(VAGRANT / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.directory / "ansible"),
                "ANSIBLE_COLLECTIONS_PATH": str(VAGRANT / "collections"),
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        recap = RECAP.search(done.stdout)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        assert recap
        print(done.stdout)
        return int(recap[2])


@contextmanager
def booted(tree: Path, port: int) -> Iterator[None]:
    """The machine of this tree; its port 22 is `port` here. It is ended by its own end of patience, or by us."""
    (tree / "job.sh").write_bytes((HERE / "role_job.sh").read_bytes())
    chosen = kernel(guest.best_filesystem())
    job = guest.Job(
        command=["/bin/bash", "/job.sh"], directory=Path("/"), timeout=PATIENCE, root=tree, systemd=True, ssh=port
    )
    said = io.BytesIO()
    machine = Thread(
        target=guest.run,
        args=(job,),
        kwargs={"kernel": chosen, "initramfs": initramfs(chosen), "stdout": said, "stderr": said},
    )
    machine.start()
    try:
        yield
    finally:
        machine.join()
        print(said.getvalue().decode())


@pytest.fixture(scope="module")
def director(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Director]:
    directory = tmp_path_factory.mktemp("role")
    tree = installed(package, directory, "")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "key"], check=True)
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (tree / "root/.ssh/authorized_keys").write_bytes((directory / "key.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "kernlb.toml").write_text(CONFIGURATION)
    (directory / "play.yml").write_text(PLAY.format(package=package, configuration=directory / "kernlb.toml"))
    (directory / "inventory").write_text(
        f"director ansible_host=127.0.0.1 ansible_port={port} ansible_user=root"
        f" ansible_ssh_private_key_file={directory}/key\n"
    )
    found = Director(directory, port)
    with booted(tree, port):
        try:
            reachable(found)
            yield found
        finally:
            found.ssh("touch", "/run/enough")


def reachable(director: Director) -> None:
    deadline = time.monotonic() + PATIENCE / 2
    while director.ssh("true").returncode:
        assert time.monotonic() < deadline, "no answer by ssh"
        time.sleep(1)


def test_the_second_run_changes_nothing_and_the_director_balances(director: Director) -> None:
    assert director.play() > 0
    assert director.play() == 0
    status = director.ssh("kernlb", "--json", "status")
    assert status.returncode == 0, status.stdout + status.stderr
    asked = director.ssh("ip", "netns", "exec", "client", "python3", "-c", ASK)
    assert asked.stdout == "it is me\n", asked.stderr
