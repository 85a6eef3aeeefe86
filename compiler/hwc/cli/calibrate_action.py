"""What ``hwc targets calibrate`` does: measure, fit, write, show."""

from __future__ import annotations

import json
from pathlib import Path

from hwc import render
from hwc.files import write_atomic
from hwc.pipeline import calibrating
from hwc.predict.efficiency import Calibration, to_json
from hwc.spec.project import open_project


def calibrate(target: str, output: Path | None, *, budget_s: float, format: str) -> None:
    """Write the calibration and show what each kind of work reaches."""
    project = open_project(Path.cwd())
    found = calibrating.run(project, target, budget_s=budget_s, tell=render.note)
    path = (output or calibrating.default_path(project, target)).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_json(found)
    write_atomic(path, text.encode())
    if format == "json":
        render.as_json(json.loads(text))
        return
    _show(found)
    named = f'; `calibration = "{calibrating.FOLDER}/{path.name}"` in the descriptor names it'
    render.note(f"written to {path}{named if output is None else ''}")


def _show(found: Calibration) -> None:
    rows = []
    for entry in found.classes:
        error = found.held_out["by_class"][entry.told()]
        rows.append(
            [
                entry.told(), str(entry.samples), f"{entry.compute:.3g}", f"{entry.memory:.3g}",
                f"{error['median']:.0%}", f"{error['p90']:.0%}",
            ]
        )
    title = f"{found.target} on {found.machine['cpu_model']}, {found.conditions['threads']} thread(s), measured"
    heads = ("work", "shapes", "of peak arithmetic", "of memory bandwidth", "held-out error, median", "p90")
    render.table(title, heads, rows)
    every = found.held_out["all"]
    load = found.conditions["before"]["load_1min"]
    render.note(
        f"peaks {found.flop_per_s / 1e9:.1f} Gflop/s and {found.bytes_per_s / 1e9:.1f} GB/s; a dispatch "
        f"{found.dispatch_s * 1e6:.2f} µs, a call {found.invocation_s * 1e6:.1f} µs; error on shapes held out: median "
        f"{every['median']:.1%}, p90 {every['p90']:.1%} of {every['samples']}; load before {load:.2f}"
    )
