"""Attention by a kernel: found in the forms that exporters write, equal to ONNX Runtime, exact under sanitizers."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper, numpy_helper, shape_inference
from vendor_parts import X86, with_kernels

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.lower import attention, dispatch_work, iree, kernel_objects
from hwc.lower.opened import Opened
from hwc.lower.passes.kernel_attention import ATTENTION, ROWS_PER_UNIT
from hwc.lower.passes.kernel_linears import Product, Seen
from hwc.lower.vendor import HEADER
from hwc.quantise.encode import Packed, write_archive
from hwc.spec.legality import VendorKernel

KERNELS = Path(__file__).resolve().parents[2] / "targets" / "kernels"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an exporter wrote one attention."""

    query: tuple[int, int, int, int]
    """Batch, heads, rows, width, as it is multiplied."""
    keys: int
    shared: int = 1
    """Heads that share their keys: rows of each stand below each other, and are parted for the mask."""
    mask: tuple[int, ...] = (1, 1, 1, 1)
    """Shape of the mask less its keys, which are the last."""
    scale: str = ""
    turned: tuple[int, ...] = (0, 1, 3, 2)
    """How the keys are turned; with (0, 2, 3, 1) they come as [batch, keys, heads, width]."""
    mask_first: bool = False


FORMS = {
    "decoder": Form(query=(1, 3, 3, 64), keys=40, shared=3, mask=(1, 1, 1, 1, 40)),
    "prompt": Form(query=(1, 2, 70, 32), keys=90, shared=2, mask=(1, 1, 1, 35, 90)),
    "rows": Form(query=(3, 2, 4, 16), keys=24, shared=2, mask=(3, 1, 1, 2, 24)),
    "encoder": Form(query=(2, 4, 12, 32), keys=12, mask=(2, 1, 1, 12), scale="Div", turned=(0, 2, 3, 1)),
    "scaled": Form(query=(1, 2, 5, 20), keys=9, mask=(5, 9), scale="Mul", mask_first=True),
}


