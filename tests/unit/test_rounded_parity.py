"""A kernel that keeps fewer bits of activations has a parity of its own, and only where it is in the artefact."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwc.measure import noise
from hwc.pipeline.outcome import Outcome


def parity(folder: Path, kernel: dict[str, object], rounded: float | None) -> float:
    (folder / "lower.json").write_text(json.dumps({"vendor": {"kernels": {"w4a16": kernel}}} if kernel else {}))
    noise.write(1e-6, folder)
    outcome = Outcome.__new__(Outcome)
    outcome.spec = SimpleNamespace(parity_max_abs=5e-6, parity_rounded_max_abs=rounded)
    outcome.variant = SimpleNamespace(scheme=SimpleNamespace(rounds_activations=False))
    outcome.path = {"lower": folder, "noise": folder}
    return outcome.parity_max_abs


@pytest.mark.parametrize(
    ("kernel", "rounded", "expected"),
    [
        ({"linked": True, "activation_bits": 16}, 4e-5, 4e-5),
        ({"linked": False, "activation_bits": 16}, 4e-5, 5e-6),
        ({"linked": True}, 4e-5, 5e-6),
        ({}, 4e-5, 5e-6),
        ({"linked": True, "activation_bits": 16}, None, 2 * 2**-16),  # twice the noise of a move by its last bit
        ({"linked": True, "activation_bits": 24}, None, 5e-6),  # less than float32's own noise is that
        ({"linked": True, "activation_bits": 16}, 1e-6, 1e-6),
    ],
)
def test_only_a_linked_kernel_that_rounds_activations_widens_the_parity(
    kernel: dict[str, object], rounded: float | None, expected: float, tmp_path: Path
) -> None:
    assert parity(tmp_path, kernel, rounded) == expected
