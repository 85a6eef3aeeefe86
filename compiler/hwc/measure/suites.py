"""The shapes that calibration measures: per suite, one module that is compiled and timed as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from hwc.formats import Format
from hwc.measure.probes import Attention, Conv, Linear, Probe, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Probes whose linears are stored alike."""

    name: str
    form: Format | None
    """How weights of linears are stored; None for float."""
    resident: bool
    """Whether everything it reads stays in the last cache from call to call, as a small model's weights and any model's
    activations do; the others' weights come from memory each time."""
    probes: tuple[Probe, ...]


_LINEARS = (
    Linear(m=1, k=96, n=24), Linear(m=1, k=192, n=704, then="gelu"), Linear(m=1, k=320, n=1024),
    Linear(m=1, k=448, n=448, then="relu"), Linear(m=1, k=1024, n=320), Linear(m=1, k=704, n=1792),
    Linear(m=1, k=1792, n=704, then="bias"), Linear(m=1, k=704, n=224), Linear(m=1, k=896, n=1280),
    Linear(m=1, k=1152, n=448), Linear(m=1, k=2560, n=896), Linear(m=4, k=448, n=1280, then="relu"),
    Linear(m=12, k=320, n=320, then="bias"), Linear(m=12, k=320, n=1280, then="gelu"),
    Linear(m=12, k=704, n=448), Linear(m=24, k=1280, n=320, then="bias"), Linear(m=24, k=704, n=704),
    Linear(m=24, k=704, n=1792, then="silu"), Linear(m=24, k=1792, n=704), Linear(m=24, k=896, n=448),
    Linear(m=96, k=320, n=320, then="bias"), Linear(m=96, k=448, n=448), Linear(m=96, k=448, n=1792, then="gelu"),
    Linear(m=96, k=1792, n=448, then="bias"), Linear(m=160, k=704, n=224), Linear(m=160, k=896, n=1792),
    Linear(m=160, k=1792, n=704), Linear(m=320, k=448, n=448, then="bias"),
    Linear(m=768, k=320, n=320, then="bias"), Linear(m=768, k=320, n=1280, then="gelu"),
    Linear(m=768, k=1280, n=320, then="bias"),
)  # fmt: skip
_HEADS = (
    Linear(m=1, k=448, n=24576), Linear(m=1, k=320, n=32768), Linear(m=1, k=1152, n=16384), Linear(m=1, k=704, n=40960),
)
_ATTENTION = (
    Attention(batch=1, heads=10, queries=12, keys=12, head_size=32),
    Attention(batch=1, heads=8, queries=24, keys=24, head_size=64),
    Attention(batch=1, heads=12, queries=96, keys=96, head_size=32),
    Attention(batch=6, heads=10, queries=96, keys=96, head_size=32),
    Attention(batch=1, heads=8, queries=1, keys=768, head_size=64),
    Attention(batch=1, heads=6, queries=24, keys=768, head_size=64),
    Attention(batch=1, heads=3, queries=3, keys=320, head_size=64),
    Attention(batch=1, heads=10, queries=96, keys=96, head_size=64),
    Attention(batch=2, heads=4, queries=160, keys=448, head_size=64),
    Attention(batch=1, heads=4, queries=48, keys=192, head_size=128),
)
_SIZES = ((1, 704), (12, 320), (96, 448), (160, 704), (768, 320))
_KINDS = ("layer_norm", "rms_norm", "gelu", "add", "mean", "transpose")
_ROWS = (
    *(Rows(kind=kind, rows=rows, width=width) for kind in _KINDS for rows, width in _SIZES),
    *(Rows(kind="pool", rows=rows, width=width) for rows, width in _SIZES[1:]),
    *(Rows(kind="gather", rows=rows, width=width) for rows, width in _SIZES),
    *(Rows(kind="rotate", rows=rows, width=width) for rows, width in ((1, 704), (24, 704), (160, 224), (160, 704))),
    *(Rows(kind="softmax", rows=rows, width=width) for rows, width in ((8, 768), (120, 12), (960, 96), (1152, 96))),
    Rows(kind="gelu", rows=96, width=1792), Rows(kind="add", rows=768, width=1280),
)  # fmt: skip
_CONVS = (
    Conv(batch=1, channels=3, filters=12, side=28, window=3, pool=True),
    Conv(batch=1, channels=12, filters=24, side=14, window=3, pool=True),
    Conv(batch=1, channels=24, filters=24, side=14, window=1), Conv(batch=1, channels=3, filters=24, side=56, window=5),
    Conv(batch=1, channels=32, filters=64, side=28, window=3, pool=True),
    Conv(batch=1, channels=64, filters=64, side=14, window=3), Conv(batch=6, channels=3, filters=12, side=28, window=3),
    Conv(batch=6, channels=12, filters=24, side=14, window=3, pool=True),
)  # fmt: skip
_SMALL = (
    Linear(m=1, k=96, n=24), Linear(m=1, k=192, n=320, then="gelu"), Linear(m=1, k=320, n=448),
    Linear(m=1, k=448, n=320), Linear(m=1, k=704, n=96), Linear(m=1, k=1024, n=160, then="relu"),
    Linear(m=12, k=192, n=320, then="gelu"),
    Linear(m=12, k=320, n=320, then="relu"), Linear(m=12, k=448, n=24), Linear(m=24, k=448, n=320),
    Linear(m=6, k=1024, n=96), Linear(m=48, k=320, n=192),
)  # fmt: skip
_ACTIVATIONS: tuple[Probe, ...] = (*_ATTENTION, *_ROWS)
_INT4, _INT8, _FP8 = Format(kind="int4", group_size=32), Format(kind="int8", group_size=32), Format(kind="fp8")
SUITES = (
    Suite(name="float", form=None, resident=False, probes=(*_LINEARS, *_HEADS[:3])),
    Suite(name="float_small", form=None, resident=True, probes=(*_SMALL, *_CONVS)),
    Suite(name="float_activations", form=None, resident=True, probes=_ACTIVATIONS),
    Suite(name="int4", form=_INT4, resident=False, probes=_LINEARS),
    Suite(name="int4_activations", form=_INT4, resident=True, probes=_ACTIVATIONS),
    Suite(name="int8", form=_INT8, resident=False, probes=(*_LINEARS, *_HEADS)),
    Suite(name="fp8", form=_FP8, resident=False, probes=_LINEARS),
)
"""The float suites are compiled as a float model is, the others as quantised ones: their levels differ."""
