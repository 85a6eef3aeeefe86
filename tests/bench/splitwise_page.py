"""The Splitwise bench's figures as a page and a picture for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwc.report.html import Html, element, number
from hwc.report.plots import log_ticks

Row = Mapping[str, Any]
AIM_MEDIAN, AIM_P90 = 0.10, 0.15
SIDE, MARGIN, TOP = 330, 62, 46
COLOURS = {"a100-80gb": "#2a78d6", "h100-80gb": "#eb6834"}


def short(row: Row) -> str:
    """Return an error in one line."""
    told = " ".join(f"{key} {row[key]:+.1%}" for key in ("median", "p90", "worst", "bias"))
    return f"{told} n={row['samples']}"


def page(facts: Row) -> str:
    """Return docs/reference/bench-splitwise.md."""
    return f"""# Bench: serving times of models and GPUs that were not fitted

<!-- Written by tests/bench/splitwise.py; run it again, do not edit. -->

Times of prompts and of tokens that the authors of Splitwise measured on nodes of A100 and H100 GPUs
([tests/data/splitwise](../../tests/data/splitwise/README.md), SHA-256 `{facts['data_sha256'][:16]}…`), predicted by
`hwc.predict.serving_fit` from the model's shape and the GPU's data sheet. Its few coefficients are fitted to
everything but one whole model, or everything but one whole GPU. Measured: theirs. Predicted: estimated by us. The raw
figures are in [bench-splitwise.json](bench-splitwise.json).

## Errors on what was held out

| Figure | Held out | Cells | Median | p90 | Worst | Bias | Median, p90 without quarantine |
|---|---|---:|---:|---:|---:|---:|---:|
{_folds(facts)}

Error is |predicted ÷ median of the repeats − 1|, percentiles by nearest rank. Aim: median ≤ {AIM_MEDIAN:.0%}, p90 ≤
{AIM_P90:.0%}. {_verdict(facts)}

![Predicted against measured](../images/bench-splitwise.svg)

