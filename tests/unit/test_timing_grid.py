"""A language model is timed as it generates: prompts in the calls generation makes, tokens at several fills."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from generation_parts import function

from hwc.runtime import grid, prefill, timing
from hwc.runtime.grid import Series

FUNCTIONS = [function(1, 1), function(1, 16), function(1, 128), function(4, 1), function(4, 16)]
CONTEXT = 320


def found(*, composed: bool = True) -> dict[str, Series]:
    return {one.name: one for one in grid.series(FUNCTIONS, CONTEXT, composed=composed)}


def test_prompts_double_from_the_shortest_shape_up_to_the_whole_cache() -> None:
    assert grid.prompt_lengths([1, 16, 128], CONTEXT, composed=True) == [1, 16, 32, 64, 128, 256, 320]
    assert grid.prompt_lengths([1], 6, composed=True) == [1, 2, 4, 6]
    assert len(grid.prompt_lengths([1, 16, 128], 1024, composed=True)) >= 8


def test_where_only_shapes_are_timed_there_are_no_others() -> None:
    assert grid.prompt_lengths([1, 16, 128], CONTEXT, composed=False) == [1, 16, 128]


def test_a_prompt_is_timed_in_the_calls_that_generation_makes_of_it() -> None:
    for tokens in (16, 64, 256, 320):
        one = found()[f"prefill_b1_n{tokens}"]
        due = prefill.plan(tokens, [1, 16, 128], CONTEXT)
        assert [name for name, _ in one.calls] == [f"b1_s{chunk.length}_l1" for chunk in due]
        assert [int(feeds["start"][0]) for _, feeds in one.calls] == [chunk.start for chunk in due]
        assert sum(one.facts["calls"].values()) == len(due)


def test_a_token_is_timed_at_six_fills_from_almost_none_to_the_whole_cache() -> None:
    for batch in (1, 4):
        held = [one.facts["tokens"] for one in found().values() if one.name.startswith(f"decode_b{batch}")]
        assert len(held) == 6
        assert held[-1] == CONTEXT
        assert held[0] <= 0.02 * CONTEXT
        one = found()[f"decode_b{batch}_n{CONTEXT}"]
        ((name, feeds),) = one.calls
        assert (name, feeds["start"].tolist()) == (f"b{batch}_s1_l1", [CONTEXT - 1] * batch)


@pytest.mark.parametrize("composed", [True, False])
def test_every_call_has_its_functions_shapes_and_stays_inside_the_cache(composed: bool) -> None:
    shapes = {entry.name: {port.name: port.shape for port in entry.inputs} for entry in FUNCTIONS}
    for one in found(composed=composed).values():
        for name, feeds in one.calls:
            assert {key: value.shape for key, value in feeds.items()} == shapes[name]
            assert all(value.dtype == np.int64 for value in feeds.values())
            assert feeds["start"].min() >= 0
            assert feeds["start"].max() + feeds["input_ids"].shape[1] <= CONTEXT


class Slow:
    """A session whose functions take as many milliseconds as their name says."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def stage(self, _name: str, feeds: Any) -> list[Any]:
        return [feeds]

    def invoke(self, name: str, _inputs: list[Any]) -> list[Any]:
        self.called.append(name)
        time.sleep(float(name) / 1e3)
        return [name]

    def fetch(self, value: Any) -> Any:
        return value


def measured(*series: tuple[str, ...], **how: Any) -> tuple[dict[str, Any], Slow, list[int]]:
    session, warm = Slow(), []
    rounds = timing.Rounds(**{"warmup": 3, "min_rounds": 5, "rounds": 5, "budget_s": 0.0, **how})
    made = [Series(name="+".join(calls), facts={}, calls=tuple((name, {}) for name in calls)) for calls in series]
    return timing.measure(session, made, rounds, warm=lambda: warm.append(len(session.called))), session, warm


def test_a_series_takes_the_time_of_its_calls_together() -> None:
    told, _, _ = measured(("2", "3"), ("2",))
    assert min(told["wall_ms"]["2+3"]) >= 5
    assert 2 <= min(told["wall_ms"]["2"]) < 5


def test_every_series_is_timed_at_least_as_often_as_is_asked_and_fast_ones_more_often() -> None:
    told, _, _ = measured(("1",), ("30",), rounds=5)
    assert len(told["wall_ms"]["30"]) == 5
    assert len(told["wall_ms"]["1"]) >= timing.P99_SAMPLES


def test_code_is_warm_before_rounds_begin_and_series_of_known_calls_are_not_warmed_again() -> None:
    _, session, warm = measured(("1",), ("1", "1"))
    assert warm == [1 + 2 + 2]
    assert session.called[: warm[0]] == ["1"] * 5


def test_as_many_cpu_times_as_wall_times_are_told() -> None:
    told, _, _ = measured(("1",), ("2",))
    for name in ("1", "2"):
        assert len(told["wall_ms"][name]) == len(told["cpu_ms"][name])
        assert told["first_ms"][name] > 0
