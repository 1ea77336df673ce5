"""Every rendered file is accepted by the program it is for, and says what the configuration needs."""

import os
import re
import shutil
import subprocess
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.config.values import Config
from kernlb.errors import Conflict, KernlbError, Unsupported
from kernlb.render import TAKES, Options, Template, render
from kernlb.render.options import Floating, Neighbour, NothingToRender, NotRendered
from tests.system.network import ip, namespaces, run, until

SERVERS = """
[service.web]
bind = ["203.0.113.10:80", "[2001:db8::10]:80"]
forwarding = "direct"
[service.web.servers]
rs1 = "10.0.0.1:80"
rs2 = { address = "10.0.0.2:80", forwarding = "tunnel" }
rs3 = { address = "10.0.0.3:80", forwarding = "tunnel", tunnel = "gre" }
[service.plain]
bind = "203.0.113.11:80"
servers = { rs9 = "10.0.0.9:80" }
"""
MANAGED = '[addresses]\nmanage = true\nannounce = "quorum"\n' + SERVERS
MARKED = '[service.m]\nbind = "fwmark:7"\nforwarding = "direct"\nservers = { rs1 = "10.0.0.1:80" }\n'
NEIGHBOURS = (Neighbour(address=ip_address("192.0.2.1"), autonomous_system=64513),)
NEIGHBOURS += (Neighbour(address=ip_address("2001:db8:1::1"), autonomous_system=64514),)
BGP = Options(local_as=64512, neighbours=NEIGHBOURS, router_id=IPv4Address("192.0.2.9"))
VRRP = Options(
    interface="eth0",
    floating=(Floating(address=ip_interface("10.0.0.254/24"), interface="eth1"),),
    peers=(ip_address("192.0.2.2"),),
)


def config(text: str) -> Config:
    return load(text, "kernlb.toml")


def written(path: Path, template: Template, text: str, options: Options | None = None) -> Path:
    path.write_text(render(template, config(text), options or Options()))
    return path


