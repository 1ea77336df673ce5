"""Which kernel apt names, and the cache that it is kept in."""

import fcntl
from pathlib import Path

import pytest

from tests.vm.errors import GuestError
from tests.vm.kernel import CACHE, Package, cache_lock, image_package

RECORD = """\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)
Description-en: Linux for x86-64 cloud (meta-package)
"""


def test_the_metapackage_names_image_and_version() -> None:
    assert image_package(RECORD) == Package(name="linux-image-6.1.0-56-cloud-amd64", version="6.1.192-2")


def test_where_apt_knows_no_kernel_the_error_says_what_to_do() -> None:
    with pytest.raises(GuestError, match="apt-get update"):
        image_package("")


def test_a_thing_is_made_by_one_at_a_time_and_keeps_nobody_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    refused = pytest.raises(BlockingIOError)
    with cache_lock("box"), cache_lock("kernel"), (tmp_path / "box.lock").open("w") as other, refused:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
