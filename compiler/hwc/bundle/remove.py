"""Freezing a bundle under a version, and removing one."""

from __future__ import annotations

from hwc.bundle.open import Bundle
from hwc.errors import UsageError
from hwc.oci_layout import Layout


def freeze(layout: Layout, bundle: Bundle, version: str) -> str:
    """Tag a bundle as ``MODEL:VERSION``; raise UsageError if that version has other content or is mutable."""
    from hwc.bundle.reference import DEFAULT_VERSION, parse

    name = f"{bundle.model_id}:{version}"
    parse(name)
    if version == DEFAULT_VERSION:
        raise UsageError(f"`{version}` is the tag that builds move; a version is frozen", hint="choose one like 1.0.0")
    tags = layout.tags()
    if name in tags and tags[name].digest != bundle.digest:
        raise UsageError(
            f"{name} exists with other content; a version never changes",
            where=tags[name].digest,
            hint="choose another version",
        )
    layout.tag(name, layout.tags()[bundle.tag])
    return name


def remove(layout: Layout, tag: str, *, keep_blobs: bool) -> int:
    """Remove a tag and, unless ``keep_blobs``, what no tag reaches any more; return the bytes freed."""
    if not layout.untag(tag):
        known = ", ".join(sorted(layout.tags())) or "nothing"
        raise UsageError(f"no bundle {tag!r}", hint=f"there is: {known}")
    if keep_blobs:
        return 0
    from hwc.oci_gc import collect

    return collect(layout).freed_bytes
