"""The table of kernlb in a real kernel, and what it does to real traffic."""

import json
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.config.values import MARK_BASE
from kernlb.engines.nftables import Nftables, ruleset
from kernlb.errors import KernelError
from kernlb.model import (
    Exempt,
    ExemptKey,
    Family,
    Key,
    Limit,
    LimitKey,
    Mark,
    MarkKey,
    Protocol,
    Ruleset,
    RulesetKey,
    SourceKey,
    SourceNat,
    Table,
    Value,
)
from kernlb.plan import Operation, Verb, diff
from kernlb.ports import PortRange
from tests.system.gateway import Gateway, gateway
from tests.system.network import Client, inside, ip, namespaces, nft, refused, run, server, until

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nftables]

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
ONE, TWO = MARK_BASE + 1, MARK_BASE + 2
STATIC: Table = {RulesetKey(): ruleset()}

EVERYTHING: Table = {
    **STATIC,
    SourceKey(ONE, ip_address("10.9.2.2"), TCP, 80): SourceNat(),
    SourceKey(ONE, ip_address("10.9.2.2"), TCP, 0): SourceNat((ip_address("10.9.2.1"),)),
    SourceKey(7, ip_address("fd09:2::2"), UDP, 53): SourceNat((ip_address("fd09:2::1"), ip_address("fd09:2::5"))),
    SourceKey(TWO, ip_address("10.9.2.2"), TCP, 80): SourceNat(ports=PortRange(1024, 16383)),
    SourceKey(TWO, ip_address("10.9.2.2"), UDP, 0): SourceNat((ip_address("10.9.2.1"),), PortRange(2000, 2000)),
    SourceKey(8, ip_address("fd09:2::2"), UDP, 53): SourceNat((ip_address("fd09:2::1"),), PortRange(1024, 2047)),
    SourceKey(9, ip_address("fd09:2::2"), TCP, 53): SourceNat(
        (ip_address("fd09:2::1"), ip_address("fd09:2::5")), PortRange(1024, 2047)
    ),
    LimitKey(None): Limit(4096),
    LimitKey(ONE): Limit(100),
    LimitKey(7): Limit(1),
    ExemptKey(ip_address("10.9.1.5"), TCP, 80): Exempt(),
    ExemptKey(ip_address("fd09:1::5"), SCTP, 0): Exempt(),
    MarkKey(Family.IPV4, TCP, 80, 80): Mark(ONE),
    MarkKey(Family.IPV6, TCP, 8000, 8010): Mark(ONE),
    MarkKey(Family.IPV6, UDP, 0, 0): Mark(2**32 - 1),
    MarkKey(Family.IPV4, TCP, 0, 0): Mark(TWO),
    MarkKey(ip_address("10.9.1.1"), SCTP, 80, 81): Mark(TWO),
    MarkKey(ip_address("fd09:1::1"), TCP, 0, 0): Mark(TWO),
}


def wild(port: int, mark: int = ONE, protocol: Protocol = TCP) -> dict[Key, Value]:
    return {MarkKey(family, protocol, port, port): Mark(mark) for family in Family}


def bring(namespace: str, desired: Table) -> list[Operation]:
    """The engine's table as desired; what was done for it."""
    with inside(namespace):
        engine = Nftables()
        operations = diff(desired, engine.read())
        engine.apply(operations)
        assert diff(desired, engine.read()) == []
    return operations


def read(namespace: str) -> Table:
    with inside(namespace):
        return Nftables().read()


@pytest.fixture
def alone() -> Iterator[str]:
    with namespaces("alone") as (name,):
        yield name


@pytest.fixture
def net() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


def listed(namespace: str, *what: str) -> str:
    with inside(namespace):
        return run("nft", *what)


def test_what_was_applied_reads_back_and_a_second_plan_is_empty(alone: str) -> None:
    assert read(alone) == {}
    bring(alone, EVERYTHING)
    assert read(alone) == EVERYTHING


