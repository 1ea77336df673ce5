"""One package for all tests of this directory: building it takes the longest."""

from pathlib import Path

import pytest

from tests.debian.package import build


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))
