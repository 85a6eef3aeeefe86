"""The router decides from serving metadata and live state alone, and says why every other candidate lost."""

import dataclasses
import math

import pytest

from hwc.errors import UsageError
from hwc.serve.router import Candidate, Cell, Request, State, decide, request_from

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
        {"model": "m", "slo_p99_ms": "soon"},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(document):
    with pytest.raises(UsageError):
        request_from(document)
