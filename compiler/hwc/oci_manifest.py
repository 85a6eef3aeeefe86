"""OCI descriptors, manifests and indexes: parsed strictly from untrusted bytes, written in one canonical form.

Source: OCI image specification 1.1, descriptor.md, manifest.md and image-index.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from hwc import digest as digests
from hwc.errors import IntegrityError

MAX_MANIFEST_BYTES = 4 << 20
"""No manifest or index is read past this size; registries set the same bound."""

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
IMAGE_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_PAYLOAD = b"{}"
REF_NAME = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A pointer to one blob: its media type, digest and size."""

    media_type: str
    digest: str
    size_bytes: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as the wire has it; what is empty is left out."""
        wire: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        if self.artifact_type:
            wire["artifactType"] = self.artifact_type
        if self.annotations:
            wire["annotations"] = dict(self.annotations)
        return wire

    def annotated(self, annotations: Mapping[str, str]) -> Descriptor:
        """Return the same pointer with these annotations added."""
        return replace(self, annotations={**self.annotations, **annotations})

    def bare(self) -> Descriptor:
        """Return media type, digest, size and artifact type alone, as a ``subject`` is written."""
        return replace(self, annotations={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image manifest: a config, its layers, and the subject that it speaks about, if any."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the manifest's canonical bytes."""
        wire: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.subject is not None:
            wire["subject"] = self.subject.to_json()
        return _with_extras(wire, self.artifact_type, self.annotations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One image index: an ordered list of manifests or further indexes."""

    manifests: tuple[Descriptor, ...]
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the index's canonical bytes."""
        wire: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [entry.to_json() for entry in self.manifests],
        }
        return _with_extras(wire, self.artifact_type, self.annotations)


def _with_extras(wire: dict[str, Any], artifact_type: str, annotations: Mapping[str, str]) -> bytes:
    if artifact_type:
        wire["artifactType"] = artifact_type
    if annotations:
        wire["annotations"] = dict(annotations)
    return digests.canonical_json(wire)


def parse_json(payload: bytes, *, where: str) -> Any:
    """Parse JSON from an untrusted source; raise IntegrityError for repeated keys, NaN, depth, or anything not JSON.

    Repeated keys are refused because parsers differ in which one they keep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is repeated")
        return table

    def refused(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(payload, object_pairs_hook=unique, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not valid JSON: {str(error)[:200]}", where=where) from error


def parse_manifest(payload: bytes, *, where: str) -> Manifest:
    """Parse an image manifest; raise IntegrityError if it is anything else."""
    table = _versioned(payload, MANIFEST_TYPE, where)
    subject = table.get("subject")
    return Manifest(
        config=parse_descriptor(table.get("config"), where=where),
        layers=parse_descriptors(table.get("layers"), where=where),
        artifact_type=_text(table, "artifactType", where),
        subject=None if subject is None else parse_descriptor(subject, where=where),
        annotations=_annotations(table, where),
    )


def parse_index(payload: bytes, *, where: str) -> Index:
    """Parse an image index; raise IntegrityError if it is anything else."""
    table = _versioned(payload, INDEX_TYPE, where)
    return Index(
        manifests=parse_descriptors(table.get("manifests"), where=where),
        artifact_type=_text(table, "artifactType", where),
        annotations=_annotations(table, where),
    )


def parse_descriptors(value: Any, *, where: str) -> tuple[Descriptor, ...]:
    """Parse a list of descriptors."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > _MAX_ENTRIES:
        raise IntegrityError(f"expected a list of at most {_MAX_ENTRIES} descriptors", where=where)
    return tuple(parse_descriptor(entry, where=where) for entry in value)


def parse_descriptor(value: Any, *, where: str) -> Descriptor:
    """Parse one descriptor; keys that OCI allows and hwc does not use (``platform``, ``urls``) are passed over."""
    if not isinstance(value, Mapping):
        raise IntegrityError("a descriptor is not a JSON object", where=where)
    size_bytes = value.get("size")
    if type(size_bytes) is not int or not 0 <= size_bytes < 1 << 63:
        raise IntegrityError(f"a descriptor's size is not a byte count: {size_bytes!r:.60}", where=where)
    media_type = _text(value, "mediaType", where)
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise IntegrityError(f"not a media type: {media_type!r:.90}", where=where)
    return Descriptor(
        media_type=media_type,
        digest=digests.checked(_text(value, "digest", where), where=where),
        size_bytes=size_bytes,
        artifact_type=_text(value, "artifactType", where),
        annotations=_annotations(value, where),
    )


def _versioned(payload: bytes, media_type: str, where: str) -> Mapping[str, Any]:
    table = parse_json(payload, where=where)
    if not isinstance(table, Mapping) or type(table.get("schemaVersion")) is not int or table["schemaVersion"] != 2:
        raise IntegrityError("not an OCI document of schema version 2", where=where)
    # An absent mediaType is legal in an index, but one document must never read as both kinds (CVE-2021-41190).
    found = table.get("mediaType", media_type)
    both = ("manifests" in table) and ("layers" in table or "config" in table)
    if found != media_type or both:
        raise IntegrityError(f"expected {media_type}, found {found!r:.90}", where=where)
    return table


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise IntegrityError(f"`{key}` is not text", where=where)
    return value


def _annotations(table: Mapping[str, Any], where: str) -> dict[str, str]:
    value = table.get("annotations") or {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise IntegrityError("annotations are not a table of text", where=where)
    return dict(value)
