"""GGUF files become Hugging Face folders: the same model, to the bit where the file holds it to the bit."""

from __future__ import annotations

import json
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from gguf_parts import VOCABULARY, byte_level_vocabulary, tiny_config, tiny_model, write_model
from hwc import gguf_file
from hwc.capture import gguf_tensors
from hwc.capture.arrived import CODES, write
from hwc.capture.gguf import arrived, to_folder
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.gguf_types import TYPES
from hwc.quantise import codes as canonical
from hwc.spec.from_gguf import describe


def logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(3, 35).reshape(2, 16)  # longer than Gemma's window
    with torch.no_grad():
        return model(input_ids=tokens).logits


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def folder_of(path: Path) -> Path:
    out = path.parent / f"{path.stem}-folder"
    to_folder([path], out)
    return out


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", {"attention_bias": True}),
        ("llama", {"head_dim": 32}),
        ("qwen2", {}),
        ("qwen3", {"rope_theta": 1e6}),
        ("gemma3", {}),
        ("gemma3", {"num_hidden_layers": 2, "num_key_value_heads": 1}),
    ],
    ids=["llama", "llama tied", "llama biased", "llama wide heads", "qwen2", "qwen3", "gemma3", "gemma3 short"],
)
def test_a_float_file_gives_the_model_it_was_made_from(tmp_path: Path, architecture: str, change: dict) -> None:
    model = tiny_model(tiny_config(architecture, **change))
    found = loaded(folder_of(write_model(model, tmp_path / "tiny.gguf")))
    weights, expected = found.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    exact = architecture != "gemma3"  # 1 + weight was rounded once, in the file
    for name, value in expected.items():
        assert torch.allclose(weights[name], value, rtol=0, atol=0 if exact else 1e-6), name
    assert torch.allclose(logits(found), logits(model), rtol=0, atol=0 if exact else 2e-4)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_a_quantised_file_gives_the_weights_that_transformers_reads_from_it(tmp_path: Path, kind: str) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", kind=kind)
    ours = loaded(folder_of(path)).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_codes_lie_beside_a_capture_and_decode_to_its_weights(tmp_path: Path, kind: str) -> None:
    model = tiny_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[:3] = 0.25  # groups of one value: scale 0 and an offset in Q4_1
    path = write_model(model, tmp_path / "tiny.gguf", kind=kind)
    weights = load_file(folder_of(path) / "model.safetensors")
    found = arrived([path])
    assert {one.type for one in found} == {kind}
    write(found, tmp_path)
    kept = canonical.load(tmp_path / CODES)
    assert kept.keys() == {name.removesuffix(".weight") for name, value in weights.items() if value.ndim == 2}
    for layer, codes in kept.items():
        assert (codes.scales != 0).all() or kind != "Q4_1"
        assert np.array_equal(canonical.dequantise(codes), weights[f"{layer}.weight"]), layer


def test_weights_of_other_types_are_listed_without_codes_and_float_ones_are_not(tmp_path: Path) -> None:
    config = tiny_config("llama")
    listed = {}
    for kind in ("Q5_1", "F16"):
        path = write_model(tiny_model(config), tmp_path / f"{kind}.gguf", kind=kind)
        listed[kind] = {(one.type, one.kept) for one in arrived([path])}
    assert listed == {"Q5_1": {("Q5_1", None)}, "F16": set()}


def test_parts_of_a_file_are_read_as_one(tmp_path: Path) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", kind="Q4_1")
    payload = path.read_bytes()
    cuts = [0, 10, 10, 5000, len(payload) - 3000, len(payload)]  # the second part is empty, the last cuts a tensor
    parts = []
    for number, (start, end) in enumerate(pairwise(cuts)):
        parts.append(tmp_path / f"part{number}")
        parts[-1].write_bytes(payload[start:end])
    to_folder(parts, tmp_path / "joined")
    for file in sorted(folder_of(path).iterdir()):
        assert (tmp_path / "joined" / file.name).read_bytes() == file.read_bytes(), file.name
    assert describe(parts).parameters == describe([path]).parameters


