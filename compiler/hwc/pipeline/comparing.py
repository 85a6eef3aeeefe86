"""Compare a model's predictions on several targets, and ask what an assumption would have to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hwc.errors import UsageError
from hwc.events import Listener
from hwc.pipeline import predicting
from hwc.pipeline.predicting import Asked, Told
from hwc.predict import cost
from hwc.predict.answer import Row
from hwc.predict.vary import Bar, BreakEven, break_even, tornado
from hwc.spec.figure import Spread
from hwc.spec.project import Project, find_prices, find_target
from hwc.spec.target import TargetSpec

By = Literal["latency", "energy", "usd"]
PRICE = "price: USD an hour"
UNITS: dict[By, str] = {"latency": "s", "energy": "J per unit", "usd": "USD per million"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One target's prediction of one call."""

    told: Told
    row: Row
    metric: float | None
    """By what is compared, at base figures; None where the descriptor or the prices do not tell it."""
    tornado: tuple[Bar, ...]
    break_even: tuple[BreakEven, ...]
    """Against the best chip that exists; only of those that do not."""

    @property
    def exists(self) -> bool:
        """Whether the chip can be bought or rented: neither hypothetical nor emulated."""
        return _exists(self.told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All targets, the best first; chips that do not exist behind all others, whatever their figures."""

    by: By
    call: str
    standings: tuple[Standing, ...]
    best: str | None
    """The best target whose chip exists; the headline."""


def compare(project: Project, asked: Asked, targets: Sequence[str], by: By, listen: Listener) -> Comparison:
    """Predict one call on every target; the call is the first decode of a language model, else its first shape.

    Raises UsageError for fewer than two targets, and as predicting does.
    """
    if len(set(targets)) < 2:
        raise UsageError("a comparison needs two targets", hint="repeat -t")
    told = {name: predicting.predict(project, asked, name, listen) for name in dict.fromkeys(targets)}
    rows = {name: chosen(one) for name, one in told.items()}
    metrics = {name: metric_of(row, by) for name, row in rows.items()}
    real = {name: value for name, value in metrics.items() if value is not None and _exists(told[name])}
    best = min(real, key=lambda name: real[name], default=None)
    standings = [
        _standing(project, asked, told[name], by, goal=real[best] if best else None, listen=listen) for name in told
    ]
    ordered = sorted(standings, key=lambda one: (not one.exists, one.metric is None, one.metric or 0.0))
    first = rows[ordered[0].told.answer.target]
    call = f"{first.phase} {first.batch}×{first.tokens}" if first.tokens else first.phase
    return Comparison(by=by, call=call, standings=tuple(ordered), best=best)


def fitting(project: Project, asked: Asked) -> Asked:
    """Return what is asked without a language model's sizes where the model is none."""
    if predicting.is_language(project, asked.model):
        return asked
    return replace(asked, batches=(), prompts=(), contexts=())


def chosen(told: Told) -> Row:
    """Return the row that targets are compared by."""
    rows = told.answer.rows
    return next((row for row in rows if row.phase == "decode"), rows[0])


def metric_of(row: Row, by: By) -> float | None:
    """Return what is compared, at base figures."""
    if by == "latency":
        return row.seconds.base
    told = row.usd_per_million if by == "usd" else row.j_per_unit
    return told.base if told is not None else None


def _exists(told: Told) -> bool:
    return told.answer.hardware_status == "available"


def _standing(
    project: Project, asked: Asked, told: Told, by: By, *, goal: float | None, listen: Listener
) -> Standing:
    row = chosen(told)
    value = metric_of(row, by)
    target = find_target(project, told.answer.target)
    if value is None or row.call.method == "calibrated":
        return Standing(told=told, row=row, metric=value, tornado=(), break_even=())
    again = predicting.work_of(project, asked, target, listen).on

    def metric(changed: TargetSpec) -> float:
        return metric_of(chosen(replace(told, answer=again(changed))), by) or 0.0

    bars = tornado(target, metric)
    level: tuple[BreakEven, ...] = ()
    if goal is not None and not _exists(told):
        level = break_even(target, metric, goal)
    if by == "usd":
        hourly = _usd_per_hour(project, target)
        bars = (_price_bar(hourly, value), *bars)
        level = (_price_level(hourly, value, goal), *level) if level and goal is not None else level
    return Standing(
        told=told, row=row, metric=value, tornado=tuple(sorted(bars, key=lambda bar: -bar.width)), break_even=level
    )


def _usd_per_hour(project: Project, target: TargetSpec) -> Spread:
    prices = find_prices(project)
    hourly = cost.usd_per_hour(prices.entries[target.price], prices.site).total
    return Spread(low=hourly.low, base=hourly.base, high=hourly.high)


def _price_bar(hourly: Spread, value: float) -> Bar:
    return Bar(
        key=PRICE, figure=hourly, at_low=value * hourly.low / hourly.base, at_high=value * hourly.high / hourly.base
    )


def _price_level(hourly: Spread, value: float, goal: float) -> BreakEven:
    wanted = hourly.base * goal / value
    return BreakEven(key=PRICE, base=hourly.base, value=wanted, within=hourly.low <= wanted <= hourly.high)
