"""Removal of blobs that no entry of a layout's index reaches; never done without being asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwc import oci_manifest
from hwc.oci_layout import Layout
from hwc.oci_manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed, or would remove."""

    digests: tuple[str, ...]
    freed_bytes: int


def collect(layout: Layout, *, dry_run: bool = False) -> Collected:
    """Remove every unreachable blob and say which; a damaged manifest raises IntegrityError and nothing is removed.

    Waits for those who hold the layout (``Layout.held``): their new blobs are not reached by a tag yet.
    """
    with layout.alone(), layout.roots() as roots:
        kept = reachable(layout, roots)
        doomed = [path for path in layout.blob_files() if f"sha256:{path.name}" not in kept]
        freed_bytes = sum(path.lstat().st_size for path in doomed)
        if not dry_run:
            for path in doomed:
                path.unlink()
    return Collected(digests=tuple(f"sha256:{path.name}" for path in doomed), freed_bytes=freed_bytes)


def reachable(layout: Layout, roots: Iterable[Descriptor]) -> frozenset[str]:
    """Return the digest of everything that the roots lead to; a child that was never pulled is passed over."""
    pending, seen = list(roots), set[str]()
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        if descriptor.media_type in (INDEX_TYPE, MANIFEST_TYPE) and layout.has(descriptor.digest):
            pending += children(layout.read_bytes(descriptor), descriptor)
    return frozenset(seen)


def children(payload: bytes, descriptor: Descriptor) -> tuple[Descriptor, ...]:
    """Return what a manifest or an index points at, other than its subject."""
    where = descriptor.digest
    if descriptor.media_type == INDEX_TYPE:
        return oci_manifest.parse_index(payload, where=where).manifests
    manifest = oci_manifest.parse_manifest(payload, where=where)
    return (manifest.config, *manifest.layers)
