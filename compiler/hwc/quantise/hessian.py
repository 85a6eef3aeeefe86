"""Hessians: what a linear's calibration inputs say about the cost of an error in each of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import StepError
from hwc.quantise.together import together

if TYPE_CHECKING:
    import numpy as np

FLUSH_ROWS = 2048
"""Rows gathered before a product: short sequences one by one would spend their time adding K × K numbers."""
DAMP = 0.01
"""Share of the mean diagonal that is added to a Hessian (Frantar et al., GPTQ, 2023)."""
LEAF = 64
"""Rows up to which a triangular matrix is inverted as any other."""


class Moments:
    """Sums over the rows of one linear input X[T, K], as the float model makes it and as the quantised one does."""

    def __init__(self, k: int) -> None:
        import numpy as np

        self.rows = 0
        self.largest = 0.0
        """Largest size of a number in the quantised model's inputs."""
        self.gram = np.zeros((k, k), np.float64)
        """Xqᵀ Xq: the quantised model's inputs with themselves."""
        self.drift = np.zeros((k, k), np.float64)
        """(Xf − Xq)ᵀ Xq: what the layers before have already lost."""
        self.float_sum = np.zeros(k, np.float64)
        self.quantised_sum = np.zeros(k, np.float64)
        self.residual: np.ndarray | float = 0.0
        """(Rf − Rq)ᵀ Xq, [N, K]: what is already lost in the value that the output is added to; 0 if there is none."""
        self.residual_sum: np.ndarray | float = 0.0
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_lost: list[np.ndarray] = []
        self._metrics: dict[bool, Metric] = {}

    def add(self, float_rows: np.ndarray, quantised_rows: np.ndarray, lost_rows: np.ndarray | None = None) -> None:
        """Take float32 rows [T, K] of both streams, in the same order.

        ``lost_rows`` are rows Rf − Rq [T, N] of the value that the output is added to, given every time or never.
        """
        self.rows += len(float_rows)
        self.largest = max(self.largest, float(abs(quantised_rows).max(initial=0.0)))
        self.float_sum += float_rows.sum(axis=0, dtype="float64")
        self.quantised_sum += quantised_rows.sum(axis=0, dtype="float64")
        if lost_rows is not None:
            self.residual_sum = self.residual_sum + lost_rows.sum(axis=0, dtype="float64")
            self._pending_lost.append(lost_rows)
        self._pending.append((float_rows, quantised_rows))
        if sum(len(rows) for rows, _ in self._pending) >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Add what has been gathered."""
        import numpy as np

        if not self._pending:
            return
        same = all(exact is seen for exact, seen in self._pending)
        seen = np.concatenate([rows for _, rows in self._pending])
        if same:
            self.gram += seen.T @ seen
        else:
            exact = np.concatenate([rows for rows, _ in self._pending])
            exact -= seen
            gram, drift = together(lambda: seen.T @ seen, lambda: exact.T @ seen)
            self.gram += gram
            self.drift += drift
        if self._pending_lost:
            self.residual = self.residual + (np.concatenate(self._pending_lost).T @ seen).astype(np.float64)
        self._pending.clear()
        self._pending_lost.clear()

    def scaled(self, scale: np.ndarray) -> Moments:
        """Return the moments of the inputs X / scale, for a scale [K]; ``largest`` stays that of X."""
        made = Moments(0)
        made.rows, made.largest = self.rows, self.largest
        made.gram, made.drift = _over(self.gram, scale), _over(self.drift, scale)
        made.residual, made.residual_sum = self.residual / scale, self.residual_sum
        made.float_sum, made.quantised_sum = self.float_sum / scale, self.quantised_sum / scale
        return made

    def metric(self, *, centred: bool) -> Metric:
        """Return the metric of these inputs; linears that share them share it. Raises StepError if not positive."""
        if centred not in self._metrics:
            self._metrics[centred] = _metric(self, centred=centred)
        return self._metrics[centred]


def _over(sums: np.ndarray, scale: np.ndarray) -> np.ndarray:
    made: np.ndarray = sums / scale[:, None]
    made /= scale
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A damped Hessian and what is solved with it."""

    hessian: np.ndarray
    """float32 [K, K]."""
    order: np.ndarray
    """int [K]: columns by descending diagonal."""
    upper: np.ndarray
    """float64 [K, K]: the upper U with Uᵀ·U = H⁻¹, rows and columns in that order."""
    dead: np.ndarray
    """bool [K]: inputs that are always zero."""

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Return H⁻¹ · right for float64 [K, N]."""
        import numpy as np

        solved: np.ndarray = np.empty_like(right)
        solved[self.order] = self.upper.T @ (self.upper @ right[self.order])
        return solved


def metric_of(hessian: np.ndarray, dead: np.ndarray | None = None) -> Metric:
    """Factor a float64 Hessian [K, K]; raise StepError if it is not positive.

    From the reversed H = R·Rᵀ with R lower, U = R⁻¹ reversed back.
    """
    import numpy as np

    order = np.argsort(-hessian.diagonal(), kind="stable")
    back = order[::-1]
    try:
        lower = np.linalg.cholesky(hessian[np.ix_(back, back)])
    except np.linalg.LinAlgError as error:
        raise StepError(
            "a layer's calibration inputs give no positive Hessian", hint="use more or other calibration data"
        ) from error
    upper = np.ascontiguousarray(_inverse(lower)[::-1, ::-1])
    none = np.zeros(len(hessian), np.bool_) if dead is None else dead
    return Metric(hessian=hessian.astype(np.float32), order=order, upper=upper, dead=none)


def _inverse(lower: np.ndarray) -> np.ndarray:
    """Invert a lower triangular matrix by halves: most of the work becomes matrix products."""
    import numpy as np

    if len(lower) <= LEAF:
        return np.tril(np.linalg.inv(lower))
    half = len(lower) // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    made = np.zeros_like(lower)
    made[:half, :half], made[half:, half:] = first, last
    made[half:, :half] = -last @ (lower[half:, :half] @ first)
    return made


def _metric(moments: Moments, *, centred: bool) -> Metric:
    import numpy as np

    hessian = moments.gram.copy()
    if centred and moments.rows:
        hessian -= np.outer(moments.quantised_sum, moments.quantised_sum / moments.rows)
    diagonal = hessian.diagonal().copy()
    dead = diagonal <= 0
    mean_diagonal = float(diagonal[~dead].mean()) if (~dead).any() else 1.0
    hessian[dead, :] = 0
    hessian[:, dead] = 0
    hessian[np.diag_indices_from(hessian)] += DAMP * mean_diagonal
    return metric_of(hessian, dead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Find codes whose weight Q[N, K] has the least ``tr((target − Q) · H · (target − Q)ᵀ)``."""

    target: np.ndarray
    """float32 [N, K]: the weight, moved to make up for what the layers before lost."""
    metric: Metric


