"""Measure a part whose cases have fixed shapes: encoders, CNNs, single products; and memory's bandwidth beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import turns
from contestants import Contestant, Runner, running
from judging import Reference, judge
from measured import spread
from peers.environment import Unavailable

READ = "read bandwidth"
"""A contestant that reads memory past the last cache; one of its cases has this name too."""


def reading(work: Path, cases: Sequence[str] = ()) -> Contestant:
    """Return the contestant that measures bandwidth: by itself, and in the rounds of cases that it bounds."""
    source = Path(__file__).with_name("read_bandwidth.c")
    config = {"kind": "reading", "source": str(source), "work": str(work)}
    return Contestant(name=READ, precision="float", cases=(READ, *cases), config=config)


class Asked:
    """Contestants that run; one whose process ends is left out from there on, with the reason."""

    def __init__(self) -> None:
        self.running: dict[str, Runner] = {}
        self.absent: dict[str, str] = {}

    def ask(self, name: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question; an empty answer tells that the contestant is gone."""
        if name in self.absent:
            return {}
        try:
            return self.running[name].ask(question)
        except Unavailable as error:
            self.absent[name] = str(error)
            return {}

    def start(self, contestants: Sequence[Contestant], threads: int, work: Path, stack: ExitStack) -> None:
        """Start everyone who can be."""
        for one in contestants:
            try:
                self.running[one.name] = stack.enter_context(running(one, threads, work))
            except Unavailable as error:
                self.absent[one.name] = str(error)


def measure(
    contestants: Sequence[Contestant], references: Mapping[str, Reference], *, threads: int, seconds: float, work: Path
) -> dict[str, Any]:
    """Return a row for every contestant of every case, what they told of themselves, and why the others are missing."""
    asked = Asked()
    with ExitStack() as stack:
        asked.start(contestants, threads, work, stack)
        present = [one for one in contestants if one.name in asked.running]
        checks = {
            (one.name, case): check for one in present for case in one.cases
            if (check := _checked(one, case, references, asked, work)) is not None
        }
        cases = {
            case: names for case in dict.fromkeys(case for one in present for case in one.cases)
            if (names := [one.name for one in present if case in one.cases and one.name not in asked.absent])
        }
        counts = {case: _calls(case, names, asked) for case, names in cases.items()}

        def turn(name: str, case: str) -> Sequence[float]:
            count = counts[case]
            found = asked.ask(name, {"case": case, "warm": int(count > 1), "calls": count})
            return list(found.get("seconds", ()))

        samples = turns.take(cases, turn, seconds=seconds)
        facts = {name: runner.loaded["facts"] for name, runner in asked.running.items() if runner.loaded["facts"]}
    by_name = {one.name: one for one in present}
    rows = [
        {**_row(by_name[name], case, rounds, threads), "check": checks.get((name, case))}
        for (name, case), rounds in samples.items() if name not in asked.absent
    ]
    return {"rows": rows, "absent": asked.absent, "facts": facts}


def _checked(
    one: Contestant, case: str, references: Mapping[str, Reference], asked: Asked, work: Path
) -> dict[str, Any] | None:
    reference = references.get(case)
    if reference is None or one.name == READ:
        return None
    saved = work / "answer.npy"
    saved.unlink(missing_ok=True)
    asked.ask(one.name, {"case": case, "save": str(saved)})
    if not saved.is_file():
        return {"cosine": None, "same_codes": None, "right": False}
    return dict(judge(np.load(saved), reference, one.name, one.precision))


def _calls(case: str, names: Sequence[str], asked: Asked) -> int:
    """Return how many calls a turn of a case has, from one call of everyone."""
    found = {name: asked.ask(name, {"case": case, "warm": 0, "calls": 1}).get("seconds", [0.0])[0] for name in names}
    return turns.calls_a_turn({name: max(1e3 * taken, 1e-3) for name, taken in found.items()})


def _row(one: Contestant, case: str, rounds: Sequence[Sequence[float]], threads: int) -> dict[str, Any]:
    return {
        "contestant": one.name, "own": one.own, "precision": one.precision, "case": case, "threads": threads,
        "ms": spread([taken for turn in rounds for taken in turn]),
        "rounds_ms": [float(f"{spread(turn)['median']:.5g}") for turn in rounds],
    }
