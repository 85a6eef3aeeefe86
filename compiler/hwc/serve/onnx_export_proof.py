"""Proof of an exported language model: it answers the bundle's golden calls, and goes on as the bundle went on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.open import Variant
from hwc.bundle.program import copy_out
from hwc.capture import calls, greedy, reduced, state
from hwc.capture.golden import Case, load_cases
from hwc.capture.reduced import Reduced
from hwc.capture.state import State
from hwc.errors import InternalError
from hwc.measure.language import parity
from hwc.spec.model import bucket_id

if TYPE_CHECKING:
    import numpy as np

GREEDY_TOKENS = 16
"""Tokens that are gone on with at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was compared, and how far apart it was."""

    calls: int
    max_abs: float
    """Largest difference of an output from the golden one; of logits, for language models."""
    greedy_tokens: int = 0
    """Tokens after the golden prompt that the model and the bundle's code agree on: all that were looked at."""


class Caller:
    """Calls a session with its state, which goes from call to call."""

    def __init__(self, session: Any, states: Sequence[State], *, context_tokens: int, output: str) -> None:
        self._session, self._states = session, states
        self._context_tokens = context_tokens
        self._names = [output, *(kept.next for kept in states)]
        self._held: dict[int, dict[str, np.ndarray]] = {}

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return a call's logits, float32 [batch, logits, vocabulary]."""
        batch = len(feeds["input_ids"])
        kept = self._held.get(batch) or self._empty(batch)
        found = dict(zip(self._names, self._session.run(self._names, {**feeds, **kept}), strict=True))
        self._held[batch] = state.carried(self._states, found)
        logits: np.ndarray = found[self._names[0]]
        return logits

    def _empty(self, batch: int) -> dict[str, np.ndarray]:
        import numpy as np

        open_axes = (batch, self._context_tokens)

        def shape(kept: State) -> list[int]:
            sizes = iter(open_axes)
            return [dim if isinstance(dim, int) else next(sizes) for dim in kept.shape]

        return {kept.name: np.zeros(shape(kept), np.float32) for kept in self._states}


def prove_language(variant: Variant, caller: Caller, tolerance: float) -> Proof:
    """Raise InternalError unless a model answers as its variant's golden data says.

    One golden call of every shape, the state of each going into the next, gives the logits of strict ONNX Runtime on
    the bundle's graph; and behind the golden prompt, fed one token at a time, each token that the bundle's code chose
    is the likeliest, or as likely as ``tolerance`` can tell.
    """
    with tempfile.TemporaryDirectory(prefix="hwc-golden-") as work:
        folder = copy_out(variant, "golden", Path(work))
        cases, spans = _first_of_each_shape(load_cases(folder))
        floats = reduced.load(folder / "expected.npz")
        reference = folder / "reference.npz"
        expected = reduced.load(reference) if reference.is_file() else floats
        prompt = greedy.load(folder).prompt_ids
    answered = (caller(case.feeds) for case in cases)
    worst = parity(_parts(expected, spans), calls.reduce(cases, answered, _parts(floats, spans)))
    if not worst <= tolerance:
        raise InternalError(
            f"the exported model's logits differ by {worst:.2e} from the golden ones; {tolerance:.1e} is allowed",
            where=variant.name,
        )
    tokens = _went_on_with(variant)
    _go_on(caller, prompt, tokens, tolerance, where=variant.name)
    return Proof(calls=len(cases), max_abs=worst, greedy_tokens=len(tokens))


def _first_of_each_shape(cases: Sequence[Case]) -> tuple[list[Case], list[tuple[int, int]]]:
    """Return the first call of each shape, and which of all calls' positions are its."""
    found: dict[str, tuple[Case, tuple[int, int]]] = {}
    done = 0
    for case in cases:
        count = len(calls.targets(case)[0])
        found.setdefault(bucket_id(case.bucket), (case, (done, done + count)))
        done += count
    return [case for case, _ in found.values()], [span for _, span in found.values()]


def _parts(whole: Reduced, spans: Sequence[tuple[int, int]]) -> Reduced:
    return reduced.join([calls.part(whole, start, stop) for start, stop in spans])


def _went_on_with(variant: Variant) -> tuple[int, ...]:
    """Return what the compiled code was seen to go on with after the golden prompt; nothing if it never ran."""
    chosen = chosen_measurement(variant)
    report = chosen.documents.get("check.json", {}) if chosen is not None else {}
    return tuple(map(int, report.get("greedy_tokens", ())))[:GREEDY_TOKENS]


def _go_on(caller: Caller, prompt: Sequence[int], tokens: Sequence[int], tolerance: float, *, where: str) -> None:
    import numpy as np

    following, start = list(prompt), 0
    for step, token in enumerate(tokens):
        feeds = {
            "input_ids": np.array([following], np.int64), "start": np.array([start], np.int64),
            "logit_index": np.array([[len(following) - 1]], np.int64),
        }
        logits = caller(feeds)[0, 0]
        start += len(following)
        following = [token]
        behind = float(logits.max() - logits[token])
        if not behind <= 2 * tolerance:
            raise InternalError(
                f"the exported model goes on with token {int(logits.argmax())}, the bundle's code with {token}",
                where=f"{where}, token {step + 1} after the golden prompt",
            )
