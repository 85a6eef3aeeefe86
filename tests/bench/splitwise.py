"""Predict what was never fitted: Splitwise's prompt and token times, with a whole model or a whole GPU held out.

    .venv/bin/python tests/bench/splitwise.py

Writes docs/reference/bench-splitwise.md, .json and docs/images/bench-splitwise.svg; the same file gives the same
bytes, so tests compare them. Takes about ten seconds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import splitwise_page
from splitwise_cells import GPUS, SHA256, SHAPES, Cell, read

from hwc.predict import quarantine
from hwc.predict.fit import errors
from hwc.predict.serving_fit import Case, Figure, Fit, fit_figure

FIGURES: tuple[Figure, ...] = ("prompt", "token")
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
SEED, RANDOM_PARTS = 7, 5
SIZES_BYTES = tuple(1 << power for power in range(24, 29))
Change = Callable[[Case], Case]


def measure() -> dict[str, Any]:
    """Return every figure of the page."""
    table = read()
    trusted = [cell for cell in table.cells if not cell.suspect]
    suspects = [cell for cell in table.cells if cell.suspect]
    share = len(suspects) / len(table.cells)
    if share > quarantine.MOST_REMOVED:
        raise SystemExit(f"the rules quarantine {share:.1%} of the cells, more than {quarantine.MOST_REMOVED:.0%}")
    return {
        "data_sha256": SHA256,
        "copies": table.copies,
        "cells": len(table.cells),
        "quarantined": [_told(cell) for cell in suspects],
        "folds": [fold for figure in FIGURES for fold in _folds(trusted, figure)],
        "folds_without_quarantine": [
            {key: fold[key] for key in ("figure", "held_out", "errors")}
            for figure in FIGURES
            for fold in _folds(table.cells, figure)
        ],
        "ablations": _ablations(trusted),
        "large_messages_chosen_blind": _chosen(trusted),
        "random_cells": {figure: _random(trusted, figure) for figure in FIGURES},
        "repeats": {figure: _repeats(trusted, figure) for figure in FIGURES},
    }


def _told(cell: Cell) -> dict[str, Any]:
    return {key: value for key, value in asdict(cell).items() if key != "repeats_s"} | {"measured_s": cell.measured_s}


def _folds(cells: Sequence[Cell], figure: Figure, change: Change = lambda case: case) -> list[dict[str, Any]]:
    mine = [cell for cell in cells if cell.figure == figure]
    folds = [_fold(mine, lambda cell, out=name: cell.model == out, f"model {name}", change) for name in SHAPES]
    return folds + [_fold(mine, lambda cell, out=name: cell.hardware == out, f"GPU {name}", change) for name in GPUS]


def _fold(cells: Sequence[Cell], left_out: Callable[[Cell], bool], name: str, change: Change) -> dict[str, Any]:
    """Fit to what is not left out, and predict what is."""
    train = [cell for cell in cells if not left_out(cell)]
    test = [cell for cell in cells if left_out(cell)]
    found = fit_figure(cells[0].figure, [change(cell.case) for cell in train], _measured(train))
    predicted = found.predict_s([change(cell.case) for cell in test])
    return {
        "figure": cells[0].figure,
        "held_out": name,
        "errors": asdict(errors(predicted, _measured(test))),
        "of_the_fit": asdict(errors(found.predict_s([change(cell.case) for cell in train]), _measured(train))),
        "coefficients": dict(found.fitted.values),
        "at_bound": found.fitted.at_bound,
        "cells": [_told(cell) | {"predicted_s": float(s)} for cell, s in zip(test, predicted, strict=True)],
    }


def _measured(cells: Sequence[Cell]) -> np.ndarray:
    return np.asarray([cell.measured_s for cell in cells])


def _ablations(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the held-out GPUs' errors with a part of what the data sheets tell left out."""
    changes: dict[str, Change] = {
        "as it is": lambda case: case,
        "energy of a flop as N5 gives it (0.70), not N5P (0.60)": lambda case: _gpu(case, "energy_ratio", 0.7),
        "energy of a flop equal on both": lambda case: _gpu(case, "energy_ratio", 1.0),
        "one thread of both hosts equal": lambda case: _gpu(case, "host_speed", 1.0),
    }
    return [
        {"change": name, "figure": fold["figure"], "held_out": fold["held_out"], "errors": fold["errors"]}
        for name, change in changes.items()
        for figure in FIGURES
        for fold in _folds(cells, figure, change)
        if fold["held_out"].startswith("GPU")
    ]


