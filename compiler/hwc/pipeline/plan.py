"""The plan: which steps a build takes, and their keys; pure, apart from hashing the sources it is asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwc.capture.source import Located
from hwc.errors import UsageError
from hwc.formats import Kind
from hwc.lower import vendor
from hwc.lower.legality import refused_scheme
from hwc.pipeline import stages
from hwc.pipeline.step import Step, make_step
from hwc.program import Device, device_facts
from hwc.quantise.scheme import Scheme
from hwc.quantise.sensitivity import Question
from hwc.spec.model import Bucket, ModelSpec, PythonSource
from hwc.spec.project import Found
from hwc.spec.target import TargetSpec

SENSITIVITY_CASES = 2
"""Calibration cases on which each layer is rounded alone: every layer runs the whole model that often."""
FUNCTIONAL_BUDGET_S = 3.0
"""Time for the latencies of a device that is only good for functional tests: they say nothing about any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTarget:
    """A target with nothing left to detect, and whether this machine can run what is built for it."""

    spec: TargetSpec
    """With ``lowering.cpu`` and ``lowering.cpu_features`` filled in."""
    device: Device
    device_name: str
    """Name of the matching device on this machine; empty if there is none."""
    absent_reason: str = ""
    folder: Path | None = None
    """Where its descriptor lies, beside which its vendor's kernels and tools lie."""
    host: ResolvedTarget | None = None
    """What takes the work that its rules send to the host; None where they send none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a plan depends on beside the specifications."""

    machine_fingerprint: str
    method: dict[str, Any]
    """How to profile; see measure.profile.Method."""
    timeout_s: float
    memory_bytes: int
    profile: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPlan:
    """The steps of one variant: a target and a scheme."""

    target: ResolvedTarget
    scheme: Scheme
    buckets: tuple[Bucket, ...]
    capture: Step
    simplify: Step
    cases: Step
    """Golden cases are made even where nothing can run: they travel with the bundle to a machine that can."""
    reference: Step | None
    nearest: Step | None
    """Answers of the scheme's twin that rounds to nearest, against which a language model's calibration is judged."""
    noise: Step | None
    """How far the reference lies from itself, where the scheme rounds activations."""
    quantise: Step
    encode: Step
    lower: Step
    check: Step | None
    profile: Step | None

    @property
    def name(self) -> str:
        """``target/scheme``."""
        return f"{self.target.spec.name}/{self.scheme.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything one ``hwc build`` does for one model."""

    found: Found
    variants: tuple[VariantPlan, ...]

    def steps(self) -> list[Step]:
        """Return every step once, each after the steps it reads."""
        ordered: dict[str, Step] = {}

        def visit(step: Step) -> None:
            if step.key in ordered:
                return
            for parent in step.inputs.values():
                visit(parent)
            ordered[step.key] = step

        for variant in self.variants:
            made = (
                variant.lower, variant.encode, variant.cases, variant.reference, variant.nearest, variant.noise,
                variant.check, variant.profile,
            )
            for step in made:
                if step is not None:
                    visit(step)
        return list(ordered.values())


def make_plan(
    found: Found, located: Located, targets: Sequence[ResolvedTarget], schemes: Sequence[Scheme], setting: Setting
) -> Plan:
    """Plan every combination of target and scheme; steps that are the same are the same step."""
    variants = tuple(
        _variant(_Front(found, located, setting), target, scheme) for target in targets for scheme in schemes
    )
    return Plan(found=found, variants=variants)


def sliced(spec: ModelSpec, *fields: str, **replaced: Any) -> dict[str, Any]:
    """Return the specification with every field a stage does not read left out, so that it is not in the key."""
    kept = spec.model_dump(mode="json", include={*fields, "inputs", "outputs"}, exclude_defaults=True)
    return {
        "source": {"kind": "onnx", "path": "unread"},
        "buckets": [dict(spec.buckets[0])],
        **kept,
        **replaced,
    }


