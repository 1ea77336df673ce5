"""The collection as a whole: what its own tools say of it, and that it is the version that it configures."""

import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

import kernlb
from tests.ansible.playing import COLLECTION, copied, environment, tool

pytestmark = [pytest.mark.ansible, pytest.mark.timeout(300)]


def run(directory: Path, *command: str, where: Path = COLLECTION) -> str:
    done = subprocess.run(
        command,
        cwd=where,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ansible_lint_finds_nothing_under_its_strictest_profile(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    run(
        tmp_path,
        tool("ansible-lint"),
        "--offline",
        "--strict",
        "--profile",
        "production",
        "--project-dir",
        str(copy),
        where=copy,
    )


def test_the_collection_is_built_whole_and_nothing_else_is_in_it(tmp_path: Path) -> None:
    run(tmp_path, tool("ansible-galaxy"), "collection", "build", "--output-path", str(tmp_path))
    (built,) = tmp_path.glob("kernlb-kernlb-*.tar.gz")
    assert built.name == f"kernlb-kernlb-{kernlb.__version__}.tar.gz"
    with tarfile.open(built) as archive:
        packed = {member.name for member in archive if member.isfile()} - {"MANIFEST.json", "FILES.json"}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=COLLECTION,
        capture_output=True,
        text=True,
    )
    assert packed == set(tracked.stdout.splitlines()) - {"galaxy.yml"}


@pytest.mark.parametrize("role", ["director", "real_server"])
def test_each_variable_of_a_role_has_a_default_and_a_description_of_its_type(role: str) -> None:
    place = COLLECTION / "roles" / role
    defaults = yaml.safe_load((place / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((place / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert defaults.keys() == options.keys()
    for name, option in options.items():
        assert option["description"], name
        if "default" in option:
            assert option["default"] == defaults[name], name


def test_a_playbook_becomes_root_unless_told_otherwise() -> None:
    plays = [play for file in (COLLECTION / "playbooks").glob("*.yml") for play in yaml.safe_load(file.read_text())]
    assert plays
    for play in plays:
        assert re.fullmatch(r"\{\{ \w+_become \| default\(true\) \}\}", play["become"]), play["name"]


@pytest.mark.parametrize("kind", ["module", "role"])
def test_ansible_doc_shows_all_there_is(kind: str, tmp_path: Path) -> None:
    names = {
        "module": [path.stem for path in (COLLECTION / "plugins" / "modules").glob("*.py")],
        "role": [path.name for path in (COLLECTION / "roles").iterdir()],
    }[kind]
    shown = run(
        tmp_path, tool("ansible-doc"), "--type", kind, *(f"kernlb.kernlb.{name}" for name in names), where=tmp_path
    )
    assert all(f"kernlb.kernlb.{name}" in shown for name in names)
