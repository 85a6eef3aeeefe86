"""The pipeline, in order. Read this first: each stage is a description plus a function that reads only its inputs.

    capture ─ simplify ─ cases
       └ calibration ─ quantise ─ reference   encode   lower ─ check ─ profile   (describe and pack follow in build.py)
"""  # noqa: D208

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hwc import onnx_io
from hwc.capture import calls, capture, golden, greedy, reduced, simplify, state, windows
from hwc.capture.reduced import Reduced
from hwc.capture.source import Located
from hwc.capture.windows import Window
from hwc.errors import InternalError, UsageError
from hwc.formats import Format
from hwc.job import Job
from hwc.lower import iree, lower, placing, vendor
from hwc.measure import check, language, layers, noise, profile, score, tune
from hwc.pipeline.step import Stage
from hwc.program import Device, Program, Slice, device_from, functions_from
from hwc.quantise import codes, encode, quantise, sensitivity
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.scheme import Scheme, from_params
from hwc.quantise.weights import Weights
from hwc.runtime.contest import Turns
from hwc.spec.model import Bucket, ModelSpec, bucket_id
from hwc.spec.target import Lowering

CALIBRATION_SEED = 1_000_003
"""Added to the evaluation's seed where random inputs calibrate: other ones than those quality is measured on."""


def _spec(job: Job) -> ModelSpec:
    return ModelSpec.model_validate({"name": job.local["name"], **job.params["spec"]})


def _buckets(job: Job) -> tuple[Bucket, ...]:
    return _spec(job).buckets


def _scheme(job: Job) -> Scheme:
    return from_params(job.params["scheme"])


def _capture(job: Job) -> None:
    located = Located(
        path=Path(job.local["path"]),
        content_sha256=job.params["content_sha256"],
        checkpoint=Path(job.local["checkpoint"]) if job.local.get("checkpoint") else None,
        licence_folder=Path(job.local["licences"]) if job.local.get("licences") else None,
        parts=tuple(map(Path, json.loads(job.local.get("parts", "[]")))),
    )
    capture.capture(_spec(job), located, job.out)


def _simplify(job: Job) -> None:
    captured = job.inputs["capture"]
    simplify.simplify(_spec(job), _buckets(job), captured, _weights(captured), job.out)


def _cases(job: Job) -> None:
    spec, captured = _spec(job), job.inputs["capture"]
    items = int(job.params["items"])
    if spec.generation is not None:
        _language_cases(job, spec, captured, items)
        return
    cases = _items(job, spec, captured, spec.evaluation.seed, items)
    graphs = golden.load_graphs(job.inputs["simplify"], spec.buckets)
    expected = golden.run_reference(graphs, _weights(captured), cases, spec.outputs)
    golden.save_cases(cases, job.out)
    golden.save_numbered(job.out / "expected.npz", expected)


def _items(job: Job, spec: ModelSpec, captured: Path, seed: int, items: int) -> list[golden.Case]:
    if spec.evaluation.file:
        texts = golden.read_text(Path(job.local["text"]), spec.evaluation.sha256, items)
        return golden.text_cases(spec, spec.buckets, texts, captured / "tokenizer")
    return golden.random_cases(spec, spec.buckets, items, seed=seed)


def _windows(job: Job, captured: Path, sha256: str | None, tokens: int, count: int, purpose: str) -> list[Window]:
    passages = windows.read_passages(Path(job.local["text"]), sha256)
    tokenizer = windows.open_tokenizer(captured / "tokenizer")
    return windows.windows(passages, tokenizer, tokens=tokens, count=count, purpose=purpose)[:count]


