"""What `status` says of services in transition, in JSON and in text."""

from ipaddress import IPv4Address
from typing import Any

from rich.console import Console

from kernlb.assessment import Assessment
from kernlb.cli.status import rendered
from kernlb.config.values import AddressBind, Config, Server, Service
from kernlb.counters import Counters
from kernlb.desired import Meaning
from kernlb.engines import Transit
from kernlb.model import Endpoint, EngineName, Forwarding, Ruleset, Scheduler, ServerKey
from kernlb.status import Places, Snapshot, service_documents

SERVICE = Service(
    name="web",
    binds=(AddressBind(IPv4Address("192.0.2.1"), 80, 80),),
    servers=tuple(
        Server(name=name, address=IPv4Address(f"10.0.0.{n}"), port=80, weight=weight, forwarding=Forwarding.DIRECT)
        for n, (name, weight) in enumerate({"one": 1, "two": 3, "three": 2}.items(), start=1)
    ),
    scheduler=Scheduler.MAGLEV,
)


def document(transit: Transit | None) -> dict[str, Any]:
    config = Config(services=(SERVICE,))
    assessment = Assessment(config, now=0.0)
    assessment.assess(now=0.0)
    meaning = Meaning(config, engines={"web": EngineName.XDP}, ruleset=Ruleset(""))
    desired = meaning.desired(assessment.pools)
    (endpoint,) = (key for key in desired.table if isinstance(key, Endpoint))
    known = Snapshot(
        config=config,
        pools=assessment.pools,
        states=assessment.states,
        overrides=assessment.overrides,
        table=desired.table,
        places=Places(desired.names),
        counters=lambda key: Counters(),
        response_time=lambda name: None,
        hindered={},
        transits={} if transit is None else {endpoint: transit},
    )
    (found,) = service_documents(known)
    return found


def before(**weights: int) -> Transit:
    servers = [key for key in _servers() if key[0] in weights]
    return Transit(slots=655, of=65_537, seconds=871.23, before={key: weights[name] for name, key in servers})


def _servers() -> list[tuple[str, ServerKey]]:
    endpoint = Endpoint(EngineName.XDP, SERVICE.protocol, IPv4Address("192.0.2.1"), 80)
    return [(server.name, ServerKey(endpoint, server.address, server.port)) for server in SERVICE.servers]


def text(*services: dict[str, Any], asked: int = 3, probed: int = 3, program: dict[str, Any] | None = None) -> str:
    checks = {"asked": asked, "probed": probed, "saved": asked - probed}
    daemon = {"pid": 1, "file": "f", "since": 0.0, "temporary": None, "error": None, "checks": checks}
    console = Console(width=160)
    with console.capture() as captured:
        console.print(rendered({"daemon": daemon, "program": program, "services": services}))
    return captured.get()


def test_what_is_settled_says_nothing_of_a_transition() -> None:
    service = document(None)
    assert service["transition"] is None
    assert {server["previous_weight"] for server in service["servers"]} == {None}
    assert "transition" not in text(service)


def test_what_is_told_of_a_daemon_without_services_stands_in_lines_of_its_own() -> None:
    program = {"loader": "object", "features": [], "why": "because", "attached": ["eth0 at tcx"]}
    lines = [line.rstrip() for line in text(program=program).splitlines()]
    assert [line.partition(" ")[0] for line in lines] == ["daemon", "eBPF", "no"]


def test_people_see_the_probes_that_sharing_saves() -> None:
    assert "2 targets are probed for 3 checks: sharing saves 1" in text(document(None), probed=2)
    assert "sharing" not in text(document(None))


def test_a_service_in_transition_says_how_much_how_long_and_by_which_weights() -> None:
    service = document(before(one=1, two=1))
    assert service["transition"] == {"slots": 655, "of": 65_537, "seconds": 871.2}
    weights = {s["name"]: (s["previous_weight"], s["effective_weight"]) for s in service["servers"]}
    assert weights == {"one": (1, 1), "two": (1, 3), "three": (0, 2)}
    shown = text(service)
    assert "in transition: 1.0%, ≥ 14m 31s" in shown
    assert "1→3" in shown
    assert "0→2" in shown
    assert "1→1" not in shown
