"""A registry that redirects, dawdles, or stores other bytes: what is said to it, and what is believed of it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwc.errors import IntegrityError, RegistryError
from hwc.events import silent
from hwc.oci_layout import Layout
from hwc.registry import pull as pulling
from registry_lies import at, refused, says
from registry_parts import IMPATIENT, blob_of, client_of, place, push, small_store
from registry_server import Handler, Server, basic

SECRET = "ann:open-sesame"


def test_a_redirect_to_another_host_gets_no_credentials(tmp_path: Path, here: Layout, server: Server) -> None:
    docker = tmp_path / "docker"
    docker.mkdir()
    auths = {server.host: {"auth": basic(SECRET).removeprefix("Basic ")}}
    (docker / "config.json").write_text(json.dumps({"auths": auths}))
    server.state.password = SECRET
    with Server() as other:
        other.state.blobs = server.state.blobs

        def elsewhere(handler: Handler) -> bool:
            entered = handler.headers.get("authorization") == basic(SECRET)
            if "/blobs/" not in handler.path or not entered:
                return False
            handler.answer(307, location=f"http://localhost:{other.server_port}{handler.path}?signature=abc")
            return True

        server.state.lies.append(elsewhere)
        with client_of(server, env={"DOCKER_CONFIG": str(docker)}) as client:
            pulling.pull(here, place(server), client, pulling.How(), silent)
        assert len(other.state.seen) > 10
        assert [seen.path for seen in other.state.seen if "authorization" in seen.headers] == []
    assert any(seen.headers.get("authorization") == basic(SECRET) for seen in server.state.seen)


def test_a_redirect_round_and_round(here: Layout, server: Server) -> None:
    server.state.lies.append(at("/manifests/1.2.0", says(b"", 307, location="/v2/team/minilm/manifests/1.2.0")))
    assert "more than 5 redirects" in refused(here, server, RegistryError)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://[", "//\0"])
def test_a_redirect_to_no_web_address(location: str, here: Layout, server: Server) -> None:
    location = location.replace("\0", "%00")
    server.state.lies.append(at("/manifests/1.2.0", says(b"", 302, location=location)))
    refused(here, server, RegistryError)


def test_an_upload_that_leads_to_another_host_gets_no_credentials(tmp_path: Path, server: Server) -> None:
    docker = tmp_path / "docker"
    docker.mkdir()
    (docker / "config.json").write_text(
        json.dumps({"auths": {server.host: {"auth": basic(SECRET).removeprefix("Basic ")}}})
    )
    server.state.password = SECRET
    layout = small_store(tmp_path / "mine")
    with Server() as other:

        def elsewhere(handler: Handler) -> bool:
            if handler.command != "POST" or "authorization" not in handler.headers:
                return False
            handler.body()
            handler.answer(202, location=f"http://localhost:{other.server_port}/v2/x/blobs/uploads/1")
            return True

        server.state.lies.append(elsewhere)
        with client_of(server, env={"DOCKER_CONFIG": str(docker)}) as client:
            blob = next(iter(layout.tags().values()))
            location = client.start_upload(blob)
            client.finish_upload(location, blob, lambda: [layout.read_bytes(blob)])
        assert [seen.method for seen in other.state.seen] == ["PUT"]
        assert "authorization" not in other.state.seen[0].headers


def test_a_damaged_blob_is_not_pushed(tmp_path: Path, server: Server) -> None:
    layout = small_store(tmp_path / "mine", weight_bytes=3 << 20)
    digest = blob_of(layout)
    path = layout.blob_path(digest)
    payload = bytearray(path.read_bytes())
    payload[100_000] ^= 1
    path.write_bytes(payload)
    with pytest.raises(IntegrityError, match="was not pushed"):
        push(layout, server)
    assert digest not in server.state.blobs
    assert server.state.manifests == {}


def test_a_registry_that_stores_other_bytes_under_the_tag_is_found_out(tmp_path: Path, server: Server) -> None:
    layout = small_store(tmp_path / "mine")

    def moved(handler: Handler) -> bool:
        if handler.command != "PUT" or not handler.path.endswith("/manifests/1.2.0"):
            return False
        handler.body()
        server.state.manifests["1.2.0"] = ("application/vnd.oci.image.index.v1+json", b"{}")
        handler.answer(201)
        return True

    server.state.lies.append(moved)
    with pytest.raises(RegistryError, match="another writer moved the tag"):
        push(layout, server)


def test_words_of_a_registry_are_shown_in_part_and_printable(here: Layout, server: Server) -> None:
    told = {"errors": [{"code": "\x1b[31mEVIL", "message": "x\r\n\x07" + "y" * 5000}]}
    server.state.lies.append(at("/manifests/1.2.0", says(json.dumps(told).encode(), 400)))
    said = refused(here, server, RegistryError)
    assert "\x1b" not in said
    assert "\x07" not in said
    assert len(said) < 600


def test_a_registry_that_asks_to_wait_for_hours_is_not_waited_for(here: Layout, server: Server) -> None:
    server.state.lies.append(at("/manifests/1.2.0", says(b"", 429, retry_after="7200")))
    assert "429" in refused(here, server, RegistryError)
    assert len(server.paths("GET")) == 1


def test_a_registry_that_never_answers_is_left(here: Layout, server: Server) -> None:
    def silence(handler: Handler) -> bool:
        handler.connection.settimeout(2)
        with contextlib.suppress(OSError):
            handler.rfile.read(1)
        handler.close_connection = True
        return True

    server.state.lies.append(silence)
    hasty = replace(IMPATIENT, read_s=0.2, tries=2)
    with client_of(server, patience=hasty) as client, pytest.raises(RegistryError, match="did not answer in time"):
        pulling.pull(here, place(server), client, pulling.How(), silent)
