"""A small ImageNet for the tests of its builder, made once for each file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.imagenet import built, planted_source


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, and the tar of tars beside them."""
    return planted_source(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def root(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA_ROOT with a build from class folders."""
    return built(raw, tmp_path_factory.mktemp("data"))
