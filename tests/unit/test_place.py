"""Placement in flow IR: dispatches carry their device, values cross once, and the artefact holds code for both."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_parts import LIMITS

from hwc.errors import StepError
from hwc.lower import iree, links
from hwc.lower.flags import compiler_flags
from hwc.lower.passes.place import HOST, place, split_types
from hwc.lower.placing import APART, Compilation, Placing, placed
from hwc.program import Device, Function, Port, Program, Slice
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import Packed
from hwc.runtime.session import Session
from hwc.spec.legality import LegalityRule, Placement
from hwc.spec.target import Lowering

ROWS, WIDTH = 8, 64
CHIP = Lowering(backend="vmvx", opt_level="O1")
CPU = Lowering(backend="llvm-cpu", cpu="x86-64-v3", opt_level="O2")
RISCV = Lowering(
    backend="llvm-cpu", cpu="generic-rv64", triple="riscv64-unknown-elf", abi="lp64d",
    cpu_features=("+m", "+a", "+f", "+d", "+c", "+v", "+zvl256b"), opt_level="O2",
)
SOFTMAX_TO_HOST = LegalityRule(ops=("softmax",), action="host", reason="no exponential")
MODULE = f"""module {{
  util.global private @w1 = #stream.parameter.named<"model"::"w1"> : tensor<{WIDTH}x{WIDTH}xf32>
  util.global private @w2 = #stream.parameter.named<"model"::"w2"> : tensor<{WIDTH}x{WIDTH}xf32>
  func.func @main(%x: tensor<{ROWS}x{WIDTH}xf32>) -> tensor<{ROWS}x{WIDTH}xf32> {{
    %w1 = util.global.load @w1 : tensor<{WIDTH}x{WIDTH}xf32>
    %w2 = util.global.load @w2 : tensor<{WIDTH}x{WIDTH}xf32>
    %zero = arith.constant 0.0 : f32
    %empty = tensor.empty() : tensor<{ROWS}x{WIDTH}xf32>
    %start = linalg.fill ins(%zero : f32) outs(%empty : tensor<{ROWS}x{WIDTH}xf32>) -> tensor<{ROWS}x{WIDTH}xf32>
    %h = linalg.matmul ins(%x, %w1 : tensor<{ROWS}x{WIDTH}xf32>, tensor<{WIDTH}x{WIDTH}xf32>)
      outs(%start : tensor<{ROWS}x{WIDTH}xf32>) -> tensor<{ROWS}x{WIDTH}xf32>
    %s = linalg.softmax dimension(1) ins(%h : tensor<{ROWS}x{WIDTH}xf32>)
      outs(%empty : tensor<{ROWS}x{WIDTH}xf32>) -> tensor<{ROWS}x{WIDTH}xf32>
    %o = linalg.matmul ins(%s, %w2 : tensor<{ROWS}x{WIDTH}xf32>, tensor<{WIDTH}x{WIDTH}xf32>)
      outs(%start : tensor<{ROWS}x{WIDTH}xf32>) -> tensor<{ROWS}x{WIDTH}xf32>
    return %o : tensor<{ROWS}x{WIDTH}xf32>
  }}
}}
"""


def compiled(work: Path, chip: Lowering, rules: tuple[LegalityRule, ...]) -> tuple[Path, dict[str, Any], str]:
    """Compile the module for a chip beside this machine's CPU; return the artefact, the facts and the placed text."""
    work.mkdir()
    how = Compilation(lowering=chip, flags=compiler_flags(chip), work=work, limits=LIMITS, stored={})
    placing = Placing(legality=rules, placement=Placement(), host=CPU, beside={"driver": "local-sync"})
    made = placed(MODULE, placing, how, {})
    artefact, _ = iree.compile_module(made.mlir, made.flags, work=work, limits=LIMITS)
    return artefact, dict(made.facts), made.mlir


