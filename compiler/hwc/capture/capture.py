"""Capture: any source to a detached ONNX graph, its weights, its tokenizer and its licences."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io, tensor_file, told
from hwc.capture import (
    arrived,
    causal_lm,
    checkpoint,
    compressed,
    gguf,
    greedy,
    huggingface,
    module,
    state,
    windows,
)
from hwc.capture.arrived import Arrived
from hwc.capture.fold import fold_weights
from hwc.capture.source import Located
from hwc.capture.weights import rename_invented
from hwc.errors import StepError, UsageError
from hwc.spec.model import GgufSource, HuggingFaceSource, ModelSpec, PythonSource

if TYPE_CHECKING:
    import numpy as np
    import onnx

LICENCE_GLOBS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "README.md")


def capture(spec: ModelSpec, located: Located, out: Path) -> None:
    """Write ``graph.onnx`` (detached), ``weights.safetensors``, ``capture.json``, ``tokenizer/``, ``licences/``.

    For a language model also ``greedy.json`` and ``greedy.npz``, what it says in PyTorch; for weights that arrive
    quantised ``arrived.json`` and ``kept.safetensors``, their codes.

    Raises StepError if the exporter fails, IntegrityError for hostile or damaged input, UsageError if the
    specification's inputs or outputs are not those of the model.
    """
    with tempfile.TemporaryDirectory(dir=out, prefix=".export") as work:
        exported = _export(spec, located, Path(work), out)
        facts = _detach(spec, exported, out)
        tokenizer = _keep_companions(spec, located, exported.folder, out)
    facts |= {"tokenizer": tokenizer, **exported.facts}
    (out / "capture.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def _detach(spec: ModelSpec, exported: _Exported, out: Path) -> dict[str, Any]:
    """Write the graph and, apart from it, its weights, read where they lie; return what is told of them."""
    model, outside = exported.model, exported.outside
    if spec.generation is not None:
        state.name_dims(model, spec.batch_dim)
    _keep_outputs(model, spec)
    folded = fold_weights(model, outside)
    renamed = rename_invented(model)
    weights = onnx_io.detach(model, {renamed.get(name, name): value for name, value in outside.items()})
    if not weights:
        raise UsageError(
            "the model has no weights: there is nothing to quantise or to ship", where=spec.name,
            hint=f"a weight has at least {onnx_io.DETACH_FLOAT_ELEMENTS} elements",
        )
    _match_inputs(model, spec)
    onnx_io.save(model, out / "graph.onnx")
    save_weights(weights, out / "weights.safetensors")
    arrived.write(_arrived(exported, weights), out)
    return {
        "exporter": _exporter_name(spec),
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "nodes": len(model.graph.node),
        "weights": len(weights),
        "parameters": int(sum(value.size for value in weights.values())),
        "weight_bytes": int(sum(value.nbytes for value in weights.values())),
        "renamed_weights": renamed,
        "folded_nodes": folded,
        "output_dims": _output_dims(model, spec),
    }


def save_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Write weights as safetensors, one at a time, in one order so that equal weights give equal bytes."""
    import numpy as np

    entries = [tensor_file.Entry(name, weights[name].dtype, weights[name].shape) for name in sorted(weights)]
    tensor_file.write(path, entries, lambda entry: (np.ascontiguousarray(weights[entry.name]),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exported:
    """What an exporter made."""

    model: onnx.ModelProto
    outside: dict[str, np.ndarray]
    """Initializers that lie outside the graph, by name: views of files."""
    folder: Path | None = None
    """The Hugging Face folder that it read, in which the tokenizer lies."""
    facts: dict[str, Any] = field(default_factory=dict)
    arrived: Sequence[Arrived] = ()
    """The weights that the source has quantised."""
    addresses: Mapping[str, int] = field(default_factory=dict)
    """Where each weight of a language model lies in memory, by transformers' names; tied ones have several."""


def _arrived(exported: _Exported, weights: Mapping[str, np.ndarray]) -> list[Arrived]:
    """Return what arrived quantised under the captured graph's names: the exporter moves no weight in memory."""
    names = {value.__array_interface__["data"][0]: name for name, value in weights.items()}
    unknown = exported.facts.get("unknown_tensors", ())
    return [
        replace(one, name=names.get(exported.addresses.get(one.name), one.name))
        for one in exported.arrived if one.name not in unknown
    ]


def _export(spec: ModelSpec, located: Located, work: Path, out: Path) -> _Exported:
    source = spec.source
    if isinstance(source, GgufSource):
        gguf.to_folder(located.parts, work / "model")
        return replace(_export_language(spec, work / "model", work, out), arrived=gguf.arrived(located.parts))
    if isinstance(source, HuggingFaceSource) and spec.generation is not None:
        found = compressed.read(located.path)
        if found is None:
            return _export_language(spec, located.path, work, out)
        compressed.to_folder(found, work / "model")
        for what in found.said.left_out:
            told.warn(out, f"{what} stay in float, though the checkpoint tells how to round them")
        return replace(_export_language(spec, work / "model", work, out), arrived=found.arrived())
    if isinstance(source, HuggingFaceSource):
        graph = huggingface.export(source, located.path, work, opset=spec.opset)
        return _opened(graph, folder=located.path)
    if isinstance(source, PythonSource):
        return _opened(module.export(spec, source, located.path, located.checkpoint, work))
    return _opened(located.path)


def _opened(graph: Path, *, folder: Path | None = None) -> _Exported:
    outside: dict[str, np.ndarray] = {}
    return _Exported(model=onnx_io.load(graph, outside), outside=outside, folder=folder)


def _export_language(spec: ModelSpec, folder: Path, work: Path, out: Path) -> _Exported:
    """Export a causal language model, and record what it says in PyTorch."""
    if spec.generation is None:
        raise UsageError("a language model needs a table [generation]", where=spec.name)
    windows.open_tokenizer(folder)  # told before torch is loaded, let alone the weights
    model, unknown = causal_lm.load(checkpoint.in_float32(folder, work / "float32"))
    if unknown:
        told.warn(out, f"left out, since the model has no such tensors: {', '.join(unknown)}")
    greedy.record(model, folder, spec.generation.golden_prompt, spec.generation.golden_tokens, out)
    facts = {"language": causal_lm.facts(model, spec.generation), "unknown_tensors": unknown}
    graph, outside = causal_lm.export(model)
    addresses = {name: weight.data_ptr() for name, weight in model.named_parameters(remove_duplicate=False)}
    return _Exported(model=graph, outside=outside, folder=folder, facts=facts, addresses=addresses)


def _exporter_name(spec: ModelSpec) -> str:
    if spec.generation is not None or spec.source.kind == "python":
        return "torch.onnx (dynamo)"
    return {"huggingface": "optimum-onnx", "onnx": "none"}.get(spec.source.kind, "none")


def _keep_outputs(model: onnx.ModelProto, spec: ModelSpec) -> None:
    have = {value.name: value for value in model.graph.output}
    missing = [name for name in spec.outputs if name not in have]
    if missing:
        raise UsageError(
            f"the model has no output `{missing[0]}`", where=spec.name, hint=f"it has: {', '.join(have)}"
        )
    inner = [output for node in model.graph.node for output in node.output]
    if len(inner) != len(set(inner)):
        twice = next(name for name in inner if inner.count(name) > 1)
        raise StepError(
            f"the exported graph names two values `{twice}`", where=spec.name, hint="choose another name for the output"
        )
    kept = [*spec.outputs, *(found.next for found in state.find(model))]
    del model.graph.output[:]
    model.graph.output.extend(have[name] for name in kept)


def _match_inputs(model: onnx.ModelProto, spec: ModelSpec) -> None:
    known = {*onnx_io.weight_names(model), *(kept.name for kept in state.find(model))}
    have = [value.name for value in model.graph.input if value.name not in known]
    if set(have) != set(spec.inputs):
        raise UsageError(
            f"the specification's inputs {sorted(spec.inputs)} are not the model's {sorted(have)}",
            where=f"models/{spec.name}.toml [inputs]",
        )


def _output_dims(model: onnx.ModelProto, spec: ModelSpec) -> dict[str, list[str | int | None]]:
    """Return the axes of every output: a size, the name of the specification's dimension it follows, or None."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        dims = spec.inputs[value.name].shape if value.name in spec.inputs else ()
        for given, dim in zip(value.type.tensor_type.shape.dim, dims, strict=False):
            if given.dim_param and isinstance(dim, str):
                names[given.dim_param] = dim
    return {
        value.name: [
            dim.dim_value if dim.dim_value else names.get(dim.dim_param) for dim in value.type.tensor_type.shape.dim
        ]
        for value in model.graph.output
    }


def _keep_companions(spec: ModelSpec, located: Located, folder: Path | None, out: Path) -> list[str]:
    sources = [("package", located.licence_folder)] if located.licence_folder else []
    if isinstance(spec.source, HuggingFaceSource):
        sources.append(("model", located.path))
    for origin, licences in sources:
        for glob in LICENCE_GLOBS:
            for file in sorted(licences.glob(glob)) if licences else []:
                (out / "licences").mkdir(exist_ok=True)
                shutil.copyfile(file, out / "licences" / f"{origin}-{file.name}")
    return huggingface.keep_tokenizer(folder, out / "tokenizer") if folder else []
