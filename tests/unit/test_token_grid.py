"""Speed between what was measured: straight lines, pieces for longer prompts, and never a noisy cell."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_serving_schema import cell, verified

from hwc.bundle.serving import parse_serving
from hwc.serve.token_grid import Line, line, token_grid

PROMPTS = line([(100, 90.0, 120.0), (10, 10.0, 20.0)])


@pytest.mark.parametrize(
    ("tokens", "due"),
    [(10, (10.0, 20.0)), (100, (90.0, 120.0)), (55, (50.0, 70.0)), (1, (10.0, 20.0)), (500, (90.0, 120.0))],
)
def test_a_line_meets_what_was_measured_and_is_straight_between(tokens: int, due: tuple[float, float]) -> None:
    assert PROMPTS.at(tokens) == pytest.approx(due)


@pytest.mark.parametrize(
    ("tokens", "due"), [(100, (90.0, 120.0)), (200, (180.0, 240.0)), (255, (230.0, 310.0)), (55, (50.0, 70.0))]
)
def test_a_prompt_longer_than_any_measured_goes_in_pieces_of_the_longest(tokens: int, due: tuple[float, float]) -> None:
    assert PROMPTS.in_pieces(tokens) == pytest.approx(due)


def test_one_point_is_a_line() -> None:
    assert isinstance(line([(5, 1.0, 2.0)]), Line)
    assert line([(5, 1.0, 2.0)]).at(99) == (1.0, 2.0)


def document(*, few: bool = False) -> dict[str, Any]:
    made = copy.deepcopy(verified())
    latency = cell()["latency_ms"]
    if few:
        latency = {name: value for name, value in latency.items() if name != "p99"} | {"n": 5}
    rest = {"tok_s": 100.0, "method": "measured"}
    made["model"]["max_context_tokens"] = 512
    made["profile"] = {
        "prefill": [
            {"batch": 1, "isl": 16, "ttft_ms": latency, "valid": True, **rest},
            {"batch": 1, "isl": 128, "ttft_ms": latency, "valid": False, **rest},
            {"batch": 2, "isl": 16, "ttft_ms": latency, "valid": True, **rest},
        ],
        "decode": [
            {"batch": 1, "context": 512, "itl_ms": latency, "valid": True, **rest},
            {"batch": 2, "context": 512, "itl_ms": latency, "valid": False, **rest},
        ],
    }
    return made


def test_a_grid_holds_trusted_cells_alone_and_batches_that_have_both_kinds() -> None:
    found = token_grid(parse_serving(document()))
    assert found is not None
    assert [rows.batch for rows in found.rows] == [1]
    assert found.rows[0].prefill.tokens == (16,)
    assert (found.context_tokens, found.rows[0].decode.bound_ms, found.rows[0].basis) == (
        512, (11.0,), "measured p99, n=200",
    )


def test_few_samples_are_bounded_by_their_spread_and_said_to_be_few() -> None:
    found = token_grid(parse_serving(document(few=True)))
    assert found is not None
    assert found.rows[0].decode.bound_ms == (9.5,)
    assert found.rows[0].basis == "bound from n=5"


def test_another_kind_of_model_has_none() -> None:
    assert token_grid(parse_serving(verified())) is None
