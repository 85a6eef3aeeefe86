"""One decode step of a language model on an emulated chip, against ONNX Runtime on the same quantised graph.

    python tests/bench/emulated_decode.py smollm2 rv64gcv-npu w4a16

Builds what is not in the cache, lowers the decode step alone, feeds it three tokens one after another, and tells the
largest difference of the logits and what the control core executed. The emulator's time is told to the reader of the
log alone: it is no latency of anything.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hwc import onnx_io
from hwc.capture import calls, simplify
from hwc.capture.golden import Case
from hwc.lower import iree, lower, vendor
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import ResolvedTarget, encodings_of
from hwc.pipeline.stages import program
from hwc.pipeline.store import Store
from hwc.quantise import codes, quantise
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.weights import Weights
from hwc.runtime.session import Session
from hwc.spec.model import ModelSpec
from hwc.spec.project import find_model, open_project

TOKENS = (504, 3575, 282)


def main(model: str, target: str, scheme: str) -> None:
    project = open_project(Path.cwd())
    found = find_model(project, model)
    (variant,) = plan_build(
        project, Request(found=found, targets=(target,), schemes=(scheme,), jobs=1, smoke=True)
    ).variants
    store = Store(project.home)

    def made(step: object) -> Path:
        artefact = store.lookup(step.stage.name, step.key)
        if artefact is None:
            sys.exit(f"not in the cache: {step.label}; run `hwc build {model} -t llvm-cpu-host -q {scheme}` first")
        return artefact.path

    captured, quantised, encoded = made(variant.capture), made(variant.quantise), made(variant.encode)
    spec = found.spec
    bucket = next(one for one in spec.buckets if one["sequence"] == 1 and one["logits"] == 1)
    weights = dict(Weights(captured / "weights.safetensors"))
    with tempfile.TemporaryDirectory(prefix="hwc-decode-") as text:
        work = Path(text)
        (work / "simplified").mkdir()
        (work / "lowered").mkdir()
        simplify.simplify(spec, (bucket,), captured, weights, work / "simplified")
        lower.lower(
            spec, variant.target.spec.lowering, encodings_of(variant.target.spec, variant.scheme), buckets=(bucket,),
            graphs=work / "simplified", quantised=quantised, limits=iree.Limits(timeout_s=3600, memory_bytes=16 << 30),
            out=work / "lowered", door=opened(variant.target),
        )
        cases = [step(bucket, position, token) for position, token in enumerate(TOKENS)]
        expected = reference(spec, captured, quantised, weights, cases)
        report(Session(program(encoded, work / "lowered", variant.target.device)), cases, expected)


def opened(target: ResolvedTarget) -> vendor.Door | None:
    folder = target.folder or Path()
    return vendor.door(vendor.params(target.spec, folder), folder, target.spec.vendor.timeout_s)


def step(bucket: dict[str, int], position: int, token: int) -> Case:
    feeds = {"input_ids": [[token]], "start": [position], "logit_index": [[0]]}
    return Case(
        bucket=bucket, items=(0,), feeds={name: np.array(value, np.int64) for name, value in feeds.items()}
    )


def reference(
    spec: ModelSpec, captured: Path, quantised: Path, weights: dict[str, np.ndarray], cases: list[Case]
) -> list[np.ndarray]:
    graph = apply(quantise.read_layers(quantised), onnx_io.load_graph(captured / "graph.onnx"), where="graph.onnx")
    coded = codes.load(quantised / "codes.safetensors")
    for linear in quantise.read_layers(quantised):
        weights.update(onnx_tensors(linear, coded[linear.layer]))
    weights.update(quantise.read_overrides(quantised))
    return list(calls.answers(graph, weights, spec, cases))


def report(session: Session, cases: list[Case], expected: list[np.ndarray]) -> None:
    (function,) = session.program.functions
    for case, due in zip(cases, expected, strict=True):
        before = session.executed()["instructions"]
        started = time.perf_counter()
        logits = session.call(function.name, case.feeds)["logits"]
        told = session.executed()
        assert told is not None
        print(json.dumps({
            "logits_max_abs": float(np.max(np.abs(logits - due))), "largest_logit": float(np.max(np.abs(due))),
            "same_token": bool(np.argmax(logits) == np.argmax(due)),
            "control_core_instructions": told["instructions"] - before,
            "emulator_wall_s_no_latency": round(time.perf_counter() - started, 1),
        }))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(*sys.argv[1:])