def test_every_change_and_removal_reads_back(alone: str) -> None:
    bring(alone, EVERYTHING)
    other: dict[type, Value] = {
        Mark: Mark(5),
        Limit: Limit(9),
        SourceNat: SourceNat((ip_address("10.9.2.9"), ip_address("10.9.2.8"))),
    }
    changed = {key: other.get(type(value), value) for key, value in EVERYTHING.items()}
    changed[SourceKey(7, ip_address("fd09:2::2"), UDP, 53)] = SourceNat()
    bring(alone, changed)
    bring(alone, STATIC)
    assert read(alone) == STATIC
    assert "from_" not in listed(alone, "list", "table", "inet", "kernlb")


def test_removing_the_ruleset_removes_the_table_and_nothing_else(alone: str) -> None:
    nft(alone, "table ip theirs { chain input { type filter hook input priority 0; ip saddr 192.0.2.1 drop; }; }")
    theirs = listed(alone, "-a", "list", "ruleset")
    bring(alone, EVERYTHING)
    assert listed(alone, "-a", "list", "table", "ip", "theirs") == theirs
    bring(alone, {})
    assert listed(alone, "-a", "list", "ruleset") == theirs


def test_after_a_flush_of_the_ruleset_everything_is_missing_and_planned_again(alone: str) -> None:
    bring(alone, EVERYTHING)
    listed(alone, "flush", "ruleset")
    assert read(alone) == {}
    assert {operation.key for operation in bring(alone, EVERYTHING)} == set(EVERYTHING)


@pytest.mark.parametrize("damage", ["flush chain inet kernlb input", "delete rule inet kernlb mark_ipv4 handle H"])
def test_a_damaged_static_part_is_repaired_and_keeps_its_elements(alone: str, damage: str) -> None:
    bring(alone, EVERYTHING)
    rules = json.loads(listed(alone, "-j", "list", "chain", "inet", "kernlb", "mark_ipv4"))["nftables"]
    handle = next(item["rule"]["handle"] for item in rules if "rule" in item)
    nft(alone, damage.replace("H", str(handle)))
    assert read(alone)[RulesetKey()] == Ruleset("")
    assert [operation.key for operation in bring(alone, EVERYTHING)] == [RulesetKey()]


def test_one_more_mark_is_one_element_more_and_no_rule_is_rewritten(alone: str, tmp_path: Path) -> None:
    bring(alone, EVERYTHING)
    told = tmp_path / "told"
    with inside(alone), told.open("w") as out:
        monitor = subprocess.Popen(["nft", "-n", "monitor"], stdout=out)

    def hears(name: str) -> bool:
        nft(alone, f"add table ip {name}; delete table ip {name}")
        return f"delete table ip {name}" in told.read_text()

    try:
        assert until(lambda: hears("first"))
        # nft's monitor does not tell of elements of interval maps, so this is a mark for any port.
        bring(alone, EVERYTHING | {MarkKey(Family.IPV4, SCTP, 0, 0): Mark(ONE)})
        assert until(lambda: hears("last"))
    finally:
        monitor.terminate()
        monitor.wait(timeout=10)
    assert [line for line in told.read_text().splitlines() if " kernlb " in line] == [
        f"add element inet kernlb wildcard_any_ipv4 {{ 132 : {ONE:#010x} }}"
    ]


def test_a_port_range_may_be_widened_before_the_old_one_is_removed(alone: str) -> None:
    old, new = MarkKey(Family.IPV4, TCP, 8000, 8010), MarkKey(Family.IPV4, TCP, 8005, 8020)
    bring(alone, {**STATIC, old: Mark(ONE)})
    with inside(alone):
        engine = Nftables()
        engine.apply([Operation(Verb.ADD, new, None, Mark(TWO))])
        assert engine.read() == {**STATIC, MarkKey(Family.IPV4, TCP, 8000, 8004): Mark(ONE), new: Mark(TWO)}
        engine.apply([Operation(Verb.REMOVE, old, Mark(ONE), None)])
        assert engine.read() == {**STATIC, new: Mark(TWO)}


