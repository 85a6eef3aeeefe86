"""State becomes mutable globals: inputs and results vanish, writes are slices, and what does not fit is refused."""

from __future__ import annotations

import pytest

from hwc.lower.passes.kept_state import KeptTensor, keep_state

CACHE = "!torch.vtensor<[2,3,8,4],f32>"
NEW = "!torch.vtensor<[2,3,1,4],f32>"
STARTS = "!torch.vtensor<[2],si64>"
INDEX = "!torch.vtensor<[2,3,1,3],si64>"
LOGITS = "!torch.vtensor<[2,1,5],f32>"


def module(*, written: str = "onnx.ScatterND", result: str = CACHE) -> str:
    return "\n".join(
        [
            "module {",
            f"  func.func @main_graph(%arg0: {STARTS}, %arg1: {CACHE}, %arg2: {CACHE}) -> "
            f"({LOGITS}, {result}, {CACHE}) "
            "attributes {torch.onnx_meta.opset_version = 21 : si64} {",
            f'    %0 = torch.operator "onnx.New"(%arg0) : ({STARTS}) -> {NEW} ',
            f'    %1 = torch.operator "onnx.Index"(%arg0) : ({STARTS}) -> {INDEX} ',
            f'    %2 = torch.operator "{written}"(%arg1, %1, %0) : ({CACHE}, {INDEX}, {NEW}) -> {CACHE} ',
            f'    %3 = torch.operator "onnx.ScatterND"(%arg2, %1, %0) : ({CACHE}, {INDEX}, {NEW}) -> {CACHE} ',
            f'    %4 = torch.operator "onnx.Logits"(%2, %3) : ({CACHE}, {CACHE}) -> {LOGITS} ',
            f"    return %4, %2, %3 : {LOGITS}, {result}, {CACHE}",
            "  }",
            "}",
        ]
    )


KEPT = (
    KeptTensor(symbol="state.key", argument=1, result=1, start=0),
    KeptTensor(symbol="state.value", argument=2, result=2, start=0),
)


def test_inputs_and_results_that_are_state_vanish_from_the_signature() -> None:
    header = next(line for line in keep_state(module(), KEPT).splitlines() if "@main_graph" in line)
    assert header.startswith(f"  func.func @main_graph(%arg0: {STARTS}) -> {LOGITS} attributes")


def test_each_state_is_loaded_and_stored_once() -> None:
    text = keep_state(module(), KEPT)
    for name in ("key", "value"):
        assert text.count(f'util.global.load @"state.{name}"') == 1
        assert text.count(f'util.global.store %made.{1 if name == "key" else 2}, @"state.{name}"') == 1


def test_globals_of_equal_type_begin_with_different_values() -> None:
    """IREE 3.13 gives globals of equal first value and size one buffer."""
    lines = [line for line in keep_state(module(), KEPT).splitlines() if "util.global private mutable" in line]
    firsts = [line.partition("dense<")[2].partition(">")[0] for line in lines]
    assert len(lines) == len(set(firsts)) == len(KEPT)


def test_every_row_and_head_is_written_at_its_own_start() -> None:
    text = keep_state(module(), KEPT)
    assert text.count("tensor.insert_slice") == len(KEPT) * 2 * 3
    assert text.count("tensor.extract %put.1.starts") == 2
    assert "[1, 2, %put.1.1.at, 0] [1, 1, 1, 4]" in text


def test_the_scatter_stays_as_a_comment_so_that_lines_still_count_nodes() -> None:
    lines = [line.strip() for line in keep_state(module(), KEPT).splitlines()]
    assert sum(line.startswith('// %') and "onnx.ScatterND" in line for line in lines) == len(KEPT)


def test_a_module_without_state_is_left_as_it_is() -> None:
    assert keep_state(module(), ()) == module()


def test_state_that_is_written_in_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state\.key is not written by one ScatterND"):
        keep_state(module(written="onnx.Add"), KEPT)


def test_state_whose_type_changes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state\.key is .*8,4.*, then .*9,4"):
        keep_state(module(result="!torch.vtensor<[2,3,9,4],f32>"), KEPT)


def test_text_that_is_no_import_is_refused() -> None:
    with pytest.raises(ValueError, match="not what iree-import-onnx writes"):
        keep_state("module {\n}\n", KEPT)
