"""Any number of items goes through static shapes: each item comes out once, in order, whatever was filled up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from hwc.errors import UsageError
from hwc.program import Function, Port
from hwc.runtime.batching import InputRule, run

TEXT = {
    "ids": InputRule(dtype="int64", shape=("batch", "sequence"), pad=0),
    "mask": InputRule(dtype="int64", shape=("batch", "sequence"), pad=0),
}
FIXED = {"x": InputRule(dtype="float32", shape=("batch", 3), pad=None)}


def function(name: str, **bucket: int) -> Function:
    shape = tuple(bucket.values())
    return Function(name=name, bucket=bucket, inputs=(Port(name="ids", dtype="int64", shape=shape),), outputs=())


BY_TEXT = [
    function("b1_s4", batch=1, sequence=4),
    function("b1_s16", batch=1, sequence=16),
    function("b8_s16", batch=8, sequence=16),
]
BY_ROW = [function("b1", batch=1), function("b4", batch=4)]


class Recorder:
    """Sums each row of its first input, and remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def call(self, function: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = next(iter(feeds.values()))
        self.calls.append((function, first.shape))
        return {"sum": first.sum(axis=1)}


def feeds(rows: int, width: int) -> dict[str, np.ndarray]:
    ids = np.arange(1, rows * width + 1).reshape(rows, width)
    return {"ids": ids, "mask": np.ones_like(ids)}


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("width", [1, 4, 5, 16])
def test_every_item_comes_out_once_and_in_order(rows: int, width: int) -> None:
    given = feeds(rows, width)
    outputs = run(Recorder(), BY_TEXT, TEXT, "batch", given)
    np.testing.assert_array_equal(outputs["sum"], given["ids"].sum(axis=1))


def test_the_smallest_shape_that_holds_an_item_is_taken() -> None:
    recorder = Recorder()
    run(recorder, BY_TEXT, TEXT, "batch", feeds(1, 3))
    run(recorder, BY_TEXT, TEXT, "batch", feeds(1, 5))
    assert recorder.calls == [("b1_s4", (1, 4)), ("b1_s16", (1, 16))]


def test_many_items_take_the_large_batch_first_and_single_rows_for_the_rest() -> None:
    recorder = Recorder()
    run(recorder, BY_TEXT, TEXT, "batch", feeds(10, 16))
    assert [name for name, _ in recorder.calls] == ["b8_s16", "b1_s16", "b1_s16"]


def test_a_batch_that_is_not_full_is_filled_up_and_cut_again() -> None:
    recorder = Recorder()
    given = {"x": np.arange(9, dtype=np.float32).reshape(3, 3)}
    outputs = run(recorder, [function("b4", batch=4)], FIXED, "batch", given)
    assert recorder.calls == [("b4", (4, 3))]
    np.testing.assert_array_equal(outputs["sum"], [3, 12, 21])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ids": np.ones((1, 4), np.int64)}, "missing input `mask`"),
        ({**feeds(1, 4), "extra": np.ones(1)}, "unknown input `extra`"),
        ({"ids": np.ones((1, 4), int), "mask": np.ones((1, 5), int)}, "has size 5 where `sequence` is 4"),
        ({"ids": np.ones((1, 4), int), "mask": np.ones((2, 4), int)}, "has size 2 where `batch` is 1"),
        ({"ids": np.ones(4, int), "mask": np.ones(4, int)}, "has shape"),
        (feeds(1, 17), "no compiled shape holds"),
        ({"ids": np.ones((0, 4), int), "mask": np.ones((0, 4), int)}, "has size 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(given: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        run(Recorder(), BY_TEXT, TEXT, "batch", given)


def test_a_fixed_dimension_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="has size 4 where the model takes 3"):
        run(Recorder(), BY_ROW, FIXED, "batch", {"x": np.ones((1, 4), np.float32)})


def test_a_dimension_that_may_not_be_filled_up_must_fit_exactly() -> None:
    rules = {"x": InputRule(dtype="float32", shape=("batch", "width"), pad=None)}
    with pytest.raises(UsageError, match="no compiled shape holds"):
        run(Recorder(), [function("b1_w8", batch=1, width=8)], rules, "batch", {"x": np.ones((1, 7), np.float32)})
