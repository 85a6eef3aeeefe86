"""GPTQ: codes chosen column by column, each error spread over the columns not yet chosen; then polished.

Source: Frantar et al., GPTQ (2023), with static groups and columns by descending Hessian diagonal. The polish is
coordinate descent on the same objective, and scales refitted by least squares with the codes held.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import StepError
from hwc.quantise.grid import Grid, Int4Grid
from hwc.quantise.hessian import Problem

if TYPE_CHECKING:
    import numpy as np

BLOCK = 128
"""Columns whose errors are gathered into one matrix product."""
REFIT_BYTES = 64 << 20
"""Bound on the normal equations held at once while scales are refitted."""
RIDGE = 1e-3
"""Pull of a refitted scale towards the old one, as a share of its curvature: a group of zeros keeps its scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polish:
    """What follows the sweep."""

    rounds: int = 3
    """Times that scales are refitted and codes descended."""
    descents: int = 2
    """Passes over all columns in one round."""


def solve(problem: Problem, grid: Grid, polish: Polish) -> tuple[Grid, np.ndarray]:
    """Return a grid and codes, uint8 [K, N], for a problem; raise StepError if its Hessian is not positive."""
    hessian, target = problem.hessian.astype("float32"), problem.target.T.copy()
    codes = sweep(problem, grid)
    for number in range(polish.rounds):
        if number and isinstance(grid, Int4Grid):
            grid = refit(target, hessian, grid, codes)
        for _ in range(polish.descents):
            descend(target, hessian, grid, codes)
    if polish.rounds and isinstance(grid, Int4Grid):
        grid = refit(target, hessian, grid, codes)
    return grid, codes


def sweep(problem: Problem, grid: Grid) -> np.ndarray:
    """Return codes, uint8 [K, N], by GPTQ's sweep."""
    import numpy as np

    order = np.argsort(-problem.hessian.diagonal(), kind="stable")
    upper = _inverse_factor(problem.hessian[np.ix_(order, order)])
    rest = np.ascontiguousarray(problem.target.T[order])
    codes = np.empty(rest.shape, np.uint8)
    k = len(order)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = np.empty((stop - start, rest.shape[1]), np.float32)
        for row in range(start, stop):
            column = int(order[row])
            codes[column] = grid.encode(rest[row], column)
            error = (rest[row] - grid.decode(codes[column], column)) / upper[row, row]
            rest[row + 1 : stop] -= upper[row, row + 1 : stop, None] * error
            errors[row - start] = error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return codes


def _inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Return the upper U, float32 [K, K], with Uᵀ·U = H⁻¹; from H = R·Rᵀ with R upper, U = R⁻¹."""
    import numpy as np

    try:
        lower = np.linalg.cholesky(hessian[::-1, ::-1])
    except np.linalg.LinAlgError as error:
        raise StepError(
            "a layer's calibration inputs give no positive Hessian", hint="use more or other calibration data"
        ) from error
    inverse: np.ndarray = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)
    return np.triu(inverse)


def decode(grid: Grid, codes: np.ndarray) -> np.ndarray:
    """Return the float32 [K, N] values of all codes."""
    import numpy as np

    return np.stack([grid.decode(codes[column], column) for column in range(len(codes))])


def loss(target: np.ndarray, hessian: np.ndarray, decoded: np.ndarray) -> float:
    """Return ``tr(Eᵀ·H·E)`` for E = target − decoded, both float32 [K, N]."""
    error = target - decoded
    return float((error * (hessian @ error)).sum(dtype="float64"))


def descend(target: np.ndarray, hessian: np.ndarray, grid: Grid, codes: np.ndarray) -> None:
    """Give each column in turn the codes that are best while the others are held, in place; the loss never rises."""
    import numpy as np

    decoded = decode(grid, codes)
    slope = hessian @ (target - decoded)
    for start in range(0, len(codes), BLOCK):
        stop = min(start + BLOCK, len(codes))
        moves = np.empty((stop - start, codes.shape[1]), np.float32)
        local = slope[start:stop].copy()
        for column in range(start, stop):
            row = column - start
            codes[column] = grid.encode(decoded[column] + local[row] / hessian[column, column], column)
            moves[row] = grid.decode(codes[column], column) - decoded[column]
            local -= hessian[start:stop, column, None] * moves[row]
        slope -= hessian[:, start:stop] @ moves


def refit(target: np.ndarray, hessian: np.ndarray, grid: Int4Grid, codes: np.ndarray) -> Int4Grid:
    """Refit all scales of each output channel together by least squares, codes held; keep those that help."""
    import numpy as np

    groups, n = grid.scales.shape
    rows = max(1, REFIT_BYTES // (4 * groups * groups + 12 * len(codes)))
    scales = grid.scales.copy()
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        steps = codes[:, part].astype(np.float32) - np.repeat(grid.zeros[:, part], grid.group_size, axis=0)
        scales[:, part] = _refitted(target[:, part], hessian, steps, grid.scales[:, part])
    return dataclasses.replace(grid, scales=scales)


def _refitted(target: np.ndarray, hessian: np.ndarray, steps: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Solve the normal equations of one set of channels: steps float32 [K, n], scales float32 [G, n]."""
    import numpy as np

    groups, n = old.shape
    size = len(steps) // groups
    curve = np.empty((groups, groups, n), np.float32)
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        curve[group] = ((hessian[:, own] @ steps[own]) * steps).reshape(groups, size, n).sum(axis=1)
    wanted = (steps * (hessian @ target)).reshape(groups, size, n).sum(axis=1)
    a, b, s = curve.transpose(2, 0, 1).astype(np.float64), wanted.T.astype(np.float64), old.T.astype(np.float64)
    diagonal = np.einsum("nii->ni", a)
    pull = RIDGE * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + np.finfo(np.float32).tiny
    damped = a + pull[:, :, None] * np.eye(groups)
    with np.errstate(over="ignore"):
        made = np.linalg.solve(damped, (b + pull * s)[..., None])[..., 0].astype(np.float16).astype(np.float64)
    made = np.where((made == 0) | ~np.isfinite(made), s, made)

    def cost(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("ni,nij,nj->n", x, a, x) - 2 * (x * b).sum(axis=1))

    return np.where((cost(made) < cost(s))[:, None], made, s).T.astype(np.float32)
