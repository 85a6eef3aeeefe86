"""Compare two bundles: size, bits, quality, latency, cost and tools, and which differences are real; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.open import Bundle, Variant
from hwc.bundle.regression import growth_interval
from hwc.bundle.serving import Serving
from hwc.bundle.serving_cells import cells_of
from hwc.errors import UsageError

Weight = Literal["same", "changed", "noise", "incomparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure of one variant in both bundles."""

    variant: str
    what: str
    before: str
    after: str
    delta: str
    weight: Weight
    """``noise``: the 95 % interval of the difference holds zero; ``incomparable``: measured in another place."""


def compare(before: Bundle, after: Bundle) -> list[Change]:
    """Return every change between two bundles, by variant; a variant of only one of them is a change itself.

    Raises UsageError for bundles of two models.
    """
    if before.model_id != after.model_id:
        raise UsageError(f"these are bundles of two models: {before.model_id} and {after.model_id}")
    old = {variant.name: variant for variant in before.variants}
    new = {variant.name: variant for variant in after.variants}
    rows: list[Change] = []
    for name in sorted({*old, *new}):
        if name in old and name in new:
            rows += _variant(name, old[name], new[name])
        else:
            there = ("present", "absent") if name in old else ("absent", "present")
            rows.append(
                Change(variant=name, what="variant", before=there[0], after=there[1], delta="", weight="changed")
            )
    return rows


def _variant(name: str, old: Variant, new: Variant) -> Iterator[Change]:
    yield _plain(name, "content", old.content_sha256[7:19], new.content_sha256[7:19])
    yield _plain(name, "status", old.status, new.status)
    chosen = [chosen_measurement(variant) for variant in (old, new)]
    if chosen[0] is None or chosen[1] is None:
        return
    left, right = chosen[0].parsed_serving(), chosen[1].parsed_serving()
    yield _number(name, "weights MiB", left.resources.weights_bytes / 2**20, right.resources.weights_bytes / 2**20)
    yield _number(name, "bits per parameter", _bits(left), _bits(right))
    yield from _quality(name, left, right)
    yield from _latency(name, left, right)
    yield from _cost(name, left, right)
    for tool in sorted({*left.provenance.tools, *right.provenance.tools}):
        versions = [document.provenance.tools.get(tool, "absent") for document in (left, right)]
        if versions[0] != versions[1]:
            yield _plain(name, tool, *versions)


def _bits(serving: Serving) -> float:
    return 8 * serving.resources.weights_bytes / serving.model.params


def _plain(variant: str, what: str, before: str, after: str) -> Change:
    weight: Weight = "same" if before == after else "changed"
    return Change(variant=variant, what=what, before=before, after=after, delta="", weight=weight)


def _number(variant: str, what: str, before: float, after: float, weight: Weight | None = None) -> Change:
    delta = "" if before == after else f"{after / before - 1:+.1%}" if before else f"{after - before:+.3g}"
    judged: Weight = weight or ("same" if before == after else "changed")
    return Change(
        variant=variant, what=what, before=f"{before:.5g}", after=f"{after:.5g}", delta=delta, weight=judged
    )


def _quality(name: str, left: Serving, right: Serving) -> Iterator[Change]:
    old = {row.metric: row for row in left.quality}
    for row in right.quality:
        if row.metric not in old:
            continue
        weight: Weight | None = None
        if old[row.metric].data_sha256 != row.data_sha256:
            weight = "incomparable"
        elif row.ci95 is not None and row.value != old[row.metric].value:
            weight = "noise" if row.ci95[0] <= old[row.metric].value <= row.ci95[1] else "changed"
        yield _number(name, row.metric, old[row.metric].value, row.value, weight)


def _latency(name: str, left: Serving, right: Serving) -> Iterator[Change]:
    machines = [document.profile.conditions.machine_sha256 for document in (left, right)]
    old = {cell.name: cell for cell in cells_of(left)}
    for cell in cells_of(right):
        if cell.name not in old:
            continue
        before = old[cell.name]
        low, high = growth_interval(before.latency, cell.latency)
        weight: Weight = "noise" if low <= 0 <= high else "changed"
        if machines[0] != machines[1] or not (cell.valid and before.valid):
            weight = "incomparable"
        same = before.latency == cell.latency
        yield _number(
            name, f"mean ms {cell.name}", before.latency.mean, cell.latency.mean, "same" if same else weight
        )


def _cost(name: str, left: Serving, right: Serving) -> Iterator[Change]:
    if left.cost is None or right.cost is None:
        return
    weight: Weight | None = "incomparable" if left.cost.as_of != right.cost.as_of else None
    old = {cell.name: cell.usd.base for cell in cells_of(left) if cell.usd is not None}
    for cell in cells_of(right):
        if cell.name in old and cell.usd is not None:
            yield _number(name, f"$/M {cell.unit} {cell.name}", old[cell.name], cell.usd.base, weight)


def markdown(title: str, changes: Sequence[Change]) -> str:
    """Return changes as a Markdown table."""
    lines = [f"### {title}", "", "| variant | what | before | after | Δ | |", "|---|---|---:|---:|---:|---|"]
    lines += [
        f"| {row.variant} | {row.what} | {row.before} | {row.after} | {row.delta} | {row.weight} |" for row in changes
    ]
    return "\n".join(lines) + "\n"
