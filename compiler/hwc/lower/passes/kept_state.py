"""Keep state inside the module: inputs that a call replaces become mutable globals, updated in place.

A cache that is passed in and returned is copied at every call, whatever is written; a global is written where it lies.
The globals belong to the context a module is loaded into.

The ScatterND that writes a call's tokens becomes one insert_slice a row and head: IREE 3.13 takes a ScatterND apart
into a scatter of single elements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwc.lower.passes.devices import on_device

_HEADER = re.compile(r"^(\s*func\.func @main_graph\()(?P<args>.*?)(\) -> )(?P<results>.*?)( attributes \{.*\{|\s*\{)$")
_ARGUMENT = re.compile(r"(%[\w.]+): (!torch\.vtensor<\[[\d,]*\],\w+>)")
_VTENSOR = re.compile(r"!torch\.vtensor<\[[\d,]*\],\w+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensor:
    """One tensor of the state."""

    symbol: str
    """Name of the global; functions that name the same share it."""
    argument: int
    """Position among the function's inputs."""
    result: int
    """Position among its results."""
    start: int
    """Position of the input, int64 [batch], that tells where along axis 2 each row is written."""
    device: int | None = None
    """Which of several devices keeps it."""


def keep_state(mlir: str, kept: Sequence[KeptTensor]) -> str:
    """Return the module with some inputs and results of ``@main_graph`` turned into mutable float32 globals.

    Requires the importer's text, in which each state [batch, heads, context, width] is written by one ScatterND of
    consecutive positions. Raises ValueError if the function does not have these inputs and results, if an input and
    the result that replaces it differ in type, or if the state is written in another way.
    """
    if not kept:
        return mlir
    lines = mlir.splitlines()
    at = next((index for index, line in enumerate(lines) if _HEADER.match(line)), None)
    ends = next((index for index, line in enumerate(lines) if line.strip().startswith("return ")), None)
    if at is None or ends is None:
        raise ValueError("the text holds no @main_graph with a return: it is not what iree-import-onnx writes")
    arguments, results = _signature(lines[at])
    values = re.findall(r"%[\w.]+", lines[ends].partition(" : ")[0])
    for tensor in kept:
        if arguments[tensor.argument][1] != results[tensor.result]:
            raise ValueError(f"{tensor.symbol} is {arguments[tensor.argument][1]}, then {results[tensor.result]}")
    types = {tensor.symbol: _builtin(results[tensor.result]) for tensor in kept}
    devices = {tensor.symbol: tensor.device for tensor in kept}
    _insert(lines, ends, kept, arguments, values)
    loads = [line for tensor in kept for line in _load(tensor, *arguments[tensor.argument], types)]
    stores = [
        line for tensor in kept for line in _store(tensor, values[tensor.result], results[tensor.result], types)
    ]
    stay = [index for index in range(len(results)) if index not in {tensor.result for tensor in kept}]
    lines[ends] = f"    return {', '.join(values[i] for i in stay)} : {', '.join(results[i] for i in stay)}"
    lines[at] = _header(lines[at], {tensor.argument for tensor in kept}, [results[index] for index in stay])
    body = [*lines[: at + 1], *loads, *lines[at + 1 : ends], *stores, *lines[ends:]]
    opening = next(index for index, line in enumerate(body) if line.startswith("module"))
    return "\n".join([*body[: opening + 1], *_globals(types, devices), *body[opening + 1 :]]) + "\n"


def _signature(header: str) -> tuple[list[tuple[str, str]], list[str]]:
    found = _HEADER.match(header)
    if found is None:
        raise ValueError("not the header of @main_graph")
    return _ARGUMENT.findall(found["args"]), _VTENSOR.findall(found["results"])


def _builtin(vtensor: str) -> str:
    shape, _, dtype = vtensor.removeprefix("!torch.vtensor<[").removesuffix(">").partition("],")
    return f"tensor<{'x'.join([*shape.split(','), dtype])}>"


