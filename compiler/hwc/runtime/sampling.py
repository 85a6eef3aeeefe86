"""Sampling: from the logits of one position to one token, greedily or by chance from a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np

NUCLEUS_STEP = 16.0
"""How much deeper below the likeliest token the nucleus is looked for, each time it was not found whole."""
BLOCK = 512
"""Tokens that are summed, or of which the highest is taken, before any is looked at: of a large vocabulary few are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is chosen; temperature 0 takes the likeliest and uses no chance."""

    temperature: float = 0.0
    top_k: int = 0
    """Draw from that many likeliest tokens alone; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that hold this share of the probability; 1: from all."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that were there before, multiplies negative ones; 1: none. Of CTRL
    (arXiv 1909.05858, section 4.1)."""
    seed: int = 0
    """The same seed, prompt and artefact give the same tokens."""

    def __post_init__(self) -> None:
        warm = self.temperature >= 0 and math.isfinite(self.temperature)
        _require(warm, "temperature", self.temperature, "0 or more")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all tokens) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, up to 1")
        penalty = self.repetition_penalty
        _require(penalty > 0 and math.isfinite(penalty), "repetition_penalty", penalty, "above 0; 1 is none")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")


def _require(held: bool, name: str, value: float, range_text: str) -> None:
    if not held:
        raise UsageError(f"{name} is {value}", where=f"sampling: {name}", hint=f"{name} is {range_text}")


def source_of_chance(sampling: Sampling, row: int = 0) -> np.random.Generator:
    """Return the random numbers of one row: they do not depend on the rows beside it."""
    import numpy as np

    return np.random.default_rng([sampling.seed, row])


def choose(logits: np.ndarray, sampling: Sampling, chance: np.random.Generator, seen: Sequence[int] = ()) -> int:
    """Return a token for logits float32 [vocab]; ``seen`` are the tokens before it.

    Penalty, temperature, top-k and top-p act in this order, each on what the one before left. Of equally likely
    tokens the lower id counts as the likelier. Raises IntegrityError for logits that hold NaN or +∞ or nothing finite.
    """
    import numpy as np

    if not math.isfinite(float(logits.max())):  # the maximum of anything with NaN in it is NaN
        raise IntegrityError("the artefact's logits are not finite", hint="`hwc check` tells how far it is off")
    if sampling.repetition_penalty != 1.0 and len(seen):
        logits = penalise(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    ids, weights = candidates(logits, sampling)
    return int(draw(weights, chance) if ids is None else ids[draw(weights, chance)])


def penalise(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Return logits float32 [vocab] in which tokens that were there before are less likely, each once."""
    import numpy as np

    ids = np.unique(np.asarray(seen, np.int64))
    found = logits[ids]
    changed = logits.copy()
    changed[ids] = np.where(found > 0, found / penalty, found * penalty)
    return changed


def candidates(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the tokens to draw from, int64 [n], and their weights, float32 [n], not normalised.

    No tokens (None): every token of the vocabulary is drawn from, in the order of its id.
    """
    import numpy as np

    ids = None
    if 0 < sampling.top_k < logits.size:
        ids = likeliest(logits, sampling.top_k)
        logits = logits[ids]
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature: weights of 0
        weights = np.exp((logits - logits.max()) / np.float32(max(sampling.temperature, 1e-30)))
    if sampling.top_p < 1:
        kept = nucleus(weights, sampling.top_p)
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]
    return ids, weights


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """Return the ids int64 [count], in order, of the highest logits float32 [vocab]; 0 < count < vocab.

    The highest of each block are looked at first: as many logits as there are blocks lie above the lowest of those.
    """
    import numpy as np

    heads = np.maximum.reduceat(logits, np.arange(0, logits.size, BLOCK))
    found = logits
    if count <= heads.size:
        found = np.compress(logits >= np.partition(heads, heads.size - count)[heads.size - count], logits)
    return _highest(logits, np.partition(found, found.size - count)[found.size - count], count)


def nucleus(weights: np.ndarray, share: float) -> np.ndarray:
    """Return the places int64 [n], in order, of the fewest weights float32 [m] whose sum is ``share`` of all.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration (arXiv 1904.09751), section 3.1. What lies
    above a threshold is looked at, not the vocabulary: the threshold falls until what is above it holds the share.
    """
    import numpy as np

    wanted = share * float(weights.sum(dtype=np.float64))
    threshold = float(weights.max())
    while True:
        threshold = threshold / NUCLEUS_STEP if threshold > np.finfo(np.float32).tiny else 0.0
        above = np.compress(weights >= threshold, weights)
        if above.size == weights.size or float(above.sum(dtype=np.float64)) >= wanted:
            break
    return _highest(weights, *_lowest_needed(above, wanted))


def _lowest_needed(weights: np.ndarray, wanted: float) -> tuple[float, int]:
    """Return the lowest of the fewest weights float32 [n] whose sum is at least ``wanted``, and how many they are.

    Halves, likelier and less likely, are parted until a few are left to sort: in all the cost of two partitions.
    """
    import numpy as np

    count = 0
    while weights.size > BLOCK:
        weights = np.partition(weights, weights.size // 2)
        upper = weights[weights.size // 2 :]
        held = float(upper.sum(dtype=np.float64))
        if held >= wanted:
            weights = upper
        else:
            wanted -= held
            count += upper.size
            weights = weights[: weights.size // 2]
    ranked = np.sort(weights)[::-1]
    more = min(int(np.searchsorted(np.cumsum(ranked, dtype=np.float64), wanted)) + 1, ranked.size)
    return ranked[more - 1], count + more


def _highest(values: np.ndarray, least: float, count: int) -> np.ndarray:
    """Return the places int64 [count], in order, of the highest values, of which ``least`` is the lowest."""
    import numpy as np

    places = np.flatnonzero(values >= least)
    if places.size == count:
        return places
    equal = np.flatnonzero(values[places] == least)
    return np.delete(places, equal[count - places.size :])


def draw(weights: np.ndarray, chance: np.random.Generator) -> int:
    """Return a place in weights float32 [n], each as likely as its weight; one random number is used."""
    import numpy as np

    sums = np.add.reduceat(weights, np.arange(0, weights.size, BLOCK), dtype=np.float64)
    reached = np.cumsum(sums)
    point = min(chance.random() * reached[-1], np.nextafter(reached[-1], 0))
    block = int(np.searchsorted(reached, point, side="right"))
    inside = weights[block * BLOCK : (block + 1) * BLOCK]
    left = max(point - (reached[block] - sums[block]), 0.0)  # rounding may make it negative
    place = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), left, side="right"))
    if place == inside.size:  # rounding at the block's end
        place = int(np.flatnonzero(inside)[-1])
    return block * BLOCK + place