def _gpu(case: Case, key: str, value: float) -> Case:
    """Change a fact of every GPU but the reference, whose ratios are 1."""
    kept = 1.0 if getattr(case.gpu, key) == 1.0 else value
    return replace(case, gpu=replace(case.gpu, **{key: kept}))


def _chosen(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the prompts' errors where each fold's own data choose the size from which a message is large."""
    mine = [cell for cell in cells if cell.figure == "prompt"]
    found = []
    for key, names in (("model", SHAPES), ("hardware", GPUS)):
        for name in names:
            train = [cell for cell in mine if getattr(cell, key) != name]
            test = [cell for cell in mine if getattr(cell, key) == name]
            cases = [cell.case for cell in train]
            fits = [fit_figure("prompt", cases, _measured(train), large_bytes=size) for size in SIZES_BYTES]
            best = min(fits, key=lambda fit: float(np.mean(np.abs(np.log(fit.predict_s(cases) / _measured(train))))))
            told = asdict(errors(best.predict_s([cell.case for cell in test]), _measured(test)))
            found.append({"held_out": name, "large_bytes": best.large_bytes, "errors": told})
    return found


def _random(cells: Sequence[Cell], figure: Figure) -> dict[str, float]:
    """Return the errors on random parts, which leak: each cell has neighbours of its own model and GPU in the fit."""
    mine = [cell for cell in cells if cell.figure == figure]
    order = np.random.default_rng(SEED).permutation(len(mine))
    predicted = np.zeros(len(mine))
    for part in range(RANDOM_PARTS):
        inside = set(order[part::RANDOM_PARTS].tolist())
        train = [cell for index, cell in enumerate(mine) if index not in inside]
        found: Fit = fit_figure(figure, [cell.case for cell in train], _measured(train))
        rows = sorted(inside)
        predicted[rows] = found.predict_s([mine[index].case for index in rows])
    return asdict(errors(predicted, _measured(mine)))


def _repeats(cells: Sequence[Cell], figure: Figure) -> dict[str, float]:
    """Return how far single repeats lie from their median, and how far deciles lie apart: no prediction is closer."""
    mine = [cell for cell in cells if cell.figure == figure]
    away = sorted(abs(value / cell.measured_s - 1) for cell in mine for value in cell.repeats_s)
    spreads = sorted(quarantine.spread(cell.repeats_s) for cell in mine)
    large = [quarantine.spread(c.repeats_s) for c in mine if c.batch * c.prompt_tokens >= 4096]
    return {
        "away_median": statistics.median(away), "away_p90": away[int(0.9 * len(away))],
        "spread_median": statistics.median(spreads), "spread_p90": spreads[int(0.9 * len(spreads))],
        "spread_median_from_4096_tokens": statistics.median(large),
    }


def main() -> None:
    """Write the page, its data and its picture."""
    facts = measure()
    (REFERENCE / "bench-splitwise.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    (REFERENCE / "bench-splitwise.md").write_text(splitwise_page.page(facts))
    (ROOT / "docs" / "images" / "bench-splitwise.svg").write_text(splitwise_page.picture(facts["folds"]))
    for fold in facts["folds"]:
        print(f"{fold['figure']:7} {fold['held_out']:18} {splitwise_page.short(fold['errors'])}")


if __name__ == "__main__":
    main()