class _Front:
    """The steps before a target matters."""

    def __init__(self, found: Found, located: Located, setting: Setting) -> None:
        self.found, self.spec, self.located, self.setting = found, found.spec, located, setting
        self.local = {
            "name": found.spec.name,
            "timeout_s": str(setting.timeout_s),
            "memory_bytes": str(setting.memory_bytes),
        }

    def capture(self) -> Step:
        source = self.spec.source
        params: dict[str, Any] = {
            "spec": sliced(self.spec, "opset", source=self._source(), buckets=[self._example()], **self._golden()),
            "content_sha256": self.located.content_sha256,
        }
        local = {
            **self.local,
            "path": str(self.located.path),
            "checkpoint": str(self.located.checkpoint or ""),
            "licences": str(self.located.licence_folder or ""),
            "parts": json.dumps([str(part) for part in self.located.parts]),
        }
        return make_step(stages.CAPTURE, f"capture {self.spec.name} ({source.kind})", params, local=local)

    def _source(self) -> dict[str, Any]:
        """Return the source without its place: what lies there is in the digest."""
        dumped: dict[str, Any] = self.spec.source.model_dump(mode="json", exclude_defaults=True)
        for key in ("path", "package", "module", "folder", "checkpoint", "files"):
            dumped.pop(key, None)
        if isinstance(self.spec.source, PythonSource):
            dumped["factory"] = "factory.py:" + self.spec.source.factory.rpartition(":")[2]
        return {**dumped, "path": "located"} if self.spec.source.kind != "python" else dumped

    def _golden(self) -> dict[str, Any]:
        """Return what capture reads of a language model's generation: the text it records, not the shapes."""
        if self.spec.generation is None:
            return {}
        return {
            "generation": self.spec.generation.model_dump(
                mode="json", include={"golden_prompt", "golden_tokens", "kv_dtype"}, exclude_defaults=True
            )
        }

    def _example(self) -> dict[str, int]:
        """Return the bucket that is traced: the first for the python exporter; the other sources read none."""
        if isinstance(self.spec.source, PythonSource):
            return dict(self.spec.buckets[0])
        return dict.fromkeys(self.spec.buckets[0], 1)

    def simplify(self, buckets: tuple[Bucket, ...]) -> Step:
        params = {"spec": sliced(self.spec, buckets=[dict(bucket) for bucket in buckets], **self.context())}
        return make_step(
            stages.SIMPLIFY, f"simplify {self.spec.name}", params, {"capture": self.capture()}, self.local
        )

    def cases(self, buckets: tuple[Bucket, ...], items: int) -> Step:
        evaluation = self.spec.evaluation.model_dump(
            mode="json", include={"file", "sha256", "seed"}, exclude_defaults=True
        )
        if "file" in evaluation:
            evaluation["file"] = "located"
        params = {
            "spec": sliced(
                self.spec, "batch_dim", buckets=[dict(bucket) for bucket in buckets], evaluation=evaluation,
                **self.context(),
            ),
            "items": items,
        }
        local = {**self.local, "text": str(self.found.folder / self.spec.evaluation.file)}
        inputs = {"capture": self.capture(), "simplify": self.simplify(buckets)}
        return make_step(stages.CASES, f"golden cases of {self.spec.name}", params, inputs, local)

    def context(self) -> dict[str, Any]:
        """Return what stages with static shapes read of a language model's generation: the length of its cache."""
        if self.spec.generation is None:
            return {}
        longest = self.spec.generation.context_tokens
        return {"generation": {"context_tokens": longest, "prefill_tokens": [1], "score_tokens": 1}}

    def quantise(self, scheme: Scheme) -> Step:
        params = {"scheme": asdict(scheme), "exclude": list(self.spec.quantise.exclude)}
        label = f"quantise {self.spec.name} to {scheme.name}"
        inputs = {"capture": self.capture()}
        if scheme.needs_data:
            inputs["calibration"] = self.calibration()
        if scheme.budget_bits is not None:
            inputs["sensitivity"] = self.sensitivity(scheme)
        return make_step(stages.QUANTISE, label, params, inputs, self.local)

    def sensitivity(self, scheme: Scheme) -> Step:
        assert scheme.linears is not None
        asked = Question(
            form=scheme.linears, exclude=self.spec.quantise.exclude, output=self.spec.outputs[0],
            language=self.spec.generation is not None, cases=SENSITIVITY_CASES,
        )
        label = f"sensitivity of {self.spec.name} to {scheme.linears.told()}"
        inputs = {"capture": self.capture(), "calibration": self.calibration()}
        return make_step(stages.SENSITIVITY, label, {"question": asdict(asked)}, inputs, self.local)

    def calibration(self) -> Step:
        told = self.spec.calibration.model_dump(mode="json", exclude_defaults=True)
        if "file" in told:
            told["file"] = "located/" + told["file"].rpartition("/")[2]
        pinned = self.spec.evaluation.model_dump(mode="json", include={"seed"}, exclude_defaults=True)
        if self.spec.evaluation.sha256:
            pinned |= {"file": "unread", "sha256": self.spec.evaluation.sha256}
        params = {
            "spec": sliced(
                self.spec, "batch_dim", buckets=[dict(bucket) for bucket in self.spec.buckets],
                calibration=told, evaluation=pinned, **self.context(),
            )
        }
        local = {**self.local, "text": str(self.found.folder / self.spec.calibration.file)}
        inputs = {"capture": self.capture()}
        return make_step(stages.CALIBRATION, f"calibration data of {self.spec.name}", params, inputs, local)


