"""What registries say and what users keep for them is read with care: challenges, credentials, waits, tags."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from bundle_parts import CREATED, MODEL, TAG, variant

from hwc import digest as digests
from hwc.bundle.pack import pack
from hwc.bundle.reference import parse as parse_reference
from hwc.errors import HwcError, IntegrityError, MachineError, RegistryError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import INDEX_TYPE, Descriptor, Index
from hwc.registry import contents, credentials, parallel, tags
from hwc.registry.challenge import Challenge, choose, parse
from hwc.registry.failures import Passing, Unreachable, retry_after_s
from hwc.registry.patience import Patience

BEARER = Challenge(
    scheme="bearer", realm="https://auth.example.org/token", service="registry", scopes=("repository:a/b:pull,push",)
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a registry"', [Challenge(scheme="basic", realm="a registry")]),
        ("Basic", [Challenge(scheme="basic")]),
        ('BEARER Realm="https://a/t" , service=s', [Challenge(scheme="bearer", realm="https://a/t", service="s")]),
        (
            'Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull,push"',
            [BEARER],
        ),
        (
            r'Basic realm="a \"quoted\" one", Bearer realm="https://a/t"',
            [Challenge(scheme="basic", realm='a "quoted" one'), Challenge(scheme="bearer", realm="https://a/t")],
        ),
        ('Bearer realm="x", scope="a b"', [Challenge(scheme="bearer", realm="x", scopes=("a", "b"))]),
        ("", []),
        ('="', []),
        ('Bearer realm="never closed', [Challenge(scheme="bearer")]),
    ],
)
def test_a_challenge_is_read(header: str, expected: list[Challenge]) -> None:
    assert parse(header)[:2] == expected


def test_a_challenge_of_any_length_is_read_in_a_moment() -> None:
    assert len(parse('Bearer realm="' + "\\" * 1_000_000)) < 2000
    assert len(parse("a, " * 1_000_000)) < 2000


def test_bearer_is_chosen_before_basic_unless_it_names_no_address() -> None:
    assert choose(['Basic realm="x"', 'Bearer realm="https://a/t"']) == Challenge(scheme="bearer", realm="https://a/t")
    assert choose(['Bearer service="x", Basic realm="x"']) == Challenge(scheme="basic", realm="x")
    assert choose(["Negotiate"]) is None


def config(folder: Path, document: Any) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return {"DOCKER_CONFIG": str(folder)}


def encoded(secret: str) -> str:
    return base64.b64encode(secret.encode()).decode()


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("localhost:5000", "localhost:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("localhost:5000", "https://localhost:5000/v2/"),
        ("docker.io", "https://index.docker.io/v1/"),
    ],
)
def test_a_login_is_found_under_each_form_of_its_host(host: str, key: str, tmp_path: Path) -> None:
    env = config(tmp_path, {"auths": {"other.org": {"auth": encoded("x:y")}, key: {"auth": encoded("ann:a:b")}}})
    found = credentials.find(host, env)
    assert found is not None
    assert (found.username, found.password) == ("ann", "a:b")
    assert credentials.find("elsewhere:5000", env) is None


def test_credentials_never_show_themselves() -> None:
    found = credentials.Credentials(username="ann", password="open-sesame", identity_token="rare-token")
    assert all(secret not in f"{found!r} {found}" for secret in ("ann", "open-sesame", "rare-token"))


def test_no_configuration_is_no_credentials(tmp_path: Path) -> None:
    assert credentials.find("localhost", {"DOCKER_CONFIG": str(tmp_path / "none")}) is None


@pytest.mark.parametrize(
    "document",
    [
        "{open-sesame", "[]", {"auths": ["h"]}, {"auths": {"h": {"auth": "open-sesame!"}}},
        {"credHelpers": {"h": "../x"}}, {"credsStore": "a b"}, {"credHelpers": {"h": 7}}, " " * (2 << 20),
        "[" * 100_000,
    ],
)
def test_a_bad_configuration_is_refused_and_not_quoted(document: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        credentials.find("h", config(tmp_path, document))
    assert "open-sesame" not in str(caught.value)
    assert caught.value.__suppress_context__ or "open-sesame" not in repr(caught.value.__cause__)


def helper(folder: Path, body: str, **more: str) -> dict[str, str]:
    program = folder / "docker-credential-test"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", **more}


def test_a_helper_is_asked_for_one_host_on_its_stdin(tmp_path: Path) -> None:
    body = 'read host; [ "$1 $host" = "get h:5000" ] && echo \'{"Username": "ann", "Secret": "pw"}\''
    env = config(tmp_path, {"credHelpers": {"h:5000": "test"}}) | helper(tmp_path / "bin", body)
    os.environ["PATH"], before = env["PATH"], os.environ["PATH"]
    try:
        found = credentials.find("h:5000", env)
    finally:
        os.environ["PATH"] = before
    assert found is not None
    assert found.basic() == "Basic " + encoded("ann:pw")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", None),
        ("echo open-sesame >&2; exit 3", RegistryError),
        ("echo open-sesame", RegistryError),
        ('echo \'{"Username": "<token>", "Secret": "rare"}\'', "rare"),
    ],
)
def test_a_helper_that_has_nothing_fails_or_gives_a_token(
    body: str, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = config(tmp_path, {"credsStore": "test"}) | helper(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", env["PATH"])
    if expected is RegistryError:
        with pytest.raises(RegistryError) as caught:
            credentials.find("h", env)
        assert "open-sesame" not in str(caught.value)
        return
    found = credentials.find("h", env)
    assert (found.identity_token if found else None) == expected


def test_a_helper_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="docker-credential-absent"):
        credentials.find("h", config(tmp_path, {"credsStore": "absent"}) | {"PATH": "/nonexistent"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0), ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("", None),
        ("soon", None), ("-5", None), ("1e9", None),
    ],
)
def test_retry_after_is_read(text: str, expected: float | None) -> None:
    assert retry_after_s(text, now_s=100.0) == expected


def test_waits_double_and_end() -> None:
    patience = Patience(tries=4, first_wait_s=1.0)
    waits = [patience.wait_s(tried, Passing("x")) for tried in (1, 2, 3, 4)]
    assert all(low <= (wait or 0) <= 2 * low for wait, low in zip(waits, (0.5, 1, 2), strict=False))
    assert waits[3] is None
    assert patience.wait_s(3, Unreachable("x")) is None


def test_what_a_registry_asks_for_is_waited_for_unless_it_is_too_long() -> None:
    patience = Patience(longest_wait_s=60)
    assert patience.wait_s(1, Passing("x", retry_after_s=30.0)) == 30.0
    assert patience.wait_s(1, Passing("x", retry_after_s=61.0)) is None


@pytest.mark.parametrize(
    ("local", "destination", "expected"),
    [
        ("minilm:1.0.0", "oci://h/team/minilm", "1.0.0"),
        ("minilm:1.0.0", "oci://h/team/minilm:2.0.0", "2.0.0"),
        ("minilm:dev", "oci://h/a", "dev"),
        ("nightly", "oci://h/a", "nightly"),
    ],
)
def test_a_layouts_tag_becomes_a_registrys(local: str, destination: str, expected: str) -> None:
    assert tags.remote_tag(local, parse_reference(destination)) == expected


def test_a_digest_alone_names_no_tag_to_push_to() -> None:
    with pytest.raises(UsageError, match="which tag"):
        tags.remote_tag("", parse_reference("oci://h/a"))


def test_versions_are_frozen_and_channels_move() -> None:
    for tag in ("dev", "minilm:dev", "stable", "canary", "blue", "green"):
        tags.refuse_change(tag, old="sha256:1", new="sha256:2")
    tags.refuse_change("1.0.0", old="", new="sha256:2")
    tags.refuse_change("1.0.0", old="sha256:2", new="sha256:2")
    with pytest.raises(UsageError) as caught:
        tags.refuse_change("minilm:1.0.0", old="sha256:1", new="sha256:2")
    assert "sha256:1" in caught.value.where
    assert "sha256:2" in caught.value.where


def test_tags_for_machines_are_told_from_those_for_people() -> None:
    digest = digests.of_bytes(b"")
    assert tags.is_machinery(tags.keep_tag(digest))
    assert tags.is_machinery(digest.replace(":", "-"))
    assert tags.is_machinery(digest.replace(":", "-") + ".sig")
    assert not any(map(tags.is_machinery, ["1.0.0", "dev", "sha256-abc", "keep-1"]))


def test_what_is_pointed_at_comes_before_what_points(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "store").create()
    pack(layout, model=MODEL, tag=TAG, variants=[variant(tmp_path / "parts")], created_utc=CREATED)
    root = layout.tags()[TAG]
    whole = contents.below([root], layout.read_bytes)
    seen = {blob.digest for blob in whole.blobs}
    for row in whole.manifests:
        payload = layout.read_bytes(row)
        assert all(f'"{digest}"' not in payload.decode() for digest in {r.digest for r in whole.manifests} - seen)
        seen.add(row.digest)
    assert whole.manifests[-1].digest == root.digest


def test_manifests_nested_deeper_than_a_bundle_are_refused() -> None:
    stored: dict[str, bytes] = {}
    row = Descriptor(media_type="text/plain", digest=digests.of_bytes(b"x"), size_bytes=1)
    for _ in range(4):
        payload = Index(manifests=(row,)).to_bytes()
        row = Descriptor(media_type=INDEX_TYPE, digest=digests.of_bytes(payload), size_bytes=len(payload))
        stored[row.digest] = payload
    with pytest.raises(IntegrityError, match="nested deeper"):
        contents.below([row], lambda wanted: stored[wanted.digest])
    assert len(contents.below([row], lambda wanted: stored[wanted.digest], depth=4).manifests) == 4


def test_the_first_failure_of_parallel_jobs_stops_the_others_and_is_raised() -> None:
    stopped: list[bool] = []

    def fail(stop: parallel.Stop) -> None:
        raise RegistryError("the one")

    def wait(stop: parallel.Stop) -> None:
        stopped.append(stop.wait(10))

    with pytest.raises(HwcError, match="the one"):
        parallel.run([wait, fail, wait], workers=2)
    assert stopped == [True]
    parallel.run([], workers=4)
