"""Push, pull, list and tag against Debian's docker-registry, open and with a password, read back by Debian's skopeo."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import registry_debian
from hwc.bundle import reference
from hwc.bundle.open import open_bundle
from hwc.events import silent
from hwc.oci_layout import Layout
from hwc.registry import push as pushing
from hwc.registry import referrers
from hwc.registry.client import Client
from registry_debian import Registry, Tools
from registry_parts import TAG, small_store

if TYPE_CHECKING:
    from conftest import Cli

SECRET = "open-sesame"


@pytest.fixture(scope="module")
def tools() -> Tools:
    found = registry_debian.tools()
    if found is None:
        pytest.skip(registry_debian.ABSENT)
    return found


@pytest.fixture(scope="module")
def registry(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_debian.running(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_debian.running(tmp_path_factory.mktemp("guarded"), password=True) as started:
        yield started


@pytest.fixture
def packed(cli: Cli, tmp_path: Path) -> Layout:
    return Layout(shutil.copytree(small_store(tmp_path / "packed").path, cli.store))


@pytest.fixture
def other(cli: Cli, tmp_path: Path) -> Cli:
    """A command line on another machine."""
    return type(cli)(home=tmp_path / "there-home", store=tmp_path / "there", cwd=tmp_path)


@pytest.fixture
def pushed(packed: Layout, registry: Registry, request: pytest.FixtureRequest) -> str:
    """A repository of the test's own that holds the bundle."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    place = f"oci://{registry.host}/{name}/minilm"
    with client_of(place) as client:
        source = reference.parse(f"oci:{packed.path}:{TAG}")
        pushing.push(packed, source, client, "1.2.0", pushing.How(), silent)
    return place


def client_of(place: str) -> Client:
    return Client(reference.parse(place), plain_http=True, env={"DOCKER_CONFIG": "/nonexistent"})