def _variant(front: _Front, target: ResolvedTarget, scheme: Scheme) -> VariantPlan:
    spec, device_only = front.spec, target.spec.execution.functional_only
    scheme = scheme.of_model(spec.quantise.embeddings)
    buckets = spec.buckets_for(functional_only=device_only)
    items = spec.evaluation.functional_items if device_only else spec.evaluation.items
    encodings = encodings_of(target.spec, scheme)
    capture, simplify, quantise = front.capture(), front.simplify(buckets), front.quantise(scheme)
    cases = front.cases(buckets, items)
    name = f"{spec.name} {target.spec.name}/{scheme.name}"
    shapes = sliced(spec, buckets=[dict(bucket) for bucket in buckets], **front.context())
    encode = make_step(
        stages.ENCODE,
        f"encode {spec.name} {scheme.name} as {', '.join(encodings.values()) or 'float32'}",
        {"scheme": asdict(scheme), "encodings": encodings},
        {"capture": capture, "quantise": quantise},
        front.local,
    )
    lower = _lower(front, target, name, {"spec": shapes, "encodings": encodings}, simplify, quantise)
    parts = {"encode": encode, "lower": lower, "cases": cases}
    reference = _reference(front, scheme, shapes, simplify, cases)
    nearest = _nearest(front, scheme, shapes, simplify, cases) if not device_only else {}
    check, profile = None, None
    if target.device_name and target.spec.made == "build":
        check = _check(front, target, name, shapes, {**parts, **reference, **nearest})
        if front.setting.profile and target.device.emulator is None:  # an emulator's time is no chip's
            profile = _profile(front, target, name, {**parts, "check": check})
    return VariantPlan(
        target=target, scheme=scheme, buckets=buckets, capture=capture, simplify=simplify, cases=cases,
        reference=reference.get("reference"), nearest=nearest.get("nearest"),
        noise=_noise(front, scheme, reference.get("reference")),
        quantise=quantise, encode=encode, lower=lower, check=check, profile=profile,
    )


def _lower(
    front: _Front, target: ResolvedTarget, name: str, params: dict[str, Any], simplify: Step, quantise: Step
) -> Step:
    told = vendor.params(target.spec, target.folder)
    lowering = target.spec.code().model_dump(mode="json", exclude_defaults=True)
    placing = _placing(target)
    params = {
        **params, "lowering": lowering, **({"vendor": told} if told else {}),
        **({"placing": placing} if placing else {}),
        **({"chip": device_facts(target.device)} if target.spec.code().shards > 1 else {}),
    }
    local = {"target_folder": str(target.folder or ""), "vendor_timeout_s": str(target.spec.vendor.timeout_s)}
    inputs = {"simplify": simplify, "quantise": quantise}
    return make_step(stages.LOWER, f"lower {name}", params, inputs, {**front.local, **local})


def _placing(target: ResolvedTarget) -> dict[str, Any]:
    """Return what lowering reads to place work; nothing where the chip runs whatever comes."""
    spec, host = target.spec, target.host
    if not spec.legality and spec.placement.otherwise == "native":
        return {}
    beside = {} if host is None else device_facts(host.device)
    return {
        "legality": [rule.model_dump(mode="json", exclude_defaults=True) for rule in spec.legality],
        "placement": spec.placement.model_dump(
            mode="json", include={"otherwise", "otherwise_reason"}, exclude_defaults=True
        ),
        **({"host": host.spec.code().model_dump(mode="json", exclude_defaults=True), "beside": beside} if host else {}),
    }


