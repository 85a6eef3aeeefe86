"""Writing one variant's blobs and one measurement's into a layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwc import digest as digests
from hwc.bundle import manifest as shapes
from hwc.bundle import weight_tar
from hwc.bundle.entries import MeasurementEntry, VariantEntry
from hwc.bundle.manifest import FACTS_ROLE, MOUNT_PREFIX, FileLayer, VariantKey
from hwc.bundle.parts import SERVING_NAME, MeasurementParts, ModelIdentity, VariantParts, check_measurement
from hwc.errors import IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import (
    EMPTY_PAYLOAD,
    EMPTY_TYPE,
    IMAGE_CONFIG_TYPE,
    IMAGE_LAYER_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    TITLE,
    Descriptor,
    Index,
    Manifest,
)


def write_variant(layout: Layout, model: ModelIdentity, parts: VariantParts) -> VariantEntry:
    """Store a variant's files, its two manifests, its index and its measurements; nothing points at them yet."""
    layers = [_store_file(layout, role, parts.files[role]) for role in sorted(parts.files)]
    for layer in layers:
        if parts.sha256.get(layer.role, layer.sha256) != layer.sha256:
            raise IntegrityError(
                f"{layer.role} is not what it was when it was made", where=str(parts.files[layer.role]),
                hint="`hwc cache verify` removes damaged stage outputs; then build again",
            )
    content_sha256 = shapes.content_sha256((layer.role, layer.sha256) for layer in layers)
    for measurement in parts.measurements:
        check_measurement(measurement, content_sha256, parts.status)
    layers.append(_store_facts(layout, parts.facts))
    subject = _store_index(layout, model, parts, layers, content_sha256)
    measured = [write_measurement(layout, entry, subject, content_sha256) for entry in parts.measurements]
    entry = VariantEntry(
        target=parts.target,
        scheme=parts.scheme,
        status=parts.status,
        content_sha256=content_sha256,
        subject=subject,
    )
    return entry.with_measurements(measured, parts.status)


def write_measurement(
    layout: Layout, parts: MeasurementParts, subject: Descriptor, content_sha256: str
) -> MeasurementEntry:
    """Store a measurement: a manifest of JSON documents whose subject is the variant's index."""
    documents = {SERVING_NAME: parts.serving, **parts.documents}
    layers = [
        layout.put_bytes(
            _document(name, documents[name]), shapes.SERVING_TYPE if name == SERVING_NAME else shapes.DOCUMENT_TYPE
        ).annotated({TITLE: name})
        for name in (SERVING_NAME, *sorted(parts.documents))
    ]
    manifest = Manifest(
        artifact_type=shapes.MEASUREMENT_TYPE,
        config=layout.put_bytes(EMPTY_PAYLOAD, EMPTY_TYPE),
        layers=tuple(layers),
        subject=subject,
        annotations={
            shapes.CONTENT: content_sha256,
            shapes.MACHINE: parts.machine_sha256,
            shapes.METHOD: parts.method,
        },
    )
    stored = layout.put_bytes(manifest.to_bytes(), MANIFEST_TYPE)
    return MeasurementEntry(
        machine_sha256=parts.machine_sha256,
        method=parts.method,
        manifest=replace(stored, artifact_type=shapes.MEASUREMENT_TYPE),
    )


def _store_index(
    layout: Layout, model: ModelIdentity, parts: VariantParts, layers: list[FileLayer], content_sha256: str
) -> Descriptor:
    key = VariantKey(model_id=model.model_id, target=parts.target, scheme=parts.scheme, architecture=parts.architecture)
    image_config = layout.put_bytes(shapes.image_config(layers, key.architecture), IMAGE_CONFIG_TYPE)
    pack_config = layout.put_bytes(shapes.modelpack_config(layers, key, model.licences), shapes.MODELPACK_CONFIG_TYPE)
    image = layout.put_bytes(shapes.image_manifest(image_config, layers).to_bytes(), MANIFEST_TYPE)
    modelpack = layout.put_bytes(shapes.modelpack_manifest(pack_config, layers).to_bytes(), MANIFEST_TYPE)
    index = Index(
        artifact_type=shapes.VARIANT_TYPE,
        manifests=(image, replace(modelpack, artifact_type=shapes.MODELPACK_TYPE)),
        annotations={
            shapes.MODEL: key.model_id,
            shapes.TARGET: key.target,
            shapes.SCHEME: key.scheme,
            shapes.CONTENT: content_sha256,
        },
    )
    return replace(layout.put_bytes(index.to_bytes(), INDEX_TYPE), artifact_type=shapes.VARIANT_TYPE)


def _store_file(layout: Layout, role: str, path: Path) -> FileLayer:
    if not path.is_file():
        raise UsageError(f"{role} is not a file", where=str(path))
    name = MOUNT_PREFIX + role
    found = weight_tar.digests_of(path, name)
    archive = Descriptor(
        media_type=IMAGE_LAYER_TYPE,
        digest=found.archive_sha256,
        size_bytes=weight_tar.archive_bytes(found.length_bytes),
    )
    layout.put_chunks(lambda: weight_tar.chunks(path, name), archive)
    return FileLayer(role=role, sha256=found.file_sha256, length_bytes=found.length_bytes, archive=archive)


def _store_facts(layout: Layout, facts: Mapping[str, Any]) -> FileLayer:
    payload = _document(FACTS_ROLE, facts)
    archive = layout.put_bytes(weight_tar.archive(MOUNT_PREFIX + FACTS_ROLE, payload), IMAGE_LAYER_TYPE)
    return FileLayer(role=FACTS_ROLE, sha256=digests.of_bytes(payload), length_bytes=len(payload), archive=archive)


def _document(name: str, document: Mapping[str, Any]) -> bytes:
    try:
        payload = digests.canonical_json(dict(document))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is not a JSON document: {error}") from error
    if len(payload) > MAX_MANIFEST_BYTES:
        raise UsageError(f"{name} holds {len(payload)} bytes; a document is at most {MAX_MANIFEST_BYTES}")
    return payload
