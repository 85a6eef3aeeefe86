"""Attacks by a registry, or by who sits between, each named by what it does; a pull of any leaves nothing to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwc.errors import IntegrityError, MachineError
from hwc.oci_layout import Layout
from registry_lies import at, cut_after, refused, says
from registry_parts import TAG, blob_of, pull
from registry_server import Handler, Server, sha256


def test_the_honest_registry_is_believed(here: Layout, server: Server, origin: Layout) -> None:
    assert pull(here, server).tag == TAG
    assert here.tags()[TAG].digest == origin.tags()[TAG].digest


@pytest.mark.parametrize("role", ["weights/linears.irpa", "code/module.vmfb", "tokenizer/tokenizer.json"])
def test_a_wrong_blob_of_the_right_size(role: str, here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin, role)
    payload = bytearray(server.state.blobs[digest])
    payload[len(payload) // 2] ^= 1
    server.state.blobs[digest] = bytes(payload)
    assert "other bytes than the digest says" in refused(here, server)
    assert not here.has(digest)
    assert not (here.path / ".ingest" / f"part-{digest.removeprefix('sha256:')}").exists()


@pytest.mark.parametrize("kind", ["variant", "image", "root"])
def test_another_manifest_for_a_digest(kind: str, here: Layout, server: Server, origin: Layout) -> None:
    root = origin.tags()[TAG].digest
    index = json.loads(origin.read_bytes(root))["manifests"][0]["digest"]
    image = json.loads(origin.read_bytes(index))["manifests"][0]["digest"]
    digest = {"variant": index, "image": image, "root": root}[kind]
    media_type, payload = server.state.manifests[digest]
    server.state.manifests[digest] = (media_type, payload.replace(b"w4a16", b"w4a17") + b" ")
    if kind == "root":
        with pytest.raises(IntegrityError, match="does not match its digest"):
            pull(here, server, f"@{root}")
        assert here.tags() == {}
    else:
        assert "does not match its digest" in refused(here, server)


def test_a_header_that_tells_another_digest_than_the_manifests(here: Layout, server: Server) -> None:
    kind, payload = server.state.manifests["1.2.0"]
    lie = says(payload, content_type=kind, docker_content_digest="sha256:" + "0" * 64)
    server.state.lies.append(at("/manifests/1.2.0", lie))
    assert "the registry speaks of" in refused(here, server)


@pytest.mark.parametrize("change", [1, 4096, -1, -4096])
def test_a_blob_of_another_size(change: int, here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    payload = server.state.blobs[digest]
    server.state.blobs[digest] = payload + b"x" * change if change > 0 else payload[:change]
    assert f"which has {len(payload)}" in refused(here, server)


def test_a_body_without_end_is_left_at_the_blobs_size(here: Layout, server: Server, origin: Layout) -> None:
    sent = 0

    def endless(handler: Handler) -> bool:
        nonlocal sent
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            while sent < 1 << 30:
                handler.wfile.write(b"q" * 65536)
                sent += 65536
        except OSError:
            pass
        return True

    server.state.lies.append(at(blob_of(origin), endless))
    assert "sends more than" in refused(here, server)
    assert sent < 64 << 20


def test_a_manifest_without_end_is_left_at_four_mebibytes(here: Layout, server: Server) -> None:
    server.state.lies.append(at("/manifests/1.2.0", says(b" " * (5 << 20))))
    assert "sends more than the 4194304 bytes" in refused(here, server)


def test_a_body_cut_short_again_and_again(here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    server.state.lies.append(at(digest, cut_after(100, len(server.state.blobs[digest]))))
    assert "the body ended before its length" in refused(here, server)


def test_a_manifest_cut_short_again_and_again(here: Layout, server: Server) -> None:
    server.state.lies.append(at("/manifests/1.2.0", cut_after(10, 1000)))
    assert "the body ended before its length" in refused(here, server)


def test_ranges_answered_with_the_whole(here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    payload = server.state.blobs[digest]
    part = here.path / ".ingest" / f"part-{digest.removeprefix('sha256:')}"
    part.parent.mkdir()
    part.write_bytes(payload[:5000])
    server.state.lies.append(at(digest, says(payload)))
    pull(here, server)
    assert here.blob_path(digest).read_bytes() == payload
    asked = [seen.headers.get("range") for seen in server.state.seen if seen.path.endswith(digest)]
    assert asked == ["bytes=5000-"]


@pytest.mark.parametrize("told", ["bytes 0-13311/14336", "bytes 5000-14335/99999", "bytes x", ""])
def test_ranges_answered_with_others(told: str, here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    payload = server.state.blobs[digest]
    part = here.path / ".ingest" / f"part-{digest.removeprefix('sha256:')}"
    part.parent.mkdir()
    part.write_bytes(payload[:5000])
    server.state.lies.append(at(digest, says(payload[5000:], 206, content_range=told)))
    assert "from byte 5000 on" in refused(here, server)


def test_a_part_of_other_bytes_left_on_disk_is_fetched_anew(here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    part = here.path / ".ingest" / f"part-{digest.removeprefix('sha256:')}"
    part.parent.mkdir()
    part.write_bytes(b"evil" * 500)
    pull(here, server)
    assert here.blob_path(digest).read_bytes() == server.state.blobs[digest]


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path, here: Layout, server: Server, origin: Layout) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    part = here.path / ".ingest" / f"part-{blob_of(origin).removeprefix('sha256:')}"
    part.parent.mkdir()
    part.symlink_to(victim)
    refused(here, server, MachineError)
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd"])
@pytest.mark.parametrize("kind", ["manifest", "blob"])
def test_a_decompression_bomb(kind: str, encoding: str, here: Layout, server: Server, origin: Layout) -> None:
    digest = blob_of(origin)
    if kind == "blob":
        payload = server.state.blobs[digest]
        server.state.lies.append(at(digest, says(payload, content_encoding=encoding)))
    else:
        payload = server.state.manifests["1.2.0"][1]
        server.state.lies.append(at("/manifests/1.2.0", says(payload, content_encoding=encoding)))
    assert "was not asked for" in refused(here, server)
    assert {seen.headers["accept-encoding"] for seen in server.state.seen} == {"identity"}


def forged(server: Server, change: Any) -> None:
    """Alter the bundle's index as its publisher could: its own digest is right again."""
    kind, payload = server.state.manifests["1.2.0"]
    document = json.loads(payload)
    change(document)
    payload = json.dumps(document).encode()
    server.state.manifests["1.2.0"] = server.state.manifests[sha256(payload)] = (kind, payload)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "../../x", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "", 7]
)
def test_a_digest_used_as_a_path(digest: Any, here: Layout, server: Server) -> None:
    forged(server, lambda document: document["manifests"][0].update(digest=digest))
    server.state.seen.clear()
    refused(here, server)
    assert all("/manifests/1.2.0" in seen.path for seen in server.state.seen)


