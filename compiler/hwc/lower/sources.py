"""Which modules of the source model a dispatch's work comes from, by the line numbers the compiler keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwc.lower import iree
from hwc.lower.flow_lines import function_at, short

if TYPE_CHECKING:
    import onnx

LOCATIONS = "--mlir-print-debuginfo"
"""Makes the compiler write where each operation comes from."""
_DISPATCH = re.compile(r"\bflow\.dispatch @[^ ]*::@(?P<export>[^( ,]+)")
_LINE = re.compile(rf'"{re.escape(iree.INPUT_NAME)}":(\d+):\d+')
_FUNCTION = re.compile(r'^\s*func\.func (?:public |private )?@"?([A-Za-z0-9_.$-]+)')
_OPERATOR = re.compile(r'torch\.operator "onnx\.([A-Za-z0-9]+)"')


def modules_of(mlir: str, flow: str, graphs: Mapping[str, onnx.ModelProto]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the modules behind each dispatch, by function and name; the first is the main one.

    ``mlir`` is the module that was compiled, ``flow`` what became of it, with locations; ``graphs`` holds the ONNX
    graph of each function. A dispatch whose operations the compiler made itself has none.
    """
    owners = _owners(mlir.splitlines(), graphs)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    function = ""
    for line in flow.splitlines():
        if (opened := function_at(line)) is not None:
            function = opened
        elif match := _DISPATCH.search(line):
            name = short(match["export"])
            modules = [owners[int(number)] for number in _LINE.findall(line) if owners.get(int(number))]
            told = found.setdefault(function, {})
            told[name] = tuple(dict.fromkeys([*told.get(name, ()), *modules]))
    return found


def _owners(lines: Sequence[str], graphs: Mapping[str, onnx.ModelProto]) -> dict[int, str]:
    """Return the module of each line's operator; a line of a rewritten operator belongs to the comment above it."""
    owners: dict[int, str] = {}
    nodes: dict[str, list[onnx.NodeProto]] = {}
    current = ""
    for number, line in enumerate(lines, start=1):
        if header := _FUNCTION.match(line):
            nodes, current = _by_type(graphs.get(header[1])), ""
        elif operator := _OPERATOR.search(line):
            waiting = nodes.get(operator[1])
            current = module_of(waiting.pop(0)) if waiting else ""
        owners[number] = current
    return owners


def _by_type(model: onnx.ModelProto | None) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node if model is not None else ():
        found.setdefault(node.op_type, []).append(node)
    return found


def module_of(node: onnx.NodeProto) -> str:
    """Return the module a node was traced from, by its name: ``/encoder/layer.0/MatMul`` is of ``encoder.layer.0``."""
    name: str = node.name
    return name.strip("/").rpartition("/")[0].replace("/", ".")
