"""Legality: the first rule that fits decides, by operation, type and shape; coverage is what runs on the chip."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwc.formats import Format
from hwc.lower.coverage import cover
from hwc.lower.legality import Verdict, fits, judge_one, refused_format
from hwc.lower.pricing import pricing
from hwc.predict.operation import Operation
from hwc.spec.legality import FormatRule, LegalityRule, Placement
from hwc.spec.target import TargetSpec

MATMUL = Operation(
    op="matmul", name="matmul_8x64x32", m=8, n=64, k=32, points=512, rank=2, activations="float32", flops=32768.0,
    read_bytes=1024.0, weight_bytes=8192.0, write_bytes=2048.0, weights="float32",
)
SOFTMAX = Operation(
    op="softmax", name="softmax_8x64", points=512, rank=2, activations="float32", flops=2560.0, read_bytes=2048.0,
    write_bytes=2048.0,
)
REJECTING = Placement(otherwise="reject", otherwise_reason="nothing else is wired")


def rule(**told: object) -> LegalityRule:
    return LegalityRule.model_validate({"action": "native", **told})


def test_the_first_rule_that_fits_decides() -> None:
    rules = [rule(ops=["softmax"], action="host", reason="no exponential"), rule(), rule(action="reject", reason="no")]
    assert judge_one(SOFTMAX, rules, Placement()).action == "host"
    assert judge_one(MATMUL, rules, Placement()).rule == 1


def test_placement_decides_where_no_rule_fits() -> None:
    verdict = judge_one(MATMUL, [rule(ops=["softmax"])], REJECTING)
    assert (verdict.action, verdict.rule, verdict.reason) == ("reject", None, "nothing else is wired")


def test_work_that_leaves_the_chip_without_a_rule_is_given_a_reason_that_names_its_types() -> None:
    quantised = replace(MATMUL, weights="int4")
    verdict = judge_one(quantised, [], Placement(otherwise="host"))
    assert verdict.reason == "no rule fits matmul of float32 by int4 weights"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"elements": ["float32"]}, True),
        ({"elements": ["float16", "bfloat16"]}, False),
        ({"weights": ["int4"]}, False),
        ({"weights": ["float32"], "elements": ["float32"]}, True),
        ({"at_least": {"m": 8}}, True),
        ({"at_least": {"m": 9}}, False),
        ({"at_most": {"k": 32}}, True),
        ({"at_most": {"k": 31}}, False),
        ({"multiple_of": {"n": 64}}, True),
        ({"multiple_of": {"n": 128}}, False),
        ({"multiple_of": {"n": 64}, "at_most": {"m": 1}}, False),
    ],
)
def test_a_rule_fits_by_type_and_shape(told: dict[str, object], expected: bool) -> None:
    assert fits(rule(**told), MATMUL) is expected


def test_elements_hold_for_stored_weights_too_unless_the_rule_names_theirs() -> None:
    quantised = replace(MATMUL, weights="int4")
    assert not fits(rule(elements=["float32"]), quantised)
    assert fits(rule(elements=["float32"], weights=["int4", "int8"]), quantised)
    assert not fits(rule(elements=["float16"], weights=["int4"]), quantised)


def test_a_rule_about_weights_does_not_fit_work_without_any() -> None:
    assert not fits(rule(weights=["float32"]), SOFTMAX)


@pytest.mark.parametrize("bound", ["at_least", "at_most", "multiple_of"])
def test_a_rule_about_an_extent_does_not_fit_work_that_has_none(bound: str) -> None:
    assert not fits(rule(**{bound: {"k": 1}}), SOFTMAX)


def verdicts() -> list[Verdict]:
    rules = [rule(ops=["softmax"], action="host", reason="no exponential")]
    return [judge_one(entry, rules, Placement()) for entry in (replace(MATMUL, count=3), SOFTMAX)]


def test_coverage_counts_every_run_and_names_what_stands_in_the_way() -> None:
    sources = {"softmax_8x64": ("encoder.attention",)}
    found = cover("batch1", verdicts(), gate=0.9, sources=sources, price=lambda verdict: 1e-3)
    assert found.covered.flops == pytest.approx(3 * 32768 / (3 * 32768 + 2560))
    assert found.covered.traffic_bytes == pytest.approx(3 * 11264 / (3 * 11264 + 4096))
    assert found.covered.dispatches == 0.75
    assert found.covered.predicted_time == 0.5
    (blocker,) = found.blockers
    assert (blocker.op, blocker.action, blocker.reason) == ("softmax", "host", "no exponential")
    assert blocker.modules == ("encoder.attention",)
    assert blocker.dispatches == ("softmax_8x64",)
    assert found.passed


def test_coverage_under_the_gate_does_not_pass() -> None:
    assert not cover("batch1", verdicts(), gate=0.98, sources={}).passed


def test_what_is_rejected_does_not_pass_however_small() -> None:
    found = cover(
        "batch1", [judge_one(MATMUL, [rule()], REJECTING), judge_one(SOFTMAX, [], REJECTING)], gate=0.01, sources={}
    )
    assert [blocker.op for blocker in found.rejected] == ["softmax"]
    assert not found.passed


def test_without_a_price_no_time_is_told() -> None:
    found = cover("batch1", verdicts(), gate=0.9, sources={})
    assert found.covered.predicted_time is None
    assert found.blockers[0].shares.predicted_time is None


def test_a_model_without_arithmetic_is_held_to_its_traffic() -> None:
    silent = replace(SOFTMAX, flops=0.0)
    rules = [rule(ops=["softmax"], action="reject", reason="no")]
    found = cover("batch1", [judge_one(silent, rules, Placement())], gate=0.9, sources={})
    assert found.covered.flops == 0.0


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (Format(kind="int4", group_size=32), ""),
        (Format(kind="int4", group_size=128), "int4 has groups of 128; the chip's packing holds groups of 32"),
        (
            Format(kind="int4", group_size=32, zeros="point"),
            "int4 has integer zero points; the chip's packing holds no zero points",
        ),
        (Format(kind="fp8"), ""),
    ],
)
def test_a_form_that_the_packing_does_not_hold_is_told(form: Format, told: str) -> None:
    assert refused_format(form, {"int4": FormatRule(group_sizes=(32,), zeros=("none",))}) == told


MEMORY = {"level": 1, "size_bytes": 1e9, "read_bytes_per_s": 1e11}
RATE = {"activations": "float32", "weights": "float32", "accumulator": "float32", "flop_per_s": 1e12}
CHIP = {"units": {"cores": {"kind": "vector", "rates": [RATE]}}, "memories": {"dram": MEMORY}}
LINK = {"peer": "host", "bytes_per_s": 1e9, "latency_s": 1e-6}


def described(**hardware: object) -> TargetSpec:
    return TargetSpec.model_validate(
        {
            "name": "chip", "title": "A chip", "kind": "asic", "hardware_status": "software",
            "lowering": {"backend": "vmvx"}, "execution": {"driver": "local-sync"}, "hardware": hardware,
            "sources": {"hardware": {"kind": "assumed"}} if hardware else {},
        }
    )


def test_work_on_the_host_is_priced_by_the_link_to_it_and_the_rest_on_the_chip() -> None:
    price, left_out = pricing(described(**CHIP, links={"pcie": LINK}), described())
    assert price is not None
    on_chip, on_host = verdicts()
    assert price(on_host) == pytest.approx(2e-6 + 4096 / 1e9)
    assert price(on_chip) == pytest.approx(3 * 1.5 * max(32768 / 1e12, 11264 / 1e11))
    assert left_out == "the host's own time (chip tells no figures of its hardware)"


def test_a_host_that_is_described_adds_its_own_time() -> None:
    alone, _ = pricing(described(**CHIP, links={"pcie": LINK}), described())
    both, left_out = pricing(described(**CHIP, links={"pcie": LINK}), described(**CHIP))
    assert alone is not None
    assert both is not None
    of_both, of_one = both(verdicts()[1]), alone(verdicts()[1])
    assert of_both is not None
    assert of_one is not None
    assert of_both > of_one
    assert left_out == ""


def test_without_the_chip_s_figures_there_is_no_price_and_the_key_is_told() -> None:
    price, why = pricing(described(), None)
    assert price is None
    assert "hardware." in why


def test_types_without_a_rate_leave_the_whole_without_a_time() -> None:
    price, _ = pricing(described(**CHIP), None)
    odd = replace(SOFTMAX, activations="float64")
    found = cover(
        "b", [judge_one(odd, [], Placement()), judge_one(SOFTMAX, [], Placement())], gate=0.5, sources={}, price=price
    )
    assert found.covered.predicted_time is None
