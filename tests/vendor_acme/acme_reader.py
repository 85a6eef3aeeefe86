"""What Acme does with a hand-over before its compiler exists: compute the golden answers from the weights, in numpy.

``python acme_reader.py FOLDER`` prints the largest difference to the golden answers. FOLDER is the model's, as
``hwc export dir`` writes it or as a container runtime mounts it. Nothing of hwc is imported: the files and their README
have to be enough. Needs numpy, onnx, and iree-base-runtime to read parameter archives.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import iree.runtime as rt
import numpy as np
import onnx
from onnx import helper, numpy_helper

NUMPY = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i32": np.int32, "si64": np.int64}
Values = dict[str, np.ndarray]


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every parameter of the archives, by key."""
    found = {}
    for archive in sorted((folder / "weights").glob("*.irpa")):
        index = rt.ParameterIndex()
        index.load(str(archive))
        for key, entry in index.items():
            handle, offset = entry.file_storage
            found[key] = bytes(handle.host_allocation[offset : offset + entry.length])
    return found


def weights(folder: Path) -> Values:
    """Return every parameter that the sources declare, in the element type and shape they declare."""
    stored, found = stored_bytes(folder), {}
    for row in json.loads((folder / "code" / "parameters.json").read_text()):
        data = stored[row["key"]]
        if len(data) != row["bytes"]:
            raise ValueError(f"{row['key']} has {len(data)} bytes, declared are {row['bytes']}")
        if row["element_type"] == "i4":
            pairs = np.frombuffer(data, np.uint8)
            values = np.stack([pairs & 0xF, pairs >> 4], axis=-1).astype(np.int8)
            values = np.where(values > 7, values - 16, values)
        else:
            values = np.frombuffer(data, NUMPY[row["element_type"]])
        found[row["key"]] = values.reshape(row["shape"])
    return found


def erf(x: np.ndarray) -> np.ndarray:
    """Return the error function (Abramowitz and Stegun 7.1.5, a series in float64, for |x| < 6)."""
    x = np.clip(x.astype(np.float64), -6, 6)
    term, total = x.copy(), x.copy()
    for n in range(1, 140):
        term = term * -x * x / n
        total += term / (2 * n + 1)
    return total * 2 / np.sqrt(np.pi)


def e4m3(codes: np.ndarray) -> np.ndarray:
    """Return the values of E4M3 codes."""
    bits = codes.view(np.uint8).astype(np.int64)
    sign, exponent, mantissa = np.where(bits >> 7, -1.0, 1.0), bits >> 3 & 0xF, bits & 7
    normal, small = (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0**-6
    return sign * np.where(exponent, normal, small)


def run(model: onnx.ModelProto, values: Values) -> np.ndarray:
    """Return the first output of the graph; ``values`` are inputs and parameters."""
    values = {**values, **{entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}}
    for node in model.graph.node:
        values[node.output[0]] = _node(node, values)
    return values[model.graph.output[0].name]


def _node(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> np.ndarray:
    inputs = [values[name] for name in node.input]
    told = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Gemm":
        x, w, b = inputs
        return x @ (w.T if told.get("transB") else w) + b
    if node.op_type == "MatMulNBits":  # codes i4 [N, G, g], scales f16 [N, G]
        x, codes, scales = inputs[:3]
        weight = (codes * scales[:, :, None].astype(np.float64)).reshape(told["N"], told["K"])
        return x @ weight.T
    if node.op_type == "DequantizeLinear":  # codes [N, K] bytes, scales f32 [N]: the graph's are [K, N]
        codes, scales = inputs
        return (e4m3(codes) * scales[:, None].astype(np.float64)).T
    if node.op_type == "MatMul":
        return inputs[0] @ inputs[1]
    if node.op_type == "Add":
        return inputs[0] + inputs[1]
    if node.op_type == "Relu":
        return np.maximum(inputs[0], 0)
    if node.op_type == "Gelu":
        return inputs[0] * (1 + erf(inputs[0] / np.sqrt(2))) / 2
    raise ValueError(f"no operator of this chip's: {node.op_type}")


def cases(path: Path) -> Iterator[tuple[int, Values]]:
    """Yield number and arrays of each case of a golden file, whose entries are called ``NUMBER.NAME``."""
    found: dict[int, Values] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, _, name = key.partition(".")
            found.setdefault(int(number), {})[name] = stored[key]
    yield from found.items()


def largest_difference(folder: Path) -> tuple[float, int]:
    """Return the largest difference to what the variant has to answer, and over how many cases."""
    golden = folder / "golden"
    named = golden / ("reference.npz" if (golden / "reference.npz").is_file() else "expected.npz")
    model, parameters, expected = onnx.load(folder / "graph" / "model.onnx"), weights(folder), dict(cases(named))
    differences = []
    for number, inputs in cases(golden / "cases.npz"):
        (answer,) = expected[number].values()
        found = run(model, {**parameters, **{name: x.astype(np.float64) for name, x in inputs.items()}})
        differences.append(float(np.abs(found - answer).max()))
    return max(differences), len(differences)


if __name__ == "__main__":
    worst, count = largest_difference(Path(sys.argv[1]))
    sys.stdout.write(f"{worst:.3g} over {count} cases\n")