def run(artefact: Path, work: Path, devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the artefact's answer and NumPy's."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    weights = {name: rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("w1", "w2")}
    write_archive(
        {name: Packed(payload=value, dtype="float32", shape=value.shape) for name, value in weights.items()},
        work / "float.irpa",
    )
    port = {"dtype": "float32", "shape": x.shape}
    main = Function(name="main", bucket={}, inputs=(Port(name="x", **port),), outputs=(Port(name="o", **port),))
    program = Program(
        code=Slice(path=artefact), parameters=(Slice(path=work / "float.irpa"),),
        functions=(main,),
        device=Device(driver="local-sync"), beside=(Device(driver="local-sync"),) * (devices - 1),
    )
    found = Session(program).call("main", {"x": x})["o"]
    raised = np.exp((h := x.astype(np.float64) @ weights["w1"]) - h.max(axis=1, keepdims=True))
    return found, raised / raised.sum(axis=1, keepdims=True) @ weights["w2"]


def code_in(artefact: Path) -> list[str]:
    return sorted(name for name in zipfile.ZipFile(artefact).namelist() if name != "module.fb")


def test_what_falls_back_runs_on_the_host_and_the_answer_is_the_same(tmp_path: Path) -> None:
    artefact, facts, text = compiled(tmp_path / "work", CHIP, (SOFTMAX_TO_HOST,))
    (moved,) = [line for line in text.splitlines() if "flow.dispatch @" in line and f"affinity<@{HOST}>" in line]
    assert "softmax" in moved
    host, chip = sorted(code_in(artefact), key=lambda name: "vmvx" in name)  # both products share one piece of code
    assert "embedded_elf_x86_64" in host
    assert "vmvx" in chip
    told = facts["placement"]["main"]
    assert (told["dispatches"], len(told["on_host"])) == (3, 1)
    assert told["link_bytes_per_call"] == 2 * ROWS * WIDTH * 4
    assert told["reasons"] == ["no exponential"]
    found, expected = run(artefact, tmp_path, devices=2)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_without_the_second_device_the_artefact_is_refused(tmp_path: Path) -> None:
    artefact, _, _ = compiled(tmp_path / "work", CHIP, (SOFTMAX_TO_HOST,))
    with pytest.raises(Exception, match="hwc_host"):
        run(artefact, tmp_path, devices=1)


def test_a_foreign_instruction_set_beside_the_host_s_gives_code_for_both(tmp_path: Path) -> None:
    artefact, _, _ = compiled(tmp_path / "work", RISCV, (SOFTMAX_TO_HOST,))
    names = code_in(artefact)
    assert sum("riscv_64" in name for name in names) == 1
    assert sum("x86_64" in name for name in names) == 1


def test_what_the_chip_runs_whole_is_compiled_as_it_came(tmp_path: Path) -> None:
    _, facts, text = compiled(tmp_path / "work", CPU, (LegalityRule(action="native"),))
    assert facts == {}
    assert text == MODULE


def test_an_operation_that_nothing_runs_is_named_with_its_bucket(tmp_path: Path) -> None:
    refusing = LegalityRule(ops=("softmax",), action="reject", reason="no exponential anywhere")
    with pytest.raises(StepError, match="nothing runs softmax of float32: no exponential anywhere") as failure:
        compiled(tmp_path / "work", CPU, (refusing,))
    assert "bucket main" in failure.value.where
    assert "softmax" in failure.value.where.partition("dispatch ")[2]


FLOW = """module attributes {stream.affinity.default = #hal.device.affinity<@chip>} {
  util.global private @chip = #hal.device.target<"local"> : !hal.device
  util.func public @f$async(%arg0: tensor<4xf32>) -> tensor<4xf32> {
    %0 = flow.dispatch @e::@f$async_dispatch_0(%arg0) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = flow.tensor.reshape %0 : tensor<4xf32> -> tensor<2x2xf32>
    %2 = flow.dispatch @e::@f$async_dispatch_1(%1) : (tensor<2x2xf32>) -> %1
    %3 = flow.dispatch @e::@f$async_dispatch_2(%1, %2) : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<4xf32>
    util.return %3 : tensor<4xf32>
  }
}
"""


def test_a_value_crosses_once_in_its_new_shape_and_results_that_reuse_it_follow() -> None:
    made = place(FLOW, "#host", {"f": {"async_dispatch_1"}})
    body = [line.strip() for line in made.mlir.splitlines() if "flow." in line]
    assert body[2] == f"%hwc_moved_0 = flow.tensor.transfer %1 : tensor<2x2xf32> to #hal.device.affinity<@{HOST}>"
    assert body[3].endswith("-> %hwc_moved_0")
    assert body[4] == "%hwc_moved_1 = flow.tensor.transfer %2 : tensor<2x2xf32> to #hal.device.affinity<@chip>"
    assert "(%1, %hwc_moved_1)" in body[5]
    assert links.transfers(made.mlir) == {"f": {"transfers": 2, "bytes": 32}}


def test_a_dispatch_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="dispatch nothing of f is not in the module"):
        place(FLOW, "#host", {"f": {"nothing"}})


def test_text_that_is_not_flow_ir_is_told() -> None:
    with pytest.raises(ValueError, match="not the compiler's flow IR"):
        place(MODULE, "#host", {})


def test_types_are_split_between_and_not_within() -> None:
    assert split_types("tensor<2x3xf32>, index, vector<4xi8>") == ["tensor<2x3xf32>", "index", "vector<4xi8>"]


def test_executables_of_two_instruction_sets_are_not_linked(tmp_path: Path) -> None:
    tmp_path.joinpath("work").mkdir()
    how = Compilation(
        lowering=CHIP, flags=compiler_flags(CHIP), work=tmp_path / "work", limits=LIMITS, stored={}
    )
    placing = Placing(legality=(SOFTMAX_TO_HOST,), placement=Placement(), host=CPU, beside={})
    assert APART in placed(MODULE, placing, how, {}).flags


@pytest.mark.parametrize(("kind", "expected"), [("tensor<8x64xf32>", 2048), ("tensor<i64>", 8), ("tensor<3xi1>", 3)])
def test_bytes_of_a_tensor_follow_from_its_type(kind: str, expected: int) -> None:
    assert links.tensor_bytes(kind) == expected