def test_weights_read_in_small_pieces_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", kind="Q8_0")
    to_folder([path], tmp_path / "whole")
    monkeypatch.setattr(gguf_tensors, "CHUNK_VALUES", 200)
    to_folder([path], tmp_path / "pieces")
    weights = "model.safetensors"
    assert (tmp_path / "pieces" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_memory_does_not_grow_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tensors, "CHUNK_VALUES", 1 << 14)
    path = write_model(tiny_model(tiny_config("llama", intermediate_size=16384)), tmp_path / "tiny.gguf")
    tracemalloc.start()
    try:
        to_folder([path], tmp_path / "out")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 25e6
    assert peak_bytes < 5e6


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_rope_divisors_become_its_rope_scaling(tmp_path: Path, factor: float) -> None:
    config = tiny_config("llama", rope_theta=5e5, head_dim=64, rope_scaling={**LLAMA3_ROPE, "factor": factor})
    model = tiny_model(config)
    scaled = model.model.rotary_emb.inv_freq.double()
    plain = 5e5 ** (-torch.arange(0, 64, 2).double() / 64)
    path = with_tensor(tmp_path, model, "rope_freqs.weight", (plain / scaled).float().numpy())
    found = loaded(folder_of(path))
    assert found.config.rope_scaling == {**LLAMA3_ROPE, "factor": factor}
    assert torch.equal(logits(found), logits(model))


def test_rope_divisors_of_another_rule_are_refused(tmp_path: Path) -> None:
    path = with_tensor(
        tmp_path, tiny_model(tiny_config("llama")), "rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32)
    )
    with pytest.raises(UsageError, match="rope frequencies"):
        to_folder([path], tmp_path / "out")


def with_tensor(folder: Path, model: Any, name: str, value: np.ndarray) -> Path:
    """Write a model with a tensor more, which the map of names passes through."""
    state = {**model.state_dict(), name: torch.from_numpy(value)}
    original = gguf.TensorNameMap.get_name

    def get_name(self: Any, key: str, try_suffixes: Any = ()) -> str | None:
        return key if key == name else original(self, key, try_suffixes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "state_dict", lambda: state)
        patch.setattr(gguf.TensorNameMap, "get_name", get_name)
        return write_model(model, folder / "more.gguf")


