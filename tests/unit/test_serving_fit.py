"""Serving times follow physics, and the page of held-out errors is what the code gives today."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import splitwise
import splitwise_cells
import splitwise_page

from hwc.predict.serving_fit import COEFFICIENTS, Case, Figure, fit_figure

CELLS = splitwise_cells.read().cells


def fitted(figure: Figure) -> tuple[list[Case], np.ndarray]:
    mine = [cell for cell in CELLS if cell.figure == figure and not cell.suspect]
    return [cell.case for cell in mine], np.asarray([cell.measured_s for cell in mine])


@pytest.mark.parametrize("figure", ["prompt", "token"])
def test_more_work_takes_longer_and_a_faster_chip_is_faster(figure: Figure) -> None:
    cases, measured = fitted(figure)
    found = fit_figure(figure, cases, measured)
    case = replace(cases[0], gpus=8, prompt_tokens=1024, batch=4, new_tokens=128)
    faster = replace(case.gpu, flop_per_s=2e15, bytes_per_s=1e13, tdp_w=4000, clock_hz=4e9, host_speed=9)

    base, longer, wider, better = found.predict_s(
        [case, replace(case, prompt_tokens=4096), replace(case, batch=32), replace(case, gpu=faster)]
    )

    assert base < longer
    assert base < wider
    assert better < base / 2


def test_what_a_fit_finds_in_its_own_predictions_is_itself() -> None:
    cases, measured = fitted("token")
    first = fit_figure("token", cases, measured)

    again = fit_figure("token", cases, first.predict_s(cases))

    assert again.predict_s(cases) == pytest.approx(first.predict_s(cases), rel=1e-3)


def test_derived_rows_and_impossible_cells_are_set_aside_by_rule() -> None:
    table = splitwise_cells.read()
    suspects = {(cell.figure, cell.gpus, cell.batch) for cell in table.cells if "faster than" in cell.suspect}

    assert table.copies == {"h100-80gb-pcap": ("h100-80gb", pytest.approx(1.3))}
    assert suspects == {("prompt", 2, 64)}


def test_a_fit_is_blind_to_what_is_held_out() -> None:
    mine = [cell for cell in CELLS if cell.figure == "token" and not cell.suspect]
    spoiled = [
        replace(cell, repeats_s=tuple(9 * value for value in cell.repeats_s)) if cell.hardware == "a100-80gb" else cell
        for cell in mine
    ]

    plain, other = (
        next(fold for fold in splitwise._folds(cells, "token") if fold["held_out"] == "GPU a100-80gb")
        for cells in (mine, spoiled)
    )

    assert plain["coefficients"] == other["coefficients"]
    assert other["errors"]["median"] > 0.8


def test_the_published_page_is_what_the_code_gives() -> None:
    facts = json.loads((splitwise.REFERENCE / "bench-splitwise.json").read_text())
    folds = [fold for figure in splitwise.FIGURES for fold in splitwise._folds(
        [cell for cell in CELLS if not cell.suspect], figure)]

    assert [fold["held_out"] for fold in folds] == [fold["held_out"] for fold in facts["folds"]]
    for fold, published in zip(folds, facts["folds"], strict=True):
        assert fold["errors"] == pytest.approx(published["errors"], rel=0.02, abs=1e-3)
    assert (splitwise.REFERENCE / "bench-splitwise.md").read_text() == splitwise_page.page(facts)


def test_every_coefficient_starts_inside_its_interval() -> None:
    for unknowns in COEFFICIENTS.values():
        assert all(one.low <= one.start <= one.high for one in unknowns)
