"""Token windows are whole, of one passage each, begun as the tokenizer begins a text, and balanced over domains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwc import digest
from hwc.capture.windows import Passage, Window, open_tokenizer, read_passages, windows
from hwc.errors import IntegrityError, UsageError

BOS, EOS = 0, 1


def save_tokenizer(folder: Path, template: str, *, truncate: bool = False) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = {"<bos>": BOS, "<eos>": EOS, **{f"w{number}": number + 2 for number in range(100)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    if truncate:
        tokenizer.enable_truncation(max_length=4)
        tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def words(first: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


def cut(folder: Path, passages: list[Passage], tokens: int, template: str = "<bos> $A", **given: int) -> list[Window]:
    return windows(passages, open_tokenizer(save_tokenizer(folder, template)), tokens=tokens, **given)


def test_every_window_begins_with_bos_and_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    found = cut(tmp_path, [Passage(domain="a", text=words(0, 11))], 5)
    assert [list(window.ids) for window in found] == [[BOS, 2, 3, 4, 5], [BOS, 6, 7, 8, 9]]
    assert all(window.ids.dtype == np.int64 for window in found)


def test_a_tokenizer_without_bos_gives_windows_of_text_alone(tmp_path: Path) -> None:
    found = cut(tmp_path, [Passage(domain="a", text=words(0, 4))], 4, template="$A <eos>")
    assert [list(window.ids) for window in found] == [[2, 3, 4, 5]]


def test_no_window_mixes_passages_and_first_windows_come_first(tmp_path: Path) -> None:
    passages = [
        Passage(domain="a", text=words(0, 8)),
        Passage(domain="b", text=words(20, 3)),  # too short for a window
        Passage(domain="c", text=words(40, 9)),
    ]
    found = cut(tmp_path, passages, 5, count=4)
    assert [(window.domain, int(window.ids[1]) - 2) for window in found] == [("a", 0), ("c", 40), ("a", 4), ("c", 44)]


def test_too_little_text_is_told_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibration text too short: 5 tokens in windows of 5, 15 needed"):
        cut(tmp_path, [Passage(domain="a", text=words(0, 7))], 5, count=3)
    with pytest.raises(UsageError, match="calibration text too short: 0 tokens"):
        cut(tmp_path, [], 5)


def test_a_window_that_special_tokens_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no room for text"):
        cut(tmp_path, [Passage(domain="a", text=words(0, 7))], 1)


def test_a_tokenizers_own_truncation_and_padding_are_switched_off(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(save_tokenizer(tmp_path, "<bos> $A", truncate=True))
    assert len(tokenizer.encode(words(0, 30)).ids) == 31


def test_a_missing_and_a_damaged_tokenizer_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(IntegrityError, match="not a tokenizer"):
        open_tokenizer(tmp_path)


def test_json_lines_and_plain_text_are_read(tmp_path: Path) -> None:
    rows = [{"domain": "code", "text": "x\n\n y\u2028z"}, {"domain": "novel", "text": "Ü"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_passages(tmp_path / "a.jsonl", None) == [Passage(**row) for row in rows]
    (tmp_path / "a.txt").write_text("One\nline.\n\n\nTwo.\n")
    assert [passage.text for passage in read_passages(tmp_path / "a.txt", None)] == ["One\nline.", "Two."]


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "x"}', '{"domain": 1, "text": "x"}', "[" * 100_000])
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"domain": "a", "text": "x"}\n' + line)
    with pytest.raises(UsageError) as caught:
        read_passages(tmp_path / "a.jsonl", None)
    assert caught.value.where.endswith("a.jsonl:2")


def test_other_bytes_than_pinned_and_invalid_utf8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"ok \xff")
    with pytest.raises(IntegrityError, match="not what the specification pins"):
        read_passages(file, digest.of_bytes(b"other"))
    with pytest.raises(UsageError, match="not UTF-8: byte 3"):
        read_passages(file, digest.of_bytes(b"ok \xff"))
    with pytest.raises(UsageError, match="cannot read the text"):
        read_passages(tmp_path / "absent.txt", None)
