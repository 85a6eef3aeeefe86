"""Latency figures are ones that were measured, and noise is told rather than averaged away."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from hwc.measure.profile import cell, noise, summarise
from hwc.program import Function, Port
from hwc.runtime import timing


def steady(count: int = 200, *, base: float = 10.0, spread: float = 0.02, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [base * (1 + rng.uniform(-spread, spread)) for _ in range(count)]


def test_percentiles_are_nearest_rank() -> None:
    summary = summarise([float(value) for value in random.Random(1).sample(range(1, 201), 200)])
    assert (summary["p50"], summary["p90"], summary["p95"], summary["p99"]) == (100.0, 180.0, 190.0, 198.0)
    assert (summary["min"], summary["n"], summary["mean"]) == (1.0, 200, 100.5)


@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101])
def test_every_percentile_is_a_value_that_was_measured(count: int) -> None:
    values = steady(count, seed=count)
    summary = summarise(values)
    assert {summary["p50"], summary["p90"], summary["p95"], summary["p99"]} <= set(values)
    assert summary["min"] <= summary["p50"] <= summary["p90"] <= summary["p95"] <= summary["p99"] <= max(values)


def test_the_p99_of_few_samples_is_their_maximum_and_their_number_is_told() -> None:
    values = steady(20)
    assert summarise(values)["p99"] == max(values)
    assert summarise(values)["n"] == 20


def test_the_confidence_interval_is_that_of_the_mean() -> None:
    values = steady(100)
    assert summarise(values)["ci95"] == pytest.approx(1.96 * statistics.stdev(values) / 10)
    assert summarise([5.0])["ci95"] == 0.0


def test_a_steady_cell_is_not_called_noisy() -> None:
    assert noise(steady(), steady(spread=0.01)) == []


def test_one_outlier_is_not_called_noise() -> None:
    assert noise([*steady(), 500.0], [*steady(), 500.0]) == []


def test_a_wide_spread_is_told() -> None:
    values = steady(spread=0.5)
    assert any("spread" in reason for reason in noise(values, values))


def test_time_off_the_processor_is_told() -> None:
    assert any("off the processor" in reason for reason in noise(steady(), [0.8 * value for value in steady()]))


@pytest.mark.parametrize("factor", [1.3, 0.7])
def test_drift_is_told_either_way(factor: float) -> None:
    values = [*steady(100, spread=0.01), *[factor * value for value in steady(100, spread=0.01)]]
    assert any("second half" in reason for reason in noise(values, values))


FUNCTION = Function(
    name="b4", bucket={"batch": 4}, inputs=(Port(name="x", dtype="float32", shape=(4, 8)),),
    outputs=(Port(name="y", dtype="float32", shape=(4, 2)),),
)
FEEDS = {'{"batch": 4}': {"x": np.zeros((4, 8), np.float32)}}


def test_a_cell_counts_items_by_its_batch() -> None:
    report = {"wall_ms": {"b4": [10.0] * 50}, "cpu_ms": {"b4": [10.0] * 50}, "first_ms": {"b4": 99.0}}
    (series,) = timing.single([FUNCTION], FEEDS)
    made = cell({"function": series.name, **series.facts}, report, on_processor=True)
    assert made["bucket"] == FUNCTION.bucket
    assert (made["batch"], made["items_per_s"], made["first_ms"], made["valid"]) == (4, 400.0, 99.0, True)
