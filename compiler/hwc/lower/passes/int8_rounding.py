"""Activations that were rounded to int8 before a product, found in the importer's text: a kernel may do it itself.

The operators are those that `hwc.quantise.int8_activations` writes. They stay in the module, where generated code needs
them, and the compiler drops what nothing reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hwc.lower.passes.graph import Operator, operators
from hwc.quantise.int8_activations import BLOCK, constants

_CONSTANT = re.compile(
    r'^\s*(%[\w$.-]+) = torch\.operator "onnx\.Constant"\(\) '
    r'\{torch\.onnx\.value = dense_resource<"?([^">]+)"?> : tensor<f32>\}'
)
_RESOURCE = re.compile(r'^\s*"?([^":]+)"?: "0x[0-9A-F]{8}([0-9A-F]*)"')
"""Name and bytes in hexadecimal; four bytes of alignment stand before them."""
_OPERATORS = frozenset({"Reshape", "Abs", "ReduceMax", "Max", "Div", "Mul", "Round"})


def find(lines: Sequence[str]) -> dict[str, str]:
    """Return each value that is an activation rounded to int8, with the one it was rounded from; both of one type."""
    made = {entry.result: entry for entry in operators(lines, _OPERATORS)}
    numbers = _numbers(lines) if any(entry.name == "Round" for entry in made.values()) else {}
    return {} if not numbers else {
        value: source for value in made if (source := _Rounding(made, numbers).source(value)) is not None
    }


def _numbers(lines: Sequence[str]) -> dict[str, str]:
    """Return the values that are one of the numbers activations are rounded with, and which."""
    known = {value.astype("<f4").tobytes().hex().upper(): name for name, value in constants().items()}
    resources = {found[1]: found[2] for found in map(_RESOURCE.match, lines) if found}
    constant = ((found[1], resources.get(found[2], "")) for found in map(_CONSTANT.match, lines) if found)
    return {value: known[told] for value, told in constant if told in known}


class _Rounding:
    """The operators of a function, and which of its values are numbers that activations are rounded with."""

    def __init__(self, made: Mapping[str, Operator], numbers: Mapping[str, str]) -> None:
        self._made, self._numbers = made, numbers

    def source(self, value: str) -> str | None:
        """Return what a value was rounded from; None if it is not the last of such operators."""
        try:
            levels, step = self._steps(value, "Reshape", "Mul")
            blocks, inverse = self._steps(levels, "Round", "Mul")
            most, largest = self._steps(inverse, "Div")
            same, share = self._steps(step, "Mul")
            found, least = self._steps(largest, "Max")
            (size,) = self._steps(found, "ReduceMax", "Abs")
            x = self._steps(blocks, "Reshape")[0]
        except LookupError:
            return None
        told = [self._numbers.get(number) for number in (most, share, least)]
        fits = (size, same) == (blocks, largest) and told == ["most", "share", "least"]
        return x if fits and self._by_block(value, blocks, found) else None

    def _steps(self, value: str, *names: str) -> tuple[str, ...]:
        """Return the operands of the first of operators that lead to a value; LookupError if others do."""
        operands: tuple[str, ...] = (value,)
        for name in names:
            entry = self._made[operands[0]]
            if entry.name != name:
                raise LookupError(name)
            operands = entry.operands
        return operands

    def _by_block(self, value: str, blocks: str, found: str) -> bool:
        """Tell whether blocks of K are rounded, each by its largest, and the result has the activation's type."""
        cut, result, largest = (self._made[name].type for name in (blocks, value, found))
        if cut is None or result is None or largest is None or self._made[blocks].types[:1] != (result,):
            return False
        whole = result.shape[-1] % BLOCK == 0 and cut.shape[-1] == BLOCK
        return whole and result.dtype == "f32" and largest.shape == (*cut.shape[:-1], 1)
