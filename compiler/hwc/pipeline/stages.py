"""The pipeline, in order. Read this first: each stage is a description plus a function that reads only its inputs.

    capture ─ simplify ─ cases
       └───── quantise ─ reference     encode     lower ─ check ─ profile      (describe and pack follow in build.py)
"""  # noqa: D208

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwc import onnx_io
from hwc.capture import capture, golden, simplify
from hwc.capture.source import Located
from hwc.job import Job
from hwc.lower import iree, lower
from hwc.measure import check, profile
from hwc.pipeline.step import Stage
from hwc.program import Device, Program, Slice, functions_from
from hwc.quantise import encode, quantise
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.scheme import Scheme
from hwc.spec.model import Bucket, ModelSpec, bucket_id
from hwc.spec.target import Lowering


def _spec(job: Job) -> ModelSpec:
    return ModelSpec.model_validate({"name": job.local["name"], **job.params["spec"]})


def _buckets(job: Job) -> tuple[Bucket, ...]:
    return _spec(job).buckets


def _scheme(job: Job) -> Scheme:
    return Scheme(**job.params["scheme"])


def _capture(job: Job) -> None:
    located = Located(
        path=Path(job.local["path"]),
        content_sha256=job.params["content_sha256"],
        checkpoint=Path(job.local["checkpoint"]) if job.local.get("checkpoint") else None,
        licence_folder=Path(job.local["licences"]) if job.local.get("licences") else None,
    )
    capture.capture(_spec(job), located, job.out)


def _simplify(job: Job) -> None:
    simplify.simplify(_spec(job), _buckets(job), job.inputs["capture"], job.out)


def _cases(job: Job) -> None:
    spec, captured = _spec(job), job.inputs["capture"]
    items = int(job.params["items"])
    if spec.evaluation.file:
        texts = golden.read_text(Path(job.local["text"]), spec.evaluation.sha256, items)
        cases = golden.text_cases(spec, spec.buckets, texts, captured / "tokenizer")
    else:
        cases = golden.random_cases(spec, spec.buckets, items)
    graphs = golden.load_graphs(job.inputs["simplify"], spec.buckets)
    expected = golden.run_reference(graphs, _weights(captured), cases, spec.outputs)
    golden.save_cases(cases, job.out)
    golden.save_numbered(job.out / "expected.npz", expected)


def _weights(captured: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(captured / "weights.safetensors"))


def _quantise(job: Job) -> None:
    quantise.quantise(_scheme(job), tuple(job.params["exclude"]), job.inputs["capture"], job.out)


def _reference(job: Job) -> None:
    from hwc.quantise import codes

    spec, scheme = _spec(job), _scheme(job)
    graphs = {
        name: lower.reference_graph(job.inputs["simplify"], job.inputs["quantise"], scheme, bucket)
        for name, bucket in ((bucket_id(bucket), bucket) for bucket in spec.buckets)
    }
    weights = _weights(job.inputs["capture"])
    for layer, coded in codes.load(job.inputs["quantise"] / "codes.safetensors").items():
        weights.update(onnx_tensors(layer, coded))
    cases = golden.load_cases(job.inputs["cases"])
    golden.save_numbered(job.out / "expected.npz", golden.run_reference(graphs, weights, cases, spec.outputs))
    for name, graph in graphs.items():
        onnx_io.save(graph, job.out / f"{name}.onnx")


def _encode(job: Job) -> None:
    encode.encode(_scheme(job), job.params["encoding"], job.inputs["capture"], job.inputs["quantise"], job.out)


def _lower(job: Job) -> None:
    lower.lower(
        _spec(job),
        _scheme(job),
        Lowering.model_validate(job.params["lowering"]),
        job.params["encoding"],
        buckets=_buckets(job),
        graphs=job.inputs["simplify"],
        quantised=job.inputs["quantise"],
        limits=iree.Limits(timeout_s=float(job.local["timeout_s"]), memory_bytes=int(job.local["memory_bytes"])),
        out=job.out,
    )


def program(encoded: Path, lowered: Path, device: Device) -> Program:
    """Return what a session needs to load the outputs of encode and lower."""
    facts = json.loads((lowered / "lower.json").read_text())
    return Program(
        code=Slice(path=lowered / "module.vmfb"),
        parameters=tuple(Slice(path=encoded / name) for name in (encode.FLOAT_ARCHIVE, encode.LINEAR_ARCHIVE)),
        functions=functions_from(facts["functions"]),
        device=device,
    )


def _program(job: Job) -> Program:
    device = Device(**{**job.params["device"], "isa_features": tuple(job.params["device"]["isa_features"])})
    return program(job.inputs["encode"], job.inputs["lower"], device)


def _check(job: Job) -> None:
    work = job.out / "work"
    report = check.check(
        _program(job),
        _spec(job).evaluation,
        folder=Path(job.local["folder"]),
        cases=job.inputs["cases"],
        reference=job.inputs.get("reference", job.inputs["cases"]),
        work=work,
        timeout_s=float(job.local["timeout_s"]),
        memory_bytes=int(job.local["memory_bytes"]),
    )
    check.write(report, job.out)
    check.clean_up(work)


def _profile(job: Job) -> None:
    profile.profile(
        _program(job),
        profile.Method(**job.params["method"]),
        cases=job.inputs["cases"],
        timeout_s=float(job.local["timeout_s"]),
        memory_bytes=int(job.local["memory_bytes"]),
        out=job.out,
    )


CAPTURE = Stage(
    name="capture", version=4, tools=("torch", "transformers", "optimum-onnx", "onnx"), function=_capture
)
SIMPLIFY = Stage(name="simplify", version=3, tools=("onnx", "onnxsim", "onnxruntime"), function=_simplify)
CASES = Stage(name="cases", version=2, tools=("onnxruntime", "tokenizers"), function=_cases)
QUANTISE = Stage(name="quantise", version=1, tools=("ml-dtypes",), function=_quantise)
REFERENCE = Stage(name="reference", version=1, tools=("onnx", "onnxruntime"), function=_reference)
ENCODE = Stage(name="encode", version=2, tools=("iree-base-runtime", "onnx"), function=_encode)
LOWER = Stage(name="lower", version=1, tools=("iree-base-compiler", "onnx"), function=_lower)
CHECK = Stage(name="check", version=2, tools=("iree-base-runtime",), function=_check)
PROFILE = Stage(name="profile", version=5, tools=("iree-base-runtime",), function=_profile, volatile=True)

STAGES = {
    stage.name: stage
    for stage in (CAPTURE, SIMPLIFY, CASES, QUANTISE, REFERENCE, ENCODE, LOWER, CHECK, PROFILE)
}
