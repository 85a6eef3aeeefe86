"""Reduced logits: what is kept of a language model's answers, small enough to store and to compare.

Logits are too big to keep: a vocabulary of 262,144 is one MiB a position. So they are reduced, for each position, to
the k likeliest tokens, one bucket for all others and a sample of those; every other model is read at the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.capture.golden import save_arrays
from hwc.errors import IntegrityError, StepError, UsageError

if TYPE_CHECKING:
    import numpy as np

KEPT_TOKENS = 128
SAMPLED_TOKENS = 32
"""Tokens drawn from the tail. The tail counts: beyond its 128 likeliest tokens SmolLM2 has 8 % of the mass."""
_LEAST_LOGPROB = -708.0
"""Logarithm of the smallest normal float64: an empty or vanishing bucket counts as this likely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """What is kept of a model's logits at P positions, natural logarithms throughout."""

    ids: np.ndarray
    """int32 [P, k]: the float model's likeliest tokens, likeliest first, equals by id."""
    logprobs: np.ndarray
    """float32 [P, k]: this model's log-probabilities of them."""
    tail_logprob: np.ndarray
    """float32 [P]: that of all other tokens together, summed from them and so not cancelled away."""
    sampled_ids: np.ndarray
    """int32 [P, s]: tokens of the tail, drawn with the float model's own probabilities."""
    sampled_logprobs: np.ndarray
    """float32 [P, s]: this model's log-probabilities of them."""
    lse: np.ndarray
    """float32 [P]: log Σ exp(logit), so that logit = logprob + lse."""
    top1: np.ndarray
    """int32 [P]: this model's own likeliest token, the lowest id among equals."""
    target_logprob: np.ndarray
    """float32 [P]: log-probability of the token that the text goes on with."""


def reduce(logits: np.ndarray, targets: np.ndarray, *, k: int = KEPT_TOKENS, seed: int = 0) -> Reduced:
    """Reduce the float model's logits, float32 [P, V], to its ``k`` likeliest tokens; ``targets`` is int [P].

    The logits of position p tell the token at p + 1, so for one window of ids: ``reduce(logits[:-1], ids[1:])``.
    ``seed`` draws the sample of the tail: give each window its number. Raises IntegrityError for logits that are not
    finite.
    """
    _refuse_not_finite(logits, IntegrityError, "the weights are damaged, or the inputs are outside the model's range")
    ids = _likeliest(logits, min(k, logits.shape[-1]))
    return _read(logits, ids, _sample(logits, ids, seed), targets)


def at(logits: np.ndarray, reference: Reduced, targets: np.ndarray) -> Reduced:
    """Read another model's logits, float32 [P, V], at the tokens of the float model's record; ``targets`` is int [P].

    Raises StepError for logits that are not finite.
    """
    _refuse_not_finite(logits, StepError, "the artefact computes something else than the model")
    return _read(logits, reference.ids, reference.sampled_ids, targets)


def _refuse_not_finite(logits: np.ndarray, error: type[IntegrityError | StepError], hint: str) -> None:
    import numpy as np

    for position, row in enumerate(logits):  # a row at a time: a mask of all would be large
        if not np.isfinite(row).all():
            raise error("logits hold NaN or infinity", where=f"position {position}", hint=hint)


def _likeliest(logits: np.ndarray, k: int) -> np.ndarray:
    """Return the ids of the k largest logits of each row; which of several equal ones is settled by id."""
    import numpy as np

    ids = np.empty((len(logits), k), np.int32)
    for place, row in enumerate(logits):
        least = np.partition(row, len(row) - k)[len(row) - k]
        above = np.flatnonzero(row > least)
        chosen = np.concatenate([above, np.flatnonzero(row == least)[: k - len(above)]])
        ids[place] = chosen[np.lexsort((chosen, -row[chosen]))]
    return ids


def _sample(logits: np.ndarray, ids: np.ndarray, seed: int) -> np.ndarray:
    """Draw tokens from the tail of each row by systematic sampling: one uniform offset, equal steps of probability."""
    import numpy as np

    sampled = np.empty((len(logits), SAMPLED_TOKENS), np.int32)
    offsets = np.random.default_rng(seed).random(len(logits))
    for place, row in enumerate(logits):
        weights = np.exp(row.astype(np.float64) - float(row.max()))
        weights[ids[place]] = 0.0
        reached = np.cumsum(weights)
        if not reached[-1] > 0:
            sampled[place] = ids[place, 0]  # an empty tail weighs nothing, whatever stands for it
            continue
        steps = (np.arange(SAMPLED_TOKENS) + offsets[place]) / SAMPLED_TOKENS * reached[-1]
        last = int(np.flatnonzero(weights)[-1])  # a step may round up to the sum itself
        sampled[place] = np.minimum(np.searchsorted(reached, steps, side="right"), last)
    return sampled


def _read(logits: np.ndarray, ids: np.ndarray, sampled: np.ndarray, targets: np.ndarray) -> Reduced:
    """Read logits at ids, in float64 a row at a time: a few MiB beside the logits, whatever P is."""
    import numpy as np

    if not len(logits) == len(ids) == len(targets):
        raise UsageError(f"{len(logits)} positions of logits, {len(ids)} of ids, {len(targets)} targets: not alike")
    chosen = np.column_stack([ids, sampled, targets]).astype(np.int64)
    logprobs = np.empty(chosen.shape, np.float32)
    tail, lse = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
    top1 = np.asarray(logits.argmax(axis=1), np.int32)
    for place, row in enumerate(logits):
        largest = float(row[top1[place]])
        weights = np.exp(row.astype(np.float64) - largest)
        log_sum = math.log(weights.sum())
        weights[ids[place]] = 0.0
        rest = float(weights.sum())
        tail[place] = max(math.log(rest) - log_sum, _LEAST_LOGPROB) if rest > 0 else _LEAST_LOGPROB
        lse[place] = largest + log_sum
        logprobs[place] = row[chosen[place]].astype(np.float64) - (largest + log_sum)
    kept = ids.shape[1]
    return Reduced(
        ids=ids, logprobs=logprobs[:, :kept], tail_logprob=tail, sampled_ids=sampled,
        sampled_logprobs=logprobs[:, kept:-1], lse=lse, top1=top1, target_logprob=logprobs[:, -1],
    )  # fmt: skip


def join(parts: Sequence[Reduced]) -> Reduced:
    """Put the positions of several calls behind one another."""
    import numpy as np

    return Reduced(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Reduced.__slots__})


def save(path: Path, reduced: Reduced) -> None:
    """Write a ``.npz`` whose bytes depend on the arrays alone."""
    save_arrays(path, {name: getattr(reduced, name) for name in Reduced.__slots__})


def load(path: Path) -> Reduced:
    """Read what ``save`` wrote; raise IntegrityError for a file that is damaged or holds something else."""
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in Reduced.__slots__}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"not a record of reduced logits: {error}", where=str(path)) from error
    matrices = {"ids": "ids", "logprobs": "ids", "sampled_ids": "sampled_ids", "sampled_logprobs": "sampled_ids"}
    for name, value in found.items():
        kind = np.int32 if name in {"ids", "sampled_ids", "top1"} else np.float32
        due = found[matrices[name]].shape if name in matrices else found["ids"].shape[:1]
        if value.ndim != 1 + (name in matrices) or value.shape != due or len(value) != len(found["ids"]):
            raise IntegrityError(f"not a record of reduced logits: the shape of `{name}`", where=str(path))
        if value.dtype != kind or not np.isfinite(value).all():
            raise IntegrityError(f"not a record of reduced logits: the values of `{name}`", where=str(path))
    return Reduced(**found)
