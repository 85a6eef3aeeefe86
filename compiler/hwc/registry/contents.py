"""What a bundle consists of, for transport: its manifests in the order in which they refer, and the blobs below."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hwc import oci_gc
from hwc.errors import IntegrityError
from hwc.oci_manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor

Read = Callable[[Descriptor], bytes]
MAX_DEPTH = 3
"""A bundle is an index of indexes of manifests."""
_MAX_MANIFESTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Manifests, each after all that it points at, and blobs; each once."""

    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


def is_manifest(descriptor: Descriptor) -> bool:
    """Tell whether registries keep it as a manifest and not as a blob."""
    return descriptor.media_type in (INDEX_TYPE, MANIFEST_TYPE)


def below(roots: Iterable[Descriptor], read: Read, *, depth: int = MAX_DEPTH) -> Contents:
    """Walk from some manifests or blobs down; ``read`` returns a manifest's verified bytes.

    Raises IntegrityError for a tree that is too deep or too wide, or one blob of two sizes.
    """
    manifests: dict[str, Descriptor] = {}
    blobs: dict[str, Descriptor] = {}

    def visit(descriptor: Descriptor, left: int) -> None:
        known = (manifests if is_manifest(descriptor) else blobs).get(descriptor.digest)
        if known is not None:
            _same_size(known, descriptor)
            return
        if not is_manifest(descriptor):
            blobs[descriptor.digest] = descriptor
            return
        if left == 0 or len(manifests) >= _MAX_MANIFESTS:
            raise IntegrityError("manifests are nested deeper, or are more, than a bundle's", where=descriptor.digest)
        for child in oci_gc.children(read(descriptor), descriptor):
            visit(child, left - 1)
        manifests[descriptor.digest] = descriptor

    for root in roots:
        visit(root, depth)
    return Contents(manifests=tuple(manifests.values()), blobs=tuple(blobs.values()))


def _same_size(one: Descriptor, other: Descriptor) -> None:
    if one.size_bytes != other.size_bytes:
        raise IntegrityError(f"a blob of {one.size_bytes} and of {other.size_bytes} bytes", where=one.digest)
