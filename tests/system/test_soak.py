"""Real servers that flap at random behind the eBPF engine, for a short while; bench/soak does it for ten minutes,
after which memory tells something too."""

from pathlib import Path

import pytest

from bench.soak import grown, quarters, soak

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.nftables, pytest.mark.bpf, pytest.mark.timeout(300)]
WHAT = ("descriptors", "threads", "tasks")


def test_flapping_real_servers_leave_states_and_kernel_as_the_model_says_and_the_daemon_as_it_was(
    tmp_path: Path,
) -> None:
    found = soak(tmp_path, flapping=2.0)
    assert found.faults >= 12
    assert (found.untrue, found.uncaused, found.failed) == (0, 0, 0)
    early, late = quarters(found.pauses)
    assert {what: grown(early, late, what) for what in WHAT} == dict.fromkeys(WHAT, 0)
