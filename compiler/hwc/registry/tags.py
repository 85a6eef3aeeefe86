"""The tags of a repository: which are hwc's own, which may move, and how MODEL:VERSION becomes one.

A registry's tag holds no colon, and a repository holds one model: ``minilm:1.0.0`` of a layout is the tag ``1.0.0`` of
``oci://host/team/minilm``.
"""

from __future__ import annotations

import re

from hwc.bundle.reference import DEFAULT_VERSION, Reference
from hwc.errors import UsageError

CHANNELS = frozenset({"stable", "canary", "blue", "green"})
_MUTABLE = CHANNELS | {DEFAULT_VERSION}
_MACHINERY = re.compile(r"(?:keep-)?sha256-[0-9a-f]{64}(?:\.[a-z0-9]+)?")


def is_mutable(version: str) -> bool:
    """Tell whether a version may be moved to other content: ``dev`` and channels may, every other is frozen."""
    return version in _MUTABLE


def is_machinery(tag: str) -> bool:
    """Tell whether a tag is there for registries and tools, not for people."""
    return _MACHINERY.fullmatch(tag) is not None


def keep_tag(digest: str) -> str:
    """Return the tag that keeps a manifest from a registry's garbage collection, which takes what no tag names.

    ``sha256-<hex>`` alone is taken: it is the fallback tag of the digest's referrers.
    """
    return "keep-" + digest.replace(":", "-")


def version_of(local_tag: str) -> str:
    """Return the version in a layout's tag: what stands after the colon, or all of it."""
    return local_tag.rpartition(":")[2]


def remote_tag(local_tag: str, destination: Reference) -> str:
    """Return the tag to push to: the destination's own, else the version of what is pushed."""
    if destination.tag:
        return destination.tag
    if not local_tag:
        raise UsageError("push to which tag?", where=str(destination), hint=f"as {destination}:1.0.0")
    return version_of(local_tag)


def refuse_change(name: str, *, old: str, new: str) -> None:
    """Raise UsageError if a version that is not mutable would get other content; both digests are told."""
    if old and old != new and not is_mutable(version_of(name)):
        raise UsageError(
            f"{name} exists with other content; a version never changes",
            where=f"it is {old}, not {new}",
            hint=f"choose another version; only {', '.join(sorted(_MUTABLE))} may move",
        )
