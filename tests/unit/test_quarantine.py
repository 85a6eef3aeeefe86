"""Bad cells are found by rules on measurements: the impossible, the uneven, the shrinking, and copies."""

from __future__ import annotations

from hwc.predict import quarantine


def test_a_time_below_its_bound_is_impossible_and_one_above_is_not() -> None:
    assert "2.0 times faster" in quarantine.impossible(1.0, 2.0)
    assert quarantine.impossible(2.0, 1.0) == ""


def test_uneven_repeats_are_told_with_their_spread() -> None:
    assert "40%" in quarantine.uneven([1.0, 1.0, 1.0, 1.2, 0.8])
    assert quarantine.uneven([1.0, 1.01, 0.99, 1.0, 1.02]) == ""


def test_more_repeats_do_not_make_a_cell_uneven_by_their_number() -> None:
    assert quarantine.spread([1.0] * 48 + [0.5, 1.5]) == 0.0


def test_a_size_well_below_a_smaller_one_shrinks_and_noise_does_not() -> None:
    assert list(quarantine.shrinking({1: 1.0, 2: 0.95, 4: 2.0, 8: 1.5, 16: 3.0})) == [8]


def test_a_scaled_copy_is_found_and_like_measurements_are_not_one() -> None:
    series = [1.0 + 0.013 * index for index in range(20)]

    assert quarantine.scaled_copy(series, [1.3 * value for value in series]) is not None
    assert quarantine.scaled_copy(series, [1.3 * value for value in series[:-1]] + [1.31 * series[-1]]) is None
