"""Lies that a registry tells, and a pull that has to find them out; shared by tests."""

from __future__ import annotations

from typing import Any

import pytest

from hwc.errors import IntegrityError
from hwc.oci_layout import Layout
from registry_parts import pull
from registry_server import Handler, Lie, Server, sha256


def at(path: str, lie: Lie) -> Lie:
    """Tell a lie where a path ends so, and the truth elsewhere."""
    return lambda handler: handler.path.partition("?")[0].endswith(path) and lie(handler)


def says(payload: bytes, status: int = 200, **headers: str) -> Lie:
    def lie(handler: Handler) -> bool:
        handler.answer(status, payload, **headers)
        return True

    return lie


def cut_after(count: int, promised: int) -> Lie:
    """Promise some bytes, send a part of them and close."""

    def lie(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", str(promised))
        handler.end_headers()
        handler.wfile.write(b"q" * count)
        handler.close_connection = True
        return True

    return lie


def refused(here: Layout, server: Server, kind: type[Exception] = IntegrityError, **how: Any) -> str:
    """Pull, expect the failure and that nothing of it can be seen; return what was said."""
    with pytest.raises(kind) as caught:
        pull(here, server, **how)
    assert here.tags() == {}
    assert list((here.path / ".ingest").glob("blob-*")) == []
    for path in here.blob_files():
        assert sha256(path.read_bytes()) == f"sha256:{path.name}"
    return str(caught.value)
