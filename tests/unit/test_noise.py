"""Weights moved by float32's last bits, and the bound that comes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwc.measure import noise


def test_every_float_weight_moves_by_a_millionth_and_codes_stay() -> None:
    weights = {"codes": np.arange(7, dtype=np.uint8), "scales": np.linspace(-2, 2, 999, dtype=np.float32)}
    moved = noise.moved(weights)
    assert np.array_equal(moved["codes"], weights["codes"])
    held = weights["scales"] != 0
    ratio = moved["scales"][held].astype(np.float64) / weights["scales"][held]
    assert np.allclose(abs(ratio - 1), noise.RELATIVE, rtol=0.1)
    assert 0.4 < (ratio > 1).mean() < 0.6
    assert moved["scales"].dtype == np.float32


def test_the_same_seed_moves_weights_the_same_way_and_another_one_does_not() -> None:
    weights = {"b": np.ones(64, np.float32), "a": np.ones(64, np.float32)}
    again = noise.moved(dict(reversed(weights.items())))
    assert all(np.array_equal(value, again[name]) for name, value in noise.moved(weights).items())
    assert not np.array_equal(noise.moved(weights)["a"], noise.moved(weights, seed=1)["a"])


def test_an_artefact_may_be_twice_as_far_off_as_the_reference_is_from_itself(tmp_path: Path) -> None:
    noise.write(0.25, tmp_path)
    assert noise.bound(tmp_path) == 0.5
