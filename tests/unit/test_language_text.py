"""The shipped text for language models: evaluation and calibration are disjoint, balanced, and long enough."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from hwc.capture.windows import Passage, read_passages

DATA = Path(__file__).parents[2] / "models" / "data"
EVALUATION, CALIBRATION = DATA / "language-eval.jsonl", DATA / "language-calibration.jsonl"


def runs(passages: list[Passage], length: int) -> set[tuple[str, ...]]:
    found = set()
    for passage in passages:
        words = re.findall(r"\w+", passage.text.lower())
        found |= {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}
    return found


def shared(left: list[Passage], right: list[Passage], length: int) -> float:
    """Return the share of the left one's runs of words that the right one has too."""
    mine = runs(left, length)
    return len(mine & runs(right, length)) / len(mine)


def test_evaluation_and_calibration_share_no_run_of_eight_words() -> None:
    evaluation, calibration = read_passages(EVALUATION, None), read_passages(CALIBRATION, None)
    assert len(runs(evaluation, 8)) > 8000
    assert shared(evaluation, calibration, 8) == 0.0
    assert shared(evaluation, calibration, 5) < 0.01  # 0.0040: idioms such as "and it came to pass"


def test_a_shared_sentence_would_be_seen() -> None:
    evaluation = read_passages(EVALUATION, None)
    assert shared(evaluation, [evaluation[3]], 8) > 0


@pytest.mark.parametrize("file", [EVALUATION, CALIBRATION], ids=["evaluation", "calibration"])
def test_no_passage_repeats_another(file: Path) -> None:
    counted = Counter(run for passage in read_passages(file, None) for run in runs([passage], 8))
    assert set(counted.values()) == {1}


@pytest.mark.parametrize(("file", "each", "least"), [(EVALUATION, 24, 700), (CALIBRATION, 32, 1400)])
def test_any_first_lines_hold_the_domains_alike(file: Path, each: int, least: int) -> None:
    passages = read_passages(file, None)
    assert [passage.domain for passage in passages] == ["scripture", "novel", "documentation", "code"] * each
    assert min(len(passage.text) for passage in passages) >= least
