"""Pushes and pulls that are cut, killed, slowed or refused half-way go on from where they were."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwc.bundle import reference
from hwc.bundle.open import open_bundle
from hwc.errors import RegistryError, UsageError
from hwc.events import silent
from hwc.oci_layout import Layout
from hwc.oci_manifest import MANIFEST_TYPE, Descriptor
from hwc.registry import pull as pulling
from hwc.registry import referrers
from registry_parts import TAG, blob_of, client_of, place, pull, push, serve, small_store
from registry_server import REPOSITORY, Handler, Lie, Server, basic

if TYPE_CHECKING:
    from conftest import Cli

WEIGHT_BYTES = 6 << 20


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return small_store(tmp_path_factory.mktemp("origin"), weight_bytes=WEIGHT_BYTES)


@pytest.fixture
def here(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "here").create()


def ranges(server: Server, digest: str) -> list[str]:
    """Return the ranges that were asked for of one blob, in order."""
    asked = [seen for seen in server.state.seen if seen.method == "GET" and seen.path.endswith(digest)]
    return [seen.headers.get("range", "") for seen in asked]


def cutting(digest: str, cuts: list[int]) -> Lie:
    """Break the connection after so many bytes of a blob, once for each number."""

    def lie(handler: Handler) -> bool:
        if not (handler.command == "GET" and handler.path.endswith(digest) and cuts):
            return False
        payload = handler.server.state.blobs[digest]
        start = int(handler.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("content-length", str(len(payload) - start))
        if start:
            handler.send_header("content-range", f"bytes {start}-{len(payload) - 1}/{len(payload)}")
        handler.end_headers()
        handler.wfile.write(payload[start : start + cuts.pop(0)])
        handler.close_connection = True
        return True

    return lie


def test_a_download_goes_on_after_each_cut(server: Server, origin: Layout, here: Layout) -> None:
    serve(server, origin)
    digest = blob_of(origin)
    server.state.lies.append(cutting(digest, [1_000_000, 2_000_000, 0, 500_000]))
    pull(here, server)
    assert ranges(server, digest) == ["", *(f"bytes={at}-" for at in (1_000_000, 3_000_000, 3_000_000, 3_500_000))]
    for variant in open_bundle(here, reference.parse(TAG)).variants:
        variant.verify()


class Gate:
    """Holds a request of a blob half-way until the test is done with it."""

    def __init__(self, method: str, end: str, after_bytes: int) -> None:
        self.method, self.end, self.after_bytes = method, end, after_bytes
        self.reached, self.done = threading.Event(), threading.Event()

    def __call__(self, handler: Handler) -> bool:
        if handler.command != self.method or self.end not in handler.path or self.done.is_set():
            return False
        if self.method == "GET":
            payload = handler.server.state.blobs[self.end]
            handler.send_response(200)
            handler.send_header("content-length", str(len(payload)))
            handler.end_headers()
            handler.wfile.write(payload[: self.after_bytes])
        elif int(handler.headers["content-length"]) < WEIGHT_BYTES:
            return False
        else:
            handler.rfile.read(self.after_bytes)
        self.reached.set()
        self.done.wait(30)
        handler.close_connection = True
        return True


def stopped(process: subprocess.Popen[str], how: signal.Signals) -> int:
    process.send_signal(how)
    process.communicate(timeout=30)
    return process.returncode


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_pull_that_is_stopped_goes_on(
    how: signal.Signals, code: int, cli: Cli, server: Server, origin: Layout, children: list[Any]
) -> None:
    serve(server, origin)
    digest, half = blob_of(origin), WEIGHT_BYTES // 2
    gate = Gate("GET", digest, half)
    server.state.lies.append(gate)
    source = f"oci://{server.host}/{REPOSITORY}:1.2.0"
    process = cli.start("pull", source, "--plain-http")
    children.append(process)
    assert gate.reached.wait(30)
    part = cli.store / ".ingest" / f"part-{digest.removeprefix('sha256:')}"
    while part.stat().st_size < half:
        time.sleep(0.02)
    assert stopped(process, how) == code
    gate.done.set()
    assert cli.tags() == {}
    assert not Layout(cli.store).has(digest)
    cli("pull", source, "--plain-http").ok()
    assert ranges(server, digest) == ["", f"bytes={half}-"]
    assert cli.tags() == {TAG: origin.tags()[TAG].digest}
    assert list((cli.store / ".ingest").glob("part-*")) == []


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_push_that_is_stopped_goes_on(
    how: signal.Signals, code: int, cli: Cli, server: Server, origin: Layout, children: list[Any]
) -> None:
    gate = Gate("PUT", "/blobs/uploads/", 1 << 20)
    server.state.lies.append(gate)
    arguments = ("push", f"oci:{origin.path}:{TAG}", f"oci://{server.host}/{REPOSITORY}", "--plain-http", "--format")
    process = cli.start(*arguments, "json")
    children.append(process)
    assert gate.reached.wait(30)
    while len(server.state.blobs) < 10:
        time.sleep(0.02)
    assert stopped(process, how) == code
    gate.done.set()
    assert server.state.manifests == {}
    before = len(server.state.blobs)
    told = cli(*arguments, "json").ok().json()
    assert told["changed"]
    assert told["present_blobs"] >= before
    assert told["sent_bytes"] >= WEIGHT_BYTES
    assert "1.2.0" in server.state.manifests


def failing(method: str, part: str, times: int, status: int, **headers: str) -> Lie:
    left = [times]

    def lie(handler: Handler) -> bool:
        if handler.command != method or part not in handler.path or left[0] == 0:
            return False
        left[0] -= 1
        handler.body()
        handler.refuse(status, "AS_ASKED", **headers)
        return True

    return lie


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_failures_that_pass_are_waited_out(status: int, server: Server, origin: Layout, here: Layout) -> None:
    for method, part in (
        ("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/keep-"),
        ("PUT", "/manifests/1.2.0"), ("GET", "/blobs/"), ("GET", "/manifests/"),
    ):
        server.state.lies.append(failing(method, part, 2, status))
    push(origin, server)
    pull(here, server)
    assert here.tags()[TAG].digest == origin.tags()[TAG].digest


def test_a_registry_that_says_when_to_come_back_is_asked_no_earlier(
    server: Server, origin: Layout, here: Layout
) -> None:
    serve(server, origin)
    server.state.lies.append(failing("GET", "/manifests/1.2.0", 1, 429, retry_after="1"))
    started = time.monotonic()
    pull(here, server)
    assert time.monotonic() - started >= 1.0


def test_a_registry_that_stays_broken_is_an_error_and_the_tag_stays(server: Server, origin: Layout) -> None:
    server.state.lies.append(failing("PUT", "/uploads/", 10_000, 503))
    with pytest.raises(RegistryError, match="503"):
        push(origin, server)
    assert server.state.manifests == {}


def test_nobody_there_is_an_error_with_a_hint(cli: Cli, origin: Layout) -> None:
    ran = cli("push", f"oci:{origin.path}:{TAG}", "oci://127.0.0.1:1/team/minilm", "--plain-http")
    assert (ran.code, "cannot reach" in ran.stderr, "hint:" in ran.stderr) == (7, True, True)


def token_env(folder: Path, server: Server) -> dict[str, str]:
    import json

    folder.mkdir()
    auths = {server.host: {"auth": basic("ann:open-sesame").removeprefix("Basic ")}}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return {"DOCKER_CONFIG": str(folder)}


def test_tokens_that_expire_on_the_way_are_fetched_anew(
    server: Server, origin: Layout, here: Layout, tmp_path: Path
) -> None:
    serve(server, origin)
    server.state.bearer, server.state.password, server.state.token_uses = True, "ann:open-sesame", 4
    digest = blob_of(origin)
    server.state.lies.append(cutting(digest, [1_000_000] * 3))
    with client_of(server, env=token_env(tmp_path / "docker", server)) as client:
        pulling.pull(here, place(server), client, pulling.How(workers=1), silent)
    assert len(server.state.tokens) > 3
    asked = [seen for seen in server.state.seen if seen.path == "/token"]
    assert {seen.headers["authorization"] for seen in asked} == {basic("ann:open-sesame")}
    assert all("scope=repository%3Ateam%2Fminilm%3Apull" in seen.query for seen in asked)
    others = {seen.headers.get("authorization", "Bearer")[:6] for seen in server.state.seen if seen.path != "/token"}
    assert others == {"Bearer"}


def test_a_token_service_that_refuses_is_told_without_the_secret(
    server: Server, here: Layout, tmp_path: Path
) -> None:
    server.state.bearer, server.state.password = True, "ann:another"
    refused = pytest.raises(RegistryError, match="refused the credentials")
    with client_of(server, env=token_env(tmp_path / "docker", server)) as client, refused as caught:
        pulling.pull(here, place(server), client, pulling.How(), silent)
    assert "sesame" not in str(caught.value)


def test_a_token_that_never_helps_is_not_fetched_for_ever(server: Server, here: Layout) -> None:
    server.state.bearer, server.state.token_uses = True, 0
    with pytest.raises(RegistryError, match="wants credentials"):
        pull(here, server)
    assert len(server.state.tokens) == 1


@pytest.mark.parametrize("knows", [True, False])
def test_parallel_writers_of_referrers_lose_nothing(knows: bool, server: Server, origin: Layout) -> None:
    serve(server, origin)
    server.state.knows_referrers = knows
    subject = open_bundle(origin, reference.parse(TAG)).variants[0].digest
    if knows:
        with client_of(server) as client:
            assert [row.artifact_type for row in referrers.read(client, subject)] == [
                "application/vnd.hwc.measurement.v1+json"
            ]
        return
    rows = [
        Descriptor(media_type=MANIFEST_TYPE, digest=f"sha256:{at:064x}", size_bytes=1, artifact_type="a/b")
        for at in range(8)
    ]
    failed: list[Exception] = []

    def attach(row: Descriptor) -> None:
        try:
            with client_of(server) as client:
                referrers.attach(client, subject, [row])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=attach, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with client_of(server) as client:
        there = {row.digest for row in referrers.read(client, subject)}
    assert failed == []
    assert there == {row.digest for row in rows}


def test_two_pulls_at_once_both_end_well_and_fetch_each_blob_once(
    server: Server, origin: Layout, here: Layout
) -> None:
    serve(server, origin)
    digest = blob_of(origin)
    failed: list[Exception] = []

    def one() -> None:
        try:
            pull(here, server)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(ranges(server, digest)) == 1


def test_a_version_that_another_writer_sets_meanwhile_is_not_overwritten(
    server: Server, origin: Layout, tmp_path: Path
) -> None:
    theirs = small_store(tmp_path / "theirs", note=b"theirs")

    def meanwhile(handler: Handler) -> bool:
        if handler.command == "PUT" and "/manifests/keep-" in handler.path and "1.2.0" not in server.state.manifests:
            serve(server, theirs)
        return False

    server.state.lies.append(meanwhile)
    with pytest.raises(UsageError, match="a version never changes"):
        push(origin, server)
    assert server.state.manifests["1.2.0"][1] == theirs.read_bytes(theirs.tags()[TAG])


def test_a_tag_of_another_model_is_not_taken(server: Server, origin: Layout, tmp_path: Path) -> None:
    import json

    serve(server, origin, tag="dev")
    kind, payload = server.state.manifests["dev"]
    document = json.loads(payload)
    document["annotations"]["vnd.hwc.model"] = "resnet"
    server.state.manifests["dev"] = (kind, json.dumps(document).encode())
    with pytest.raises(UsageError, match="taken by the model resnet"):
        push(origin, server, tag="dev")