def login(folder: Path, host: str, password: str = SECRET) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    secret = base64.b64encode(f"ann:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
    return {"DOCKER_CONFIG": str(folder)}


def test_a_bundle_comes_back_to_the_bit(cli: Cli, other: Cli, packed: Layout, pushed: str) -> None:
    ran = other("pull", f"{pushed}:1.2.0", "--plain-http").ok()
    assert ran.stdout == f"{TAG} {packed.tags()[TAG].digest}\n"
    there = Layout(other.store)
    assert {path.name for path in there.blob_files()} == {path.name for path in packed.blob_files()}
    for variant in open_bundle(there, reference.parse(TAG)).variants:
        variant.verify()


def test_pushing_and_pulling_again_moves_nothing(cli: Cli, other: Cli, pushed: str) -> None:
    again = cli("push", TAG, pushed, "--plain-http", "--format", "json").ok().json()
    assert (again["changed"], again["sent_blobs"], again["sent_bytes"]) == (False, 0, 0)
    other("pull", f"{pushed}:1.2.0", "--plain-http").ok()
    second = other("pull", f"{pushed}:1.2.0", "--plain-http", "--format", "json").ok().json()
    assert (second["changed"], second["fetched_blobs"]) == (False, 0)


def test_skopeo_reads_the_bundle_and_copies_it_to_a_layout(
    tools: Tools, packed: Layout, pushed: str, tmp_path: Path
) -> None:
    plain = pushed.replace("oci://", "docker://")
    raw = tools.run_skopeo("inspect", "--raw", "--tls-verify=false", f"{plain}:1.2.0")
    assert raw.stdout == packed.read_bytes(packed.tags()[TAG]), raw.stderr
    variant = open_bundle(packed, reference.parse(TAG)).variant("cpu", "w4a16")
    copied = tools.run_skopeo(
        "copy", "--src-tls-verify=false", "--all", f"{plain}@{variant.digest}", f"oci:{tmp_path / 'copied'}:cpu"
    )
    assert copied.returncode == 0, copied.stderr
    layout = Layout(tmp_path / "copied")
    for blob in variant.files.values():
        assert layout.read_bytes(blob.archive) == packed.read_bytes(blob.archive)


def test_a_version_with_other_content_is_refused_with_both_digests(
    cli: Cli, packed: Layout, pushed: str, tmp_path: Path
) -> None:
    theirs = small_store(tmp_path / "changed", note=b"changed")
    old, new = packed.tags()[TAG].digest, theirs.tags()[TAG].digest
    ran = cli("push", f"oci:{theirs.path}:{TAG}", pushed, "--plain-http")
    assert ran.code == 2
    assert old in ran.stderr
    assert new in ran.stderr
    assert cli("list", pushed, "--plain-http", "--format", "json").ok().json()[0]["digest"] == old


def test_a_channel_moves(cli: Cli, packed: Layout, pushed: str, tmp_path: Path) -> None:
    tag = "stable"
    cli("push", TAG, f"{pushed}:{tag}", "--plain-http").ok()
    theirs = small_store(tmp_path / "changed", note=b"changed")
    cli("push", f"oci:{theirs.path}:{TAG}", f"{pushed}:{tag}", "--plain-http").ok()
    rows = {row["tag"]: row["digest"] for row in cli("list", pushed, "--plain-http", "--format", "json").ok().json()}
    assert rows == {"1.2.0": packed.tags()[TAG].digest, tag: theirs.tags()[TAG].digest}


def test_a_local_version_is_not_replaced_by_a_pull(cli: Cli, other: Cli, pushed: str, tmp_path: Path) -> None:
    theirs = small_store(tmp_path / "changed", note=b"changed")
    shutil.copytree(theirs.path, other.store)
    before = other.tags()
    ran = other("pull", f"{pushed}:1.2.0", "--plain-http")
    assert ran.code == 2
    assert "a version never changes" in ran.stderr
    assert other.tags() == before
    other("pull", f"{pushed}:1.2.0", "minilm:theirs", "--plain-http").ok()
    assert sorted(other.tags()) == [TAG, "minilm:theirs"]


def test_serving_metadata_alone_takes_kilobytes_and_the_rest_follows(
    cli: Cli, other: Cli, tmp_path: Path, registry: Registry
) -> None:
    large = small_store(tmp_path / "large", weight_bytes=8 << 20)
    place = f"oci://{registry.host}/large/minilm"
    cli("push", f"oci:{large.path}:{TAG}", place, "--plain-http").ok()
    told = other("pull", f"{place}:1.2.0", "--only", "serving", "--plain-http", "--format", "json").ok().json()
    assert told["fetched_bytes"] < 10_000
    assert sum(path.stat().st_size for path in other.store.rglob("*") if path.is_file()) < 20_000
    assert [document["identity"]["model_id"] for document in told["serving"]] == ["minilm", "minilm"]
    assert other("export", "dir", TAG, other.cwd / "out").code == 6
    other("pull", f"{place}:1.2.0#gpu/w4a16", "--plain-http").ok()
    other("export", "dir", f"{TAG}#gpu/w4a16", other.cwd / "gpu").ok()
    other("pull", f"{place}:1.2.0", "--plain-http").ok()
    other("export", "dir", TAG, other.cwd / "all").ok()


def test_one_variant_is_pulled_alone(other: Cli, packed: Layout, pushed: str) -> None:
    other("pull", f"{pushed}:1.2.0#gpu/w4a16", "--plain-http").ok()
    there = Layout(other.store)
    variants = {entry.target: entry for entry in open_bundle(packed, reference.parse(TAG)).variants}
    open_bundle(there, reference.parse(f"{TAG}#gpu/w4a16")).variants[0].verify()
    assert not there.has(variants["cpu"].digest)
    ran = other("pull", f"{pushed}:1.2.0#gpu/fp8", "--plain-http")
    assert (ran.code, "did you mean gpu/w4a16" in ran.stderr) == (2, True)


def test_a_pull_mends_a_damaged_blob(other: Cli, packed: Layout, pushed: str) -> None:
    other("pull", f"{pushed}:1.2.0", "--plain-http").ok()
    there = Layout(other.store)
    variant = open_bundle(there, reference.parse(TAG)).variants[0]
    path = variant.files["weights/linears.irpa"].path
    path.write_bytes(path.read_bytes().replace(b"qqqq", b"evil"))
    ran = other("pull", f"{pushed}:1.2.0", "--plain-http", "--format", "json").ok()
    assert ran.json()["fetched_blobs"] == 1
    variant.verify()


def test_a_list_shows_tags_variants_status_and_sizes_alike_here_and_there(cli: Cli, pushed: str) -> None:
    (here,) = cli("list", "--format", "json").ok().json()
    (there,) = cli("list", pushed, "--plain-http", "--format", "json").ok().json()
    assert here | {"tag": "1.2.0"} == there
    assert [(row["name"], row["status"]) for row in there["variants"]] == [
        ("cpu/w4a16", "verified"), ("gpu/w4a16", "verified"),
    ]
    table = cli("list", pushed, "--plain-http").ok().stdout
    assert "1.2.0" in table
    assert "gpu/w4a16" in table
    assert "keep-" not in table


def test_a_bundle_is_frozen_where_it_lies(cli: Cli, packed: Layout, pushed: str, tmp_path: Path) -> None:
    cli("push", TAG, f"{pushed}:dev", "--plain-http").ok()
    ran = cli("tag", f"{pushed}:dev", "2.0.0", "--plain-http").ok()
    assert ran.stdout == f"{pushed}:2.0.0 {packed.tags()[TAG].digest}\n"
    theirs = small_store(tmp_path / "changed", note=b"changed")
    cli("push", f"oci:{theirs.path}:{TAG}", f"{pushed}:dev", "--plain-http").ok()
    assert cli("tag", f"{pushed}:dev", "2.0.0", "--plain-http").code == 2
    assert cli("tag", f"{pushed}:dev", "dev", "--plain-http").code == 2


def test_the_registrys_garbage_collection_leaves_a_bundle_whole(
    cli: Cli, other: Cli, packed: Layout, tools: Tools, tmp_path: Path
) -> None:
    with registry_debian.running(tmp_path / "collected") as registry:
        place = f"oci://{registry.host}/team/minilm"
        cli("push", TAG, place, "--plain-http").ok()
        registry.collect_garbage()
    with registry_debian.running(tmp_path / "collected") as registry:
        other("pull", f"oci://{registry.host}/team/minilm:1.2.0", "--plain-http").ok()
        variant = open_bundle(packed, reference.parse(TAG)).variants[0]
        with client_of(f"oci://{registry.host}/team/minilm") as client:
            assert len(referrers.read(client, variant.digest)) == 1


def test_measurements_are_found_as_referrers_of_their_variant(packed: Layout, pushed: str) -> None:
    bundle = open_bundle(packed, reference.parse(TAG))
    with client_of(pushed) as client:
        for variant in bundle.variants:
            (row,) = referrers.read(client, variant.digest)
            assert row.digest == variant.measurements[0].digest
            assert row.artifact_type == "application/vnd.hwc.measurement.v1+json"


def test_blobs_of_another_repository_are_mounted(cli: Cli, other: Cli, pushed: str, registry: Registry) -> None:
    source = pushed.removeprefix(f"oci://{registry.host}/")
    copy = f"{pushed}-copy"
    told = cli("push", TAG, copy, "--plain-http", "--mount-from", source, "--format", "json").ok().json()
    assert told["sent_blobs"] == 0
    assert told["mounted_blobs"] > 10
    other("pull", f"{copy}:1.2.0", "--plain-http").ok()


def test_a_password_is_taken_from_dockers_configuration(
    cli: Cli, other: Cli, packed: Layout, guarded: Registry, tmp_path: Path
) -> None:
    env = login(tmp_path / "docker", guarded.host)
    place = f"oci://{guarded.host}/team/minilm"
    cli("push", TAG, place, "--plain-http", env=env).ok()
    other("pull", f"{place}:1.2.0", "--plain-http", env=env).ok()
    assert other.tags()[TAG] == packed.tags()[TAG].digest


@pytest.mark.parametrize(("password", "told"), [("wrong-sesame", "refused the credentials"), ("", "docker login")])
def test_wrong_or_no_credentials_are_told_and_never_shown(
    password: str, told: str, cli: Cli, other: Cli, packed: Layout, guarded: Registry, tmp_path: Path
) -> None:
    env = login(tmp_path / "docker", guarded.host, password) if password else {"DOCKER_CONFIG": str(tmp_path)}
    place = f"oci://{guarded.host}/team/refused"
    encoded = base64.b64encode(f"ann:{password}".encode()).decode()
    for ran in (
        cli("--debug", "push", TAG, place, "--plain-http", env=env),
        other("--debug", "pull", f"{place}:1.2.0", "--plain-http", env=env),
        cli("--debug", "list", place, "--plain-http", env=env),
    ):
        assert ran.code == 7
        assert told in ran.stderr
        assert encoded not in ran.stderr + ran.stdout
        assert not password or password not in ran.stderr + ran.stdout
    assert other.tags() == {}


def test_plain_http_is_spoken_only_when_asked_for(cli: Cli, packed: Layout, registry: Registry) -> None:
    ran = cli("push", TAG, f"oci://{registry.host}/team/secure")
    assert (ran.code, "--plain-http" in ran.stderr) == (7, True)


def test_a_repository_or_a_tag_that_is_not_there_is_told_with_what_is(other: Cli, pushed: str) -> None:
    ran = other("pull", f"{pushed}:9.9.9", "--plain-http")
    assert (ran.code, "there is:" in ran.stderr, "1.2.0" in ran.stderr) == (7, True, True)
    ran = other("pull", f"{pushed}-absent:1.2.0", "--plain-http")
    assert (ran.code, "no such repository" in ran.stderr) == (7, True)
    assert other.tags() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", TAG, "somewhere"),
        ("push", TAG, "oci://h/UPPER"),
        ("push", f"{TAG}#cpu/w4a16", "oci://127.0.0.1:9/a"),
        ("push", "absent:1.0.0", "oci://127.0.0.1:9/a"),
        ("push", TAG, "oci://127.0.0.1:9/a#cpu/w4a16"),
        ("push", TAG, "oci://127.0.0.1:9/a", "--mount-from", "../b"),
        ("push", "oci://h/a:1", "oci://h/b:1"),
        ("pull", "minilm:dev"),
        ("pull", "oci://h/a:1", "oci://h/b:1"),
        ("pull", "oci://h/a:b:c"),
        ("list", "minilm:9.9.9"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_asked(arguments: tuple[str, ...], cli: Cli, packed: Layout) -> None:
    ran = cli(*arguments, "--plain-http")
    assert (ran.code, ran.stdout) == (2, "")
