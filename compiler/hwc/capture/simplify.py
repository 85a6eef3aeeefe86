"""Simplify: one static graph per shape bucket, shown to compute what the captured graph computes."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_external, onnx_io
from hwc.capture import state
from hwc.capture.state import State
from hwc.errors import StepError
from hwc.spec.model import Bucket, ModelSpec, TensorSpec, bucket_id

if TYPE_CHECKING:
    import numpy as np
    import onnx

SAME_MAX_ABS = 1e-6
KEPT_METADATA = (onnx_io.WEIGHTS_KEY,)


def simplify(
    spec: ModelSpec, buckets: tuple[Bucket, ...], captured: Path, weights: Mapping[str, np.ndarray], out: Path
) -> None:
    """Write ``<bucket>.onnx`` (detached) for every bucket and ``simplify.json`` with the measured differences.

    ``weights`` are the captured model's. They are graph inputs here, so no rewrite can reach them. Raises StepError if
    a simplified graph's output differs from the captured graph's by more than 1e-6 of its largest value, on seeded
    inputs.
    """
    model = onnx_io.load_graph(captured / "graph.onnx")
    states = state.find(model)
    outputs = [*spec.outputs, *(kept.next for kept in states)]
    whole = session(model, as_written=True)  # weights stay inputs: ONNX Runtime reads them where they lie
    everything = dict(weights)
    differences: dict[str, float] = {}
    for bucket in buckets:
        static = specialise(model, spec, bucket)
        feeds = {**seeded_inputs(spec, bucket), **_seeded_state(states, spec, bucket)}
        before = call(whole, outputs, {**feeds, **everything})
        kept = {name: everything[name] for name in onnx_io.weight_names(static)}
        after = call(session(static, as_written=True), outputs, {**feeds, **kept})
        differences[bucket_id(bucket)] = _compare(before, after, spec.name, bucket)
        onnx_io.save(static, out / f"{bucket_id(bucket)}.onnx")
    facts = {"max_relative_difference": differences, "allowed": SAME_MAX_ABS}
    (out / "simplify.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def specialise(model: onnx.ModelProto, spec: ModelSpec, bucket: Bucket) -> onnx.ModelProto:
    """Return the detached graph at one static shape, folded, with the unused weights dropped.

    MatMul and Add stay apart: a Gemm would need its rank-3 input reshaped, and hides the linear from quantisers.
    """
    onnxsim = _onnxsim()
    shapes = {name: list(spec.static_shape(tensor, bucket)) for name, tensor in spec.inputs.items()}
    shapes |= {kept.name: list(spec.sized(kept.shape, bucket)) for kept in state.find(model)}
    try:
        static, _ = onnxsim.simplify(
            model, overwrite_input_shapes=shapes, skipped_optimizers=["fuse_matmul_add_bias_into_gemm"]
        )
    except Exception as error:
        raise StepError(f"the graph cannot be simplified at {bucket}: {error}", where=spec.name) from error
    _drop_unused_weights(static)
    static = _inferred(static)
    kept = [(entry.key, entry.value) for entry in static.metadata_props if entry.key in KEPT_METADATA]
    del static.metadata_props[:]
    for key, value in kept:
        static.metadata_props.add(key=key, value=value)
    for node in static.graph.node:
        node.doc_string = ""
    return static


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer every shape anew: onnxsim may leave a size of the captured graph's that has no number (``s70``)."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _onnxsim() -> Any:
    """Import onnxsim without torch and sympy, which it tries for features that are not used here: 0.9 s, not 5.3 s."""
    hidden = [name for name in ("torch", "sympy") if name not in sys.modules]
    known: dict[str, Any] = sys.modules
    known.update(dict.fromkeys(hidden))  # None: an import of it fails
    try:
        return importlib.import_module("onnxsim")
    finally:
        for name in hidden:
            del sys.modules[name]


def _drop_unused_weights(model: onnx.ModelProto) -> None:
    used = onnx_io.used_names(model.graph)
    names = [name for name in onnx_io.weight_names(model) if name in used]
    dropped = set(onnx_io.weight_names(model)) - set(names)
    inputs = [value for value in model.graph.input if value.name not in dropped]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx_io.set_weight_names(model, names)


def session(
    model: onnx.ModelProto, weights: Mapping[str, np.ndarray] | None = None, *, as_written: bool = False
) -> Any:
    """Open a model in ONNX Runtime, strict: one thread, fusions that compute in int8 off.

    Where ``weights`` are given, the model is a detached graph that is run with them: they are read from where they lie,
    with no copy in a protobuf between, which could hold no more than 2 GiB.

    ``as_written`` turns every fusion off: static shapes allow other ones than dynamic shapes do, and in a model with
    large logits their rounding alone differs by more than 1e-6.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    given: list[Any] = []
    if weights is not None:
        model = onnx_external.attach(model, frozenset(onnx_io.weight_names(model)))
        kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        names = onnx_io.weight_names(model)
        given = [_ort_value(weights[name], kinds[name]) for name in names]
        options.add_external_initializers(list(names), given)
    try:
        opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refused(model, str(error)) from error
    opened.given = given  # ONNX Runtime does not own what it was given
    return opened


