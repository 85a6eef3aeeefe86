"""What ``hwc targets compare`` does: predict on every target, then show who leads and what could change it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from hwc import render
from hwc.cli.predict_action import interval, plain
from hwc.files import write_atomic
from hwc.pipeline import comparing
from hwc.pipeline.comparing import UNITS, By, Comparison, Standing
from hwc.pipeline.predicting import Asked
from hwc.report.compared import Mark, Swing, Swings, picture
from hwc.spec.project import open_project

TOLD = 5
"""Figures of each target that tables show; JSON and the picture hold more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a language model's calls."""

    batch: int
    context: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is compared, and how it is shown."""

    scheme: str | None
    by: By
    plot: Path | None
    format: str


def compare(model: str, targets: list[str], wanted: Wanted, sizes: Sizes) -> None:
    """Show a comparison, and write its picture where one is asked for."""
    project = open_project(Path.cwd())
    with render.Progress(quiet=wanted.format == "json") as progress:
        asked = comparing.fitting(
            project,
            Asked(
                model=model, scheme=wanted.scheme, batches=(sizes.batch,), contexts=(sizes.context,),
                prompts=(sizes.prompt_tokens,),
            ),
        )
        found = comparing.compare(project, asked, targets, wanted.by, progress)
    if wanted.plot is not None:
        write_atomic(wanted.plot, drawn(model, found).encode())
    if wanted.format == "json":
        render.as_json(as_table(found))
    else:
        _show(model, found)


def as_table(found: Comparison) -> dict[str, object]:
    """Return a comparison as JSON's plain values."""
    return {
        "by": found.by, "unit": UNITS[found.by], "call": found.call, "best": found.best,
        "standings": [
            {
                "target": one.told.answer.target, "hardware_status": one.told.answer.hardware_status,
                "method": one.row.call.method, "metric": one.metric, "exists": one.exists,
                "row": plain(one.row), "assumed": one.told.answer.assumed, "missing": one.told.answer.missing,
                "tornado": [{**asdict(bar), "figure": bar.figure.model_dump()} for bar in one.tornado],
                "break_even": [asdict(value) for value in one.break_even],
            }
            for one in found.standings
        ],
    }


def _show(model: str, found: Comparison) -> None:
    columns = ("target", "hardware", "method", "ms (low–high)", "J per unit", "$/M (low–high)", "bound by")
    render.table(f"{model}, {found.call}, by {found.by}", columns, [_row(one) for one in found.standings])
    bars = [
        [one.told.answer.target, bar.key, interval(bar.figure), f"{bar.at_low:.3g} … {bar.at_high:.3g}"]
        for one in found.standings
        for bar in one.tornado[:TOLD]
    ]
    if bars:
        moved = ("target", "figure", "base (low–high)", f"{UNITS[found.by]} at low … high")
        render.table("what single figures move", moved, bars)
    for one in found.standings:
        if one.break_even:
            _show_break_even(one, found)
    render.note(headline(found))


def headline(found: Comparison) -> str:
    """Say who leads among chips that exist; one that does not is never it."""
    answers = [one.told.answer for one in found.standings if not one.exists]
    missing = [f"{one.target} ({one.hardware_status})" for one in answers]
    rest = f"; no silicon, and compared for its break-even: {', '.join(missing)}" if missing else ""
    best = next((one for one in found.standings if one.told.answer.target == found.best), None)
    if best is None:
        return f"no chip that exists tells {UNITS[found.by]}, so none leads{rest}"
    told = f"{best.metric:.3g} {UNITS[found.by]} ({best.row.call.method})"
    return f"{found.best} leads among the chips that exist: {told}{rest}"


def _show_break_even(one: Standing, found: Comparison) -> None:
    able = [value for value in one.break_even if value.value is not None]
    rows = [
        [value.key, f"{value.base:.3g}", f"{value.value:.3g}", "yes" if value.within else "no"] for value in able
    ]
    title = f"what one figure of {one.told.answer.target} would have to be to draw level with {found.best}"
    render.table(f"{title}, the rest at base", ("figure", "base", "break-even", "within the assumption"), rows)
    if unable := len(one.break_even) - len(able):
        render.note(f"{one.told.answer.target}: no value of the {unable} other assumed figures does alone")


def _row(one: Standing) -> list[str]:
    answer, row = one.told.answer, one.row
    return [
        answer.target, answer.hardware_status, row.call.method, interval(row.seconds, 1e3), interval(row.j_per_unit),
        interval(row.usd_per_million), row.call.bound,
    ]


def drawn(model: str, found: Comparison) -> str:
    """Return the picture of a comparison."""
    marks, swings = [], []
    for one in found.standings:
        spread = {"latency": one.row.seconds, "energy": one.row.j_per_unit, "usd": one.row.usd_per_million}[found.by]
        name = one.told.answer.target
        if spread is None:
            continue
        label = f"{name} ({'' if one.exists else one.told.answer.hardware_status + ', '}{one.row.call.method})"
        marks.append(
            Mark(label=label, low=spread.low, base=spread.base, high=spread.high, exists=one.exists)
        )
        if one.tornado and one.metric:
            bars = tuple(Swing(label=bar.key, at_low=bar.at_low, at_high=bar.at_high) for bar in one.tornado)
            swings.append(Swings(target=name, base=one.metric, bars=bars))
    return picture(f"{model}, {found.call}: {UNITS[found.by]}", UNITS[found.by], marks, swings)
