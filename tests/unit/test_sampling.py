"""A token is chosen as the settings say, the same one from the same seed, on vocabularies of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwc.errors import IntegrityError, UsageError
from hwc.runtime.sampling import (
    BLOCK,
    Sampling,
    candidates,
    choose,
    draw,
    likeliest,
    nucleus,
    penalise,
    source_of_chance,
)

COARSE = st.integers(-40, 40).map(lambda value: value / 4)  # many are equal
LOGITS = arrays.arrays(np.float32, st.integers(2, 40), elements=COARSE)


def chosen(logits: np.ndarray, count: int = 200, **settings: Any) -> list[int]:
    sampling = Sampling(**settings)
    chance = source_of_chance(sampling)
    return [choose(logits, sampling, chance) for _ in range(count)]


def test_temperature_zero_takes_the_likeliest_and_the_lower_of_two() -> None:
    assert chosen(np.float32([1, 5, 5, -1]), count=3) == [1, 1, 1]


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert set(chosen(np.float32([1, 5, 4.9, -30000]), temperature=1e-6)) == {1}


def test_the_same_seed_gives_the_same_tokens_and_another_one_others() -> None:
    logits = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    first = chosen(logits, temperature=1.0, seed=7)
    assert chosen(logits, temperature=1.0, seed=7) == first
    assert chosen(logits, temperature=1.0, seed=8) != first


def test_rows_draw_differently_from_one_seed() -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    assert source_of_chance(sampling, 0).random() != source_of_chance(sampling, 1).random()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    logits = np.float32([2.0, 1.0, 0.0, -1.0, -np.inf])
    counts = np.bincount(chosen(logits, count=20_000, temperature=temperature), minlength=5) / 20_000
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    np.testing.assert_allclose(counts, expected, atol=0.015)
    assert counts[4] == 0


@given(LOGITS, st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest(logits: np.ndarray, count: int) -> None:
    ids, _ = candidates(logits, Sampling(temperature=1.0, top_k=count))
    ranked = np.argsort(-logits, kind="stable")[:count]
    expected = None if count >= logits.size else sorted(ranked)
    assert expected == (None if ids is None else list(ids))


@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_that_hold_the_share(logits: np.ndarray, share: float) -> None:
    weights = np.exp(logits - logits.max())
    kept = nucleus(weights, share)
    ranked = np.argsort(-weights, kind="stable")
    assert list(kept) == sorted(ranked[: kept.size])
    total = weights.sum(dtype=np.float64)
    assert weights[kept].sum(dtype=np.float64) >= share * total * (1 - 1e-9)
    assert weights[ranked[: kept.size - 1]].sum(dtype=np.float64) < share * total * (1 + 1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0, 8.0])
@pytest.mark.parametrize("vocabulary", [BLOCK - 1, BLOCK, 5 * BLOCK + 3, 262_144])
def test_large_vocabularies_are_cut_like_small_ones(spread: float, vocabulary: int) -> None:
    logits = (np.random.default_rng(5).normal(size=vocabulary) * spread).astype(np.float32)
    weights = np.exp(logits - logits.max())
    ranked = np.argsort(-logits, kind="stable")
    for count in (1, 40, BLOCK + 1):
        if count < vocabulary:
            assert list(likeliest(logits, count)) == sorted(ranked[:count])
    ranked = np.argsort(-weights, kind="stable")  # some logits differ, and their weights do not
    for share in (0.1, 0.9, 0.999):
        kept = nucleus(weights, share)
        reached = np.cumsum(weights[ranked], dtype=np.float64)
        needed = int(np.searchsorted(reached, share * reached[-1])) + 1
        assert abs(kept.size - needed) <= 1  # the sum is taken in another order
        assert list(kept) == sorted(ranked[: kept.size])


def test_top_p_acts_on_what_top_k_left() -> None:
    logits = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))
    assert set(chosen(logits, temperature=1.0, top_k=2, top_p=0.5)) == {0}
    assert set(chosen(logits, temperature=1.0, top_p=0.65)) == {0, 1}


MOSTLY_ZERO = arrays.arrays(np.float32, st.integers(1, 3 * BLOCK), elements=st.sampled_from([0.0, 1e-30, 0.5, 1.0]))


@given(MOSTLY_ZERO, st.data())
def test_a_weight_of_zero_is_never_drawn(weights: np.ndarray, data: st.DataObject) -> None:
    weights[data.draw(st.integers(0, weights.size - 1))] = 1.0
    chance = np.random.default_rng(data.draw(st.integers(0, 99)))
    assert all(weights[draw(weights, chance)] > 0 for _ in range(20))


def test_a_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    logits = np.float32([2.0, -2.0, 1.0])
    np.testing.assert_array_equal(penalise(logits, [0, 1, 1], 2.0), np.float32([1.0, -4.0, 1.0]))
    np.testing.assert_array_equal(logits, np.float32([2.0, -2.0, 1.0]))
    assert choose(logits, Sampling(repetition_penalty=3.0), source_of_chance(Sampling()), [0]) == 2


@pytest.mark.parametrize("logits", [[1.0, np.nan], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_logits_that_are_not_finite_are_an_error(logits: list[float]) -> None:
    with pytest.raises(IntegrityError, match="not finite"):
        chosen(np.float32(logits))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.1}, {"repetition_penalty": 0.0}, {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        Sampling(**settings)
