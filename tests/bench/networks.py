"""Networks of fixed shapes: hwc's artefacts, and ONNX Runtime on the same float weights and the very same codes.

Encoders, CNNs and single products go this one way: built by `hwc build`, called from host arrays to host arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ort_graphs
from built import Made
from contestants import Contestant, Precision
from judging import Reference

from hwc import onnx_io
from hwc.capture import golden
from hwc.capture.simplify import session
from hwc.lower import lower
from hwc.quantise import codes, quantise
from hwc.quantise.graph import onnx_tensors
from hwc.spec.model import Bucket, bucket_id

FLOAT = "fp32"
PRECISIONS: Mapping[str, Precision] = {"fp32": "float", "fp8": "8 bits", "w4a16": "4 bits", "w4a8": "4 bits"}
"""Of hwc's contestants, by what they are called."""
INT4: Mapping[str, int | None] = {
    "ONNX Runtime MatMulNBits, accuracy 1": 1, "ONNX Runtime MatMulNBits, accuracy 4": 4,
    "ONNX Runtime int4 QDQ": None,
}
"""ONNX Runtime's ways with int4 codes, and the level of accuracy that each asks for: 1 float32, 4 int8 inside."""
ORT_FLOAT, ORT_INT8 = "ONNX Runtime f32", "ONNX Runtime dynamic int8"
SEED = 20261122


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The cases of one model: its shapes, and which scheme each of hwc's contestants takes there."""

    made: Made
    schemes: Mapping[str, str]
    """Contestant, as ``w4a16``, to the scheme that was built."""
    coded: str
    """The scheme whose codes ONNX Runtime gets."""
    label: str = ""
    """Put behind every case's name."""
    int8: bool = True
    """Whether ONNX Runtime's dynamic int8 takes part."""

    def cases(self) -> dict[str, Bucket]:
        """Return the cases and their shapes."""
        return {self._name(bucket): bucket for bucket in self.made.spec.buckets}

    def functions(self) -> dict[str, str]:
        """Return the artefact's function for each case."""
        return {case: bucket_id(bucket) for case, bucket in self.cases().items()}

    def _name(self, bucket: Bucket) -> str:
        sizes = "×".join(str(size) for size in bucket.values())
        named = sizes if len(bucket) > 1 else f"M = {sizes}" if self.label else f"batch {sizes}"
        return f"{named}{self.label}"


@dataclass(kw_only=True)
class Entered:
    """What takes part in a part of the bench, while it is being put together."""

    work: Path
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contestant to case to what its runner is told."""
    references: dict[str, Reference] = field(default_factory=dict)

    def add(self, name: str, case: str, told: Mapping[str, Any]) -> None:
        """Enter a contestant for a case."""
        self.cases.setdefault(name, {})[case] = dict(told)

    def contestants(self, store: Path) -> list[Contestant]:
        """Return everyone who was entered."""
        return [self._contestant(name, cases, store) for name, cases in self.cases.items()]

    def _contestant(self, name: str, cases: dict[str, Any], store: Path) -> Contestant:
        own = name.startswith("hwc ")
        precision = PRECISIONS[name.removeprefix("hwc ")] if own else _of_peer(name)
        config = {"kind": "calling", "engine": "hwc" if own else "onnxruntime", "cases": cases, "store": str(store)}
        return Contestant(name=name, own=own, precision=precision, cases=tuple(cases), config=config)


def _of_peer(name: str) -> Precision:
    return "float" if name == ORT_FLOAT else "8 bits" if name == ORT_INT8 else "4 bits"


def enter(one: Field, into: Entered) -> None:
    """Enter hwc and ONNX Runtime for every case of a field, with the reference they are judged by."""
    graphs = _Graphs(one)
    place = into.work / f"{one.made.spec.name}{len(into.cases)}-{os.urandom(3).hex()}"
    folders = {name: ort_graphs.Folder(place / str(index)) for index, name in enumerate([ORT_FLOAT, *INT4, ORT_INT8])}
    for case, bucket in one.cases().items():
        function = bucket_id(bucket)
        feeds = _feeds(one.made, bucket)
        np.savez(place / f"{function}.npz", **feeds)
        output = one.made.spec.outputs[0]
        common = {"feeds": str(place / f"{function}.npz"), "output": output, "function": function}
        for name, scheme in one.schemes.items():
            into.add(f"hwc {name}", case, {**common, "bundle": one.made.bundle(scheme)})
        for name, graph in _peers(one, graphs, bucket, into.work):
            told = {**common, "graph": str(folders[name].write(graph, function))}
            into.add(name, case, told)
        into.references[case] = _reference(one, graphs, bucket, feeds, output)


def _peers(one: Field, graphs: _Graphs, bucket: Bucket, work: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield ORT_FLOAT, graphs.floats(bucket)
    coded = graphs.coded(one.coded, bucket)
    linears = graphs.codes(one.coded)
    for name, level in INT4.items():
        yield name, ort_graphs.as_qdq(coded, linears) if level is None else ort_graphs.with_accuracy(coded, level)
    if one.int8:
        yield ORT_INT8, ort_graphs.dynamic_int8(graphs.floats(bucket), work)


def _reference(
    one: Field, graphs: _Graphs, bucket: Bucket, feeds: Mapping[str, np.ndarray], output: str
) -> Reference:
    """Answer with strict ONNX Runtime: on the float weights, and on the codes of each of hwc's contestants."""

    def answer(model: onnx.ModelProto) -> np.ndarray:
        return np.asarray(session(model).run([output], dict(feeds))[0])

    floats = answer(graphs.floats(bucket))
    schemes = {name: scheme for name, scheme in one.schemes.items() if name != FLOAT}
    same = {f"hwc {name}": answer(graphs.coded(scheme, bucket)) for name, scheme in schemes.items()}
    own = next((f"hwc {name}" for name, scheme in schemes.items() if scheme == one.coded), None)
    shared = dict.fromkeys(INT4, same[own]) if own else {}
    return Reference(floats=floats, same_codes={**same, **shared})


