"""Single figures move an answer as they should, and a break-even is a value that really draws level."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from predicted_parts import LLAMA_70B, npu

from hwc.predict import chip, language, vary, whole
from hwc.predict.storage import storage
from hwc.report.compared import Mark, Swing, Swings, picture
from hwc.spec.target import TargetSpec

GUESSES = {
    "sram": {"level": 1, "size_bytes": 16 << 20},
    "dram": {
        "level": 2, "size_bytes": 64 << 30,
        "read_bytes_per_s": {"low": 50e9, "base": 100e9, "high": 400e9},
    },
}
TARGET = npu(memories=GUESSES, overheads={"dispatch_s": {"low": 1e-9, "base": 2e-9, "high": 3e-9}})
OPERATIONS = language.operations(LLAMA_70B, language.decode(1, 512), storage(None, "bfloat16"))


def seconds(target: TargetSpec) -> float:
    return whole.predict(OPERATIONS, chip.corners(target)).seconds.base


def test_the_figure_that_bounds_an_answer_moves_it_most() -> None:
    bars = vary.tornado(TARGET, seconds)
    assert bars[0].key == "hardware.memories.dram.read_bytes_per_s"
    assert bars[0].at_low > seconds(TARGET) > bars[0].at_high
    assert [bar.width for bar in bars] == sorted((bar.width for bar in bars), reverse=True)


@pytest.mark.parametrize("share", [0.7, 1.3])
def test_a_break_even_draws_level_when_it_is_put_in(share: float) -> None:
    goal = seconds(TARGET) * share
    found = {one.key: one for one in vary.break_even(TARGET, seconds, goal)}
    one = found["hardware.memories.dram.read_bytes_per_s"]
    assert one.value is not None
    assert one.within
    moved = vary.scaled(TARGET, one.key, one.value / one.base)
    assert seconds(moved) == pytest.approx(goal, rel=1e-4)


def test_a_figure_that_cannot_draw_level_alone_has_no_break_even() -> None:
    found = {one.key: one.value for one in vary.break_even(TARGET, seconds, seconds(TARGET) / 2)}
    assert found["hardware.overheads.dispatch_s"] is None


def test_scaling_a_list_of_rates_scales_all_of_them_and_leaves_the_target_alone() -> None:
    moved = vary.scaled(TARGET, "hardware.units.npu.rates.flop_per_s", 2.0)
    rates = [[rate.flop_per_s for rate in one.hardware.units["npu"].rates] for one in (TARGET, moved)]
    assert rates[1] == [2 * rate for rate in rates[0]]


def test_the_picture_is_an_svg_that_marks_what_does_not_exist_and_escapes_names() -> None:
    marks = [
        Mark(label="real", low=1, base=2, high=3, exists=True),
        Mark(label="<guess>", low=0.5, base=2, high=30, exists=False),
    ]
    swings = [Swings(target="<guess>", base=2, bars=(Swing(label="hardware.x", at_low=1, at_high=4),))]
    drawn = ET.fromstring(picture("title", "USD per million", marks, swings))
    classes = [element.get("class", "") for element in drawn.iter()]
    assert sum("guess" in name for name in classes) == 2
    assert "<guess>" in [element.text for element in drawn.iter()]
