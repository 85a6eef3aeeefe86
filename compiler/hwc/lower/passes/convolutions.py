"""Convolutions of float weights, found in the importer's MLIR, with the ReLU and the pooling that alone read them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hwc.lower.passes.graph import Operator, TensorType, operators

MOST_WINDOW, MOST_STRIDE = 16, 4
"""What the ABI allows of a window's side and of a stride: ``HWC_CONV2D_MOST_WINDOW`` and ``_STRIDE``."""
_LIST = re.compile(r"torch\.onnx\.(\w+) = \[([^\]]*)\]")
_AUTO_PAD = re.compile(r'torch\.onnx\.auto_pad = "(\w+)"')
_VALUE = re.compile(r"%[\w$.-]+")
_UNTOLD = {"pads": (0, 0, 0, 0), "dilations": (1, 1)}
_POOL = {"kernel_shape": (2, 2), "strides": (2, 2), **_UNTOLD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """A convolution along its height and its width; of one with a width alone, the height is 1 throughout."""

    x: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    """Before the first row and column."""
    y: tuple[int, int]
    """Before any pooling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """``result = pool(relu(x * w + bias))``, of which bias, ReLU and pooling may be absent."""

    lines: tuple[int, ...]
    """Of its operators; the last is where its result is made."""
    x: str
    weight: str
    bias: str
    types: tuple[TensorType, ...]
    """Of x, the weight and, where there is one, the bias."""
    conv: str
    """The convolution's own result."""
    result: str
    type: TensorType
    groups: int
    sides: Sides
    relu: bool = False
    pool: bool = False
    unfit: str = ""
    """Why no kernel's ABI holds it; empty if one does."""

    @property
    def positions(self) -> int:
        """Windows of all images."""
        return self.types[0].shape[0] * math.prod(self.sides.y)

    @property
    def inputs(self) -> int:
        """Input channels of one group."""
        return self.types[1].shape[1]

    @property
    def channels(self) -> int:
        """Output channels of all groups."""
        return self.types[1].shape[0]


def find(lines: Sequence[str]) -> list[Convolution]:
    """Match every Conv of static shapes, with one or two dimensions of space."""
    after = {
        operator.operands[0]: operator
        for operator in operators(lines, frozenset({"Relu", "MaxPool"}))
        if operator.type is not None
    }
    mentions = Counter(value for line in lines if not line.lstrip().startswith("//") for value in _VALUE.findall(line))
    found = []
    for operator in operators(lines, frozenset({"Conv"})):
        types = tuple(kind for kind in operator.types if kind is not None)
        if operator.type is None or len(types) < 2 or len(operator.type.shape) not in (3, 4):
            continue
        found.append(_with_what_follows(_convolution(operator, types, lines[operator.line]), after, mentions, lines))
    return found


def _convolution(operator: Operator, types: tuple[TensorType, ...], line: str) -> Convolution:
    assert operator.type is not None
    told = _lists(line)
    space = len(operator.type.shape) - 2
    pads = told.get("pads", (0,) * 2 * space)

    def sides(given: Sequence[int], missing: int) -> tuple[int, int]:
        return (missing, *given)[-2], given[-1]

    return Convolution(
        lines=(operator.line,), x=operator.operands[0], weight=operator.operands[1],
        bias=operator.operands[2] if len(types) > 2 else "", types=types, conv=operator.result,
        result=operator.result, type=operator.type, groups=operator.attributes.get("group", 1),
        sides=Sides(
            x=sides(types[0].shape[2:], 1), window=sides(types[1].shape[2:], 1),
            stride=sides(told.get("strides", (1,) * space), 1), pad=sides(pads[:space], 0),
            y=sides(operator.type.shape[2:], 1),
        ),
        unfit=_unfit(operator, types, told, line),
    )


def _unfit(
    operator: Operator, types: tuple[TensorType, ...], told: Mapping[str, tuple[int, ...]], line: str
) -> str:
    assert operator.type is not None
    dtypes = {kind.dtype for kind in (*types, operator.type)}
    if dtypes != {"f32"}:
        return f"its values are {', '.join(sorted(dtypes))}"
    if any(size != 1 for size in told.get("dilations", ())):
        return "its windows are dilated"
    if (padding := _AUTO_PAD.search(line)) and padding[1] != "NOTSET":
        return f"its padding is {padding[1]}"
    if min(told.get("pads", (0,))) < 0 or 0 in operator.type.shape or 0 in types[0].shape:
        return "its padding is negative, or its result empty"
    if max(types[1].shape[2:]) > MOST_WINDOW or max(told.get("strides", (1,))) > MOST_STRIDE:
        return f"its window is larger than {MOST_WINDOW}, or its stride than {MOST_STRIDE}"
    return ""


def _with_what_follows(
    conv: Convolution, after: Mapping[str, Operator], mentions: Mapping[str, int], lines: Sequence[str]
) -> Convolution:
    """Take in the ReLU and the pooling of 2 × 2 that are all that reads what is before them; which is first is one."""
    while (operator := after.get(conv.result)) and mentions[conv.result] == 2:  # where it is made, and here
        assert operator.type is not None
        relu = operator.name == "Relu"
        if not relu and (conv.pool or not _halves(operator, conv, lines[operator.line])):
            break
        conv = replace(
            conv, lines=(*conv.lines, operator.line), result=operator.result, type=operator.type,
            relu=conv.relu or relu, pool=conv.pool or not relu,
        )
    return conv


def _halves(pooling: Operator, conv: Convolution, line: str) -> bool:
    assert pooling.type is not None
    told = {**_UNTOLD, **_lists(line)}
    rows, columns = conv.sides.y
    halved = (*conv.type.shape[:2], rows // 2, columns // 2)  # which rounding up, or padding of another name, is not
    return all(told.get(name) == usual for name, usual in _POOL.items()) and pooling.type.shape == halved


def _lists(line: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(int(entry.partition(":")[0]) for entry in listed.split(",") if entry.strip())
        for name, listed in _LIST.findall(line)
    }
