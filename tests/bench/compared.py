"""Rows of a section held against each other, round by round."""

from __future__ import annotations

import fnmatch
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fixed import READ
from measured import spread

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A figure with its spread, and where it comes from."""

    value: float
    low: float
    high: float
    against: str = ""
    """The peer it was compared with."""


class Missing(Exception):
    """A figure that was not measured; the text says why."""


def row_of(section: Row, name: str, case: str) -> Row:
    """Return the row of a contestant that answered rightly; raise Missing if there is none."""
    for row in section["rows"]:
        if row["contestant"] == name and row["case"] == case:
            if row.get("check") is not None and not row["check"]["right"]:
                raise Missing(f"{name} answers wrongly")
            return dict(row)
    raise Missing(section["absent"].get(name) or f"{name} has no row for {case}")


def peers_of(section: Row, patterns: Sequence[str], case: str) -> Iterator[Row]:
    """Yield the rows of a case whose contestant fits a pattern and answered rightly."""
    for row in section["rows"]:
        wrong = row.get("check") is not None and not row["check"]["right"]
        if row["case"] == case and not wrong and any(fnmatch.fnmatchcase(row["contestant"], one) for one in patterns):
            yield row


def paired(over: Row, under: Row) -> Found:
    """Return the ratio of two rows' times: the median of what it is in each round, with its tenth and ninetieth."""
    ratios = spread([one / other for one, other in zip(over["rounds_ms"], under["rounds_ms"], strict=False)])
    return Found(value=ratios["median"], low=ratios["p10"], high=ratios["p90"])


def portability(section: Row) -> list[dict[str, Any]]:
    """Return, by precision, hwc's fastest time ÷ the fastest library's: geometric mean and worst over the cases."""
    rows = [row for row in section["rows"] if row["contestant"] != READ]
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        ratios: dict[str, tuple[float, str, str]] = {}
        for case in dict.fromkeys(row["case"] for row in rows):
            right = [row for row in peers_of({"rows": rows}, ("*",), case) if row["precision"] == precision]
            ours, theirs = ([row for row in right if row["own"] == own] for own in (True, False))
            if ours and theirs:
                one, other = (min(group, key=lambda row: row["ms"]["median"]) for group in (ours, theirs))
                ratios[case] = (paired(one, other).value, one["contestant"], other["contestant"])
        if ratios:
            worst = max(ratios, key=lambda case: ratios[case][0])
            mean = statistics.geometric_mean([ratio for ratio, _, _ in ratios.values()])
            found.append({
                "precision": precision, "mean": mean, "cases": len(ratios), "worst": ratios[worst][0],
                "worst_case": worst, "against": sorted({other for _, _, other in ratios.values()}),
            })  # fmt: skip
    return found
