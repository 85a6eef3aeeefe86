"""IREE's compiler through its one caller: names it does not know, crashes, and what a failing line stands for."""

from pathlib import Path

import pytest

from hwc import child
from hwc.errors import StepError, UsageError
from hwc.lower import iree
from hwc.lower.flags import HOST_FLAGS, compiler_flags
from hwc.spec.target import Lowering

LIMITS = iree.Limits(timeout_s=120, memory_bytes=4 << 30)
ADD = """func.func @f(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = arith.addf %a, %a : tensor<4xf32>
  return %0 : tensor<4xf32>
}
"""


def test_the_host_is_told_as_a_name_and_sorted_enabled_features(tmp_path: Path):
    host = iree.probe_cpu(HOST_FLAGS, tmp_path)
    assert host.name not in ("", "host", "generic")
    assert host.features == tuple(sorted(host.features))
    assert all(feature.startswith("+") for feature in host.features)


def test_a_cpu_name_implies_its_features(tmp_path: Path):
    v3 = iree.probe_cpu(compiler_flags(Lowering(backend="llvm-cpu", cpu="x86-64-v3")), tmp_path)
    v4 = iree.probe_cpu(compiler_flags(Lowering(backend="llvm-cpu", cpu="x86-64-v4")), tmp_path)
    assert "+avx2" in v3.features
    assert "+avx512f" not in v3.features
    assert set(v3.features) < set(v4.features)


@pytest.mark.parametrize(
    ("lowering", "named"),
    [
        (Lowering(backend="llvm-cpu", cpu="znver99"), "processor 'znver99'"),
        (Lowering(backend="llvm-cpu", cpu="x86-64-v3", cpu_features=("+avx77",)), "feature '+avx77'"),
    ],
)
def test_a_name_llvm_does_not_know_is_refused_though_the_compiler_only_warns(lowering, named, tmp_path: Path):
    with pytest.raises(UsageError, match=named.replace("+", r"\+")):
        iree.compile_module(ADD, compiler_flags(lowering), work=tmp_path, limits=LIMITS)


def test_a_compiler_crash_is_an_error_with_a_log_and_not_a_dead_tool(tmp_path: Path):
    lowering = Lowering(backend="vulkan-spirv", gpu="rtx5090")
    with pytest.raises(iree.CompileFailed, match="SIGSEGV") as caught:
        iree.compile_module(ADD, compiler_flags(lowering), work=tmp_path, limits=LIMITS)
    assert caught.value.outcome.crashed
    assert (tmp_path / "iree-compile.log").is_file()
    assert (tmp_path / iree.INPUT_NAME).read_text() == ADD


def test_the_same_module_compiles_to_the_same_bytes_in_another_folder(tmp_path: Path):
    flags = compiler_flags(Lowering(backend="llvm-cpu", cpu="x86-64-v3"))
    made = []
    for name in ("one", "a-longer-name"):
        (tmp_path / name).mkdir()
        path, _ = iree.compile_module(ADD, flags, work=tmp_path / name, limits=LIMITS)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_a_later_feature_overrides_an_earlier_one():
    assert iree.enabled_features("+a,+b,-a,+c") == ("+b", "+c")


def test_a_failing_line_is_told_as_the_nth_op_of_its_function():
    mlir = """module {
  func.func @b1(%arg0: !t) {
    %0 = torch.operator "onnx.MatMul"(%arg0) : (!t) -> !t
  }
  func.func @b8(%arg0: !t) {
    %0 = torch.operator "onnx.MatMul"(%arg0) : (!t) -> !t
    %1 = torch.operator "onnx.Relu"(%0) : (!t) -> !t
    %2 = torch.operator "onnx.MatMul"(%1) : (!t) -> !t
  }
}
"""
    outcome = child.Outcome(
        returncode=1, stdout="", stderr="module.mlir:8:10: error: failed to legalize\n", wall_s=0, cpu_s=0,
        peak_rss_bytes=0, stopped_by="",
    )
    failure = iree.CompileFailed(outcome, mlir)
    assert failure.onnx_op() == ("b8", "MatMul", 1)
    assert isinstance(failure, StepError)


def test_a_compiler_that_overruns_its_time_is_stopped_and_says_so(tmp_path: Path):
    flags = compiler_flags(Lowering(backend="llvm-cpu", cpu="x86-64-v3"))
    with pytest.raises(iree.CompileFailed, match="time limit"):
        iree.compile_module(ADD, flags, work=tmp_path, limits=iree.Limits(timeout_s=0.0, memory_bytes=4 << 30))
