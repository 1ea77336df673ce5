"""What the kernel's verifier takes: the program with every choice of features, far from the limit of a million."""

import struct
from pathlib import Path

import pytest

from kernlb.engines import abi
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.libbpf import info
from tests.bpf.conftest import SIZES

pytestmark = pytest.mark.bpf
MARGIN = 400_000
NONE = abi.Settings(secret=1, ipv6=False, fullnat=False, tunnel=False, transition=False)
VERIFIED, INFO = 216, 232  # bpf_prog_info: verified_insns, and the size of it all


@pytest.mark.parametrize("kernel", ["this", pytest.param("with ipvs", marks=pytest.mark.ipvs)])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(abi.Settings(secret=1, limits=True), id="everything"),
        pytest.param(abi.Settings(secret=1), id="no limits"),
        pytest.param(abi.Settings(secret=1, fullnat=False), id="no full nat"),
        pytest.param(abi.Settings(secret=1, tunnel=False, transition=False, ipv6=False), id="full nat"),
        pytest.param(NONE, id="nothing"),
    ],
)
def test_the_verifier_takes_every_choice_of_features(balancer: Path, settings: abi.Settings, kernel: str) -> None:
    """A kernel without IPVS has a guest beside it, which is another kernel: what one verifier takes another may not."""
    with Dataplane.load(balancer, settings=settings, sizes=SIZES) as plane:
        for name, program in plane.programs.items():
            (walked,) = struct.unpack_from("=I", info(program.fd, INFO), VERIFIED)
            assert walked < MARGIN, f"{name}: {walked} instructions"