def problem(weight: np.ndarray, moments: Moments, *, centred: bool, drift_share: float) -> Problem:
    """State the problem of one weight, float32 [N, K].

    Minimising ‖W·Xf − Q·Xq‖² over Q is minimising ‖(W* − Q)·Xq‖² for W* = W + W·(Xf − Xq)·Xqᵀ·H⁻¹: the exact form of
    what GPTAQ (Li et al., 2025) corrects column by column. Where the output is added to a residual R, its error is met
    too: ‖Rf + W·Xf − Rq − Q·Xq‖² asks for (Rf − Rq)·Xqᵀ·H⁻¹ beside. ``drift_share`` scales both, 0 turns them off.
    ``centred`` takes the mean input out, for a linear whose bias makes up for it (see ``shift``).
    """
    import numpy as np

    metric, drift = moments.metric(centred=centred), moments.drift
    if not drift_share or not (drift.any() or np.any(moments.residual)):
        return Problem(target=weight, metric=metric)
    exact = weight.astype(np.float64)
    lost = exact @ drift + moments.residual
    if centred:
        sums = exact @ (moments.float_sum - moments.quantised_sum) + moments.residual_sum
        lost -= np.outer(sums, moments.quantised_sum / moments.rows)
    lost[:, metric.dead] = 0
    moved = exact + drift_share * metric.solve(np.ascontiguousarray(lost.T)).T
    return Problem(target=moved.astype(np.float32), metric=metric)


def shift(weight: np.ndarray, decoded: np.ndarray, moments: Moments, *, drift_share: float = 0.0) -> np.ndarray:
    """Return what to add to a linear's bias, float32 [N], so that its mean output stays what it was.

    A share of the mean error of the value that the output is added to is made up for as well.
    """
    import numpy as np

    if not moments.rows:
        return np.zeros(len(weight), np.float32)
    wanted = weight.astype(np.float64) @ (moments.float_sum / moments.rows)
    given = decoded.astype(np.float64) @ (moments.quantised_sum / moments.rows)
    return (wanted - given + drift_share * moments.residual_sum / moments.rows).astype(np.float32)
