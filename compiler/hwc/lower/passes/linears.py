"""Rewrite quantised linears to packed parameters in one encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hwc.lower.passes import fp8_matmul, matmul_nbits
from hwc.lower.passes.graph import parameter_keys
from hwc.lower.passes.linear import Kernel, QuantisedLinear, declare, emit
from hwc.lower.passes.prune import prune
from hwc.quantise.encodings import Geometry, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterUse:
    """A parameter that rewritten code reads."""

    key: str
    dtype: str
    """MLIR element type."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A module after a rewrite."""

    mlir: str
    matched: int
    """How many linears were rewritten: the caller compares it with how many it quantised."""
    parameters: tuple[ParameterUse, ...]


Find = Callable[[Sequence[str], Mapping[str, str]], list[QuantisedLinear]]

_REWRITES: dict[str, tuple[Find, Callable[[Geometry], Kernel]]] = {
    "i4-grouped": (matmul_nbits.find, matmul_nbits.i4_grouped),
    "u8-nibbles": (matmul_nbits.find, matmul_nbits.u8_nibbles),
    "e4m3-bits": (fp8_matmul.find, fp8_matmul.e4m3_bits),
    "e4m3-words": (fp8_matmul.find, fp8_matmul.e4m3_words),
}


def rewrite_linears(mlir: str, *, scheme_encoding: str, scope: str) -> Rewritten:
    """Rewrite every quantised linear of an imported module to parameters ``<layer>.codes``, ``.scales``, ``.zeros``.

    Requires the importer's text, with codes as named parameters. Ensures that no line of a matched op, and no
    parameter that only it read, is left; each stays as a comment, so that counting a function's
    ``torch.operator "onnx.X"`` lines still indexes its nodes. Raises ValueError for an unknown encoding, and for
    a quantised linear that the encoding cannot hold.
    """
    if scheme_encoding not in _REWRITES:
        raise ValueError(f"unknown encoding `{scheme_encoding}`; known: {', '.join(_REWRITES)}")
    find, kernel = _REWRITES[scheme_encoding]
    lines = mlir.splitlines()
    linears = find(lines, parameter_keys(lines))
    written: dict[int, list[str]] = {}
    declared: dict[str, list[str]] = {}
    uses: dict[str, ParameterUse] = {}
    for index, linear in enumerate(linears):
        parts = layout(scheme_encoding, linear.geometry)
        for line in linear.lines:
            written[line] = [f"    // {lines[line].strip()}"]
        written[linear.lines[-1]] += emit(linear, kernel(linear.geometry), parts, f"hwc{index}")
        declared[linear.layer] = declare(linear, parts, scope)
        for part, kind in parts.items():
            key = f"{linear.layer}.{part}"
            uses[key] = ParameterUse(key=key, dtype=kind.dtype, shape=kind.shape)
    body = [new for index, line in enumerate(lines) for new in written.get(index, [line])]
    globals_ = [line for group in declared.values() for line in group]
    return Rewritten(
        mlir="\n".join(_declared(prune(body), globals_)) + "\n", matched=len(linears), parameters=tuple(uses.values())
    )


def _declared(lines: list[str], globals_: list[str]) -> list[str]:
    """Insert globals right after the line that opens the module."""
    opening = next((index for index, line in enumerate(lines) if line.startswith("module")), None)
    if opening is None:
        raise ValueError("the text holds no `module {` line: it is not what iree-import-onnx writes")
    return [*lines[: opening + 1], *globals_, *lines[opening + 1 :]]
