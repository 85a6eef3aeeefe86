"""The router decides from serving metadata and live state alone, and says why every other candidate lost."""

import dataclasses
import math

import pytest

from hwc.errors import UsageError
from hwc.serve.candidate import Candidate, Cell, State
from hwc.serve.request import Request, request_from
from hwc.serve.router import decide
from hwc.serve.token_grid import Rows, TokenGrid, line

FAST = Cell(bucket="b1_s128", batch=1, dims=(("sequence", 128),), typical_ms=20.0, bound_ms=30.0, basis="measured")
BATCH = Cell(bucket="b8_s128", batch=8, dims=(("sequence", 128),), typical_ms=120.0, bound_ms=200.0, basis="measured")
SHORT = Cell(bucket="b1_s16", batch=1, dims=(("sequence", 16),), typical_ms=4.0, bound_ms=6.0, basis="measured")


def candidate(node: str, **changes: object) -> Candidate:
    plain = Candidate(
        node=node, bundle="m:dev", variant="cpu/fp32", model="m", verified=True, cells=(FAST, BATCH, SHORT),
        quality={"cosine_mean": 0.99}, usd_per_ms=1e-9, margin_share=0.0,
    )
    return dataclasses.replace(plain, **changes)


def ask(**changes: object) -> Request:
    return dataclasses.replace(Request(model="m", items=8, dims={"sequence": 100}, slo_p99_ms=300.0), **changes)


def test_the_cheapest_shape_in_time_is_taken():
    decision = decide(ask(), [candidate("a")], {})
    assert (decision.bucket, decision.calls, decision.predicted_p99_ms) == ("b8_s128", 1, 200.0)
    assert decision.margin_ms == 100.0
    assert decision.usd == pytest.approx(120e-9)


def test_a_tighter_objective_takes_a_faster_node_and_a_looser_one_the_cheaper():
    slow = dataclasses.replace(BATCH, typical_ms=500.0, bound_ms=900.0)
    fleet = [candidate("fast", usd_per_ms=5e-9), candidate("cheap", cells=(slow,), usd_per_ms=1e-9)]
    assert decide(ask(slo_p99_ms=250.0), fleet, {}).chosen.node == "fast"
    assert decide(ask(slo_p99_ms=2000.0), fleet, {}).chosen.node == "cheap"


def test_work_that_waits_and_a_hot_node_count_against_the_objective():
    fleet = [candidate("a")]
    assert decide(ask(slo_p99_ms=205.0), fleet, {}).chosen
    assert decide(ask(slo_p99_ms=205.0), fleet, {"a": State(queued_ms=50.0)}).chosen is None
    assert decide(ask(slo_p99_ms=205.0), fleet, {"a": State(thermal_factor=1.25)}).chosen is None


def test_the_fits_held_out_error_is_added_before_the_comparison():
    assert decide(ask(slo_p99_ms=210.0), [candidate("a", margin_share=0.1)], {}).chosen is None


def test_a_tie_goes_to_the_busiest_node_that_is_in_time():
    fleet = [candidate("idle"), candidate("busy")]
    states = {"idle": State(utilisation=0.1), "busy": State(utilisation=0.8)}
    decision = decide(ask(), fleet, states)
    assert decision.chosen.node == "busy"
    assert "as cheap" in decision.losses[0].reason


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"verified": False}, State(), "unverified"),
        ({"model": "other"}, State(), "serves another model"),
        ({"cells": ()}, State(), "no latency"),
        ({"usd_per_ms": None}, State(), "no price"),
        ({"quality": {"cosine_mean": 0.5}}, State(), "cosine_mean 0.5000 < 0.9"),
        ({"quality": {}}, State(), "not measured"),
        ({"cells": (SHORT,)}, State(), "no measured shape"),
        ({}, State(healthy=False), "unhealthy"),
        ({}, State(draining=True), "draining"),
    ],
)
def test_a_candidate_that_may_not_serve_loses_with_its_reason(changes, state, reason):
    decision = decide(ask(min_quality={"cosine_mean": 0.9}), [candidate("a", **changes)], {"a": state})
    assert decision.chosen is None
    assert reason in decision.losses[0].reason
    assert math.isnan(decision.predicted_p99_ms)


def test_an_unverified_variant_is_taken_only_when_it_is_allowed():
    fleet = [candidate("a", verified=False)]
    assert decide(ask(), fleet, {}).chosen is None
    assert decide(ask(allow_unverified=True), fleet, {}).chosen


def test_a_request_of_higher_priority_may_use_a_draining_node():
    assert decide(ask(priority=1), [candidate("a")], {"a": State(draining=True)}).chosen


def test_every_candidate_but_the_chosen_one_is_told_a_reason():
    fleet = [candidate(f"n{index}", usd_per_ms=(index + 1) * 1e-9) for index in range(10)]
    decision = decide(ask(), fleet, {})
    assert decision.chosen.node == "n0"
    assert len(decision.losses) == 9
    assert all("times as much" in loss.reason for loss in decision.losses)


