"""The calls that a language model is checked by: windows of held-out text to score, and one call of every other shape.

They run in one order, and the state goes from call to call, in ONNX Runtime as inside the artefact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.capture import reduced, state
from hwc.capture.golden import Case
from hwc.capture.reduced import Reduced
from hwc.capture.simplify import call, session
from hwc.capture.state import State
from hwc.capture.windows import Window
from hwc.spec.generation import CONTEXT_DIM
from hwc.spec.model import Bucket, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx

DOMAINS = "domains.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Which positions of the calls, [P] in all, stand in windows of text."""

    domains: tuple[str, ...]
    """Domain of each window."""
    positions_per_window: int


def scoring_bucket(buckets: Sequence[Bucket]) -> Bucket | None:
    """Return the shape that tells the logits of every position; None of shapes that only generate."""
    scoring = [bucket for bucket in buckets if bucket["logits"] > 1]
    return max(scoring, key=lambda bucket: (bucket["logits"], -bucket["batch"]), default=None)


def window_tokens(buckets: Sequence[Bucket]) -> int:
    """Return how long the windows of text are that ``make`` takes: those to score, else the longest shape."""
    score = scoring_bucket(buckets)
    return score["sequence"] if score else max(bucket["sequence"] for bucket in buckets)


def make(buckets: Sequence[Bucket], windows: Sequence[Window], *, context_tokens: int) -> list[Case]:
    """Return the calls: every window at position 0, then each other shape on the first window's tokens.

    A prefill begins at 0, a decode behind the prefill before it, or in the last of a cache's ``context_tokens``. Of
    shapes that only generate, each is called once a window, on the text from that window on.
    """
    import numpy as np

    score = scoring_bucket(buckets)
    scored = [] if score is None else _scored(score, windows)
    text = np.concatenate([window.ids for window in windows])
    longest = min(max(bucket["sequence"] for bucket in buckets), context_tokens - 1)
    others = [bucket for bucket in buckets if bucket != score]
    ordered = sorted(others, key=lambda bucket: (bucket["batch"], -bucket["sequence"]))
    begins = (0,) if score else range(0, len(text), window_tokens(buckets))
    return [*scored, *(_other(bucket, np.roll(text, -at), longest=longest) for at in begins for bucket in ordered)]


def _scored(score: Bucket, windows: Sequence[Window]) -> list[Case]:
    import numpy as np

    rows, tokens = score["batch"], score["sequence"]
    index = np.tile(np.arange(tokens, dtype=np.int64), (rows, 1))
    calls = []
    for at in range(0, len(windows) - rows + 1, rows):
        ids = np.stack([window.ids for window in windows[at : at + rows]])
        feeds = {"input_ids": ids, "start": np.zeros(rows, np.int64), "logit_index": index}
        calls.append(Case(bucket=score, items=tuple(range(at, at + rows)), feeds=feeds))
    return calls


def _other(bucket: Bucket, text: np.ndarray, *, longest: int) -> Case:
    import numpy as np

    batch, tokens, wanted = bucket["batch"], bucket["sequence"], bucket["logits"]
    start = longest if tokens == 1 else 0
    cut = np.resize(text[start:], (batch, tokens))
    index = np.tile(np.arange(tokens - wanted, tokens, dtype=np.int64), (batch, 1))
    feeds = {"input_ids": cut, "start": np.full(batch, start, np.int64), "logit_index": index}
    return Case(bucket=bucket, items=(), feeds=feeds)


def calibration(spec: ModelSpec, states: Sequence[State], windows: Sequence[Window]) -> list[Case]:
    """Return one call a window, at position 0, with the state as zeros: what quantisation looks at."""
    import numpy as np

    cases = []
    for number, window in enumerate(windows):
        tokens = len(window.ids)
        bucket = {"batch": 1, "sequence": tokens, "logits": 1}
        feeds = {
            "input_ids": window.ids[None], "start": np.zeros(1, np.int64), "logit_index": np.array([[tokens - 1]]),
            **{
                kept.name: np.zeros(spec.sized(kept.shape, {**bucket, CONTEXT_DIM: tokens}), np.float32)
                for kept in states
            },
        }
        cases.append(Case(bucket=bucket, items=(number,), feeds=feeds))
    return cases


def targets(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows of a call's logits [batch · logits, vocabulary] are looked at, and the token after each.

    The last position of a window has no next token; the logits of other calls are compared, and score nothing.
    """
    import numpy as np

    batch, wanted = case.feeds["logit_index"].shape
    places = np.arange(batch * wanted).reshape(batch, wanted)
    if not case.items:
        return places.reshape(-1), np.zeros(batch * wanted, np.int64)
    return places[:, :-1].reshape(-1), case.feeds["input_ids"][:, 1:].reshape(-1)


def answers(
    graph: onnx.ModelProto, weights: Mapping[str, np.ndarray], spec: ModelSpec, cases: Iterable[Case]
) -> Iterator[np.ndarray]:
    """Yield each call's logits [batch, logits, vocabulary] in strict ONNX Runtime; the state goes from call to call."""
    states = state.find(graph)
    opened = session(graph, weights)
    names = [*spec.outputs, *(kept.next for kept in states)]
    held: dict[int, dict[str, np.ndarray]] = {}
    for case in cases:
        batch = case.bucket["batch"]
        kept = held.get(batch) or state.zeros(states, spec, case.bucket)
        found = dict(zip(names, call(opened, names, {**case.feeds, **kept}), strict=True))
        held[batch] = state.carried(states, found)
        yield found[spec.outputs[0]]


def reduce(cases: Sequence[Case], logits: Iterable[np.ndarray], reference: Reduced | None = None) -> Reduced:
    """Reduce every call's logits: to their own likeliest tokens, or to those of the float model's record."""
    parts: list[Reduced] = []
    done = 0
    for number, (case, found) in enumerate(zip(cases, logits, strict=True)):
        rows, following = targets(case)
        flat = found.reshape(-1, found.shape[-1])[rows]
        if reference is None:
            parts.append(reduced.reduce(flat, following, seed=number))
        else:
            parts.append(reduced.at(flat, part(reference, done, done + len(rows)), following))
        done += len(rows)
    return reduced.join(parts)


def part(whole: Reduced, start: int, stop: int) -> Reduced:
    """Return the record of positions ``start`` to ``stop``."""
    return Reduced(**{entry.name: getattr(whole, entry.name)[start:stop] for entry in fields(Reduced)})


def save_scored(scored: Scored, out: Path) -> None:
    """Write ``domains.json``."""
    facts = {"domains": list(scored.domains), "positions_per_window": scored.positions_per_window}
    (out / DOMAINS).write_text(json.dumps(facts))


def load_scored(folder: Path) -> Scored:
    """Read what ``save_scored`` wrote."""
    facts = json.loads((folder / DOMAINS).read_text())
    return Scored(domains=tuple(facts["domains"]), positions_per_window=int(facts["positions_per_window"]))
