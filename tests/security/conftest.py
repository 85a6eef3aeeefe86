"""A registry on loopback with a bundle in it, and an empty layout to pull into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwc.oci_layout import Layout
from registry_parts import serve, small_store
from registry_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return small_store(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def origin(packed: Layout, server: Server) -> Layout:
    serve(server, packed)
    return packed


@pytest.fixture
def here(tmp_path: Path, origin: Layout) -> Layout:
    return Layout(tmp_path / "here").create()
