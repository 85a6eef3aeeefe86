"""Freezing a bundle under a version, and removing one."""

from __future__ import annotations

from hwc.bundle.manifest import FROZEN, MODEL_TYPE
from hwc.bundle.open import Bundle
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import INDEX_TYPE, Descriptor


def freeze(layout: Layout, bundle: Bundle, version: str) -> str:
    """Tag a bundle as ``MODEL:VERSION``; raise UsageError if that version has other content or is mutable."""
    from hwc.bundle.reference import DEFAULT_VERSION, parse

    name = f"{bundle.model_id}:{version}"
    parse(name)
    if version == DEFAULT_VERSION:
        raise UsageError(f"`{version}` is the tag that builds move; a version is frozen", hint="choose one like 1.0.0")
    pointed = Descriptor(
        media_type=INDEX_TYPE, digest=bundle.digest, size_bytes=layout.blob_path(bundle.digest).stat().st_size,
        artifact_type=MODEL_TYPE, annotations={FROZEN: "true"},
    )

    def decide(old: Descriptor | None) -> Descriptor:
        if old is not None and old.digest != bundle.digest:
            raise UsageError(
                f"{name} exists with other content; a version never changes",
                where=old.digest,
                hint="choose another version",
            )
        return pointed

    layout.update(name, decide)
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
