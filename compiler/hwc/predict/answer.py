"""What ``hwc predict`` answers: calls over batch, prompt and context, with latency, rate, energy and price; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwc.errors import UsageError
from hwc.predict import chip, cost, language, whole
from hwc.predict.chip import Chip, Corner
from hwc.predict.efficiency import Calibration
from hwc.predict.language import Call, Phase
from hwc.predict.operation import Operation
from hwc.predict.shape import LanguageShape
from hwc.predict.storage import Storage
from hwc.predict.whole import Exchange, Predicted
from hwc.spec.figure import Range, Spread, spread
from hwc.spec.prices import PriceTable
from hwc.spec.target import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a prediction is asked of."""

    target: TargetSpec
    prices: PriceTable
    chips: int = 1
    quantised: bool = False
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call: a prompt (its seconds are the TTFT), a token (the ITL) or a request of fixed shape."""

    phase: Phase | str
    """``prefill``, ``decode``, or a static shape's name."""
    batch: int
    tokens: int
    """Prompt tokens in prefill, tokens in the cache in decode; 0 of a fixed shape."""
    seconds: Spread
    unit: str
    """What a second's and a million's are counted in: token or item."""
    per_s: Spread
    j_per_unit: Spread | None
    usd_per_million: Range | None
    kv_bytes: float
    fits: bool
    """Weights and cache fit the chips' outer memory at base figures."""
    call: Predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Predictions of one model on one target."""

    target: str
    title: str
    hardware_status: str
    chips: int
    method: whole.Method
    rows: tuple[Row, ...]
    weight_bytes: float
    assumed: tuple[str, ...]
    """Keys of [sources] by which figures that times rest on are assumptions."""
    missing: tuple[str, ...]
    """Figures that are not disclosed; the answer is given without what they feed."""
    widened: tuple[str, ...]


def of_language(shape: LanguageShape, calls: Sequence[Call], stored: Storage, setting: Setting) -> Answer:
    """Predict a decoder's calls; raises UsageError for chips that are not joined, or a figure that has to be told."""
    figures = _figures(setting)
    held = language.weight_bytes(shape, stored)
    rows = []
    for call in calls:
        exchange = Exchange(
            count=language.ALL_REDUCES * shape.layers, each_bytes=language.all_reduce_bytes(shape, call, stored),
            chips=setting.chips,
        )
        predicted = _predict(language.operations(shape, call, stored, chips=setting.chips), figures, setting, exchange)
        made = call.rows
        kv = language.kv_bytes(shape, stored, call.batch, call.context)
        tokens = call.tokens if call.phase == "prefill" else call.context
        rows.append(_row((call.phase, call.batch, tokens), predicted, made, "token", setting, kv, held, figures))
    return _answer(rows, held, setting)


def of_shapes(shapes: Mapping[str, tuple[int, Sequence[Operation]]], setting: Setting) -> Answer:
    """Predict static shapes of a model, given by name as batch and operations."""
    if setting.chips > 1:
        raise UsageError("only language models are divided over several chips", hint="leave out --chips")
    figures = _figures(setting)
    held = max(
        sum(one.weight_bytes * one.count for one in operations if one.op != "gather")
        for _, operations in shapes.values()
    )
    rows = [
        _row(
            (name, batch, 0), _predict(operations, figures, setting, None), batch, "item", setting, 0.0, held, figures
        )
        for name, (batch, operations) in shapes.items()
    ]
    return _answer(rows, held, setting)


def _figures(setting: Setting) -> dict[Corner, Chip]:
    """Return the chip's figures; of a calibrated machine that tells none, nothing."""
    if setting.calibration is not None and not setting.target.hardware.units:
        return {}
    found = chip.corners(setting.target)
    if setting.chips > 1 and found["base"].wire is None:
        raise UsageError(
            f"`{setting.target.name}` does not tell `hardware.links`: chips cannot be joined",
            hint='add a link with peer = "chip", or leave out --chips',
        )
    if setting.chips > found["base"].most_chips:
        raise UsageError(
            f"`{setting.target.name}` joins {found['base'].most_chips} chips, not {setting.chips}",
            where="`hardware.system.chips`",
        )
    return found


def _predict(
    operations: Sequence[Operation], figures: Mapping[Corner, Chip], setting: Setting, exchange: Exchange | None
) -> Predicted:
    if setting.calibration is not None and setting.chips == 1:
        tdp = setting.target.hardware.power.tdp_w
        return whole.calibrated(
            operations, setting.calibration, quantised=setting.quantised, tdp_w=spread(tdp) if tdp else None
        )
    assumed = bool(whole.assumed_figures(setting.target, joined=setting.chips > 1))
    return whole.predict(operations, figures, exchange=exchange, assumed=assumed)


def _row(
    named: tuple[str, int, int], predicted: Predicted, units: int, unit: str, setting: Setting, kv: float, held: float,
    figures: Mapping[Corner, Chip],
) -> Row:
    seconds = predicted.seconds
    per_s = Spread(low=units / seconds.high, base=units / seconds.base, high=units / seconds.low)
    energy = predicted.energy_j
    room = figures["base"].outer.size_bytes * setting.chips if figures else None
    return Row(
        phase=named[0], batch=named[1], tokens=named[2], seconds=seconds, unit=unit, per_s=per_s,
        j_per_unit=energy and Spread(low=energy.low / units, base=energy.base / units, high=energy.high / units),
        usd_per_million=_usd(per_s, setting), kv_bytes=kv, fits=room is None or held + kv <= room, call=predicted,
    )


def _usd(per_s: Spread, setting: Setting) -> Range | None:
    entry = setting.prices.entries.get(setting.target.price)
    if entry is None:
        return None
    site = setting.prices.site
    hourly = cost.usd_per_hour(entry, site).total

    def at(rate: float) -> Range:
        return cost.usd_per_million_items(hourly, rate / setting.chips, site.utilisation)

    return Range(low=at(per_s.high).low, base=at(per_s.base).base, high=at(per_s.low).high)


def _answer(rows: Sequence[Row], held: float, setting: Setting) -> Answer:
    target = setting.target
    methods = [row.call.method for row in rows]
    absent = () if setting.calibration is not None else chip.missing(target, joined=setting.chips > 1)
    if setting.prices.entries.get(target.price) is None:
        absent = (*absent, "price")
    calibrated = all(method == "calibrated" for method in methods)
    return Answer(
        target=target.name, title=target.title, hardware_status=target.hardware_status, chips=setting.chips,
        method="assumed" if "assumed" in methods else methods[0], rows=tuple(rows), weight_bytes=held,
        assumed=() if calibrated else whole.assumed_figures(target, joined=setting.chips > 1), missing=absent,
        widened=tuple(sorted({told for row in rows for told in row.call.widened})),
    )
