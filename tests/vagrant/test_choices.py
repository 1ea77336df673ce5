"""What the plays of the lab work out before they touch a machine: which package, and who is where."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vagrant.__main__ import VAGRANT

PATIENCE = 200

pytestmark = [pytest.mark.ansible, pytest.mark.timeout(2 * PATIENCE + 40)]

LOCAL = "ansible_connection=local ansible_become=false"
SAYS = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ %s | to_json }}"
        dest: "{{ playbook_dir }}/said"
        mode: "0644"
"""
LOOKS = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.setup:
        gather_subset: ["!all", "!min", python]
    - ansible.builtin.import_tasks: tasks/package.yml
"""


def play(directory: Path, text: str, *machines: str, package: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The play, beside those of the lab, in a copy that it may write to; every machine is this one."""
    copy = directory / "vagrant"
    if not copy.exists():
        shutil.copytree(VAGRANT, copy, symlinks=True, ignore=shutil.ignore_patterns(".vagrant", "collections"))
    (copy / "play.yml").write_text(text)
    groups = {"lb": "directors", "rs": "real_servers", "client": "clients"}
    lines = [
        f"[{group}]\n{each} {LOCAL}" for each in machines for name, group in groups.items() if each.startswith(name)
    ]
    (directory / "inventory").write_text("\n".join([*(f"[{group}]" for group in groups.values()), *lines, ""]))
    own = {"ANSIBLE_HOME": str(directory / "ansible"), "HOME": str(directory), "KERNLB_PACKAGE": str(package or "")}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory", directory / "inventory", "play.yml"],
        cwd=copy,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def says(directory: Path, expression: str, *machines: str) -> object:
    done = play(directory, SAYS % expression, *machines)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((directory / "vagrant" / "said").read_text())


def test_the_newest_package_is_taken_by_version(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    for version in ("0.9.0", "0.10.0", "0.2.1"):
        (tmp_path / "dist" / f"kernlb_{version}_amd64.deb").touch()
    found = says(tmp_path, "package", "lb1")
    assert Path(str(found)).name == "kernlb_0.10.0_amd64.deb"


def test_without_a_package_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    done = play(tmp_path, SAYS % "package", "lb1")
    assert done.returncode
    assert "make deb" in done.stdout + done.stderr


def test_a_package_for_another_python_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    minor = int(subprocess.check_output(["/usr/bin/python3", "-c", "import sys; print(sys.version_info.minor)"]))
    for made_for, refused in ((minor, False), (minor + 1, True)):
        package = built(tmp_path, made_for)
        done = play(tmp_path, LOOKS, "lb1", package=package)
        assert bool(done.returncode) == refused, done.stdout + done.stderr
        told = f"{package} is for Python 3.{made_for}, and lb1 has 3.{minor}"
        assert (told in " ".join(done.stdout.split())) == refused


def built(directory: Path, minor: int) -> Path:
    """An empty package that depends on this Python as kernlb's does."""
    root = directory / "root"
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    depends = f"libc6, python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), python3-numpy (>= 1:1.24)"
    (root / "DEBIAN" / "control").write_text(
        f"Package: kernlb\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@localhost>\nDepends: {depends}\n"
        "Description: nothing\n"
    )
    file = directory / f"kernlb_{minor}.deb"
    subprocess.run(["dpkg-deb", "--build", root, file], check=True, capture_output=True)
    return file


@pytest.mark.parametrize(
    ("machines", "servers"),
    [(("lb1",), {}), (("lb1", "rs3", "client"), {"rs3": "192.168.57.23"})],
    ids=["a director alone", "one real server of three"],
)
def test_real_servers_are_balanced_at_their_own_addresses_whichever_are_chosen(
    tmp_path: Path, machines: tuple[str, ...], servers: dict[str, str]
) -> None:
    assert says(tmp_path, "servers", *machines) == servers
