"""Golden cases: the inputs every artefact is run on, and the float model's outputs for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import digest, onnx_io
from hwc.capture.simplify import call, seeded_inputs, session
from hwc.errors import IntegrityError, UsageError
from hwc.spec.model import Bucket, ModelSpec, bucket_id

if TYPE_CHECKING:
    import numpy as np
    import onnx

EXTRA_BATCHES = 2
"""Full batches run on each bucket of more than one row, so that every compiled function is checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of one bucket: the items in its rows, in order."""

    bucket: Bucket
    items: tuple[int, ...]
    feeds: dict[str, np.ndarray]
    batched: bool = True
    """Whether the first axis of every output counts items; otherwise the call is one item, whole."""


def read_text(path: Path, sha256: str | None, count: int) -> list[str]:
    """Read evaluation text, one item a line, after checking its digest; return the first ``count`` items."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the evaluation data: {error.strerror}", where=str(path)) from error
    if digest.of_bytes(payload) != sha256:
        raise IntegrityError(
            "the evaluation data is not what the specification pins",
            where=str(path),
            hint=f"it has {digest.of_bytes(payload)}; put that into [evaluation] sha256 if the change is meant",
        )
    lines = [line for line in payload.decode("utf-8").splitlines() if line.strip()]
    if len(lines) < count:
        raise UsageError(f"the evaluation data has {len(lines)} items, {count} are asked for", where=str(path))
    return lines[:count]


def text_cases(
    spec: ModelSpec, buckets: Sequence[Bucket], texts: Sequence[str], tokenizer: Path
) -> list[Case]:
    """Tokenise texts and lay each into the smallest bucket that holds it; fill larger batches with the first items."""
    from hwc.capture.text import Encoder

    longest = max(next((size for dim, size in bucket.items() if dim != spec.batch_dim), 1) for bucket in buckets)
    encoder = Encoder(tokenizer, max_tokens=longest)
    rows = [encoder.encode(text) for text in texts]
    lengths = [len(next(iter(row.values()))) for row in rows]
    cases: list[Case] = []
    for items, bucket in _layout(spec, buckets, lengths):
        feeds = {
            name: _stack([rows[item][name] for item in items], spec.static_shape(tensor, bucket), tensor.pad or 0)
            for name, tensor in spec.inputs.items()
        }
        cases.append(Case(bucket=bucket, items=items, feeds=feeds))
    return cases


def _layout(
    spec: ModelSpec, buckets: Sequence[Bucket], lengths: Sequence[int]
) -> Iterable[tuple[tuple[int, ...], Bucket]]:
    def length(bucket: Bucket) -> int:
        return next((size for dim, size in bucket.items() if dim != spec.batch_dim), 1)

    def batch(bucket: Bucket) -> int:
        return bucket.get(spec.batch_dim, 1)

    smallest_batch = min(batch(bucket) for bucket in buckets)
    singles = sorted((bucket for bucket in buckets if batch(bucket) == smallest_batch), key=length)
    by_bucket: dict[int, list[int]] = {}
    for item, tokens in enumerate(lengths):
        place = next((i for i, bucket in enumerate(singles) if length(bucket) >= tokens), len(singles) - 1)
        by_bucket.setdefault(place, []).append(item)
    for place, members in sorted(by_bucket.items()):
        for start in range(0, len(members), smallest_batch):
            yield tuple(members[start : start + smallest_batch]), singles[place]
    for bucket in buckets:
        rows = batch(bucket)
        used = any(bucket == singles[place] for place in by_bucket)
        if used:
            continue
        fitting = [item for item, tokens in enumerate(lengths) if tokens <= length(bucket)] or [0]
        for start in range(0, min(len(fitting), EXTRA_BATCHES * rows), rows):
            yield tuple(fitting[start : start + rows]), bucket


def _stack(rows: Sequence[np.ndarray], shape: tuple[int, ...], pad: float) -> np.ndarray:
    import numpy as np

    filled = np.full(shape, pad, dtype=rows[0].dtype)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row[: shape[1]]
    return filled


