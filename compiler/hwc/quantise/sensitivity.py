"""Sensitivity: what each linear costs the model's outputs when it alone is rounded to a scheme's format.

The detached graph takes its weights as inputs, so one session serves all layers: a run differs by one input. Formats
for a budget follow from the costs: the layers that cost most for each bit they would save get int8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.errors import UsageError
from hwc.events import PROGRESS
from hwc.formats import Format
from hwc.quantise import codes as canonical
from hwc.quantise import progress
from hwc.quantise.linears import Linear, assign, find
from hwc.quantise.live import Cases
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

SENSITIVITY = "sensitivity.json"
POSITIONS = 24
"""Positions of a window at which a language model's next token is compared: logits take memory."""
WIDE = Format(kind="int8", group_size=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a model."""

    form: Format
    """What each linear is rounded to."""
    output: str
    """The output by which costs are told."""
    language: bool
    """Whether it is logits, whose cost is the mean KL divergence from the float model's next-token distribution, in
    nats; any other output costs its squared error over its squared size."""
    cases: int
    """Calibration cases that are run."""
    exclude: tuple[str, ...] = ()


def measure(asked: Question, captured: Path, calibration: Path, out: Path) -> None:
    """Write ``sensitivity.json``: what rounding each layer costs."""
    progress.log_to_stderr()
    model = onnx_io.load_graph(captured / "graph.onnx")
    formats = {"linear": replace(asked.form, activations="float"), "embedding": None}
    linears = [linear for linear in assign(find(model, exclude=asked.exclude), formats) if linear.format]
    weights, data = Weights(captured / "weights.safetensors"), Cases(calibration, model)
    feeds = [_feeds(model, data, case, language=asked.language) for case in range(min(asked.cases, len(data)))]
    opened = _open(model)
    held: dict[str, np.ndarray] = {name: weights[name] for name in weights}

    def answers() -> list[np.ndarray]:
        return [opened.run([asked.output], {**held, **entry})[0] for entry in feeds]

    distance = _kl if asked.language else _relative
    exact, costs = answers(), dict[str, float]()
    for number, linear in enumerate(linears):
        held[linear.weight] = _rounded(linear, weights[linear.weight])
        costs[linear.layer] = sum(map(distance, exact, answers())) / len(feeds)
        held[linear.weight] = weights[linear.weight]
        progress.LOG.info(
            PROGRESS + "layer %d of %d (%s: %.2e)", number + 1, len(linears), linear.layer, costs[linear.layer]
        )
    facts = {"costs": costs, "cases": len(feeds), "metric": "kl" if asked.language else "relative squared error"}
    (out / SENSITIVITY).write_text(json.dumps(facts, indent=1, sort_keys=True))


def _open(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feeds(model: onnx.ModelProto, data: Cases, case: int, *, language: bool) -> dict[str, np.ndarray]:
    import numpy as np

    weights = set(onnx_io.weight_names(model))
    names = [value.name for value in model.graph.input if value.name not in weights]
    feeds = {name: data.read(case, name) for name in names}
    if language:
        batch, tokens = feeds["input_ids"].shape
        places = np.unique(np.linspace(min(8, tokens - 1), tokens - 1, POSITIONS).astype(np.int64))
        feeds["logit_index"] = np.tile(places, (batch, 1))
    return feeds


def _rounded(linear: Linear, stored: np.ndarray) -> np.ndarray:
    import numpy as np

    assert linear.format is not None
    matrix = np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)
    back = canonical.dequantise(canonical.nearest(matrix, linear.format))
    return np.ascontiguousarray(back if linear.transposed else back.T, dtype=stored.dtype)


def _kl(exact: np.ndarray, other: np.ndarray) -> float:
    import numpy as np

    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (exact, other))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _relative(exact: np.ndarray, other: np.ndarray) -> float:
    import numpy as np

    size = float((exact.astype(np.float64) ** 2).sum())
    return float(((exact - other).astype(np.float64) ** 2).sum()) / size if size else 0.0


def choose(linears: Sequence[Linear], costs: Mapping[str, float], budget_bits: float) -> dict[str, Format]:
    """Return int8 for the layers that cost most for each bit it takes, as many as the budget holds.

    ``linears`` have the narrow format; ``budget_bits`` is the mean over their weights. What an int8 layer costs is
    taken for nothing, measured at less than a hundredth. Raises UsageError for a budget below the narrow format.
    """
    narrow = [linear for linear in linears if linear.format is not None and linear.role == "linear"]
    total = sum(linear.parameters for linear in narrow)
    spent = sum(linear.parameters * linear.format.bits for linear in narrow if linear.format)
    if spent > budget_bits * total:
        raise UsageError(
            f"a budget of {budget_bits:g} bits is below the {spent / total:.2f} that the narrowest format takes",
            hint="raise it, or choose larger groups",
        )
    chosen: dict[str, Format] = {}
    for linear in sorted(narrow, key=lambda linear: -costs[linear.layer] / linear.parameters):
        assert linear.format is not None
        more = linear.parameters * (WIDE.bits - linear.format.bits)
        if linear.k % WIDE.group_size == 0 and spent + more <= budget_bits * total:
            chosen[linear.layer] = WIDE
            spent += more
    return chosen
