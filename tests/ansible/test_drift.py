"""What `ansible-playbook --check --diff` shows of a gateway with IPVS whose kernel somebody changed."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from kernlb.demo.namespaces import DIRECTOR_FRONT
from tests.ansible.playing import Controller, difference, tool
from tests.system.director import Director, director
from tests.system.network import inside, run

pytestmark = [
    pytest.mark.ansible,
    pytest.mark.root,
    pytest.mark.ipvs,
    pytest.mark.ipvsadm,
    pytest.mark.nftables,
    pytest.mark.timeout(840),
]

CONFIGURATION = f"""
[service.web]
bind = "{DIRECTOR_FRONT}:80"
forwarding = "fullnat"
check = false

[service.web.servers]
server1 = "10.0.0.1:80"
server2 = "10.0.0.2:80"
"""


def test_check_and_diff_show_exactly_the_drift_of_ipvs_and_nftables_and_change_nothing(tmp_path: Path) -> None:
    with director(tmp_path) as gateway:
        gateway.apply(CONFIGURATION)
        with inside(gateway.lab.namespace("director")):
            run("nft", "delete", "table", "inet", "kernlb")
            (service,) = (line.split()[1:3] for line in run("ipvsadm", "-Sn").splitlines() if line.startswith("-A"))
            run("ipvsadm", "-d", *service, "-r", "10.0.0.1:80")
        before = kernel(gateway)
        play = Controller(tmp_path, here(tmp_path)).play(playbook(gateway), "--check", "--diff")
        assert play.changed == {"localhost": 1}
        drift = gateway.call("plan", str(tmp_path / "kernlb.toml"), "--json", allowed=(2,)).document["operations"]
        assert difference(play.out) == {f"+{each['after']}" for each in drift}
        assert [each["object"] for each in drift if each["object"].startswith("real server")] == [
            next(each["object"] for each in drift if "web/server1" in each["object"])
        ]
        assert any(each["object"].startswith("nftables table") for each in drift)
        assert kernel(gateway) == before


def kernel(gateway: Director) -> str:
    with inside(gateway.lab.namespace("director")):
        shown = [run("ipvsadm", "-Sn"), run("nft", "list", "ruleset"), run("ip", "address")]
    return "".join([*shown, *(path.read_text() for path in gateway.directory.glob("state/*/state.json"))])


def here(directory: Path) -> str:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return str(yaml.safe_dump({"all": {"hosts": {"localhost": local}}}))


def playbook(gateway: Director) -> str:
    given = {
        "path": str(gateway.directory / "kernlb.toml"),
        "program": tool("kernlb"),
        "netns": gateway.lab.namespace("director"),
        "run_dir": str(gateway.directory / "run"),
        "state_dir": str(gateway.directory / "state"),
    }
    # JSON is YAML.
    return json.dumps([{"hosts": "localhost", "tasks": [{"kernlb.kernlb.kernlb_config": given}]}], indent=1)
