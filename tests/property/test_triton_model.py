"""The model that Triton runs lays items into static shapes exactly as hwc itself does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwc.serve
from hwc.errors import UsageError
from hwc.program import Function
from hwc.runtime.batching import InputRule, run

BUCKETS = st.lists(
    st.fixed_dictionaries({"batch": st.integers(1, 5), "sequence": st.integers(1, 6)}), min_size=1, max_size=4,
    unique_by=lambda bucket: tuple(bucket.items()),
)


def loaded() -> ModuleType:
    """Load the exported model as Triton does, beside a stand-in for the module that only its stub has."""
    sys.modules.setdefault("triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    path = Path(hwc.serve.__file__).with_name("triton_model.py")
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODEL = loaded()


class Recorder:
    """Answers every call with sums over the sequence and with the input itself, and notes the call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []

    def call(self, function: str, feeds: Any) -> dict[str, np.ndarray]:
        self.calls.append((function, feeds["x"].tobytes()))
        return {"total": feeds["x"].sum(axis=1), "same": feeds["x"] * 2}


@pytest.mark.parametrize("pad", [None, -1.0])
@given(buckets=BUCKETS, rows=st.integers(0, 12), length=st.integers(1, 7))
def test_both_make_the_same_calls_and_give_the_same_outputs(
    pad: float | None, buckets: list[dict[str, int]], rows: int, length: int
) -> None:
    shape = ("batch", "sequence", 2)
    functions = [Function(name=f"f{at}", bucket=bucket, inputs=(), outputs=()) for at, bucket in enumerate(buckets)]
    program = {
        "batch_dim": "batch",
        "inputs": {"x": {"dtype": "float32", "shape": list(shape), "pad": pad}},
        "output_dims": {"same": ["batch", "sequence", 2]},
        "functions": [{"name": entry.name, "bucket": entry.bucket} for entry in functions],
    }
    rules = {"x": InputRule(dtype="float32", shape=shape, pad=pad)}
    feeds = {"x": np.arange(rows * length * 2, dtype=np.float32).reshape(rows, length, 2)}
    ours, theirs = Recorder(), Recorder()
    try:
        expected = run(ours, functions, rules, "batch", feeds, {"same": ["batch", "sequence", 2]})
    except UsageError:
        with pytest.raises(ValueError):
            MODEL.run(program, theirs.call, feeds)
        return

    found = MODEL.run(program, theirs.call, feeds)

    assert theirs.calls == ours.calls
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