def graph(form: Form, axis: int = -1) -> onnx.ModelProto:
    """Return the attention of a form, with the static shapes of all values."""
    batch, heads, rows, width = form.query
    key = (batch, heads, form.keys, width) if form.turned == (0, 1, 3, 2) else (batch, form.keys, heads, width)
    parted = (batch, heads, form.shared, rows // form.shared, form.keys)
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=form.turned),
        helper.make_node("MatMul", ["q", "kt"], ["s0"]),
        *([helper.make_node(form.scale, ["s0", "factor"], ["s1"])] if form.scale else []),
        *([helper.make_node("Reshape", ["s1" if form.scale else "s0", "parted"], ["s2"])] if form.shared > 1 else []),
    ]
    scores = nodes[-1].output[0]
    nodes += [
        helper.make_node("Add", ["mask", scores] if form.mask_first else [scores, "mask"], ["s3"]),
        helper.make_node("Softmax", ["s3"], ["p0"], axis=axis),
        *([helper.make_node("Reshape", ["p0", "joined"], ["p1"])] if form.shared > 1 else []),
    ]
    nodes.append(helper.make_node("MatMul", [nodes[-1].output[0], "v"], ["y"], name="layer.attention"))
    inputs = {"q": form.query, "k": key, "v": (batch, heads, form.keys, width), "mask": form.mask}
    made = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, form.query)],
        initializer=[
            numpy_helper.from_array(np.array(parted, np.int64), "parted"),
            numpy_helper.from_array(np.array([batch, heads, rows, form.keys], np.int64), "joined"),
            numpy_helper.from_array(np.float32(0.25), "factor"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return shape_inference.infer_shapes(model, strict_mode=True)


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return seeded inputs; the mask is causal, its last row allowing all but the last few keys."""
    rng = np.random.default_rng(1)
    found = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        found[value.name] = rng.standard_normal(shape).astype(np.float32) / (4 if value.name == "q" else 1)
        if value.name == "mask":
            seen = shape[-1] - shape[-2] - 3 + np.arange(shape[-2])[:, None]
            allowed = np.arange(shape[-1])[None, :] <= np.maximum(seen, 0)
            found["mask"] = np.broadcast_to(np.where(allowed, 0, -np.inf), shape).astype(np.float32)
    return found


def opened(work: Path) -> Opened:
    """Return a door with the attention kernel alone."""
    kernel = VendorKernel(
        pattern="attention_f32", symbol="hwc_attention", source="attention_f32.c", columns_per_call=2
    )
    return Opened(with_kernels(KERNELS, {"attention": kernel}), X86, work)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("name", FORMS)
def test_attention_by_the_kernel_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    model = graph(FORMS[name])
    given = feeds(model)
    expected = session(model).run(None, given)[0]
    door = opened(tmp_path)
    assert attention.fuse(model, door.takes) == 1
    kinds = [node.op_type for node in model.graph.node]
    assert "Softmax" not in kinds
    assert "MatMul" not in kinds
    onnx_io.save(model, tmp_path / "model.onnx")
    text = iree.import_graph(tmp_path / "model.onnx", inputs=None, work=tmp_path, limits=LIMITS)
    text = door.declared(door.plain("main_graph", text))
    flags = (*FLAGS, *door.flags)
    code, _ = iree.compile_module(text, flags, work=tmp_path, limits=LIMITS)
    write_archive({"unused": Packed(payload=np.zeros(1, np.float32), dtype="f32", shape=(1,))}, tmp_path / "none.irpa")
    found = run_on_cpu(code, tmp_path / "none.irpa", given, {"y": expected.shape})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    assert door.facts(code.read_bytes(), tmp_path)["vendor"]["kernels"]["attention"]["matched"] == {"main_graph": 1}
    if name == "encoder":
        flow = iree.flow_text(text, flags, work=tmp_path, limits=LIMITS)
        (row,) = [one for one in dispatch_work.read(flow)["main_graph"] if one.op == "attention"]
        assert (row.batch, row.m, row.n, row.k, row.weights) == (8, 12, 12, 32, None)
        assert (row.flops, row.weight_bytes) == (4 * 8 * 12 * 12 * 32, 0)
        assert row.read_bytes == 4 * (3 * 8 * 12 * 32 + 2 * 12)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_of_kernels_that_may_be_left_out_only_those_that_are_called_are_compiled(tmp_path: Path) -> None:
    """A kernel takes seconds to compile; a model whose layers have none of its products does not wait for it."""
    kernel = VendorKernel(pattern="attention_f32", symbol="hwc_attention", source="attention_f32.c")
    broken = VendorKernel(pattern="matmul_f16", symbol="absent", source="absent.c")
    own = with_kernels(KERNELS, {"attention": kernel, "broken": broken})
    door = Opened(replace(own, vendor=own.vendor.model_copy(update={"optional": True})), X86, tmp_path)
    assert door.objects == {}
    model = graph(FORMS["encoder"])
    attention.fuse(model, door.takes)
    onnx_io.save(model, tmp_path / "model.onnx")
    text = iree.import_graph(tmp_path / "model.onnx", inputs=None, work=tmp_path, limits=LIMITS)
    door.plain("main_graph", text)
    door.complete()
    assert set(door.objects) == {"attention"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mask": (1, 4, 12, 12)}, "a mask of its own for each head"),
        ({"mask": (12, 1)}, "a mask that has no keys"),
        ({"scale": "Mul", "mask_first": True, "mask": (1, 1, 1, 1)}, "one number for all keys"),
    ],
)
def test_what_the_kernel_does_not_compute_stays_as_it_is(change: dict, why: str) -> None:
    form = Form(**({"query": (1, 4, 12, 32), "keys": 12, "mask": (1, 1, 12, 12)} | change))
    model = graph(form)
    before = model.SerializeToString()
    assert attention.fuse(model, lambda _: True) == 0, why
    assert [node.op_type for node in model.graph.node] == [
        node.op_type for node in onnx.ModelProto.FromString(before).graph.node
    ]


def test_a_softmax_over_another_axis_is_no_attention() -> None:
    assert attention.fuse(graph(FORMS["encoder"], axis=2), lambda _: True) == 0


def test_attention_stays_where_no_kernel_takes_it() -> None:
    model = graph(FORMS["encoder"])
    assert attention.fuse(model, lambda product: product.n > 100) == 0
    assert all(node.op_type != ATTENTION for node in model.graph.node)


def test_a_kernel_takes_only_work_of_the_sizes_it_is_for(tmp_path: Path) -> None:
    door = opened(tmp_path).door
    bounded = door.kernels["attention"].model_copy(update={"at_least": {"k": 64}, "at_most": {"m": 8}})
    door = replace(door, kernels={"attention": bounded})
    work = Product(pattern="attention_f32", layer="a", m=8, n=100, k=64)
    assert door.chosen(work) is not None
    assert door.chosen(replace(work, k=32)) is None
    assert door.chosen(replace(work, m=9)) is None
    small = Seen(product=replace(work, k=32), call=None)
    counts, _ = kernel_objects.matches(door, {"f": [small]})  # it is for none of these, so it need not match
    assert counts == {"attention": {"f": 0}}


def test_the_header_counts_the_rows_that_calls_are_cut_by() -> None:
    assert f"#define HWC_ATTENTION_ROWS {ROWS_PER_UNIT}\n" in HEADER.read_text()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize("march", ["native", "x86-64-v3", "x86-64"])
def test_the_kernel_computes_exact_sums_over_shapes_and_masks(march: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("-march names x86-64 levels")
    if march == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no avx2")
    program = tmp_path / "check"
    sources = [KERNELS.parents[1] / "tests" / "kernels" / "check_attention.c", KERNELS / "attention_f32.c"]
    argv = ["cc", "-std=c11", "-O2", "-g", "-Wno-psabi", f"-march={march}", *SANITIZERS, f"-I{HEADER.parent}"]
    subprocess.run([*argv, *map(str, sources), "-lm", "-o", str(program)], check=True, timeout=120)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "all within their bounds", "")


def test_the_search_path_of_objects_is_the_folder_they_are_made_in(tmp_path: Path) -> None:
    door = opened(tmp_path)
    assert (tmp_path / kernel_objects.FOLDER / "attention.o").is_file()
    assert door.flags == (f"--iree-hal-executable-object-search-path={kernel_objects.FOLDER}",)
