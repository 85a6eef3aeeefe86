"""MiniLM 1×128 on one thread: hwc's artefacts and ONNX Runtime's own encodings of the same weights, in one process.

Run as a program of its own (bench.py starts it): it pins itself to one core before anything makes a thread.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BUCKET = {"batch": 1, "sequence": 128}
FUNCTION = "b1_s128"
SCHEMES = ("fp32", "fp8", "w4a16")
OUTPUT = "sentence_embedding"
WARMUP = 5

Feeds = dict[str, Any]
Runner = Callable[[Feeds], Any]


def main(home: Path, store: Path, rounds: int, out: Path) -> None:
    """Measure everything and write JSON."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    os.environ.update({"OMP_NUM_THREADS": "1", "HWC_HOME": str(home)})
    parts = _parts(store)
    runners = {**_hwc(store), **_onnxruntime(parts, out.parent)}
    feeds = [case.feeds for case in parts["cases"] if dict(case.bucket) == BUCKET][:32]
    outputs = {name: [runner(one) for one in feeds] for name, runner in runners.items()}
    facts = {
        "core": core,
        "rounds": rounds,
        "warmup": WARMUP,
        "latency_ms": _time(runners, feeds[0], rounds),
        "quality": _quality(outputs),
        "texts": len(feeds),
        "onnxruntime": __import__("onnxruntime").__version__,
    }
    out.write_text(json.dumps(facts, indent=1))


def _parts(store: Path) -> dict[str, Any]:
    """Return graphs, weights and cases, read from the outputs of the build's own steps."""
    from safetensors.numpy import load_file

    from hwc import onnx_io
    from hwc.capture import golden
    from hwc.pipeline.build import Request, plan_build
    from hwc.pipeline.store import Store
    from hwc.quantise import codes
    from hwc.quantise.quantise import read_layers
    from hwc.spec import infer
    from hwc.spec.project import open_project

    project = open_project(Path.cwd(), store=store)
    request = Request(found=infer.find(project, "minilm"), targets=("llvm-cpu-host",), schemes=SCHEMES, jobs=1)
    cache = Store(project.home)

    def path(step: Any) -> Path:
        found = cache.lookup(step.stage.name, step.key)
        if found is None:
            raise SystemExit(f"{step.label} is not built")
        return found.path

    parts: dict[str, Any] = {"codes": {}, "graphs": {}, "layers": {}}
    for variant in plan_build(project, request).variants:
        name = variant.scheme.name
        parts["codes"][name] = codes.load(path(variant.quantise) / "codes.safetensors") if name != "fp32" else {}
        parts["layers"][name] = read_layers(path(variant.quantise))
        graphs = path(variant.simplify) if name == "fp32" else path(variant.check.inputs["reference"])
        parts["graphs"][name] = onnx_io.load_graph(graphs / f"{FUNCTION}.onnx")
        parts["weights"] = load_file(path(variant.capture) / "weights.safetensors")
        parts["cases"] = golden.load_cases(path(variant.cases))
    return parts


def _hwc(store: Path) -> dict[str, Runner]:
    from hwc.api import find_variant
    from hwc.bundle.program import program_of
    from hwc.runtime.session import Session

    def runner(scheme: str) -> Runner:
        session = Session(program_of(find_variant(f"minilm:dev#llvm-cpu-host/{scheme}", store=store)))
        return lambda feeds: session.call(FUNCTION, feeds)[OUTPUT]

    return {f"hwc {scheme}": runner(scheme) for scheme in SCHEMES}


