"""Repositories in directories: what machines without a network of their own install from, by apt and by pip."""

import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from tests.debian.tree import REPOSITORY, debian

PATIENCE = 300.0
_RECORD = "{fields}\nFilename: ./{name}\nSize: {size}\nSHA256: {digest}\n"


def debian_packages(directory: Path, packages: Sequence[str]) -> None:
    """These packages of Debian's, and whatever of their dependencies a clean Debian 12 lacks."""
    (directory / "partial").mkdir(parents=True)
    options = {
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
        "Dir::Cache::archives": str(directory),
        "Dir::State::status": str(debian() / "var/lib/dpkg/status"),
    }
    given = [f"-o{name}={value}" for name, value in options.items()]
    fetch = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *given, *packages]
    # Where apt's lists are empty or out of date.
    if subprocess.run(fetch, capture_output=True, timeout=PATIENCE).returncode:
        _output(["apt-get", "update", "--quiet=2"])
        _output(fetch)
    (directory / "partial").rmdir()
    index(directory)


def index(directory: Path) -> None:
    """Makes a flat repository of a directory with packages."""
    records = (
        _RECORD.format(
            fields=_output(["dpkg-deb", "--field", str(path)]).strip(),
            name=path.name,
            size=path.stat().st_size,
            digest=sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(directory.glob("*.deb"))
    )
    (directory / "Packages").write_text("\n".join(records))


def source(directory: str) -> str:
    """What names such a repository to apt."""
    return f"Types: deb\nURIs: file:{directory}\nSuites: ./\nTrusted: yes\n"


def wheels(directory: Path, wheel: Path) -> None:
    """All that kernlb's wheel depends on, at the versions that its package has."""
    known = REPOSITORY / "debian" / "requirements.txt"
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--constraint", str(known)]
    _output([*fetch, "--dest", str(directory), str(wheel)])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
