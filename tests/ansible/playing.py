"""ansible-playbook as its user calls it, with this tree's collection, against machines that are namespaces here."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COLLECTION = REPOSITORY / "ansible"
PATIENCE = 300.0
_RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


def tool(name: str) -> str:
    """A program of Ansible, beside the Python that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def environment(directory: Path) -> dict[str, str]:
    """Everything that Ansible writes goes to the directory, the link to the collection included."""
    collections = directory / "collections"
    place = collections / "ansible_collections" / "kernlb"
    place.mkdir(parents=True, exist_ok=True)
    link = place / "kernlb"
    if not link.is_symlink():
        link.symlink_to(COLLECTION)
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).parent / "connection"),
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error",
        "ANSIBLE_NOCOLOR": "1",
    }
    return os.environ | own


@dataclass(frozen=True, slots=True)
class Played:
    """What a run printed, and how many tasks changed something, by host."""

    out: str
    changed: Mapping[str, int]
    failed: bool


@dataclass(frozen=True, slots=True)
class Controller:
    """Holds an inventory, and writes playbooks beside it."""

    directory: Path
    inventory: str

    def play(self, playbook: str, *options: str, fails: bool = False) -> Played:
        """`playbook` is a text, or the name of one of the collection's."""
        (self.directory / "inventory.yml").write_text(self.inventory)
        name = playbook
        if "\n" in playbook:
            name = str(self.directory / "playbook.yml")
            Path(name).write_text(playbook)
        done = subprocess.run(
            [tool("ansible-playbook"), "--inventory", str(self.directory / "inventory.yml"), name, *options],
            cwd=self.directory,
            env=environment(self.directory),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        print(done.stdout, done.stderr)
        recap = {
            host: (int(changed), int(lost) + int(failed)) for host, changed, lost, failed in _RECAP.findall(done.stdout)
        }
        assert recap, done.stdout + done.stderr
        assert fails or done.returncode == 0, done.stdout[-6000:] + done.stderr
        return Played(done.stdout, {host: changed for host, (changed, _) in recap.items()}, done.returncode != 0)


def difference(out: str) -> set[str]:
    """The lines of all differences that were printed, those of files' headers aside."""
    return {line for line in out.splitlines() if re.match(r"[+-](?![+-]{2} )", line)}


def copied(directory: Path) -> Path:
    """The collection where Ansible's tools look for one; what they write beside it is no part of it."""
    copy = directory / "tree" / "ansible_collections" / "kernlb" / "kernlb"
    copy.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", COLLECTION, copy], check=True)
    return copy
