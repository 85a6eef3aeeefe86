"""Classes are fitted to timed operations, and their error is that of shapes the fit has not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwc.predict.class_fit import Peaks, Sample, fit_classes
from hwc.predict.efficiency import Efficiency, Extents
from hwc.predict.operation import Operation

PEAKS = Peaks(flop_per_s=1e11, bytes_per_s=1e10, dispatch_s=1e-6)
TRUE = Efficiency(
    op="matmul", weights="float32", quantised=False, resident=False, compute=0.6, memory=0.7, half=Extents(m=5.0),
    low=1.0, high=1.0, samples=0,
)


def matmul(m: int, n: int, k: int) -> Operation:
    return Operation(
        op="matmul", name=f"{m}x{n}x{k}", m=m, n=n, k=k, points=m * n, rank=2, activations="float32",
        weights="float32", flops=2.0 * m * n * k, read_bytes=4 * m * k, weight_bytes=4 * n * k, write_bytes=4 * m * n,
    )


def sampled(noise: tuple[float, ...] = (1.0,)) -> list[Sample]:
    shapes = [(m, n, k) for m in (1, 8, 64, 256) for n, k in ((256, 512), (1024, 256), (512, 1024))]
    return [
        Sample(
            operation=operation, quantised=False, resident=False, spread=0.0,
            seconds=(1e-6 + TRUE.work_s(operation, flop_per_s=1e11, bytes_per_s=1e10)) * noise[index % len(noise)],
        )
        for index, operation in enumerate(matmul(*shape) for shape in shapes)
    ]


def test_finds_the_efficiency_that_made_the_times() -> None:
    found = fit_classes(sampled(), PEAKS)

    assert found.held_out.p90 < 0.03
    assert found.classes[0].compute == pytest.approx(0.6, rel=0.05)
    assert found.classes[0].memory == pytest.approx(0.7, rel=0.05)
    assert found.classes[0].half.m == pytest.approx(5.0, rel=0.2)


def test_the_interval_is_as_wide_as_the_held_out_errors() -> None:
    noisy = fit_classes(sampled((0.7, 1.0, 1.4)), PEAKS).classes[0]

    assert noisy.low < 0.85
    assert noisy.high > 1.2


def test_repeats_of_one_shape_do_not_vouch_for_each_other() -> None:
    """A shape that behaves as no other does is in error, however often it was measured."""
    odd = matmul(32, 96, 96)
    samples = [*sampled(), *[Sample(operation=odd, quantised=False, resident=False, spread=0.0, seconds=0.1)] * 6]

    assert fit_classes(samples, PEAKS).held_out.worst > 0.9


def test_kinds_of_model_are_classes_of_their_own_and_small_classes_are_left_out() -> None:
    slow = [replace(sample, quantised=True, seconds=4 * sample.seconds) for sample in sampled()]
    few = [replace(sample, resident=True) for sample in sampled()[:2]]

    found = fit_classes([*sampled(), *slow, *few], PEAKS)

    assert {(entry.quantised, entry.resident) for entry in found.classes} == {(False, False), (True, False)}
