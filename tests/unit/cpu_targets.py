"""The shipped CPU targets, as tests of their kernels read them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hwc.spec.target import TargetSpec

TARGETS = Path(__file__).resolve().parents[2] / "targets"
V3 = ("+avx", "+avx2", "+bmi", "+bmi2", "+f16c", "+fma", "+lzcnt", "+movbe", "+popcnt", "+sse3", "+sse4.1", "+sse4.2")
V4 = (*V3, "+avx512f", "+avx512bw", "+avx512cd", "+avx512dq", "+avx512vl")


def shipped(name: str) -> TargetSpec:
    """Return a shipped descriptor as it is written."""
    return TargetSpec.model_validate(tomllib.loads((TARGETS / f"{name}.toml").read_text()))
