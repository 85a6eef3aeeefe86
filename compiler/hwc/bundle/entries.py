"""The rows of a bundle's index: which variants it holds, and which measurements there are of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle import manifest as shapes
from hwc.errors import IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import CREATED, INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index

Status = Literal["verified", "unverified", "hand-over"]
"""``verified``: it ran on the device it is for; ``hand-over``: sources for the vendor's compiler, which run nowhere."""
STATUSES: tuple[Status, ...] = get_args(Status)
_STATUS: Mapping[str, Status] = {status: status for status in STATUSES}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementEntry:
    """One measurement: a manifest whose subject is the variant's index."""

    machine_sha256: str
    method: str
    manifest: Descriptor

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the variant's other measurements."""
        return (self.machine_sha256, self.method)

    def about(self, layout: Layout, subject: Descriptor) -> MeasurementEntry:
        """Return the same measurement with another index of the same content as its subject."""
        where = self.manifest.digest
        manifest = oci_manifest.parse_manifest(layout.read_bytes(self.manifest), where=where)
        if manifest.subject == subject:
            return self
        moved = layout.put_bytes(replace(manifest, subject=subject).to_bytes(), MANIFEST_TYPE)
        return replace(self, manifest=replace(moved, artifact_type=shapes.MEASUREMENT_TYPE))


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantEntry:
    """One variant: its index, and its measurements."""

    target: str
    scheme: str
    status: Status
    content_sha256: str
    subject: Descriptor
    """The variant's index, as measurements point at it."""
    measurements: tuple[MeasurementEntry, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Target and scheme."""
        return (self.target, self.scheme)

    @property
    def name(self) -> str:
        """``TARGET/SCHEME``."""
        return f"{self.target}/{self.scheme}"

    def with_measurements(
        self, added: Iterable[MeasurementEntry], status: Status, *, older: bool = False
    ) -> VariantEntry:
        """Return the entry with measurements added; of two with one key the newer stays."""
        rows = [*added, *self.measurements] if older else [*self.measurements, *added]
        by_key = {row.key: row for row in rows}
        return replace(self, status=status, measurements=tuple(by_key[key] for key in sorted(by_key)))


Entries = Mapping[tuple[str, str], VariantEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A bundle's index as it was read."""

    descriptor: Descriptor
    model_id: str
    version: str
    index: Index
    entries: Entries


def read_entries(layout: Layout, descriptor: Descriptor) -> Table:
    """Read a bundle's index; raise UsageError if it is none, IntegrityError if it is damaged."""
    if descriptor.media_type != INDEX_TYPE:
        raise UsageError("not a bundle of hwc, but another kind of artefact", where=descriptor.digest)
    return parse_entries(layout.read_bytes(descriptor), descriptor)


def parse_entries(payload: bytes, descriptor: Descriptor) -> Table:
    """Parse a bundle's index from its verified bytes; raise as ``read_entries`` does."""
    where = descriptor.digest
    if descriptor.media_type != INDEX_TYPE:
        raise UsageError("not a bundle of hwc, but another kind of artefact", where=where)
    index = oci_manifest.parse_index(payload, where=where)
    if index.artifact_type != shapes.MODEL_TYPE:
        raise UsageError("not a bundle of hwc, but another kind of index", where=where)
    entries: dict[tuple[str, str], VariantEntry] = {}
    for row in index.manifests:
        if row.artifact_type == shapes.VARIANT_TYPE:
            entry = _variant(row, where)
            if entry.key in entries:
                raise IntegrityError(f"two variants are called {entry.name}", where=where)
            entries[entry.key] = entry
    for row in index.manifests:
        if row.artifact_type == shapes.MEASUREMENT_TYPE:
            _add_measurement(entries, row, where)
        elif row.artifact_type != shapes.VARIANT_TYPE:
            raise IntegrityError(f"neither a variant nor a measurement: {row.artifact_type!r:.90}", where=where)
    return Table(
        descriptor=descriptor,
        model_id=shapes.name_of(index.annotations, shapes.MODEL, where=where),
        version=index.annotations.get(shapes.VERSION, ""),
        index=index,
        entries=entries,
    )


def write_entries(
    layout: Layout, entries: Entries, annotations: Mapping[str, str], created_utc: str, before: Table | None
) -> Descriptor:
    """Store a bundle's index and return its descriptor: the old one if all but the time of creation is the same."""
    rows = [entries[key] for key in sorted(entries)]
    index = Index(
        artifact_type=shapes.MODEL_TYPE,
        annotations={**annotations, CREATED: created_utc},
        manifests=(*map(_variant_row, rows), *(row for entry in rows for row in _measurement_rows(entry))),
    )
    if before is not None:
        created = before.index.annotations.get(CREATED, "")
        if replace(index, annotations={**annotations, CREATED: created}) == before.index:
            return before.descriptor
    stored = layout.put_bytes(index.to_bytes(), INDEX_TYPE)
    return replace(stored, artifact_type=shapes.MODEL_TYPE)


def _variant_row(entry: VariantEntry) -> Descriptor:
    return entry.subject.annotated(
        {
            shapes.TARGET: entry.target,
            shapes.SCHEME: entry.scheme,
            shapes.STATUS: entry.status,
            shapes.CONTENT: entry.content_sha256,
        }
    )


def _measurement_rows(entry: VariantEntry) -> list[Descriptor]:
    return [
        row.manifest.bare().annotated(
            {
                shapes.TARGET: entry.target,
                shapes.SCHEME: entry.scheme,
                shapes.CONTENT: entry.content_sha256,
                shapes.MACHINE: row.machine_sha256,
                shapes.METHOD: row.method,
            }
        )
        for row in entry.measurements
    ]


def _variant(row: Descriptor, where: str) -> VariantEntry:
    told = row.annotations.get(shapes.STATUS, "")
    status = _STATUS.get(told)
    if row.media_type != INDEX_TYPE or status is None:
        raise IntegrityError(f"a variant is an index with a status, not {told!r:.40}", where=where)
    return VariantEntry(
        target=shapes.name_of(row.annotations, shapes.TARGET, where=where),
        scheme=shapes.name_of(row.annotations, shapes.SCHEME, where=where),
        status=status,
        content_sha256=digests.checked(row.annotations.get(shapes.CONTENT, ""), where=where),
        subject=row.bare(),
    )


def _add_measurement(entries: dict[tuple[str, str], VariantEntry], row: Descriptor, where: str) -> None:
    key = (row.annotations.get(shapes.TARGET, ""), row.annotations.get(shapes.SCHEME, ""))
    found = MeasurementEntry(
        machine_sha256=digests.checked(row.annotations.get(shapes.MACHINE, ""), where=where),
        method=shapes.name_of(row.annotations, shapes.METHOD, where=where),
        manifest=row.bare(),
    )
    entry = entries.get(key)
    about = row.annotations.get(shapes.CONTENT)
    if entry is None or row.media_type != MANIFEST_TYPE or about != entry.content_sha256:
        raise IntegrityError("a measurement is about no variant of its bundle", where=where)
    if any(other.key == found.key for other in entry.measurements):
        raise IntegrityError(f"two measurements of {entry.name} have one machine and method", where=where)
    entries[key] = replace(entry, measurements=(*entry.measurements, found))
