"""Capture: any source to a detached ONNX graph, its weights, its tokenizer and its licences."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.capture import huggingface, module
from hwc.capture.fold import fold_weights
from hwc.capture.source import Located
from hwc.capture.weights import rename_invented
from hwc.errors import StepError, UsageError
from hwc.spec.model import HuggingFaceSource, ModelSpec, PythonSource

if TYPE_CHECKING:
    import numpy as np
    import onnx

LICENCE_GLOBS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "README.md")


def capture(spec: ModelSpec, located: Located, out: Path) -> None:
    """Write ``graph.onnx`` (detached), ``weights.safetensors``, ``capture.json``, ``tokenizer/``, ``licences/``.

    Raises StepError if the exporter fails, IntegrityError for hostile or damaged input, UsageError if the
    specification's inputs or outputs are not those of the model.
    """
    with tempfile.TemporaryDirectory(dir=out, prefix=".export") as work:
        path = _export(spec, located, Path(work))
        model = onnx_io.load(path)
    _keep_outputs(model, spec)
    folded = fold_weights(model)
    renamed = rename_invented(model)
    weights = onnx_io.detach(model)
    if not weights:
        raise UsageError(
            "the model has no weights: there is nothing to quantise or to ship", where=spec.name,
            hint=f"a weight has at least {onnx_io.DETACH_FLOAT_ELEMENTS} elements",
        )
    _match_inputs(model, spec)
    output_dims = _output_dims(model, spec)
    onnx_io.save(model, out / "graph.onnx")
    save_weights(weights, out / "weights.safetensors")
    facts = {
        "exporter": _exporter_name(spec),
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "nodes": len(model.graph.node),
        "weights": len(weights),
        "parameters": int(sum(value.size for value in weights.values())),
        "weight_bytes": int(sum(value.nbytes for value in weights.values())),
        "renamed_weights": renamed,
        "folded_nodes": folded,
        "output_dims": output_dims,
        "tokenizer": _keep_companions(spec, located, out),
    }
    (out / "capture.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def save_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Write weights as safetensors, sorted by name so that equal weights give equal bytes."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}, path)


def _export(spec: ModelSpec, located: Located, work: Path) -> Path:
    if isinstance(spec.source, HuggingFaceSource):
        return huggingface.export(spec.source, located.path, work, opset=spec.opset)
    if isinstance(spec.source, PythonSource):
        return module.export(spec, spec.source, located.path, located.checkpoint, work)
    return located.path


def _exporter_name(spec: ModelSpec) -> str:
    return {"huggingface": "optimum-onnx", "python": "torch.onnx (dynamo)", "onnx": "none"}[spec.source.kind]


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
    del model.graph.output[:]
    model.graph.output.extend(have[name] for name in spec.outputs)


def _match_inputs(model: onnx.ModelProto, spec: ModelSpec) -> None:
    weights = set(onnx_io.weight_names(model))
    have = [value.name for value in model.graph.input if value.name not in weights]
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


def _keep_companions(spec: ModelSpec, located: Located, out: Path) -> list[str]:
    sources = [("package", located.licence_folder)] if located.licence_folder else []
    if isinstance(spec.source, HuggingFaceSource):
        sources.append(("model", located.path))
    for origin, folder in sources:
        for glob in LICENCE_GLOBS:
            for file in sorted(folder.glob(glob)) if folder else []:
                (out / "licences").mkdir(exist_ok=True)
                shutil.copyfile(file, out / "licences" / f"{origin}-{file.name}")
    if isinstance(spec.source, HuggingFaceSource):
        return huggingface.keep_tokenizer(located.path, out / "tokenizer")
    return []
