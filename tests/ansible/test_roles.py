"""The roles and modules on booted machines with real traffic: set up, changed, drifted, deployed to, removed."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernlb.demo.namespaces import SERVERS
from tests.ansible.network import BALANCED, CONFIGURATION, DIRECTORS, SPEAKERS, VIP, Network, inventory, network
from tests.ansible.playing import PATIENCE, Controller, copied, difference, environment, tool
from tests.debian.tree import machine
from tests.system.director import until

pytestmark = [
    pytest.mark.ansible,
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.bpf,
    pytest.mark.clang,
    pytest.mark.mmdebstrap,
    pytest.mark.timeout(600),
]

WEIGHED = CONFIGURATION.replace("weight = 1", "weight = 2")
SERVICES = '{"rolling_deploy_services": ["web", "straight"]}'
UPDATE = """
- name: Install the release
  ansible.builtin.copy:
    content: "2\\n"
    dest: /etc/web.release
    mode: "0644"
- name: Restart the application
  ansible.builtin.systemd_service:
    name: web.service
    state: restarted
"""
ORDER = """
- hosts: director
  tasks:
    - kernlb.kernlb.kernlb_server:
        service: web
        server: server1
        state: "{{ state | default('disabled') }}"
        weight: "{{ weight | default(5) }}"
"""
SITE = """
- hosts: directors
  roles: [kernlb.kernlb.director]
- hosts: real_servers
  roles: [kernlb.kernlb.real_server]
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("ansible"), package) as built:
        yield built


def test_a_first_run_in_check_mode_needs_nothing_and_changes_nothing(machines: Network) -> None:
    before = files(machines)
    machines.controller.play(SITE, "--check", "--diff")
    assert files(machines) == before


