"""Names for weights: each linear's weight is called after the module that owns it, whatever the exporter did."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_INVENTED = re.compile(r"^(onnx::|val_|_val|t_|transpose|/)|^[0-9]+$")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.$/-]")
"""The importer writes these as ``_`` in a parameter's key, so an archive that keeps them is not found."""


def rename_invented(model: onnx.ModelProto) -> dict[str, str]:
    """Rename initializers that an exporter invented (``onnx::MatMul_1234``) after their module, in place.

    Returns old name to new. A name that the author gave is kept, but for characters no parameter key may hold; a
    weight used by several nodes is named after the first. Module paths come from the node's own name (TorchScript
    exporter) or its name scopes (dynamo exporter).
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    taken = set(initializers)
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        module = _module_path(node)
        for position, name in enumerate(node.input):
            if name not in initializers or name in renamed or not module or not _INVENTED.match(name):
                continue
            fresh = _unused(f"{module}.{'weight' if position == 1 else f'constant{position}'}", taken)
            renamed[name] = fresh
            taken.add(fresh)
    for name in sorted(initializers):
        safe = _UNSAFE.sub("_", renamed.get(name, name))
        if safe != renamed.get(name, name):
            renamed[name] = _unused(safe, taken)
            taken.add(renamed[name])
    _apply(model, renamed)
    return renamed


def _module_path(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = [scope for scope in ast.literal_eval(entry.value) if scope]
            except (ValueError, SyntaxError):
                return ""
            return scopes[-2] if len(scopes) > 1 else ""
    return str(node.name).strip("/").rpartition("/")[0].replace("/", ".")


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    return candidate


def _apply(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    _apply_to_nodes(model.graph, renamed)


def _apply_to_nodes(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    """Rename what nodes read, inner graphs included: they see the outer graph's names."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                if inner.node:
                    _apply_to_nodes(inner, renamed)
