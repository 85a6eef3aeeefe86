"""Convolutions by a kernel: found with what follows them, equal to ONNX Runtime, exact under sanitizers."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper, shape_inference
from test_passes import imported
from vendor_parts import X86, with_kernels

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.lower import dispatch_work, iree
from hwc.lower.opened import Opened
from hwc.lower.passes.convolutions import MOST_STRIDE, MOST_WINDOW, Convolution, find
from hwc.lower.vendor import HEADER
from hwc.quantise.encode import Packed, write_archive
from hwc.spec.legality import VendorKernel

KERNELS = Path(__file__).resolve().parents[2] / "targets" / "kernels"
CHECK = Path(__file__).resolve().parents[1] / "kernels" / "check_conv2d.c"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A convolution as an exporter wrote it, and what follows it."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    told: dict = field(default_factory=dict)
    """Its attributes."""
    bias: bool = True
    after: tuple[str, ...] = ()
    """``Relu`` and ``MaxPool``, in order."""
    pool: dict = field(default_factory=lambda: {"kernel_shape": [2, 2], "strides": [2, 2]})
    dtype: int = TensorProto.FLOAT


FORMS = {
    "pooled": Form(x=(2, 3, 12, 12), weight=(8, 3, 3, 3), told={"pads": [1, 1, 1, 1]}, after=("Relu", "MaxPool")),
    "odd": Form(x=(1, 5, 13, 19), weight=(6, 5, 3, 3), told={"pads": [1, 1, 1, 1]}, after=("MaxPool", "Relu")),
    "strided": Form(
        x=(1, 3, 21, 30), weight=(7, 3, 7, 7), told={"pads": [3, 3, 3, 3], "strides": [2, 2]}, after=("Relu",)
    ),
    "uneven": Form(x=(1, 4, 9, 40), weight=(5, 4, 3, 5), told={"pads": [0, 2, 2, 1], "strides": [1, 3]}, bias=False),
    "groups": Form(x=(3, 8, 10, 10), weight=(12, 2, 3, 3), told={"group": 4, "pads": [1, 1, 1, 1]}),
    "pointwise": Form(x=(2, 70, 7, 7), weight=(9, 70, 1, 1), after=("Relu",)),
    "line": Form(x=(2, 6, 50), weight=(4, 6, 5), told={"pads": [2, 2], "strides": [2]}, after=("Relu",)),
}
"""One of one dimension, as audio has it, among them."""
FEW = ("pooled", "strided", "groups", "line")
"""What every run takes."""


def graph(form: Form) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a detached graph of a form behind an addition, and its weights."""
    rng = np.random.default_rng(5)
    dtype = helper.tensor_dtype_to_np_dtype(form.dtype)
    tensors = {"w": (rng.standard_normal(form.weight) / 4).astype(dtype)}
    if form.bias:
        tensors["b"] = rng.standard_normal(form.weight[0]).astype(dtype)
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Conv", ["double", *tensors], ["v0"], **form.told),
    ]
    for at, name in enumerate(form.after):
        nodes.append(helper.make_node(name, [f"v{at}"], [f"v{at + 1}"], **(form.pool if name == "MaxPool" else {})))
    nodes[-1].output[0] = "y"
    inputs = {"x": form.x, **{name: value.shape for name, value in tensors.items()}}
    made = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info(name, form.dtype, size) for name, size in inputs.items()],
        [helper.make_tensor_value_info("y", form.dtype, None)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = shape_inference.infer_shapes(model, strict_mode=True)
    onnx_io.set_weight_names(model, list(tensors))
    return model, tensors


def opened(work: Path, **bounds: dict) -> Opened:
    """Return a door with the convolution kernel alone; a call computes three channels at most."""
    kernel = VendorKernel(
        pattern="conv2d_f32", symbol="hwc_conv2d", source="conv2d_f32.c", compiler_flags=("-ffp-contract=fast",),
        columns_per_call=3, **bounds,
    )
    return Opened(with_kernels(KERNELS, {"conv2d": kernel}), X86, work)


def found_in(form: Form, work: Path) -> Convolution:
    (found,) = find(imported(graph(form)[0], work).splitlines())
    return found


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in FORMS]
)
def test_a_convolution_by_the_kernel_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    model, tensors = graph(form)
    x = np.random.default_rng(0).standard_normal(form.x).astype(np.float32)
    expected = session(onnx_io.attach(model, tensors)).run(None, {"x": x})[0]
    door = opened(tmp_path)
    text = door.declared(door.plain("main_graph", imported(model, tmp_path)))
    code_lines = [line for line in text.splitlines() if not line.lstrip().startswith("//")]
    assert not re.search(r'"onnx\.(Conv|Relu|MaxPool)"', "\n".join(code_lines))
    code, _ = iree.compile_module(text, (*FLAGS, *door.flags), work=tmp_path, limits=LIMITS)
    packed = {name: Packed(payload=value, dtype="f32", shape=value.shape) for name, value in tensors.items()}
    write_archive(packed, tmp_path / "w.irpa")
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert door.facts(code.read_bytes(), tmp_path)["vendor"]["kernels"]["conv2d"]["matched"] == {"main_graph": 1}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_the_work_of_a_call_is_a_convolution_of_its_real_sizes(tmp_path: Path) -> None:
    door = opened(tmp_path)
    text = door.declared(door.plain("main_graph", imported(graph(FORMS["groups"])[0], tmp_path)))
    flow = iree.flow_text(text, (*FLAGS, *door.flags), work=tmp_path, limits=LIMITS)
    (row,) = [one for one in dispatch_work.read(flow)["main_graph"] if one.op == "conv"]
    assert (row.batch, row.m, row.n, row.k) == (4, 3 * 10 * 10, 3, 2 * 3 * 3)
    assert row.flops == 2 * 3 * 12 * 10 * 10 * 2 * 3 * 3
    assert row.points == 3 * 12 * 10 * 10
    assert (row.read_bytes, row.write_bytes) == (4 * 3 * 8 * 100, 4 * 3 * 12 * 100)
    assert (row.weight_bytes, row.weights) == (4 * (12 * 2 * 9 + 12), "float32")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_a_group_of_fewer_channels_than_the_kernel_is_for_stays_generated(tmp_path: Path) -> None:
    door = opened(tmp_path, at_least={"n": 4})
    text = imported(graph(FORMS["groups"])[0], tmp_path)
    assert door.plain("main_graph", text).splitlines() == text.splitlines()
    assert "kernel_hwc_conv2d_" in door.plain("main_graph", imported(graph(FORMS["pooled"])[0], tmp_path))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"told": {"dilations": [2, 2]}}, "dilated"),
        ({"told": {"auto_pad": "SAME_UPPER"}}, "SAME_UPPER"),
        ({"told": {"strides": [MOST_STRIDE + 1, 1]}}, "stride"),
        ({"x": (1, 3, 30, 30), "weight": (4, 3, 3, MOST_WINDOW + 1)}, "window"),
        ({"dtype": TensorProto.FLOAT16}, "f16"),
    ],
)
def test_what_the_abi_does_not_hold_says_why(change: dict, why: str, tmp_path: Path) -> None:
    form = Form(**({"x": (1, 3, 12, 12), "weight": (4, 3, 3, 3)} | change))
    assert why in found_in(form, tmp_path).unfit


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [2, 2], "strides": [1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ],
)
def test_a_pooling_of_another_kind_stays_behind_the_call(pool: dict, tmp_path: Path) -> None:
    form = Form(x=(1, 3, 9, 9), weight=(4, 3, 3, 3), told={"pads": [1, 1, 1, 1]}, after=("Relu", "MaxPool"), pool=pool)
    found = found_in(form, tmp_path)
    assert (found.relu, found.pool) == (True, False)