def random_cases(spec: ModelSpec, buckets: Sequence[Bucket], items: int, *, seed: int) -> list[Case]:
    """Make seeded random items: ``items`` in the first bucket, two full batches in each other one."""
    cases: list[Case] = []
    item = 0
    for position, bucket in enumerate(buckets):
        rows = bucket.get(spec.batch_dim, 1)
        calls = -(-items // rows) if position == 0 else EXTRA_BATCHES
        for number in range(calls):
            feeds = seeded_inputs(spec, bucket, seed=seed + 1000 * position + number)
            batched = spec.batch_dim in bucket
            cases.append(Case(bucket=bucket, items=tuple(range(item, item + rows)), feeds=feeds, batched=batched))
            item += rows
    return cases


def run_reference(
    graphs: dict[str, onnx.ModelProto], weights: Mapping[str, np.ndarray], cases: Sequence[Case], outputs: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Run every case on its bucket's graph in strict ONNX Runtime; raise IntegrityError for a non-finite output."""
    results: dict[int, dict[str, np.ndarray]] = {}
    for name, graph in graphs.items():  # one bucket at a time: a session holds a copy of the weights
        opened = session(graph, weights)
        for number, case in enumerate(cases):
            if bucket_id(case.bucket) == name:
                values = call(opened, outputs, case.feeds)
                results[number] = _finite(dict(zip(outputs, values, strict=True)), case)
    return [results[number] for number in range(len(cases))]


def _finite(values: dict[str, np.ndarray], case: Case) -> dict[str, np.ndarray]:
    import numpy as np

    for name, value in values.items():
        if not np.isfinite(value).all():
            raise IntegrityError(
                f"output `{name}` of the reference holds NaN or infinity",
                where=f"bucket {bucket_id(case.bucket)}, items {case.items}",
                hint="the weights are damaged, or the inputs are outside the model's range",
            )
    return values


def load_graphs(folder: Path, buckets: Sequence[Bucket]) -> dict[str, onnx.ModelProto]:
    """Load the detached graph of every bucket."""
    return {bucket_id(bucket): onnx_io.load_graph(folder / f"{bucket_id(bucket)}.onnx") for bucket in buckets}


def save_cases(cases: Sequence[Case], out: Path) -> None:
    """Write ``cases.npz`` (``<number>.<input>``) and ``cases.json``."""
    arrays = {f"{number:04d}.{name}": value for number, case in enumerate(cases) for name, value in case.feeds.items()}
    save_arrays(out / "cases.npz", arrays)
    rows = [{"bucket": case.bucket, "items": list(case.items), "batched": case.batched} for case in cases]
    (out / "cases.json").write_text(json.dumps(rows))


def load_cases(folder: Path) -> list[Case]:
    """Read cases back."""
    rows = json.loads((folder / "cases.json").read_text())
    arrays = load_numbered(folder / "cases.npz")
    return [
        Case(bucket=row["bucket"], items=tuple(row["items"]), feeds=feeds, batched=row["batched"])
        for row, feeds in zip(rows, arrays, strict=True)
    ]


def save_numbered(path: Path, results: Sequence[dict[str, np.ndarray]]) -> None:
    """Write one dictionary of arrays a case into one ``.npz``."""
    arrays = {f"{number:04d}.{name}": value for number, row in enumerate(results) for name, value in row.items()}
    save_arrays(path, arrays)


def load_numbered(path: Path) -> list[dict[str, np.ndarray]]:
    """Read what ``save_numbered`` wrote, in order."""
    import numpy as np

    rows: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            number, _, name = key.partition(".")
            rows.setdefault(int(number), {})[name] = stored[key]
    return [rows[number] for number in sorted(rows)]


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an uncompressed ``.npz`` whose bytes depend on the arrays alone (NumPy stamps no time into it)."""
    import numpy as np

    named: dict[str, Any] = {name: arrays[name] for name in sorted(arrays)}
    with path.open("wb") as stream:
        np.savez(stream, **named)