@pytest.mark.parametrize(
    "document",
    [
        {"model": "m"},
        {"model": "m", "slo_p99_ms": 0},
        {"model": "m", "slo_p99_ms": float("nan")},
        {"model": "m", "slo_p99_ms": 100, "items": 0},
        {"model": "m", "slo_p99_ms": 100, "dims": {"sequence": -1}},
        {"model": "m", "slo_p99_ms": 100, "slo": 3},
        {"model": "m", "slo_p99_ms": 100, "prompt_tokens": 5},
        {"model": "m", "slo_p99_ms": 100, "prompt_tokens": 5, "completion_tokens": 0},
        {"model": "m", "slo_p99_ms": 100, "prompt_tokens": True, "completion_tokens": 2},
        {"model": "m", "slo_ttft_ms": 100},
        {"model": "m", "slo_p99_ms": "soon"},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(document):
    with pytest.raises(UsageError):
        request_from(document)


# Language models: TTFT, then a token after the other.

PROMPTS = [(16, 100.0, 120.0), (128, 800.0, 900.0)]
GRID = TokenGrid(
    rows=(
        Rows(batch=1, prefill=line(PROMPTS), decode=line([(256, 10.0, 12.0)]), basis="measured p99, n=200"),
        Rows(
            batch=4, prefill=line([(size, 3 * ms, 3 * most) for size, ms, most in PROMPTS]),
            decode=line([(256, 20.0, 24.0)]), basis="measured p99, n=200",
        ),
    ),
    context_tokens=256,
)


def writer(node: str, **changes: object) -> Candidate:
    return candidate(node, cells=(), tokens=GRID, **changes)


def ask_text(**changes: object) -> Request:
    plain = Request(model="m", prompt_tokens=16, completion_tokens=11, slo_p99_ms=1e6)
    return dataclasses.replace(plain, **changes)


def test_a_text_costs_its_prompt_and_a_call_for_every_token_after_the_first():
    decision = decide(ask_text(), [writer("a")], {})
    assert (decision.bucket, decision.calls) == ("batch 1", 1)
    assert decision.predicted_p50_ms == pytest.approx(100 + 10 * 10)
    assert decision.predicted_p99_ms == pytest.approx(120 + 10 * 12)
    assert (decision.ttft_p99_ms, decision.tpot_p99_ms) == pytest.approx((120, 12))
    assert decision.usd == pytest.approx(200e-9)


def test_prompts_between_measured_lengths_are_interpolated_and_longer_ones_go_in_pieces():
    between, pieces = (decide(ask_text(prompt_tokens=size), [writer("a")], {}) for size in (72, 144))
    assert between.ttft_p99_ms == pytest.approx(510)
    assert pieces.ttft_p99_ms == pytest.approx(900 + 120)


@pytest.mark.parametrize(
    ("bounds", "feasible"),
    [
        ({"slo_ttft_ms": 120.0}, True), ({"slo_ttft_ms": 119.0}, False), ({"slo_tpot_ms": 12.0}, True),
        ({"slo_tpot_ms": 11.0}, False), ({"slo_p99_ms": 240.0}, True), ({"slo_p99_ms": 239.0}, False),
    ],
)
def test_each_objective_of_a_text_is_held(bounds, feasible):
    assert (decide(ask_text(**bounds), [writer("a")], {}).chosen is not None) == feasible


def test_work_that_waits_delays_the_first_token_but_not_the_next_and_heat_both():
    waits = decide(ask_text(), [writer("a")], {"a": State(queued_ms=50.0)})
    assert (waits.ttft_p99_ms, waits.tpot_p99_ms) == pytest.approx((170, 12))
    hot = decide(ask_text(), [writer("a")], {"a": State(thermal_factor=2.0)})
    assert (hot.ttft_p99_ms, hot.tpot_p99_ms) == pytest.approx((240, 24))


def test_several_texts_go_side_by_side_where_that_is_cheaper():
    decision = decide(ask_text(items=8), [writer("a")], {})
    assert (decision.bucket, decision.calls) == ("batch 4", 2)
    assert decision.predicted_p50_ms == pytest.approx(2 * (300 + 10 * 20))
    assert decision.ttft_p99_ms == pytest.approx(360 + 240 + 360)


def test_the_margin_is_that_of_the_nearest_objective():
    decision = decide(ask_text(slo_p99_ms=1000.0, slo_ttft_ms=150.0, slo_tpot_ms=50.0), [writer("a")], {})
    assert decision.margin_ms == pytest.approx(30)


@pytest.mark.parametrize(
    ("request_", "one", "reason"),
    [
        (ask_text(), candidate("a"), "generates no text"),
        (ask(min_quality={}), writer("a"), "generates text"),
        (ask_text(prompt_tokens=250, completion_tokens=8), writer("a"), "a cache of 256 tokens"),
        (ask_text(slo_p99_ms=10.0), writer("a"), "too slow: p99 240.0 ms"),
    ],
)
def test_a_candidate_that_cannot_write_the_text_loses_with_its_reason(request_, one, reason):
    decision = decide(request_, [one], {})
    assert decision.chosen is None
    assert reason in decision.losses[0].reason


def test_the_last_token_needs_no_place_in_the_cache():
    assert decide(ask_text(prompt_tokens=250, completion_tokens=7), [writer("a")], {}).chosen


def test_a_text_may_be_asked_for_with_any_of_the_objectives():
    for name in ("slo_p99_ms", "slo_ttft_ms", "slo_tpot_ms"):
        found = request_from({"model": "m", "prompt_tokens": 5, "completion_tokens": 5, name: 100})
        assert getattr(found, name) == 100
