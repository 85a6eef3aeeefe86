"""Which way to make code is faster: judged on pairs, kept from noise, and gone on with after an interruption."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwc.errors import UsageError
from hwc.measure.contest import LEAST_GAIN, choose, compare, median_rank
from hwc.pipeline import tuned
from hwc.runtime import contest
from hwc.runtime.contest import Turns
from hwc.runtime.grid import Series

ROUNDS = 40


def _times(factor: float, seed: int, *, noise: float = 0.3) -> dict[str, list[float]]:
    """Return skewed times of two shapes, the machine's own drift in both entrants alike."""
    drift = np.random.default_rng(0).lognormal(0, 0.5, ROUNDS)
    own = np.random.default_rng(seed)
    return {
        shape: list(factor * base * drift * np.exp(own.exponential(noise, ROUNDS)))
        for shape, base in (("small", 0.1), ("large", 30.0))
    }


def test_a_faster_way_is_found_in_noise_that_is_larger_than_the_gain() -> None:
    """Drift of half the time hits both alike: pairs cancel it."""
    best, ratios = choose({"default": _times(1.0, 1), "same": _times(1.0, 2), "fast": _times(0.8, 3)})

    assert best == "fast"
    assert ratios["fast"].low <= 0.8 <= ratios["fast"].high
    assert ratios["same"].low <= 1.0 <= ratios["same"].high


@pytest.mark.parametrize("seed", range(20))
def test_noise_changes_no_choice(seed: int) -> None:
    """Of three ways that are equal, the descriptor's own stays."""
    equal = {name: _times(1.0, 100 * seed + number) for number, name in enumerate(("default", "a", "b"))}

    assert choose(equal)[0] == "default"


def test_of_two_equally_fast_candidates_the_one_named_first_is_taken() -> None:
    assert choose({"default": _times(1.0, 1), "b": _times(0.5, 2), "a": _times(0.5, 3)})[0] == "b"


def test_a_sure_gain_that_is_too_small_is_left() -> None:
    quiet = {name: _times(factor, 7, noise=0.0) for name, factor in (("default", 1.0), ("a", 1 - LEAST_GAIN / 2))}

    assert choose(quiet)[0] == "default"


def test_a_gain_in_one_shape_is_weighed_against_a_loss_in_another() -> None:
    """Half the time in one and twice in the other is no gain, however unlike their milliseconds are."""
    default, other = _times(1.0, 1, noise=0.01), _times(1.0, 2, noise=0.01)
    other = {"small": [2 * value for value in other["small"]], "large": [value / 2 for value in other["large"]]}

    assert compare(other, default).value == pytest.approx(1.0, rel=0.02)
    assert choose({"default": default, "other": other})[0] == "default"


def test_too_few_rounds_decide_nothing() -> None:
    few = {name: {"one": [factor] * 4} for name, factor in (("default", 1.0), ("fast", 0.1))}

    best, ratios = choose(few)

    assert best == "default"
    assert (ratios["fast"].low, ratios["fast"].high) == (0.0, math.inf)


def test_the_interval_of_a_median_is_that_of_the_tables() -> None:
    """Conover, Practical Nonparametric Statistics: ranks 2 and 9 of 10, 6 and 15 of 20, none of 5, for 95 %."""
    assert [median_rank(count, 0.05) for count in (5, 6, 10, 20)] == [None, 0, 1, 5]


class Fake:
    """A session that counts its calls, and is cut off at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[str] = []
        self.stop_at = stop_at

    def stage(self, function: str, feeds: Any) -> list[Any]:
        return [function, feeds]

    def invoke(self, function: str, _: list[Any]) -> list[Any]:
        if self.stop_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(function)
        return [function]

    def fetch(self, value: Any) -> Any:
        return value


SERIES = tuple(Series(name=name, facts={}, calls=((name, {}),)) for name in ("first", "second"))
HOW = Turns(min_rounds=3, rounds=3, budget_s=60.0)


def _run(sessions: dict[str, Any], kept: Path, tell: Callable[[str], None] = lambda _: None) -> Any:
    return contest.run(sessions, SERIES, HOW, kept, tell)


def test_what_was_measured_before_an_interruption_is_not_measured_again(tmp_path: Path) -> None:
    """Only the shape that was at work is lost, half-written or not."""
    whole = Fake()
    _run({"a": whole}, tmp_path / "whole")
    cut = Fake(stop_at=whole.calls.index("second") + 1)
    with pytest.raises(KeyboardInterrupt):
        _run({"a": cut}, tmp_path / "kept")
    again, told = Fake(), list[str]()

    times = _run({"a": again}, tmp_path / "kept", told.append)

    assert set(again.calls) == {"second"}
    assert {shape: len(values) for shape, values in times["a"].items()} == {"first": 3, "second": 3}
    assert told[0] == "first was measured before the interruption"


def test_times_of_other_entrants_are_no_use(tmp_path: Path) -> None:
    """Times are pairs: with one entrant more, or a damaged file, the shape is measured anew."""
    _run({"a": Fake()}, tmp_path)
    (tmp_path / "second.json").write_text("{")
    both = {"a": Fake(), "b": Fake()}

    times = _run(both, tmp_path)

    assert set(both["a"].calls) == {"first", "second"}
    assert list(times) == ["a", "b"]


def test_choices_are_kept_beside_those_of_other_models(tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    tuned.write(file, "one", {"cpu/fp32": "o2"})
    tuned.write(file, "two", {"cpu/fp32": "o3"})
    tuned.write(file, "one", {"cpu/fp8": "default"})

    assert tuned.read(file, "one") == {"cpu/fp32": "o2", "cpu/fp8": "default"}
    assert tuned.read(file, "three") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 2, "choices": {}}', json.dumps({"schema": 1, "choices": {"m": {"v": 3}}})]
)
def test_what_is_no_file_of_choices_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tuned.json").write_text(text)

    with pytest.raises(UsageError, match="tuned choices"):
        tuned.read(tmp_path / "tuned.json", "m")
