"""compressed-tensors folders are read to the bit, and what is damaged or not supported is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import decoder
from safetensors.numpy import load_file

from compressed_parts import Given, change_config, change_tensors, pack, write
from hwc.capture import arrived, causal_lm, compressed
from hwc.errors import IntegrityError, UsageError
from hwc.quantise import codes as canonical
from hwc.quantise.codes import dequantise
from hwc.spec import from_huggingface

UP = "model.layers.1.mlp.up_proj"
Form = tuple[str, int, bool, str]
"""Kind, group (0: an output channel), whether there are zero points, and the type of scales."""
FORMS: list[Form] = [
    ("int4", 32, False, "bfloat16"), ("int4", 64, True, "float16"), ("int4", 0, False, "bfloat16"),
    ("int8", 32, False, "bfloat16"), ("int8", 0, True, "bfloat16"), ("fp8", 0, False, "float32"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a decoder with float weights. Read it, never change it."""
    folder = tmp_path_factory.mktemp("plain")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    decoder("llama", **sizes, vocab_size=320).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A compressed folder to spoil."""
    shutil.copytree(plain, tmp_path / "model")
    write(tmp_path / "model", zeros=True)
    return tmp_path / "model"


def made(plain: Path, at: Path, form: Form) -> tuple[Path, Mapping[str, Given]]:
    kind, group, zeros, dtype = form
    shutil.copytree(plain, at)
    return at, write(at, kind, group=group, zeros=zeros, dtype=dtype)


def read(folder: Path) -> compressed.Checkpoint:
    found = compressed.read(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_weights_are_codes_times_scales_in_float32(form: Form, plain: Path, tmp_path: Path) -> None:
    folder, given = made(plain, tmp_path / "model", form)
    compressed.to_folder(read(folder), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    float_before = load_file(plain / "model.safetensors")
    assert weights.keys() == float_before.keys()
    for module, one in given.items():
        assert np.array_equal(weights[f"{module}.weight"], one.values(form[0])), module
    embedding = torch.from_numpy(float_before["model.embed_tokens.weight"]).to(getattr(torch, form[3])).float()
    assert np.array_equal(weights["model.embed_tokens.weight"], embedding.numpy())
    model, unknown = causal_lm.load(tmp_path / "out")
    assert unknown == []
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_codes_are_kept_and_stand_for_the_same_weights(form: Form, plain: Path, tmp_path: Path) -> None:
    folder, given = made(plain, tmp_path / "model", form)
    arrived.write(read(folder).arrived(), tmp_path)
    kept = canonical.load(tmp_path / arrived.CODES)
    assert kept.keys() == given.keys()
    for module, one in given.items():
        assert np.array_equal(kept[module].codes, one.codes)
        assert (kept[module].kind, kept[module].zeros is not None) == (form[0], form[2])
        group = 1 if form[0] == "fp8" else one.codes.shape[1] // kept[module].scales.shape[1]
        assert group in (1, 32, 64, 128)
        assert np.array_equal(dequantise(kept[module]), one.values(form[0]))


def test_reading_a_few_rows_at_a_time_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for size in (1 << 22, 300):
        monkeypatch.setattr("hwc.capture.compressed_modules.CHUNK_VALUES", size)
        monkeypatch.setattr("hwc.capture.compressed.CHUNK_VALUES", size)
        out = tmp_path / str(size)
        compressed.to_folder(read(folder), out)
        arrived.write(read(folder).arrived(), out)
        outputs.append([(out / name).read_bytes() for name in ("model.safetensors", arrived.CODES)])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_packed_as_the_format_s_own_library_packs_them(bits: int, zeros: bool) -> None:
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = np.random.default_rng(0).integers(0, 1 << bits, (24, 41)).astype(np.uint8)
    signed = torch.from_numpy((codes.astype(np.int16) - (1 << (bits - 1))).astype(np.int8))
    theirs = library.pack_to_int32(signed, bits, packed_dim=0 if zeros else 1)
    ours = pack(codes.T, bits).T if zeros else pack(codes, bits)
    assert np.array_equal(theirs.numpy(), ours)


def test_scales_that_are_no_float16_are_told_and_their_codes_not_kept(plain: Path, tmp_path: Path) -> None:
    folder, _ = made(plain, tmp_path / "model", ("int4", 32, False, "float32"))
    found = read(folder).arrived()
    assert {one.reason for one in found} == {"its scales are no float16 numbers"}
    assert all(one.kept is None for one in found)


def test_int8_zero_points_of_older_checkpoints_are_read(folder: Path) -> None:
    before = next(module for module in read(folder).modules if module.name == UP)
    assert before.zeros is not None
    signed = torch.from_numpy((before.zeros.astype(np.int16) - 8).astype(np.int8))
    change_tensors(folder, lambda tensors: tensors.update({f"{UP}.weight_zero_point": signed}))
    after = next(module for module in read(folder).modules if module.name == UP)
    assert np.array_equal(after.zeros, before.zeros)


def test_how_activations_are_rounded_is_left_out_and_told(folder: Path) -> None:
    group = {"num_bits": 8, "type": "int", "dynamic": True}
    change_config(folder, lambda told: group_of(told).update(input_activations=group))
    change_tensors(folder, lambda tensors: tensors.update({f"{UP}.input_scale": torch.ones(1)}))
    found = read(folder)
    assert found.said.left_out == ("activations",)
    assert all("input_scale" not in one.name for one in found.plain)


def test_a_plain_folder_is_none_of_this(plain: Path) -> None:
    assert compressed.read(plain) is None


def test_a_specification_is_inferred_that_names_the_reference(folder: Path) -> None:
    spec = from_huggingface.infer(folder, name="tiny")
    assert spec.generation is not None
    assert spec.evaluation.reference == "float32, dequantised compressed-tensors pack-quantized"


# what is not supported


def config_of(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["quantization_config"]
    return found


def group_of(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config_of(told)["config_groups"]["group_0"]
    return found


def weights_of(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group_of(told)["weights"]
    return found


UNSUPPORTED: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("quant_method `gptq`", lambda told: config_of(told).update(quant_method="gptq")),
    ("format `nvfp4-pack-quantized`", lambda told: config_of(told).update(format="nvfp4-pack-quantized")),
    ("sparse weights", lambda told: config_of(told).update(sparsity_config={"format": "sparse-bitmask"})),
    ("transform_config", lambda told: config_of(told).update(transform_config={"config_groups": {"r1": {}}})),
    ("quantization_status `frozen`", lambda told: config_of(told).update(quantization_status="frozen")),
    ("int in 3 bits", lambda told: weights_of(told).update(num_bits=3)),
    ("float in 4 bits", lambda told: weights_of(told).update(num_bits=4, type="float")),
    ("scales by `block`", lambda told: weights_of(told).update(strategy="block")),
    ("actorder `group`, g_idx", lambda told: weights_of(told).update(actorder="group")),
]


@pytest.mark.parametrize(("told", "change"), UNSUPPORTED, ids=[told for told, _ in UNSUPPORTED])
def test_what_is_not_supported_is_named_when_inferring_and_when_capturing(
    told: str, change: Callable[[dict[str, Any]], Any], folder: Path
) -> None:
    change_config(folder, change)
    with pytest.raises(UsageError, match=told.replace("(", r"\(")) as error:
        compressed.read(folder)
    assert "compressed-tensors" in error.value.hint
    with pytest.raises(UsageError, match=told):
        from_huggingface.infer(folder, name="tiny")


def test_a_quantised_encoder_is_refused(folder: Path) -> None:
    change_config(folder, lambda told: told.update(model_type="bert", architectures=["BertModel"]))
    with pytest.raises(UsageError, match="no causal language model"):
        from_huggingface.infer(folder, name="tiny")


def test_a_permutation_of_columns_is_refused_though_the_configuration_keeps_still_about_it(folder: Path) -> None:
    index = torch.zeros(64, dtype=torch.int32)
    change_tensors(folder, lambda tensors: tensors.update({f"{UP}.weight_g_idx": index}))
    with pytest.raises(UsageError, match="weight_g_idx"):
        compressed.read(folder)


# damage


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.pop(name)


def replaced(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.update({name: value(tensors[name])})


DAMAGED: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    (f"lacks tensor `{UP}.weight_scale`", without(f"{UP}.weight_scale")),
    (f"lacks tensor `{UP}.weight_shape`", without(f"{UP}.weight_shape")),
    (f"lacks tensor `{UP}.weight_packed`", without(f"{UP}.weight_packed")),
    ("no words of a weight", replaced(f"{UP}.weight_packed", lambda value: value[:, :-1])),
    ("no words of a weight", replaced(f"{UP}.weight_packed", lambda value: value[:-1])),
    ("no words of a weight", replaced(f"{UP}.weight_packed", lambda value: value.to(torch.int16))),
    ("no words of a weight", replaced(f"{UP}.weight_shape", lambda value: value * 0 - 1)),
    ("no words of a weight", replaced(f"{UP}.weight_shape", lambda value: value * (1 << 40))),
    ("two integers", replaced(f"{UP}.weight_shape", lambda value: value[:1])),
    ("no scales to groups", replaced(f"{UP}.weight_scale", lambda value: value[:-1])),
    ("no scales to groups", replaced(f"{UP}.weight_scale", lambda value: value.repeat(1, 3)[:, :3])),
    ("no scales to groups", replaced(f"{UP}.weight_scale", lambda value: value[:, :0])),
    ("NaN or infinity", replaced(f"{UP}.weight_scale", lambda value: value * float("inf"))),
    ("scales are F32", replaced(f"{UP}.weight_scale", lambda value: value.to(torch.int32))),
    ("no zero points to", replaced(f"{UP}.weight_zero_point", lambda value: value[:-1])),
    ("out of the range", replaced(f"{UP}.weight_zero_point", lambda _: torch.full((128, 2), 100, dtype=torch.int8))),
    ("packed as well", lambda tensors: tensors.update({f"{UP}.weight": torch.zeros(128, 64)})),
]


@pytest.mark.parametrize(("told", "change"), DAMAGED, ids=[str(at) for at, _ in enumerate(DAMAGED)])
def test_damage_is_told_by_the_tensor(told: str, change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    change_tensors(folder, change)
    with pytest.raises(IntegrityError, match=told) as error:
        compressed.read(folder)
    assert UP in error.value.what


def test_a_weight_that_is_not_finite_is_refused(plain: Path, tmp_path: Path) -> None:
    folder, _ = made(plain, tmp_path / "model", ("fp8", 0, False, "bfloat16"))

    def spoil(tensors: dict[str, Any]) -> None:
        tensors[f"{UP}.weight"].view(torch.uint8)[3, 5] = 0x7F

    change_tensors(folder, spoil)
    compressed.to_folder(read(folder), tmp_path / "out")
    with pytest.raises(IntegrityError, match=rf"{UP}\.weight.*NaN"):
        causal_lm.load(tmp_path / "out")


def test_a_file_that_is_cut_off_or_whose_header_lies_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    honest = path.read_bytes()
    for payload in (honest[:-1], honest[:100], b"\xff" * 8 + honest[8:], b""):
        path.write_bytes(payload)
        with pytest.raises(IntegrityError, match="safetensors"):
            compressed.read(folder)


def test_a_folder_that_says_it_is_compressed_and_is_not_is_refused(plain: Path, folder: Path) -> None:
    shutil.copy(plain / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(IntegrityError, match="says that weights are quantised, and none is"):
        compressed.read(folder)


@pytest.mark.parametrize("table", [[], {"quant_method": "compressed-tensors", "format": "pack-quantized"}])
def test_a_configuration_that_is_no_table_is_damage(folder: Path, table: Any) -> None:
    change_config(folder, lambda told: told.update(quantization_config=table))
    with pytest.raises(IntegrityError, match="is no table"):
        compressed.read(folder)