def test_a_refused_batch_names_its_operation_and_changes_nothing(alone: str) -> None:
    bring(alone, EVERYTHING)
    gone = ExemptKey(ip_address("10.9.1.77"), TCP, 80)
    with inside(alone), pytest.raises(KernelError) as refusal:
        Nftables().apply(
            [
                Operation(Verb.ADD, ExemptKey(ip_address("10.9.1.78"), TCP, 80), None, Exempt()),
                Operation(Verb.REMOVE, gone, Exempt(), None),
            ]
        )
    assert "10.9.1.77" in str(refusal.value.where)
    assert read(alone) == EVERYTHING


# --- traffic


def watch(namespace: str) -> None:
    """A table of somebody else's that counts the packets of new connections by their mark."""
    nft(
        namespace,
        "table inet watch { set seen { type mark; size 99; flags dynamic; }; "
        "chain input { type filter hook input priority 0; "
        "ct state new meta l4proto { tcp, udp } add @seen { meta mark counter }; }; }",
    )


def marks(namespace: str) -> dict[int, int]:
    listing = json.loads(listed(namespace, "-j", "list", "set", "inet", "watch", "seen"))
    elements = next(item["set"] for item in listing["nftables"] if "set" in item).get("elem", [])
    return {element["elem"]["val"]: element["elem"]["counter"]["packets"] for element in elements}


def test_a_wildcard_marks_every_local_address_of_both_families_later_ones_too_but_not_loopback(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, **wild(8080)})
    watch(net.gateway)
    with server(net.gateway, "0.0.0.0", 8080), server(net.gateway, "::", 8080):
        Client(net.client, "10.9.1.1", 8080).close()
        Client(net.client, "10.9.2.1", 8080).close()
        Client(net.client, "fd09:1::1", 8080).close()
        assert marks(net.gateway) == {ONE: 3}
        ip(net.gateway, "addr add 10.9.1.5/24 dev near\naddr add fd09:1::5/64 dev near nodad\n")
        Client(net.client, "10.9.1.5", 8080).close()
        Client(net.client, "fd09:1::5", 8080).close()
        assert marks(net.gateway) == {ONE: 5}
        Client(net.gateway, "127.0.0.1", 8080).close()
        Client(net.gateway, "::1", 8080).close()
        assert marks(net.gateway) == {ONE: 5, 0: 2}


def test_a_specific_bind_wins_over_a_wildcard_and_an_exempt_destination_gets_no_mark(net: Gateway) -> None:
    ip(net.gateway, "addr add 10.9.1.5/24 dev near\naddr add 10.9.1.6/24 dev near\n")
    specific = {
        MarkKey(ip_address("10.9.1.5"), TCP, 8080, 8081): Mark(TWO),
        ExemptKey(ip_address("10.9.1.6"), TCP, 8080): Exempt(),
    }
    bring(net.gateway, {**STATIC, MarkKey(Family.IPV4, TCP, 0, 0): Mark(ONE), **specific})
    watch(net.gateway)
    with server(net.gateway, "0.0.0.0", 8080), server(net.gateway, "0.0.0.0", 9090):
        for address, port in (("10.9.1.1", 8080), ("10.9.1.5", 8080), ("10.9.1.6", 8080), ("10.9.1.6", 9090)):
            Client(net.client, address, port).close()
    assert marks(net.gateway) == {ONE: 2, TWO: 1, 0: 1}


def test_answers_to_the_gateways_own_connections_are_not_marked(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, MarkKey(Family.IPV4, UDP, 0, 0): Mark(ONE)})
    nft(
        net.gateway,
        "table inet watch { counter answers { }; chain input { type filter hook input priority 0; "
        f"meta mark {ONE} counter name answers; }}; }}",
    )
    with server(net.server, "10.9.2.2", 5353, kind=socket.SOCK_DGRAM):
        Client(net.gateway, "10.9.2.2", 5353, kind=socket.SOCK_DGRAM).close()
    assert "packets 0 " in listed(net.gateway, "list", "counter", "inet", "watch", "answers")


