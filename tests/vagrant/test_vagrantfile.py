"""The Vagrantfile and its playbooks, as far as their own programs read them without a machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vagrant.__main__ import VAGRANT

ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
INVENTORY = "[directors]\nlb1\nlb2\n[real_servers]\nrs1\n[clients]\nclient\n"


def validate(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    places = {"VAGRANT_HOME": str(directory / "home"), "VAGRANT_DOTFILE_PATH": str(directory / "machines")}
    return subprocess.run(
        ["vagrant", "validate"],
        cwd=VAGRANT,
        env=os.environ | places | {"VAGRANT_CHECKPOINT_DISABLE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
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


@pytest.mark.parametrize("playbook", ["site.yml", "smoke.yml"])
def test_ansible_finds_the_roles_and_reads_the_playbook(playbook: str, tmp_path: Path) -> None:
    (tmp_path / "inventory").write_text(INVENTORY)
    done = subprocess.run(
        [ANSIBLE, "--inventory", tmp_path / "inventory", "--syntax-check", playbook],
        cwd=VAGRANT,
        env=os.environ | {"ANSIBLE_HOME": str(tmp_path / "ansible")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
