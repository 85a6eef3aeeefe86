"""The comparison with ZigZag as a page for people."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]
EXPLAINED = (
    "## Where they differ, and why",
    "",
    "1. **Below its own port.** At 512 bits a cycle ZigZag tells some products fewer cycles than their operands take",
    "   through the port it was given: it counts the first loads of inputs and of weights as parallel, although both",
    "   come through that port. Such rows are told, and left out of the first line's statistics, by that rule alone.",
    "2. **The first block.** Where an operand fits beside the array, ZigZag loads all of it before the first cycle of",
    "   work; hwc has it arrive during the first pass over the columns. Square products differ by 5 % for it.",
    "3. **Narrow tiles.** ZigZag packs a partial tile's weights to the width of the memory's port; hwc loads a row of",
    "   cells a cycle, however many of its columns are used. It shows where few rows stream past partial tiles.",
    "4. **Uneven division.** hwc divides 129 over 128 cells as 65 and 64, which drain sooner; ZigZag drains all of the",
    "   array.",
    "5. **The ends.** hwc adds filling and draining the array, at most 382 cycles, to the time of the port; ZigZag",
    "   hides a part of it.",
    "",
    "Products that fit the array whole are not compared: ZigZag 3.9.1 drops the memory between DRAM and cells then",
    "(100×100×100 loads its 10,000 weights in 2 cycles, 1×128×128 raises ValueError).",
    "",
)
FAR = 0.02
"""Differences from here on are explained in their row."""
SIDE, LONG = 128, 512
"""Rows and columns of the array; inputs so many that partial tiles matter little."""


def page(facts: Row) -> str:
    """Return docs/reference/bench-gemm.md."""
    rows = [row for row in facts["rows"] if "cycles" in row]
    off = [abs(difference(row)) for row in rows if not impossible(row)]
    every = [abs(difference(row)) for row in rows]
    widths = sorted({row["dram_bits"] for row in rows}, reverse=True)
    chip = facts["chip"]
    return "\n".join(
        [
            "# Bench: matrix products against ZigZag",
            "",
            "<!-- Written by tests/bench/zigzag.py (`make bench-gemm`); run again, do not edit. -->",
            "",
            f"Cycles of int8 products on one {chip['rows']}×{chip['columns']} weight-stationary array with "
            f"{chip['sram_bytes'] >> 20} MiB beside it, as hwc's model has them",
            "(`predict/array.py`, `traffic.py`, `roofline.py`; method: estimated) and as "
            f"`{facts['peer']}` has them (method: simulated).",
            "Nothing here is measured: two models are compared. The raw figures are in "
            "[bench-gemm.json](bench-gemm.json).",
            "",
            f"- {len(off)} of {len(rows)} rows, those in which ZigZag keeps to its own DRAM port: median difference "
            f"**{statistics.median(off):.2%}**, worst **{max(off):.1%}**.",
            f"- All {len(rows)} rows: median {statistics.median(every):.2%}, worst {max(every):.1%}.",
            *(_anchor(facts, row) for row in rows if (row["m"], row["k"], row["n"]) == (128, 2048, 8192)),
            f"- A prediction of 80 layers, prefill and decode on 8 chips: {facts['prediction_ms']:.1f} ms, the least "
            "of 7 (measured).",
            "",
            *EXPLAINED,
            *(line for bits in widths for line in _table(rows, bits, ample=bits == widths[0])),
        ]
    )


def impossible(row: Row) -> bool:
    """Tell whether ZigZag's cycles are fewer than its DRAM's port needs to pass every operand once."""
    return bool(row["cycles"] < row["port"])


def difference(row: Row) -> float:
    """Return hwc's cycles over ZigZag's, less one."""
    return float(row["hwc"] / row["cycles"] - 1)


def _anchor(facts: Row, row: Row) -> str:
    anchor = facts["anchors"][str(row["dram_bits"])]
    return (
        f"- Anchor 128×2048×8192, {_width(row['dram_bits'])}: {anchor:,} cycles from an earlier description of such an "
        f"array;\n  here ZigZag {row['cycles']:,.0f}, hwc {row['hwc']:,.0f} "
        f"({row['hwc'] / anchor - 1:+.1%} of the anchor)."
    )


def _width(bits: int) -> str:
    return f"{bits} bits a cycle" if bits < 1 << 20 else "ample bandwidth"


def _table(rows: list[Row], bits: int, *, ample: bool) -> list[str]:
    told = "" if ample else " | Port alone"
    lines = [
        f"## {_width(bits).capitalize()}", "",
        f"| m × k × n | ZigZag | hwc | Difference{told} | Remark |",
        f"|---|---:|---:|---:{'' if ample else '|---:'}|---|",
    ]
    for row in rows:
        if row["dram_bits"] != bits:
            continue
        port = "" if ample else f" | {row['port']:,.0f}"
        lines.append(
            f"| {row['m']} × {row['k']} × {row['n']} | {row['cycles']:,.0f} | {row['hwc']:,.0f} | "
            f"{difference(row):+.1%}{port} | {_remark(row)} |"
        )
    return [*lines, ""]


def _remark(row: Row) -> str:
    """Name the reason of a difference, by the row's own figures; one that fits none is told to be unexplained."""
    if impossible(row):
        return "1: below its own port"
    if abs(difference(row)) < FAR:
        return ""
    if row["port"] > row["cycles"] / 2 and 0 < row["hwc"] - row["cycles"] <= 3 * SIDE - 2:
        return "5: the ends"
    if row["n"] % SIDE and row["m"] < SIDE and difference(row) > 0:
        return "3: narrow tiles"
    if row["k"] % SIDE or row["n"] % SIDE:
        return "4: uneven division" if row["m"] < LONG else "2: the first block"
    return "2: the first block" if difference(row) < 0 and row["on"] > 0.02 * row["steady"] else "**not explained**"
