"""Packing writes one bundle, the same to the bit wherever it was built, and never loses what it was not told about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_parts import (
    CONTENTS,
    CREATED,
    MACHINE,
    MODEL,
    OTHER_MACHINE,
    TAG,
    content_of,
    measurement,
    serving_for,
    variant,
)

from hwc import digest as digests
from hwc import oci_gc, oci_manifest
from hwc.bundle import weight_tar
from hwc.bundle.open import Bundle, open_bundle
from hwc.bundle.pack import MeasurementParts, ModelIdentity, Packed, VariantParts, attach, pack
from hwc.bundle.reference import Reference
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.oci_layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store").create()


def packed(layout: Layout, *variants: VariantParts, keep_others: bool = True, created_utc: str = CREATED) -> Packed:
    return pack(layout, model=MODEL, tag=TAG, variants=variants, created_utc=created_utc, keep_others=keep_others)


def opened(layout: Layout) -> Bundle:
    return open_bundle(layout, Reference(layout_path=str(layout.path), tag=TAG))


def test_the_same_build_in_another_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    layouts = [Layout(tmp_path / name / "store").create() for name in ("a", "b/c")]
    results = [packed(layout, variant(layout.path.parent / "built")) for layout in layouts]
    assert results[0] == results[1]
    assert [path.name for path in layouts[0].blob_files()] == [path.name for path in layouts[1].blob_files()]


def test_the_bytes_of_a_variant_are_the_ones_promised() -> None:
    # A golden value: identities of published bundles change with it. See STYLE.md 10.
    head = weight_tar.header("models/weights/float.irpa", 5000)
    assert digests.of_bytes(head) == "sha256:e6ef44315a0201dc1f693c5f6264d6a9bc9ad30aacf5c1a4ea56cb7224cd9ab5"


def test_packing_again_changes_nothing_and_says_so(layout: Layout, tmp_path: Path) -> None:
    first = packed(layout, variant(tmp_path / "built"))
    before = {path.name: path.stat().st_mtime_ns for path in layout.blob_files()}
    again = packed(layout, variant(tmp_path / "again"), created_utc="2027-01-01T00:00:00Z")
    assert (first.changed, again.changed) == (True, False)
    assert again.digest == first.digest
    assert {path.name: path.stat().st_mtime_ns for path in layout.blob_files()} == before


def test_content_is_named_by_its_files_alone(layout: Layout, tmp_path: Path) -> None:
    first = packed(layout, variant(tmp_path / "1"))
    second = packed(layout, variant(tmp_path / "2", facts={"other": 1}, measurements=()))
    assert first.content_sha256 == second.content_sha256 == {"cpu/w4a16": content_of(CONTENTS)}
    altered = CONTENTS | {"weights/float.irpa": b"g" * 5000}
    third = packed(layout, variant(tmp_path / "3", altered))
    assert third.content_sha256 != first.content_sha256


def test_a_measurement_changes_neither_content_nor_the_variants_index(layout: Layout, tmp_path: Path) -> None:
    bare = packed(layout, variant(tmp_path / "1", measurements=()))
    measured = packed(layout, variant(tmp_path / "2"))
    assert measured.changed
    assert measured.variant_digests == bare.variant_digests
    assert measured.content_sha256 == bare.content_sha256


def test_weights_that_two_variants_share_are_stored_once(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1", measurements=()))
    before = sum(path.stat().st_size for path in layout.blob_files())
    other = CONTENTS | {"code/module.vmfb": b"other code"}
    packed(layout, variant(tmp_path / "2", other, target="gpu", measurements=()))
    added = sum(path.stat().st_size for path in layout.blob_files()) - before
    shared = {entry.files["weights/linears.irpa"].path for entry in opened(layout).variants}
    assert len(shared) == 1
    assert added < 30_000 < before


def test_variants_that_are_not_named_again_stay(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    packed(layout, variant(tmp_path / "2", target="gpu"))
    assert [entry.name for entry in opened(layout).variants] == ["cpu/w4a16", "gpu/w4a16"]
    assert all(len(entry.measurements) == 1 for entry in opened(layout).variants)
    packed(layout, variant(tmp_path / "3", target="npu"), keep_others=False)
    assert [entry.name for entry in opened(layout).variants] == ["npu/w4a16"]


def test_a_measurement_of_the_same_machine_and_method_is_replaced_and_others_stay(
    layout: Layout, tmp_path: Path
) -> None:
    packed(layout, variant(tmp_path / "1", measurements=(measurement(note="old"),)))
    packed(layout, variant(tmp_path / "2", measurements=(measurement(machine_sha256=OTHER_MACHINE),)))
    packed(layout, variant(tmp_path / "3", measurements=(measurement(note="new"),)))
    (found,) = opened(layout).variants
    notes = {entry.machine_sha256: entry.documents["check.json"]["note"] for entry in found.measurements}
    assert notes == {MACHINE: "new", OTHER_MACHINE: ""}


def test_measurements_of_other_content_go_with_it(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    altered = CONTENTS | {"code/module.vmfb": b"recompiled"}
    packed(layout, variant(tmp_path / "2", altered, measurements=()))
    (found,) = opened(layout).variants
    assert found.measurements == ()


def test_measurements_stay_when_only_the_facts_change(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    packed(layout, variant(tmp_path / "2", facts={"reworded": True}, measurements=()))
    (found,) = opened(layout).variants
    assert found.facts == {"reworded": True}
    assert [entry.machine_sha256 for entry in found.measurements] == [MACHINE]


def test_a_build_without_the_device_does_not_undo_a_verification_of_the_same_content(
    layout: Layout, tmp_path: Path
) -> None:
    packed(layout, variant(tmp_path / "1"))
    assert not packed(layout, variant(tmp_path / "2", status="unverified", measurements=())).changed
    altered = CONTENTS | {"code/module.vmfb": b"recompiled"}
    packed(layout, variant(tmp_path / "3", altered, status="unverified", measurements=()))
    assert opened(layout).variants[0].status == "unverified"


def test_a_measurement_made_later_is_attached_without_touching_the_variant(layout: Layout, tmp_path: Path) -> None:
    before = packed(layout, variant(tmp_path / "1", status="unverified", measurements=()))
    after = attach(
        layout,
        model=MODEL,
        tag=TAG,
        target="cpu",
        scheme="w4a16",
        measurement=measurement(),
        status="verified",
        created_utc=CREATED,
    )
    assert after.changed
    assert after.variant_digests == before.variant_digests
    (found,) = opened(layout).variants
    assert (found.status, len(found.measurements)) == ("verified", 1)


def test_a_measurement_for_an_unknown_variant_names_the_known_ones(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    with pytest.raises(UsageError, match="no variant gpu/w4a16") as caught:
        attach(
            layout,
            model=MODEL,
            tag=TAG,
            target="gpu",
            scheme="w4a16",
            measurement=measurement(),
            status="verified",
            created_utc=CREATED,
        )
    assert "cpu/w4a16" in caught.value.hint


def test_parallel_builds_of_one_tag_keep_every_variant(layout: Layout, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[3])\n"
        "from bundle_parts import *\nfrom hwc.bundle.pack import pack\nfrom hwc.oci_layout import Layout\n"
        "parts = variant(Path(sys.argv[2]), target=sys.argv[4])\n"
        "pack(Layout(Path(sys.argv[1])), model=MODEL, tag=TAG, variants=[parts], created_utc=CREATED)\n"
    )
    here = str(Path(__file__).parent)
    targets = ["t0", "t1", "t2", "t3"]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(layout.path), str(tmp_path / target), here, target])
        for target in targets
    ]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert [entry.target for entry in opened(layout).variants] == targets


def test_everything_a_bundle_needs_is_reached_from_its_tag(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    assert oci_gc.collect(layout, dry_run=True).digests == ()


def test_the_image_stands_first_and_its_diff_ids_are_its_layers(layout: Layout, tmp_path: Path) -> None:
    result = packed(layout, variant(tmp_path / "1"))
    index = oci_manifest.parse_index(layout.read_bytes(result.variant_digests["cpu/w4a16"]), where="")
    image, modelpack = (oci_manifest.parse_manifest(layout.read_bytes(entry), where="") for entry in index.manifests)
    assert image.config.media_type == "application/vnd.oci.image.config.v1+json"
    assert modelpack.artifact_type == "application/vnd.cncf.model.manifest.v1+json"
    config = json.loads(layout.read_bytes(image.config))
    digests_of_layers = [layer.digest for layer in image.layers]
    assert config["rootfs"] == {"type": "layers", "diff_ids": digests_of_layers}
    assert [layer.digest for layer in modelpack.layers] == digests_of_layers
    for layer in digests_of_layers:
        assert digests.of_file(layout.blob_path(layer)) == layer


def test_the_modelpack_config_has_no_key_that_its_schema_forbids(layout: Layout, tmp_path: Path) -> None:
    result = packed(layout, variant(tmp_path / "1"))
    index = oci_manifest.parse_index(layout.read_bytes(result.variant_digests["cpu/w4a16"]), where="")
    modelpack = oci_manifest.parse_manifest(layout.read_bytes(index.manifests[1]), where="")
    config = json.loads(layout.read_bytes(modelpack.config))
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert set(config["descriptor"]) <= {"name", "licenses", "version", "title"}
    assert set(config["config"]) <= {"architecture", "format", "paramSize", "precision", "quantization"}
    assert set(config["modelfs"]) == {"type", "diffIds"}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"target": "Big CPU"}, UsageError, "not a name"),
        ({"files": {}}, UsageError, "needs code"),
        ({"status": "probably"}, UsageError, "needs code and a status"),
        ({"files": {"code/../../x": Path("x")}}, IntegrityError, "not a file of a bundle"),
        ({"files": {"/code/x": Path("x")}}, IntegrityError, "not a file of a bundle"),
        ({"files": {"secrets/key": Path("x")}}, IntegrityError, "not a file of a bundle"),
        ({"files": {"facts.json": Path("x")}}, IntegrityError, "not a file of a bundle"),
        ({"files": {"code/module.vmfb": Path("/nowhere")}}, UsageError, "is not a file"),
        ({"facts": {"bits": float("nan")}}, UsageError, "not a JSON document"),
        ({"status": "unverified"}, UsageError, "says verified, the variant is unverified"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    layout: Layout, tmp_path: Path, changes: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        packed(layout, variant(tmp_path / "1", **changes))
    assert layout.tags() == {}


def test_a_measurement_of_other_content_is_refused(layout: Layout, tmp_path: Path) -> None:
    foreign = MeasurementParts(serving=serving_for(digests.of_bytes(b"else")), machine_sha256=MACHINE, method="profile")
    with pytest.raises(UsageError, match="is about content"):
        packed(layout, variant(tmp_path / "1", measurements=(foreign,)))


def test_no_variant_or_one_twice_is_refused(layout: Layout, tmp_path: Path) -> None:
    for variants in ([], [variant(tmp_path / "1"), variant(tmp_path / "2")]):
        with pytest.raises(UsageError, match="each of them once"):
            packed(layout, *variants)


def test_a_tag_of_another_model_is_not_overwritten(layout: Layout, tmp_path: Path) -> None:
    packed(layout, variant(tmp_path / "1"))
    other = ModelIdentity(model_id="mlp", version="1.0.0")
    with pytest.raises(UsageError, match="taken by the model minilm"):
        pack(layout, model=other, tag=TAG, variants=[variant(tmp_path / "2")], created_utc=CREATED)


@pytest.mark.parametrize("point", ["layout.before-blob", "layout.before-index"])
def test_a_disk_that_fills_up_leaves_the_old_bundle(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = packed(layout, variant(tmp_path / "1"))
    altered = CONTENTS | {"code/module.vmfb": b"recompiled"}
    monkeypatch.setenv("HWC_FAIL_AT", f"{point}:enospc")
    with pytest.raises(MachineError, match="No space left"):
        packed(layout, variant(tmp_path / "2", altered))
    monkeypatch.delenv("HWC_FAIL_AT")
    assert opened(layout).digest == before.digest
    assert packed(layout, variant(tmp_path / "2", altered)).changed