def rewritten(server: Server, layout: Layout, change: Any) -> None:
    """Alter the first variant's image manifest and make every digest above it right again."""
    root = json.loads(server.state.manifests["1.2.0"][1])
    index = json.loads(server.state.manifests[root["manifests"][0]["digest"]][1])
    image = json.loads(server.state.manifests[index["manifests"][0]["digest"]][1])
    change(image)

    def put(document: Any, row: Any) -> None:
        payload = json.dumps(document).encode()
        row.update(digest=sha256(payload), size=len(payload))
        server.state.manifests[row["digest"]] = (row["mediaType"], payload)

    root["manifests"] = [row for row in root["manifests"] if "measurement" not in row["artifactType"]]
    put(image, index["manifests"][0])
    put(index, root["manifests"][0])
    payload = json.dumps(root).encode()
    server.state.manifests["1.2.0"] = server.state.manifests[sha256(payload)] = (root["mediaType"], payload)


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "code/../../evil", "weights/a\\b", "code/", "evil"])
def test_a_name_that_leaves_its_folder_before_a_byte_of_it_moves(
    name: str, here: Layout, server: Server, origin: Layout
) -> None:
    def change(image: Any) -> None:
        image["layers"][0]["annotations"]["org.opencontainers.image.title"] = name

    rewritten(server, origin, change)
    server.state.seen.clear()
    refused(here, server)
    assert [seen.path for seen in server.state.seen if "/blobs/" in seen.path] == []


def test_a_blob_of_two_sizes(here: Layout, server: Server, origin: Layout) -> None:
    rewritten(server, origin, lambda image: image["layers"][0].update(size=5))
    assert "a blob of 5 and of" in refused(here, server)


def test_a_blob_larger_than_the_disk_is_not_begun(here: Layout, server: Server, origin: Layout) -> None:
    def change(image: Any) -> None:
        image["layers"].append(image["layers"][0] | {"digest": "sha256:" + "1" * 64, "size": 1 << 60})
        image["layers"][-1]["annotations"] = image["layers"][0]["annotations"] | {
            "org.opencontainers.image.title": "weights/huge.irpa"
        }

    rewritten(server, origin, change)
    assert "the disk has" in refused(here, server, MachineError)


def test_manifests_nested_without_end(here: Layout, server: Server, origin: Layout) -> None:
    root = origin.tags()[TAG]
    kind = root.media_type
    row = {"mediaType": kind, "digest": root.digest, "size": root.size_bytes}
    for _ in range(6):
        payload = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [row]}).encode()
        row = {"mediaType": kind, "digest": sha256(payload), "size": len(payload)}
        server.state.manifests[row["digest"]] = (kind, payload)
    forged(server, lambda document: document["manifests"][0].update(digest=row["digest"], size=row["size"]))
    refused(here, server)


@pytest.mark.parametrize("payload", [b"", b"[]", b"<html>", b"[" * 100_000, b"\xff\xfe"])
def test_no_manifest_at_all(payload: bytes, here: Layout, server: Server) -> None:
    server.state.lies.append(at("/manifests/1.2.0", says(payload)))
    refused(here, server)
