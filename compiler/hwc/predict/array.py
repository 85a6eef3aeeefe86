"""Matrix products on arrays that keep weights in their cells: cycles with partial tiles, filling and draining.

An array of R × C cells takes a tile of weights one row of cells a cycle, behind the work of the tile before; inputs
stream past, one row of m a cycle. A tile so takes the longer of the two, max(m, its rows), or where transfers do not
overlap with work, their sum. k and n are divided evenly: 129 over 128 cells is 65 and 64.

Before the first tile its rows enter (fill); behind the last input, results still travel rows + columns - 2 cells
(drain). Compared with ZigZag in docs/reference/bench-gemm.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwc.predict.chip import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    """What a product takes at one multiply-add a cell and cycle."""

    fill: float
    steady: float
    drain: float
    passes: int
    """Times that the inputs stream past: once for each block of columns."""

    @property
    def total(self) -> float:
        """All of them, where nothing waits for memory."""
        return self.fill + self.steady + self.drain


def cycles(array: Array, m: int, n: int, k: int, *, batch: int = 1, overlap: bool = True) -> Cycles:
    """Return the cycles of [m, k] × [k, n], ``batch`` times; tiles are dealt out evenly to the arrays."""
    row_blocks, column_blocks = -(-k // array.rows), -(-n // array.columns)
    rows, columns = -(-k // row_blocks), -(-n // column_blocks)
    share = max(1.0, row_blocks * column_blocks * batch / array.count)
    load = k / row_blocks
    each = max(m, load) if overlap else m + load
    waiting = max(0.0, load - m) if overlap else 0.0  # the last tile loads nothing behind it
    return Cycles(
        fill=float(rows) if overlap else 0.0, steady=share * each - waiting, drain=float(rows + columns - 2),
        passes=max(1, round(column_blocks * batch / array.count)),
    )


def pipelined(work: float, passes: int, first: float, streamed: float) -> float:
    """Return the time of passes whose operands are brought while the pass before is worked on.

    ``first`` is brought during the first pass and stays, ``streamed`` is spread over all of them; same unit as work.
    """
    return max(work / passes, first + streamed / passes) + (passes - 1) * max(work, streamed) / passes
