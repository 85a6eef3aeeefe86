"""The calls a language model is checked by: windows where a shape scores them, else every shape once a window."""

from __future__ import annotations

import numpy as np

from hwc.capture import calls
from hwc.capture.windows import Window
from hwc.spec.generation import GenerationSpec

SPEC = GenerationSpec(context_tokens=64, prefill_tokens=(8, 16), score_tokens=16)
FULL, FUNCTIONAL = (SPEC.layout()[name] for name in ("buckets", "functional_buckets"))


def windows(tokens: int, count: int = 3) -> list[Window]:
    return [
        Window(domain="d", ids=np.arange(number * tokens, (number + 1) * tokens, dtype=np.int64))
        for number in range(count)
    ]


def test_full_shapes_score_windows_of_their_own_length_and_call_each_other_shape_once() -> None:
    assert calls.window_tokens(FULL) == 16
    made = calls.make(FULL, windows(16), context_tokens=64)
    assert [case.items for case in made[:3]] == [(0,), (1,), (2,)]
    assert [case.bucket["sequence"] for case in made[3:]] == [16, 8, 1]


def test_functional_shapes_score_nothing_and_are_called_once_a_window_each_on_text_of_its_own() -> None:
    assert [bucket["sequence"] for bucket in FUNCTIONAL] == [1, 8]
    assert calls.scoring_bucket(FUNCTIONAL) is None
    assert calls.window_tokens(FUNCTIONAL) == 8
    made = calls.make(FUNCTIONAL, windows(8), context_tokens=64)
    assert [case.bucket["sequence"] for case in made] == [8, 1] * 3
    assert all(case.items == () for case in made)
    firsts = [case.feeds["input_ids"][0, 0] for case in made if case.bucket["sequence"] == 8]
    assert firsts == [0, 8, 16]


def test_a_decode_stands_behind_the_prefill_before_it() -> None:
    for buckets in (FULL, FUNCTIONAL):
        longest = max(bucket["sequence"] for bucket in buckets)
        made = calls.make(buckets, windows(longest), context_tokens=1024)
        decodes = [case for case in made if case.bucket["sequence"] == 1]
        assert all(case.feeds["start"].tolist() == [longest] for case in decodes)


def test_a_decode_fits_a_cache_no_longer_than_the_longest_call() -> None:
    made = calls.make(FULL, windows(16), context_tokens=16)
    assert [case.feeds["start"].tolist() for case in made if case.bucket["sequence"] == 1] == [[15]]


def test_a_prefill_of_one_token_is_no_second_functional_shape() -> None:
    spec = GenerationSpec(context_tokens=8, prefill_tokens=(1,), score_tokens=4)
    assert spec.layout()["functional_buckets"] == [{"batch": 1, "sequence": 1, "logits": 1}]
