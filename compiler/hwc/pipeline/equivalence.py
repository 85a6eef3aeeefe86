"""Equivalence: a scheme's variants make the same golden tokens on every device; else the layer that parts is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hwc.bundle.gates import Verdict
from hwc.errors import StepError
from hwc.measure import layers
from hwc.pipeline import stages
from hwc.pipeline.outcome import Outcome
from hwc.pipeline.plan import Plan, VariantPlan
from hwc.pipeline.step import Step, make_step

GATE = "equivalence"
Trace = Callable[[VariantPlan], Path]
"""Runs a variant layer by layer; returns the folder with its streams."""


def verdicts(outcomes: Sequence[Outcome], trace: Trace) -> list[Verdict]:
    """Return what the golden tokens of a language model's checked variants say of each other.

    Each variant is compared with the first of its scheme. Tokens that differ where no layer does are a near tie of two
    tokens: unjudged, and told. A variant past its parity is held against ONNX Runtime layer by layer.
    """
    checked = [outcome for outcome in outcomes if outcome.check and outcome.check.get("greedy_tokens")]
    first: dict[str, Outcome] = {}
    found = []
    for outcome in checked:
        against = first.setdefault(outcome.variant.scheme.name, outcome)
        if against is not outcome:
            found.append(_pair(against, outcome, trace))
        found += _alone(outcome, trace)
    return found


def _pair(one: Outcome, other: Outcome, trace: Trace) -> Verdict:
    variant, against = other.variant, one.variant.name
    assert one.check is not None
    assert other.check is not None
    pairs = list(zip(one.check["greedy_tokens"], other.check["greedy_tokens"], strict=False))
    parts = next((at for at, (left, right) in enumerate(pairs) if left != right), None)
    if parts is None:
        told = f"the same {len(pairs)} greedy tokens as {against}"
        return Verdict(variant=variant.name, gate=GATE, outcome="passed", told=told)
    told = f"greedy token {parts + 1} is not that of {against}"
    return _judged(
        variant, told, lambda: [layers.read(trace(outcome.variant), layers.DEVICE) for outcome in (other, one)]
    )


def _alone(outcome: Outcome, trace: Trace) -> Iterator[Verdict]:
    assert outcome.check is not None
    if outcome.check["parity"]["max_abs"] <= outcome.parity_max_abs:
        return

    def streams() -> list[layers.Stream]:
        folder = trace(outcome.variant)
        return [layers.read(folder, name) for name in (layers.DEVICE, layers.REFERENCE)]

    yield _judged(outcome.variant, "logits are past their parity to ONNX Runtime", streams)


def _judged(variant: VariantPlan, told: str, streams: Callable[[], list[layers.Stream]]) -> Verdict:
    """Name the first layer that is off; where the streams cannot be had, say why, and judge nothing."""
    try:
        one, other = streams()
    except StepError as error:
        told = f"{told}; the layer cannot be named: {error.what}"
        return Verdict(variant=variant.name, gate=GATE, outcome="unjudged", told=told)
    tokens = min(len(next(iter(stream.values()))) for stream in (one, other))
    one, other = ({name: values[:tokens] for name, values in stream.items()} for stream in (one, other))
    parts_at = layers.ROUNDED_PARTS_AT if variant.scheme.rounds_activations else layers.PARTS_AT
    parting = layers.first_parting(one, other, parts_at=parts_at)
    if parting is None:
        furthest = f"no layer is further off than {layers.furthest(one, other):.1e}"
        return Verdict(variant=variant.name, gate=GATE, outcome="unjudged", told=f"{told}, but {furthest}")
    where = f"{parting.layer} is the first layer that is off, by {parting.distance:.1e}"
    return Verdict(variant=variant.name, gate=GATE, outcome="missed", told=f"{told}: {where}")


def layers_step(plan: Plan, variant: VariantPlan) -> Step:
    """Return the step that runs a checked variant of a language model layer by layer, in its shortest prefill."""
    assert variant.check is not None
    shortest = min(variant.buckets, key=lambda bucket: (bucket["sequence"] == 1, bucket["sequence"]))
    params = {
        "spec": {**variant.lower.params["spec"], "buckets": [dict(shortest)]},
        **{
            name: variant.lower.params[name] for name in ("encodings", "floats", "lowering", "vendor")
            if name in variant.lower.params
        },
        **{name: variant.check.params[name] for name in ("device", "device_name", "machine", "greedy_tokens")},
    }
    inputs = {
        "capture": variant.capture, "simplify": variant.simplify, "quantise": variant.quantise,
        "encode": variant.encode,
    }
    label = f"layers of {plan.found.spec.name} {variant.name}"
    return make_step(stages.LAYERS, label, params, inputs, variant.lower.local)
