"""Opening a bundle: every manifest is checked against its digest before anything in it is believed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle import manifest as shapes
from hwc.bundle import weight_tar
from hwc.bundle.entries import Entries, Status, Table, VariantEntry, read_entries
from hwc.bundle.manifest import FACTS_ROLE, MOUNT_PREFIX, FileLayer
from hwc.bundle.measurement import SERVING_NAME, Measurement, read_measurement, table_of
from hwc.bundle.reference import Reference
from hwc.digest import CHUNK_BYTES
from hwc.errors import GateError, IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import CREATED, INDEX_TYPE, MAX_MANIFEST_BYTES, Descriptor, Index

__all__ = [
    "SERVING_NAME", "Blob", "Bundle", "Measurement", "Variant", "chosen_entries", "open_bundle", "require_verified",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Where a file's bytes lie: a slice of a blob, to be read or mapped in place."""

    path: Path
    offset: int
    length: int
    sha256: str
    """Digest of the slice."""
    archive: Descriptor
    """The blob around it."""

    def read_bytes(self) -> bytes:
        """Return the file's bytes, verified; raise IntegrityError if they were altered."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            payload = stream.read(self.length)
        if digests.of_bytes(payload) != self.sha256:
            raise IntegrityError("a file of a bundle does not match its digest", where=str(self.path))
        return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant of a bundle; its files are checked by ``verify`` and not before."""

    model_id: str
    target: str
    scheme: str
    status: Status
    content_sha256: str
    digest: str
    """Digest of the variant's own index."""
    facts: Mapping[str, Any]
    files: Mapping[str, Blob]
    measurements: tuple[Measurement, ...]

    @property
    def name(self) -> str:
        """``TARGET/SCHEME``."""
        return f"{self.target}/{self.scheme}"

    def verify(self) -> None:
        """Hash every blob and every file in it; raise IntegrityError at the first that was altered."""
        for role, blob in self.files.items():
            _verify(role, blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One version of a model, with the variants that were asked for."""

    model_id: str
    version: str
    tag: str
    digest: str
    created_utc: str
    variants: tuple[Variant, ...]

    def variant(self, target: str, scheme: str) -> Variant:
        """Return one variant; raise UsageError that names the nearest if there is none."""
        by_key = {(entry.target, entry.scheme): entry for entry in self.variants}
        if (target, scheme) not in by_key:
            raise _unknown("variant", f"{target}/{scheme}", [entry.name for entry in self.variants])
        return by_key[target, scheme]


def open_bundle(layout: Layout, reference: Reference) -> Bundle:
    """Open a bundle in a layout, all of its variants or the one that the reference names.

    Raises UsageError for an unknown tag or variant, IntegrityError for a manifest that does not match its digest, a
    blob that is missing or cut short, or anything else out of place.
    """
    descriptor = _point(layout, reference)
    table = read_entries(layout, descriptor)
    variants = [_variant(layout, table, entry) for entry in chosen_entries(table.entries, reference)]
    return Bundle(
        model_id=table.model_id,
        version=table.version,
        tag=reference.tag,
        digest=descriptor.digest,
        created_utc=table.index.annotations.get(CREATED, ""),
        variants=tuple(variants),
    )


def require_verified(variant: Variant) -> None:
    """Raise GateError unless the variant ran on the device it is for."""
    if variant.status != "verified":
        raise GateError(
            "the variant is unverified and cannot be promoted: it never ran on the device it is for",
            where=variant.name,
            hint="run `hwc check` and `hwc profile` on a machine that has the device",
        )


def _point(layout: Layout, reference: Reference) -> Descriptor:
    tags = layout.tags()
    if reference.digest:
        if not layout.has(reference.digest):
            raise UsageError("the store holds no bundle of this digest", where=reference.digest)
        size_bytes = layout.blob_path(reference.digest).stat().st_size
        return Descriptor(media_type=INDEX_TYPE, digest=reference.digest, size_bytes=size_bytes)
    if reference.tag not in tags:
        raise _unknown("bundle", reference.tag, list(tags))
    return tags[reference.tag]


def chosen_entries(entries: Entries, reference: Reference) -> list[VariantEntry]:
    """Return the variant that a reference names, or all; raise UsageError that names the nearest if it is unknown."""
    if not reference.target:
        return list(entries.values())
    key = (reference.target, reference.scheme)
    if key not in entries:
        raise _unknown("variant", reference.variant, [entry.name for entry in entries.values()])
    return [entries[key]]


def _unknown(kind: str, name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listed = ", ".join(sorted(known)[:12]) or "nothing"
    hint = (f"did you mean {near[0]}? " if near else "") + f"there is: {listed}"
    return UsageError(f"no {kind} {name!r}" if name else f"which {kind}?", hint=hint)


def _variant(layout: Layout, table: Table, entry: VariantEntry) -> Variant:
    where = f"{entry.name} ({digests.short(entry.subject.digest)})"
    index = oci_manifest.parse_index(layout.read_bytes(entry.subject), where=where)
    layers = _layers(layout, index, where)
    claimed = {shapes.TARGET: entry.target, shapes.SCHEME: entry.scheme, shapes.CONTENT: entry.content_sha256}
    content = shapes.content_sha256((layer.role, layer.sha256) for layer in layers)
    told = {key: index.annotations.get(key) for key in claimed}
    if told != claimed or content != entry.content_sha256 or index.annotations.get(shapes.MODEL) != table.model_id:
        raise IntegrityError("a variant is not the one that its bundle names", where=where)
    files = {layer.role: _blob(layout, layer, where) for layer in layers}
    facts = _document(files.pop(FACTS_ROLE), where)
    return Variant(
        model_id=table.model_id,
        target=entry.target,
        scheme=entry.scheme,
        status=entry.status,
        content_sha256=content,
        digest=entry.subject.digest,
        facts=facts,
        files=files,
        measurements=tuple(read_measurement(layout, row, entry) for row in entry.measurements),
    )


def _layers(layout: Layout, index: Index, where: str) -> tuple[FileLayer, ...]:
    if index.artifact_type != shapes.VARIANT_TYPE or len(index.manifests) != 2:
        raise IntegrityError("a variant is an index of an image and a ModelPack manifest", where=where)
    views = [oci_manifest.parse_manifest(layout.read_bytes(row), where=where) for row in index.manifests]
    image, modelpack = views
    if image.config.media_type != oci_manifest.IMAGE_CONFIG_TYPE or modelpack.artifact_type != shapes.MODELPACK_TYPE:
        raise IntegrityError("a variant is an image first and a ModelPack manifest second", where=where)
    config = oci_manifest.parse_json(layout.read_bytes(image.config), where=where)
    shapes.check_views(image, modelpack, config, where=where)
    return shapes.file_layers(image, where=where)


def _blob(layout: Layout, layer: FileLayer, where: str) -> Blob:
    place = f"{where} {layer.role}"
    with layout.open_blob(layer.archive) as stream:
        found = weight_tar.locate(stream, MOUNT_PREFIX + layer.role, where=place)
    if found.length_bytes != layer.length_bytes:
        raise IntegrityError(f"{found.length_bytes} bytes where {layer.length_bytes} were promised", where=place)
    return Blob(
        path=layout.blob_path(layer.archive.digest),
        offset=found.offset_bytes,
        length=found.length_bytes,
        sha256=layer.sha256,
        archive=layer.archive,
    )


def _document(blob: Blob, where: str) -> Mapping[str, Any]:
    if blob.length > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"a document of {blob.length} bytes", where=where)
    return table_of(blob.read_bytes(), where=where)


def _verify(role: str, blob: Blob) -> None:
    whole, inner = hashlib.sha256(), hashlib.sha256()
    with blob.path.open("rb") as stream:
        whole.update(stream.read(blob.offset))
        left_bytes = blob.length
        while left_bytes and (chunk := stream.read(min(CHUNK_BYTES, left_bytes))):
            whole.update(chunk)
            inner.update(chunk)
            left_bytes -= len(chunk)
        while chunk := stream.read(CHUNK_BYTES):
            whole.update(chunk)
    if ("sha256:" + whole.hexdigest(), "sha256:" + inner.hexdigest()) != (blob.archive.digest, blob.sha256):
        raise IntegrityError(f"{role} does not match its digest", where=str(blob.path), hint="pull or build it again")
