"""kernlb's Debian package, built from this tree."""

import subprocess
from pathlib import Path

import kernlb

REPOSITORY = Path(__file__).parents[2]


def build(directory: Path) -> Path:
    """kernlb.deb, and the same with a higher version beside it."""
    done = subprocess.run(
        [str(REPOSITORY / "debian" / "build"), str(directory)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = directory.glob("*.deb")
    assert done.stdout.strip() == str(made)
    subprocess.run(["dpkg-deb", "--raw-extract", str(made), str(directory / "next")], check=True)
    control = directory / "next" / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"\nVersion: {kernlb.__version__}\n", "\nVersion: 999\n"))
    pack = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(directory / "next"), str(directory / "next.deb")]
    subprocess.run(pack, check=True, capture_output=True)
    made.rename(directory / "kernlb.deb")
    return directory / "kernlb.deb"