def test_a_tensor_the_architecture_does_not_know_is_refused_rather_than_left_out(tmp_path: Path) -> None:
    path = with_tensor(
        tmp_path, tiny_model(tiny_config("llama")), "blk.0.attn_sub_norm.weight", np.ones(64, np.float32)
    )
    with pytest.raises(UsageError, match=r"blk\.0\.attn_sub_norm\.weight"):
        to_folder([path], tmp_path / "out")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0},
         {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ({"gemma3.attention.sliding_window_pattern": 3}, {"sliding_window_pattern": 3}),
        ({"gemma3.final_logit_softcapping": 30.0}, {"final_logit_softcapping": 30.0}),
        ({"gemma3.rope.freq_base_swa": 5e4}, {"rope_local_base_freq": 5e4}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_the_file_says_of_gemma_is_kept(tmp_path: Path, metadata: dict, expected: dict) -> None:
    path = write_model(tiny_model(tiny_config("gemma3")), tmp_path / "tiny.gguf", **metadata)
    found = json.loads((folder_of(path) / "config.json").read_text())
    assert {key: found[key] for key in expected} == expected
    pattern = metadata.get("gemma3.attention.sliding_window_pattern", 6)
    assert [kind == "full_attention" for kind in found["layer_types"]] == [(n + 1) % pattern == 0 for n in range(7)]


def test_every_token_that_ends_a_text_stops_generation(tmp_path: Path) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", **{"tokenizer.ggml.eot_token_id": 7})
    found = json.loads((folder_of(path) / "generation_config.json").read_text())
    assert found == {"bos_token_id": 1, "eos_token_id": [2, 7, 0], "pad_token_id": 0}
    assert loaded(path.parent / "tiny-folder").generation_config.eos_token_id == [2, 7, 0]


def test_a_file_is_described_from_its_header(tmp_path: Path) -> None:
    model = tiny_model(tiny_config("qwen3"))
    extra = {"general.name": "Tiny", "general.license": "mit", "tokenizer.chat_template": "{{ messages }}"}
    path = write_model(model, tmp_path / "tiny.gguf", kind="Q8_0", **extra)
    facts = describe([path])
    counted = sum(value.numel() for value in model.state_dict().values())
    assert (facts.name, facts.architecture, facts.licence, facts.chat) == ("Tiny", "qwen3", "mit", True)
    assert (facts.parameters, facts.context_tokens, facts.blocks, facts.vocabulary) == (counted, 128, 2, VOCABULARY)
    assert list(facts.parameters_by_type) == ["Q8_0", "F32"]
    assert sum(facts.parameters_by_type.values()) == counted
    assert facts.stored_bytes < path.stat().st_size < facts.stored_bytes + 20_000


def test_a_file_that_names_neither_itself_nor_its_licence_is_described(tmp_path: Path) -> None:
    facts = describe([write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf")])
    assert (facts.name, facts.licence, facts.chat) == ("tiny", "unknown", False)


def test_without_the_package_gguf_a_file_is_described_but_its_weights_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    describe([path])
    with pytest.raises(MachineError) as caught:
        to_folder([path], tmp_path / "out")
    assert caught.value.hint == "pip install gguf"


def test_the_table_of_types_is_that_of_the_package_gguf() -> None:
    for number, kind in TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.block_values, kind.block_bytes)) == (theirs.name, gguf.GGML_QUANT_SIZES[theirs])


def test_the_header_says_what_the_package_gguf_reads(tmp_path: Path) -> None:
    path = write_model(tiny_model(tiny_config("gemma3")), tmp_path / "tiny.gguf", kind="Q4_0")
    ours, theirs = gguf_file.read([path]), gguf.GGUFReader(path)
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.shape == tuple(reversed(tensor.shape.tolist()))
        assert (found.offset_bytes, found.stored_bytes) == (tensor.data_offset, tensor.n_bytes)
    assert len(ours.tensors) == len(theirs.tensors)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = ours.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llama.block_count": 3}, "no tensor `blk.2."),
        ({"llama.feed_forward_length": 128}, r"has shape \[96, 64\]"),
        ({"llama.attention.head_count": 3}, "sizes that no model has"),
        ({"llama.block_count": 4_000_000_000}, "block_count"),
        ({"llama.embedding_length": 0}, "embedding_length"),
        ({"llama.context_length": "long"}, "must be a count"),
        ({"llama.rope.freq_base": float("nan")}, "above zero"),
        ({"tokenizer.ggml.eos_token_id": VOCABULARY}, "past the end of the vocabulary"),
        ({"tokenizer.ggml.tokens": ["a"] * VOCABULARY}, "twice"),
        (
            {"tokenizer.ggml.tokens": list(map(str, range(289))), "tokenizer.ggml.token_type": [1] * 289},
            "289 tokens for 288 rows",
        ),
        ({"tokenizer.ggml.merges": ["he"]}, "not two tokens"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "cannot be built"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "array of 288 numbers"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_a_file_that_contradicts_itself_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict, message: str
) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", **change)
    with pytest.raises(IntegrityError, match=message):
        to_folder([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer not supported: bert"),
        ({"tokenizer.ggml.pre": "gpt-4o"}, "pre-tokenizer not supported: gpt-4o"),
        ({"split.count": 3}, "one shard"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_what_is_not_supported_is_said_before_anything_is_written(tmp_path: Path, change: dict, message: str) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", **change)
    with pytest.raises(UsageError, match=message):
        to_folder([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path, kind: str, bad: float) -> None:
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", kind=kind)
    tensor = gguf_file.read([path]).tensors["blk.1.ffn_up.weight"]
    payload = bytearray(path.read_bytes())
    value = np.array([bad], "<f4" if kind == "F32" else "<f2").tobytes()  # a weight, or the scale of a group
    place = tensor.offset_bytes + tensor.row_bytes * 3
    payload[place : place + len(value)] = value
    path.write_bytes(payload)
    with pytest.raises(IntegrityError, match=r"blk\.1\.ffn_up\.weight.*NaN or infinity"):
        to_folder([path], tmp_path / "out")
    if kind == "Q8_0":
        with pytest.raises(IntegrityError, match=r"blk\.1\.ffn_up\.weight"):
            write(arrived([path]), tmp_path)


def test_the_folders_tokenizer_is_the_files(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    extra = {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": "{{ messages[0]['content'] }}!"}
    path = write_model(tiny_model(tiny_config("llama")), tmp_path / "tiny.gguf", **extra)
    tokenizer = AutoTokenizer.from_pretrained(folder_of(path))
    names = byte_level_vocabulary()["tokenizer.ggml.tokens"]
    found = tokenizer("hello w<|im_end|>")
    assert [names[token] for token in found["input_ids"]] == ["<|im_start|>", "hell", "o", "Ġw", "<|im_end|>"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == tuple(names[i] for i in (1, 2, 0))
    assert list(found) == ["input_ids", "attention_mask"]
    message = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "hello!"
