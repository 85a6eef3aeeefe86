"""Fit: one linear's codes, and its bias, to the inputs that calibration saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwc.formats import Format
from hwc.quantise import codes as canonical
from hwc.quantise import gptq
from hwc.quantise.awq import Place, choose, fold, folds
from hwc.quantise.codes import Codes
from hwc.quantise.finished import Finished, Solved
from hwc.quantise.grid import Grid, search_fp8, search_int4
from hwc.quantise.hessian import Moments, Problem, problem, shift
from hwc.quantise.linears import Linear
from hwc.quantise.segments import Group
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np


SAMPLED_OUTPUTS = 96
"""Outputs of each linear by which scales of inputs are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A solver: GPTQ on the scheme's grid, polished; a bias takes up the shift of the mean output."""

    weights: Weights
    finished: Finished
    biases: Mapping[str, str]
    """The bias weight of each layer that has one of its own."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where the scale of an input can go, by the input's name; elsewhere inputs are not scaled."""
    drift_share: float = 0.5
    """How much of the error of earlier layers a layer makes up for."""
    polish: gptq.Polish = field(default_factory=gptq.Polish)

    def scale(self, group: Group, weights: Sequence[np.ndarray], moments: Moments) -> np.ndarray | None:
        """Choose a scale for the inputs of int4 linears by what some of their outputs lose after the sweep."""
        import numpy as np

        place = self.places.get(group.source)
        forms = [linear.format for linear in group.linears]
        if place is None or not all(form is not None and form.kind == "int4" for form in forms) or not moments.rows:
            return None
        parts = [weight[:: max(1, len(weight) // SAMPLED_OUTPUTS)] for weight in weights]
        gram = moments.gram.astype(np.float32)

        def lost(scale: np.ndarray) -> list[float]:
            inner = moments.scaled(scale)
            found = []
            for part, form in zip(parts, forms, strict=True):
                assert form is not None
                stated = problem(part * scale, inner, centred=False, drift_share=0.0)
                values = gptq.sweep(stated, _grid(stated, form))
                found.append(gptq.loss(part.T, gram, values / scale[:, None]))
            return found

        sizes = np.sqrt(np.mean([np.square(part).mean(axis=0) for part in parts], axis=0))
        scale = choose(np.sqrt(moments.gram.diagonal() / moments.rows), sizes, lost)
        if scale is None or (place.layer and not folds(self.finished.read(place.layer).codes, scale)):
            return None
        return scale

    def __call__(self, linear: Linear, weight: np.ndarray, moments: Moments, scale: np.ndarray | None) -> Solved:
        """Return codes for a weight, float32 [N, K], and the scale beside them."""
        bias = self.biases.get(linear.layer)
        stated = problem(weight, moments, centred=bias is not None, drift_share=self.drift_share)
        assert linear.format is not None
        finished = self._solved(stated, linear.format)
        decoded = canonical.dequantise(finished)
        changed = {}
        if bias is not None:
            old = self.weights[bias]
            changed[bias] = (old + shift(weight, decoded, moments, drift_share=self.drift_share)).astype(old.dtype)
        return Solved(
            codes=finished, changed=changed, scale=scale, relative_error=_relative(stated, decoded),
            largest_input=moments.largest,
        )

    def changed(self, groups: Sequence[Group]) -> dict[str, Solved]:
        """Return what has to take scales back, by layer: linears in front, and float weights beside a group's first.

        A layer appears once here, whatever comes together in it.
        """
        made: dict[str, Solved] = {}
        for group in groups:
            first = group.linears[0].layer
            scale = self.finished.read(first).scale
            if scale is None:
                continue
            place = self.places[group.source]
            layer = place.layer or first
            solved = made.get(layer) or self.finished.read(layer)
            names = place.weights or tuple(name for name in (self.biases.get(layer),) if name)
            values = {name: solved.changed.get(name, self.weights[name]) / scale for name in names}
            coded = fold(solved.codes, scale) if place.layer else solved.codes
            made[layer] = replace(solved, codes=coded, changed={**solved.changed, **values})
        return made

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
