"""The goals: what was measured, held against what is aimed at. Pure, but for reading goals.toml."""

from __future__ import annotations

import fnmatch
import statistics
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from fixed import READ
from measured import spread

FILE = Path(__file__).with_name("goals.toml")
Kind = Literal["speedup", "time", "bandwidth", "memory", "load", "linear"]
AT_LEAST: frozenset[Kind] = frozenset({"speedup", "bandwidth"})
"""Goals that are met from their aim on; the others up to it."""
ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 50e6
"""Of the stored weights, and on top of weights and cache, that a loaded model may take."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal, as it is written down; it stands for a row for each part, case and number of threads."""

    title: str
    parts: tuple[str, ...]
    cases: tuple[str, ...]
    kind: Kind
    ours: str
    peers: tuple[str, ...]
    threads: tuple[int, ...]
    aim: float
    reason: str


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


def load(path: Path) -> tuple[Goal, ...]:
    """Read the goals; raise SystemExit for one that is not well told."""
    rows = tomllib.loads(path.read_text())["goal"]
    return tuple(_goal(row) for row in rows)


def _goal(row: dict[str, Any]) -> Goal:
    known = {"title", "part", "case", "kind", "ours", "peers", "threads", "aim", "reason"}
    if unknown := set(row) - known:
        raise SystemExit(f"goals.toml: `{row.get('title')}` has unknown keys: {', '.join(sorted(unknown))}")
    if row["kind"] not in get_args(Kind) or ("peers" in row) != (row["kind"] in ("speedup", "time")):
        raise SystemExit(f"goals.toml: `{row['title']}`: kind `{row['kind']}` is unknown, or does not fit its peers")
    return Goal(
        title=row["title"], parts=_several(row["part"]), cases=_several(row["case"]), kind=row["kind"],
        ours=row["ours"], peers=tuple(row.get("peers", ())), threads=tuple(row["threads"]), aim=float(row["aim"]),
        reason=row["reason"],
    )


def _several(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def judged(goals: Sequence[Goal], parts: Mapping[str, Mapping[str, Row]]) -> list[dict[str, Any]]:
    """Return a row for every goal in every part, case and number of threads that it names."""
    return [
        _judged(goal, part, case, threads, parts.get(part, {}).get(str(threads)))
        for goal in goals for part in goal.parts for case in goal.cases for threads in goal.threads
    ]


def _judged(goal: Goal, part: str, case: str, threads: int, section: Row | None) -> dict[str, Any]:
    told = {
        "title": goal.title, "part": part, "case": case, "threads": threads, "kind": goal.kind, "aim": goal.aim,
        "ours": goal.ours, "reason": goal.reason,
    }
    try:
        if section is None:
            raise Missing(f"{part} was not measured on {threads} thread(s)")
        found = KINDS[goal.kind](goal, section, case)
    except Missing as error:
        return {**told, "found": None, "met": False, "missing": str(error)}
    met = found.value >= goal.aim if goal.kind in AT_LEAST else found.value <= goal.aim
    fields = {"value": found.value, "low": found.low, "high": found.high, "against": found.against}
    return {**told, "found": fields, "met": met, "missing": "", "predicted_ms": _predicted(section, goal, case)}


def _predicted(section: Row, goal: Goal, case: str) -> Any:
    rows = [row for row in section["rows"] if row["contestant"] == goal.ours and row["case"] == case]
    return rows[0].get("predicted") if rows else None


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


def _against(goal: Goal, section: Row, case: str) -> Found:
    """Compare with the fastest peer, by its median."""
    ours = row_of(section, goal.ours, case)
    fastest = min(peers_of(section, goal.peers, case), key=lambda row: row["ms"]["median"], default=None)
    if fastest is None:
        raise Missing(f"none of {', '.join(goal.peers)} was measured")
    ratio = paired(fastest, ours) if goal.kind == "speedup" else paired(ours, fastest)
    return Found(value=ratio.value, low=ratio.low, high=ratio.high, against=fastest["contestant"])


def _bandwidth(goal: Goal, section: Row, case: str) -> Found:
    ours, read = row_of(section, goal.ours, case), row_of(section, READ, case)
    if "weight_bytes" not in ours:
        raise Missing(f"the bytes of {goal.ours}'s weights are not known")
    ratio = paired(read, ours)
    share = ours["weight_bytes"] / section["facts"][READ]["bytes"]
    return Found(value=share * ratio.value, low=share * ratio.low, high=share * ratio.high)


def _memory(goal: Goal, section: Row, case: str) -> Found:
    row = row_of(section, goal.ours, case)
    load = row["load"]
    added = sum(load["used"][key] - load["before"][key] for key in ("anonymous_bytes", "file_bytes"))
    allowed = ALLOWED_SHARE * row["weight_bytes"] + load["cache_bytes"] + ALLOWED_BYTES
    return _single(added / allowed)


def _load(goal: Goal, section: Row, case: str) -> Found:
    return _single(row_of(section, goal.ours, case)["load"]["seconds"])


def _single(value: float) -> Found:
    return Found(value=value, low=value, high=value)


def _linear(goal: Goal, section: Row, case: str) -> Found:
    rows = [
        row for row in section["rows"] if row["contestant"] == goal.ours and fnmatch.fnmatchcase(row["case"], case)
    ]
    if len(rows) < 3:
        raise Missing(f"{goal.ours} was measured at {len(rows)} lengths")
    used = np.array([float(row["case"].rpartition(" ")[2]) for row in rows])
    taken = np.array([row["ms"]["median"] for row in rows])
    line = np.polyval(np.polyfit(used, taken, 1), used)
    away = np.abs(taken / line - 1)
    return Found(value=float(away.max()), low=float(away.min()), high=float(away.max()))


KINDS: Mapping[Kind, Callable[[Goal, Row, str], Found]] = {
    "speedup": _against, "time": _against, "bandwidth": _bandwidth, "memory": _memory, "load": _load, "linear": _linear,
}


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
