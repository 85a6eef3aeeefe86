"""Threads: CPU code runs on as many as it is asked to, from the same artefact, and nothing else does."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_kernel_calls import COLUMNS, compiled, opened, plain_graph
from test_passes import imported

from hwc.errors import UsageError
from hwc.program import Device, Function, Port, Program, Slice, on_threads
from hwc.quantise.encode import Packed, write_archive
from hwc.runtime.session import Session


def program(driver: str, *, code: Path = Path("none"), archive: Path = Path("none"), threads: int = 1) -> Program:
    """Return a program of one product, 4 × 96 by 96 × 20."""
    entry = Function(
        name="main_graph", bucket={"batch": 4}, inputs=(Port(name="x", dtype="float32", shape=(4, 96)),),
        outputs=(Port(name="y", dtype="float32", shape=(4, 20)),),
    )
    device = Device(driver=driver, threads=threads)
    return Program(code=Slice(path=code), parameters=(Slice(path=archive),), functions=(entry,), device=device)


@pytest.mark.parametrize(
    ("driver", "asked", "found"),
    [
        ("local-sync", 1, ("local-sync", 1)), ("local-sync", 2, ("local-task", 2)),
        ("local-task", 1, ("local-task", 1)), ("local-task", 4, ("local-task", 4)), ("vulkan", 1, ("vulkan", 1)),
    ],
)  # fmt: skip
def test_several_threads_take_the_runtimes_workers_and_one_the_device_of_the_target(driver, asked, found):
    device = on_threads(program(driver), asked).device
    assert (device.driver, device.threads) == found


@pytest.mark.parametrize(("driver", "asked"), [("local-sync", 0), ("vulkan", 2), ("emulated", 2), ("none", 2)])
def test_threads_that_cannot_be_had_are_refused(driver, asked):
    with pytest.raises(UsageError):
        on_threads(program(driver), asked)


TWO = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="NOT TESTED: this process has one processor")


@pytest.fixture
def product(tmp_path: Path) -> Program:
    """A product by a kernel in several calls, on one thread."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    model, tensors = plain_graph("Gemm", [4, 96], {"transB": 1}, [20], np.float32)
    own = opened(tmp_path, columns=COLUMNS)
    text = own.plain("main_graph", imported(model, tmp_path))
    packed = {name: Packed(payload=value, dtype="f32", shape=value.shape) for name, value in tensors.items()}
    archive = tmp_path / "w.irpa"
    write_archive(packed, archive)
    return program("local-sync", code=compiled(own.declared(text), tmp_path), archive=archive)


@TWO
def test_two_threads_share_a_kernels_calls_and_compute_the_same_bytes(product: Program) -> None:
    x = {"x": np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)}
    alone = Session(product).call("main_graph", x)["y"]
    for _ in range(20):  # each session goes as soon as its call is back
        np.testing.assert_array_equal(Session(on_threads(product, 2)).call("main_graph", x)["y"], alone)


@TWO
def test_a_process_that_has_its_threads_says_so_to_who_wants_others(product: Program) -> None:
    Session(on_threads(product, 2))
    with pytest.raises(UsageError, match=r"3 threads were asked for, where this process runs artefacts on 2"):
        Session(on_threads(product, 3))
    Session(replace(product, device=replace(product.device, threads=1)))
