"""Time of a prompt and of a token of a transformer over several GPUs: a form with few coefficients, and their fit.

Shape and data sheet are given; the coefficients come from measurements of other models or other GPUs.

    GPU    = (arithmetic⁴ + weights⁴)^¼ + replicated activations + all-reduces + layers · kernel latency / clock
    host   = layers · launch / host speed
    time   = (GPU⁴ + host⁴)^¼

Arithmetic runs at the sustained peak, min(data sheet, board power / energy per flop): a dense matmul draws all the
power there is before it reaches the peak at boost clock. Sources: Megatron-LM (Shoeybi et al. 2019) for two
all-reduces a layer; Thakur et al. 2005 for 2(n − 1)/n of the message over each link in a ring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwc.predict.fit import Coefficient, Fitted, fit

if TYPE_CHECKING:
    import numpy as np

Figure = Literal["prompt", "token"]
BYTES = 2
"""Of a weight, an activation or a cached value: everything is in float16 or bfloat16."""
_OVERLAP = 4
"""Power of the sums of what runs at the same time: 1 would be one after the other, ∞ the longer of both."""
LARGE_BYTES = 64 << 20
"""Message size from which an all-reduce is of the slower kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's shape, as its model card tells it."""

    layers: int
    hidden: int
    heads: int
    head_size: int
    linear_parameters: int
    """Weights of the linears of one layer."""
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU and its host, as data sheets tell them."""

    flop_per_s: float
    """Dense, float16 with float32 sums."""
    bytes_per_s: float
    link_bytes_per_s: float
    """To its peers, each direction."""
    clock_hz: float
    """At which ``flop_per_s`` is told."""
    tdp_w: float
    energy_ratio: float
    """Energy of equal work against the reference process's."""
    host_speed: float
    """One thread of the host against the reference host's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One configuration that is timed."""

    shape: Shape
    gpu: Gpu
    gpus: int
    """Tensor-parallel ways."""
    prompt_tokens: int
    batch: int
    new_tokens: int


COEFFICIENTS: Mapping[Figure, tuple[Coefficient, ...]] = {
    "prompt": (
        Coefficient(name="pj_per_flop", low=0.8, start=1.6, high=3.0),
        Coefficient(name="activation_passes", low=1.0, start=20.0, high=200.0),
        Coefficient(name="link_share", low=0.1, start=0.6, high=1.0),
        Coefficient(name="large_message_slowdown", low=1.0, start=2.0, high=8.0),
        Coefficient(name="launch_s", low=1e-4, start=8e-4, high=3e-3),
        Coefficient(name="kernel_s_ghz", low=1e-6, start=5e-5, high=2e-3),
        Coefficient(name="all_reduce_s_ghz", low=1e-6, start=5e-5, high=2e-3),
    ),
    "token": (
        Coefficient(name="memory_share", low=0.4, start=0.8, high=0.95),
        Coefficient(name="activation_passes", low=1.0, start=100.0, high=5000.0),
        Coefficient(name="launch_s", low=1e-4, start=5e-4, high=3e-3),
        Coefficient(name="kernel_s_ghz", low=1e-6, start=5e-5, high=2e-3),
        Coefficient(name="all_reduce_s_ghz", low=1e-6, start=5e-5, high=2e-3),
    ),
}
"""``activation_passes``: times that a layer reads or writes its input, on every GPU alike; of a token, what each
sequence of a batch adds. ``kernel_s_ghz``: latency of a layer's kernels at 1 GHz; ``all_reduce_s_ghz``: what each
doubling of the GPUs adds. ``launch_s``: what the reference host takes to launch a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted form."""

    figure: Figure
    fitted: Fitted
    large_bytes: int

    def predict_s(self, cases: Sequence[Case]) -> np.ndarray:
        """Return the predicted seconds of each case."""
        return _seconds(self.figure, _Columns(cases), self.fitted.values, self.large_bytes)


