"""The first golden case of each shape of a variant: what to warm a server up with, and to prove an export by."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.bundle.open import Variant
from hwc.bundle.program import copy_out
from hwc.capture import golden
from hwc.spec.model import bucket_id

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCase:
    """One golden call at an exact shape."""

    bucket: str
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    """What strict ONNX Runtime answered for the graph in the variant's own scheme."""


def first_cases(variant: Variant) -> tuple[FirstCase, ...]:
    """Return one case a shape, in the order of the golden cases; every byte is verified."""
    with tempfile.TemporaryDirectory(prefix="hwc-golden-") as work:
        folder = copy_out(variant, "golden", Path(work))
        cases = golden.load_cases(folder)
        reference = folder / "reference.npz"
        expected = golden.load_numbered(reference if reference.is_file() else folder / "expected.npz")
    found: dict[str, FirstCase] = {}
    for case, outputs in zip(cases, expected, strict=True):
        name = bucket_id(case.bucket)
        found.setdefault(name, FirstCase(bucket=name, feeds=case.feeds, expected=outputs))
    return tuple(found.values())
