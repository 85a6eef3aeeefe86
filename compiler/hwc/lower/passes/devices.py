"""Write the operators of a sharded graph as IREE's, and declare the devices they name."""

from __future__ import annotations

import re
from dataclasses import replace

from hwc.lower.passes.graph import Operator, operators, parameter_keys
from hwc.lower.passes.prune import prune

MOVE, PART = "HwcMove", "HwcPart"
"""ONNX operators of a sharded graph (see lower/sharding.py): a value moved to a device; a part of a weight on one."""
_MODULE = re.compile(r"^module \{", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*func\.func @[^(]*\([^)]*\)", re.MULTILINE)
_ARGUMENT = re.compile(r"%[\w.]+: !torch\.vtensor<[^>]*>")


def affinity(device: int) -> str:
    """Name a device as operations do."""
    return f"#hal.device.affinity<@device_{device}>"


def on_device(device: int | None) -> str:
    """Return the attribute of a global on one of several devices, with a space; nothing for None, the only one.

    The first is told as well: work on a global that names no device goes wherever the compiler finds its operands.
    """
    return "" if device is None else f"{{stream.affinity = {affinity(device)}}} "


def write_parts(mlir: str, scope: str) -> str:
    """Return the importer's module with moved values as transfers, and parts of weights as slices of parameters.

    Each device has globals of its own over the one archive. Ensures that every line of such an operator stays as a
    comment. Raises ValueError for a part of something that is no parameter.
    """
    lines = mlir.splitlines()
    keys = parameter_keys(lines)
    declared: dict[str, str] = {}
    for operator in list(operators(lines, frozenset({MOVE, PART}))):
        if operator.name == MOVE:
            made = _move(operator)
        else:
            key = keys.get(operator.operands[0])
            if key is None:
                raise ValueError(f"{operator.operands[0]} is no parameter: it has no parts on other devices")
            made = _part(operator, key, scope, declared)
        lines[operator.line] = "\n".join([f"    // {lines[operator.line].strip()}", *made])
    body = prune("\n".join(lines).splitlines())
    opening = next(index for index, line in enumerate(body) if line.startswith("module"))
    return "\n".join([*body[: opening + 1], *declared.values(), *body[opening + 1 :]]) + "\n"


def _move(operator: Operator) -> list[str]:
    kind = operator.type
    assert kind is not None
    here, there, device = f"%here.{operator.line}", f"%there.{operator.line}", operator.attributes["device"]
    builtin = replace(kind, dtype=kind.dtype.lstrip("su") if "i" in kind.dtype else kind.dtype).builtin()
    return [
        f"    {here} = torch_c.to_builtin_tensor {operator.operands[0]} : {kind.torch()} -> {builtin}",
        f"    {there} = flow.tensor.transfer {here} : {builtin} to {affinity(device)}",
        f"    {operator.result} = torch_c.from_builtin_tensor {there} : {builtin} -> {kind.torch()}",
    ]


def _part(operator: Operator, key: str, scope: str, declared: dict[str, str]) -> list[str]:
    whole, part = operator.types[0], operator.type
    assert whole is not None
    assert part is not None
    device, axis = operator.attributes["device"], operator.attributes["axis"]
    symbol = f'@"device{device}.{key}"'
    declared[symbol] = (
        f"  util.global private {symbol} {{stream.affinity = {affinity(device)}}} = "
        f'#stream.parameter.named<"{scope}"::"{key}"> : {whole.builtin()}'
    )
    offsets = [operator.attributes["start"] if at == axis else 0 for at in range(len(whole.shape))]
    loaded, cut = f"%whole.{operator.line}", f"%part.{operator.line}"
    return [
        f"    {loaded} = util.global.load {symbol} : {whole.builtin()}",
        f"    {cut} = tensor.extract_slice {loaded}{offsets} {list(part.shape)} {[1] * len(part.shape)} "
        f": {whole.builtin()} to {part.builtin()}",
        f"    {operator.result} = torch_c.from_builtin_tensor {cut} : {part.builtin()} -> {part.torch()}",
    ]


def declare_devices(mlir: str, target: str, count: int) -> str:
    """Return the module with ``count`` local devices that run code for one ``#hal.executable.target<…>``.

    Inputs of functions are the first's, told at each: what is computed before anything moves would otherwise go
    wherever the compiler sees more readers, and with it the first device's share of a layer. Raises ValueError if the
    module names its devices already.
    """
    result, opened = _MODULE.subn(
        lambda _: f"module attributes {{stream.affinity.default = {affinity(0)}}} {{\n" + "\n".join(
            f'  util.global private @device_{device} = #hal.device.target<"local", {{ordinal = {device} : index}}, '
            f"[{target}]> : !hal.device"
            for device in range(count)
        ),
        _FUNCTION.sub(lambda found: _ARGUMENT.sub(_pinned, found[0]), mlir), count=1,
    )
    if opened != 1:
        raise ValueError("the text has no module without attributes")
    return result


def _pinned(argument: re.Match[str]) -> str:
    return f"{argument[0]} {{iree.abi.affinity = {affinity(0)}}}"
