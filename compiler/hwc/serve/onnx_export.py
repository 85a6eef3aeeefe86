"""Export to standard ONNX: one model file that ONNX Runtime runs with the bundle's result, shown before it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from hwc import onnx_io
from hwc.bundle.export_dir import appearing, copy_file
from hwc.bundle.open import Variant
from hwc.capture import state
from hwc.files import confined
from hwc.quantise import blocked
from hwc.quantise.linears import Linear
from hwc.quantise.restore import layers
from hwc.serve import onnx_export_facts, onnx_export_weights
from hwc.serve.first_cases import first_cases
from hwc.serve.onnx_export_proof import Caller, Proof, prove_language
from hwc.serve.onnx_model import StoredWeights, detached_graph, encodings_of, opened, prove

if TYPE_CHECKING:
    import onnx

Form = Literal["matmulnbits", "dequantize-linear"]
"""``matmulnbits``: ONNX Runtime's operators for packed integers; ``dequantize-linear``: standard operators alone."""
FORMS: tuple[Form, ...] = get_args(Form)
MODEL = "model.onnx"
GENERATE = "generate.py"
FLOAT_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level"
"""Without it ONNX Runtime rounds the activations of what it fused to int8."""
UNFUSED = "session.disable_quant_qdq"
"""With it ONNX Runtime dequantises weights once, as it loads, and computes in float32; else fp8 ones in every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    model_bytes: int
    """Of the model's file and of the one beside it."""
    session_options: Mapping[str, str]
    """Under which the result is the bundle's."""
    proof: Proof


def export(variant: Variant, destination: Path, *, form: Form = "matmulnbits", replace: bool = False) -> Exported:
    """Write a variant's model as ONNX into a folder that appears whole, or not at all.

    The file computes with exactly the weights of the bundle, and was run on golden data in ONNX Runtime. ``replace``
    lets an earlier export make way. Raises UsageError for a destination that is taken, a bundle without a graph, or
    weights that the form cannot tell; IntegrityError for altered bytes; InternalError for a file that answers
    otherwise than the bundle.
    """
    graph = detached_graph(variant)
    linears = tuple(layers(graph))
    standard = form == "dequantize-linear"
    _name_dims(graph, variant.facts["model"]["inputs"])
    whole = _without_weights(blocked.rewrite(graph, linears) if standard else graph, onnx_io.weight_names(graph))
    with appearing(destination, replaced=onnx_export_facts.FACTS if replace else "") as folder:
        variant.verify()
        weights = onnx_export_weights.tensors(
            graph, linears, StoredWeights(variant), encodings_of(variant), standard=standard
        )
        archives_bytes = sum(blob.length for role, blob in variant.files.items() if role.startswith("weights/"))
        onnx_export_weights.write(
            whole, weights, folder / MODEL, beside=archives_bytes > onnx_export_weights.INSIDE_BYTES
        )
        model_bytes = sum(path.stat().st_size for path in folder.iterdir())
        options = session_options(linears, standard=standard)
        proof = _prove(variant, graph, folder / MODEL, options)
        facts = onnx_export_facts.facts(variant, graph, form, options)
        onnx_export_facts.write(facts, folder)
        _copy_beside(variant, folder)
    return Exported(model_bytes=model_bytes, session_options=options, proof=proof)


def session_options(linears: Sequence[Linear], *, standard: bool) -> dict[str, str]:
    """Return the session options under which ONNX Runtime computes what the weights stand for, in float32."""
    kinds = {linear.format.kind for linear in linears if linear.format is not None}
    if "fp8" in kinds:
        return {UNFUSED: "1"}
    return {FLOAT_ACTIVATIONS: "1"} if standard and kinds else {}


def _name_dims(model: onnx.ModelProto, inputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Give open sizes, in place, the names that the model's specification has for them."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        told = inputs.get(value.name, {}).get("shape", ())
        for dim, name in zip(value.type.tensor_type.shape.dim, told, strict=False):
            if dim.dim_param and isinstance(name, str):
                names.setdefault(dim.dim_param, name)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _without_weights(model: onnx.ModelProto, weights: Sequence[str]) -> onnx.ModelProto:
    """Return a graph whose weights are no inputs any more; initializers of their names are to come."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    kept = [value for value in whole.graph.input if value.name not in set(weights)]
    del whole.graph.input[:]
    whole.graph.input.extend(kept)
    del whole.metadata_props[:]
    return whole


def _prove(variant: Variant, graph: onnx.ModelProto, path: Path, options: Mapping[str, str]) -> Proof:
    tolerance, told = float(variant.facts["parity_max_abs"]), _generation(variant)
    if told is None:
        cases = first_cases(variant)
        return Proof(calls=len(cases), max_abs=prove(path, cases, tolerance, options))
    caller = Caller(
        opened(path, options), state.find(graph), context_tokens=int(told["context_tokens"]),
        output=variant.facts["model"]["outputs"][0],
    )
    return prove_language(variant, caller, tolerance)


def _generation(variant: Variant) -> Mapping[str, Any] | None:
    told: Mapping[str, Any] | None = variant.facts.get("generation")
    return told


def _copy_beside(variant: Variant, folder: Path) -> None:
    for role, blob in variant.files.items():
        if role.startswith(("tokenizer/", "licences/")):
            copy_file(blob, confined(folder, role))
    if _generation(variant) is not None:
        source = Path(__file__).with_name("onnx_export_generate.py")
        (folder / GENERATE).write_bytes(source.read_bytes())
