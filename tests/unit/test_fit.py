"""Fits find the coefficients that made the data, in spite of bad samples, and say what the data do not hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from hwc.errors import UsageError
from hwc.predict.fit import Coefficient, errors, fit

SIZES = np.geomspace(1, 1e4, 40)
UNKNOWNS = (
    Coefficient(name="fixed_s", low=1e-6, start=1e-3, high=1.0),
    Coefficient(name="each_s", low=1e-9, start=1e-3, high=1.0),
)


def line(values: Mapping[str, float]) -> np.ndarray:
    return values["fixed_s"] + values["each_s"] * SIZES


def test_finds_the_coefficients_that_made_the_data() -> None:
    found = fit(UNKNOWNS, line, line({"fixed_s": 2e-2, "each_s": 3e-5}))

    assert found.values == pytest.approx({"fixed_s": 2e-2, "each_s": 3e-5}, rel=1e-4)
    assert found.at_bound == ()


def test_is_hardly_moved_by_a_tenth_of_bad_samples() -> None:
    data = line({"fixed_s": 2e-2, "each_s": 3e-5}) * np.random.default_rng(1).normal(1, 0.01, len(SIZES))
    data[::10] *= 3

    found = fit(UNKNOWNS, line, data)

    assert found.values == pytest.approx({"fixed_s": 2e-2, "each_s": 3e-5}, rel=0.05)


def test_names_a_coefficient_that_ends_at_its_bound() -> None:
    found = fit(UNKNOWNS, line, line({"fixed_s": 1e-9, "each_s": 3e-5}))

    assert found.at_bound == ("fixed_s",)


@pytest.mark.parametrize("data", [np.array([1.0]), np.array([1.0, -1.0, 2.0]), np.array([1.0, np.nan, 2.0])])
def test_refuses_too_few_samples_and_times_that_are_none(data: np.ndarray) -> None:
    with pytest.raises(UsageError):
        fit(UNKNOWNS, lambda _: data, data)


def test_errors_are_nearest_rank_and_keep_the_sign_of_the_bias() -> None:
    found = errors(np.array([1.1, 1.2, 1.3, 0.9, 1.0]), np.ones(5))

    assert (found.median, found.p90, found.worst, found.bias) == pytest.approx((0.1, 0.3, 0.3, 0.1))
