"""A calibration is read back as it was written, refuses damage, and gives times that follow the work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwc.errors import IntegrityError, UsageError
from hwc.predict.efficiency import Calibration, Efficiency, Extents, aligned, load, to_json
from hwc.predict.operation import Operation

MATMUL = Operation(
    op="matmul", name="a", m=64, n=512, k=512, points=64 * 512, rank=2, activations="float32", weights="float32",
    flops=2.0 * 64 * 512 * 512, read_bytes=64 * 512 * 4, weight_bytes=512 * 512 * 4, write_bytes=64 * 512 * 4,
)
ADD = Operation(
    op="elementwise", name="b", points=4096, rank=2, activations="float32", flops=4096, read_bytes=32768,
    write_bytes=16384,
)


def entry(**changes: object) -> Efficiency:
    plain = Efficiency(
        op="matmul", weights="float32", quantised=False, resident=False, compute=0.5, memory=0.8, low=0.9, high=1.3,
        samples=9,
    )
    return replace(plain, **changes)


def calibration(*classes: Efficiency) -> Calibration:
    return Calibration(
        target="t", machine={"fingerprint": "f"}, measured_utc="2026-01-01T00:00:00Z", flop_per_s=1e11,
        bytes_per_s=1e10, cache_bytes=8 << 20, dispatch_s=1e-6, invocation_s=1e-5,
        classes=classes or (entry(), entry(op="elementwise", weights=None)), data_sha256="sha256:0",
        held_out={"all": {"median": 0.1}}, conditions={}, versions={}, samples=({"seconds": 1.0},),
    )


def test_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = calibration(entry(half=Extents(m=3.0), alignment=0.5))
    (tmp_path / "c.json").write_text(to_json(written))

    assert load(tmp_path / "c.json") == written


@pytest.mark.parametrize(
    ("key", "value"),
    [("flop_per_s", 0), ("bytes_per_s", "fast"), ("dispatch_s", -1), ("classes", []), ("format", 99), ("extra", 1)],
)
def test_refuses_a_file_that_cannot_be_a_calibration(tmp_path: Path, key: str, value: object) -> None:
    raw = json.loads(to_json(calibration()))
    (tmp_path / "c.json").write_text(json.dumps({**raw, key: value}))

    with pytest.raises(IntegrityError):
        load(tmp_path / "c.json")


def test_names_the_command_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        load(tmp_path / "none.json")

    assert "hwc targets calibrate" in found.value.hint


def test_time_is_that_of_the_formula() -> None:
    times = calibration().run_s(MATMUL, quantised=False)
    compute, memory = MATMUL.flops / 5e10, MATMUL.traffic_bytes / 8e9

    assert times.base == pytest.approx(1e-6 + (compute**2 + memory**2) ** 0.5)
    assert times.low < times.base < times.high


def test_short_and_unaligned_extents_slow_arithmetic() -> None:
    plain, slowed = calibration(entry()), calibration(entry(half=Extents(m=64.0), alignment=1.0))
    odd = replace(MATMUL, k=511)

    assert slowed.run_s(MATMUL, quantised=False).base > 1.5 * plain.run_s(MATMUL, quantised=False).base
    assert slowed.run_s(odd, quantised=False).base > 50 * plain.run_s(odd, quantised=False).base


def test_takes_the_class_of_the_same_weights_kind_and_place() -> None:
    classes = (entry(), entry(quantised=True), entry(weights="int4", quantised=True), entry(resident=True))
    found = calibration(*classes)
    packed = replace(MATMUL, weights="int4")

    assert found.of(MATMUL, quantised=False) == classes[0]
    assert found.of(MATMUL, quantised=True) == classes[1]
    assert found.of(packed, quantised=True) == classes[2]
    assert found.of(MATMUL, quantised=False, resident=True) == classes[3]


def test_heads_and_many_products_at_once_have_classes_of_their_own() -> None:
    classes = (entry(), entry(large=True), entry(batched=True))
    found = calibration(*classes)

    assert found.of(replace(MATMUL, weight_bytes=2 << 20), quantised=False) == classes[1]
    assert found.of(replace(MATMUL, batch=4, points=4 * 64 * 512), quantised=False) == classes[2]
    assert found.of(MATMUL, quantised=False) == classes[0]


def test_a_call_is_the_sum_of_its_runs_and_small_models_stay_in_the_cache() -> None:
    found = calibration()
    call = found.call_s([replace(MATMUL, count=3), ADD], quantised=False)
    parts = 3 * found.run_s(MATMUL, quantised=False).base + found.run_s(ADD, quantised=False).base

    assert call.base == pytest.approx(found.invocation_s + parts)
    assert found.resident([MATMUL])
    assert not found.resident([replace(MATMUL, count=5)])


def test_work_that_was_never_measured_is_given_a_time_all_the_same() -> None:
    assert calibration().run_s(replace(ADD, op="sort"), quantised=False).base > 0


@pytest.mark.parametrize(("extent", "power"), [(384, 128), (512, 128), (320, 64), (7, 1), (0, 128)])
def test_alignment_is_the_largest_power_of_two(extent: int, power: int) -> None:
    assert aligned(extent) == power