def encodings_of(target: TargetSpec, scheme: Scheme) -> dict[Kind, str]:
    """Return the encodings a target asks for.

    Raises UsageError if its descriptor names none for a kind of codes, if its packing does not hold the scheme's forms,
    or if it splits linears over chips, which takes weights in float.
    """
    where = f"targets/{target.name}.toml"
    if refused := refused_scheme(scheme.formats.values(), target.formats):
        raise UsageError(f"`{target.name}` does not hold {scheme.name}: {refused}", where=f"{where} [formats]")
    if scheme.kinds and target.lowering is not None and target.lowering.shards > 1:
        raise UsageError(
            f"`{target.name}` splits linears over {target.lowering.shards} chips, which takes weights in float, not "
            f"{scheme.name}", where=f"{where} [lowering] shards", hint="build fp32, or set `shards = 1`",
        )
    for kind in scheme.kinds:
        if kind not in target.encoding:
            raise UsageError(
                f"target `{target.name}` names no encoding for {kind} weights",
                where=f"targets/{target.name}.toml [encoding]",
                hint=f"add `{kind} = …`; `hwc schemes list` shows the encodings",
            )
    return {kind: target.encoding[kind] for kind in scheme.kinds}


def _reference(
    front: _Front, scheme: Scheme, shapes: dict[str, Any], simplify: Step, cases: Step
) -> dict[str, Step]:
    """Unquantised, the golden cases' own expected outputs are the reference."""
    if scheme.is_float:
        return {}
    inputs = {"capture": front.capture(), "simplify": simplify, "quantise": front.quantise(scheme), "cases": cases}
    label = f"reference of {front.spec.name} {scheme.name} in ONNX Runtime"
    return {"reference": make_step(stages.REFERENCE, label, {"spec": shapes}, inputs, front.local)}


def _noise(front: _Front, scheme: Scheme, reference: Step | None) -> Step | None:
    if reference is None or not scheme.rounds_activations:
        return None
    inputs = {**reference.inputs, "reference": reference}
    return make_step(stages.NOISE, f"noise of {front.spec.name} {scheme.name}", reference.params, inputs, front.local)


def _nearest(
    front: _Front, scheme: Scheme, shapes: dict[str, Any], simplify: Step, cases: Step
) -> dict[str, Step]:
    """Plan a calibrated int4 scheme's twin of a language model: the same formats, rounded to nearest, never lowered."""
    if front.spec.generation is None or not scheme.needs_data or "int4" not in scheme.kinds:
        return {}
    twin = replace(
        scheme, name=f"{scheme.name}-rtn", title=f"{scheme.title}, to compare with", solver="nearest",
        method=scheme.without_data,
    )
    return {"nearest": _reference(front, twin, shapes, simplify, cases)["reference"]}


def _on(target: ResolvedTarget, front: _Front) -> dict[str, Any]:
    return {
        "device": device_facts(target.device),
        "device_name": target.device_name,
        "machine": front.setting.machine_fingerprint,
    }


def _check(
    front: _Front, target: ResolvedTarget, name: str, shapes: dict[str, Any], inputs: dict[str, Step]
) -> Step:
    evaluator = {"evaluator": front.spec.evaluation.evaluator}
    pinned = front.spec.evaluation.model_dump(
        mode="json", include={"file", "sha256", "reference"}, exclude_defaults=True
    )
    params = {"spec": {**shapes, "evaluation": {**pinned, **evaluator}}, **_on(target, front)}
    if (generation := front.spec.generation) is not None:
        few = target.spec.execution.functional_only
        params["greedy_tokens"] = generation.functional_tokens if few else generation.golden_tokens
    evaluator_file = front.found.folder / evaluator["evaluator"].rpartition(":")[0]
    if evaluator_file.is_file():
        from hwc import digest

        params["evaluator_sha256"] = digest.of_file(evaluator_file)
    return make_step(
        stages.CHECK, f"check {name}", params, inputs, {**front.local, "folder": str(front.found.folder)}
    )


def _profile(front: _Front, target: ResolvedTarget, name: str, inputs: dict[str, Step]) -> Step:
    method = front.setting.method
    if target.spec.execution.functional_only and "budget_s" in method:
        method = {**method, "budget_s": min(FUNCTIONAL_BUDGET_S, method["budget_s"]), "composed": False}
    params = {"method": method, **_on(target, front)}
    if front.spec.generation is not None:
        params["context_tokens"] = front.spec.generation.context_tokens
    return make_step(stages.PROFILE, f"profile {name}", params, inputs, front.local)


def walk(step: Step) -> Iterator[Step]:
    """Yield a step and everything it depends on."""
    yield step
    for parent in step.inputs.values():
        yield from walk(parent)
