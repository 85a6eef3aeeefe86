"""Attacks on a bundle at rest, each named by what the attacker changed; all end in an integrity error."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from bundle_parts import CREATED, MODEL, TAG, variant

from hwc import digest as digests
from hwc.bundle import weight_tar
from hwc.bundle.open import Bundle, Variant, open_bundle
from hwc.bundle.pack import pack
from hwc.bundle.reference import parse
from hwc.errors import IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import MAX_MANIFEST_BYTES

ROLE = "weights/linears.irpa"
NAME = f"models/{ROLE}"
Json = Any


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store").create()
    pack(layout, model=MODEL, tag=TAG, variants=[variant(tmp_path / "built")], created_utc=CREATED)
    return layout


def opened(layout: Layout) -> Bundle:
    return open_bundle(layout, parse(TAG))


def only(layout: Layout) -> Variant:
    (found,) = opened(layout).variants
    return found


def stored(layout: Layout, payload: bytes) -> str:
    return layout.put_bytes(payload, "application/octet-stream").digest


def forge(layout: Layout, *path: str | int, change: Callable[[Json], Json]) -> None:
    """Alter one document below the tag and make every digest above it right again, as a thief of the tag could.

    ``path`` holds the positions of descriptors, from index.json's entry down.
    """

    def rewritten(descriptor: Json, steps: tuple[str | int, ...]) -> Json:
        document = json.loads(layout.blob_path(descriptor["digest"]).read_bytes())
        if steps:
            where, index = steps[0], steps[1]
            document[where][index] = rewritten(document[where][index], steps[2:])
        else:
            document = change(document)
        payload = digests.canonical_json(document)
        return {**descriptor, "digest": stored(layout, payload), "size": len(payload)}

    index_path = layout.path / "index.json"
    index = json.loads(index_path.read_bytes())
    index["manifests"][0] = rewritten(index["manifests"][0], path)
    index_path.write_text(json.dumps(index))


def with_key(*keys: str | int, value: Json) -> Callable[[Json], Json]:
    def change(document: Json) -> Json:
        place = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return document

    return change


VARIANT = ("manifests", 0)
MEASUREMENT = ("manifests", 1)
IMAGE = (*VARIANT, "manifests", 0)
MODELPACK = (*VARIANT, "manifests", 1)


def test_a_forgery_that_changes_nothing_opens(layout: Layout) -> None:
    """Guards the tests below: the forging itself must not be what is refused."""
    for path in ((), VARIANT, MODELPACK):
        forge(layout, *path, change=with_key("schemaVersion", value=2))
        assert opened(layout).variants


def test_altered_weights_are_found_by_verify(layout: Layout) -> None:
    found = only(layout)
    path = found.files[ROLE].path
    payload = bytearray(path.read_bytes())
    payload[5000] ^= 1
    path.write_bytes(payload)
    with pytest.raises(IntegrityError, match=r"linears\.irpa does not match"):
        only(layout).verify()
    with pytest.raises(IntegrityError, match="does not match"):
        found.files[ROLE].read_bytes()


def test_an_altered_comment_before_the_weights_is_found_by_verify(layout: Layout) -> None:
    path = only(layout).files[ROLE].path
    path.write_bytes(path.read_bytes().replace(b"the file starts", b"the file STARTS", 1))
    with pytest.raises(IntegrityError, match="does not match"):
        only(layout).verify()


@pytest.mark.parametrize("cut", [0, 100, 4096, -1])
def test_a_truncated_blob_is_refused_when_the_bundle_opens(layout: Layout, cut: int) -> None:
    path = only(layout).files[ROLE].path
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match="were promised"):
        opened(layout)


def test_a_missing_blob_is_refused_when_the_bundle_opens(layout: Layout) -> None:
    only(layout).files[ROLE].path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        opened(layout)


@pytest.mark.parametrize("depth", ["bundle", "variant", "image", "modelpack", "measurement", "serving", "config"])
def test_a_document_that_does_not_match_its_digest_is_refused(layout: Layout, depth: str) -> None:
    bundle = json.loads(layout.read_bytes(opened(layout).digest))
    index = json.loads(layout.read_bytes(bundle["manifests"][0]["digest"]))
    image = json.loads(layout.read_bytes(index["manifests"][0]["digest"]))
    measured = json.loads(layout.read_bytes(bundle["manifests"][1]["digest"]))
    targets = {
        "bundle": opened(layout).digest,
        "variant": bundle["manifests"][0]["digest"],
        "image": index["manifests"][0]["digest"],
        "modelpack": index["manifests"][1]["digest"],
        "measurement": bundle["manifests"][1]["digest"],
        "serving": measured["layers"][0]["digest"],
        "config": image["config"]["digest"],
    }
    path = layout.blob_path(targets[depth])
    payload = path.read_bytes()
    path.write_bytes(payload[:-1] + b" ")  # the same size: only the digest can tell
    with pytest.raises(IntegrityError, match="does not match its digest"):
        opened(layout)


def test_a_manifest_larger_than_the_bound_is_refused_before_it_is_parsed(layout: Layout) -> None:
    forge(layout, *VARIANT, change=with_key("annotations", "padding", value="x" * MAX_MANIFEST_BYTES))
    with pytest.raises(IntegrityError, match="larger than"):
        opened(layout)


@pytest.mark.parametrize(
    ("path", "keys", "value", "match"),
    [
        (VARIANT, ("annotations", "vnd.hwc.target"), "other", "not the one that its bundle names"),
        (VARIANT, ("annotations", "vnd.hwc.content.sha256"), "sha256:" + "0" * 64, "not the one that its bundle"),
        (VARIANT, ("artifactType",), "application/x", "an image and a ModelPack"),
        (VARIANT, ("schemaVersion",), 3, "schema version 2"),
        (VARIANT, ("mediaType",), "application/vnd.oci.image.manifest.v1+json", "expected"),
        (VARIANT, ("layers",), [], "expected"),
        (VARIANT, ("manifests",), [], "an image and a ModelPack"),
        (IMAGE, ("layers", 0, "annotations", "vnd.hwc.file.sha256"), "sha256:" + "0" * 64, "not the one that its"),
        (IMAGE, ("layers", 0, "annotations", "vnd.hwc.file.bytes"), "-1", "not an uncompressed archive"),
        (IMAGE, ("layers", 0, "annotations", "vnd.hwc.file.bytes"), "99", "not the one|were promised"),
        (IMAGE, ("layers", 0, "mediaType"), "application/vnd.oci.image.layer.v1.tar+gzip", "not an uncompressed"),
        (IMAGE, ("layers", 0, "annotations", "org.opencontainers.image.title"), "../../etc/passwd", "differ"),
        (IMAGE, ("layers", 0, "size"), -5, "not a byte count"),
        (IMAGE, ("layers", 0, "digest"), "sha256:../../../../etc/passwd", "not a sha256 digest"),
        (IMAGE, ("layers", 0, "digest"), "md5:" + "0" * 32, "not a sha256 digest"),
        (MODELPACK, ("layers", 0, "annotations", "org.opencontainers.image.title"), "code/other", "differ"),
        (MODELPACK, ("artifactType",), "application/x", "ModelPack manifest second"),
        ((), ("manifests", 0, "annotations", "vnd.hwc.status"), "trusted", "with a status"),
        ((), ("manifests", 0, "annotations", "vnd.hwc.target"), "../../up", "not a name"),
        ((), ("manifests", 0, "annotations", "vnd.hwc.scheme"), "fp32", "measurement is about no variant"),
        ((), ("manifests", 1, "annotations", "vnd.hwc.content.sha256"), "sha256:" + "0" * 64, "about no variant"),
        ((), ("manifests", 1, "artifactType"), "application/x", "neither a variant nor"),
    ],
)
def test_a_forged_document_with_right_digests_is_refused(
    layout: Layout, path: tuple[str | int, ...], keys: tuple[str | int, ...], value: Json, match: str
) -> None:
    forge(layout, *path, change=with_key(*keys, value=value))
    with pytest.raises(IntegrityError, match=match):
        opened(layout)


def test_an_escaping_name_told_alike_in_both_views_is_refused(layout: Layout) -> None:
    for path in (IMAGE, MODELPACK):
        keys = ("layers", 0, "annotations", "org.opencontainers.image.title")
        forge(layout, *path, change=with_key(*keys, value="code/../../../etc/passwd"))
    with pytest.raises(IntegrityError, match="not a file of a bundle"):
        opened(layout)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("subject", "digest"), "sha256:" + "0" * 64),
        (("annotations", "vnd.hwc.machine.sha256"), "sha256:" + "0" * 64),
        (("artifactType",), "application/vnd.hwc.variant.v1+json"),
        (("layers", 0, "annotations", "org.opencontainers.image.title"), "../serving.json"),
        (("layers",), []),
    ],
)
def test_a_forged_measurement_is_refused(layout: Layout, keys: tuple[str | int, ...], value: Json) -> None:
    forge(layout, *MEASUREMENT, change=with_key(*keys, value=value))
    with pytest.raises(IntegrityError, match=r"measurement|document"):
        opened(layout)


def test_a_serving_document_lent_from_other_content_is_refused(layout: Layout) -> None:
    change = with_key("identity", "content_sha256", value="sha256:" + "0" * 64)
    forge(layout, *MEASUREMENT, "layers", 0, change=change)
    with pytest.raises(IntegrityError, match="about other content"):
        opened(layout)


def test_a_serving_document_of_a_newer_schema_is_refused_and_says_to_upgrade(layout: Layout) -> None:
    forge(layout, *MEASUREMENT, "layers", 0, change=with_key("identity", "schema_version", value="2.0.0"))
    with pytest.raises(IntegrityError, match=r"schema version 2\.0\.0") as caught:
        only(layout).measurements[0].parsed_serving()
    assert "install a newer hwc" in caught.value.hint


def test_another_kind_of_artefact_under_the_tag_is_told_apart(layout: Layout) -> None:
    forge(layout, change=with_key("artifactType", value="application/x"))
    with pytest.raises(UsageError, match="another kind"):
        opened(layout)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"schemaVersion": 2, "manifests": {}}',
        '{"schemaVersion": 2, "manifests": [{}]}',
        '{"schemaVersion": 2, "schemaVersion": 2, "manifests": []}',
        '{"schemaVersion": 2, "manifests": [{"mediaType": "a/b", "digest": "../../x", "size": 1}]}',
        '{"schemaVersion": 2, "manifests": [' * 50_000,
        " " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=["list", "empty", "table", "no-digest", "repeated-key", "digest-as-path", "deep", "large"],
)
def test_a_hostile_index_is_refused(layout: Layout, index: str) -> None:
    (layout.path / "index.json").write_text(index)
    with pytest.raises(IntegrityError):
        layout.tags()


def test_a_tag_told_twice_is_refused(layout: Layout) -> None:
    path = layout.path / "index.json"
    index = json.loads(path.read_bytes())
    path.write_text(json.dumps({**index, "manifests": index["manifests"] * 2}))
    with pytest.raises(IntegrityError, match="two entries"):
        layout.tags()


@pytest.mark.parametrize("digest", ["sha256:../../oci-layout", "../oci-layout", "sha256:" + "A" * 64, "sha256:", ""])
def test_a_digest_is_never_used_as_a_path(layout: Layout, digest: str) -> None:
    for act in (layout.blob_path, layout.has, layout.read_bytes):
        with pytest.raises(IntegrityError, match="not a sha256 digest"):
            act(digest)


def tar_of(*members: tarfile.TarInfo, payload: bytes = b"data") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            member.size = len(payload) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def member(name: str = NAME, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {"comment": "." * 2700}
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def located(folder: Path, payload: bytes) -> weight_tar.Slice:
    path = folder / "archive.tar"
    path.write_bytes(payload)
    with path.open("rb") as stream:
        return weight_tar.locate(stream, NAME, where="here")


def trimmed(archive: bytes) -> bytes:
    return archive[: 4096 + 512 + 1024]  # tarfile pads to 10 KiB; ours ends after two empty blocks


def test_an_honest_archive_made_by_another_tar_writer_is_accepted(tmp_path: Path) -> None:
    """Guards the tests below: what they change is what is refused."""
    assert located(tmp_path, trimmed(tar_of(member()))) == weight_tar.Slice(offset_bytes=4096, length_bytes=4)


@pytest.mark.parametrize(
    ("hostile", "match"),
    [
        (member("../../etc/passwd"), "leaves its folder"),
        (member("models/../../etc/passwd"), "leaves its folder"),
        (member("/etc/passwd"), "leaves its folder"),
        (member("models/other"), "is expected"),
        (member(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not a regular file"),
        (member(type=tarfile.LNKTYPE, linkname="/etc/passwd"), "not a regular file"),
        (member(type=tarfile.DIRTYPE), "not a regular file"),
        (member(type=tarfile.CHRTYPE, devmajor=1, devminor=5), "not a regular file"),
        (member(type=tarfile.FIFOTYPE), "not a regular file"),
        (member(mode=0o4755), "mode 4755"),
        (member(mode=0o777), "mode 777"),
        (member(uid=1000), "owner 1000:0"),
        (member(pax_headers={}), "does not start at byte 4096"),
        (member(pax_headers={"comment": "." * 2700, "GNU.sparse.major": "1"}), "does not start|not a regular"),
        (member(pax_headers={"comment": "." * 2700, "path": "../../up"}), "leaves its folder"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_hostile_archive_is_refused(tmp_path: Path, hostile: tarfile.TarInfo, match: str) -> None:
    with pytest.raises(IntegrityError, match=match):
        located(tmp_path, trimmed(tar_of(hostile)))


def test_an_archive_of_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="just one file"):
        located(tmp_path, tar_of(member(), member("models/second")))


def test_bytes_hidden_behind_the_file_are_refused(tmp_path: Path) -> None:
    archive = bytearray(trimmed(tar_of(member())))
    archive[-1] = 1
    with pytest.raises(IntegrityError, match="something follows"):
        located(tmp_path, bytes(archive))


@pytest.mark.parametrize("size", [0, 3, 1 << 20, (1 << 33) - 1])
def test_a_header_that_lies_about_the_length_is_refused(tmp_path: Path, size: int) -> None:
    lying = weight_tar.header(NAME, size) + trimmed(tar_of(member()))[4096:]
    with pytest.raises(IntegrityError, match=r"just one file|something follows"):
        located(tmp_path, lying)


@pytest.mark.parametrize("payload", [b"", b"\0" * 10_240, b"noise" * 2000, b"\x1f\x8b" + b"x" * 9000])
def test_what_is_no_archive_is_refused(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"not a tar archive|empty"):
        located(tmp_path, payload)


def test_a_pax_header_that_claims_gigabytes_reads_no_more_than_the_first_4096_bytes(tmp_path: Path) -> None:
    head = tarfile.TarInfo("././@PaxHeader")
    head.type = tarfile.XHDTYPE
    head.size = 1 << 32
    with pytest.raises(IntegrityError):
        located(tmp_path, head.tobuf(tarfile.PAX_FORMAT) + b"\0" * 9000)
