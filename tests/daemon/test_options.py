"""Which configurations the same engines of a kernel carry out."""

import pytest

from kernlb.config import load
from kernlb.daemon.options import same_engines

SERVICE = '[service.web]\nbind = ["192.0.2.1:80"]\nforwarding = "fullnat"\n[service.web.servers]\na = "10.0.0.1:80"\n'


@pytest.mark.parametrize(
    "more",
    [
        '[engine]\ninterfaces = ["eth0"]\n',
        '[engine]\nidle_timeout = "1h"\n',
        "[addresses]\nmanage = true\n",
        '[addresses]\nsource = ["192.0.2.9"]\n',
        '[addresses]\nsource_ports = "1024-2047"\n',
        '[timers]\ntcp = "5m"\n',
    ],
)
def test_engines_that_are_told_other_things_are_others(more: str) -> None:
    one, other = (load(text, "test") for text in (SERVICE, SERVICE + more))
    assert same_engines(one, one)
    assert not same_engines(one, other)


def test_another_pool_is_carried_by_the_same_engines() -> None:
    other = SERVICE.replace("10.0.0.1", "10.0.0.2") + 'b = "10.0.0.3:80"\n'
    assert same_engines(load(SERVICE, "test"), load(other, "test"))