def test_a_relu_is_left_where_something_else_reads_the_convolution(tmp_path: Path) -> None:
    model, _ = graph(Form(x=(1, 3, 8, 8), weight=(4, 3, 3, 3), after=("Relu",)))
    shape = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    model.graph.output.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape))
    (found,) = find(imported(model, tmp_path).splitlines())
    assert (found.relu, found.result) == (False, found.conv)


def test_the_header_has_the_bounds_that_are_matched_by() -> None:
    text = HEADER.read_text()
    assert f"#define HWC_CONV2D_MOST_WINDOW {MOST_WINDOW} " in text
    assert f"#define HWC_CONV2D_MOST_STRIDE {MOST_STRIDE}\n" in text


def checked(kernels: Path, work: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    program = work / "check"
    argv = ["cc", "-std=c11", "-O1", "-g", "-Wno-psabi", *flags, f"-I{HEADER.parent}"]
    sources = [str(CHECK), str(kernels / "conv2d_f32.c")]
    subprocess.run([*argv, *sources, "-lm", "-o", str(program)], check=True, timeout=120)
    return subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)


def refuse_absent(march: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("-march names x86-64 levels")
    if march == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no avx2")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    "flags",
    [
        ("-march=native",), ("-march=x86-64-v3",), ("-march=x86-64",),
        ("-march=x86-64-v3", "-D__AVX512F__"),  # vectors of 16, each in two registers
    ],
    ids=["native", "x86-64-v3", "x86-64", "16-lanes"],
)
def test_the_kernel_computes_exact_sums_and_pieces_have_the_bytes_of_the_whole(flags: tuple, tmp_path: Path) -> None:
    refuse_absent(flags[0].removeprefix("-march="))
    ran = checked(KERNELS, tmp_path, *flags, *SANITIZERS)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "all within their bounds", "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sum[n][v] += window[v] * weight", "sum[n][v] += window[v] * weight * 1.0001f"),
        ("& (integers)(b == b)", ""),
        ("if (++phase == c->stride_width)", "if (++phase == c->kernel_width)"),
        ("(p->image * c->groups + p->group) * c->inputs", "p->image * c->groups * c->inputs"),
        ("pooled ? p->row / 2 * y_columns", "pooled ? p->row * y_columns"),
        ("end = least(end, count)", "end = count"),
    ],
)
def test_the_check_of_the_kernel_finds_what_is_wrong(right: str, wrong: str, tmp_path: Path) -> None:
    refuse_absent("x86-64-v3")
    text = (KERNELS / "conv2d_f32.c").read_text()
    assert right in text
    (tmp_path / "conv2d_f32.c").write_text(text.replace(right, wrong))
    ran = checked(tmp_path, tmp_path, "-march=x86-64-v3", "-fsanitize=address")
    assert ran.returncode != 0
