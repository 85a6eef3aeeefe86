"""The calibration bench's figures as a page for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
AIM_MEDIAN, AIM_P90 = 0.15, 0.30


def page(facts: Row) -> str:
    """Return docs/reference/bench-calibration.md."""
    found, calibration = facts["errors"], facts["calibration"]
    quiet = "" if facts["quiet"] else " **The machine was busy: these figures are not worth quoting.**"
    other = "" if facts["same_machine"] else " **The calibration is of another machine.**"
    held = calibration["held_out"]["all"]
    return f"""# Bench: whole models predicted on the calibrated CPU

<!-- Written by tests/bench/calibration.py; measure again, do not edit. -->

`hwc targets calibrate` measured small pieces of networks, of shapes that are none of a shipped model's; from them alone
and from the compiler's own division of each model into dispatches, the times below were predicted. Then the models
were measured: {facts['machine']['cpu_model']}, {calibration['conditions']['threads']} thread(s),
{facts['measured_utc']}, {facts['busy_cores_before']:.2f} cores busy with other work before.{quiet}{other}
The raw figures are in [bench-calibration.json](bench-calibration.json).

Over {found['samples']} latencies the error is **{found['median']:.1%} in the median, {found['p90']:.1%} at p90**
(worst {found['worst']:.1%}, bias {found['bias']:+.1%}); aim: median ≤ {AIM_MEDIAN:.0%}, p90 ≤ {AIM_P90:.0%}.
{found['inside']:.0%} of them lie inside the predicted interval, which is made of the tenth and ninetieth percentiles
of the classes' held-out errors. No model's time is fitted; the classes were divided with these models' errors in view.
With calls that are predicted alike counted once, {_once(facts)}.

| Model | Shape | Measured least, ms | Measured p50, ms | Predicted, ms [interval] | Error | Calls |
|---|---|---:|---:|---:|---:|---:|
{_rows(facts)}

Measured: least and median of single calls, inputs on the device to outputs on the host. The error is that of the
prediction against the least: calibration keeps least times too, as other work on a machine only adds.

## The calibration

Measured {calibration['measured_utc']}, {calibration['conditions']['rounds']} rounds, load
{calibration['conditions']['before']['load_1min']:.2f} before and {calibration['conditions']['after']['load_1min']:.2f}
after; data `{calibration['data_sha256'][:23]}…`. Peaks of {calibration['conditions']['threads']} thread(s):
{calibration['flop_per_s'] / 1e9:.1f} Gflop/s and {calibration['bytes_per_s'] / 1e9:.1f} GB/s, measured; a dispatch
{calibration['dispatch_s'] * 1e6:.2f} µs, a call {calibration['invocation_s'] * 1e6:.1f} µs. Single dispatches of shapes
that were held out (five folds) are predicted to {held['median']:.1%} in the median, {held['p90']:.1%} at p90, over
{held['samples']}.

| Work | Shapes | Of peak arithmetic | Of memory bandwidth | Held-out error, median | p90 |
|---|---:|---:|---:|---:|---:|
{_classes(facts)}

Of memory bandwidth above 1: caches serve what the bytes count. A share of arithmetic far above 1, or of memory at 20,
is one that the data do not hold: the other bounds the class.
"""


def _once(facts: Row) -> str:
    """Tell the errors with one row a prediction: a decoder's steps at several fills are nearly one call."""
    alike: dict[tuple[str, float], list[float]] = {}
    for row in facts["rows"]:
        alike.setdefault((row["variant"], row["predicted_base_ms"]), []).append(row["measured_min_ms"])
    errors = sorted(abs(base / statistics.median(measured) - 1) for (_, base), measured in alike.items())
    ninth = errors[math.ceil(0.9 * len(errors)) - 1]
    return f"{len(errors)} are left: {statistics.median(errors):.1%} in the median, {ninth:.1%} at p90"


def _rows(facts: Row) -> str:
    told = []
    for row in facts["rows"]:
        error = row["predicted_base_ms"] / row["measured_min_ms"] - 1
        low, base, high = (f"{row[f'predicted_{end}_ms']:.3g}" for end in ("low", "base", "high"))
        told.append(
            f"| {row['variant']} | {row['series']} | {row['measured_min_ms']:.3g} | {row['measured_p50_ms']:.3g} | "
            f"{base} [{low}, {high}] | {error:+.1%} | {row['n']} |"
        )
    return "\n".join(told)


def _classes(facts: Row) -> str:
    by_class = facts["calibration"]["held_out"]["by_class"]
    return "\n".join(
        f"| {row['told']} | {row['samples']} | {row['compute']:.3g} | {row['memory']:.3g} | "
        f"{by_class[row['told']]['median']:.0%} | {by_class[row['told']]['p90']:.0%} |"
        for row in facts["classes"]
    )
