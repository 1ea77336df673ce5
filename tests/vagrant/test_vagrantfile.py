"""The Vagrantfile and its playbooks, as far as their own programs read them without a machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vagrant.__main__ import VAGRANT

BIN = Path(sys.executable).parent
PATIENCE = 200
PLAYS = ("site.yml", "smoke.yml", "alone.yml")
INVENTORY = "[directors]\nlb1\nlb2\n[real_servers]\nrs1\n[clients]\nclient\n"

pytestmark = pytest.mark.timeout(3 * PATIENCE + 40)


def validate(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {"VAGRANT_HOME": str(directory / "home"), "VAGRANT_DOTFILE_PATH": str(directory / "machines")}
    return subprocess.run(
        ["vagrant", "validate"],
        cwd=VAGRANT,
        env=os.environ | places | {"VAGRANT_CHECKPOINT_DISABLE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.vagrant
def test_vagrant_accepts_the_file_whichever_machines_are_chosen(tmp_path: Path) -> None:
    for chosen in ({}, {"KERNLB_NODES": "lb1,rs1", "KERNLB_LIBVIRT_DRIVER": "qemu", "KERNLB_PROVISION": "0"}):
        done = validate(tmp_path, **chosen)
        assert (done.returncode, done.stdout) == (0, "Vagrantfile validated successfully.\n"), done.stderr


@pytest.mark.vagrant
def test_a_machine_that_is_none_of_the_lab_is_named(tmp_path: Path) -> None:
    done = validate(tmp_path, KERNLB_NODES="lb1,lb9")
    assert done.returncode
    assert "no machine is called lb9" in done.stderr


def read(directory: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a program of Ansible's says of the plays; it may write to the directory only."""
    return subprocess.run(
        [BIN / program, *arguments],
        cwd=VAGRANT,
        env=os.environ
        | {"ANSIBLE_HOME": str(directory), "HOME": str(directory), "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.ansible
def test_ansible_finds_the_roles_and_reads_the_plays(tmp_path: Path) -> None:
    (tmp_path / "inventory").write_text(INVENTORY)
    for play in PLAYS:
        done = read(tmp_path, "ansible-playbook", "--inventory", str(tmp_path / "inventory"), "--syntax-check", play)
        assert done.returncode == 0, done.stderr


@pytest.mark.ansible
def test_ansible_lint_finds_nothing_under_its_strictest_profile(tmp_path: Path) -> None:
    done = read(tmp_path, "ansible-lint", "--offline", "--strict", "--profile", "production", *PLAYS)
    assert done.returncode == 0, done.stdout + done.stderr
