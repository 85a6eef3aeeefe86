"""Changing a field re-runs exactly the stages that read it, and what follows from them; nothing else is in a key."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwc.capture.source import Located
from hwc.errors import UsageError
from hwc.pipeline import stages
from hwc.pipeline.equivalence import layers_step
from hwc.pipeline.front import Setting
from hwc.pipeline.plan import Plan, ResolvedTarget, make_plan, walk
from hwc.pipeline.step import make_step
from hwc.program import Device
from hwc.quantise.scheme import SCHEMES, Scheme
from hwc.spec.model import ModelSpec
from hwc.spec.project import Found, facts_dir
from hwc.spec.target import TargetSpec

ALL = {"capture", "calibration", "simplify", "cases", "quantise", "reference", "encode", "lower", "check", "profile"}
MODEL = tomllib.loads((facts_dir("models") / "mlp.toml").read_text())
TARGET = {
    key: "some-cpu" if key == "name" else value
    for key, value in tomllib.loads((facts_dir("targets") / "x86-64-v3.toml").read_text()).items()
    if key not in ("kernels", "vendor")
}
Change = Callable[["Inputs"], None]


@dataclasses.dataclass
class Inputs:
    """Everything a plan is made of, as plain values that a test may change."""

    model: dict[str, Any] = dataclasses.field(default_factory=lambda: copy.deepcopy(MODEL))
    target: dict[str, Any] = dataclasses.field(default_factory=lambda: copy.deepcopy(TARGET))
    scheme: Scheme = SCHEMES["w4a16"]
    folder: str = "/somewhere"
    located: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"path": Path("/somewhere/mlp.py"), "content_sha256": "sha256:" + "1" * 64}
    )
    device: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"driver": "local-sync", "isa_features": ("+avx2",), "architecture": "x86_64"}
    )
    device_name: str = "a processor"
    setting: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "machine_fingerprint": "sha256:" + "2" * 64, "method": {"rounds": 200}, "timeout_s": 60.0,
            "memory_bytes": 1 << 30,
        }
    )

    def plan(self, *others: ResolvedTarget, schemes: tuple[str, ...] = ()) -> Plan:
        found = Found(spec=ModelSpec.model_validate(self.model), folder=Path(self.folder))
        chosen = [SCHEMES[name] for name in schemes] or [self.scheme]
        return make_plan(
            found, Located(**self.located), [self.resolved(), *others], chosen, Setting(**self.setting)
        )

    def resolved(self) -> ResolvedTarget:
        return ResolvedTarget(
            spec=TargetSpec.model_validate(self.target), device=Device(**self.device), device_name=self.device_name
        )


def keys(plan: Plan) -> dict[str, str]:
    """Return the key of each stage of a plan with one variant."""
    assert len(plan.variants) == 1
    return {step.stage.name: step.key for step in plan.steps()}


def followers(plan: Plan, readers: set[str]) -> set[str]:
    """Return stages and all that read their outputs, however far down."""
    return {
        step.stage.name for step in plan.steps() if any(parent.stage.name in readers for parent in walk(step))
    }


def put(dotted: str, value: Any, root: str = "model") -> Change:
    def change(inputs: Inputs) -> None:
        *tables, last = dotted.split(".")
        table = getattr(inputs, root)
        for name in tables:
            table = table.setdefault(name, {})
        assert table.get(last) != value, "the change changes nothing"
        table[last] = value

    return change


CHANGES: list[tuple[str, Change, set[str]]] = [
    ("model name", put("name", "other"), set()),
    ("title", put("title", "other"), set()),
    ("licence", put("licence", "MIT"), set()),
    ("task", put("task", "other"), set()),
    ("a gate", put("gates.w4a16.cosine_mean_min", 0.5), set()),
    ("another scheme's gate", put("gates.fp32.max_abs", 1.0), set()),
    ("parity tolerance", put("parity_max_abs", 1e-3), set()),
    ("build targets", put("build.targets", ["x86-64-v3"]), set()),
    ("build schemes", put("build.schemes", ["fp8"]), set()),
    ("buckets of other devices", put("functional_buckets", [{"batch": 2}]), set()),
    ("items of other devices", put("evaluation.functional_items", 4), set()),
    ("factory", put("source.factory", "mlp.py:other"), {"capture"}),
    ("opset", put("opset", 20), {"capture"}),
    ("outputs", put("outputs", ["other"]), {"capture"}),
    ("an input's range", put("inputs.features.low", -2.0), {"capture"}),
    ("the first bucket, which torch traces", put("buckets", [{"batch": 2}, {"batch": 16}]), {"capture"}),
    ("a further bucket", put("buckets", [{"batch": 1}, {"batch": 8}]), {"calibration", "simplify"}),
    ("excluded layers", put("quantise.exclude", ["fc1"]), {"quantise"}),
    ("batch dimension", put("batch_dim", "other"), {"calibration", "cases"}),
    ("evaluation items", put("evaluation.items", 128), {"cases"}),
    ("evaluation seed", put("evaluation.seed", 7), {"calibration", "cases"}),
    ("calibration items", put("calibration.items", 7), {"calibration"}),
    ("evaluator", put("evaluation.evaluator", "vector"), {"check"}),
    ("target name", put("name", "other", "target"), set()),
    ("target title", put("title", "other", "target"), set()),
    ("price", put("price", "other", "target"), set()),
    ("hardware status", put("hardware_status", "emulated", "target"), set()),
    ("the encoding of another kind", put("encoding.fp8", "e4m3-words", "target"), set()),
    ("encoding", put("encoding.int4", "u8-nibbles", "target"), {"encode", "lower"}),
    ("optimisation level", put("lowering.opt_level", "O1", "target"), {"lower"}),
    ("CPU", put("lowering.cpu", "other", "target"), {"lower"}),
    ("CPU features", put("lowering.cpu_features", ["+avx2"], "target"), {"lower"}),
    ("compiler flags", put("lowering.flags", ["--x"], "target"), {"lower"}),
    ("stack limit", put("lowering.stack_limit_bytes", 4096, "target"), {"lower"}),
    ("driver", put("driver", "local-task", "device"), {"check"}),
    ("needed CPU features", put("isa_features", ("+avx512f",), "device"), {"check"}),
    ("timeout", put("timeout_s", 7.0, "setting"), set()),
    ("memory limit", put("memory_bytes", 1 << 31, "setting"), set()),
    ("machine", put("machine_fingerprint", "sha256:" + "9" * 64, "setting"), {"check", "profile"}),
    ("method of measuring", put("method", {"rounds": 10}, "setting"), {"profile"}),
    ("source bytes", put("content_sha256", "sha256:" + "3" * 64, "located"), {"capture"}),
    ("source place", put("path", Path("/elsewhere/x.py"), "located"), set()),
    ("checkpoint place", put("checkpoint", Path("/elsewhere/x.safetensors"), "located"), set()),
    ("folder of the specification", lambda inputs: setattr(inputs, "folder", "/elsewhere"), set()),
    ("device", lambda inputs: setattr(inputs, "device_name", "another"), {"check"}),
    ("scheme", lambda inputs: setattr(inputs, "scheme", SCHEMES["w4a16-asym"]), {"quantise"}),
]


@pytest.mark.parametrize(("change", "readers"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_a_change_changes_exactly_the_keys_of_what_reads_it(change: Change, readers: set[str]) -> None:
    before, inputs = Inputs().plan(), Inputs()
    change(inputs)
    old, new = keys(before), keys(inputs.plan())
    assert set(old) == set(new) == ALL
    assert {name for name in ALL if old[name] != new[name]} == followers(before, readers)


def test_the_same_inputs_give_the_same_keys() -> None:
    assert keys(Inputs().plan()) == keys(Inputs().plan())


def test_keys_are_whole_digests() -> None:
    assert all(len(key) == len("sha256:") + 64 for key in keys(Inputs().plan()).values())


def test_no_key_holds_a_path_of_this_machine() -> None:
    for step in Inputs().plan().steps():
        assert "/somewhere" not in str(step.ingredients())


def test_without_profiling_every_other_key_stays() -> None:
    inputs = Inputs()
    inputs.setting["profile"] = False
    expected = keys(Inputs().plan())
    del expected["profile"]
    assert keys(inputs.plan()) == expected


def test_without_a_device_all_is_made_but_nothing_is_checked_or_profiled() -> None:
    inputs = Inputs()
    inputs.device_name = ""
    plan = inputs.plan()
    (variant,) = plan.variants
    assert (variant.check, variant.profile) == (None, None)
    expected = keys(Inputs().plan())
    assert {name: expected[name] for name in ALL - {"check", "profile"}} == keys(plan)


def test_two_targets_share_every_step_that_does_not_read_the_target() -> None:
    other = Inputs()
    other.target = {**other.target, "name": "other-cpu", "lowering": {**other.target["lowering"], "opt_level": "O1"}}
    plan = Inputs().plan(other.resolved())
    counts = {name: sum(step.stage.name == name for step in plan.steps()) for name in ALL}
    assert counts == {**dict.fromkeys(ALL, 1), "lower": 2, "check": 2, "profile": 2}


def test_a_target_with_an_encoding_of_its_own_shares_the_codes_but_not_the_bytes() -> None:
    other = Inputs()
    other.target = {**other.target, "name": "other", "encoding": {"int4": "u8-nibbles", "fp8": "e4m3-words"}}
    plan = Inputs().plan(other.resolved())
    counts = {name: sum(step.stage.name == name for step in plan.steps()) for name in ALL}
    assert (counts["quantise"], counts["reference"], counts["encode"], counts["lower"]) == (1, 1, 2, 2)


def test_schemes_share_capture_and_cases_and_float_needs_no_reference_of_its_own() -> None:
    plan = Inputs().plan(schemes=("fp32", "fp8", "w4a16"))
    counts = {name: sum(step.stage.name == name for step in plan.steps()) for name in ALL}
    assert counts["capture"] == counts["simplify"] == counts["cases"] == 1
    assert (counts["quantise"], counts["reference"], counts["lower"], counts["check"]) == (3, 2, 3, 3)


def test_a_functional_device_is_checked_on_its_own_buckets_and_items() -> None:
    functional = Inputs()
    functional.target["execution"] = {**functional.target["execution"], "functional_only": True}
    before = keys(functional.plan())
    functional.model["evaluation"]["functional_items"] = 5
    changed = {name for name, key in keys(functional.plan()).items() if key != before[name]}
    assert changed == {"cases", "reference", "check", "profile"}
    assert functional.plan().variants[0].buckets == ({"batch": 1},)


def test_steps_come_after_those_they_read() -> None:
    seen: set[str] = set()
    for step in Inputs().plan(schemes=("fp32", "fp8", "w4a16", "w4a16-asym")).steps():
        assert {parent.key for parent in step.inputs.values()} <= seen
        seen.add(step.key)


def test_a_stages_version_its_tools_and_its_inputs_are_in_the_key() -> None:
    stage = stages.QUANTISE
    step = make_step(stage, "label", {"a": 1})
    keys_of = {
        step.key,
        make_step(dataclasses.replace(stage, version=stage.version + 1), "label", {"a": 1}).key,
        make_step(dataclasses.replace(stage, tools=("onnx",)), "label", {"a": 1}).key,
        make_step(dataclasses.replace(stage, name="other"), "label", {"a": 1}).key,
        make_step(stage, "label", {"a": 1}, {"role": step}).key,
        make_step(stage, "label", {"a": 2}).key,
    }
    assert len(keys_of) == 6
    assert make_step(stage, "another label", {"a": 1}, local={"path": "/x"}).key == step.key


def test_a_target_without_an_encoding_for_the_scheme_is_refused() -> None:
    inputs = Inputs()
    inputs.target["encoding"] = {"fp8": "e4m3-bits"}
    with pytest.raises(UsageError, match="names no encoding for int4"):
        inputs.plan()


# Language models


def language(scheme: str, **changed: Any) -> Inputs:
    model = tomllib.loads((facts_dir("models") / "smollm2.toml").read_text())
    target = {**TARGET, "execution": {**TARGET["execution"], **changed}}
    method = {"rounds": 200, "budget_s": 9.0}
    return Inputs(model=model, target=target, scheme=SCHEMES[scheme], setting={**Inputs().setting, "method": method})


def nearest(scheme: str, **changed: Any) -> tuple[Any, Any]:
    """Return the step that answers for the twin, if there is one, and the check."""
    (variant,) = language(scheme, **changed).plan().variants
    assert variant.check is not None
    assert variant.check.inputs.get("nearest") is variant.nearest
    return variant.nearest, variant.check


def test_calibrated_int4_of_a_language_model_has_a_twin_of_the_same_formats_that_rounds_to_nearest() -> None:
    (variant,) = language("w4a16").plan().variants
    twin, own = (step.inputs["quantise"].params["scheme"] for step in (variant.nearest, variant.reference))
    assert (own["solver"], twin["solver"]) == ("gptq", "nearest")
    told = {"name", "title", "solver", "method"}
    assert {key: own[key] for key in own.keys() - told} == {key: twin[key] for key in twin.keys() - told}
    assert "calibration" not in variant.nearest.inputs["quantise"].inputs
    assert not any(step.stage.name == "lower" for step in walk(variant.nearest))


def test_the_twin_is_the_scheme_that_rounds_to_nearest_where_both_are_built() -> None:
    (variant,) = language("w4a16").plan().variants
    (rounded,) = language("w4a16-rtn").plan().variants
    assert variant.nearest.key == rounded.reference.key


@pytest.mark.parametrize("scheme", ["fp32", "fp8", "w4a16-rtn"])
def test_other_schemes_have_no_twin(scheme: str) -> None:
    assert nearest(scheme)[0] is None


def test_a_functional_device_makes_few_tokens_on_two_shapes_and_compares_with_no_twin() -> None:
    inputs = language("w4a16", functional_only=True)
    (variant,) = inputs.plan().variants
    assert variant.nearest is None
    assert [bucket["sequence"] for bucket in variant.buckets] == [1, 16]
    assert variant.check.params["greedy_tokens"] == 4
    assert variant.profile.params["method"]["composed"] is False
    assert nearest("w4a16")[1].params["greedy_tokens"] == 64


def test_a_profile_of_a_language_model_knows_the_length_of_its_cache() -> None:
    (variant,) = language("fp32").plan().variants
    assert variant.profile.params["context_tokens"] == 1024
    assert "context_tokens" not in Inputs().plan().variants[0].profile.params


def test_the_layers_of_a_variant_are_run_from_what_it_was_built_of() -> None:
    plan = language("w4a16").plan()
    (variant,) = plan.variants
    step = layers_step(plan, variant)
    assert {role: step.inputs[role].key for role in ("quantise", "encode")} == {
        "quantise": variant.quantise.key, "encode": variant.encode.key,
    }
    assert step.params["spec"]["buckets"] == [{"batch": 1, "sequence": 16, "logits": 1}]
    assert step.key not in {other.key for other in plan.steps()}
