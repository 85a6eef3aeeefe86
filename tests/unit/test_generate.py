"""Tokens from static shapes and a cache are those of the whole sequence computed anew, whatever the prompt's length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation_parts import (
    BOS,
    END_OF_TURN,
    EOS,
    VOCABULARY,
    CachedSession,
    CausalModel,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
    function,
    save_tokenizer,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hwc.errors import IntegrityError, UsageError
from hwc.program import Function
from hwc.runtime import prefill
from hwc.runtime.generate import Generator, Step
from hwc.runtime.language import Language, Options
from hwc.runtime.sampling import Sampling
from hwc.runtime.stopping import StopTexts
from hwc.runtime.tokens import Detokeniser, Tokens

MODEL = CausalModel()
CONTEXT = 40


def generator(
    lengths: Sequence[int] = (1, 8, 16), *, batch: int = 1, context: int = CONTEXT, eos_ids: Sequence[int] = (),
    extra: Sequence[Function] = (),
) -> tuple[Generator, CachedSession]:
    functions = [*extra, *(function(batch, length) for length in lengths)]
    session = CachedSession(MODEL, functions, context)
    return Generator(session, functions, batch=batch, context_tokens=context, eos_ids=eos_ids), session


def row(steps: Sequence[Step], place: int = 0) -> list[int]:
    return [token for step in steps if (token := step.tokens[place]) is not None]


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCABULARY, length)]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, CONTEXT), lengths=st.sets(st.integers(2, 24), max_size=3), context=st.integers(24, CONTEXT),
    scoring=st.booleans(), seed=st.integers(0, 5),
)
def test_any_prompt_through_any_shapes_is_continued_as_the_whole_sequence_would_be(
    length: int, lengths: set[int], context: int, scoring: bool, seed: int
) -> None:
    length = min(length, context)
    extra = [function(1, length, length) for length in lengths] if scoring else []
    made, _ = generator(sorted({1, *lengths}), context=context, extra=extra)
    prompt = prompt_of(length, seed)
    steps = list(made.stream([prompt], max_new_tokens=min(4, made.room(length))))
    assert row(steps) == MODEL.greedy(prompt, len(steps))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(3, 4))
def test_rows_side_by_side_do_not_see_each_other(lengths: list[int], batch: int) -> None:
    made, _ = generator((1, 8), batch=batch)
    prompts = [prompt_of(length, seed) for seed, length in enumerate(lengths)]
    steps = list(made.stream(prompts, max_new_tokens=5))
    for place, prompt in enumerate(prompts):
        assert row(steps, place) == MODEL.greedy(prompt, 5)


def test_a_new_sequence_does_not_see_the_one_before_it() -> None:
    made, _ = generator()
    list(made.stream([prompt_of(30, 1)]))
    assert row(list(made.stream([prompt_of(5, 2)], max_new_tokens=6))) == MODEL.greedy(prompt_of(5, 2), 6)


def test_a_row_ends_at_an_end_token_and_the_others_go_on() -> None:
    prompts = [prompt_of(3, 4), prompt_of(6, 5)]
    free = MODEL.greedy(prompts[0], 8)
    end = next(token for place, token in enumerate(free) if place and token not in MODEL.greedy(prompts[1], 8))
    made, _ = generator(batch=2, eos_ids=[end])
    steps = list(made.stream(prompts, max_new_tokens=8))
    assert row(steps, 0) == free[: free.index(end) + 1]
    assert row(steps, 1) == MODEL.greedy(prompts[1], 8)
    assert steps[-1].finish == ("stop", "length")


def test_a_full_cache_ends_a_row_after_the_token_that_needs_no_place() -> None:
    made, _ = generator()
    steps = list(made.stream([prompt_of(CONTEXT - 2)]))
    assert len(steps) == made.room(CONTEXT - 2) == 3
    assert steps[-1].finish == ("context",)
    assert row(steps) == MODEL.greedy(prompt_of(CONTEXT - 2), 3)
    assert list(made.stream([prompt_of(CONTEXT)]))[-1].finish == ("context",)


def test_a_prompt_takes_the_shape_with_the_fewest_logits() -> None:
    made, session = generator((1, 16), extra=[function(1, 16, 16)])
    list(made.stream([prompt_of(18)], max_new_tokens=3))
    assert session.calls == ["b1_s16_l1", *["b1_s1_l1"] * 4]


def test_the_first_step_includes_the_prefill_and_times_are_of_each_step_alone() -> None:
    made, session = generator()
    stream = made.stream([prompt_of(9)], max_new_tokens=2)
    assert session.calls == []
    first = next(stream)
    assert session.calls
    assert first.wall_s > 0


def test_chance_is_the_seeds_and_not_the_batchs() -> None:
    sampling = Sampling(temperature=1.5, top_k=50, seed=11)
    one, _ = generator()
    two, _ = generator((1, 4), batch=2)
    alone = row(list(one.stream([prompt_of(5)], max_new_tokens=10, sampling=sampling)))
    assert row(list(two.stream([prompt_of(5), prompt_of(7)], max_new_tokens=10, sampling=sampling))) == alone
    assert alone != MODEL.greedy(prompt_of(5), 10)


@pytest.mark.parametrize(
    ("prompt", "most", "words"),
    [
        ([], None, "empty"),
        (prompt_of(CONTEXT + 1), None, r"41 tokens, the cache holds 40"),
        (prompt_of(30), 12, r"12 new tokens do not fit: the prompt has 30, the cache holds 40"),
        (prompt_of(3), 0, "0 new tokens"),
        ([1, VOCABULARY], None, f"token {VOCABULARY} is not in the vocabulary"),
        ([-1], None, "token -1"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers_before_anything_runs(
    prompt: list[int], most: int | None, words: str
) -> None:
    made, session = generator()
    with pytest.raises(UsageError, match=words):
        made.stream([prompt], max_new_tokens=most)
    assert session.calls == []


def test_a_generation_that_lost_its_cache_to_another_is_told_so() -> None:
    made, _ = generator()
    first = made.stream([prompt_of(4)])
    next(first)
    next(made.stream([prompt_of(6)]))
    with pytest.raises(UsageError, match="took over the cache"):
        next(first)


def test_an_artefact_without_a_decode_function_is_refused() -> None:
    with pytest.raises(IntegrityError, match="decodes one token for 1 rows"):
        generator((8,))


@given(st.integers(1, 600), st.sets(st.integers(1, 128), min_size=1, max_size=4), st.integers(0, 200))
def test_chunks_cover_the_prompt_in_order_and_stay_inside_the_cache(
    tokens: int, lengths: set[int], spare: int
) -> None:
    context = max(tokens + spare, min(lengths))
    chunks = prefill.plan(tokens, lengths, context)
    ends = [chunk.start + chunk.length for chunk in chunks]
    assert chunks[0].start == 0
    assert all(
        after.start <= before.start + before.length < after.start + after.length for before, after in pairwise(chunks)
    )
    assert ends[-1] >= tokens
    assert max(ends) <= context
    assert {chunk.length for chunk in chunks} <= lengths


@pytest.mark.parametrize(
    ("tokens", "laid"),
    [
        (128, [(0, 128)]),
        (300, [(0, 128), (128, 128), (256, 128)]),
        (130, [(0, 128), (128, 1), (129, 1)]),
        (60, [(0, 128)]),
        (250, [(0, 128), (128, 128)]),
    ],
)
def test_a_few_tokens_are_decoded_and_many_are_filled_up(tokens: int, laid: list[tuple[int, int]]) -> None:
    assert [(chunk.start, chunk.length) for chunk in prefill.plan(tokens, (1, 128), 1024)] == laid


def test_a_chunk_that_would_leave_the_cache_begins_earlier() -> None:
    chunks = prefill.plan(190, (1, 128), 200)
    assert [(chunk.start, chunk.length) for chunk in chunks] == [(0, 128), (72, 128)]


FALLBACK = byte_fallback_tokenizer(strip=False)
STRIPPING = byte_fallback_tokenizer(strip=True)


@pytest.fixture(scope="module", params=["byte-level", "byte-fallback", "byte-fallback-strip"])
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    known = {"byte-level": byte_level_tokenizer(), "byte-fallback": FALLBACK, "byte-fallback-strip": STRIPPING}
    return Tokens(save_tokenizer(known[request.param], tmp_path_factory.mktemp("tokenizer")))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_pieces_together_are_the_text_of_all_tokens(tokens: Tokens, data: st.DataObject) -> None:
    texts = st.text("ab é€🙂\ufffd\n", max_size=12).map(lambda text: tokens.encode(text, special=False))
    anything = st.lists(st.integers(0, tokens._tokenizer.get_vocab_size() - 1), max_size=12)
    ids = [token for part in data.draw(st.lists(texts | anything, max_size=4)) for token in part]
    characters = Detokeniser(tokens)
    pieces = [characters.take(token) for token in ids]
    assert "".join(pieces) + characters.close() == tokens.decode(ids)


def test_text_comes_as_soon_as_a_character_is_whole(tmp_path: Path) -> None:
    tokens = Tokens(save_tokenizer(byte_level_tokenizer(), tmp_path))
    characters = Detokeniser(tokens)
    pieces = [characters.take(token) for token in tokens.encode("a é🙂", special=False)]
    assert pieces == ["a", " ", "", "é", "", "", "", "🙂"]


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.data())
def test_text_ends_before_the_first_stop_text_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=4)) | {0, len(text)})
    stop = StopTexts(stops)
    found = "".join(stop.take(text[a:b]) for a, b in pairwise(cuts)) + stop.close()
    ends = [(text.find(word) + len(word), text.find(word)) for word in stops if word in text]
    assert found == (text[: min(ends)[1]] if ends else text)
    assert (stop.hit is not None) == bool(ends)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopTexts([""])


@pytest.fixture
def language(tmp_path: Path) -> Language:
    functions = [function(1, 1), function(1, 8), function(2, 1), function(2, 8)]
    session = CachedSession(MODEL, functions, 64)
    tokens = Tokens(save_tokenizer(byte_level_tokenizer(), tmp_path))
    return Language(session, functions, {"context_tokens": 64, "eos_ids": [EOS, END_OF_TURN]}, tokens, None)


def test_a_text_is_continued_as_its_pieces_say(language: Language) -> None:
    stream = language.stream("hello", Options(max_new_tokens=12))
    pieces = list(stream)
    found = stream.result()
    assert "".join(pieces) == found.text
    assert list(found.token_ids) == MODEL.greedy(language.encode("hello"), 12, [EOS, END_OF_TURN])
    assert found.prompt_tokens == 6
    assert len(found.timings.itl_s) == len(found.token_ids) - 1
    assert found.timings.tokens_per_s is not None


def test_many_prompts_are_answered_as_one_by_one(language: Language) -> None:
    prompts = ["one", "two two", "three three three"]
    together = language.generate(prompts, Options(max_new_tokens=9))
    alone = [language.generate([prompt], Options(max_new_tokens=9))[0] for prompt in prompts]
    assert [(row.text, row.token_ids, row.finish) for row in together] == [
        (row.text, row.token_ids, row.finish) for row in alone
    ]


def test_a_stop_text_ends_the_answer_before_it(language: Language) -> None:
    whole = language.generate(["hello"], Options(max_new_tokens=12))[0].text
    stop = whole[4:6]
    found = language.generate(["hello"], Options(max_new_tokens=12, stop=(stop,)))[0]
    assert found.text == whole[: whole.find(stop)]
    assert found.finish == "stop"


def test_an_answer_that_is_not_read_to_its_end_is_told_as_far_as_it_went(language: Language) -> None:
    stream = language.stream("hello", Options(max_new_tokens=12))
    piece = next(iter(stream))
    found = stream.result()
    assert found.finish == "interrupted"
    assert found.text.startswith(piece)
    assert list(stream) == []


def test_prompts_are_texts_tokens_or_messages(language: Language) -> None:
    assert language.encode([BOS, 5]) == [BOS, 5]
    with pytest.raises(UsageError, match="no chat template"):
        language.encode([{"role": "user", "content": "hi"}])
    mixed: Any = [5, {"role": "user", "content": "hi"}]
    with pytest.raises(UsageError, match="not several"):
        language.encode(mixed)
    for empty in ("", []):
        with pytest.raises(UsageError, match="empty"):
            language.encode(empty)


def test_a_text_that_is_not_unicode_is_refused(language: Language) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        language.encode("caf\udce9")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    functions = [function(1, 1)]
    larger = byte_fallback_tokenizer(strip=False)
    tokens = Tokens(save_tokenizer(larger, tmp_path))
    with pytest.raises(IntegrityError, match="does not belong to the model"):
        Language(CachedSession(MODEL, functions, 8), functions, {"context_tokens": 8, "eos_ids": []}, tokens, None)


def test_a_damaged_tokenizer_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 5}))
    with pytest.raises(IntegrityError, match="not a tokenizer"):
        Tokens(tmp_path)
