"""Whether the parts of a descriptor agree: sources, vector length, legality, and what predictions need; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from hwc.spec.figure import Spread, covered, leaves
from hwc.spec.finding import Finding, fails, idle, ok, warning
from hwc.spec.legality import LegalityRule
from hwc.spec.target import TargetSpec


def sources(target: TargetSpec) -> Iterator[Finding]:
    """Count figures by their sources; ask for a date of a data sheet and a spread of an assumption."""
    figures = list(leaves(target.hardware, "hardware"))
    if not figures:
        yield idle("the descriptor holds no figures")
        return
    undated = [key for key, source in target.sources.items() if source.kind == "datasheet" and not source.as_of]
    for key in undated:
        yield warning(f"sources.{key}", "a data sheet without `as_of`: revisions differ")
    bare = [
        key for key, figure in figures
        if isinstance(figure, float) and target.sources[covered(key, target.sources)].kind == "assumed"
    ]
    if target.hardware_status == "available":  # the figures of a design that is not built are what it is to be
        for key in bare:
            yield warning(key, "assumed, and without { low, base, high }: it passes for a fact")
    kinds = Counter(target.sources[covered(key, target.sources)].kind for key, _ in figures)
    spreads = sum(isinstance(figure, Spread) for _, figure in figures)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    yield ok(f"of {len(figures)} figures {shown}; {spreads} with a spread", "sources")


def needed(target: TargetSpec) -> Iterator[Finding]:
    """Name the figures that predictions need and the descriptor leaves out."""
    hardware = target.hardware
    if target.hardware_status == "software":
        yield idle("a software device has no figures of its own")
        return
    levels = hardware.by_level
    absent = {
        "hardware.units": not hardware.units,
        "hardware.memories": not levels,
        f"hardware.memories.{levels[-1][0] if levels else '*'}.read_bytes_per_s":
            bool(levels) and levels[-1][1].read_bytes_per_s is None,
        "hardware.overheads.dispatch_s": hardware.overheads.dispatch_s is None,
        "hardware.power.tdp_w": hardware.power.tdp_w is None,
        "price": not target.price,
    }
    missing = [key for key, is_absent in absent.items() if is_absent]
    if target.calibration:
        missing = [key for key in missing if not key.startswith(("hardware.units", "hardware.overheads"))]
    for key in missing:
        yield warning(key, "absent: what is predicted from it is left out or refused")
    if not missing:
        yield ok("nothing that predictions need is absent")


def vector_length(target: TargetSpec) -> Iterator[Finding]:
    """Hold every statement of a RISC-V vector length to be the same: code for another one is wrong, silently."""
    lowering = target.lowering
    if lowering is None or not lowering.triple.startswith("riscv") or "+v" not in lowering.cpu_features:
        yield idle("the code is not for RISC-V vectors")
        return
    told = lowering.vlen_bits
    if told is None:
        yield fails("lowering.vlen_bits", "absent: code for another vector length computes wrongly, without a fault")
        return
    emulator, core = target.execution.emulator, target.hardware.core
    minimum = max((int(bits) for feature in lowering.cpu_features for bits in re.findall(r"^\+zvl(\d+)b$", feature)),
                  default=128)  # what `v` itself implies
    executed = re.search(r"\bvlen=(\d+)", emulator.cpu) if emulator is not None else None
    others = {
        "lowering.cpu_features": minimum,
        "hardware.core.vlen_bits": core.vlen_bits if core is not None else None,
        "execution.emulator.cpu": int(executed[1]) if executed else None,
    }
    wrong = {key: bits for key, bits in others.items() if bits is not None and bits != told}
    for key, bits in wrong.items():
        yield fails(key, f"{bits} bits, but `lowering.vlen_bits` is {told}")
    if not wrong:
        yield ok(f"everywhere it is told, {told} bits", "lowering.vlen_bits")


def legality(target: TargetSpec) -> Iterator[Finding]:
    """Find rules that never fit, since an earlier one always does, and products in types a unit has no rate for."""
    if not target.legality:
        yield idle("no rules: [placement] decides alone")
        return
    problems = [*_shadowed(target.legality), *_unpriced(target)]
    yield from problems or [ok(f"each of {len(target.legality)} rules is reachable", "legality")]


def _shadowed(rules: Sequence[LegalityRule]) -> Iterator[Finding]:
    for number, rule in enumerate(rules):
        for earlier, other in enumerate(rules[:number]):
            if _covers(other, rule):
                yield fails(f"legality[{number}]", f"it never fits: legality[{earlier}] always does before it")
                break


def _covers(first: LegalityRule, second: LegalityRule) -> bool:
    """Whether every operation that fits the second rule fits the first; only said where it is certain."""
    if first.at_least or first.at_most or first.multiple_of or first.weights:
        return False
    if second.weights and first.elements:  # the second means activations alone by `elements`, the first every operand
        return False
    pairs = ((first.ops, second.ops), (first.elements, second.elements))
    return all(not wide or (narrow and set(narrow) <= set(wide)) for wide, narrow in pairs)


def _unpriced(target: TargetSpec) -> Iterator[Finding]:
    for number, rule in enumerate(target.legality):
        unit = target.hardware.units.get(rule.unit)
        if unit is None or "matmul" not in rule.ops:
            continue
        rated = {rate.activations for rate in unit.rates}
        for element in rule.elements:
            if element not in rated and not rule.weights:
                key = f"legality[{number}].elements"
                yield warning(key, f"`hardware.units.{rule.unit}` has no rate in {element}: it cannot be priced")