def _language_cases(job: Job, spec: ModelSpec, captured: Path, items: int) -> None:
    if not spec.evaluation.file:
        raise UsageError("a language model is measured on text", where=spec.name, hint="name it in [evaluation] file")
    assert spec.generation is not None
    tokens = calls.window_tokens(spec.buckets)
    found = _windows(job, captured, spec.evaluation.sha256, tokens, items, "evaluation")
    cases = calls.make(spec.buckets, found, context_tokens=spec.generation.context_tokens)
    golden.save_cases(cases, job.out)
    domains = tuple(found[item].domain for case in cases for item in case.items)
    calls.save_scored(calls.Scored(domains=domains, positions_per_window=tokens - 1), job.out)
    answered = calls.answers(onnx_io.load_graph(captured / "graph.onnx"), _weights(captured), spec, cases)
    reduced.save(job.out / "expected.npz", calls.reduce(cases, answered))
    for name in (greedy.TOKENS, greedy.LOGITS):
        shutil.copyfile(captured / name, job.out / name)


def _calibration(job: Job) -> None:
    """Write cases that quantisation looks at, and where they come from."""
    spec, captured = _spec(job), job.inputs["capture"]
    told = spec.calibration
    if told.file and spec.generation is not None:
        states = state.find(onnx_io.load_graph(captured / "graph.onnx"))
        found = _windows(job, captured, told.sha256, told.window_tokens, told.skip + told.items, "calibration")
        cases = calls.calibration(spec, states, found[told.skip :])
    elif told.file:
        texts = golden.read_text(Path(job.local["text"]), told.sha256, told.skip + told.items)[told.skip :]
        cases = golden.text_cases(spec, spec.buckets, texts, captured / "tokenizer")
    else:
        cases = golden.random_cases(spec, spec.buckets, told.items, seed=spec.evaluation.seed + CALIBRATION_SEED)
    golden.save_cases(cases, job.out)
    facts = {
        "data_sha256": told.sha256, "skipped_items": told.skip, "items": told.items,
        "disjoint_from": spec.evaluation.sha256,
        "source": told.file.rpartition("/")[2] or f"random, seed {spec.evaluation.seed + CALIBRATION_SEED}",
    }
    (job.out / "calibration.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def _weights(captured: Path) -> dict[str, Any]:
    """Return a captured model's weights, mapped: one takes memory while it is read."""
    return dict(Weights(captured / "weights.safetensors"))


def _quantise(job: Job) -> None:
    quantise.quantise(
        _scheme(job), tuple(job.params["exclude"]), job.inputs["capture"], job.out, job.inputs.get("calibration"),
        job.work, job.inputs.get("sensitivity"),
    )


def _sensitivity(job: Job) -> None:
    asked = {**job.params["question"], "form": Format(**job.params["question"]["form"])}
    asked["exclude"] = tuple(asked["exclude"])
    sensitivity.measure(
        sensitivity.Question(**asked), job.inputs["capture"], job.inputs["calibration"], job.out
    )


def _reference(job: Job) -> None:
    spec = _spec(job)
    if spec.generation is not None:
        _language_reference(job, spec)
        return
    graphs = _reference_graphs(job, spec)
    cases = golden.load_cases(job.inputs["cases"])
    expected = golden.run_reference(graphs, _quantised_weights(job), cases, spec.outputs)
    golden.save_numbered(job.out / "expected.npz", expected)
    for name, graph in graphs.items():
        onnx_io.save(graph, job.out / f"{name}.onnx")


def _reference_graphs(job: Job, spec: ModelSpec) -> dict[str, Any]:
    return {
        bucket_id(bucket): lower.reference_graph(job.inputs["simplify"], job.inputs["quantise"], bucket)
        for bucket in spec.buckets
    }


def _quantised_weights(job: Job) -> dict[str, Any]:
    weights = _weights(job.inputs["capture"])
    coded = codes.load(job.inputs["quantise"] / "codes.safetensors")
    for linear in quantise.read_layers(job.inputs["quantise"]):
        weights.update(onnx_tensors(linear, coded[linear.layer]))
    weights.update(quantise.read_overrides(job.inputs["quantise"]))
    return weights


def _language_reference(job: Job, spec: ModelSpec) -> None:
    reduced.save(job.out / "expected.npz", _language_answers(job, spec, _quantised_weights(job)))


def _language_answers(job: Job, spec: ModelSpec, weights: dict[str, Any]) -> Reduced:
    """Answer the calls in ONNX Runtime on the quantised graph, read at the float model's likeliest tokens."""
    graph = onnx_io.load_graph(job.inputs["capture"] / "graph.onnx")
    graph = apply(quantise.read_layers(job.inputs["quantise"]), graph, where="graph.onnx")
    cases = golden.load_cases(job.inputs["cases"])
    floats = reduced.load(job.inputs["cases"] / "expected.npz")
    return calls.reduce(cases, calls.answers(graph, weights, spec, cases), floats)


def _noise(job: Job) -> None:
    spec, weights = _spec(job), noise.moved(_quantised_weights(job))
    answered = job.inputs["reference"] / "expected.npz"
    if spec.generation is not None:
        found = language.parity(reduced.load(answered), _language_answers(job, spec, weights))
    else:
        cases = golden.load_cases(job.inputs["cases"])
        results = golden.run_reference(_reference_graphs(job, spec), weights, cases, spec.outputs)
        found = max(check.apart(cases, results, golden.load_numbered(answered)).values())
    noise.write(found, job.out)


def _encode(job: Job) -> None:
    encode.encode(
        _scheme(job), job.params["encodings"], job.inputs["capture"], job.inputs["quantise"], job.out,
        tiles=_in_tiles(job),
    )


def _in_tiles(job: Job) -> bool:
    """Tell whether float weights of linears lie in tiles."""
    return bool(job.params.get("floats"))


def _lower(job: Job) -> None:
    lower.lower(
        _spec(job),
        Lowering.model_validate(job.params["lowering"]),
        job.params["encodings"],
        buckets=_buckets(job),
        graphs=job.inputs["simplify"],
        quantised=job.inputs["quantise"],
        limits=iree.Limits(timeout_s=float(job.local["timeout_s"]), memory_bytes=int(job.local["memory_bytes"])),
        out=job.out,
        door=_door(job),
        placing=placing.from_params(job.params["placing"]) if "placing" in job.params else None,
        chip=job.params.get("chip"),
        left_out=job.params.get("kernels_left_out", ""),
        tiles=_in_tiles(job),
    )


def _door(job: Job, *, whole: bool = True) -> vendor.Door | None:
    """Return the kernels and tools that the target's vendor brings."""
    return vendor.door(
        job.params.get("vendor", {}), Path(job.local["target_folder"]), float(job.local["vendor_timeout_s"]),
        whole=whole,
    )


def program(encoded: Path, lowered: Path, device: Device) -> Program:
    """Return what a session needs to load the outputs of encode and lower."""
    facts = json.loads((lowered / "lower.json").read_text())
    return Program(
        code=Slice(path=lowered / "module.vmfb"),
        parameters=tuple(Slice(path=path) for path in encode.archives_in(encoded)),
        functions=functions_from(facts["functions"]),
        device=device,
        beside=tuple(device_from(entry) for entry in facts.get("beside", ())),
    )


def _device(job: Job) -> Device:
    return device_from(job.params["device"])


def _program(job: Job) -> Program:
    return program(job.inputs["encode"], job.inputs["lower"], _device(job))


def _check(job: Job) -> None:
    work = job.out / "work"
    if (generation := _spec(job).generation) is not None:
        report = score.check(
            _program(job), _spec(job).evaluation,
            score.Golden(
                cases=job.inputs["cases"], reference=job.inputs.get("reference", job.inputs["cases"]) / score.EXPECTED,
                nearest=job.inputs["nearest"] / score.EXPECTED if "nearest" in job.inputs else None,
            ),
            context_tokens=generation.context_tokens, greedy_tokens=job.params["greedy_tokens"], work=work,
            timeout_s=float(job.local["timeout_s"]), memory_bytes=int(job.local["memory_bytes"]),
        )
        check.write(report, job.out)
        check.clean_up(work)
        return
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


def _layers(job: Job) -> None:
    spec, (bucket,) = _spec(job), _buckets(job)
    if spec.generation is None:
        raise InternalError("only language models have layers that hand on one stream", where=spec.name)
    told = greedy.load(job.inputs["capture"])
    ids = [*told.prompt_ids, *told.tokens[: job.params["greedy_tokens"]]][: spec.generation.context_tokens]
    limits = iree.Limits(timeout_s=float(job.local["timeout_s"]), memory_bytes=int(job.local["memory_bytes"]))
    graph = layers.lower_exposed(
        spec, Lowering.model_validate(job.params["lowering"]), job.params["encodings"], bucket=bucket,
        graphs=job.inputs["simplify"], quantised=job.inputs["quantise"], limits=limits, out=job.out,
        door=_door(job, whole=False), tiles=_in_tiles(job),
    )
    texts = layers.cases(ids, bucket, spec.generation.context_tokens)
    exposed = program(job.inputs["encode"], job.out, _device(job))
    layers.run(
        exposed, texts, len(ids), out=job.out, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes
    )
    layers.reference(graph, _quantised_weights(job), spec, texts, len(ids), out=job.out)
    shutil.rmtree(job.out / "run")


def _profile(job: Job) -> None:
    profile.profile(
        _program(job),
        profile.Method(**job.params["method"]),
        cases=job.inputs["cases"],
        context_tokens=job.params.get("context_tokens"),
        timeout_s=float(job.local["timeout_s"]),
        memory_bytes=int(job.local["memory_bytes"]),
        out=job.out,
    )


def _tune(job: Job) -> None:
    names = job.params["candidates"]
    tune.measure(
        {name: program(job.inputs[f"encode {name}"], job.inputs[f"lower {name}"], _device(job)) for name in names},
        Turns(**job.params["method"]),
        cases=job.inputs["cases"],
        context_tokens=job.params.get("context_tokens"),
        kept=job.work,
        out=job.out,
    )


CAPTURE = Stage(
    name="capture", version=6, tools=("torch", "transformers", "optimum-onnx", "onnx"), function=_capture
)
SIMPLIFY = Stage(name="simplify", version=4, tools=("onnx", "onnxsim", "onnxruntime"), function=_simplify)
CASES = Stage(name="cases", version=3, tools=("onnxruntime", "tokenizers"), function=_cases)
CALIBRATION = Stage(name="calibration", version=1, tools=("tokenizers",), function=_calibration)
QUANTISE = Stage(name="quantise", version=5, tools=("ml-dtypes", "onnxruntime", "numpy"), function=_quantise)
SENSITIVITY = Stage(
    name="sensitivity", version=1, tools=("ml-dtypes", "onnxruntime", "numpy"), function=_sensitivity
)
REFERENCE = Stage(name="reference", version=3, tools=("onnx", "onnxruntime"), function=_reference)
NOISE = Stage(name="noise", version=1, tools=("onnx", "onnxruntime"), function=_noise)
"""Planned only where activations are rounded: how far the reference lies from itself."""
ENCODE = Stage(name="encode", version=6, tools=("iree-base-runtime", "onnx"), function=_encode)
LOWER = Stage(name="lower", version=7, tools=("iree-base-compiler", "onnx"), function=_lower)
CHECK = Stage(name="check", version=4, tools=("iree-base-runtime",), function=_check)
PROFILE = Stage(name="profile", version=6, tools=("iree-base-runtime",), function=_profile, volatile=True)
TUNE = Stage(name="tune", version=1, tools=("iree-base-runtime",), function=_tune, volatile=True)
"""Planned only under ``--tune``: times of one variant's code, made in several ways."""
LAYERS = Stage(
    name="layers", version=1, tools=("iree-base-compiler", "iree-base-runtime", "onnxruntime"), function=_layers
)
"""Planned only where a language model's answers part: names the first layer that does."""

STAGES = {
    stage.name: stage
    for stage in (
        CAPTURE, SIMPLIFY, CASES, CALIBRATION, SENSITIVITY, QUANTISE, REFERENCE, NOISE, ENCODE, LOWER, CHECK, TUNE,
        PROFILE, LAYERS,
    )
}
