"""The goals: what was measured, held against what is aimed at. Pure, but for reading goals.toml."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import chips
import numpy as np
from compared import Found, Missing, paired, peers_of, row_of
from fixed import READ

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
    reasons: Mapping[str, str]
    """Why it is missed, by level of vectors (`AVX2`), or by level and part (`AVX2 smollm2`)."""

    def reason(self, vectors: str, part: str) -> str:
        """Return why the goal is missed on chips with such vectors; empty if that is not written down."""
        return self.reasons.get(f"{vectors} {part}", self.reasons.get(vectors, ""))


def load(path: Path) -> tuple[Goal, ...]:
    """Read the goals; raise SystemExit for one that is not well told."""
    rows = tomllib.loads(path.read_text())["goal"]
    return tuple(_goal(row) for row in rows)


def _goal(row: dict[str, Any]) -> Goal:
    known = {"title", "part", "case", "kind", "ours", "peers", "threads", "aim", "reasons"}
    if unknown := set(row) - known:
        raise SystemExit(f"goals.toml: `{row.get('title')}` has unknown keys: {', '.join(sorted(unknown))}")
    if row["kind"] not in get_args(Kind) or ("peers" in row) != (row["kind"] in ("speedup", "time")):
        raise SystemExit(f"goals.toml: `{row['title']}`: kind `{row['kind']}` is unknown, or does not fit its peers")
    return Goal(
        title=row["title"], parts=_several(row["part"]), cases=_several(row["case"]), kind=row["kind"],
        ours=row["ours"], peers=tuple(row.get("peers", ())), threads=tuple(row["threads"]), aim=float(row["aim"]),
        reasons=_reasons(row),
    )


def _reasons(row: dict[str, Any]) -> dict[str, str]:
    reasons: dict[str, str] = row.get("reasons", {})
    finer = {f"{level} {part}" for level in chips.LEVELS for part in _several(row["part"])}
    if unknown := set(reasons) - {*chips.LEVELS, *finer}:
        raise SystemExit(
            f"goals.toml: `{row['title']}` has reasons for unknown chips: {', '.join(sorted(unknown))}; known are "
            f"{', '.join(chips.LEVELS)}, alone or before one of the goal's parts"
        )
    return reasons


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
        "ours": goal.ours, "reason": goal.reason(section["vectors"], part) if section is not None else "",
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
