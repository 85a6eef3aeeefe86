"""Quality against the float model: the built-in evaluators, and the door for a user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import StepError, UsageError

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]
"""Output name to [items, …]."""
Evaluator = Callable[[Arrays, Arrays], Mapping[str, float]]


def evaluate(name: str, folder: Path, outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Compute an evaluator's metrics, with ``max_abs`` always among them.

    ``name`` is a built-in or ``file.py:function`` relative to ``folder``; the function takes two mappings of
    output name to float array [items, …], the artefact's and the float model's, and returns name to number.
    Raises StepError if it raises or returns something else.
    """
    function = _BUILT_IN.get(name) or _load(name, folder)
    try:
        measured = {str(key): float(value) for key, value in function(outputs, expected).items()}
    except (Exception, SystemExit) as error:
        raise StepError(f"evaluator {name} failed: {type(error).__name__}: {error}") from error
    bad = [key for key, value in measured.items() if not math.isfinite(value)]
    if bad:
        raise StepError(f"evaluator {name} returned a value that is not finite: {bad[0]}")
    return {"max_abs": max_abs(outputs, expected), **measured}


def _load(name: str, folder: Path) -> Evaluator:
    from hwc.capture.module import load_object

    file, colon, function = name.rpartition(":")
    if not colon:
        raise UsageError(f"unknown evaluator `{name}`", hint=f"known: {', '.join(_BUILT_IN)}, or file.py:function")
    loaded: Evaluator = load_object(folder / file, function)
    return loaded


def max_abs(outputs: Arrays, expected: Arrays) -> float:
    """Return the largest absolute difference; NaN counts as infinite."""
    import numpy as np

    worst = 0.0
    for name, value in expected.items():
        difference = float(np.max(np.abs(outputs[name].astype(np.float64) - value.astype(np.float64)), initial=0.0))
        worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


def _cosines(outputs: Arrays, expected: Arrays) -> np.ndarray:
    import numpy as np

    name = next(iter(expected))
    left = outputs[name].reshape(len(outputs[name]), -1).astype(np.float64)
    right = expected[name].reshape(len(expected[name]), -1).astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / np.maximum(norms, 1e-30))


def vector(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Cosine of the first output to the float model's: mean, its 95 % half-interval, and the worst item."""
    import numpy as np

    cosines = _cosines(outputs, expected)
    spread = float(np.std(cosines, ddof=1)) if len(cosines) > 1 else 0.0
    return {
        "cosine_mean": float(np.mean(cosines)),
        "cosine_mean_ci95": 1.96 * spread / math.sqrt(len(cosines)),
        "cosine_min": float(np.min(cosines)),
    }


def embedding(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Cosines, and how often an item's nearest neighbour among the items is the float model's."""
    import numpy as np

    def nearest(values: np.ndarray) -> np.ndarray:
        unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        return np.asarray(similarity.argmax(axis=1))

    name = next(iter(expected))
    same = nearest(outputs[name].astype(np.float64)) == nearest(expected[name].astype(np.float64))
    return {**vector(outputs, expected), **_share("nearest_neighbour", same)}


def classification(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Cosines of the logits, and how often the top class is the float model's; rows of zeros are filling."""
    name = next(iter(expected))
    held = expected[name].any(axis=-1).reshape(-1)
    same = (outputs[name].argmax(axis=-1) == expected[name].argmax(axis=-1)).reshape(-1)[held]
    return {**vector(outputs, expected), **_share("top1", same)}


def _share(name: str, same: np.ndarray) -> dict[str, float]:
    share = float(same.mean())
    return {name: share, f"{name}_ci95": 1.96 * math.sqrt(share * (1 - share) / len(same))}


_BUILT_IN: dict[str, Evaluator] = {"vector": vector, "embedding": embedding, "classification": classification}
