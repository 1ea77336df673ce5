"""bpf/abi.h and kernlb/engines/abi.py are one contract: sizes and offsets from the object's BTF."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernlb.engines import abi
from tests.features import Feature, need

pytestmark = [pytest.mark.bpf, pytest.mark.clang]

LAYOUTS = {
    "service_key": abi.ServiceKey.LAYOUT,
    "service": abi.Service.LAYOUT,
    "hop": abi.Hop.LAYOUT,
    "server": abi.Server.LAYOUT,
    "source": abi.Source.LAYOUT,
    "traffic": abi.Traffic.LAYOUT,
    "explanation": abi.Explanation.LAYOUT,
    "settings": abi.Settings.LAYOUT,
}
ENUMS = {
    "hop_method": (abi.HopMethod, "HOP_"),
    "forwarding": (abi.Forward, "FORWARD_"),
    "server_flag": (abi.ServerFlag, "SERVER_"),
    "service_flag": (abi.ServiceFlag, "SERVICE_"),
    "filter": (abi.Filter, "FILTER_"),
    "flow_state": (abi.FlowState, "FLOW_"),
    "cause": (abi.Cause, "CAUSE_"),
    "reason": (abi.Reason, "REASON_"),
    "limit_kind": (abi.LimitKind, "LIMIT_"),
}
OFFSETS = {
    "service": {"id": 0, "slots": 4, "flags": 8, "idle": 10, "connections": 12, "together": 16, "limit": 20},
    "hop": {"interface": 0, "destination": 4, "source": 10, "mtu": 16, "method": 18},
    "server": {
        "hop": 0,
        "port": 20,
        "forwarding": 22,
        "flags": 23,
        "tunnel_port": 24,
        "first_source": 26,
        "source_count": 28,
        "address": 32,
        "source": 48,
        "next": 64,
        "connections": 80,
        "resume": 84,
    },
    "settings": {
        "abi_version": 0,
        "tick_shift": 4,
        "memory_mask": 8,
        "flow_mask": 12,
        "secret": 16,
        "timeout": 24,
        "ipv6": 48,
        "limits": 52,
        "step_shift": 53,
    },
    "explanation": {
        "service": 0,
        "slot": 4,
        "hash": 8,
        "current": 12,
        "previous": 14,
        "server": 16,
        "reason": 18,
        "cause": 19,
    },
}


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The BTF of a file that does nothing but use every type of abi.h: what a program does not use has none."""
    need(Feature.CLANG, Feature.BPFTOOL)
    bpf = Path(__file__).parents[2] / "bpf"
    source = tmp_path_factory.mktemp("abi") / "abi.c"
    uses = "\n".join(
        [f"struct {name} s_{name};" for name in (*LAYOUTS, "flow_bucket", "memory_bucket", "slot_group")]
        + [f"enum {name} e_{name};" for name in ENUMS]
    )
    source.write_text(f'#include "abi.h"\n{uses}\n')
    compiled = source.with_suffix(".o")
    machine = subprocess.run(("uname", "-m"), capture_output=True, text=True, check=True).stdout.strip()
    include = f"-I/usr/include/{machine}-linux-gnu"
    subprocess.run(
        ("clang", "-g", "-O2", "-target", "bpf", f"-I{bpf}", include, "-c", source, "-o", compiled), check=True
    )
    told = subprocess.run(
        ("bpftool", "-j", "btf", "dump", "file", compiled), capture_output=True, text=True, check=True
    )
    return {f"{each['kind']} {each['name']}": each for each in json.loads(told.stdout)["types"]}


@pytest.mark.parametrize("name", LAYOUTS)
def test_structs_have_the_size_that_python_packs(types: dict[str, dict], name: str) -> None:
    assert types[f"STRUCT {name}"]["size"] == LAYOUTS[name].size


@pytest.mark.parametrize("name", OFFSETS)
def test_members_lie_where_python_writes_them(types: dict[str, dict], name: str) -> None:
    members = {member["name"]: member["bits_offset"] // 8 for member in types[f"STRUCT {name}"]["members"]}
    assert OFFSETS[name].items() <= members.items()


def test_buckets_and_groups_are_whole_cache_lines(types: dict[str, dict]) -> None:
    assert types["STRUCT flow_bucket"]["size"] == abi.FLOW_BUCKET_SIZE
    assert types["STRUCT memory_bucket"]["size"] == 8 * abi.MEMORIES_PER_BUCKET
    assert types["STRUCT slot_group"]["size"] == 4 * abi.SLOTS_PER_GROUP


@pytest.mark.parametrize("name", ENUMS)
def test_names_have_the_same_numbers(types: dict[str, dict], name: str) -> None:
    enum, prefix = ENUMS[name]
    there = {value["name"].removeprefix(prefix): value["val"] for value in types[f"ENUM {name}"]["values"]}
    there.pop("CAUSES", None)
    there.pop("STATES", None)
    assert there == {member.name: member.value for member in enum}


# The map's own form of IPv4 is no address of a server.
addresses = st.ip_addresses().filter(lambda address: address.version == 4 or not address.ipv4_mapped)
hops = st.builds(
    abi.Hop,
    interface=st.integers(0, 2**32 - 1),
    destination=st.binary(min_size=6, max_size=6),
    source=st.binary(min_size=6, max_size=6),
    mtu=st.integers(0, 65535),
    method=st.sampled_from(abi.HopMethod),
)
port = st.integers(0, 65535)


@given(st.builds(abi.Server, address=addresses, forward=st.sampled_from(abi.Forward), hop=hops, port=port, tunnel_port=port,  # noqa: E501
                 flags=st.sampled_from([abi.ServerFlag(0), abi.ServerFlag.DEAD, abi.ServerFlag.QUIESCED]),
                 source=addresses, next=addresses))  # fmt: skip
def test_a_server_reads_back_as_written(server: abi.Server) -> None:
    again = abi.Server.unpack(server.pack())
    assert again.pack() == server.pack()
