"""An opened bundle gives back what was packed, tells apart what is missing, and exports whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from bundle_parts import CONTENTS, CREATED, MODEL, OTHER_MACHINE, TAG, content_of, measurement, variant

from hwc.bundle import reference
from hwc.bundle.export_dir import export
from hwc.bundle.open import Bundle, open_bundle, require_verified
from hwc.bundle.pack import pack
from hwc.errors import GateError, IntegrityError, UsageError
from hwc.oci_layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store").create()
    gpu = CONTENTS | {"code/module.vmfb": b"gpu code"}
    variants = [
        variant(tmp_path / "cpu"),
        variant(tmp_path / "gpu", gpu, target="gpu", status="unverified", measurements=()),
    ]
    pack(layout, model=MODEL, tag=TAG, variants=variants, created_utc=CREATED)
    return layout


def opened(layout: Layout, name: str = TAG) -> Bundle:
    return open_bundle(layout, reference.parse(name))


def test_a_bundle_gives_back_what_was_packed(layout: Layout) -> None:
    bundle = opened(layout)
    assert (bundle.model_id, bundle.version, bundle.tag, bundle.created_utc) == ("minilm", "1.2.0", TAG, CREATED)
    found = bundle.variant("cpu", "w4a16")
    assert found.content_sha256 == content_of(CONTENTS)
    assert found.facts == {"audit": {"bits_per_parameter": 4.5}, "lowering": {"compiler": "iree 3.13.0"}}
    assert {role: blob.read_bytes() for role, blob in found.files.items()} == CONTENTS
    found.verify()


def test_a_files_bytes_lie_at_byte_4096_of_its_blob(layout: Layout) -> None:
    blob = opened(layout).variant("cpu", "w4a16").files["weights/float.irpa"]
    assert (blob.offset, blob.length) == (4096, 5000)
    assert blob.path.read_bytes()[4096:9096] == CONTENTS["weights/float.irpa"]


def test_measurements_come_with_their_variant(layout: Layout) -> None:
    (found,) = opened(layout).variant("cpu", "w4a16").measurements
    assert sorted(found.documents) == ["check.json", "profile.json", "serving.json"]
    assert found.parsed_serving().identity.content_sha256 == content_of(CONTENTS)
    assert opened(layout).variant("gpu", "w4a16").measurements == ()


def test_a_bundle_opens_by_digest(layout: Layout) -> None:
    digest = opened(layout).digest
    by_digest = opened(layout, f"@{digest}")
    assert (by_digest.digest, by_digest.variants) == (digest, opened(layout).variants)


def test_a_reference_to_a_variant_opens_that_one_alone_even_if_others_were_never_pulled(layout: Layout) -> None:
    gpu = opened(layout).variant("gpu", "w4a16")
    layout.blob_path(gpu.digest).unlink()
    assert [entry.name for entry in opened(layout, f"{TAG}#cpu/w4a16").variants] == ["cpu/w4a16"]
    with pytest.raises(IntegrityError, match="missing"):
        opened(layout)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minilm:1.2.1", "did you mean minilm:1.2.0?"),
        ("oci:store", "there is: minilm:1.2.0"),
        (f"{TAG}#cpu/w4a1", "did you mean cpu/w4a16?"),
        (f"{TAG}#zzz/fp32", "there is: cpu/w4a16, gpu/w4a16"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(layout: Layout, name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(layout, name)
    assert hint in caught.value.hint


def test_an_unknown_digest_is_a_usage_error(layout: Layout) -> None:
    with pytest.raises(UsageError, match="no bundle of this digest"):
        opened(layout, "@sha256:" + "0" * 64)


def test_an_unverified_variant_cannot_be_promoted(layout: Layout) -> None:
    require_verified(opened(layout).variant("cpu", "w4a16"))
    with pytest.raises(GateError, match="cannot be promoted"):
        require_verified(opened(layout).variant("gpu", "w4a16"))


def test_an_export_holds_the_files_the_facts_and_the_serving_metadata(layout: Layout, tmp_path: Path) -> None:
    folder = export(opened(layout).variants, tmp_path / "out")
    cpu = folder / "cpu" / "w4a16"
    assert {role: (cpu / role).read_bytes() for role in CONTENTS} == CONTENTS
    assert json.loads((cpu / "facts.json").read_text())["audit"] == {"bits_per_parameter": 4.5}
    assert json.loads((cpu / "serving.json").read_text())["status"] == "verified"
    assert not (folder / "gpu" / "w4a16" / "serving.json").exists()


def test_the_newest_verified_measurement_is_exported_as_serving_json(layout: Layout, tmp_path: Path) -> None:
    newer = measurement(machine_sha256=OTHER_MACHINE, created="2026-12-01T00:00:00Z")
    unverified = measurement(machine_sha256="sha256:" + "0" * 64, status="unverified", created="2027-01-01T00:00:00Z")
    parts = variant(tmp_path / "again", measurements=(newer, unverified))
    pack(layout, model=MODEL, tag=TAG, variants=[parts], created_utc=CREATED)
    folder = export([opened(layout).variant("cpu", "w4a16")], tmp_path / "out") / "cpu" / "w4a16"
    assert json.loads((folder / "serving.json").read_text())["identity"]["created_utc"] == "2026-12-01T00:00:00Z"
    assert len(list((folder / "measurements").iterdir())) == 3


def test_an_export_into_an_empty_folder_is_welcome(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (export(opened(layout).variants, tmp_path / "out") / "cpu").is_dir()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_export_never_overwrites(layout: Layout, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="not an empty folder"):
        export(opened(layout).variants, out)


def test_an_export_of_an_altered_blob_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    variants = opened(layout).variants
    path = variants[0].files["weights/linears.irpa"].path
    path.write_bytes(path.read_bytes().replace(b"qqqq", b"evil"))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        export(variants, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []


def test_what_a_dead_export_left_is_removed_and_what_a_living_one_holds_is_not(layout: Layout, tmp_path: Path) -> None:
    dead, living = tmp_path / ".out.export-dead", tmp_path / ".out.export-living"
    dead.mkdir()
    living.mkdir()
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        export(opened(layout).variants, tmp_path / "out")
    finally:
        os.close(handle)
    assert (dead.exists(), living.exists()) == (False, True)
