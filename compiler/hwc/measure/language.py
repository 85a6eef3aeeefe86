"""How near a language model stays to its float model: KL, agreement, perplexity and greedy text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.capture.reduced import Reduced
from hwc.errors import StepError, UsageError
from hwc.measure import clustered
from hwc.measure.clustered import Estimate

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where each of P positions stands."""

    window: np.ndarray
    """int [P]: number of the window that holds it."""
    domains: tuple[str, ...]
    """Domain of each window, by that number."""

    def by_domain(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each domain, in order of appearance, and bool [P]: which positions are of it."""
        import numpy as np

        for domain in dict.fromkeys(self.domains):
            numbers = [number for number, name in enumerate(self.domains) if name == domain]
            yield domain, np.isin(self.window, numbers)


def places(domains: Sequence[str], positions_per_window: int) -> Places:
    """Return the places of windows that are scored at equally many positions each, one behind the other."""
    import numpy as np

    return Places(window=np.repeat(np.arange(len(domains)), positions_per_window), domains=tuple(domains))


def kl(reference: Reduced, other: Reduced) -> np.ndarray:
    """Return KL(p ‖ q) in nats, float64 [P]: p the float model, q the other; an unbiased estimate.

    The chain rule splits KL into that over the kept tokens and one bucket of all others, which is computed
    (``kl_of_buckets``), and the bucket's mass times the KL within it, which is estimated from the sampled tokens: the
    mean of r − 1 − log r, where r is the ratio of q to p given the bucket. Since r is 1 on average, this is unbiased,
    and no term is negative (J. Schulman, "Approximating KL divergence", 2020). Values are not clipped: rounding to
    float32 leaves ±1e-6 about 0.
    """
    import numpy as np

    buckets = kl_of_buckets(reference, other)
    within = [one.sampled_logprobs.astype(np.float64) - one.tail_logprob[:, None] for one in (reference, other)]
    log_ratio = within[1] - within[0]
    mass = np.exp(reference.tail_logprob.astype(np.float64))
    return np.asarray(buckets + mass * (np.expm1(log_ratio) - log_ratio).mean(axis=1))


def kl_of_buckets(reference: Reduced, other: Reduced) -> np.ndarray:
    """Return a lower bound of KL(p ‖ q) in nats, float64 [P]: Σ p (log p − log q) over kept tokens and one tail bucket.

    Merging tokens cannot raise KL (the log-sum inequality). On small language models the bound is a tenth too low, so
    ``kl`` adds what it lacks.
    """
    import numpy as np

    _refuse_other_tokens(reference, other)
    p, q = (np.column_stack([one.logprobs, one.tail_logprob]).astype(np.float64) for one in (reference, other))
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def _refuse_other_tokens(reference: Reduced, other: Reduced) -> None:
    import numpy as np

    for left, right in ((reference.ids, other.ids), (reference.sampled_ids, other.sampled_ids)):
        if not np.array_equal(left, right):
            raise UsageError("the two models were read at different tokens")


def parity(reference: Reduced, artefact: Reduced) -> float:
    """Return the largest absolute difference of logits at the recorded tokens, and of the log-sum-exp.

    ``reference`` is ONNX Runtime on the same quantised graph. A difference of logits alike at every token shows here
    and in no probability. NaN counts as infinite.
    """
    import numpy as np

    _refuse_other_tokens(reference, artefact)

    def logits(one: Reduced) -> np.ndarray:
        lse = one.lse.astype(np.float64)[:, None]
        return np.hstack([lse, lse + one.logprobs, lse + one.sampled_logprobs, lse + one.target_logprob[:, None]])

    worst = float(np.max(np.abs(logits(reference) - logits(artefact)), initial=0.0))
    return math.inf if math.isnan(worst) else worst


def compare(reference: Reduced, other: Reduced, at: Places) -> dict[str, Estimate]:
    """Return every metric over all positions, and by domain as ``metric/domain``.

    ``kl_mean`` and ``kl_p99`` in nats; ``top1``, the share of positions at which both models' likeliest token is the
    same; ``perplexity_ratio``, the other's over the float model's, with ``perplexity`` and ``perplexity_float`` behind
    it. All are paired by position, with standard errors clustered by window; intervals are 95 %. Raises UsageError if
    the positions do not match, StepError if a metric is not finite.
    """
    if not len(reference.lse) == len(other.lse) == len(at.window) or not len(at.window):
        counts = f"{len(reference.lse)}, {len(other.lse)} and {len(at.window)}"
        raise UsageError(f"{counts} positions of reference, other and places: not alike, or none")
    per_position = _PerPosition(
        kl=kl(reference, other),
        same=reference.top1 == other.top1,
        reference=reference.target_logprob.astype("float64"),
        other=other.target_logprob.astype("float64"),
    )
    found = _metrics(per_position, at.window)
    for domain, held in at.by_domain():
        found |= {f"{name}/{domain}": row for name, row in _metrics(per_position.of(held), at.window[held]).items()}
    bad = [name for name, row in found.items() if not math.isfinite(row.value)]
    if bad:
        raise StepError(f"the metric {bad[0]} is not finite")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _PerPosition:
    """What is known at each position, [P]: KL, agreement, and both models' log-probability of the next token."""

    kl: np.ndarray
    same: np.ndarray
    reference: np.ndarray
    other: np.ndarray

    def of(self, held: np.ndarray) -> _PerPosition:
        return _PerPosition(
            kl=self.kl[held], same=self.same[held], reference=self.reference[held], other=self.other[held]
        )


def _metrics(found: _PerPosition, window: np.ndarray) -> dict[str, Estimate]:
    return {
        "kl_mean": clustered.mean(found.kl, window),
        "kl_p99": clustered.quantile(found.kl, 0.99, window),
        "top1": _within(clustered.mean(found.same.astype("float64"), window), 0.0, 1.0),
        "perplexity_ratio": _exponential(clustered.mean(found.reference - found.other, window)),
        "perplexity": _exponential(clustered.mean(-found.other, window)),
        "perplexity_float": _exponential(clustered.mean(-found.reference, window)),
    }


def _within(row: Estimate, least: float, most: float) -> Estimate:
    interval = row.ci95 and (max(row.ci95[0], least), min(row.ci95[1], most))
    return Estimate(value=row.value, standard_error=row.standard_error, ci95=interval, n=row.n)


def _exponential(row: Estimate) -> Estimate:
    """Return exp of a mean of logarithms: error by the delta method, interval by exp of its ends."""
    value = _exp(row.value)
    error = None if row.standard_error is None else value * row.standard_error
    interval = row.ci95 and (_exp(row.ci95[0]), _exp(row.ci95[1]))
    return Estimate(value=value, standard_error=error, ci95=interval, n=row.n)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def kl_vs_rtn(reference: Reduced, other: Reduced, rtn: Reduced, at: Places) -> Estimate:
    """Return a scheme's mean KL as a share of that of round to nearest at equal bits, over the same positions."""
    return clustered.ratio(kl(reference, other), kl(reference, rtn), at.window)


def greedy_tokens(expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> Estimate:
    """Return how many greedy tokens equal the float model's before the first that does not: the least of all prompts.

    After the first difference the two go on from different texts, so later equal tokens count for nothing. ``n`` is the
    number of prompts.
    """
    if not expected or len(expected) != len(found):
        raise UsageError(f"greedy tokens of {len(expected)} and of {len(found)} prompts: not alike, or none")
    equal = [_leading(one, other) for one, other in zip(expected, found, strict=True)]
    return Estimate(value=float(min(equal)), n=len(equal))


def _leading(expected: Sequence[int], found: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return place
    return min(len(expected), len(found))
