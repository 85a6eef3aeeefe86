"""Hessians: what a linear's calibration inputs say about the cost of an error in each of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FLUSH_ROWS = 1024
"""Rows gathered before a product: short sequences one by one would spend their time adding K × K numbers."""
DAMP = 0.01
"""Share of the mean diagonal that is added to a Hessian (Frantar et al., GPTQ, 2023)."""


class Moments:
    """Sums over the rows of one linear input X[T, K], as the float model makes it and as the quantised one does."""

    def __init__(self, k: int) -> None:
        import numpy as np

        self.rows = 0
        self.gram = np.zeros((k, k), np.float64)
        """Xqᵀ Xq: the quantised model's inputs with themselves."""
        self.drift = np.zeros((k, k), np.float64)
        """(Xf − Xq)ᵀ Xq: what the layers before have already lost."""
        self.float_sum = np.zeros(k, np.float64)
        self.quantised_sum = np.zeros(k, np.float64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, float_rows: np.ndarray, quantised_rows: np.ndarray) -> None:
        """Take float32 rows [T, K] of both streams, in the same order."""
        self.rows += len(float_rows)
        self.float_sum += float_rows.sum(axis=0, dtype="float64")
        self.quantised_sum += quantised_rows.sum(axis=0, dtype="float64")
        self._pending.append((float_rows, quantised_rows))
        if sum(len(rows) for rows, _ in self._pending) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Add what has been gathered."""
        import numpy as np

        if not self._pending:
            return
        exact = np.concatenate([rows for rows, _ in self._pending])
        seen = np.concatenate([rows for _, rows in self._pending])
        self._pending.clear()
        self.gram += seen.T @ seen
        if exact is not seen:
            self.drift += (exact - seen).T @ seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Find codes whose weight Q[N, K] has the least ``tr((target − Q) · hessian · (target − Q)ᵀ)``."""

    target: np.ndarray
    """float32 [N, K]: the weight, moved to make up for what the layers before lost."""
    hessian: np.ndarray
    """float64 [K, K], damped."""


def problem(weight: np.ndarray, moments: Moments, *, centred: bool, drift_share: float) -> Problem:
    """State the problem of one weight, float32 [N, K].

    Minimising ‖W·Xf − Q·Xq‖² over Q is minimising ‖(W* − Q)·Xq‖² for W* = W + W·(Xf − Xq)·Xqᵀ·H⁻¹: the exact form of
    what GPTAQ (Li et al., 2025) corrects column by column. ``drift_share`` scales the correction, 0 turns it off.
    ``centred`` takes the mean input out, for a linear whose bias makes up for it (see ``shift``).
    """
    import numpy as np

    hessian, drift = moments.gram.copy(), moments.drift
    if centred and moments.rows:
        mean = moments.quantised_sum / moments.rows
        hessian -= np.outer(moments.quantised_sum, mean)
        drift = drift - np.outer(moments.float_sum - moments.quantised_sum, mean)
    diagonal = hessian.diagonal().copy()
    dead = diagonal <= 0
    mean_diagonal = float(diagonal[~dead].mean()) if (~dead).any() else 1.0
    hessian[dead, :] = 0
    hessian[:, dead] = 0
    hessian[np.diag_indices_from(hessian)] += DAMP * mean_diagonal
    target = weight.astype(np.float64)
    if drift_share and drift.any():
        drift = np.where(dead[None, :], 0, drift)
        target = target + drift_share * np.linalg.solve(hessian, (target @ drift).T).T
    return Problem(target=target.astype(np.float32), hessian=hessian)


def shift(weight: np.ndarray, decoded: np.ndarray, moments: Moments) -> np.ndarray:
    """Return what to add to a linear's bias, float32 [N], so that its mean output stays what it was."""
    import numpy as np

    if not moments.rows:
        return np.zeros(len(weight), np.float32)
    wanted = weight.astype(np.float64) @ (moments.float_sum / moments.rows)
    given = decoded.astype(np.float64) @ (moments.quantised_sum / moments.rows)
    return (wanted - given).astype(np.float32)
