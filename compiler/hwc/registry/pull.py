"""Pull: manifests, then blobs, then the check of the whole; the tag appears last, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle import manifest as shapes
from hwc.bundle.entries import Table, parse_entries
from hwc.bundle.measurement import SERVING_NAME, document_layers
from hwc.bundle.metadata import read_metadata
from hwc.bundle.open import chosen_entries, open_bundle
from hwc.bundle.reference import DEFAULT_VERSION, Reference
from hwc.errors import IntegrityError, MachineError
from hwc.events import Event, Listener, silent
from hwc.oci_layout import Layout
from hwc.oci_manifest import Descriptor
from hwc.registry import contents, download, parallel, part, tags
from hwc.registry.client import Client
from hwc.registry.parallel import Stop

_SPARE_BYTES = 64 << 20
TOLD_BYTES = 1 << 20
"""Blobs smaller than this are not told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What of a bundle is pulled, and as what."""

    local_tag: str = ""
    """Empty for MODEL:TAG."""
    serving_alone: bool = False
    """Only the index, the measurements' manifests and ``serving.json``."""
    workers: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull came to."""

    tag: str
    digest: str
    changed: bool
    """Whether the tag moved."""
    fetched_blobs: int
    fetched_bytes: int
    """Of blobs and manifests."""
    serving: tuple[Mapping[str, Any], ...]
    """The ``serving.json`` documents, if they alone were asked for."""


class _Puller:
    """Brings manifests and blobs from one repository into a layout, and counts them."""

    def __init__(self, layout: Layout, client: Client, tell: Listener) -> None:
        self._layout = layout
        self._client = client
        self._tell = tell
        self.fetched: list[Descriptor] = []

    def manifest(self, row: Descriptor) -> bytes:
        """Return a manifest's bytes, from the layout if they are there and right."""
        if download.is_sound(self._layout, row):
            return self._layout.read_bytes(row)
        found = self._client.manifest(row.digest)
        if found.descriptor.size_bytes != row.size_bytes:
            raise IntegrityError(
                f"a manifest of {found.descriptor.size_bytes} bytes where {row.size_bytes} were promised",
                where=row.digest,
            )
        self.keep(found.payload, row)
        return found.payload

    def keep(self, payload: bytes, row: Descriptor) -> None:
        """Store a manifest's verified bytes, over damaged ones too."""
        with self._layout.writer(row) as blob:
            blob.write(payload)
        self.fetched.append(row)

    def blobs(self, wanted: tuple[Descriptor, ...], workers: int) -> None:
        """Bring several blobs at a time, the largest first."""
        largest_first = sorted(wanted, key=lambda blob: -blob.size_bytes)
        parallel.run([self._job(blob) for blob in largest_first], workers=workers)

    def _job(self, blob: Descriptor) -> parallel.Job:
        def bring(stop: Stop) -> None:
            step = f"pull {digests.short(blob.digest)}"
            told = self._tell if blob.size_bytes >= TOLD_BYTES else silent
            told(Event(kind="start", step=step))
            came = download.fetch(self._layout, self._client, blob, stop)
            if came:
                self.fetched.append(blob)
            text = f"{blob.size_bytes / 2**20:.1f} MiB{'' if came else ' there'}"
            told(Event(kind="done" if came else "hit", step=step, text=text))

        return bring


def pull(layout: Layout, source: Reference, client: Client, how: How, tell: Listener) -> Pulled:
    """Pull a bundle, or the variant of it that is named, into a layout and tag it there.

    Raises IntegrityError for anything that is not what its digest, its size or its bundle says, UsageError for a
    version that is here with other content, RegistryError if the registry fails. The layout's tags then are what
    they were; what arrived whole stays, unreached, for the next try.
    """
    point = source.digest or source.tag or DEFAULT_VERSION
    with layout.held():
        part.remove_stale(layout)
        puller = _Puller(layout, client, tell)
        found = client.manifest(point)
        table = parse_entries(found.payload, found.descriptor)
        root = replace(found.descriptor, artifact_type=shapes.MODEL_TYPE)
        local_tag = how.local_tag or f"{table.model_id}:{_version(source, root.digest)}"
        _refuse_taken(layout, local_tag, root)
        if not download.is_sound(layout, root):
            puller.keep(found.payload, root)
        wanted = _wanted(puller, table, source, how)
        _require_room(layout, wanted)
        puller.blobs(wanted, how.workers)
        serving = _verified(layout, table, source, how)
        changed = _tag(layout, local_tag, root)
    return Pulled(
        tag=local_tag,
        digest=root.digest,
        changed=changed,
        fetched_blobs=len(puller.fetched),
        fetched_bytes=sum(row.size_bytes for row in puller.fetched),
        serving=serving,
    )


def _version(source: Reference, digest: str) -> str:
    return f"sha256-{digests.short(digest)}" if source.digest else source.tag or DEFAULT_VERSION


def _wanted(puller: _Puller, table: Table, source: Reference, how: How) -> tuple[Descriptor, ...]:
    """Bring the manifests and return the blobs to bring; a name out of place is refused before any blob moves."""
    chosen = chosen_entries(table.entries, source)
    if how.serving_alone:
        layers = [
            document_layers(puller.manifest(row.manifest), row, entry).get(SERVING_NAME)
            for entry in chosen
            for row in entry.measurements
        ]
        return contents.below([layer for layer in layers if layer is not None], puller.manifest, depth=0).blobs
    for entry in chosen:
        index = oci_manifest.parse_index(puller.manifest(entry.subject), where=entry.name)
        for row in index.manifests[:1]:
            image = oci_manifest.parse_manifest(puller.manifest(row), where=entry.name)
            shapes.file_layers(image, where=entry.name)
        for measured in entry.measurements:
            document_layers(puller.manifest(measured.manifest), measured, entry)
    roots = [row for entry in chosen for row in (entry.subject, *(found.manifest for found in entry.measurements))]
    return contents.below(roots, puller.manifest, depth=contents.MAX_DEPTH - 1).blobs


def _require_room(layout: Layout, wanted: tuple[Descriptor, ...]) -> None:
    needed = sum(blob.size_bytes for blob in wanted if not layout.has(blob))
    free = shutil.disk_usage(layout.path).free
    if needed + _SPARE_BYTES > free:
        raise MachineError(
            f"the bundle takes {needed} bytes more, and the disk has {free} left", where=str(layout.path),
            hint="free disk space, or point --store at another disk",
        )


def _verified(layout: Layout, table: Table, source: Reference, how: How) -> tuple[Mapping[str, Any], ...]:
    """Check that what arrived is a bundle that opens; return the serving documents if they alone were asked for."""
    here = Reference(
        layout_path=str(layout.path), digest=table.descriptor.digest, target=source.target, scheme=source.scheme
    )
    if how.serving_alone:
        rows = read_metadata(layout, table, here)
        return tuple(measurement.serving for _, found in rows for measurement in found)
    open_bundle(layout, here)
    return ()


def _refuse_taken(layout: Layout, local_tag: str, root: Descriptor) -> None:
    old = layout.tags().get(local_tag)
    tags.refuse_change(local_tag, old=old.digest if old else "", new=root.digest)


def _tag(layout: Layout, local_tag: str, root: Descriptor) -> bool:
    frozen = {} if tags.is_mutable(tags.version_of(local_tag)) else {shapes.FROZEN: "true"}

    def decide(old: Descriptor | None) -> Descriptor:
        tags.refuse_change(local_tag, old=old.digest if old else "", new=root.digest)
        return root.annotated(frozen)

    return layout.update(local_tag, decide)
