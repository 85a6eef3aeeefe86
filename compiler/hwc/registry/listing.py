"""What a layout or a repository holds: its tags, and the variants, status and size of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hwc.bundle.entries import Status, Table, VariantEntry, parse_entries
from hwc.errors import IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import CREATED, Descriptor
from hwc.registry import contents, tags
from hwc.registry.client import Client

Read = Callable[[Descriptor], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVariant:
    """One variant of a listed bundle."""

    name: str
    status: Status
    content_sha256: str
    size_bytes: int | None
    """Of its files, each counted once; None where the variant's manifests were not pulled."""
    measurements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One tag."""

    tag: str
    digest: str
    model_id: str = ""
    created_utc: str = ""
    size_bytes: int | None = None
    """Of all blobs, each counted once, however many variants share it; None if that is not known."""
    variants: tuple[ListedVariant, ...] = ()
    problem: str = ""
    """Why there is nothing to tell: another tool's artefact, or damage."""


def of_layout(layout: Layout, tag: str = "") -> list[Listed]:
    """List a layout's tags, or the one that is named."""
    found = layout.tags()
    return [_listed(name, found[name], layout.read_bytes) for name in _chosen(found, tag)]


def of_repository(client: Client, tag: str = "") -> list[Listed]:
    """List a repository's tags, or the one that is named, without those that only keep or find manifests."""
    cache: dict[str, bytes] = {}

    def read(row: Descriptor) -> bytes:
        if row.digest not in cache:
            found = client.find_manifest(row.digest)
            if found is None:
                raise IntegrityError("the repository has lost a manifest of the bundle", where=row.digest)
            cache[row.digest] = found.payload
        return cache[row.digest]

    listed = []
    for name in [tag] if tag else [name for name in client.tags() if not tags.is_machinery(name)]:
        found = client.manifest(name)
        cache[found.descriptor.digest] = found.payload
        listed.append(_listed(name, found.descriptor, read))
    return listed


def _chosen(found: Iterable[str], tag: str) -> list[str]:
    names = sorted(found)
    if tag and tag not in names:
        raise UsageError(f"no bundle {tag!r}", hint=f"there is: {', '.join(names) or 'nothing'}")
    return [tag] if tag else names


def _listed(tag: str, descriptor: Descriptor, read: Read) -> Listed:
    try:
        table = parse_entries(read(descriptor), descriptor)
    except (UsageError, IntegrityError) as error:
        return Listed(tag=tag, digest=descriptor.digest, problem=error.what)
    entries = table.entries.values()
    return Listed(
        tag=tag,
        digest=descriptor.digest,
        model_id=table.model_id,
        created_utc=table.index.annotations.get(CREATED, ""),
        size_bytes=_total(table, read),
        variants=tuple(_variant(entry, read) for entry in entries),
    )


def _variant(entry: VariantEntry, read: Read) -> ListedVariant:
    return ListedVariant(
        name=entry.name,
        status=entry.status,
        content_sha256=entry.content_sha256,
        size_bytes=_size([entry.subject], read),
        measurements=len(entry.measurements),
    )


def _total(table: Table, read: Read) -> int | None:
    rows = [
        row
        for entry in table.entries.values()
        for row in (entry.subject, *(measured.manifest for measured in entry.measurements))
    ]
    return _size(rows, read)


def _size(roots: Iterable[Descriptor], read: Read) -> int | None:
    try:
        found = contents.below(roots, read)
    except IntegrityError:
        return None  # part of a bundle only, as after `pull --only serving`: nothing is wrong with it
    return sum(row.size_bytes for row in (*found.manifests, *found.blobs))
