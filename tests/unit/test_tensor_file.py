"""Safetensors that are written one tensor at a time read back as what was given, in any reader."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hwc import tensor_file
from hwc.capture.capture import save_weights
from hwc.errors import UsageError
from hwc.quantise.weights import Weights


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "b": rng.standard_normal((3, 5)).astype(np.float32), "a.odd": rng.integers(0, 9, 7).astype(np.uint8),
        "c": rng.integers(-9, 9, (2, 2, 2)), "d": np.float16([[1.5, -2]]), "e": np.zeros((0, 4), np.float32),
        "f": np.array(True), "g.turned": rng.standard_normal((4, 6)).astype(np.float32).T,
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_weights(tensors(), tmp_path / "w.safetensors")
    for found in (load_file(tmp_path / "w.safetensors"), Weights(tmp_path / "w.safetensors")):
        assert set(found) == set(tensors())
        for name, value in tensors().items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)


def test_every_tensor_is_aligned_to_its_type(tmp_path: Path) -> None:
    save_weights(tensors(), tmp_path / "w.safetensors")
    assert all(value.flags.aligned for value in Weights(tmp_path / "w.safetensors").values())


def test_the_order_in_which_weights_are_given_does_not_change_the_bytes(tmp_path: Path) -> None:
    save_weights(tensors(), tmp_path / "one")
    save_weights(dict(reversed(tensors().items())), tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_values_are_those_of_the_formats_own_writer(tmp_path: Path) -> None:
    plain = {name: np.ascontiguousarray(value) for name, value in tensors().items()}
    save_file(plain, tmp_path / "theirs")
    save_weights(tensors(), tmp_path / "ours")
    theirs, ours = (Path(tmp_path / name).read_bytes() for name in ("theirs", "ours"))
    data = sum(value.nbytes for value in plain.values())
    assert theirs[-data:] == ours[-data:]


def test_a_tensor_may_come_in_pieces(tmp_path: Path) -> None:
    value = np.arange(10, dtype=ml_dtypes.bfloat16)
    entry = tensor_file.Entry("x", value.dtype, value.shape)
    tensor_file.write(tmp_path / "w", [entry], lambda _: (value[:3], value[3:]))
    np.testing.assert_array_equal(Weights(tmp_path / "w")["x"], value)


def test_a_type_that_the_format_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int4"):
        save_weights({"x": np.zeros(8, ml_dtypes.int4)}, tmp_path / "w")
