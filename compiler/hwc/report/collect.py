"""Open the bundles of a store and gather what the page tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.open import Bundle, Variant, open_bundle
from hwc.bundle.reference import Reference
from hwc.errors import IntegrityError, UsageError
from hwc.oci_layout import Layout
from hwc.report.profiled import audit_line, figure, part, read_profile, weight_bits, word
from hwc.report.records import BundleReport, Left, VariantReport


def from_store(layout: Layout) -> tuple[tuple[BundleReport, ...], tuple[Left, ...]]:
    """Gather every tag of a store; a bundle that cannot be read does not hide the others, and is told."""
    bundles: dict[str, BundleReport] = {}
    left = []
    for tag in sorted(layout.tags()):
        try:
            found = from_reference(layout, Reference(layout_path=str(layout.path), tag=tag))
        except (IntegrityError, UsageError) as error:
            left.append(Left(tag=tag, reason=str(error), damaged=isinstance(error, IntegrityError)))
            continue
        before = bundles.get(found.digest)
        bundles[found.digest] = found if before is None else replace(before, tags=(*before.tags, tag))
    return tuple(bundles.values()), tuple(left)


def from_reference(layout: Layout, reference: Reference) -> BundleReport:
    """Gather one bundle, or the one variant of it that is named; raise as ``open_bundle`` does."""
    return from_bundle(open_bundle(layout, reference))


def from_bundle(bundle: Bundle) -> BundleReport:
    """Gather an opened bundle; raise IntegrityError for serving metadata that breaks its schema."""
    facts: Mapping[str, Any] = bundle.variants[0].facts if bundle.variants else {}
    model = part(facts, "model")
    return BundleReport(
        tags=(bundle.tag or bundle.digest,),
        digest=bundle.digest,
        created_utc=bundle.created_utc,
        title=word(model.get("title")),
        licence=word(model.get("licence")),
        variants=tuple(map(_variant, bundle.variants)),
    )


def _variant(variant: Variant) -> VariantReport:
    chosen = chosen_measurement(variant)
    serving = chosen.parsed_serving() if chosen is not None else None
    verified = variant.status == "verified" and serving is not None and serving.status == "verified"
    profile = chosen.documents.get("profile.json") if chosen is not None and verified else None
    return VariantReport(
        name=variant.name,
        digest=variant.digest,
        content_sha256=variant.content_sha256,
        bits_per_parameter=figure(part(variant.facts, "audit").get("bits_per_parameter")),
        audit=audit_line(variant.facts),
        serving=serving,
        profiled=read_profile(profile, weight_bits=weight_bits(variant.facts)) if profile else None,
        verified=verified,
        measurements=tuple((row.machine_sha256, row.method) for row in variant.measurements),
    )
