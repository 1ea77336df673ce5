"""kernlb apply as its user calls it, in a namespace of this kernel, with the engine that the kernel has."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

import pytest

from tests.system.network import inside, ip, namespaces, run

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.bpf]

TEXT = """\
[engine]
default = "xdp"
interfaces = ["wire"]
[defaults]
forwarding = "fullnat"
[service.{first}]
bind = "*:8080"
servers.a = "10.0.0.1:80"
[service.{second}]
bind = "192.0.2.1:80"
servers.a = "10.0.0.1:80"
"""


@pytest.fixture
def place(balancer: Path) -> Iterator[str]:
    with namespaces("apply") as (name,):
        ip(name, "link add wire type veth peer name far\nlink set wire up\nlink set far up\n")
        ip(name, "addr add 10.0.0.254/24 dev wire\n")
        yield name


def command(place: str, directory: Path, *arguments: str) -> list[str]:
    places = ["--run-dir", str(directory / "run"), "--state-dir", str(directory / "state")]
    return [sys.executable, "-m", "kernlb", "--netns", place, *places, *arguments]


def kernlb(place: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, directory, *arguments), capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(("taken", "free"), [("alpha", "beta"), ("zeta", "beta")])
def test_a_service_that_cannot_be_had_keeps_no_other_out_and_is_told(
    place: str, tmp_path: Path, taken: str, free: str
) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(TEXT.format(first=taken, second=free))
    with inside(place), socket.create_server(("0.0.0.0", 8080)):
        came = kernlb(place, tmp_path, "apply", "--json", str(file))
        assert came.returncode == 1
        (owner, refusal), *others = json.loads(came.stderr)["error"]["refusals"].items()
        assert (owner, refusal["kind"], others) == (taken, "conflict", [])
        assert "--take-port" in refusal["hint"]
        assert json.loads(came.stdout)["changed"]
        shown = json.loads(kernlb(place, tmp_path, "show", "--json").stdout)["services"]
        assert [each["name"] for each in shown] == [free]
    done = kernlb(place, tmp_path, "apply", str(file))
    assert done.returncode == 0, done.stderr
    shown = json.loads(kernlb(place, tmp_path, "show", "--json").stdout)["services"]
    assert {each["name"] for each in shown} == {taken, free}
    assert kernlb(place, tmp_path, "clear").returncode == 0


def test_full_nat_without_a_port_is_told_before_and_refused_by_its_cause(place: str, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    text = TEXT.format(first="mapped", second="near").replace("*:8080", "192.0.2.1:8080")
    head, _, near = text.partition("[service.near]")
    file.write_text(f'{head}[service.near]{near}defaults.forwarding = "direct"\n'.replace("defaults.", ""))
    with inside(place):
        run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
    cause = "net.ipv4.ip_local_port_range is 1024 65535"
    for verb in (["plan"], ["apply", "--check"]):
        told = kernlb(place, tmp_path, *verb, str(file)).stderr
        assert cause in told
        assert "sysctl -w net.ipv4.ip_local_reserved_ports=" in told
    refused = kernlb(place, tmp_path, "apply", str(file))
    assert refused.returncode == 1
    assert cause in refused.stderr
    shown = json.loads(kernlb(place, tmp_path, "show", "--json").stdout)["services"]
    assert {each["name"]: len(each["servers"]) for each in shown} == {"mapped": 0, "near": 1}
    with inside(place):
        run("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=1024-32767")
    done = kernlb(place, tmp_path, "apply", str(file))
    assert done.returncode == 0, done.stderr
    assert cause not in done.stderr
    assert kernlb(place, tmp_path, "clear").returncode == 0


@contextmanager
def full_disk(directory: Path) -> Iterator[Path]:
    """On a file system of its own; the file that fills it."""
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(directory))
    filling = directory / "filling"
    try:
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield filling
    finally:
        run("umount", str(directory))


def test_a_full_disk_keeps_nothing_from_being_applied_or_ordered_and_is_told(place: str, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(TEXT.format(first="alpha", second="beta"))
    with full_disk(tmp_path / "state") as filling:
        done = kernlb(place, tmp_path, "apply", str(file))
        assert done.returncode == 0, done.stderr
        for said in ("No space left on device", str(tmp_path / "state"), str(tmp_path / "run"), "make room"):
            assert said in done.stderr
        ordered = kernlb(place, tmp_path, "weight", "beta", "a", "7")
        assert ordered.returncode == 0, ordered.stderr
        assert "a reboot will forget this" in ordered.stderr
        filling.unlink()
        again = kernlb(place, tmp_path, "apply", str(file))
        assert (again.returncode, again.stderr) == (0, "")
        assert not list((tmp_path / "run").rglob("*.json"))
        assert len(list((tmp_path / "state").rglob("*.json"))) == 2
        shown = json.loads(kernlb(place, tmp_path, "show", "--json").stdout)["services"]
        weights = {each["name"]: each["servers"][0]["weight"] for each in shown}
        assert weights["beta"] == 7 * weights["alpha"]
        assert kernlb(place, tmp_path, "clear").returncode == 0


def pools(place: str, directory: Path) -> dict[str, list[tuple[str, int]]]:
    """The names and weights that `show` tells of, by service."""
    shown = json.loads(kernlb(place, directory, "show", "--json").stdout)["services"]
    return {each["name"]: [(server["name"], server["weight"]) for server in each["servers"]] for each in shown}


@pytest.mark.parametrize("lost", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_nobody_can_confirm_any_more_is_put_back(place: str, tmp_path: Path, lost: signal.Signals) -> None:
    """The terminal goes while a server that leaves is waited for."""
    file = tmp_path / "kernlb.toml"
    text = TEXT.format(first="alpha", second="beta").replace("*:8080", "192.0.2.1:8080")
    file.write_text(text)
    assert kernlb(place, tmp_path, "apply", str(file)).returncode == 0
    before = pools(place, tmp_path)
    file.write_text(text.replace('10.0.0.1:80"', '10.0.0.2:80"'))
    ours, theirs = os.openpty()
    applying = subprocess.Popen(
        command(place, tmp_path, "apply", "--confirm", "60s", str(file)),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while b"waiting for" not in said:
        assert select([ours], [], [], 60)[0]
        said += os.read(ours, 4096)
    if lost is signal.SIGHUP:
        os.close(ours)  # nothing can be said any more
    applying.send_signal(lost)
    assert applying.wait(timeout=60) == 1
    assert pools(place, tmp_path) == before
    assert kernlb(place, tmp_path, "clear").returncode == 0


def test_what_leaves_is_named_to_the_end(place: str, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    text = TEXT.format(first="alpha", second="beta").replace("*:8080", "192.0.2.1:8080")
    file.write_text(text)
    kernlb(place, tmp_path, "apply", str(file))
    file.write_text(text.replace('10.0.0.1:80"', '10.0.0.2:80"'))
    left = [line for line in kernlb(place, tmp_path, "apply", str(file)).stdout.splitlines() if line.startswith("-")]
    assert [("alpha/a" in line, "beta/a" in line) for line in left] == [(True, False), (False, True)]
    assert kernlb(place, tmp_path, "clear").returncode == 0


def test_an_interface_that_is_not_there_is_told(place: str, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    text = TEXT.format(first="alpha", second="beta").replace("*:8080", "192.0.2.1:8080")
    file.write_text(text.replace('"wire"', '"wire", "wier"'))
    for verb in ("plan", "apply"):
        assert "interface wier: is not there" in kernlb(place, tmp_path, verb, str(file)).stderr
    file.write_text(text)
    assert kernlb(place, tmp_path, "plan", str(file)).stderr == ""
    assert kernlb(place, tmp_path, "clear").returncode == 0