Anchors, each on its own data: LLMCompass 4.1 % end to end (with the GPU's own measurements at hand), KernelSight 15 %
of TTFT on GPUs it has not seen.

Random cells leak (a cell's neighbours of the same model and GPU are in the fit), so they head nothing: prompt
{_pair(facts['random_cells']['prompt'])}, token {_pair(facts['random_cells']['token'])}.

## What was left out, by which rule

- {_copies(facts)} Such rows are no measurements, so they are neither fitted nor counted.
- Rows that occur several times are one; a prompt does not depend on how many tokens follow, so those sweeps are one
  cell: {facts['cells']} cells are left.
- The rules look at measurements alone, never at a prediction: a time below what the data sheet's peak arithmetic and
  bandwidth allow (with both figures of such a run); repeats whose deciles lie more than 25 % of the median apart; a
  time below 0.9 × that of a smaller size. They take {len(facts['quarantined'])} of {facts['cells']} cells
  ({len(facts['quarantined']) / facts['cells']:.1%}; at most 5 % may be):

| Model | GPU | Figure | GPUs | Prompt | Batch | Why |
|---|---|---|---:|---:|---:|---|
{_quarantined(facts['quarantined'])}

## What the errors are made of

- **Repeats.** {_repeats(facts['repeats'])}
- **Many tokens in flight.** {_large(facts)}
- **The host.** Below about 512 tokens in flight, and for tokens on four and eight GPUs, the time is that of the host
  that launches kernels. No data sheet of a GPU tells it; two generations of processor cores stand in for it, assumed.
- **Eight GPUs alone.** The file has bloom-176b on eight GPUs only: a fit to it has never seen two or four.
- **The form** was chosen with the whole file in view, and so were two facts: the size of messages named above, and how
  much less energy a flop takes on the newer process (0.60, after 1.0, 0.7 and 0.55 were tried). Only the coefficients
  were fitted blind. An independent file
  would be a harder test.

## What the data sheets' facts are worth

Errors on the GPU that was held out, median and p90, with a fact changed. A dense matmul draws a GPU's whole power
before it reaches its peak at boost clock; how much less energy a flop takes on the newer process decides what the
other GPU sustains.

| What the prediction knows | {' | '.join(f'{f} {h}' for f, h in _ablated(facts))} |
|---|{'---:|' * len(_ablated(facts))}
{_ablations(facts)}

## Coefficients

| Figure | Held out | {' | '.join(_COEFFICIENTS)} |
|---|---|{'---:|' * len(_COEFFICIENTS)}
{_coefficients(facts)}

`*`: at an end of the interval that physics leaves it: these data do not hold it.
"""


_COEFFICIENTS = (
    "pj_per_flop", "memory_share", "link_share", "large_message_slowdown", "activation_passes", "launch_s",
    "kernel_s_ghz", "all_reduce_s_ghz",
)


def _folds(facts: Row) -> str:
    rows = []
    for fold, raw in zip(facts["folds"], facts["folds_without_quarantine"], strict=True):
        row = fold["errors"]
        told = " | ".join(f"{row[key]:.1%}" for key in ("median", "p90", "worst"))
        rows.append(
            f"| {fold['figure']} | {fold['held_out']} | {row['samples']} | {told} | {row['bias']:+.1%} | "
            f"{_pair(raw['errors'])} |"
        )
    return "\n".join(rows)


def _pair(row: Row) -> str:
    return f"{row['median']:.1%}, {row['p90']:.1%}"


def _verdict(facts: Row) -> str:
    folds = facts["folds"]
    aims = {"median": AIM_MEDIAN, "p90": AIM_P90}
    held = [sum(fold["errors"][key] <= aim for fold in folds) for key, aim in aims.items()]
    missed = [f"{fold['figure']} of {fold['held_out']}" for fold in folds if fold["errors"]["p90"] > AIM_P90]
    told = f"The median is held in {held[0]} of {len(folds)} rows, the p90 in {held[1]}"
    return f"{told}; it is missed for the {', the '.join(missed)}." if missed else f"{told}."


def _copies(facts: Row) -> str:
    return " ".join(
        f"Every prompt time of `{copy}` is that of `{of}` × {ratio:.4g}, to the last digit." for copy, (of, ratio) in
        sorted(facts["copies"].items())
    )


def _quarantined(rows: Sequence[Row]) -> str:
    return "\n".join(
        f"| {row['model']} | {row['hardware']} | {row['figure']} | {row['gpus']} | {row['prompt_tokens']} | "
        f"{row['batch']} | {row['suspect']} |"
        for row in rows
    )


def _repeats(found: Row) -> str:
    away = [f"single {name}s lie {_pair_of(found[name], 'away')} from their median" for name in ("prompt", "token")]
    deciles = found["prompt"]["spread_median_from_4096_tokens"]
    return (
        f"In the median and at p90, {' and '.join(away)}: the floor of any prediction. From 4096 tokens in flight on, "
        f"the deciles of a prompt's repeats lie {deciles:.0%} of the median apart."
    )


def _pair_of(row: Row, prefix: str) -> str:
    return f"{row[f'{prefix}_median']:.1%} and {row[f'{prefix}_p90']:.1%}"


def _large(facts: Row) -> str:
    parts = []
    for large, name in ((False, "below"), (True, "from")):
        cells = [
            abs(cell["predicted_s"] / cell["measured_s"] - 1)
            for fold in facts["folds"]
            if fold["figure"] == "prompt"
            for cell in fold["cells"]
            if (cell["batch"] * cell["prompt_tokens"] >= 4096) == large
        ]
        cells.sort()
        parts.append(f"{name} 4096 tokens median {cells[len(cells) // 2]:.1%}, p90 {cells[int(0.9 * len(cells))]:.1%}")
    chosen = "; ".join(
        f"{row['large_bytes'] >> 20} MiB with {row['held_out']} held out ({_pair(row['errors'])})"
        for row in facts["large_messages_chosen_blind"]
    )
    return (
        f"Prompts over all four rows: {'; '.join(parts)}. From there on, four and eight A100s lose up to half of their "
        "rate a token while two lose a tenth, and H100s lose less; a slowdown of messages of 64 MiB and more stands in "
        "for it. What it is (links, or power shared by a full node) the file does not tell. Where each fit's own data "
        f"choose that size among powers of two: {chosen}."
    )


def _ablated(facts: Row) -> list[tuple[str, str]]:
    first = facts["ablations"][0]["change"]
    return [(row["figure"], row["held_out"]) for row in facts["ablations"] if row["change"] == first]


def _ablations(facts: Row) -> str:
    names = dict.fromkeys(row["change"] for row in facts["ablations"])
    return "\n".join(
        f"| {name} | {' | '.join(_pair(row['errors']) for row in facts['ablations'] if row['change'] == name)} |"
        for name in names
    )


def _coefficients(facts: Row) -> str:
    rows = []
    for fold in facts["folds"]:
        told = [
            number(fold["coefficients"].get(name)) + ("*" if name in fold["at_bound"] else "") for name in _COEFFICIENTS
        ]
        rows.append(f"| {fold['figure']} | {fold['held_out']} | {' | '.join(told)} |")
    return "\n".join(rows)


def picture(folds: Sequence[Row]) -> str:
    """Return the scatter of all held-out cells, prompts left and tokens right."""
    parts: list[Html] = [element("title", "Predicted against measured times of what was held out")]
    for index, figure in enumerate(("prompt", "token")):
        parts += _panel([fold for fold in folds if fold["figure"] == figure], figure, index * (SIDE + MARGIN) + MARGIN)
    width, height = 2 * (SIDE + MARGIN) + 20, SIDE + TOP + 52
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "role": "img",
                  "font-family": "system-ui, sans-serif", "font-size": "12", "fill": "#7a828c"}
    return element("svg", parts, attributes) + "\n"


def _panel(folds: Sequence[Row], figure: str, left: float) -> Iterator[Html]:
    cells = [(fold, cell) for fold in folds for cell in fold["cells"]]
    values = [cell[key] for _, cell in cells for key in ("predicted_s", "measured_s")]
    low, high = min(values) / 1.2, max(values) * 1.2

    def place(seconds: float) -> float:
        return SIDE * min(1.0, max(0.0, math.log(seconds / low) / math.log(high / low)))

    bottom = TOP + SIDE
    yield _text(left, TOP - 26, f"{figure}: predicted against measured, s", anchor="start", weight="600")
    for index, (name, colour) in enumerate(COLOURS.items()):
        yield element("circle", "", {"cx": f"{left + 6 + 96 * index}", "cy": f"{TOP - 11}", "r": "4", "fill": colour})
        yield _text(left + 14 + 96 * index, TOP - 7, name, anchor="start")
    for tick in log_ticks(low, high):
        at = place(tick)
        yield _line((left + at, TOP), (left + at, bottom))
        yield _line((left, bottom - at), (left + SIDE, bottom - at))
        yield _text(left + at, bottom + 16, number(tick))
        yield _text(left - 6, bottom - at + 4, number(tick), anchor="end")
    for factor in (1 / (1 + AIM_P90), 1.0, 1 + AIM_P90):
        ends = [(left + place(x), bottom - place(x * factor)) for x in (low * 1.2, high / 1.2)]
        yield _line(ends[0], ends[1], "#7a828c" if factor == 1.0 else "#7a828c99")
    for fold, cell in cells:
        told = f"{cell['model']}, {cell['gpus']} {cell['hardware']}, {cell['batch']}×{cell['prompt_tokens']}"
        label = f"{told}; {fold['held_out']} held out: {cell['predicted_s']:.4g} s, measured {cell['measured_s']:.4g} s"
        yield element(
            "circle", element("title", label),
            {"cx": f"{left + place(cell['measured_s']):.1f}", "cy": f"{bottom - place(cell['predicted_s']):.1f}",
             "r": "3.2", "fill": COLOURS[cell["hardware"]], "fill-opacity": "0.55"},
        )
    yield _text(left + SIDE / 2, bottom + 36, "measured, s; lines: equal, and 15 % beside it")


def _line(start: tuple[float, float], end: tuple[float, float], colour: str = "#7a828c33") -> Html:
    places = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    return element("line", "", {**{key: f"{value:.1f}" for key, value in places.items()}, "stroke": colour})


def _text(x: float, y: float, text: str, *, anchor: str = "middle", weight: str = "400") -> Html:
    return element("text", text, {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-weight": weight})
