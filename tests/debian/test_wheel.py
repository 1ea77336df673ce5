"""The wheel: the same from the same source, and enough by itself."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

import kernlb
from kernlb.cli import VERBS
from kernlb.cli.manual import manual
from kernlb.cli.root import root

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ("LICENSE", "README.md", "bpf", "hatch_build.py", "kernlb", "pyproject.toml", "templates")


def build(directory: Path) -> Path:
    """A wheel from a copy of the source, in a place of its own."""
    source = directory / "source"
    source.mkdir(parents=True)
    for name in SHIPPED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.o", ".*_cache")
            )
        else:
            shutil.copy(REPOSITORY / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.mark.clang
def test_the_same_source_makes_the_same_wheel_wherever_it_lies(tmp_path: Path) -> None:
    first, second = build(tmp_path / "here"), build(tmp_path / "a" / "longer" / "way")
    assert first.name == second.name == f"kernlb-{kernlb.__version__}-py3-none-any.whl"
    one, two = zipfile.ZipFile(first), zipfile.ZipFile(second)
    assert [name for name in one.namelist() if one.read(name) != two.read(name)] == []
    assert first.read_bytes() == second.read_bytes()
    enough(one.namelist())


def enough(names: list[str]) -> None:
    sources = {f"kernlb/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "bpf").glob("*.[ch]")}
    templates = {f"kernlb/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "templates").iterdir()}
    assert sources | templates | {"kernlb/bpf/balancer.bpf.o"} <= set(names)
    shared = {name.partition("/data/")[2] for name in names if "/data/" in name}
    assert {"share/man/man8/kernlb.8", "share/bash-completion/completions/kernlb"} <= shared


def test_the_version_is_written_in_one_place() -> None:
    assert metadata.version("kernlb") == kernlb.__version__
    written = [
        path
        for path in (*REPOSITORY.glob("kernlb/**/*.py"), *REPOSITORY.glob("debian/*"), REPOSITORY / "pyproject.toml")
        if re.search(rf"""[=@ "]{re.escape(kernlb.__version__)}(["' ]|$)""", path.read_text(), re.MULTILINE)
        and path.name != "requirements.txt"
    ]
    assert written == [REPOSITORY / "kernlb" / "__init__.py"]


def test_the_manual_has_every_verb_and_option() -> None:
    page = manual(root, epoch=0).replace("\\-", "-")
    assert isinstance(root, click.Group)
    context = click.Context(root, info_name="kernlb")
    for verb in VERBS:
        section = page.partition(f'.SS "kernlb {verb} ')[2].partition("\n.S")[0]
        command = root.get_command(context, verb)
        assert section
        assert command
        for option in (param for param in command.params if isinstance(param, click.Option)):
            place = page if option.name in {param.name for param in root.params} else section
            assert option.hidden or option.opts[-1] in place, f"{verb} {option.opts}"


@pytest.mark.groff
def test_man_finds_nothing_wrong_with_the_manual(tmp_path: Path) -> None:
    page = tmp_path / "kernlb.8"
    page.write_text(manual(root, epoch=0))
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_brings_each_dependency_at_one_version_and_no_other() -> None:
    lines = (REPOSITORY / "debian" / "requirements.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    # numpy is Debian's own.
    assert pinned == closure(project["dependencies"]) - {"numpy"}


def closure(wanted: list[str]) -> set[str]:
    found: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            wanted += metadata.requires(name) or []
    return found
