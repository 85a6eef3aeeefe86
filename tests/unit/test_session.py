"""A session: what it holds goes when it goes, and code without its function is refused."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu

from hwc.errors import IntegrityError
from hwc.lower import iree
from hwc.quantise.encode import Packed, write_archive

DOUBLED = """
func.func @double(%x: tensor<4xf32>) -> tensor<4xf32> {
  %y = arith.addf %x, %x : tensor<4xf32>
  return %y : tensor<4xf32>
}
"""
GIVEN = {"x": np.arange(4, dtype=np.float32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Code of one function, and an archive without a weight of it."""
    work = tmp_path_factory.mktemp("session")
    code, _ = iree.compile_module(DOUBLED, FLAGS, work=work, limits=LIMITS)
    archive = work / "none.irpa"
    write_archive({"unused": Packed(payload=np.zeros(1, np.float32), dtype="f32", shape=(1,))}, archive)
    return code, archive


def test_nothing_of_a_session_waits_for_the_garbage_collector(files: tuple[Path, Path]) -> None:
    """What it would take apart, it takes apart in an order of its own: code may go before what runs it."""
    run_on_cpu(*files, GIVEN, {"y": (4,)}, "double")  # the runtime's own tables stay
    gc.collect()
    gc.disable()
    try:
        before = held()
        found = run_on_cpu(*files, GIVEN, {"y": (4,)}, "double")["y"]
        assert held() == before
    finally:
        gc.enable()
    np.testing.assert_array_equal(found, 2 * GIVEN["x"])


def held() -> Counter[str]:
    """Count the runtime's objects that there are, by their types."""
    kinds = (kind for kind in map(type, gc.get_objects()) if str(kind.__module__).startswith("iree.runtime"))
    return Counter(kind.__name__ for kind in kinds)


def test_code_without_a_function_that_the_artefact_names_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(IntegrityError, match="no function `triple`"):
        run_on_cpu(*files, GIVEN, {"y": (4,)}, "triple")
