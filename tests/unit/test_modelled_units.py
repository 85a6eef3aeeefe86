"""Units that code on the cores stands in for are told apart from what a chip executes."""

from __future__ import annotations

from pathlib import Path

from hwc.lower.passes.kernel_call import is_call_of
from hwc.spec.legality import VendorKernel
from hwc.spec.project import find_target, open_project
from hwc.spec.target import UNNAMED, TargetSpec


def shipped(name: str) -> TargetSpec:
    return find_target(open_project(Path.cwd()), name)


def test_the_emulated_chips_matrix_unit_is_modelled_by_every_kernel_it_has() -> None:
    chip = shipped("rv64gcv-npu")
    assert chip.modelled == {"npu": tuple(chip.kernels)}
    assert "npu" in chip.hardware.units


def test_kernels_that_drive_a_unit_model_none() -> None:
    chip = shipped("rv64gcv-npu")
    driving = {name: kernel.model_copy(update={"executes": "unit"}) for name, kernel in chip.kernels.items()}
    assert chip.model_copy(update={"kernels": driving}).modelled == {}


def test_a_matrix_unit_is_not_executed_by_an_emulator_of_cores_with_or_without_kernels() -> None:
    chip = shipped("rv64gcv-npu").model_copy(update={"kernels": {}})
    assert chip.modelled == {"npu": ()}
    real = chip.execution.model_copy(update={"driver": "local-sync", "emulator": None})
    assert chip.model_copy(update={"execution": real}).modelled == {}


def test_a_unit_without_a_name_is_modelled_too() -> None:
    kernel = VendorKernel(pattern="matmul_f32", symbol="f", source="f.c", executes="model")
    assert shipped("rv64gcv-npu").model_copy(update={"kernels": {"f": kernel}}).modelled == {
        UNNAMED: ("f",), "npu": (),
    }


def test_a_dispatch_is_a_call_of_the_kernel_whose_symbol_it_has() -> None:
    dispatch = "kernel_acme_mul_1x512x256x1x256_f32256_f32131072_f32512"
    assert is_call_of(dispatch, "acme_mul")
    assert not is_call_of(dispatch, "acme")
    assert not is_call_of("kernel_acme_mul_int4_1x2x3_f322", "acme_mul")
    assert not is_call_of("main_dispatch_0_matmul_1x512x256_f32", "main_dispatch")
