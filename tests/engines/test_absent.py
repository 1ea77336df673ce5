"""A kernel that lacks an engine, read for as long as a daemon lives."""

import gc

import pytest

from kernlb.engines.absent import Absent
from kernlb.engines.ipvs import Ipvs
from kernlb.errors import Unsupported
from kernlb.kernel import Kernel
from kernlb.model import EngineName
from tests.engines.samples import vip


def test_what_is_missing_is_said_where_it_matters_and_reading_on_keeps_nothing() -> None:
    kernel = Kernel({EngineName.IPVS: Absent(Ipvs.handles, Unsupported("no IPVS here"))})

    def objects(readings: int) -> int:
        for _ in range(readings):
            assert kernel.read() == {}
            with pytest.raises(Unsupported):
                kernel.require([vip(1)])
        gc.collect()
        return len(gc.get_objects())

    before = objects(10)
    assert objects(500) <= before + 50