def _onnxruntime(parts: dict[str, Any], work: Path) -> dict[str, Runner]:
    from hwc import onnx_io
    from hwc.quantise.graph import onnx_tensors

    whole = {}
    for scheme, graph in parts["graphs"].items():
        weights = dict(parts["weights"])
        for linear in parts["layers"][scheme]:
            weights.update(onnx_tensors(linear, parts["codes"][scheme][linear.layer]))
        whole[scheme] = onnx_io.attach(graph, weights)
    coded = parts["codes"]["w4a16"]
    linears = {one.layer: coded[one.layer] for one in parts["layers"]["w4a16"] if not one.gathered}
    return {
        "ORT f32": _session(whole["fp32"]),
        "ORT fp8 QDQ, per channel": _session(whole["fp8"], {"session.disable_quant_qdq": "1"}),
        "ORT MatMulNBits, accuracy 0 (f32 inside)": _session(_with_accuracy(whole["w4a16"], 0)),
        "ORT MatMulNBits, accuracy 4 (int8 inside)": _session(_with_accuracy(whole["w4a16"], 4)),
        "ORT int4 QDQ, fused": _session(_as_qdq(whole["w4a16"], linears)),
        "ORT dynamic int8 (another scheme)": _session(_dynamic_int8(whole["fp32"], work)),
    }


def _session(model: Any, entries: dict[str, str] | None = None) -> Runner:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run([OUTPUT], feeds)[0]


def _with_accuracy(model: Any, level: int) -> Any:
    changed = type(model)()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = level
    return changed


def _as_qdq(model: Any, coded: dict[str, Any]) -> Any:
    """Return the graph with each MatMulNBits as a blocked int4 DequantizeLinear and a MatMul, weights [K, N]."""
    import ml_dtypes
    import numpy as np
    from onnx import helper, numpy_helper

    changed = type(model)()
    changed.CopyFrom(model)
    nodes, tensors = [], []
    for node in changed.graph.node:
        if node.op_type != "MatMulNBits":
            nodes.append(node)
            continue
        layer = node.input[1].removesuffix(".codes")
        codes = coded[layer]
        signed = np.ascontiguousarray((codes.codes.astype(np.int8) - 8).T).astype(ml_dtypes.int4)
        scales = np.ascontiguousarray(codes.scales.astype(np.float32).T)
        tensors.append(numpy_helper.from_array(signed, f"{layer}.int4"))
        tensors.append(numpy_helper.from_array(scales, f"{layer}.int4.scales"))
        block = codes.codes.shape[1] // codes.scales.shape[1]
        inputs = [f"{layer}.int4", f"{layer}.int4.scales"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{layer}.w"], axis=0, block_size=block))
        nodes.append(helper.make_node("MatMul", [node.input[0], f"{layer}.w"], list(node.output)))
    kept = [tensor for tensor in changed.graph.initializer if tensor.name.rpartition(".")[0] not in coded]
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend([*kept, *tensors])
    return changed


def _dynamic_int8(model: Any, work: Path) -> Any:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    source, made = work / "float.onnx", work / "int8.onnx"
    onnx.save(model, source)
    quantize_dynamic(source, made)
    return onnx.load(made)


def _time(runners: dict[str, Runner], feeds: Feeds, rounds: int) -> dict[str, dict[str, float]]:
    """Time every runner once a round, in an order shuffled anew each round, from host arrays to host arrays."""
    order = random.Random(0)
    took: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(WARMUP):
        for runner in runners.values():
            runner(feeds)
    for _ in range(rounds):
        for name in order.sample(list(runners), len(runners)):
            started = time.perf_counter()
            runners[name](feeds)
            took[name].append((time.perf_counter() - started) * 1e3)
    return {name: _spread(values) for name, values in took.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {
        "min": min(values), "p10": deciles[0], "median": statistics.median(values), "p90": deciles[-1], "n": len(values)
    }


ORACLE = {
    "hwc fp32": "ORT f32",
    "hwc fp8": "ORT fp8 QDQ, per channel",
    "hwc w4a16": "ORT MatMulNBits, accuracy 0 (f32 inside)",
}


def _quality(outputs: dict[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Return the mean cosine to float, and for ours the largest difference from ONNX Runtime on the same codes."""
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    floats = np.concatenate(outputs["ORT f32"]).astype(np.float64)
    for name, rows in outputs.items():
        values = np.concatenate(rows).astype(np.float64)
        norms = np.linalg.norm(values, axis=1) * np.linalg.norm(floats, axis=1)
        found[name] = {"cosine": float(((values * floats).sum(axis=1) / norms).mean())}
        if name in ORACLE:
            found[name]["max_abs"] = float(np.abs(values - np.concatenate(outputs[ORACLE[name]])).max())
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
