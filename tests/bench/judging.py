"""Whether a contestant answers rightly: its answer beside the float reference and beside its own codes, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contestants import Precision

LEAST_COSINE: Mapping[Precision, float] = {"float": 0.99999, "8 bits": 0.9, "4 bits": 0.9}
"""On text, MiniLM in int4 keeps 0.976 at 512 tokens and ONNX Runtime's dynamic int8, a scale a tensor, 0.931."""
MOST_AWAY = 0.1
"""Relative error against strict float32 arithmetic on the same codes: one product of int8 activations gives 0.004."""
LEAST_AGREED: Mapping[Precision, float] = {"float": 0.96, "8 bits": 0.85, "4 bits": 0.4}
"""Share of a float model's greedy tokens that a language model must find likeliest too; one may be a tie."""
MOST_KL: Mapping[Precision, float] = {"float": 1e-3, "8 bits": 0.1, "4 bits": 1.0}
"""Nats to the float model: rounding SmolLM2 to nearest in int4 gives 0.3 to 0.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is right for one case."""

    floats: np.ndarray
    """Answer of the float model, in ONNX Runtime without optimisation."""
    same_codes: Mapping[str, np.ndarray]
    """By contestant, the answer to its own codes in float32."""


def judge(answer: np.ndarray, reference: Reference, name: str, precision: Precision) -> dict[str, float | bool | None]:
    """Return the cosine to the float model, the error against the same codes (None: unknown), and whether it is right.

    Cosines are of rows, their mean.
    """
    if answer.shape != reference.floats.shape or not np.isfinite(answer).all():
        return {"cosine": None, "same_codes": None, "right": False}
    rows, wanted = (value.reshape(len(value), -1).astype(np.float64) for value in (answer, reference.floats))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = float(((rows * wanted).sum(axis=1) / np.maximum(norms, 1e-30)).mean())
    exact = reference.same_codes.get(name)
    away = None if exact is None else relative(answer, exact)
    right = cosine >= LEAST_COSINE[precision] and (away is None or away <= MOST_AWAY)
    return {"cosine": cosine, "same_codes": away, "right": right}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return |found − wanted| ÷ |wanted|, Frobenius norms."""
    return float(np.linalg.norm((found - wanted).astype(np.float64)) / np.linalg.norm(wanted.astype(np.float64)))


def judge_tokens(
    logits: np.ndarray, tokens: Sequence[int], precision: Precision, floats: np.ndarray | None
) -> dict[str, float | bool | None]:
    """Judge logits [tokens, vocabulary] at which a float model says ``tokens``, fed to both.

    ``agreed`` is the share found likeliest too; ``kl`` the mean divergence from ``floats``, a float model's logits.
    """
    if not np.isfinite(logits).all():
        return {"agreed": None, "kl": None, "right": False}
    agreed = float((logits.argmax(axis=1) == np.asarray(tokens)).mean())
    kl = None if floats is None else divergence(floats, logits)
    right = agreed >= LEAST_AGREED[precision] and (kl is None or kl <= MOST_KL[precision])
    return {"agreed": agreed, "kl": kl, "right": right}


def divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return KL(wanted ‖ found) in nats, the mean over rows of logits."""
    one, other = (_log_softmax(logits.astype(np.float64)) for logits in (wanted, found))
    return float((np.exp(one) * (one - other)).sum(axis=1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


