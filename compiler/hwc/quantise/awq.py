"""AWQ: inputs of linears scaled channel by channel, where what makes them can take the scale back.

A linear's weight times s, and its input over s, give the same output; but the steps of a group of weights then lie
where the inputs need them. Source: Lin et al., AWQ (2023); here s is chosen by what is lost after GPTQ's sweep.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.quantise.codes import Codes
from hwc.quantise.linears import Linear, candidates
from hwc.quantise.segments import Group

if TYPE_CHECKING:
    import numpy as np
    import onnx

INPUT_POWERS = (0.125, 0.25, 0.375, 0.5)
WEIGHT_POWERS = (1 / 6, 1 / 3, 1 / 2)
"""Candidates are sizeˣ of the inputs and then, x chosen, that over sizeʸ of the weights, both root mean squares."""
RANGE = 16.0
"""Bound on a channel's scale and on its inverse, the geometric mean being 1: float16 scales have to hold it."""
LEAST_GAIN = 0.01
"""Share of the loss below which a scale is not worth a float weight of the scheme's own."""
SCALE_ERROR = 2.0**-10
"""How far a float16 scale may be from what it ought to be once a scale is folded into it: half a step is 2⁻¹¹."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What makes the input [..., K] of a group of linears and no one else, and can be divided by a scale [K]."""

    weights: tuple[str, ...] = ()
    """Float weights [K]: a norm's weight, and its bias if it has one."""
    layer: str = ""
    """Or a quantised linear with K outputs, whose scales and bias can."""


def places(model: onnx.ModelProto, groups: Sequence[Group], biases: Mapping[str, str]) -> dict[str, Place]:
    """Return the place of each group's input that has one, by the input's name.

    The input is a product of a weight [K] and something, a LayerNormalization, or a product of a linear's output and
    something (a gated network's ``down(act(gate) · up)``). No node beside the group may read it, and none beside the
    product the weight or the linear's output.
    """
    finder = _Finder(model, [linear for group in groups for linear in group.linears], biases)
    found = {group.source: finder.place(group) for group in groups}
    return {source: place for source, place in found.items() if place is not None}


class _Finder:
    def __init__(self, model: onnx.ModelProto, linears: Sequence[Linear], biases: Mapping[str, str]) -> None:
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(value.name for value in model.graph.output)
        self.maker = {name: node for node in model.graph.node for name in node.output}
        names = set(onnx_io.weight_names(model))
        self.lengths = {
            value.name: value.type.tensor_type.shape.dim[0].dim_value
            for value in model.graph.input
            if value.name in names and len(value.type.tensor_type.shape.dim) == 1
        }
        chosen = {linear.weight: linear for linear in linears}
        self.linears = {
            node.output[0]: chosen[found.weight] for node, found in candidates(model) if found.weight in chosen
        }
        self.biases = biases

    def place(self, group: Group) -> Place | None:
        k, node = group.linears[0].k, self.maker.get(group.source)
        if node is None or self.uses[group.source] != len(group.linears):
            return None
        if node.op_type == "LayerNormalization":
            weights = tuple(name for name in node.input[1:] if name)
            return Place(weights=weights) if all(self._own(name, k) for name in weights) else None
        if node.op_type != "Mul" or node.input[0] == node.input[1]:
            return None
        for name in node.input:
            if self._own(name, k):
                return Place(weights=(name,))
        layers = [linear.layer for linear in map(self._linear, node.input) if linear is not None and linear.n == k]
        return Place(layer=layers[0]) if layers else None

    def _own(self, name: str, k: int) -> bool:
        return self.lengths.get(name) == k and self.uses[name] == 1

    def _linear(self, name: str) -> Linear | None:
        """Return the linear whose output, with its own bias added if it has one, a value is."""
        if self.uses[name] != 1:
            return None
        if name in self.linears:
            linear = self.linears[name]
            node = self.maker[name]
            return linear if len(node.input) == 2 or self.biases.get(linear.layer) == node.input[2] else None
        node = self.maker.get(name)
        if node is None or node.op_type != "Add":
            return None
        for product, bias in itertools.permutations(node.input):
            linear_of = self.linears.get(product)
            if linear_of is not None and self.uses[product] == 1 and self.biases.get(linear_of.layer) == bias:
                return linear_of
        return None


def choose(
    inputs: np.ndarray, weights: np.ndarray, lost: Callable[[np.ndarray], Sequence[float]]
) -> np.ndarray | None:
    """Return the candidate, float32 [K], with which the least is lost; None where that is hardly less than with none.

    ``inputs`` and ``weights`` are float [K], the root mean square of each channel. ``lost`` tells what each linear of
    a group loses with a scale; its linears count alike, whatever the size of their outputs.
    """
    import numpy as np

    plain = np.asarray(lost(np.ones(len(inputs), np.float32)))
    if not (plain > 0).all():
        return None

    def gain(x: float, y: float) -> float:
        found = np.maximum(lost(_candidate(inputs, weights, x, y)), np.finfo(np.float64).tiny)
        return float(np.log(plain / found).mean())

    first, x = max([(0.0, 0.0), *((gain(x, 0.0), x) for x in INPUT_POWERS)])
    best, y = max([(first, 0.0), *((gain(x, y), y) for y in WEIGHT_POWERS)])
    return _candidate(inputs, weights, x, y) if best > LEAST_GAIN else None


def _candidate(inputs: np.ndarray, weights: np.ndarray, x: float, y: float) -> np.ndarray:
    import numpy as np

    tiny = np.finfo(np.float32).tiny
    logs = x * np.log(np.maximum(inputs, tiny)) - y * np.log(np.maximum(weights, tiny))
    bound = np.log(RANGE)
    scale: np.ndarray = np.exp(np.clip(logs - np.median(logs), -bound, bound)).astype(np.float32)
    return scale


def fold(codes: Codes, scale: np.ndarray) -> Codes:
    """Divide the outputs of a quantised weight [N, K] by a scale [N]: its own scales take it up."""
    return dataclasses.replace(codes, scales=(codes.scales / scale[:, None]).astype(codes.scales.dtype))


def folds(codes: Codes, scale: np.ndarray) -> bool:
    """Tell whether scales are still what they ought to be once they have taken a scale up."""
    import numpy as np

    wanted = codes.scales.astype(np.float64) / scale[:, None]
    with np.errstate(over="ignore"):
        made = fold(codes, scale).scales.astype(np.float64)
    return codes.offsets is None and bool((np.abs(made - wanted) <= SCALE_ERROR * np.abs(wanted)).all())