def test_a_mark_of_somebody_else_stays_and_is_counted(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, **wild(8080)})
    watch(net.gateway)
    nft(
        net.gateway,
        "table inet theirs { chain first { type filter hook prerouting priority raw; iif near meta mark set 0x99; }; }",
    )
    with server(net.gateway, "0.0.0.0", 8080):
        Client(net.client, "10.9.1.1", 8080).close()
    assert marks(net.gateway) == {0x99: 1}
    with inside(net.gateway):
        assert Nftables().tallies().foreign_marks >= 3


def test_the_connection_beyond_the_limit_is_refused_and_an_unrelated_change_does_not_double_it(net: Gateway) -> None:
    desired = {**STATIC, **wild(8080), LimitKey(ONE): Limit(4)}
    bring(net.gateway, desired)
    with server(net.gateway, "0.0.0.0", 8080), server(net.gateway, "::", 8080):
        held = [Client(net.client, address, 8080) for address in ("10.9.1.1", "fd09:1::1") * 2]
        assert refused(net.client, "10.9.1.1", 8080)
        assert refused(net.client, "fd09:1::1", 8080)
        bring(net.gateway, {**desired, **wild(9090, TWO), LimitKey(TWO): Limit(9)})
        assert refused(net.client, "10.9.1.1", 8080)
        nft(net.gateway, "flush chain inet kernlb input")
        bring(net.gateway, desired)
        assert refused(net.client, "10.9.1.1", 8080)
        held.pop().close()
        assert until(lambda: not refused(net.client, "fd09:1::1", 8080))
        with inside(net.gateway):
            assert Nftables().tallies().refused[LimitKey(ONE)] >= 4
        for client in held:
            client.close()


def test_one_limit_holds_for_all_of_kernlbs_marks_together(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, **wild(8080), **wild(9090, TWO), LimitKey(None): Limit(4), LimitKey(TWO): Limit(1)})
    with server(net.gateway, "0.0.0.0", 8080), server(net.gateway, "0.0.0.0", 9090):
        held = [Client(net.client, "10.9.1.1", 8080) for _ in range(3)]
        held.append(Client(net.client, "10.9.1.1", 9090))
        assert refused(net.client, "10.9.1.1", 8080)
        assert refused(net.client, "10.9.1.1", 9090)
        for client in held:
            client.close()


def test_a_limit_refuses_udp_with_an_icmp_error(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, **wild(5353, protocol=UDP), LimitKey(ONE): Limit(1)})
    with (
        server(net.gateway, "10.9.1.1", 5353, kind=socket.SOCK_DGRAM),
        server(net.gateway, "fd09:1::1", 5353, kind=socket.SOCK_DGRAM),
    ):
        held = Client(net.client, "10.9.1.1", 5353, kind=socket.SOCK_DGRAM)
        assert refused(net.client, "10.9.1.1", 5353, kind=socket.SOCK_DGRAM)
        assert refused(net.client, "fd09:1::1", 5353, kind=socket.SOCK_DGRAM)
        held.close()


def test_a_lowered_limit_never_lets_in_more_than_the_old_one_and_raised_back_it_still_counts_all(net: Gateway) -> None:
    desired = {**STATIC, **wild(8080)}
    bring(net.gateway, {**desired, LimitKey(ONE): Limit(4)})
    with server(net.gateway, "0.0.0.0", 8080):
        held = [Client(net.client, "10.9.1.1", 8080) for _ in range(3)]
        bring(net.gateway, {**desired, LimitKey(ONE): Limit(2)})
        held.append(Client(net.client, "10.9.1.1", 8080))
        assert refused(net.client, "10.9.1.1", 8080)
        bring(net.gateway, {**desired, LimitKey(ONE): Limit(1)})
        assert refused(net.client, "10.9.1.1", 8080)
        bring(net.gateway, {**desired, LimitKey(ONE): Limit(4)})
        assert refused(net.client, "10.9.1.1", 8080)
        for client in held:
            client.close()


