"""Packing: a build's files and measurements go into a layout as one bundle, and again without a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwc.bundle import manifest as shapes
from hwc.bundle.entries import Entries, Status, VariantEntry, read_entries, write_entries
from hwc.bundle.parts import MeasurementParts, ModelIdentity, VariantParts, check_measurement, check_parts
from hwc.bundle.write import write_measurement, write_variant
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import TITLE, Descriptor

__all__ = ["MeasurementParts", "ModelIdentity", "Packed", "VariantParts", "attach", "pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What packing came to."""

    tag: str
    digest: str
    """Digest of the model's index, which the tag points at."""
    changed: bool
    content_sha256: Mapping[str, str]
    """``TARGET/SCHEME`` of each packed variant to the digest of its content."""
    variant_digests: Mapping[str, str]
    """``TARGET/SCHEME`` of each packed variant to the digest of its index."""


def pack(
    layout: Layout,
    *,
    model: ModelIdentity,
    tag: str,
    variants: Sequence[VariantParts],
    created_utc: str,
    keep_others: bool = True,
) -> Packed:
    """Write variants into a layout and move the tag to them; tell whether anything changed.

    Variants of the tag that are not named again stay, unless ``keep_others`` is False. Measurements of a variant
    whose content stayed the same stay too; one by the same machine and method is replaced. Raises UsageError for
    parts that do not fit together, MachineError if the disk is full or read-only.
    """
    check_parts(model, variants)

    def merge(old: Entries) -> Entries:
        kept = old if keep_others else {}
        return {**kept, **{entry.key: _merged(layout, entry, old.get(entry.key)) for entry in written}}

    with layout.held():
        written = [write_variant(layout, model, parts) for parts in variants]
        return _point(layout, model, tag, created_utc, merge, [entry.key for entry in written])


def attach(
    layout: Layout,
    *,
    model: ModelIdentity,
    tag: str,
    target: str,
    scheme: str,
    measurement: MeasurementParts,
    status: Status,
    created_utc: str,
) -> Packed:
    """Add one measurement to a variant that is packed already; its content and its index stay as they are."""
    key = (target, scheme)

    def merge(old: Entries) -> Entries:
        if key not in old:
            known = ", ".join(entry.name for entry in old.values()) or "none"
            raise UsageError(f"{tag} has no variant {target}/{scheme}", hint=f"it has: {known}")
        before = old[key]
        if before.status == "hand-over":
            raise UsageError("a hand-over holds sources: there is nothing to measure", where=before.name)
        check_measurement(measurement, before.content_sha256, status)
        added = write_measurement(layout, measurement, before.subject, before.content_sha256)
        return {**old, key: before.with_measurements([added], status)}

    with layout.held():
        return _point(layout, model, tag, created_utc, merge, [key])


def _refuse_other_content(tag: str, old: Entries, new: Entries) -> None:
    if {key: entry.content_sha256 for key, entry in old.items()} != {
        key: entry.content_sha256 for key, entry in new.items()
    }:
        raise UsageError(
            f"{tag} is frozen: a version never changes; measurements alone may be added to it",
            hint="build under another tag, as --tag dev, and freeze that as a new version",
        )


def _merged(layout: Layout, entry: VariantEntry, before: VariantEntry | None) -> VariantEntry:
    """Carry older measurements of the same content over to an entry that was packed again."""
    if before is None or before.content_sha256 != entry.content_sha256:
        return entry
    carried = [old.about(layout, entry.subject) for old in before.measurements]
    # A build on a machine without the device does not undo what another machine has verified of the same bytes.
    status = "verified" if before.status == "verified" else entry.status
    return entry.with_measurements(carried, status, older=True)


def _point(
    layout: Layout,
    model: ModelIdentity,
    tag: str,
    created_utc: str,
    merge: Callable[[Entries], Entries],
    keys: Iterable[tuple[str, str]],
) -> Packed:
    annotations = {shapes.MODEL: model.model_id, shapes.VERSION: model.version, TITLE: model.title or model.model_id}
    pointed: list[tuple[Descriptor, Entries]] = []

    def decide(old: Descriptor | None) -> Descriptor:
        before = None if old is None else read_entries(layout, old)
        if before is not None and before.model_id != model.model_id:
            raise UsageError(f"the tag {tag} is taken by the model {before.model_id}", hint="choose another tag")
        entries = merge({} if before is None else before.entries)
        new = write_entries(layout, entries, annotations, created_utc, before)
        if before is not None and shapes.FROZEN in before.descriptor.annotations:
            _refuse_other_content(tag, before.entries, entries)
            new = new.annotated({shapes.FROZEN: "true"})
        pointed.append((new, entries))
        return new

    changed = layout.update(tag, decide)
    index, entries = pointed[-1]
    chosen = [entries[key] for key in keys]
    return Packed(
        tag=tag,
        digest=index.digest,
        changed=changed,
        content_sha256={entry.name: entry.content_sha256 for entry in chosen},
        variant_digests={entry.name: entry.subject.digest for entry in chosen},
    )
