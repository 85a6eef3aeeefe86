"""A target is calibrated on the machine at hand, from probes that are compiled as its models are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwc.errors import MachineError
from hwc.formats import Format
from hwc.lower.iree import Limits
from hwc.lower.recipe import Recipe
from hwc.measure import calibrate as calibrating
from hwc.measure import probes, probing, suites
from hwc.measure.probes import Attention, Conv, Linear, Rows
from hwc.pipeline.targets import resolve
from hwc.predict.efficiency import load, to_json
from hwc.spec.project import find_target, open_project

LINEARS = tuple(Linear(m=m, k=k, n=n) for m in (1, 16) for k, n in ((64, 32), (128, 64), (64, 96), (256, 64)))
OTHERS = (
    Rows(kind="gelu", rows=8, width=64), Rows(kind="gelu", rows=16, width=96), Rows(kind="gelu", rows=32, width=64),
)
SMALL = (
    suites.Suite(name="float", form=None, resident=True, probes=(*LINEARS, *OTHERS)),
    suites.Suite(name="int4", form=Format(kind="int4", group_size=32), resident=True, probes=LINEARS),
)


def place(name: str = "llvm-cpu-host") -> probing.Place:
    project = open_project(Path(__file__).parent)
    resolved = resolve(find_target(project, name), project.home)
    return probing.Place(
        recipe=Recipe(lowering=resolved.spec.code(), encodings={"int4": "i4-grouped", "int8": "i8-grouped"}),
        device=resolved.device, limits=Limits(timeout_s=300, memory_bytes=8 << 30),
    )


@pytest.mark.slow
def test_a_calibration_tells_what_was_measured_and_is_read_back(tmp_path: Path) -> None:
    told: list[str] = []

    found = calibrating.calibrate(
        "llvm-cpu-host", place(), budget_s=1, work=tmp_path, tell=told.append, suites=SMALL
    )
    (tmp_path / "c.json").write_text(to_json(found))

    assert load(tmp_path / "c.json") == replace(found, samples=tuple(json.loads(json.dumps(found.samples))))
    kinds = {(entry.op, entry.weights, entry.quantised) for entry in found.classes}
    assert {("matmul", "float32", False), ("elementwise", None, False), ("matmul", "int4", True)} <= kinds
    assert found.conditions["rounds"] >= probing.LEAST_ROUNDS
    assert 0 < found.dispatch_s < found.invocation_s < 1e-2
    assert all(row["seconds"] >= found.dispatch_s for row in found.samples)
    assert len(told) == len(SMALL) + 1


def test_a_target_of_another_device_is_refused(tmp_path: Path) -> None:
    here = place()
    elsewhere = replace(here, device=replace(here.device, driver="vulkan"))

    with pytest.raises(MachineError):
        calibrating.calibrate("x", elsewhere, budget_s=1, work=tmp_path, tell=lambda _: None)


def test_probes_are_models_that_onnx_accepts_and_none_is_a_shipped_shape() -> None:
    shipped = {(384, 384), (384, 1536), (1536, 384), (256, 512), (512, 512), (576, 576), (576, 1536), (640, 2048)}
    linears = {(probe.k, probe.n) for suite in suites.SUITES for probe in suite.probes if isinstance(probe, Linear)}
    model = probes.graph("all", (Linear(m=2, k=32, n=64, then="silu"), Attention(
        batch=1, heads=2, queries=4, keys=8, head_size=8), Conv(
        batch=1, channels=3, filters=4, side=8, window=3, pool=True), *(
        Rows(kind=kind, rows=4, width=32) for kind in ("layer_norm", "rms_norm", "rotate", "gather", "pool"))))

    assert not linears & shipped
    assert len(model.graph.output) == 8