def _insert(
    lines: list[str], ends: int, kept: Sequence[KeptTensor], arguments: Sequence[tuple[str, str]], values: Sequence[str]
) -> None:
    """Replace each state's ScatterND, in place, by insert_slice; the line itself stays as a comment."""
    for tensor in kept:
        state, written = arguments[tensor.argument][0], values[tensor.result]
        pattern = re.compile(
            rf'^\s*{re.escape(written)} = torch\.operator "onnx\.ScatterND"\({re.escape(state)}, %[\w.]+, (%[\w.]+)\)'
        )
        at = next((index for index in range(ends) if pattern.match(lines[index])), None)
        if at is None:
            raise ValueError(f"{tensor.symbol} is not written by one ScatterND")
        new = re.findall(pattern, lines[at])[0]
        types = _VTENSOR.findall(lines[at])
        start = arguments[tensor.start]
        made = _slices(tensor, (new, types[2]), (written, types[3]), start)
        lines[at] = "\n".join([f"    // {lines[at].strip()}", *made])


def _slices(
    tensor: KeptTensor, new: tuple[str, str], written: tuple[str, str], start: tuple[str, str]
) -> list[str]:
    """Write [batch, heads, tokens, width] into the state: one contiguous piece a row and head."""
    prefix = f"%put.{tensor.argument}"
    held, kind, piece = f"%held.{tensor.argument}", _builtin(written[1]), _builtin(new[1])
    batch, heads, tokens, width = _dims(new[1])
    starts = f"tensor<{batch}xi64>"
    one = f"tensor<1x1x{tokens}x{width}xf32>"
    lines = [
        f"    {prefix}.new = torch_c.to_builtin_tensor {new[0]} : {new[1]} -> {piece}",
        f"    {prefix}.starts = torch_c.to_builtin_tensor {start[0]} : {start[1]} -> {starts}",
    ]
    for row in range(batch):
        at = f"{prefix}.{row}"
        lines += [
            f"    {at}.row = arith.constant {row} : index",
            f"    {at}.start = tensor.extract {prefix}.starts[{at}.row] : {starts}",
            f"    {at}.at = arith.index_cast {at}.start : i64 to index",
        ]
        for head in range(heads):
            sizes = f"[1, 1, {tokens}, {width}] [1, 1, 1, 1]"
            lines += [
                f"    {at}.{head}.piece = tensor.extract_slice {prefix}.new[{row}, {head}, 0, 0] {sizes} "
                f": {piece} to {one}",
                f"    {at}.{head}.state = tensor.insert_slice {at}.{head}.piece into "
                f"{held}[{row}, {head}, {at}.at, 0] {sizes} : {one} into {kind}",
            ]
            held = f"{at}.{head}.state"
    return [*lines, f"    {written[0]} = torch_c.from_builtin_tensor {held} : {kind} -> {written[1]}"]


def _dims(vtensor: str) -> list[int]:
    return [int(size) for size in vtensor.removeprefix("!torch.vtensor<[").partition("]")[0].split(",")]


def _globals(types: Mapping[str, str], devices: Mapping[str, int | None]) -> list[str]:
    """Declare the state, each tensor with a first value of its own, which no call ever sees.

    IREE 3.13 gives mutable globals of equal first value and size one buffer: keys and values would overwrite each
    other.
    """
    return [
        f'  util.global private mutable @"{name}" {on_device(devices[name])}= dense<{number}.0e-30> : {kind}'
        for number, (name, kind) in enumerate(types.items(), start=1)
    ]


def _load(tensor: KeptTensor, value: str, vtensor: str, types: Mapping[str, str]) -> list[str]:
    kind, held = types[tensor.symbol], f"%held.{tensor.argument}"
    return [
        f'    {held} = util.global.load @"{tensor.symbol}" : {kind}',
        f"    {value} = torch_c.from_builtin_tensor {held} : {kind} -> {vtensor}",
    ]


def _store(tensor: KeptTensor, value: str, vtensor: str, types: Mapping[str, str]) -> list[str]:
    kind, made = types[tensor.symbol], f"%made.{tensor.argument}"
    return [
        f"    {made} = torch_c.to_builtin_tensor {value} : {vtensor} -> {kind}",
        f'    util.global.store {made}, @"{tensor.symbol}" : {kind}',
    ]


def _header(header: str, gone: set[int], results: Sequence[str]) -> str:
    found = _HEADER.match(header)
    assert found is not None
    arguments = [
        f"{name}: {kind}" for index, (name, kind) in enumerate(_ARGUMENT.findall(found["args"])) if index not in gone
    ]
    told = results[0] if len(results) == 1 else f"({', '.join(results)})"
    return f"{found[1]}{', '.join(arguments)}{found[3]}{told}{found[5]}"
