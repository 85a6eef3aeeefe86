"""Codes stand for their weights: to half a step where they are not clipped, for every finite weight there is."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import extreme_weights, weights

from hwc.errors import IntegrityError, StepError
from hwc.formats import Format
from hwc.quantise import codes
from hwc.quantise.codes import Codes, dequantise, fp8, int4, int8
from hwc.quantise.encodings import ENCODINGS, geometry_of, pack, unpack

GROUP = 32
quickly = settings(max_examples=60, deadline=None)


def steps_of(made: Codes, columns: int) -> np.ndarray:
    """Return the scale of every weight [N, K]."""
    return np.repeat(made.scales.astype(np.float32), columns // made.scales.shape[1], axis=1)


@quickly
@given(weights())
@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_is_within_half_a_step_of_every_weight_that_is_not_clipped(symmetric: bool, weight: np.ndarray) -> None:
    made = int4(weight, group_size=GROUP, symmetric=symmetric)
    step = steps_of(made, weight.shape[1])
    inside = (made.codes > 0) & (made.codes < 15)
    error = np.abs(dequantise(made) - weight)
    assert (error <= step * 0.5 * (1 + 1e-4))[inside].all()


@quickly
@given(weights())
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_scale_search_is_never_worse_than_the_plain_absmax_scale(symmetric: bool, weight: np.ndarray) -> None:
    made = int4(weight, group_size=GROUP, symmetric=symmetric)
    grouped = weight.reshape(len(weight), -1, GROUP).astype(np.float64)
    low, high = np.minimum(grouped.min(2), 0), np.maximum(grouped.max(2), 0)
    plain = np.abs(grouped).max(2) / 7 if symmetric else (high - low) / 15
    plain = plain.astype(np.float16).astype(np.float64)
    plain[plain == 0] = 1
    zero = 8.0 if symmetric else np.clip(np.rint(-low / plain), 0, 15)[..., None]
    rounded = (np.clip(np.rint(grouped / plain[..., None]) + zero, 0, 15) - zero) * plain[..., None]
    worst = ((rounded - grouped) ** 2).sum(2)
    found = ((dequantise(made).reshape(grouped.shape) - grouped) ** 2).sum(2)
    assert (found <= worst * (1 + 1e-3) + 1e-12).all()


@quickly
@given(weights())
def test_int8_is_within_half_a_step_of_every_weight_that_is_not_clipped(weight: np.ndarray) -> None:
    made = int8(weight, group_size=GROUP)
    step = np.abs(steps_of(made, weight.shape[1]))
    inside = (made.codes > 0) & (made.codes < 255)
    assert (np.abs(dequantise(made) - weight) <= step * 0.5 * (1 + 1e-2))[inside].all()


def test_rows_rounded_in_pieces_are_those_rounded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(5).standard_normal((10, 64)).astype(np.float32)
    form = Format(kind="int4", group_size=GROUP, zeros="point")
    whole = codes.nearest(weight, form)
    monkeypatch.setattr(codes, "CHUNK_WEIGHTS", 3 * 64)
    parts = codes.nearest(weight, form)
    for part in ("codes", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(parts, part), getattr(whole, part))


@quickly
@given(extreme_weights())
@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_of_any_finite_weight_is_finite_or_refused(symmetric: bool, weight: np.ndarray) -> None:
    if np.abs(weight).max() > 65520 * 7:  # what a float16 scale can hold
        with pytest.raises(StepError, match="too large"):
            int4(np.maximum(weight, -weight), group_size=GROUP, symmetric=True)
    if np.abs(weight).max() > 2e5:
        return
    made = int4(weight, group_size=GROUP, symmetric=symmetric)
    assert made.codes.max() <= 15
    assert np.isfinite(dequantise(made)).all()
    assert np.isfinite(made.scales).all()
    assert (made.scales > 0).all()


@quickly
@given(extreme_weights())
def test_fp8_of_any_finite_weight_is_finite_and_close(weight: np.ndarray) -> None:
    made = fp8(weight)
    back = dequantise(made)
    assert np.isfinite(back).all()
    assert (made.scales > 0).all()
    # E4M3 has 3 bits of mantissa, and its smallest number is 2^-9.
    allowed = np.maximum(np.abs(weight) * 2.0**-4, made.scales * 2.0**-10) * (1 + 1e-3)
    assert (np.abs(back.astype(np.float64) - weight) <= allowed).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_weight_of_zeros_decodes_to_zeros(symmetric: bool) -> None:
    zeros = np.zeros((3, 64), np.float32)
    assert not dequantise(int4(zeros, group_size=GROUP, symmetric=symmetric)).any()
    assert not dequantise(fp8(zeros)).any()


def test_a_zero_stays_exactly_zero_in_any_group() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    weight[:, ::5] = 0
    symmetric, shifted = (int4(weight, group_size=GROUP, symmetric=choice) for choice in (True, False))
    for made in (symmetric, shifted, fp8(weight)):
        assert not dequantise(made)[:, ::5].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_keep_it_and_use_all_sixteen_codes_with_zero_points(sign: int) -> None:
    weight = sign * np.linspace(1, 16, 64, dtype=np.float32).reshape(1, 64)
    made = int4(weight, group_size=64, symmetric=False)
    assert (np.sign(dequantise(made)) * sign >= 0).all()
    assert (int(made.codes.max()), int(made.codes.min())) == ((15, 1) if sign > 0 else (14, 0))
    assert made.zeros is not None
    assert made.zeros.tolist() == [[0 if sign > 0 else 15]]


def test_zero_points_beat_symmetric_codes_on_one_sided_weights() -> None:
    weight = np.random.default_rng(0).uniform(0.5, 1.5, (8, 64)).astype(np.float32)

    def error(symmetric: bool) -> float:
        return float(((dequantise(int4(weight, group_size=GROUP, symmetric=symmetric)) - weight) ** 2).mean())

    assert error(symmetric=False) < error(symmetric=True)


def test_denormal_weights_neither_divide_by_zero_nor_become_nan() -> None:
    weight = np.full((2, 32), 1e-41, np.float32)
    with np.errstate(all="raise", under="ignore"):
        for made in (int4(weight, group_size=GROUP, symmetric=True), fp8(weight)):
            assert np.isfinite(dequantise(made)).all()


def test_a_weight_too_large_for_its_scale_is_refused_with_advice() -> None:
    with pytest.raises(StepError, match="too large") as caught:
        int4(np.full((1, 32), 1e6, np.float32), group_size=GROUP, symmetric=True)
    assert "exclude" in caught.value.hint


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_nan_never_becomes_an_int4_code(symmetric: bool) -> None:
    weight = np.ones((1, 32), np.float32)
    weight[0, 5] = np.nan
    with pytest.raises(StepError):
        int4(weight, group_size=GROUP, symmetric=symmetric)


@pytest.mark.parametrize("encoding", ENCODINGS["fp8"])
def test_a_nan_in_fp8_codes_is_refused_when_they_are_packed(encoding: str) -> None:
    weight = np.ones((2, 32), np.float32)
    made = fp8(weight)
    made.codes[1, 3] = 0x7F
    with pytest.raises(IntegrityError, match="NaN"):
        pack("layer", made, encoding)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_fp8_makes_no_nan_at_the_top_of_its_range(code: int) -> None:
    weight = np.array([[448.0, -448.0, 447.99, 1e-6]], np.float32) * np.float32(1 + 1e-7)
    assert code not in fp8(weight).codes
    assert np.isnan(np.uint8(code).reshape(1).view(ml_dtypes.float8_e4m3fn).astype(np.float32)).all()


@quickly
@given(weights())
@pytest.mark.parametrize("encoding", ENCODINGS["int4"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_int4_gives_back_exactly_its_codes(encoding: str, symmetric: bool, weight: np.ndarray) -> None:
    made = int4(weight, group_size=GROUP, symmetric=symmetric)
    stored = {name: entry.payload.tobytes() for name, entry in pack("layer", made, encoding).items()}
    back = unpack("layer", stored, made.kind, geometry_of(made), encoding)
    np.testing.assert_array_equal(back.codes, made.codes)
    np.testing.assert_array_equal(back.scales, made.scales)
    assert (back.zeros is None) == symmetric
    if made.zeros is not None:
        np.testing.assert_array_equal(back.zeros, made.zeros)


@quickly
@given(extreme_weights())
@pytest.mark.parametrize("encoding", ENCODINGS["fp8"])
def test_packed_fp8_gives_back_exactly_its_codes(encoding: str, weight: np.ndarray) -> None:
    made = fp8(weight)
    stored = {name: entry.payload.tobytes() for name, entry in pack("layer", made, encoding).items()}
    back = unpack("layer", stored, made.kind, geometry_of(made), encoding)
    np.testing.assert_array_equal(back.codes, made.codes)
    np.testing.assert_array_equal(back.scales, made.scales)


@pytest.mark.parametrize("encoding", ENCODINGS["int4"])
def test_int4_takes_half_a_byte_a_weight_and_two_bytes_a_scale(encoding: str) -> None:
    made = int4(np.ones((48, 64), np.float32), group_size=GROUP, symmetric=True)
    sizes = {name: entry.payload.nbytes for name, entry in pack("layer", made, encoding).items()}
    assert sizes == {"layer.codes": 48 * 32, "layer.scales": 48 * 2 * 2}


def test_codes_survive_their_file(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    layers = {
        "b.sym": int4(weight, group_size=GROUP, symmetric=True),
        "a.asym": int4(weight, group_size=GROUP, symmetric=False), "c": fp8(weight),
        "d.int8": int8(weight, group_size=GROUP),
    }
    codes.save(layers, tmp_path / "codes.safetensors")
    back = codes.load(tmp_path / "codes.safetensors")
    assert sorted(back) == sorted(layers)
    for name, entry in layers.items():
        assert back[name].kind == entry.kind
        np.testing.assert_array_equal(dequantise(back[name]), dequantise(entry))


def test_the_same_weight_gives_the_same_bytes() -> None:
    weight = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    for make in (lambda: int4(weight, group_size=GROUP, symmetric=False), lambda: fp8(weight)):
        assert make().codes.tobytes() == make().codes.tobytes()
        assert make().scales.tobytes() == make().scales.tobytes()
