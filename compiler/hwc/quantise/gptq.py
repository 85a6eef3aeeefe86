"""GPTQ: values chosen column by column, each error spread over the columns not yet chosen; then polished.

Source: Frantar et al., GPTQ (2023), with static groups and columns by descending Hessian diagonal. The polish is
coordinate descent on the same objective, and scales refitted by least squares with the steps held.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.quantise.grid import Grid, Int4Grid
from hwc.quantise.hessian import Problem

if TYPE_CHECKING:
    import numpy as np

BLOCK = 32
"""Columns whose errors are gathered into one matrix product: up to there they are spread one by one, in cache."""
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
    """Return a grid and values on it, float32 [K, N], for a problem."""
    hessian, target = problem.metric.hessian, problem.target.T.copy()
    values = sweep(problem, grid)
    for number in range(polish.rounds):
        if number and isinstance(grid, Int4Grid):
            grid, values = refit(target, hessian, grid, values)
        for _ in range(polish.descents):
            descend(target, hessian, grid, values)
    if polish.rounds and isinstance(grid, Int4Grid):
        grid, values = refit(target, hessian, grid, values)
    return grid, values


def sweep(problem: Problem, grid: Grid) -> np.ndarray:
    """Return values on the grid, float32 [K, N], by GPTQ's sweep."""
    import numpy as np

    order, upper = problem.metric.order, problem.metric.upper.astype(np.float32)
    rest = np.ascontiguousarray(problem.target.T[order])
    values = np.empty_like(rest)
    k = len(order)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        panel, spread = rest[start:stop], upper[start:stop]
        errors = np.empty_like(panel)
        for row, column in enumerate(order[start:stop].tolist()):
            values[column] = grid.nearest(panel[row], column)
            np.subtract(panel[row], values[column], out=errors[row])
            errors[row] /= spread[row, start + row]
            panel[row + 1 :] -= spread[row, start + row + 1 : stop, None] * errors[row]
        rest[stop:] -= spread[:, stop:].T @ errors
    return values


def loss(target: np.ndarray, hessian: np.ndarray, values: np.ndarray) -> float:
    """Return ``tr(Eᵀ·H·E)`` for E = target − values, both float32 [K, N]."""
    error = target - values
    return float((error * (hessian @ error)).sum(dtype="float64"))


def descend(target: np.ndarray, hessian: np.ndarray, grid: Grid, values: np.ndarray) -> None:
    """Give each column in turn the values that are best while the others are held, in place; the loss never rises."""
    import numpy as np

    slope = hessian @ (target - values)
    k = len(values)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        panel, curve = slope[start:stop], hessian[start:stop]
        moves = np.empty_like(panel)
        for row in range(stop - start):
            column = start + row
            found = grid.nearest(values[column] + panel[row] / curve[row, column], column)
            np.subtract(found, values[column], out=moves[row])
            values[column] = found
            panel[row + 1 :] -= curve[row, column + 1 : stop, None] * moves[row]
        slope[stop:] -= curve[:, stop:].T @ moves


def refit(
    target: np.ndarray, hessian: np.ndarray, grid: Int4Grid, values: np.ndarray
) -> tuple[Int4Grid, np.ndarray]:
    """Refit all scales of each output channel together by least squares, steps held; keep those that help."""
    import numpy as np

    groups, n = grid.scales.shape
    rows = max(1, REFIT_BYTES // (4 * groups * groups + 12 * len(values)))
    scales, moved = grid.scales.copy(), np.empty_like(values)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        old = grid.scales[:, part]
        steps = np.rint(values[:, part] / np.repeat(old, grid.group_size, axis=0))
        scales[:, part] = _refitted(target[:, part], hessian, steps, old)
        moved[:, part] = steps * np.repeat(scales[:, part], grid.group_size, axis=0)
    return dataclasses.replace(grid, scales=scales), moved


def _refitted(target: np.ndarray, hessian: np.ndarray, steps: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Solve the normal equations of one set of channels: steps float32 [K, n], scales float32 [G, n]."""
    import numpy as np

    groups, n = old.shape
    size = len(steps) // groups
    curve = np.empty((groups, groups, n), np.float32)
    for group in range(groups):
        own, stop = slice(group * size, (group + 1) * size), (group + 1) * size
        product = hessian[:stop, own] @ steps[own]
        product *= steps[:stop]
        curve[group, : group + 1] = product.reshape(group + 1, size, n).sum(axis=1)
        curve[:group, group] = curve[group, :group]
    wanted = (steps * (hessian @ target)).reshape(groups, size, n).sum(axis=1)
    a, b, s = curve.transpose(2, 0, 1).astype(np.float64), wanted.T.astype(np.float64), old.T.astype(np.float64)
    diagonal = np.einsum("nii->ni", a)
    pull = RIDGE * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + np.finfo(np.float32).tiny
    damped = a + pull[:, :, None] * np.eye(groups)
    with np.errstate(over="ignore"):
        made = np.linalg.solve(damped, (b + pull * s)[..., None])[..., 0].astype(np.float16).astype(np.float64)
    made = np.where((made == 0) | ~np.isfinite(made), s, made)

    def cost(x: np.ndarray) -> np.ndarray:
        return np.asarray((x * ((a @ x[..., None])[..., 0] - 2 * b)).sum(axis=1))

    return np.where((cost(made) < cost(s))[:, None], made, s).T.astype(np.float32)
