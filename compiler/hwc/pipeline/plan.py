"""The plan: which steps a build takes, and their keys; pure, apart from hashing the sources it is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hwc.capture.source import Located
from hwc.errors import UsageError
from hwc.formats import Kind
from hwc.lower import vendor
from hwc.lower.legality import refused_scheme
from hwc.lower.sharding import SHARDING
from hwc.pipeline import stages
from hwc.pipeline.front import Front, Setting, sliced
from hwc.pipeline.step import Step, make_step
from hwc.program import Device, device_facts
from hwc.quantise import tiles
from hwc.quantise.encodings import ENCODINGS
from hwc.quantise.scheme import Scheme
from hwc.spec.model import Bucket
from hwc.spec.project import Found
from hwc.spec.target import TargetSpec
from hwc.spec.tuning import DEFAULT

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
    kernels_left_out: str = ""
    """Why its kernels are left out, if they are."""
    candidate: str = DEFAULT
    """By which of its candidates code is made."""
    host: ResolvedTarget | None = None
    """What takes the work that its rules send to the host; None where they send none."""


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
    found: Found, located: Located, targets: Sequence[ResolvedTarget], schemes: Sequence[Scheme], setting: Setting,
    choices: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Plan every combination of target and scheme; steps that are the same are the same step.

    ``choices`` names, by variant, the candidate in its descriptor's [[tune]] by which its code is made.
    """
    front = Front(found, located, setting)
    chosen = [
        (with_candidate(target, choices.get(f"{target.spec.name}/{scheme.name}", DEFAULT)), scheme)
        for target in targets for scheme in schemes
    ]
    return Plan(found=found, variants=tuple(_variant(front, target, scheme) for target, scheme in chosen))


def with_candidate(target: ResolvedTarget, name: str) -> ResolvedTarget:
    """Return a target whose code is made in the way of one of its candidates; raise UsageError if it has no such one.
    """  # noqa: D200
    if name == DEFAULT:
        return target
    spec, lowering = target.spec, target.spec.code()
    candidate = next((one for one in spec.tune if one.name == name), None)
    if candidate is None:
        raise UsageError(
            f"`{spec.name}` has no candidate `{name}`", where=f"targets/{spec.name}.toml [[tune]]",
            hint=f"it has {', '.join(one.name for one in spec.tune) or 'none'}; tune again",
        )
    level = {"opt_level": candidate.opt_level, "float_opt_level": None} if candidate.opt_level else {}
    changed = lowering.model_copy(update={**level, "flags": (*lowering.flags, *candidate.flags)})
    kernels = spec.kernels if candidate.kernels else {}
    changes = {"lowering": changed, "kernels": kernels}
    return replace(target, spec=spec.model_copy(update=changes), candidate=name)


def _variant(front: Front, target: ResolvedTarget, scheme: Scheme) -> VariantPlan:
    spec, device_only = front.spec, target.spec.execution.functional_only
    scheme = scheme.of_model(spec.quantise.embeddings)
    buckets = spec.buckets_for(functional_only=device_only)
    items = spec.evaluation.functional_items if device_only else spec.evaluation.items
    encodings = encodings_of(target.spec, scheme)
    capture, simplify, quantise = front.capture(), front.simplify(buckets), front.quantise(scheme)
    cases = front.cases(buckets, items)
    name = f"{spec.name} {target.spec.name}/{scheme.name}" + (
        f" by {target.candidate}" if target.candidate != DEFAULT else ""
    )
    shapes = sliced(spec, buckets=[dict(bucket) for bucket in buckets], **front.context())
    floats = floats_of(target.spec)
    encode = make_step(
        stages.ENCODE,
        f"encode {spec.name} {scheme.name} as {', '.join([*encodings.values(), *floats.values()]) or 'float32'}",
        {"scheme": asdict(scheme), "encodings": encodings, **floats},
        {"capture": capture, "quantise": quantise},
        front.local,
    )
    lower = _lower(front, target, name, {"spec": shapes, "encodings": encodings, **floats}, simplify, quantise)
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
        noise=_noise(front, target.spec, scheme, reference.get("reference")),
        quantise=quantise, encode=encode, lower=lower, check=check, profile=profile,
    )


