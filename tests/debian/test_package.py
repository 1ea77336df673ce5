"""The Debian package on a clean Debian 12: installed, upgraded, removed, purged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import kernlb
from tests.debian.package import build
from tests.debian.tree import Machine, machine

pytestmark = [pytest.mark.root, pytest.mark.mmdebstrap, pytest.mark.clang, pytest.mark.timeout(900)]

INSTALL = ("dpkg", "--install", "/given/kernlb.deb")
STATE = "/var/lib/kernlb/default/state.json"


@pytest.fixture
def clean(package: Path) -> Iterator[Machine]:
    with machine(package.parent) as made:
        yield made


def test_it_installs_with_unit_configuration_manual_and_completion(clean: Machine) -> None:
    clean.run(*INSTALL)
    assert clean.run("kernlb", "--version").stdout.split()[-1] == kernlb.__version__
    assert clean.run("kernlb", "validate").returncode == 0
    for path in (
        "/lib/systemd/system/kernlb.service",
        "/lib/systemd/system/kernlb-apply.service",
        "/usr/lib/modules-load.d/kernlb.conf",
        "/usr/share/man/man8/kernlb.8.gz",
        "/usr/share/bash-completion/completions/kernlb",
        "/usr/share/fish/vendor_completions.d/kernlb.fish",
        "/usr/share/zsh/vendor-completions/_kernlb",
        "/usr/lib/kernlb/kernlb/bpf/balancer.bpf.o",
    ):
        clean.run("test", "-s", path)
    assert clean.run("systemctl", "is-enabled", "kernlb.service", "kernlb-apply.service").stdout.split() == [
        "enabled",
        "enabled",
    ]
    clean.run("systemd-analyze", "verify", "--man=no", "kernlb.service", "kernlb-apply.service")
    # Whatever a verb, a check or an engine needs is found outside the source tree.
    listed = "for f in kernlb/cli/*.py kernlb/checks/*.py kernlb/engines/*.py; do echo $f; done"
    imports = f"{listed} | sed 's,/,.,g; s,.py$,,; s,^,import ,'"
    clean.run("sh", "-c", f"cd /usr/lib/kernlb && ({imports}) | PYTHONPATH=. python3 -B -")


def test_an_upgrade_keeps_the_configuration_and_what_somebody_switched_off(clean: Machine) -> None:
    clean.run(*INSTALL)
    clean.run("systemctl", "disable", "kernlb.service")
    clean.run("sh", "-c", "echo '# mine' >>/etc/kernlb/kernlb.toml")
    clean.run("dpkg", "--install", "/given/next.deb")
    assert clean.run("dpkg-query", "--show", "--showformat=${Version}", "kernlb").stdout == "999"
    assert "# mine" in clean.run("cat", "/etc/kernlb/kernlb.toml").stdout
    assert clean.run("systemctl", "is-enabled", "kernlb.service", check=False).stdout.strip() == "disabled"


def own_a_setting(clean: Machine) -> None:
    """What a daemon leaves behind: something in the kernel, and the state file that owns it."""
    clean.run("sysctl", "-w", "net.ipv4.ip_forward=1")
    clean.run(
        "python3", "-I", "-B", "-c",
        "import sys; sys.path.insert(0, '/usr/lib/kernlb')\n"
        "from pathlib import Path\n"
        "from kernlb.model import Sysctl, SysctlKey\n"
        "from kernlb.ownership import Ownership, Written\n"
        "from kernlb.state import Life, State, Store\n"
        "written = Written(Sysctl('0'), Sysctl('1'))\n"
        "owned = Ownership(shared={SysctlKey('net.ipv4.ip_forward'): written})\n"
        "Store(Path(sys.argv[1])).save(State(Life.now(), owned))",
        STATE,
    )  # fmt: skip


def forwards(clean: Machine) -> bool:
    return clean.run("sysctl", "-n", "net.ipv4.ip_forward").stdout.strip() == "1"


def test_only_a_purge_touches_the_kernel_and_it_leaves_nothing(clean: Machine) -> None:
    before = files(clean)
    clean.run(*INSTALL)
    clean.run("kernlb", "schema")
    own_a_setting(clean)
    clean.run("dpkg", "--remove", "kernlb")
    assert forwards(clean)
    assert clean.run("test", "-e", STATE).returncode == 0
    clean.run("test", "!", "-e", "/usr/lib/kernlb")
    purged = clean.run("dpkg", "--purge", "kernlb")
    assert purged.stderr == ""
    assert not forwards(clean)
    assert files(clean) - before == set()


def test_a_purge_that_cannot_clear_the_kernel_keeps_what_clears_it_later(clean: Machine) -> None:
    clean.run(*INSTALL)
    own_a_setting(clean)
    clean.run("dpkg", "--remove", "kernlb")
    # As where apt removes what kernlb needs before it purges kernlb.
    clean.run("mv", "/usr/bin/python3", "/usr/bin/python3.away")
    purged = clean.run("dpkg", "--purge", "kernlb")
    assert "kernlb clear" in purged.stderr
    assert forwards(clean)
    clean.run("mv", "/usr/bin/python3.away", "/usr/bin/python3")
    clean.run(*INSTALL)
    clean.run("kernlb", "clear")
    assert not forwards(clean)


def test_a_removed_package_that_comes_back_owns_what_it_owned(clean: Machine) -> None:
    clean.run(*INSTALL)
    own_a_setting(clean)
    clean.run("dpkg", "--remove", "kernlb")
    clean.run(*INSTALL)
    clean.run("test", "!", "-e", "/var/lib/kernlb/removed")
    clean.run("kernlb", "clear")
    assert not forwards(clean)


def files(clean: Machine) -> set[str]:
    """Without what dpkg and Python write for themselves."""
    places = ["/etc", "/lib/systemd", "/usr", "/var/lib/kernlb", "/run/kernlb"]
    listed = clean.run("find", *places, "-not", "-name", "*.pyc", "-not", "-name", "__pycache__", check=False)
    return set(listed.stdout.splitlines())


def test_the_same_source_makes_the_same_package(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == package.read_bytes()
