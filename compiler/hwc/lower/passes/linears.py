"""Rewrite quantised linears and gathers to packed parameters, each kind of codes in its encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwc.formats import Kind
from hwc.lower.passes import fp8_matmul, fp8_rounding, gather_rows, matmul_nbits
from hwc.lower.passes.gather_rows import QuantisedRows
from hwc.lower.passes.graph import parameter_keys
from hwc.lower.passes.kernel_call import Import
from hwc.lower.passes.kernel_linears import Choose, Product, Seen, quantised_call, quantised_products
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
    layers: frozenset[str]
    """Layers that were rewritten: the caller compares them with those it quantised."""
    matched: int
    """How many operators were rewritten."""
    parameters: tuple[ParameterUse, ...]
    seen: tuple[Seen, ...] = ()
    """Every quantised linear, and the vendor kernel's call it became, if it did."""


_KERNELS: dict[str, Callable[[Geometry], Kernel]] = {
    "i4-grouped": matmul_nbits.i4_grouped,
    "i4-tiled": matmul_nbits.i4_tiled,
    "u8-nibbles": matmul_nbits.u8_nibbles,
    "i8-grouped": matmul_nbits.i8_grouped,
    "u8-words": matmul_nbits.u8_words,
    "e4m3-bits": fp8_matmul.e4m3_bits,
    "e4m3-words": fp8_matmul.e4m3_words,
}

BY_ROW = {"i4-tiled": "i4-grouped"}
"""Encoding in tiles to the one that lies by row, as which gathered rows are decoded."""


def generated(_: Product) -> None:
    """Choose no kernel: the compiler makes the code."""


def rewrite_linears(
    mlir: str, *, encodings: Mapping[Kind, str], scope: str, choose: Choose = generated
) -> Rewritten:
    """Rewrite every quantised linear and gather of an imported module to parameters ``<layer>.codes``, ``.scales``, ….

    Requires the importer's text, with codes as named parameters. Ensures that no line of a matched op, and no
    parameter that only it read, is left; each stays as a comment, so that counting a function's
    ``torch.operator "onnx.X"`` lines still indexes its nodes. What ``choose`` names a kernel for becomes a call of it,
    whose executable the caller declares. Raises ValueError for an unknown encoding, and for a quantised layer that its
    encoding cannot hold.
    """
    if unknown := set(encodings.values()) - set(_KERNELS):
        raise ValueError(f"unknown encoding `{min(unknown)}`; known: {', '.join(_KERNELS)}")
    lines = fp8_rounding.rewrite(mlir.splitlines())
    keys = parameter_keys(lines)
    found: list[QuantisedLinear | QuantisedRows] = [*matmul_nbits.find(lines, keys), *fp8_matmul.find(lines, keys)]
    found += gather_rows.find(lines, keys)
    sharded = any(isinstance(entry, QuantisedLinear) and entry.share for entry in found)
    first = 0 if sharded else None
    written: dict[int, list[str]] = {}
    declared: dict[tuple[str, int | None], list[str]] = {}
    uses: dict[str, ParameterUse] = {}
    seen: list[Seen] = []
    for index, entry in enumerate(found):
        encoding = _encoding(entry, encodings)
        share, stored = None, entry.geometry
        if isinstance(entry, QuantisedLinear):
            share, stored = entry.share, entry.stored
        device = share.device if share is not None else first
        parts, kernel = layout(encoding, stored), _KERNELS[encoding](entry.geometry)
        for line in entry.lines:
            written[line] = [f"    // {lines[line].strip()}"]
        prefix = f"hwc{index}"
        if isinstance(entry, QuantisedLinear):
            called, made = None, emit(entry, kernel, parts, prefix)
            product, chosen = _chosen(entry, encoding, choose)
            if chosen is not None:
                called, made = quantised_call(entry, product, encoding, parts, chosen, prefix)
            written[entry.lines[-1]] += made
            seen.append(Seen(product=product, call=called))
        else:
            by_row = _KERNELS[BY_ROW.get(encoding, encoding)](entry.geometry)
            written[entry.lines[-1]] += gather_rows.emit(entry, by_row, parts, prefix)
        declared[entry.layer, device] = declare(entry.layer, parts, scope, device)
        for part, kind in parts.items():
            key = f"{entry.layer}.{part}"
            uses[key] = ParameterUse(key=key, dtype=kind.dtype, shape=kind.shape)
    body = [new for index, line in enumerate(lines) for new in written.get(index, [line])]
    globals_ = [line for group in declared.values() for line in group]
    return Rewritten(
        mlir="\n".join(_declared(prune(body), globals_)) + "\n", layers=frozenset(layer for layer, _ in declared),
        matched=len(found), parameters=tuple(uses.values()), seen=tuple(seen),
    )


def _chosen(linear: QuantisedLinear, encoding: str, choose: Choose) -> tuple[Product, Import | None]:
    """Return the first of a linear's products that a kernel computes, and the kernel; the first of all if none does."""
    products = quantised_products(linear, encoding)
    for product in products:
        if (chosen := None if product.unfit else choose(product)) is not None:
            return product, chosen
    return products[0], None


def _encoding(entry: QuantisedLinear | QuantisedRows, encodings: Mapping[Kind, str]) -> str:
    if entry.kind not in encodings:
        raise ValueError(f"no encoding is named for the {entry.kind} weight of {entry.layer}")
    return encodings[entry.kind]


def _declared(lines: list[str], globals_: list[str]) -> list[str]:
    """Insert globals right after the line that opens the module."""
    opening = next((index for index, line in enumerate(lines) if line.startswith("module")), None)
    if opening is None:
        raise ValueError("the text holds no `module {` line: it is not what iree-import-onnx writes")
    return [*lines[: opening + 1], *globals_, *lines[opening + 1 :]]
