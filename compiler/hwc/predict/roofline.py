"""The time and energy of one operation on one chip: arithmetic with tile quantisation, traffic, overheads; pure.

Without a calibration the result is what nothing beats, times OPTIMISM: rooflines leave out what real code loses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hwc.predict.array import cycles, pipelined
from hwc.predict.chip import Chip, Corner, Peak, rate_for
from hwc.predict.operation import Operation
from hwc.predict.traffic import CONTRACTIONS, Passing, passing
from hwc.spec.hardware import Element

Bound = Literal["compute", "memory", "overhead", "link"]
OPTIMISM: Mapping[Corner, float] = {"best": 1.0, "base": 1.5, "worst": 2.3}
"""Measured ÷ roofline. 2.3 is what this project measured on a CPU before calibration; 1.5 is its geometric middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """All runs of one operation."""

    operation: Operation
    seconds: float
    compute_s: float
    memory_s: float
    overhead_s: float
    peak: Peak
    widened: bool
    """The chip has no rate for the operation's types; that of wider ones is taken."""
    energy_j: float | None
    """None where the descriptor does not tell the energy of arithmetic and of the outer memory."""

    @property
    def bound(self) -> Bound:
        """What takes most of the time."""
        parts: dict[Bound, float] = {
            "compute": self.compute_s, "memory": self.memory_s, "overhead": self.overhead_s,
        }
        return max(parts, key=lambda name: parts[name])


def cost(operation: Operation, chip: Chip, corner: Corner, *, resident: bool, cold: bool = False) -> Cost:
    """Return the cost of an operation's runs; raises UsageError where no unit can do it in its types or wider ones.

    ``resident``: weights stay on the chip between calls. ``cold``: the operation is alone, so that its activations
    come from the outer memory and go back there.
    """
    peak, widened = rate_for(
        chip, operation.op in CONTRACTIONS, operation.activations, _multiplied(operation)
    )
    traffic = passing(operation, chip, resident=resident, cold=cold)
    outer_s = chip.outer.transfer_s(traffic.outer_read, traffic.outer_write)
    inner_s = chip.inner.transfer_s(traffic.inner_read, traffic.inner_write) if chip.inner else 0.0
    memory_s = max(outer_s, inner_s)
    compute_s, work_s = _work(operation, chip, peak, memory_s, chip.outer.transfer_s(traffic.outer_first, 0.0))
    overhead_s = chip.dispatch_s + (0.0 if chip.transfers_overlap else chip.dma_setup_s)
    factor = OPTIMISM[corner]
    energy = _energy_pj(operation, chip, peak, traffic)
    return Cost(
        operation=operation, seconds=operation.count * (work_s * factor + overhead_s),
        compute_s=operation.count * compute_s * factor, memory_s=operation.count * memory_s * factor,
        overhead_s=operation.count * overhead_s, peak=peak, widened=widened,
        energy_j=None if energy is None else operation.count * energy * 1e-12,
    )


def _multiplied(operation: Operation) -> Element | None:
    """Return the type of weights that are multiplied; other work only reads them."""
    return operation.weights if operation.op in CONTRACTIONS else None


def _work(
    operation: Operation, chip: Chip, peak: Peak, memory_s: float, first_s: float
) -> tuple[float, float]:
    """Return the time of the arithmetic alone, and of arithmetic and traffic together."""
    if peak.array is None or operation.op not in CONTRACTIONS or not operation.n:
        compute_s = operation.flops / peak.flop_per_s
        return compute_s, max(compute_s, memory_s) if chip.transfers_overlap else compute_s + memory_s
    cycle_s = 2 * peak.array.rows * peak.array.columns * peak.array.count / peak.flop_per_s
    shapes = [(operation.m, operation.n, operation.k)]
    if operation.op == "attention":  # scores, then their product with the values
        shapes.append((operation.m, operation.k, operation.n))
    found = [
        cycles(peak.array, m, n, k, batch=operation.batch, overlap=chip.transfers_overlap) for m, n, k in shapes
    ]
    compute_s = cycle_s * sum(one.total for one in found)
    if not chip.transfers_overlap:
        return compute_s, compute_s + memory_s
    ends_s = cycle_s * sum(one.fill + one.drain for one in found)
    passes = max(one.passes for one in found)
    return compute_s, ends_s + pipelined(compute_s - ends_s, passes, first_s, memory_s - first_s)


def _energy_pj(operation: Operation, chip: Chip, peak: Peak, traffic: Passing) -> float | None:
    outer = chip.outer.energy_pj(traffic.outer_read, traffic.outer_write)
    inner = chip.inner.energy_pj(traffic.inner_read, traffic.inner_write) if chip.inner else 0.0
    if peak.pj_per_flop is None or outer is None:
        return None
    return operation.flops * peak.pj_per_flop + outer + (inner or 0.0)
