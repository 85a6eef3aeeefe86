"""One measurement of a variant as it lies in a layout: documents in a manifest about the variant's index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle import manifest as shapes
from hwc.bundle import weight_tar
from hwc.bundle.entries import MeasurementEntry, VariantEntry
from hwc.bundle.serving import Serving, parse_serving
from hwc.errors import IntegrityError
from hwc.oci_layout import Layout
from hwc.oci_manifest import TITLE, Descriptor

SERVING_NAME = "serving.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one machine measured of a variant by one method."""

    machine_sha256: str
    method: str
    digest: str
    documents: Mapping[str, Any]
    """File name to document: ``serving.json`` always, ``check.json`` and ``profile.json`` where there are such."""

    @property
    def serving(self) -> dict[str, Any]:
        """The ``serving.json`` document as it stands."""
        return dict(self.documents[SERVING_NAME])

    def parsed_serving(self) -> Serving:
        """Return ``serving.json`` as a record; raise IntegrityError for a newer schema or a broken rule."""
        return parse_serving(self.serving, where=f"{self.digest} {SERVING_NAME}")


def read_measurement(
    layout: Layout, row: MeasurementEntry, entry: VariantEntry, *, serving_alone: bool = False
) -> Measurement:
    """Read a measurement, all of its documents or ``serving.json`` alone.

    Raises IntegrityError for one that is about another variant, a document that is missing or damaged, or a bad name.
    """
    where = f"{entry.name} ({digests.short(entry.subject.digest)})"
    documents = {
        name: table_of(layout.read_bytes(layer), where=where)
        for name, layer in document_layers(layout.read_bytes(row.manifest), row, entry).items()
        if name == SERVING_NAME or not serving_alone
    }
    serving = documents.get(SERVING_NAME)
    identity = serving.get("identity") if serving is not None else None
    if not isinstance(identity, Mapping) or identity.get("content_sha256") != entry.content_sha256:
        raise IntegrityError("a measurement's serving.json is about other content", where=where)
    return Measurement(
        machine_sha256=row.machine_sha256, method=row.method, digest=row.manifest.digest, documents=documents
    )


def document_layers(payload: bytes, row: MeasurementEntry, entry: VariantEntry) -> dict[str, Descriptor]:
    """Return where a measurement's documents lie, by name; raise IntegrityError unless it is what the bundle says."""
    where = f"{entry.name} ({digests.short(entry.subject.digest)})"
    manifest = oci_manifest.parse_manifest(payload, where=where)
    told = (manifest.artifact_type, manifest.subject, dict(manifest.annotations))
    claimed = {shapes.CONTENT: entry.content_sha256, shapes.MACHINE: row.machine_sha256, shapes.METHOD: row.method}
    if told != (shapes.MEASUREMENT_TYPE, entry.subject, claimed):
        raise IntegrityError("a measurement is about another variant than its bundle says", where=where)
    layers: dict[str, Descriptor] = {}
    for layer in manifest.layers:
        name = layer.annotations.get(TITLE, "")
        if not weight_tar.is_safe_name(name) or "/" in name or name in layers:
            raise IntegrityError(f"not a document's name, or one told twice: {name!r:.90}", where=where)
        layers[name] = layer
    return layers


def table_of(payload: bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON document; raise IntegrityError unless it is an object."""
    value = oci_manifest.parse_json(payload, where=where)
    if not isinstance(value, dict):
        raise IntegrityError("a document is not a JSON object", where=where)
    return value