def forward(net: Gateway) -> None:
    """Somebody else's rules that send what kernlb marked to the server, as IPVS would."""
    nft(
        net.gateway,
        "table inet theirs { chain first { type nat hook prerouting priority dstnat; "
        f"meta nfproto ipv4 meta mark {ONE} meta l4proto tcp dnat ip to 10.9.2.2:80; "
        f"meta nfproto ipv6 meta mark {ONE} meta l4proto tcp dnat ip6 to [fd09:2::2]:80; }}; }}",
    )


def sources(*addresses: str, port: int = 80) -> dict[Key, Value]:
    given = [ip_address(address) for address in addresses]
    return {
        SourceKey(ONE, server, TCP, port): SourceNat(tuple(a for a in given if a.version == server.version))
        for server in (ip_address("10.9.2.2"), ip_address("fd09:2::2"))
    }


@pytest.mark.parametrize("port", [80, 0])
@pytest.mark.parametrize(
    ("given", "seen"),
    [((), ("10.9.2.1", "fd09:2::1")), (("10.9.2.7", "fd09:2::7"), ("10.9.2.7", "fd09:2::7"))],
    ids=["of the route", "configured"],
)
def test_the_server_sees_the_gateways_source(
    net: Gateway, given: tuple[str, ...], seen: tuple[str, ...], port: int
) -> None:
    ip(net.gateway, "addr add 10.9.2.7/24 dev far\naddr add fd09:2::7/64 dev far nodad preferred_lft 0\n")
    bring(net.gateway, {**STATIC, **wild(8080), **sources(*given, port=port)})
    forward(net)
    with server(net.server, "10.9.2.2", 80), server(net.server, "fd09:2::2", 80):
        assert Client(net.client, "10.9.1.1", 8080).seen == seen[0]
        assert Client(net.client, "fd09:1::1", 8080).seen == seen[1]


def test_clients_are_spread_over_several_sources_and_each_keeps_its_own(net: Gateway) -> None:
    ip(net.gateway, "addr add 10.9.2.7/24 dev far\naddr add 10.9.2.8/24 dev far\n")
    people = [f"10.9.1.{number}" for number in range(20, 36)]
    ip(net.client, "".join(f"addr add {address}/24 dev eth0\n" for address in people))
    bring(net.gateway, {**STATIC, **wild(8080), **sources("10.9.2.7", "10.9.2.8")})
    forward(net)
    with server(net.server, "10.9.2.2", 80):
        twice = [{Client(net.client, "10.9.1.1", 8080, source=(who, 0)).seen for _ in range(2)} for who in people]
    assert all(len(seen) == 1 for seen in twice)
    assert set().union(*twice) == {"10.9.2.7", "10.9.2.8"}


def test_a_clients_port_and_the_gateways_own_do_not_collide(net: Gateway) -> None:
    bring(net.gateway, {**STATIC, **wild(8080), **sources()})
    forward(net)
    with server(net.server, "10.9.2.2", 80):
        client = Client(net.client, "10.9.1.1", 8080, source=("10.9.1.2", 40000))
        own = Client(net.gateway, "10.9.2.2", 80, source=("10.9.2.1", 40000))
        assert len({(client.seen, client.port), (own.seen, own.port)}) == 2
        check = Client(net.gateway, "10.9.2.2", 80, source=("10.9.2.1", 40001))
        later = Client(net.client, "10.9.1.1", 8080, source=("10.9.1.2", 40001))
        assert len({(check.seen, check.port), (later.seen, later.port)}) == 2