def accepted(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- units

UNITS = (Template.SERVICE, Template.APPLY_SERVICE)
OTHER_USER = SERVERS + '[defaults]\ncheck = { type = "command", argv = ["/bin/check"], user = "nobody" }\n'


@pytest.mark.systemd_analyze
@pytest.mark.parametrize("template", [*UNITS, Template.REAL_SERVER_SERVICE])
def test_systemd_finds_nothing_wrong_with_a_unit(template: Template, tmp_path: Path) -> None:
    unit = written(tmp_path / template, template, SERVERS, Options(program="/bin/true"))
    assert accepted("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.systemd_analyze
@pytest.mark.parametrize("text", [SERVERS, OTHER_USER], ids=["plain", "other-user"])
@pytest.mark.parametrize("template", UNITS)
def test_a_unit_is_exposed_less_than_three_of_ten(template: Template, text: str, tmp_path: Path) -> None:
    unit = written(tmp_path / template, template, text)
    accepted("systemd-analyze", "security", "--offline=true", "--threshold=29", "--no-pager", unit)


def test_only_a_check_that_names_a_user_lets_the_daemon_change_users() -> None:
    check = 'check = { type = "command", argv = ["/bin/check"]%s }'
    plain, other = (
        render(Template.SERVICE, config(SERVERS + f"[defaults]\n{check % user}"), Options())
        for user in ("", ', user = "nobody"')
    )
    assert bounding(plain) == {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"}
    assert bounding(other) == bounding(plain) | {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"}


def bounding(unit: str) -> set[str]:
    (line,) = re.findall("^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    return set(line.split())


def test_a_unit_runs_what_was_asked_for_in_the_namespace_that_was_asked_for() -> None:
    options = Options(program="/opt/my kernlb/bin/kernlb", arguments=("--adopt", "/etc/50%.toml"), namespace="blue")
    unit = render(Template.SERVICE, Config(), options)
    assert 'ExecStart="/opt/my kernlb/bin/kernlb" run --adopt /etc/50%%.toml\n' in unit
    assert "NetworkNamespacePath=/run/netns/blue\n" in unit


# --- a director's system


def test_a_director_loads_the_schedulers_it_uses() -> None:
    modules = render(Template.MODULES, config(SERVERS), Options()).splitlines()[1:]
    assert modules == ["ip_vs", "ip_vs_wrr"]
    assert render(Template.MODULES, Config(), Options()).splitlines()[1:] == ["ip_vs"]


@pytest.mark.netns
def test_the_kernel_takes_every_sysctl_line(tmp_path: Path) -> None:
    everything = (Path(__file__).parent / "data" / "everything.toml").read_text()
    file = written(tmp_path / "kernlb.conf", Template.SYSCTL, everything)
    with namespaces("director") as (director,):
        accepted("ip", "netns", "exec", director, "/lib/systemd/systemd-sysctl", file)
        assert run("ip", "netns", "exec", director, "sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"


@pytest.mark.nftables
@pytest.mark.parametrize("file", ["everything.toml", "tour.toml"])
def test_nft_takes_the_table(file: str, tmp_path: Path) -> None:
    table = written(tmp_path / "t.nft", Template.NFTABLES, (Path(__file__).parent / "data" / file).read_text())
    with namespaces("director") as (director,):
        accepted("ip", "netns", "exec", director, "nft", "--check", "--file", table)


# --- companions


@pytest.mark.keepalived
@pytest.mark.netns
def test_keepalived_takes_its_file(tmp_path: Path) -> None:
    file = written(tmp_path / "keepalived.conf", Template.KEEPALIVED, SERVERS, VRRP)
    with namespaces("director") as (director,):
        ip(director, "link add name eth0 type veth peer name eth1\n")
        said = accepted("ip", "netns", "exec", director, "keepalived", "--config-test", "--use-file", file)
        assert said == ""
        # A file with one wrong word would have been refused.
        file.write_text(file.read_text().replace("virtual_router_id", "virtual_rooter_id"))
        wrong = ["ip", "netns", "exec", director, "keepalived", "--config-test", "--use-file", str(file)]
        assert subprocess.run(wrong, capture_output=True, timeout=60).returncode != 0


def test_keepalived_moves_every_vip_and_what_floats_with_them() -> None:
    text = render(Template.KEEPALIVED, config(SERVERS), VRRP)
    for address in ("203.0.113.10/32 dev eth0", "203.0.113.11/32 dev eth0", "10.0.0.254/24 dev eth1"):
        assert address in text.partition("virtual_ipaddress_excluded")[0]
    assert "2001:db8::10/128 dev eth0" in text.partition("virtual_ipaddress_excluded")[2]
    assert "/run/kernlb/default/track" in text


def test_vrrp_does_not_take_a_vip_that_kernlb_manages() -> None:
    with pytest.raises(Conflict, match=r"203\.0\.113\.10"):
        render(Template.KEEPALIVED, config(MANAGED), VRRP)
    elsewhere = Options(interface="eth0", vips=(ip_address("203.0.113.99"),))
    wildcard = MANAGED.partition("[service")[0] + MARKED
    assert "203.0.113.99/32" in render(Template.KEEPALIVED, config(wildcard), elsewhere)


@pytest.mark.bird
def test_bird_takes_its_file(tmp_path: Path) -> None:
    accepted("bird", "-p", "-c", written(tmp_path / "bird.conf", Template.BIRD, MANAGED, BGP))


@pytest.mark.frr
def test_frr_takes_its_file(tmp_path: Path) -> None:
    file = written(tmp_path / "frr.conf", Template.FRR, MANAGED, BGP)
    accepted("vtysh", "--dryrun", "--inputfile", file)
    file.write_text(file.read_text().replace("redistribute", "redistrubite"))
    wrong = subprocess.run(["vtysh", "--dryrun", "--inputfile", str(file)], capture_output=True, timeout=60)
    assert wrong.returncode != 0


@pytest.mark.parametrize("template", [Template.BIRD, Template.FRR])
def test_bgp_announces_managed_vips_and_nothing_else(template: Template) -> None:
    text = render(template, config(MANAGED), BGP)
    assert set(re.findall(r"[0-9a-f.:]+/(?:32|128)", text)) == {
        "203.0.113.10/32",
        "203.0.113.11/32",
        "2001:db8::10/128",
    }
    with pytest.raises(NotRendered, match="keeps none"):
        render(template, config(SERVERS), BGP)
    with pytest.raises(NotRendered, match="neighbours"):
        render(template, config(MANAGED), Options())


@pytest.mark.bird
@pytest.mark.netns
def test_bird_announces_a_vip_while_it_is_on_the_interface(tmp_path: Path) -> None:
    options = Options(
        local_as=64512,
        neighbours=(Neighbour(address=ip_address("10.77.0.2"), autonomous_system=64513),),
        router_id=IPv4Address("10.77.0.1"),
    )
    ours = written(tmp_path / "ours.conf", Template.BIRD, MANAGED, options)
    theirs = tmp_path / "theirs.conf"
    theirs.write_text(
        "router id 10.77.0.2;\nprotocol device { }\n"
        "protocol bgp { local as 64513; neighbor 10.77.0.1 as 64512; passive on;"
        " ipv4 { import all; export none; }; ipv6 { import all; export none; }; }\n"
    )
    with namespaces("director", "router") as (director, router):
        ip(
            director,
            f"link add name near type veth peer name far netns {router}\n"
            "addr add 10.77.0.1/24 dev near\nlink set near up\n",
        )
        ip(director, "link set lo up\naddr add 198.51.100.1/32 dev lo\naddr add 203.0.113.10/32 dev lo\n")
        ip(router, "addr add 10.77.0.2/24 dev far\nlink set far up\nlink set lo up\n")
        sockets = {name: tmp_path / f"{name}.ctl" for name in (director, router)}
        birds = [
            subprocess.Popen(["ip", "netns", "exec", name, "bird", "-f", "-c", str(file), "-s", str(sockets[name])])
            for name, file in ((director, ours), (router, theirs))
        ]
        try:

            def routes() -> set[str]:
                done = subprocess.run(
                    ["birdc", "-s", str(sockets[router]), "show", "route"], capture_output=True, text=True, timeout=10
                )
                return set(re.findall(r"^(\S+/\d+)", done.stdout, re.MULTILINE))

            assert until(routes) == {"203.0.113.10/32"}
            ip(director, "addr del 203.0.113.10/32 dev lo\n")
            assert until(routes, lambda seen: not seen) == set()
        finally:
            for bird in birds:
                bird.terminate()
            for bird in birds:
                bird.wait(10)


# --- real servers


@pytest.mark.shellcheck
@pytest.mark.parametrize("undo", [False, True])
def test_shellcheck_finds_nothing_in_the_script(undo: bool, tmp_path: Path) -> None:
    everything = (Path(__file__).parent / "data" / "everything.toml").read_text()
    options = Options(vips=(ip_address("203.0.113.10"), ip_address("2001:db8::10")), undo=undo)
    accepted("shellcheck", written(tmp_path / "script.sh", Template.REAL_SERVER, everything, options))


@pytest.mark.netns
@pytest.mark.ipip
def test_the_script_can_be_repeated_and_undone(tmp_path: Path) -> None:
    narrowed = Options(server="rs2")
    file = written(tmp_path / "realserver.sh", Template.REAL_SERVER, SERVERS, narrowed)
    with namespaces("server") as (server,):
        ip(server, "link set lo up\nlink add tunl0 type ipip\n" if not has(server, "tunl0") else "link set lo up\n")
        before = state(server)

        def play(*arguments: str) -> None:
            log = {"KERNLB_REALSERVER_LOG": str(tmp_path / "run" / "log")}
            done = subprocess.run(
                ["ip", "netns", "exec", server, "sh", str(file), *arguments],
                capture_output=True,
                text=True,
                timeout=60,
                env=os.environ | log,
            )
            assert (done.returncode, done.stderr) == (0, "")

        play()
        once = state(server)
        assert "203.0.113.10/32" in once
        assert "2001:db8::10/128" in once
        assert "arp_ignore = 1" in once
        assert "arp_announce = 2" in once
        assert re.search(r"tunl0\S* <NOARP,UP", once)
        play()
        assert state(server) == once
        play("--undo")
        assert state(server) == before
        play("--undo")
        assert state(server) == before


def has(namespace: str, device: str) -> bool:
    return subprocess.run(["ip", "-n", namespace, "link", "show", device], capture_output=True).returncode == 0


def state(namespace: str) -> str:
    names = [f"net.ipv4.conf.{d}.{s}" for d in ("all", "tunl0") for s in ("arp_ignore", "arp_announce", "rp_filter")]
    links = run("ip", "-n", namespace, "-oneline", "link", "show", "tunl0").split(" mtu ")[0]
    addresses = re.findall(r"inet6? (\S+)", run("ip", "-n", namespace, "address", "show", "dev", "lo"))
    return "\n".join([links, *addresses, run("ip", "netns", "exec", namespace, "sysctl", *names)])


def test_a_real_server_gets_the_vips_and_devices_of_its_own_services() -> None:
    one = render(Template.REAL_SERVER_NETWORK, config(SERVERS), Options(server="10.0.0.1"))
    assert re.findall("Address=(.*)", one) == ["203.0.113.10/32", "2001:db8::10/128"]

    def modules(server: str) -> list[str]:
        return render(Template.REAL_SERVER_MODULES, config(SERVERS), Options(server=server)).splitlines()[1:]

    assert modules("rs1") == []
    assert modules("rs2") == ["ipip", "sit"]
    assert modules("rs3") == ["ip_gre"]
    tunnel = render(Template.REAL_SERVER_TUNNEL_NETWORK, config(SERVERS), Options())
    assert "Name=gre0 sit0 tunl0\n" in tunnel
    assert "-net.ipv4.conf.tunl0.rp_filter = 0" in render(Template.REAL_SERVER_SYSCTL, config(SERVERS), Options())


def test_a_server_that_needs_no_set_up_and_a_service_without_vips_are_named() -> None:
    with pytest.raises(NotRendered, match="rs9"):
        render(Template.REAL_SERVER, config(SERVERS), Options(server="rs9"))
    nat = '[service.web]\nbind = "203.0.113.10:80"\nservers = { rs1 = "10.0.0.1:80" }\n'
    with pytest.raises(NothingToRender, match="rs1"):
        render(Template.REAL_SERVER, config(nat), Options(server="rs1"))
    with pytest.raises(NotRendered, match="rs2") as unknown:
        render(Template.REAL_SERVER, config(nat), Options(server="rs2"))
    assert unknown.value.kind != NothingToRender.kind
    with pytest.raises(NotRendered, match="service m ") as raised:
        render(Template.REAL_SERVER, config(MARKED), Options())
    assert "--vip" in (raised.value.hint or "")
    assert "203.0.113.7/32" in render(Template.REAL_SERVER, config(MARKED), Options(vips=(ip_address("203.0.113.7"),)))


def test_networkd_and_ifupdown_are_not_asked_for_what_they_cannot() -> None:
    gue = SERVERS.replace('"gre"', '"gue:6080"')
    for template in (Template.REAL_SERVER_TUNNEL_NETWORK, Template.REAL_SERVER_INTERFACES):
        with pytest.raises(Unsupported, match="GUE"):
            render(template, config(gue), Options())
    assert "listen_gue -4 6080" in render(Template.REAL_SERVER, config(gue), Options())


# --- the verb


@pytest.mark.parametrize("template", list(Template))
def test_the_command_line_renders_every_template(template: Template, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(MANAGED if template in (Template.BIRD, Template.FRR) else SERVERS)
    arguments = {
        Template.SERVICE: ["--program", "/opt/kernlb/bin/kernlb"],
        Template.APPLY_SERVICE: ["--program", "/opt/kernlb/bin/kernlb"],
        Template.KEEPALIVED: ["--interface", "eth0", "--floating", "10.0.0.254/24@eth1", "--priority", "90"],
        Template.BIRD: ["--local-as", "64512", "--neighbour", "192.0.2.1@64513"],
        Template.FRR: ["--local-as", "64512", "--neighbor", "2001:db8::1@64513"],
    }.get(template, [])
    done = verb(str(template), str(file), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")


@pytest.mark.parametrize("template", [*UNITS, Template.REAL_SERVER_SERVICE])
def test_no_unit_is_rendered_for_what_it_would_not_see(template: Template, tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(SERVERS)
    link = tmp_path / "kernlb"
    link.symlink_to("/root/.local/bin/kernlb")
    programs = ("/root/.local/bin/kernlb", "/home/me/venv/bin/kernlb", "/run/user/0/kernlb", str(link))
    hidden = [[str(file), "--program", program] for program in programs]
    if template in UNITS:
        hidden.append(["/home/me/kernlb.toml", "--program", "/opt/kernlb/bin/kernlb"])
    for arguments in hidden:
        done = verb(str(template), *arguments)
        assert done.returncode == 1, arguments
        assert "ProtectHome" in done.stderr
        assert done.stdout == ""
    assert verb(str(template), str(file), "--program", "/opt/kernlb/bin/kernlb").returncode == 0


def test_an_option_that_a_template_does_not_heed_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "kernlb.toml"
    file.write_text(SERVERS)
    done = verb("sysctl.d", str(file), "--priority", "9")
    assert done.returncode == 64
    assert "keepalived.conf" in done.stderr
    assert verb("frr.conf", str(file), "--neighbour", "nobody").returncode == 64


def verb(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("kernlb", path=f"{Path(__file__).parents[1]}/.venv/bin:{os.environ['PATH']}")
    assert program
    return subprocess.run([program, "render", *arguments], capture_output=True, text=True, timeout=60)


def test_every_template_says_what_it_heeds() -> None:
    assert set(TAKES) == set(Template)
    assert issubclass(NotRendered, KernlbError)
