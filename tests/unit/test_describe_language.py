"""A language model's cells, classes of service and equivalents, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hwc.bundle.describe_language import equivalents, grid, qos
from hwc.bundle.serving_profile import Latency, Profile


def latency(p99_ms: float, *, n: int = 200) -> Latency:
    half = p99_ms / 2
    return Latency(
        p50=half, p90=half, p95=half, p99=p99_ms if n >= 100 else None, mean=half, std=0.0, ci95=(half, half), n=n
    )


def told(given: Mapping[str, Any]) -> Latency:
    return latency(given["p99"], n=given["n"])


def cell(phase: str, tokens: int, p99_ms: float, *, batch: int = 1, valid: bool = True, n: int = 200) -> dict[str, Any]:
    return {
        "function": f"{phase}_b{batch}_n{tokens}", "phase": phase, "batch": batch, "tokens": tokens,
        "calls": {"b1_s16": 2, "b1_s1": 1}, "latency_ms": {"p99": p99_ms, "n": n}, "valid": valid,
    }


def profile(*cells: dict[str, Any]) -> Profile:
    return Profile(**grid(cells, told))


def test_cells_tell_prompt_length_pieces_fill_and_tokens_a_second() -> None:
    found = profile(cell("prefill", 64, 100.0), cell("decode", 256, 20.0, batch=4))
    (prompt,), (token,) = found.prefill, found.decode
    assert (prompt.isl, prompt.batch, prompt.calls, prompt.tok_s) == (64, 1, 3, pytest.approx(64 / 0.05))
    assert (token.context, token.batch, token.tok_s) == (256, 4, pytest.approx(4 / 0.01))


def test_a_class_is_held_up_to_the_longest_prompt_and_the_largest_batch_in_time() -> None:
    found = profile(
        cell("prefill", 16, 100.0), cell("prefill", 128, 501.0), cell("decode", 10, 5.0), cell("decode", 256, 29.0),
        cell("decode", 10, 50.0, batch=4),
    )
    rows = {row.id: row for row in qos(found)}
    assert {name: (row.max_isl, row.max_concurrency) for name, row in rows.items()} == {
        "interactive": (16, 1), "standard": (128, 4),
    }
    assert all(row.passes for row in rows.values())


def test_the_slowest_fill_of_the_cache_decides() -> None:
    found = profile(cell("prefill", 16, 100.0), cell("decode", 10, 5.0), cell("decode", 256, 31.0))
    (interactive, standard) = qos(found)
    assert (interactive.passes, interactive.max_concurrency, standard.passes) == (False, 0, True)


@pytest.mark.parametrize("unfit", [{"valid": False}, {"n": 99}])
def test_no_class_is_told_from_cells_that_tell_no_p99(unfit: dict[str, Any]) -> None:
    assert qos(profile(cell("prefill", 16, 1.0), cell("decode", 10, 1.0, **unfit))) == ()
    assert qos(profile(cell("prefill", 16, 1.0, **unfit), cell("decode", 10, 1.0))) == ()


def test_variants_with_the_same_golden_tokens_may_stand_in_for_each_other_as_far_as_both_went() -> None:
    tokens = {"cpu/fp32": [1, 2, 3, 4], "gpu/fp32": [1, 2], "cpu/fp8": [1, 9, 3, 4], "cpu/int4": []}
    assert equivalents("cpu/fp32", tokens) == ("gpu/fp32",)
    assert equivalents("gpu/fp32", tokens) == ("cpu/fp32",)
    assert equivalents("cpu/fp8", tokens) == ()
    assert equivalents("cpu/int4", tokens) == ()
    assert equivalents("absent", tokens) == ()
