"""Golden tokens of a scheme's variants are compared, and where they part the first layer that does is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwc.bundle.gates import Verdict
from hwc.capture.golden import save_numbered
from hwc.errors import StepError
from hwc.measure import layers
from hwc.pipeline import equivalence
from hwc.quantise import scheme as schemes

CLEAN = {"a": np.ones((3, 4), np.float32), "b": np.ones((3, 4), np.float32)}


def outcome(name: str, tokens: Sequence[int], *, parity: float = 0.0, bound: float = 1e-3) -> Any:
    """Return what equivalence reads of a variant that was built and checked."""
    target, scheme = name.split("/")
    variant = SimpleNamespace(name=name, scheme=schemes.find(scheme), target=target)
    check = {"greedy_tokens": list(tokens), "parity": {"max_abs": parity}}
    return SimpleNamespace(variant=variant, parity_max_abs=bound, check=check)


class Traces:
    """Stands in for the runs layer by layer; remembers which variants were run."""

    def __init__(self, folder: Path, *, by: float = 0.01, **changed: str) -> None:
        self.folder, self.changed, self.ran, self.by = folder, changed, list[str](), by

    def __call__(self, variant: Any) -> Path:
        self.ran.append(variant.name)
        out = self.folder / variant.name.replace("/", "-")
        out.mkdir(exist_ok=True)
        (out / layers.LAYERS).write_text('["a", "b"]')
        device = {**CLEAN}
        if (layer := self.changed.get(variant.target)) is not None:
            device[layer] = device[layer] * np.float32(1 + self.by)
        save_numbered(out / layers.DEVICE, [device])
        save_numbered(out / layers.REFERENCE, [CLEAN])
        return out


def told(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(verdict.variant, verdict.outcome) for verdict in verdicts]


def test_variants_of_one_scheme_are_compared_with_its_first_and_nothing_is_run_where_they_agree(tmp_path: Path) -> None:
    trace = Traces(tmp_path)
    found = equivalence.verdicts(
        [outcome("cpu/fp32", [1, 2, 3]), outcome("gpu/fp32", [1, 2]), outcome("cpu/fp8", [9, 9, 9])], trace
    )
    assert told(found) == [("gpu/fp32", "passed")]
    assert "the same 2 greedy tokens as cpu/fp32" in found[0].told
    assert trace.ran == []


def test_where_tokens_part_both_are_run_and_the_layer_is_named(tmp_path: Path) -> None:
    trace = Traces(tmp_path, gpu="b")
    found = equivalence.verdicts([outcome("cpu/fp32", [1, 2, 3]), outcome("gpu/fp32", [1, 7, 3])], trace)
    assert told(found) == [("gpu/fp32", "missed")]
    assert "greedy token 2 is not that of cpu/fp32: b is the first layer that is off, by 1.0e-02" in found[0].told
    assert set(trace.ran) == {"cpu/fp32", "gpu/fp32"}


def test_where_no_layer_is_off_two_tokens_were_nearly_tied_and_nothing_is_judged(tmp_path: Path) -> None:
    found = equivalence.verdicts([outcome("cpu/fp32", [1]), outcome("gpu/fp32", [2])], Traces(tmp_path))
    assert told(found) == [("gpu/fp32", "unjudged")]
    assert "but no layer is further off than 0.0e+00" in found[0].told


def test_a_variant_past_its_parity_is_held_against_onnx_runtime(tmp_path: Path) -> None:
    trace = Traces(tmp_path, cpu="a")
    found = equivalence.verdicts([outcome("cpu/fp32", [1], parity=0.5)], trace)
    assert told(found) == [("cpu/fp32", "missed")]
    assert "a is the first layer that is off" in found[0].told


def test_a_scheme_that_rounds_activations_may_be_further_off_before_a_layer_is_named(tmp_path: Path) -> None:
    inside = outcome("cpu/fp8-dynamic", [1], parity=0.05, bound=0.1)
    assert equivalence.verdicts([inside], Traces(tmp_path)) == []
    beyond = outcome("cpu/fp8-dynamic", [1], parity=0.5, bound=0.1)
    assert told(equivalence.verdicts([beyond], Traces(tmp_path))) == [("cpu/fp8-dynamic", "unjudged")]
    one, other = outcome("cpu/fp8-dynamic", [1]), outcome("gpu/fp8-dynamic", [2])
    for by, outcome_told in ((0.02, "unjudged"), (0.2, "missed")):
        traces = Traces(tmp_path, by=by, gpu="b")
        assert told(equivalence.verdicts([one, other], traces)) == [("gpu/fp8-dynamic", outcome_told)]


def test_a_run_that_fails_hides_nothing(tmp_path: Path) -> None:
    def trace(_variant: Any) -> Path:
        raise StepError("the compiler crashed")

    found = equivalence.verdicts([outcome("cpu/fp32", [1], parity=0.5)], trace)
    assert told(found) == [("cpu/fp32", "unjudged")]
    assert "the layer cannot be named: the compiler crashed" in found[0].told


@pytest.mark.parametrize("check", [None, {"parity": {"max_abs": 9.0}}])
def test_what_was_not_checked_or_makes_no_tokens_is_left_alone(check: Any, tmp_path: Path) -> None:
    one = outcome("cpu/fp32", [1])
    one.check = check
    assert equivalence.verdicts([one, outcome("gpu/fp32", [1])], Traces(tmp_path)) == []