def fit_figure(
    figure: Figure, cases: Sequence[Case], measured_s: np.ndarray, *, large_bytes: int = LARGE_BYTES
) -> Fit:
    """Fit the coefficients of one figure to measured seconds, one a case."""
    columns = _Columns(cases)
    found = fit(COEFFICIENTS[figure], lambda values: _seconds(figure, columns, values, large_bytes), measured_s)
    return Fit(figure=figure, fitted=found, large_bytes=large_bytes)


class _Columns:
    """The numbers of many cases, one array a number."""

    def __init__(self, cases: Sequence[Case]) -> None:
        import numpy as np

        def of(values: Sequence[float]) -> np.ndarray:
            return np.asarray(values, float)

        self.layers = of([case.shape.layers for case in cases])
        self.hidden = of([case.shape.hidden for case in cases])
        self.cached = of([2 * case.shape.layers * case.shape.heads * case.shape.head_size for case in cases])
        self.body = of([case.shape.layers * case.shape.linear_parameters for case in cases])
        self.head = of([case.shape.vocabulary * case.shape.hidden for case in cases])
        self.flop_per_s = of([case.gpu.flop_per_s for case in cases])
        self.bytes_per_s = of([case.gpu.bytes_per_s for case in cases])
        self.link = of([case.gpu.link_bytes_per_s for case in cases])
        self.ghz = of([case.gpu.clock_hz / 1e9 for case in cases])
        self.watts = of([case.gpu.tdp_w / case.gpu.energy_ratio for case in cases])
        self.host_speed = of([case.gpu.host_speed for case in cases])
        self.gpus = of([case.gpus for case in cases])
        self.prompt = of([case.prompt_tokens for case in cases])
        self.batch = of([case.batch for case in cases])
        self.new = of([case.new_tokens for case in cases])


def _seconds(figure: Figure, c: _Columns, x: Mapping[str, float], large_bytes: int) -> np.ndarray:
    import numpy as np

    per_layer_s = (x["kernel_s_ghz"] + x["all_reduce_s_ghz"] * np.log2(c.gpus)) / c.ghz
    gpu = c.layers * per_layer_s + (_prompt(c, x, large_bytes) if figure == "prompt" else _token(c, x))
    return _overlapped(gpu, c.layers * x["launch_s"] / c.host_speed)


def _overlapped(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    result: np.ndarray = (left**_OVERLAP + right**_OVERLAP) ** (1 / _OVERLAP)
    return result


def _prompt(c: _Columns, x: Mapping[str, float], large_bytes: int) -> np.ndarray:
    """Every token of every prompt through the layers; attention looks back over half of a prompt on average."""
    import numpy as np

    tokens = c.prompt * c.batch
    flops = 2 * c.body * tokens + c.cached * c.prompt * tokens
    sustained = np.minimum(c.flop_per_s, c.watts / (x["pj_per_flop"] * 1e-12))
    weights_s = BYTES * c.body / c.gpus / c.bytes_per_s
    message = tokens * c.hidden * BYTES
    slowdown = np.where(message >= large_bytes, x["large_message_slowdown"], 1.0)
    ring = 2 * (c.gpus - 1) / c.gpus * message / (c.link * x["link_share"]) * slowdown
    activations_s = message * c.layers * x["activation_passes"] / c.bytes_per_s
    result: np.ndarray = _overlapped(flops / c.gpus / sustained, weights_s) + activations_s + 2 * c.layers * ring
    return result


def _token(c: _Columns, x: Mapping[str, float]) -> np.ndarray:
    """One token of each sequence: the weights, and the cache, whose heads are read once for each query head."""
    cache = c.batch * (c.prompt + c.new / 2) * c.cached
    sharded = BYTES * (c.body + c.head + cache) / c.gpus / x["memory_share"]
    replicated = c.batch * c.layers * c.hidden * BYTES * x["activation_passes"]
    result: np.ndarray = (sharded + replicated) / c.bytes_per_s
    return result
