"""Quantise: the weights of a captured model's linears to canonical codes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from hwc import onnx_io
from hwc.errors import StepError
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes
from hwc.quantise.linears import Linear, find
from hwc.quantise.scheme import Scheme


def quantise(scheme: Scheme, exclude: tuple[str, ...], captured: Path, out: Path) -> None:
    """Write ``codes.safetensors`` and ``layers.json``: every linear with what became of it.

    One weight is in memory at a time beside its codes. Raises StepError if the scheme covers nothing.
    """
    from safetensors import safe_open

    model = onnx_io.load_graph(captured / "graph.onnx")
    linears = find(model, exclude=exclude, group_size=scheme.group_size)
    chosen = [linear for linear in linears if scheme.kind != "float" and not linear.skip]
    if scheme.kind != "float" and not chosen:
        reasons = sorted({linear.skip for linear in linears}) or ["the graph holds no linear with a weight"]
        raise StepError(
            f"scheme {scheme.name} covers no layer of this model",
            where="; ".join(reasons),
            hint="loosen [quantise] exclude, or build it in fp32",
        )
    made: dict[str, Codes] = {}
    with safe_open(captured / "weights.safetensors", framework="numpy") as weights:
        for linear in chosen:
            weight = weights.get_tensor(linear.weight)
            made[linear.layer] = _one(scheme, weight if linear.transposed else weight.T)
    canonical.save(made, out / "codes.safetensors")
    rows = [{**dataclasses.asdict(linear), "quantised": linear.layer in made} for linear in linears]
    (out / "layers.json").write_text(json.dumps(rows, indent=1, sort_keys=True))


def _one(scheme: Scheme, weight: object) -> Codes:
    import numpy as np

    matrix = np.ascontiguousarray(weight, dtype=np.float32)
    if scheme.kind == "fp8":
        return canonical.fp8(matrix)
    return canonical.int4(matrix, group_size=scheme.group_size, symmetric=scheme.symmetric)


def read_layers(folder: Path) -> list[Linear]:
    """Return the linears that were quantised."""
    rows = json.loads((folder / "layers.json").read_text())
    return [
        Linear(**{key: value for key, value in row.items() if key != "quantised"}) for row in rows if row["quantised"]
    ]
