"""Compressed folders from outside: whatever header and configuration say, it is refused or read, never a crash."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressed_parts import write
from gguf_parts import tiny_config, tiny_model
from hwc.capture import compressed
from hwc.errors import IntegrityError, UsageError

VALUES: tuple[Any, ...] = (None, True, -1, 0, 1e300, "x", [], {}, [[]], {"x": None}, 1 << 70)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small compressed folder. Read it, never change it."""
    folder = tmp_path_factory.mktemp("honest") / "model"
    tiny_model(tiny_config("llama", num_hidden_layers=1)).save_pretrained(folder, safe_serialization=True)
    write(folder, zeros=True)
    return folder


def read(folder: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.suppress(IntegrityError, UsageError):
        found = compressed.read(folder)
        if found is not None:
            compressed.to_folder(found, out)
            for one in found.arrived():
                for _ in one.kept.rows() if one.kept is not None else ():
                    pass


@pytest.mark.parametrize("seed", range(10))
def test_random_damage_of_the_weights_is_refused_or_harmless(seed: int, honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(seed)
    for _ in range(10):
        payload = bytearray(whole)
        for place in rng.integers(0, header + 64, 3):
            payload[place] = rng.integers(0, 256)
        path.write_bytes(payload)
        read(tmp_path / "model", tmp_path / "out")


def places(table: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the way to every entry of nested tables."""
    if not isinstance(table, dict):
        return [at]
    return [at, *(place for key, value in table.items() for place in places(value, (*at, key)))]


def test_a_configuration_with_any_value_in_any_place_is_refused_or_harmless(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    text = path.read_text()
    for place in places(json.loads(text)["quantization_config"]):
        for value in VALUES:
            told = json.loads(text)
            inner = told
            for key in ("quantization_config", *place)[:-1]:
                inner = inner[key]
            inner[("quantization_config", *place)[-1]] = value
            path.write_text(json.dumps(told))
            with contextlib.suppress(IntegrityError, UsageError):
                compressed.read(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '"x"'])
def test_a_configuration_that_is_no_table_is_damage(text: str, honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"config\.json"):
        compressed.read(tmp_path / "model")
