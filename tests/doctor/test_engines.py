"""What the doctor finds of kernel, programs and settings; and the verb itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.doctor import engines
from kernlb.doctor.drivers import xdp_features
from kernlb.doctor.finding import Verdict
from kernlb.doctor.patient import Patient
from kernlb.doctor.ports import ports
from kernlb.engines import nexthops
from kernlb.model import EngineName, Sysctl, SysctlKey
from tests.system.network import inside, ip, namespaces, run

FORWARD = SysctlKey("net.ipv4.ip_forward")
LIMITED = '[service.web]\nbind = "192.0.2.1:80"\nmax_connections = 500\nservers.a = "10.0.0.1:80"\n'


class Busy(Patient):
    """With another number of connections."""

    connections = (0, 0)


@pytest.mark.parametrize(
    ("count", "most", "verdict"), [(10, 1000, Verdict.OK), (900, 1000, Verdict.PROBLEM), (10, 400, Verdict.WARNING)]
)
def test_conntrack_has_room_for_what_is_allowed(count: int, most: int, verdict: Verdict) -> None:
    with Busy() as patient:
        patient.connections = (count, most)
        (found,) = engines.conntrack(load(LIMITED, "test"), patient)
    assert found.verdict is verdict


@pytest.mark.root
def test_a_setting_that_apply_will_make_is_no_problem_unless_it_cannot() -> None:
    with namespaces("doctor") as (place,), inside(place), Patient() as patient:
        assert [each.verdict for each in engines.sysctls({FORWARD: Sysctl("1")}, patient)] == [Verdict.OK]
        patient.may_write_sysctls = False
        (found,) = engines.sysctls({FORWARD: Sysctl("1")}, patient)
        assert (found.verdict, found.fix) == (Verdict.PROBLEM, "outside: sysctl -w net.ipv4.ip_forward=1")


@pytest.mark.root
@pytest.mark.parametrize(
    ("range_", "reserved", "verdict"),
    [
        ("32768 60999", "", Verdict.OK),
        ("1024 65023", "", Verdict.WARNING),
        ("1024 65535", "", Verdict.PROBLEM),
        ("1024 65535", "8080,9000-9100", Verdict.WARNING),
        ("1024 65535", "1024-9000,9001-20000", Verdict.OK),
        ("1024 10000", "60000", Verdict.OK),
    ],
)
def test_full_nat_has_the_ports_that_local_connections_never_take(range_: str, reserved: str, verdict: Verdict) -> None:
    config = load(LIMITED.replace("max_connections = 500", 'forwarding = "fullnat"'), "test")
    with namespaces("doctor") as (place,), inside(place), Patient() as patient:
        run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={range_}", f"net.ipv4.ip_local_reserved_ports={reserved}")
        assert not list(ports(config, {"web": EngineName.IPVS}, patient))
        (found,) = ports(config, {"web": EngineName.XDP}, patient)
        assert found.verdict is verdict
        own, (low, high) = nexthops.ports(), map(int, range_.split())
        kept = numbers(reserved)
        assert all(not low <= port <= high or port in kept for port in own)
        if found.fix:
            run(*found.fix.split())
            assert kept <= numbers(patient.sysctl("net.ipv4.ip_local_reserved_ports") or "")
            assert next(ports(config, {"web": EngineName.XDP}, patient)).verdict is Verdict.OK


@pytest.mark.root
@pytest.mark.parametrize(
    ("named", "verdict", "told"),
    [
        ("1024-16383", Verdict.OK, "15,360 source ports"),
        ("30000-39999", Verdict.WARNING, "2,768 source ports an address and server of the 10,000 under"),
        ("20000-39999", Verdict.WARNING, "12,768 source ports an address and server of the 20,000 under"),
        ("40000-49999", Verdict.PROBLEM, "no source port of the 10,000 under"),
        ("1024-2047", Verdict.WARNING, "addresses.source_ports leaves full NAT on xdp 1,024 source ports"),
    ],
)
def test_of_the_ports_that_are_named_those_of_local_connections_are_told(
    named: str, verdict: Verdict, told: str
) -> None:
    text = LIMITED.replace("max_connections = 500", 'forwarding = "fullnat"')
    config = load(f'[addresses]\nsource_ports = "{named}"\n{text}', "test")
    with namespaces("doctor") as (place,), inside(place), Patient() as patient:
        run("sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
        assert not list(ports(config, {"web": EngineName.IPVS}, patient))
        (found,) = ports(config, {"web": EngineName.XDP}, patient)
        assert (found.verdict, told in found.cause) == (verdict, True), found
        if found.fix.startswith("sysctl"):
            run(*found.fix.split())
            assert next(ports(config, {"web": EngineName.XDP}, patient)).verdict is Verdict.OK
            assert len(nexthops.ports(config.addresses.source_ports)) == len(numbers(named))


def numbers(text: str) -> set[int]:
    parts = [part.split("-") for part in text.split(",") if part]
    return {port for part in parts for port in range(int(part[0]), int(part[-1]) + 1)}


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.bpf
def test_interfaces_are_there_and_up_and_their_drivers_are_told() -> None:
    text = '[engine]\ninterfaces = ["wire", "gone"]\n' + LIMITED.replace("max_connections = 500\n", "")
    with namespaces("doctor") as (place,), inside(place):
        ip(place, "link add wire type veth peer name far\nlink set wire up\n")
        with Patient() as patient:
            chosen = {"web": EngineName.XDP}
            found = [each for each in engines.ebpf(load(text, "test"), chosen, patient) if each.topic == "driver"]
            (wire,) = (link.index for link in patient.links.values() if link.name == "wire")
            lo = next(link.index for link in patient.links.values() if link.loopback)
            assert xdp_features(wire) is not False
            assert not xdp_features(lo)
        assert [each.verdict for each in found] == [Verdict.OK, Verdict.PROBLEM]


@pytest.mark.root
@pytest.mark.netns
def test_the_verb_says_cause_and_cure_and_exits_1_where_something_stands_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text('[service.web]\nbind = "192.0.2.1:80"\nforwarding = "fullnat"\nservers.a = "10.0.0.1:80"\n')
    with namespaces("doctor") as (place,):

        def doctor(*options: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "kernlb", "--netns", place, "--run-dir", str(tmp_path / "run")]
            command += ["--state-dir", str(tmp_path / "state"), "doctor", str(file), *options]
            return subprocess.run(command, capture_output=True, text=True, timeout=100)

        ill = doctor("--json")
        assert ill.returncode == 1, ill.stderr
        document = json.loads(ill.stdout)
        assert not document["healthy"]
        problems = {each["topic"]: each for each in document["findings"] if each["verdict"] == "problem"}
        assert {"vip", "route"} <= set(problems)
        assert all(each["cause"] and each["fix"] for each in problems.values())
        ip(place, "link add wire type veth peer name far\nlink set wire up\nlink set far up\n")
        ip(place, "addr add 192.0.2.1/24 dev wire\naddr add 10.0.0.254/24 dev wire\n")
        well = doctor()
        assert well.returncode == 0, well.stdout
        assert "0 problem(s)" in well.stdout
