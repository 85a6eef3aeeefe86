"""A checkpoint is loaded whole or not at all: what is missing, misshapen, not finite or cut off is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_parts import decoder

from hwc.capture import causal_lm, checkpoint, greedy
from hwc.errors import IntegrityError, UsageError

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that loads. Read it, never change it."""
    folder = tmp_path_factory.mktemp("honest")
    decoder("llama").save_pretrained(folder, safe_serialization=True)
    return folder


def changed(honest: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the folder with other tensors."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(honest, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_an_honest_checkpoint_is_mapped_and_nothing_is_told(honest: Path) -> None:
    model, unknown = causal_lm.load(honest)
    assert unknown == []
    assert checkpoint.in_float32(honest, honest / "unused") == honest
    assert model.get_input_embeddings().num_embeddings == 50


def test_missing_tensors_are_named(honest: Path, tmp_path: Path) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        for name in [UP, UP.replace("up", "down"), UP.replace("up", "gate"), "model.norm.weight"]:
            del tensors[name]

    with pytest.raises(IntegrityError, match=r"lacks tensors .*layers\.1\.mlp\.down_proj.* and 1 more"):
        causal_lm.load(changed(honest, tmp_path / "model", drop))


def test_a_head_that_is_tied_may_be_absent_and_one_that_is_not_may_not(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "model")
    config = json.loads((honest / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(IntegrityError, match=r"lacks tensor `lm_head\.weight`"):
        causal_lm.load(tmp_path / "model")


def test_unknown_tensors_are_told_by_name(honest: Path, tmp_path: Path) -> None:
    import torch

    folder = changed(honest, tmp_path / "model", lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}))
    assert causal_lm.load(folder)[1] == ["score.weight"]


def test_a_tensor_of_another_shape_is_named_with_the_expected_one(honest: Path, tmp_path: Path) -> None:
    folder = changed(honest, tmp_path / "model", lambda tensors: tensors.update({UP: tensors[UP][:20]}))
    with pytest.raises(IntegrityError, match=r"shape of tensor `model\.layers\.1\.mlp\.up_proj\.weight` is .*24, 16"):
        causal_lm.load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_weight_that_is_not_finite_is_named(honest: Path, tmp_path: Path, bad: float, dtype: str) -> None:
    import torch

    def spoil(tensors: dict[str, Any]) -> None:
        tensors[UP][3, 4] = bad
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(getattr(torch, dtype))

    folder = changed(honest, tmp_path / "model", spoil)
    with pytest.raises(IntegrityError, match=r"layers\.1\.mlp\.up_proj\.weight` holds NaN or infinity"):
        causal_lm.load(checkpoint.in_float32(folder, tmp_path / "wide"))


@pytest.mark.parametrize("kept", [0.5, 0.001, 0.0])
def test_a_file_that_is_cut_off_is_refused(honest: Path, tmp_path: Path, kept: float) -> None:
    shutil.copytree(honest, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        checkpoint.in_float32(tmp_path / "model", tmp_path / "wide")


def split(honest: Path, folder: Path) -> Path:
    """Return a copy of the folder whose weights lie in two files under an index."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(honest, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-{1 + number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file, {"format": "pt"})
    (folder / checkpoint.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_weights_in_several_files_are_read_and_a_file_that_is_missing_is_named(honest: Path, tmp_path: Path) -> None:
    import torch

    folder = split(honest, tmp_path / "model")
    whole, parts = causal_lm.load(honest)[0], causal_lm.load(checkpoint.in_float32(folder, tmp_path / "wide"))[0]
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"missing: model-2\.safetensors"):
        checkpoint.files(folder)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": "../elsewhere.safetensors"}}'])
def test_an_index_that_is_none_or_points_outside_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "elsewhere.safetensors").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / checkpoint.INDEX).write_text(index)
    with pytest.raises(IntegrityError):
        checkpoint.files(tmp_path / "model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_floats_are_widened_to_the_values_torch_gives(honest: Path, tmp_path: Path, dtype: str) -> None:
    import torch

    def narrow(tensors: dict[str, Any]) -> None:
        tensors.update({name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()})

    folder = changed(honest, tmp_path / "model", narrow)
    ready = checkpoint.in_float32(folder, tmp_path / "wide")
    assert ready == tmp_path / "wide"
    direct, widened = causal_lm.load(folder)[0], causal_lm.load(ready)[0]
    for one, other in zip(direct.parameters(), widened.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)


def tokenizer(folder: Path, tokens: int) -> Path:
    from tokenizers import Tokenizer, models

    folder.mkdir()
    Tokenizer(models.BPE(vocab={chr(97 + at): at for at in range(tokens)}, merges=[])).save(
        str(folder / "tokenizer.json")
    )
    return folder


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    model = decoder("llama")
    (tmp_path / "out").mkdir()
    greedy.record(model, tokenizer(tmp_path / "own", 50), "abc", 4, tmp_path / "out")
    assert len(greedy.load(tmp_path / "out").tokens) == 4
    with pytest.raises(IntegrityError, match="has token 50, the model 50 tokens"):
        greedy.record(model, tokenizer(tmp_path / "other", 51), "abc", 4, tmp_path / "out")


def test_a_missing_or_damaged_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        greedy.record(decoder("llama"), tmp_path, "abc", 4, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not a tokenizer"):
        greedy.record(decoder("llama"), tmp_path, "abc", 4, tmp_path)


@pytest.mark.slow
def test_the_exported_weights_are_views_of_the_file(honest: Path) -> None:
    model, _ = causal_lm.load(honest)
    _, outside = causal_lm.export(model)
    held = [weight.detach().numpy() for weight in model.parameters()]
    large = [value for value in outside.values() if value.size >= 256]
    assert len(large) >= 3 * 7
    for value in large:
        assert any(np.shares_memory(value, one) for one in held)