def _ort_value(value: np.ndarray, kind: int) -> Any:
    """Return a view of an array for ONNX Runtime; ``kind`` names types that NumPy alone does not know."""
    import numpy as np
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(value), kind)


def call(opened: Any, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """Run a session; raise StepError with ONNX Runtime's own words if the model fails on its golden inputs."""
    try:
        return list(opened.run(list(outputs), dict(feeds)))
    except Exception as error:
        shapes = ", ".join(f"{name}: {value.dtype}{list(value.shape)}" for name, value in feeds.items())
        raise StepError(
            f"ONNX Runtime fails on the model's golden inputs: {str(error).strip().splitlines()[0]}",
            where=shapes,
            hint="do [inputs] tell the range the model takes? whole numbers are drawn from low ≤ x < high",
        ) from error


def _refused(model: onnx.ModelProto, reason: str) -> StepError:
    """Name the ONNX node that ONNX Runtime refuses, with its module, as far as its message tells."""
    quoted = set(re.findall(r"""["'(]([^"'()]+)["')]""", reason))
    by_name = [node for node in model.graph.node if node.name in quoted]
    told = by_name or [node for node in model.graph.node if _foreign(node)]
    named = f"ONNX node {told[0].name or told[0].output[0]!r} ({told[0].op_type})" if told else "the graph"
    module = told[0].name.strip("/").rpartition("/")[0].replace("/", ".") if told else ""
    what = f"replace {told[0].op_type} in the model by ops" if told else "export the model again, with ops"
    return StepError(
        f"ONNX Runtime cannot load {named}: {reason.strip().splitlines()[0]}",
        where=f"module {module or 'the graph'}",
        hint=f"{what} that ONNX Runtime has: every artefact is checked against it",
    )


def _foreign(node: onnx.NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def seeded_inputs(spec: ModelSpec, bucket: Bucket, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs of a bucket's shapes, the same for the same seed."""
    import numpy as np

    rng = np.random.default_rng(seed)
    found = {name: _random(rng, tensor, spec.static_shape(tensor, bucket)) for name, tensor in spec.inputs.items()}
    if spec.generation is not None:
        found |= spec.generation.positions(bucket)
    return found


def _seeded_state(states: Sequence[State], spec: ModelSpec, bucket: Bucket) -> dict[str, np.ndarray]:
    """Return a random state, so that what a call leaves as it was is seen to be so."""
    import numpy as np

    rng = np.random.default_rng(1)
    return {
        kept.name: rng.uniform(-1, 1, spec.sized(kept.shape, bucket)).astype(np.float32) for kept in states
    }


def _random(rng: np.random.Generator, tensor: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    if tensor.dtype in ("int64", "int32"):
        low = math.ceil(tensor.low)
        return rng.integers(low, max(low + 1, math.ceil(tensor.high)), shape).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return rng.uniform(tensor.low, tensor.high, shape).astype(tensor.dtype)


def _compare(before: list[Any], after: list[Any], model: str, bucket: Mapping[str, int]) -> float:
    import numpy as np

    worst = 0.0
    for left, right in zip(before, after, strict=True):
        scale = max(1.0, float(np.max(np.abs(left), initial=0.0)))
        worst = max(worst, float(np.max(np.abs(left - right), initial=0.0)) / scale)
    if not worst <= SAME_MAX_ABS:
        raise StepError(
            f"simplifying changed the result at {dict(bucket)}: largest relative difference {worst:.2e}",
            where=model,
            hint="this is a bug in the simplifier; please report the model",
        )
    return worst
