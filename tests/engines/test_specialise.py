"""From the source to one program: what of it is compiled, and how compiled functions become one."""

import struct
from collections.abc import Mapping
from dataclasses import fields, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernlb.engines import abi, specialise
from kernlb.engines.linking import FUNCTIONS, KERNEL_BUFFER, KERNEL_SUMMED, MAPS, Buffer, Function, btf, link, resolve
from kernlb.engines.specialise import FEATURES, definitions, needed, unit
from kernlb.model import Forwarding

BPF = Path(__file__).parents[2] / "bpf"
SETTINGS = abi.Settings(secret=1)
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CALL, EXIT, WIDE, MOVE = 0x85, 0x95, 0x18, 0xB7
MAIN, SUM, TWICE = Function("main", 1, "xdp_md"), Function("sum", 2), Function("twice", 1)


def instruction(operation: int, value: int = 0, *, source: int = 0) -> bytes:
    return struct.pack("<BBhi", operation, source << 4, 0, value)


def decoded(code: bytes) -> list[tuple[int, int, int]]:
    return [(op, registers >> 4, value) for op, registers, _, value in struct.iter_unpack("<BBhi", code)]


def features(*ways: Forwarding, addresses: tuple[abi.Address, ...] = (V4,), moving: bool = False) -> set[str]:
    return set(specialise.features(needed(SETTINGS, ways, addresses, limited=False, moving=moving)))


def test_what_no_server_and_no_address_needs_is_off() -> None:
    assert features(Forwarding.FULLNAT) == {"fullnat"}
    assert features(Forwarding.FULLNAT, addresses=(V4, V6)) == {"fullnat", "ipv6"}
    assert features(Forwarding.DIRECT) == {"transition"}
    assert features(Forwarding.TUNNEL, Forwarding.FULLNAT) == {"tunnel", "fullnat", "transition"}
    assert features(Forwarding.FULLNAT, moving=True) == {"fullnat", "transition"}


def test_calls_by_number_become_calls_of_what_is_there_once() -> None:
    compiled = {
        MAIN: instruction(CALL, FUNCTIONS + 1)
        + instruction(CALL, FUNCTIONS)
        + instruction(CALL, 5)
        + instruction(EXIT),
        SUM: instruction(CALL, FUNCTIONS + 1) + instruction(EXIT),
        TWICE: instruction(EXIT),
    }
    linked = link(MAIN, compiled, [SUM, TWICE], [])
    assert linked.starts == {MAIN: 0, TWICE: 4, SUM: 5}
    # From the instruction after the call: BPF_PSEUDO_CALL is relative.
    assert decoded(linked.code) == [
        (CALL, 1, 3), (CALL, 1, 3), (CALL, 0, 5), (EXIT, 0, 0), (EXIT, 0, 0), (CALL, 1, -2), (EXIT, 0, 0),
    ]  # fmt: skip


def test_maps_by_number_become_descriptors_and_other_wide_numbers_stay() -> None:
    code = instruction(WIDE, MAPS + 1, source=1) + instruction(0) + instruction(WIDE, MAPS + 1) + instruction(CALL)
    linked = link(MAIN, {MAIN: code}, [], [7, 9])
    assert decoded(linked.code) == [(WIDE, 1, 9), (0, 0, 0), (WIDE, 0, MAPS + 1), (CALL, 0, 0)]


@pytest.mark.parametrize(
    ("buffer", "expected"),
    [
        (Buffer(function=63548, summed=1029), [(CALL, 2, 63548), (MOVE, 0, 1029)]),  # BPF_PSEUDO_KFUNC_CALL
        (None, [(MOVE, 0, 0), (MOVE, 0, 0)]),
    ],
)
def test_what_only_the_kernel_knows_is_put_in_or_is_nothing(
    buffer: Buffer | None, expected: list[tuple[int, int, int]]
) -> None:
    code = bytearray(instruction(CALL, KERNEL_BUFFER) + instruction(CALL, KERNEL_SUMMED) + instruction(CALL, 25))
    resolve(code, buffer)
    assert decoded(bytes(code)) == [*expected, (CALL, 0, 25)]


def test_the_types_name_every_function_as_global() -> None:
    text, numbers = btf([MAIN, SUM])
    magic, version, flags, head, start, length, names, _ = struct.unpack_from("=HBBIIIII", text)
    assert (magic, version, flags, head, start, names) == (0xEB9F, 1, 0, 24, 0, length)
    assert set(numbers) == {MAIN, SUM}
    words = text[head + names :].split(b"\0")
    assert {b"main", b"sum", b"xdp_md"} <= set(words)


@pytest.fixture(scope="module")
def sources() -> Mapping[str, str]:
    return {path.name: path.read_text() for path in (*BPF.glob("*.h"), BPF / "balancer.bpf.c")}


def test_the_unit_holds_each_header_once_and_the_programs_asked_for(sources: Mapping[str, str]) -> None:
    made = unit("balancer.bpf.c", sources.__getitem__, programs=["balancer_tc"], inline=False)
    assert [each.name for each in made.entries] == ["balancer_tc"]
    assert '#include "' not in made.text
    assert "balancer_xdp" not in made.text
    for name in sources:
        guard = f"#define KERNLB_{name.removesuffix('.h').upper()}_H\n"
        assert made.text.count(guard) <= 1, name
    assert {each.name for each in made.callees} == globals_of(sources)
    assert {each.context for each in made.callees} == {None, "xdp_md", "__sk_buff"}


def globals_of(sources: Mapping[str, str]) -> set[str]:
    lines = [line for text in sources.values() for line in text.splitlines() if line.startswith("GLOBAL ")]
    assert all(line.startswith("GLOBAL int ") for line in lines), "what BCC is given by number returns int"
    return {line.split("(")[0].split()[-1] for line in lines}


def test_every_constant_of_the_program_is_given(sources: Mapping[str, str]) -> None:
    """A member that is left out would be 0."""
    declared = sources["abi.h"].split("struct settings {")[1].split("};")[0]
    members = {line.split(";")[0].split()[-1].split("[")[0] for line in declared.splitlines() if ";" in line}
    given = definitions(SETTINGS, ["flows", "balancer.rodata"])
    assert {part.split("=")[0] for part in given[0].split("{", 1)[1].split(".")[1:]} == members
    assert given[1:] == [f"-DMAP_flows={MAPS}"]
    flags = {each.name for each in fields(abi.Settings) if isinstance(getattr(SETTINGS, each.name), bool)}
    assert flags == set(FEATURES)
    assert definitions(replace(SETTINGS, ipv6=False), []) != definitions(SETTINGS, [])
