"""Legality: what a chip does with each piece of a model's work, by its descriptor alone; pure.

That the compiler makes code says nothing: it emulates what the chip does not have. The first rule that fits decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwc.formats import Format, Kind
from hwc.predict.operation import Operation
from hwc.spec.legality import Action, FormatRule, LegalityRule, Placement, ShapeDim

ON_CHIP: frozenset[Action] = frozenset({"native", "kernel"})
"""Actions that count as covered: the chip's own units, or its vendor's kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one operation, and why."""

    operation: Operation
    action: Action
    reason: str
    """What the user is told; empty for what the chip does itself without a remark."""
    rule: int | None
    """Index into the descriptor's [[legality]]; None where none fits and [placement] decides."""
    kernel: str = ""
    unit: str = ""

    @property
    def on_chip(self) -> bool:
        """Whether the chip itself does it."""
        return self.action in ON_CHIP


def judge(
    operations: Iterable[Operation], rules: Sequence[LegalityRule], placement: Placement
) -> tuple[Verdict, ...]:
    """Return what becomes of each operation, in order."""
    return tuple(judge_one(operation, rules, placement) for operation in operations)


def judge_one(operation: Operation, rules: Sequence[LegalityRule], placement: Placement) -> Verdict:
    """Return the verdict of the first rule that fits, or of [placement] where none does."""
    for index, rule in enumerate(rules):
        if fits(rule, operation):
            return Verdict(
                operation=operation, action=rule.action, reason=rule.reason, rule=index, kernel=rule.kernel,
                unit=rule.unit,
            )
    reason = placement.otherwise_reason
    if not reason and placement.otherwise not in ON_CHIP:
        reason = f"no rule fits {operation.op} of {told_types(operation)}"
    return Verdict(operation=operation, action=placement.otherwise, reason=reason, rule=None)


def fits(rule: LegalityRule, operation: Operation) -> bool:
    """Tell whether a rule is about an operation.

    A rule that names the types of weights means the activations by ``elements``; else every operand. One that asks for
    an extent the operation does not have, as k of a softmax, does not fit.
    """
    if rule.ops and operation.op not in rule.ops:
        return False
    if rule.weights and operation.weights not in rule.weights:
        return False
    operands = [operation.activations]
    if operation.weights is not None and not rule.weights:
        operands.append(operation.weights)
    if rule.elements and not set(operands) <= set(rule.elements):
        return False
    have = extents(operation)
    multiples = rule.multiple_of
    return sized(operation, rule.at_least, rule.at_most) and (
        multiples.keys() <= have.keys() and all(_divides(have[dim], bound) for dim, bound in multiples.items())
    )


def sized(operation: Operation, at_least: Mapping[ShapeDim, int], at_most: Mapping[ShapeDim, int]) -> bool:
    """Tell whether an operation has every extent that bounds name, and keeps to them."""
    have = extents(operation)
    return all(
        bounds.keys() <= have.keys() and all(holds(have[dim], bound) for dim, bound in bounds.items())
        for bounds, holds in ((at_least, int.__ge__), (at_most, int.__le__))
    )


def _divides(extent: int, divisor: int) -> bool:
    return extent % divisor == 0


def extents(operation: Operation) -> dict[ShapeDim, int]:
    """Return the extents an operation has; m, n and k are of matrix products alone."""
    have: dict[ShapeDim, int] = {
        "batch": operation.batch, "m": operation.m, "n": operation.n, "k": operation.k, "points": operation.points,
        "rank": operation.rank,
    }
    return {dim: extent for dim, extent in have.items() if extent}


def told_types(operation: Operation) -> str:
    """Name an operation's element types: ``float32 by int4 weights``."""
    weights = f" by {operation.weights} weights" if operation.weights else ""
    return f"{operation.activations}{weights}"


def refused_format(form: Format, formats: Mapping[Kind, FormatRule]) -> str:
    """Return why a chip's packing cannot hold a form of quantised weights; empty if it can."""
    rule = formats.get(form.kind)
    if rule is None:
        return ""
    if rule.group_sizes and form.group_size not in rule.group_sizes:
        known = ", ".join(_group(size) for size in rule.group_sizes)
        return f"{form.kind} has {_group(form.group_size)}; the chip's packing holds {known}"
    if rule.zeros and form.zeros not in rule.zeros:
        known = ", ".join(_ZEROS[zeros] for zeros in rule.zeros)
        return f"{form.kind} has {_ZEROS[form.zeros]}; the chip's packing holds {known}"
    return ""


def refused_scheme(forms: Iterable[Format | None], formats: Mapping[Kind, FormatRule]) -> str:
    """Return why a chip's packing cannot hold one of the forms a scheme stores weights in; empty if it can."""
    return next((told for form in forms if form is not None and (told := refused_format(form, formats))), "")


_ZEROS = {"none": "no zero points", "point": "integer zero points", "offset": "offsets"}


def _group(size: int) -> str:
    return f"groups of {size}" if size else "one scale a row"
