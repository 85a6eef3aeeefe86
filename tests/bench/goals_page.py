"""A chip's goals as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_UNITS = {"speedup": "×", "time": "×", "bandwidth": "of bandwidth", "memory": "of allowed", "load": "s",
          "linear": "off the line"}  # fmt: skip
_SIGNS = {"speedup": "≥", "time": "≤", "bandwidth": "≥", "memory": "≤", "load": "≤", "linear": "≤"}


def table(rows: Sequence[Row]) -> list[str]:
    """Return how many goals are met, and a row for each."""
    met = sum(row["met"] for row in rows)
    lines = [
        f"{met} of {len(rows)} are met. Speed-ups are of the fastest peer that the goal names; ≥ and ≤ tell the aim.",
        "", "| Goal | Model, case | Threads | Measured [p10, p90] | Aim | Met | Beside | Predicted, ms | Remark |",
        "|---|---|---:|---:|---:|---|---|---:|---|",
    ]
    for row in rows:
        found = row["found"]
        told = f"**{found['value']:.3g}**{spread(row)} {unit(row)}" if found is not None else "–"
        verdict = "yes" if row["met"] else "**no**" if found is not None else "not measured"
        remark = row["missing"] or ("" if row["met"] else reason(row))
        beside = found["against"] if found is not None else ""
        lines.append(
            f"| {row['title']} | {row['part']}, {row['case']} | {row['threads']} | {told} | {aim(row)} | "
            f"{verdict} | {plain(beside)} | {predicted_ms(row.get('predicted_ms'))} | {plain(remark)} |"
        )
    return lines


def spread(row: Row) -> str:
    """Return a found figure's tenth and ninetieth percentile, with a space before them; empty if it has none."""
    found = row["found"]
    if found["low"] == found["high"] or row["kind"] == "linear":
        return ""
    return f" [{found['low']:.3g}, {found['high']:.3g}]"


def unit(row: Row) -> str:
    """Return what a goal's figure is counted in."""
    return _UNITS[row["kind"]]


def aim(row: Row) -> str:
    """Return a goal's aim and the side of it that meets it."""
    return f"{_SIGNS[row['kind']]} {row['aim']:g}"


def reason(row: Row) -> str:
    """Return why a goal is missed."""
    return row["reason"] or "no reason is written down"


def predicted_ms(row: Row | None) -> str:
    """Return a predicted time with its bounds; empty without one."""
    return f"{row['base']:.3g} [{row['low']:.3g}, {row['high']:.3g}]" if row and "base" in row else ""


def plain(text: str) -> str:
    """Return a text that a table's cell can hold."""
    return " ".join(text.split()).replace("|", "\\|")