def test_molecule_sets_directors_and_real_servers_up_and_a_second_run_changes_nothing(
    machines: Network, tmp_path: Path
) -> None:
    (tmp_path / "inventory.yml").write_text(machines.controller.inventory)
    done = subprocess.run(
        [tool("molecule"), "test"],
        cwd=copied(tmp_path),
        env=environment(tmp_path) | {"KERNLB_INVENTORY": str(tmp_path / "inventory.yml"), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, said[-8000:]
    # Syntax, converge, idempotence, verify.
    assert "actions=4  successful=4" in said
    for address in BALANCED:
        tally = machines.requests(60, address)
        assert (set(tally.split), dict(tally.failed)) == ({f"{name}/1" for name in SERVERS}, {})
    for name in DIRECTORS:
        units = ("kernlb.service", "kernlb-apply.service")
        assert machines.machines[name].run("systemctl", "is-enabled", *units).split() == ["enabled"] * 2
        assert machines.machines[name].run("systemctl", "is-active", *units).split() == ["active"] * 2


def test_what_apt_and_pip_installed_is_what_runs(machines: Network) -> None:
    for name, program in (("director", "/usr/bin/kernlb"), ("director2", "/opt/kernlb/bin/kernlb")):
        started = machines.machines[name].run("systemctl", "show", "--property=ExecStart", "kernlb.service")
        assert f"path={program} " in started


def test_bird_and_frr_accept_their_configuration_and_tell_each_other_the_vip(machines: Network) -> None:
    by_bird, by_frr = (machines.machines[name] for name in DIRECTORS)
    by_bird.run("bird", "-p", "-c", "/etc/bird/bird.conf")
    by_frr.run("vtysh", "--dryrun", "--inputfile", "/etc/frr/frr.conf")
    for director, service in ((by_bird, "bird.service"), (by_frr, "frr.service")):
        assert director.run("systemctl", "is-enabled", service) == "enabled\n"
    for director, file in ((by_bird, "/etc/bird/bird.conf"), (by_frr, "/etc/frr/frr.conf")):
        # What the role replaced.
        director.run("sh", "-c", f"test -s {file}.*~")
    until(lambda: "Established" in by_bird.run("birdc", "show", "protocols"), patience=60)
    until(lambda: f"{VIP}/32" in by_bird.run("birdc", "show", "route", "export", "kernlb_1"), patience=60)
    told = f"show bgp ipv4 unicast neighbors {SPEAKERS['director']} advertised-routes"
    until(lambda: f"{VIP}/32" in by_frr.run("vtysh", "-c", told), patience=60)


def test_a_mistake_is_found_before_the_file_is_moved_into_place(machines: Network) -> None:
    director = machines.machines["director"]
    before = director.run("cat", "/etc/kernlb/kernlb.toml")
    wrong = CONFIGURATION.replace("weight = 1", "weight = -1")
    assert "weight" in machines.controller.play(SITE, "--limit", "director", *configured(wrong), fails=True).out
    assert director.run("cat", "/etc/kernlb/kernlb.toml") == before
    assert director.run("systemctl", "is-active", "kernlb.service").strip() == "active"


def test_check_and_diff_show_exactly_what_somebody_changed_and_change_nothing(machines: Network) -> None:
    director = machines.machines["director"]
    director.run("systemctl", "stop", "kernlb.service")
    director.run("ip", "address", "delete", f"{VIP}/32", "dev", "lo")
    before = kernel(machines)
    play = machines.controller.play(SITE, "--limit", "directors", "--check", "--diff")
    assert play.changed == {"director": 2, "director2": 0}, "the daemon that does not run, and the kernel"
    assert difference(play.out) == {f"+address {VIP} on lo prefix 32"}
    assert kernel(machines) == before
    machines.controller.play(SITE, "--limit", "director")
    assert "nothing to do" in director.run("kernlb", "plan")


def test_an_order_is_given_once_and_check_mode_says_what_it_would_be(machines: Network) -> None:
    def order(*options: str) -> tuple[int, str]:
        play = machines.controller.play(ORDER, *options)
        return play.changed["director"], play.out

    changed, said = order("--check", "--diff")
    assert changed == 1
    assert difference(said) == {
        "-web/server1: no order, weight as configured",
        "+web/server1: disable, weight 5",
    }
    assert order()[0] == 1
    assert order()[0] == 0
    assert order("-e", "state=enabled", "-e", "weight=configured")[0] == 1


def test_a_rolling_deploy_of_three_servers_fails_no_request(machines: Network, tmp_path: Path) -> None:
    tasks = tmp_path / "update.yml"
    tasks.write_text(UPDATE)
    given = ["-e", f"rolling_deploy_tasks={tasks}", "-e", "rolling_deploy_url=http://127.0.0.1/"]
    # A server that nobody drained takes requests with it: the load would notice.
    with machines.load() as load:
        machines.machines["server1"].run("systemctl", "restart", "web.service")
    assert load.failed
    up(machines)
    with machines.load() as load:
        machines.controller.play(
            "kernlb.kernlb.rolling_deploy", *given, "-e", SERVICES, "-e", "rolling_deploy_deadline=3s"
        )
    assert load.failed == {}
    assert set(load.answered) == {f"{name}/{release}" for name in SERVERS for release in (1, 2)}
    print(f"{sum(load.answered.values())} requests, 0 failed: {dict(load.answered)}")


def test_a_change_is_reloaded_and_nothing_is_restarted(machines: Network) -> None:
    main = "systemctl show --property MainPID --value kernlb.service"
    before = machines.machines["director"].run("sh", "-c", main)
    with machines.load() as load:
        play = machines.controller.play(SITE, "--limit", "director", *configured(WEIGHED))
    assert play.changed == {"director": 2}, "the file, and the handler"
    assert load.failed == {}
    assert machines.machines["director"].run("sh", "-c", main) == before


def test_what_was_set_up_is_taken_back_and_a_second_run_changes_nothing(machines: Network) -> None:
    absent = ("-e", "director_state=absent", "-e", "real_server_state=absent")
    assert all(machines.controller.play(SITE, *absent).changed.values())
    for name in SERVERS:
        assert VIP not in machines.machines[name].run("ip", "-brief", "address", "show", "dev", "lo")
    places = "/etc/kernlb/* /usr/bin/kernlb /usr/local/sbin/kernlb /opt/kernlb /sys/fs/bpf/kernlb"
    for name in DIRECTORS:
        director = machines.machines[name]
        assert VIP not in director.run("ip", "-brief", "address", "show", "dev", "lo")
        assert director.run("sh", "-c", f"ls -d {places} 2>/dev/null", check=False) == ""
        known = director.run("systemctl", "show", "--property=LoadState", "--value", "kernlb.service")
        assert known == "not-found\n"
    machines.machines["director"].run("test", "!", "-e", "/etc/kernlb")
    assert set(machines.controller.play(SITE, *absent).changed.values()) == {0}


def test_an_image_in_the_making_is_set_up_and_nothing_is_started(package: Path, tmp_path: Path) -> None:
    by_deb = {"director_install": "deb", "director_package": str(package)}
    with machine(package.parent) as image:
        controller = Controller(tmp_path, inventory({"director": image.process}, {"director": by_deb}))
        assert controller.play(SITE, "--limit", "director").changed["director"] > 0
        assert image.run("systemctl", "is-enabled", "kernlb.service").stdout == "enabled\n"
        assert image.run("kernlb", "validate").returncode == 0
        assert controller.play(SITE, "--limit", "director").changed == {"director": 0}
        # The package's own units would read another file.
        controller.play(SITE, "--limit", "director", "-e", "director_file=/etc/balanced/kernlb.toml")
        for unit in ("kernlb.service", "kernlb-apply.service"):
            image.run("grep", "^ExecStart=.* /etc/balanced/kernlb.toml$", f"/etc/systemd/system/{unit}")


def configured(text: str) -> tuple[str, str]:
    return "-e", json.dumps({"kernlb_configuration": text})


def kernel(machines: Network) -> str:
    """What kernlb could have changed of the first director, its memory included."""
    director = machines.machines["director"]
    services = json.loads(director.run("kernlb", "--json", "show"))["services"]
    weights = [(each["name"], server["name"], server["weight"]) for each in services for server in each["servers"]]
    looks = (
        "ip address; ip route; sysctl -a --pattern ip_forward; nft list ruleset; cat /var/lib/kernlb/default/state.json"
    )
    return director.run("sh", "-c", looks) + str(weights)


def up(machines: Network) -> None:
    """Every director finds every server up."""

    def all_up(director: str) -> bool:
        status = json.loads(machines.machines[director].run("kernlb", "--json", "status", check=False))
        return all(server["status"] == "up" for service in status["services"] for server in service["servers"])

    for name in DIRECTORS:
        until(lambda name=name: all_up(name), patience=60)


def files(machines: Network) -> dict[str, str]:
    """What is there, and what it holds, but for logs and what Python and dpkg write for themselves."""
    places = "/etc /usr/local /opt /lib/systemd /var/lib/kernlb /var/cache/kernlb"
    listing = f"find {places} -xdev -type f -not -name '*.pyc' -exec sha256sum {{}} + 2>/dev/null | sort"
    return {name: machine.run("sh", "-c", listing) for name, machine in machines.machines.items()}
