"""The first root of the guest: modules in the order they load, an archive that others can read."""

import stat
import subprocess
from pathlib import Path

import pytest

from tests.vm.initramfs import Entry, load_order, newc

MODULES_DEP = """\
kernel/a.ko:
kernel/b.ko: kernel/a.ko
kernel/c-d.ko.xz: kernel/b.ko kernel/a.ko
kernel/e.ko: kernel/a.ko
"""


def test_a_module_comes_after_all_it_needs_and_only_once() -> None:
    order = load_order(MODULES_DEP, ["c_d", "e", "b"])
    assert order == ["kernel/a.ko", "kernel/b.ko", "kernel/c-d.ko.xz", "kernel/e.ko"]


def test_a_module_that_is_built_in_is_left_out() -> None:
    assert load_order(MODULES_DEP, ["virtio", "a"]) == ["kernel/a.ko"]


@pytest.mark.qemu
def test_the_archive_unpacks_to_what_was_put_in(tmp_path: Path) -> None:
    entries = [
        Entry(path="bin", mode=stat.S_IFDIR | 0o755),
        Entry(path="bin/odd", mode=stat.S_IFREG | 0o755, data=b"12345"),
        Entry(path="bin/link", mode=stat.S_IFLNK | 0o777, data=b"odd"),
    ]
    archive = b"".join(newc(entries))
    subprocess.run(["busybox", "cpio", "-i"], cwd=tmp_path, input=archive, check=True, timeout=30, capture_output=True)
    assert (tmp_path / "bin" / "link").read_bytes() == b"12345"
    assert (tmp_path / "bin" / "link").readlink() == Path("odd")
    assert stat.S_IMODE((tmp_path / "bin" / "odd").stat().st_mode) == 0o755
