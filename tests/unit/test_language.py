"""Language-model metrics: reduced logits give an unbiased KL, agreement and perplexity, with honest errors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwc.capture import reduced
from hwc.capture.reduced import Reduced
from hwc.errors import IntegrityError, StepError, UsageError
from hwc.measure import clustered, language

POSITIONS, VOCABULARY = 96, 4096


def logits(seed: int, *, scale: float, shape: tuple[int, int] = (POSITIONS, VOCABULARY)) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def targets(seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, POSITIONS)


def log_softmax(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def exact_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    left, right = log_softmax(p), log_softmax(q)
    return np.asarray((np.exp(left) * (left - right)).sum(axis=1))


def pair(p: np.ndarray, q: np.ndarray, *, k: int = 128) -> tuple[Reduced, Reduced]:
    reference = reduced.reduce(p, targets(), k=k)
    return reference, reduced.at(q, reference, targets())


def windows(count: int = 8, domains: str = "ab") -> language.Places:
    return language.places([domains[number % len(domains)] for number in range(count)], POSITIONS // count)


def test_the_likeliest_tokens_are_kept_in_order_with_their_log_probabilities() -> None:
    values = logits(0, scale=3)
    found = reduced.reduce(values, targets(), k=16)
    due = log_softmax(values)
    assert np.array_equal(found.ids, np.argsort(-values, axis=1, kind="stable")[:, :16])
    np.testing.assert_allclose(found.logprobs, np.take_along_axis(due, found.ids.astype(int), 1), atol=2e-6)
    np.testing.assert_allclose(found.target_logprob, due[np.arange(POSITIONS), targets()], atol=2e-6)
    np.testing.assert_allclose(np.exp(found.logprobs).sum(1) + np.exp(found.tail_logprob), 1, atol=1e-6)
    assert np.array_equal(found.top1, values.argmax(1))


def test_equal_logits_are_kept_by_id_whatever_k_cuts_through() -> None:
    values = np.zeros((1, 100), np.float32)
    values[0, 60] = 1
    assert reduced.reduce(values, np.array([0]), k=4).ids.tolist() == [[60, 0, 1, 2]]


def test_huge_logits_neither_overflow_nor_lose_the_tail() -> None:
    values = np.full((2, 300), -1e4, np.float32)
    values[:, 0] = 1e4
    values[1, 200:] = 1e4 - 30
    found = reduced.reduce(values, np.array([0, 0]), k=4)
    assert np.isfinite(found.logprobs).all()
    assert found.tail_logprob[0] == -708
    assert found.tail_logprob[1] == pytest.approx(math.log(97) - 30, abs=1e-3)  # three of the hundred are kept


def test_a_vocabulary_smaller_than_k_is_kept_whole_and_its_kl_is_exact() -> None:
    p, q = logits(1, scale=1, shape=(POSITIONS, 50)), logits(2, scale=1, shape=(POSITIONS, 50))
    at_zero = np.zeros(POSITIONS, int)
    reference = reduced.reduce(p, at_zero)
    assert reference.ids.shape == (POSITIONS, 50)
    np.testing.assert_allclose(language.kl(reference, reduced.at(q, reference, at_zero)), exact_kl(p, q), atol=2e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_kl_of_buckets_is_a_lower_bound_short_by_the_kl_within_the_tail(scale: float, noise: float) -> None:
    p = logits(3, scale=scale)
    q = p + logits(4, scale=noise)
    reference, other = pair(p, q)
    found, exact = language.kl_of_buckets(reference, other), exact_kl(p, q)
    assert (found <= exact + 1e-6).all()
    tail = np.ones_like(p, bool)
    np.put_along_axis(tail, reference.ids.astype(int), False, axis=1)
    rest = POSITIONS, VOCABULARY - 128
    within = exact_kl(p[tail].reshape(rest), q[tail].reshape(rest))
    np.testing.assert_allclose(exact - found, np.exp(reference.tail_logprob) * within, atol=1e-6)


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 0.15, 0.25), (2.0, 0.5, 0.6), (4.0, 0.93, 0.97)])
def test_how_much_the_buckets_see_depends_on_how_peaked_the_model_is_and_kl_sees_all(
    scale: float, low: float, high: float
) -> None:
    """128 of 4,096 tokens hold a fifth of a flat distribution and nearly all of a peaked one."""
    p = logits(5, scale=scale)
    q = p + logits(6, scale=0.2)
    reference, other = pair(p, q)
    exact = exact_kl(p, q)
    assert low < language.kl_of_buckets(reference, other).mean() / exact.mean() < high
    error = language.kl(reference, other) - exact
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(POSITIONS) + 1e-6
    assert abs(error.mean()) < 0.05 * exact.mean()


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_kl_is_right_on_average_over_many_samples_of_one_position(noise: float) -> None:
    p = logits(25, scale=1.5)[:1]
    q = p + logits(26, scale=noise)[:1]
    target, draws = np.zeros(1, int), 400
    found = []
    for seed in range(draws):
        reference = reduced.reduce(p, target, k=8, seed=seed)
        found.append(float(language.kl(reference, reduced.at(q, reference, target))[0]))
    exact = float(exact_kl(p, q)[0])
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / math.sqrt(draws)
    assert np.std(found) / math.sqrt(draws) < 0.05 * exact


def test_the_sample_is_of_the_tail_alone_and_as_likely_as_the_model_says() -> None:
    p = np.tile(logits(27, scale=2, shape=(1, 64)), (500, 1))
    found = reduced.reduce(p, np.zeros(500, int), k=8)
    assert not np.isin(found.sampled_ids, found.ids[0]).any()
    counted = np.bincount(found.sampled_ids.reshape(-1), minlength=64) / found.sampled_ids.size
    due = np.exp(log_softmax(p[:1])[0])
    due[found.ids[0]] = 0
    np.testing.assert_allclose(counted, due / due.sum(), atol=0.002)


def test_a_model_equal_to_its_reference_measures_as_perfect() -> None:
    values = logits(7, scale=3)
    found = language.compare(*pair(values, values), windows())
    assert found["kl_mean"].value == found["kl_p99"].value == 0.0
    assert found["top1"].value == found["perplexity_ratio"].value == 1.0
    assert found["kl_mean"].ci95 == (0.0, 0.0)
    assert found["kl_mean"].n == POSITIONS
    assert language.parity(*pair(values, values)) == 0.0


def test_a_shift_of_all_logits_is_seen_by_parity_alone() -> None:
    values = logits(8, scale=3)
    reference, other = pair(values, values + np.float32(0.25))
    assert language.parity(reference, other) == pytest.approx(0.25, abs=1e-5)
    assert abs(language.kl(reference, other)).max() < 2e-6


def test_parity_sees_one_wrong_logit_among_the_kept_ones_and_counts_nan_as_infinite() -> None:
    values = logits(9, scale=3)
    wrong = values.copy()
    wrong[5, values[5].argmax()] += 1e-3
    reference, other = pair(values, wrong)
    assert language.parity(reference, other) == pytest.approx(1e-3, rel=0.01)
    assert language.parity(reference, replace(other, lse=np.full_like(other.lse, np.nan))) == math.inf


def test_perplexities_are_those_of_the_text() -> None:
    p, q = logits(10, scale=2), logits(11, scale=2)
    found = language.compare(*pair(p, q), windows())
    own = [-log_softmax(values)[np.arange(POSITIONS), targets()].mean() for values in (p, q)]
    assert found["perplexity_float"].value == pytest.approx(math.exp(own[0]), rel=1e-5)
    assert found["perplexity"].value == pytest.approx(math.exp(own[1]), rel=1e-5)
    assert found["perplexity_ratio"].value == pytest.approx(math.exp(own[1] - own[0]), rel=1e-5)


def test_pairing_takes_the_texts_own_difficulty_out_of_the_ratio() -> None:
    p = logits(12, scale=4)
    found = language.compare(*pair(p, p + logits(13, scale=0.05)), windows())
    assert found["perplexity_ratio"].standard_error < 0.05 * found["perplexity"].standard_error / found[
        "perplexity"
    ].value


def test_a_fault_in_one_domain_shows_there() -> None:
    p = logits(14, scale=4)
    places = windows(domains="ab")
    q = p.copy()
    in_b = np.isin(places.window, [number for number, name in enumerate(places.domains) if name == "b"])
    q[in_b] += logits(15, scale=1)[in_b]
    found = language.compare(*pair(p, q), places)
    assert found["kl_mean/a"].value == 0.0
    assert found["kl_mean/b"].value == pytest.approx(2 * found["kl_mean"].value)
    assert found["top1/b"].value < found["top1/a"].value == 1.0
    assert found["kl_mean/b"].n == POSITIONS // 2


def test_kl_vs_rtn_is_a_ratio_of_means_over_the_same_positions() -> None:
    p = logits(16, scale=4)
    noise = logits(17, scale=1)
    reference, ours = pair(p, p + np.float32(0.1) * noise)
    rtn = reduced.at(p + np.float32(0.2) * noise, reference, targets())
    found = language.kl_vs_rtn(reference, ours, rtn, windows())
    assert found.value == pytest.approx(0.25, abs=0.03)  # KL grows with the square of the error
    assert found.standard_error < 0.02
    assert language.kl_vs_rtn(reference, rtn, rtn, windows()).standard_error == pytest.approx(0, abs=1e-12)


def test_positions_that_do_not_match_are_refused() -> None:
    p = logits(18, scale=3)
    reference, other = pair(p, p)
    with pytest.raises(UsageError, match="96, 96 and 80 positions"):
        language.compare(reference, other, language.places(["a"] * 8, 10))
    with pytest.raises(UsageError, match="read at different tokens"):
        language.kl(reference, reduced.reduce(-p, targets()))
    with pytest.raises(UsageError, match="not alike"):
        reduced.reduce(p, targets()[1:])


def test_logits_that_are_not_finite_are_refused_as_the_models_or_the_artefacts_fault() -> None:
    p = logits(19, scale=3)
    reference, _ = pair(p, p)
    bad = p.copy()
    bad[7, 11] = np.nan
    with pytest.raises(IntegrityError, match="NaN or infinity") as caught:
        reduced.reduce(bad, targets())
    assert caught.value.where == "position 7"
    with pytest.raises(StepError, match="NaN or infinity"):
        reduced.at(bad, reference, targets())


def test_saved_records_come_back_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    found = reduced.join([reduced.reduce(logits(seed, scale=3), targets()) for seed in (20, 21)])
    assert found.ids.shape == (2 * POSITIONS, 128)
    reduced.save(tmp_path / "a.npz", found)
    again = reduced.load(tmp_path / "a.npz")
    reduced.save(tmp_path / "b.npz", again)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert language.parity(found, again) == 0.0


@pytest.mark.parametrize("damage", ["truncated", "shape", "dtype", "nan", "fewer", "absent"])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: str) -> None:
    found, file = reduced.reduce(logits(22, scale=3), targets()), tmp_path / "a.npz"
    changed = {
        "shape": {"lse": found.lse[1:]},
        "dtype": {"ids": found.ids.astype(np.int64)},
        "nan": {"lse": np.full_like(found.lse, np.nan)},
        "fewer": {"sampled_ids": found.sampled_ids[1:], "sampled_logprobs": found.sampled_logprobs[1:]},
    }
    reduced.save(file, replace(found, **changed.get(damage, {})))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    if damage == "absent":
        file.unlink()
    with pytest.raises(IntegrityError, match="not a record of reduced logits"):
        reduced.load(file)


def test_greedy_tokens_count_up_to_the_first_difference_on_the_worst_prompt() -> None:
    found = language.greedy_tokens([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 4], [5, 6, 7, 8]])
    assert (found.value, found.n) == (2.0, 2)
    assert language.greedy_tokens([[1, 2, 3]], [[1, 2]]).value == 2
    with pytest.raises(UsageError, match="not alike"):
        language.greedy_tokens([[1]], [])


# Errors against repeated experiments: windows of 16 positions, half of the variance shared within a window.


def correlated(rng: np.random.Generator, count: int, length: int = 16) -> tuple[np.ndarray, np.ndarray]:
    shared = rng.standard_normal(count).repeat(length)
    return (shared + rng.standard_normal(count * length)) ** 2, np.arange(count).repeat(length)


def test_the_clustered_error_is_the_spread_of_repeated_means_and_the_naive_one_is_too_small() -> None:
    rng = np.random.default_rng(0)
    found = [clustered.mean(*correlated(rng, 40)) for _ in range(400)]
    spread = np.std([row.value for row in found])
    told = np.mean([row.standard_error for row in found])
    naive = np.std(correlated(rng, 4000)[0]) / math.sqrt(40 * 16)
    assert told == pytest.approx(spread, rel=0.12)
    assert naive < 0.6 * spread


def test_the_ratios_error_is_the_spread_of_repeated_ratios() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        under, places = correlated(rng, 40)
        over = 0.5 * under + 0.1 * correlated(rng, 40)[0]
        found.append(clustered.ratio(over, under, places))
    told, spread = np.mean([row.standard_error for row in found]), np.std([row.value for row in found])
    assert told == pytest.approx(spread, rel=0.15)


def test_the_quantiles_interval_holds_the_true_one_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    true = np.quantile(correlated(rng, 40_000)[0], 0.99)
    found = [clustered.quantile(values, 0.99, places) for values, places in (correlated(rng, 96) for _ in range(300))]
    held = np.mean([row.ci95[0] <= true <= row.ci95[1] for row in found])
    assert 0.88 <= held <= 0.99


def test_one_window_tells_no_error() -> None:
    values = np.arange(5.0)
    for row in (
        clustered.mean(values, np.zeros(5, int)),
        clustered.quantile(values, 0.5, np.zeros(5, int)),
        clustered.ratio(values, values, np.zeros(5, int)),
    ):
        assert (row.standard_error, row.ci95) == (None, None)
