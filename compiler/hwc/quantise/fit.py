"""Fit: one linear's codes, and its bias, to the inputs that calibration saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwc.quantise import codes as canonical
from hwc.quantise import gptq
from hwc.quantise.codes import Codes
from hwc.quantise.finished import Solved
from hwc.quantise.formats import Format
from hwc.quantise.grid import Grid, search_fp8, search_int4
from hwc.quantise.hessian import Moments, Problem, problem, shift
from hwc.quantise.linears import Linear
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A solver: GPTQ on the scheme's grid, polished; a bias takes up the shift of the mean output."""

    weights: Weights
    biases: Mapping[str, str]
    """The bias weight of each layer that has one of its own."""
    drift_share: float = 0.5
    """How much of the error of earlier layers a layer makes up for."""
    polish: gptq.Polish = field(default_factory=gptq.Polish)

    def __call__(self, linear: Linear, weight: np.ndarray, moments: Moments) -> Solved:
        """Return codes for a weight, float32 [N, K]."""
        bias = self.biases.get(linear.layer)
        stated = problem(weight, moments, centred=bias is not None, drift_share=self.drift_share)
        assert linear.format is not None
        finished = self._solved(stated, linear.format)
        decoded = canonical.dequantise(finished)
        changed = {}
        if bias is not None:
            old = self.weights[bias]
            changed[bias] = (old + shift(weight, decoded, moments)).astype(old.dtype)
        return Solved(codes=finished, changed=changed, relative_error=_relative(stated, decoded))

    def _solved(self, stated: Problem, form: Format) -> Codes:
        if form.kind == "int8":  # 256 steps: what GPTQ would gain is below what calibration data can tell
            return canonical.nearest(stated.target, form)
        grid, values = gptq.solve(stated, _grid(stated, form), self.polish)
        return grid.finish(values)


def _grid(stated: Problem, form: Format) -> Grid:
    importance = stated.metric.hessian.diagonal()
    if form.kind == "fp8":
        return search_fp8(stated.target, importance)
    return search_int4(stated.target, importance, group_size=form.group_size, symmetric=form.symmetric)


def _relative(stated: Problem, decoded: np.ndarray) -> float:
    import numpy as np

    hessian, target = stated.metric.hessian, stated.target.T
    size = gptq.loss(target, hessian, np.zeros_like(target))
    return gptq.loss(target, hessian, decoded.T) / size if size else 0.0
