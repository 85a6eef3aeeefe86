"""Quality metrics tell what they are said to tell, and a user's evaluator cannot take the step down with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hwc.errors import StepError, UsageError
from hwc.measure import metrics


def rows(seed: int = 0, shape: tuple[int, ...] = (20, 8)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ["vector", "embedding", "classification"])
def test_equal_outputs_measure_as_perfect(tmp_path: Path, name: str) -> None:
    values = {"y": rows()}
    measured = metrics.evaluate(name, tmp_path, values, values)
    assert measured["max_abs"] == 0.0
    assert measured["cosine_mean"] == pytest.approx(1.0)
    assert measured["cosine_min"] == pytest.approx(1.0)
    assert measured.get("top1", 1.0) == measured.get("nearest_neighbour", 1.0) == 1.0


def test_cosine_is_blind_to_scale_and_max_abs_is_not(tmp_path: Path) -> None:
    measured = metrics.evaluate("vector", tmp_path, {"y": 3 * rows()}, {"y": rows()})
    assert measured["cosine_mean"] == pytest.approx(1.0)
    assert measured["max_abs"] == pytest.approx(2 * float(np.abs(rows()).max()), rel=1e-6)


def test_opposite_and_orthogonal_vectors_measure_minus_one_and_zero(tmp_path: Path) -> None:
    left = {"y": np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)}
    right = {"y": np.array([[-1.0, 0.0], [0.0, 1.0]], np.float32)}
    measured = metrics.evaluate("vector", tmp_path, left, right)
    assert (measured["cosine_mean"], measured["cosine_min"]) == (-0.5, -1.0)


def test_top1_counts_items_whose_best_class_stays(tmp_path: Path) -> None:
    expected = np.eye(4, dtype=np.float32)
    outputs = expected.copy()
    outputs[0] = [0.4, 0.9, 0, 0]
    assert metrics.evaluate("classification", tmp_path, {"y": outputs}, {"y": expected})["top1"] == 0.75


def test_nearest_neighbour_counts_items_whose_closest_other_item_stays(tmp_path: Path) -> None:
    angles = np.array([0.0, 0.1, 1.0, 1.1])
    moved = np.array([0.0, 0.1, 1.0, 0.3])  # the last item now lies nearer to the second, and the third is alone

    def points(values: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(values), np.sin(values)], axis=1).astype(np.float32)

    measured = metrics.evaluate("embedding", tmp_path, {"y": points(moved)}, {"y": points(angles)})
    assert measured["nearest_neighbour"] == 0.75


def test_a_nan_in_the_outputs_is_an_infinite_difference() -> None:
    bad = rows()
    bad[3, 3] = np.nan
    assert metrics.max_abs({"y": bad}, {"y": rows()}) == math.inf


def test_max_abs_looks_at_every_output() -> None:
    assert metrics.max_abs({"a": rows(), "b": rows() + 1}, {"a": rows(), "b": rows()}) == pytest.approx(1.0)


EVALUATORS = """
import math, sys
def good(outputs, expected): return {"shift": float((outputs["y"] - expected["y"]).mean())}
def raises(outputs, expected): raise ValueError("inside")
def leaves(outputs, expected): sys.exit(0)
def nan(outputs, expected): return {"shift": math.nan}
def text(outputs, expected): return {"shift": "much"}
def nothing(outputs, expected): return None
"""


@pytest.fixture
def evaluators(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(EVALUATORS)
    return tmp_path


def test_a_users_evaluator_is_called_with_both_outputs(evaluators: Path) -> None:
    measured = metrics.evaluate("own.py:good", evaluators, {"y": rows() + 1}, {"y": rows()})
    assert measured["shift"] == pytest.approx(1.0)
    assert "max_abs" in measured


@pytest.mark.parametrize("function", ["raises", "leaves", "nan", "text", "nothing"])
def test_a_users_evaluator_that_fails_is_a_failed_step_that_names_it(evaluators: Path, function: str) -> None:
    with pytest.raises(StepError, match=f"own.py:{function}"):
        metrics.evaluate(f"own.py:{function}", evaluators, {"y": rows()}, {"y": rows()})


@pytest.mark.parametrize("name", ["cosine", "own.py:absent", "absent.py:good"])
def test_an_unknown_evaluator_is_a_usage_error(evaluators: Path, name: str) -> None:
    with pytest.raises(UsageError):
        metrics.evaluate(name, evaluators, {"y": rows()}, {"y": rows()})