def _lower(
    front: Front, target: ResolvedTarget, name: str, params: dict[str, Any], simplify: Step, quantise: Step
) -> Step:
    told = vendor.params(target.spec, target.folder)
    lowering = target.spec.code().model_dump(mode="json", exclude_defaults=True)
    placing = _placing(target)
    params = {
        **params, "lowering": lowering, **({"vendor": told} if told else {}),
        **({"kernels_left_out": target.kernels_left_out} if target.kernels_left_out else {}),
        **({"placing": placing} if placing else {}),
        **({"chip": device_facts(target.device), "sharding": SHARDING} if target.spec.code().shards > 1 else {}),
    }
    local = {"target_folder": str(target.folder or ""), "vendor_timeout_s": str(target.spec.vendor.timeout_s)}
    inputs = {"simplify": simplify, "quantise": quantise}
    label = f"lower {name}" + (f" ({target.kernels_left_out})" if target.kernels_left_out else "")
    return make_step(stages.LOWER, label, params, inputs, {**front.local, **local})


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

    Raises UsageError if its descriptor names none for a kind of codes, or if its packing does not hold the scheme's
    forms.
    """
    where = f"targets/{target.name}.toml"
    if refused := refused_scheme(scheme.formats.values(), target.formats):
        raise UsageError(f"`{target.name}` does not hold {scheme.name}: {refused}", where=f"{where} [formats]")
    for kind in scheme.kinds:
        if kind not in target.encoding:
            raise UsageError(
                f"target `{target.name}` names no encoding for {kind} weights",
                where=f"targets/{target.name}.toml [encoding]",
                hint=f"add `{kind} = …`; `hwc schemes list` shows the encodings",
            )
    return {kind: stored_as(target, kind) for kind in scheme.kinds}


def stored_as(target: TargetSpec, kind: Kind) -> str:
    """Return the encoding of codes of a kind that the descriptor names one for: its kernels' or its own."""
    return _of_kernels(target, kind) or target.encoding[kind]


def _of_kernels(target: TargetSpec, kind: Kind) -> str:
    """Return the encoding that a kernel wants weights of a kind in; a share of a weight is cut out of rows alone."""
    if target.lowering is not None and target.lowering.shards > 1:
        return ""
    wanted = (kernel.encoding for kernel in target.kernels.values())
    return next((encoding for encoding in wanted if encoding in ENCODINGS[kind]), "")


def floats_of(target: TargetSpec) -> dict[str, str]:
    """Return how float weights of linears are stored, where that is not as they are; raise UsageError if unknown.

    What is split over chips is cut out of whole weights.
    """
    told = target.encoding.get(tiles.KIND, "")
    if told not in ("", tiles.ENCODING):
        raise UsageError(
            f"unknown encoding `{told}` of float weights", where=f"targets/{target.name}.toml [encoding] {tiles.KIND}",
            hint=f"`{tiles.ENCODING}`, or nothing for weights as they are",
        )
    return {"floats": told} if told and target.code().shards == 1 else {}


def _reference(
    front: Front, scheme: Scheme, shapes: dict[str, Any], simplify: Step, cases: Step
) -> dict[str, Step]:
    """Unquantised, the golden cases' own expected outputs are the reference."""
    if scheme.is_float:
        return {}
    inputs = {"capture": front.capture(), "simplify": simplify, "quantise": front.quantise(scheme), "cases": cases}
    label = f"reference of {front.spec.name} {scheme.name} in ONNX Runtime"
    return {"reference": make_step(stages.REFERENCE, label, {"spec": shapes}, inputs, front.local)}


def _noise(front: Front, target: TargetSpec, scheme: Scheme, reference: Step | None) -> Step | None:
    """Plan what bounds parity where the scheme rounds activations, or a kernel does and the model has no bound."""
    rounding = {vendor.PATTERN_TYPES[one.pattern][1] for one in target.kernels.values() if one.activation_bits}
    by_kernel = front.spec.parity_rounded_max_abs is None and bool(rounding & {*scheme.kinds})
    if reference is None or not (scheme.rounds_activations or by_kernel):
        return None
    inputs = {**reference.inputs, "reference": reference}
    return make_step(stages.NOISE, f"noise of {front.spec.name} {scheme.name}", reference.params, inputs, front.local)


def _nearest(
    front: Front, scheme: Scheme, shapes: dict[str, Any], simplify: Step, cases: Step
) -> dict[str, Step]:
    """Plan a calibrated int4 scheme's twin of a language model: the same formats, rounded to nearest, never lowered."""
    if front.spec.generation is None or not scheme.needs_data or "int4" not in scheme.kinds:
        return {}
    twin = replace(
        scheme, name=f"{scheme.name}-rtn", title=f"{scheme.title}, to compare with", solver="nearest",
        method=scheme.without_data,
    )
    return {"nearest": _reference(front, twin, shapes, simplify, cases)["reference"]}


def _on(target: ResolvedTarget, front: Front) -> dict[str, Any]:
    return {
        "device": device_facts(target.device),
        "device_name": target.device_name,
        "machine": front.setting.machine_fingerprint,
    }


def _check(
    front: Front, target: ResolvedTarget, name: str, shapes: dict[str, Any], inputs: dict[str, Step]
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


def _profile(front: Front, target: ResolvedTarget, name: str, inputs: dict[str, Step]) -> Step:
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
