"""What a service's binds and scheduler become on each engine, without a kernel."""

import pytest

from kernlb.assessment import Assessment
from kernlb.config import load
from kernlb.desired import Desired, Meaning
from kernlb.model import Endpoint, EngineName, Ruleset, Scheduler, VirtualService


def meant(lines: str, engine: EngineName, *, bind: str = "192.0.2.1:80") -> Desired:
    config = load(f'[service.web]\nbind = "{bind}"\n{lines}\nservers.a = "10.0.0.1:80"\n', "test")
    assessment = Assessment(config, now=0.0)
    assessment.assess(now=0.0)
    return Meaning(config, engines={"web": engine}, ruleset=Ruleset("")).desired(assessment.pools)


def scheduled(lines: str, engine: EngineName) -> Scheduler:
    (service,) = (value for value in meant(lines, engine).table.values() if isinstance(value, VirtualService))
    return service.scheduler


@pytest.mark.parametrize(
    ("bind", "binds"),
    [
        ("192.0.2.1:8000-8002", ["192.0.2.1:8000", "192.0.2.1:8001", "192.0.2.1:8002"]),
        ("*:80-81", ["*:80", "*:81"]),
        ("192.0.2.1:0", ["192.0.2.1:0"]),
    ],
)
def test_no_two_virtual_services_have_one_name(bind: str, binds: list[str]) -> None:
    names = meant('forwarding = "fullnat"', EngineName.XDP, bind=bind).names
    assert [name.bind for key, name in names.items() if isinstance(key, Endpoint)] == binds


@pytest.mark.parametrize("scheduler", ["lc", "wlc", "twos"])
def test_the_program_looks_for_few_connections_where_it_knows_them(scheduler: str) -> None:
    assert scheduled(f'scheduler = "{scheduler}"\nforwarding = "fullnat"', EngineName.XDP) is Scheduler.TWOS
    assert scheduled(f'scheduler = "{scheduler}"\nforwarding = "direct"', EngineName.XDP) is Scheduler.MAGLEV


@pytest.mark.parametrize(
    ("lines", "scheduler"),
    [
        ('scheduler = "wrr"', Scheduler.MAGLEV),
        ('scheduler = "sh"', Scheduler.SH),
        ('scheduler = "mh"\nflags = ["port"]', Scheduler.MAGLEV),
        ('scheduler = "maglev"', Scheduler.MAGLEV),
    ],
)
def test_whatever_else_shares_by_weight_is_hashed(lines: str, scheduler: Scheduler) -> None:
    assert scheduled(f'{lines}\nforwarding = "fullnat"', EngineName.XDP) is scheduler


def test_ipvs_has_the_scheduler_that_was_asked_for() -> None:
    assert scheduled('scheduler = "wlc"\nforwarding = "fullnat"', EngineName.IPVS) is Scheduler.WLC