def _feeds(made: Made, bucket: Bucket) -> dict[str, np.ndarray]:
    """Return input of a shape, every place of it filled: text where the model is judged on text, else seeded numbers.

    Words drawn by chance are no fair input for quantised encoders: by 512 of them cosines fall to 0.83.
    """
    text = made.spec.evaluation.file and _text(made)
    random = np.random.default_rng(SEED)
    feeds = {}
    for name, told in made.spec.inputs.items():
        shape = [dim if isinstance(dim, int) else bucket[dim] for dim in told.shape]
        dtype = np.dtype(told.dtype)
        drawn = np.resize(text[name], shape) if text else random.uniform(told.low, told.high, shape)
        feeds[name] = (np.floor(drawn) if dtype.kind == "i" else drawn).astype(dtype)
    return feeds


def _text(made: Made) -> dict[str, np.ndarray]:
    """Return every input of the held-out texts, one after another, without what fills them up."""
    pads = {name: told.pad for name, told in made.spec.inputs.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in pads}
    for case in golden.load_cases(made.path(next(iter(made.variants.values())).cases)):
        real = np.logical_or.reduce([case.feeds[name] != pad for name, pad in pads.items()])
        for name, values in found.items():
            values.append(case.feeds[name][real])
    return {name: np.concatenate(values) for name, values in found.items()}


class _Graphs:
    """A field's graphs with their weights, read from the outputs of the build's own steps."""

    def __init__(self, one: Field) -> None:
        self._made = one.made

    @cached_property
    def _weights(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        any_variant = next(iter(self._made.variants.values()))
        return load_file(self._made.path(any_variant.capture) / "weights.safetensors")

    def floats(self, bucket: Bucket) -> onnx.ModelProto:
        """Return the float graph of a shape."""
        any_variant = next(iter(self._made.variants.values()))
        graph = onnx_io.load_graph(self._made.path(any_variant.simplify) / f"{bucket_id(bucket)}.onnx")
        return _attached(graph, self._weights)

    def coded(self, scheme: str, bucket: Bucket) -> onnx.ModelProto:
        """Return the graph of a shape in a scheme."""
        variant = self._made.variants[scheme]
        folder = self._made.path(variant.quantise)
        layers, coded = quantise.read_layers(folder), codes.load(folder / quantise.CODES)
        weights = {**self._weights, **quantise.read_overrides(folder)}
        for linear in layers:
            weights.update(onnx_tensors(linear, coded[linear.layer]))
        return _attached(lower.reference_graph(self._made.path(variant.simplify), folder, bucket), weights)

    def codes(self, scheme: str) -> dict[str, codes.Codes]:
        """Return the codes of a scheme's linears by layer, tables left out."""
        folder = self._made.path(self._made.variants[scheme].quantise)
        coded = codes.load(folder / quantise.CODES)
        return {one.layer: coded[one.layer] for one in quantise.read_layers(folder) if not one.gathered}


def _attached(graph: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    return onnx_io.attach(graph, {name: weights[name] for name in onnx_io.weight_names(graph)})
