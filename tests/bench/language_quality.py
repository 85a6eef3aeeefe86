"""Quality of quantised language models, hwc's and its peers', in one protocol.

Every row is the same float graph in ONNX Runtime with other numbers in its linears: a peer's codes are brought back to
the float32 weights that they stand for, as hwc's own are. So only the choice of codes and scales differs, and no row is
helped or harmed by how its kernels compute. Embeddings and the head stay float in all of them. The windows of text, the
record of the float model's answers and the estimator of KL are those of `hwc build`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from language_built import Built, Quantised
from measured import run
from peers import environment
from peers.environment import Unavailable

from hwc import digest, onnx_io
from hwc.capture import calls, gguf, reduced
from hwc.capture.golden import load_cases, save_arrays
from hwc.capture.reduced import Reduced
from hwc.measure import language
from hwc.quantise import codes, quantise
from hwc.quantise.linears import ADJUSTED

GROUP = 32
PEERS = Path(__file__).parent / "peers"
Weights = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row before it is measured."""

    name: str
    key: str
    """What its result depends on, beside the model, its evaluation and its calibration."""
    bits: float | None
    """Stored bits a weight, of linears."""
    make: Callable[[Path], tuple[Weights, dict[str, Any]]]
    """Returns the replaced float weights of the captured graph, and what they cost; gets an empty folder."""


def measure(built: Built, entries: Sequence[Entry], cache: Path, *, fresh: bool) -> list[dict[str, Any]]:
    """Return a row for every entry: its metrics with standard errors, and what quantising cost.

    Answers and costs are kept under ``cache``, by all that they depend on, and taken from there unless ``fresh``.
    """
    scored = calls.load_scored(built.cases)
    count = len(scored.domains) * scored.positions_per_window
    floats = calls.part(reduced.load(built.cases / "expected.npz"), 0, count)
    at = language.places(scored.domains, scored.positions_per_window)
    rows = []
    for entry in entries:
        print(f"quality of {built.spec.name}: {entry.name}", file=sys.stderr, flush=True)
        place = cache / digest.short(digest.of_json([built.inputs_key, entry.name, entry.key]))
        try:
            answers, cost = _answers(built, entry, floats, place, fresh=fresh)
        except Unavailable as error:
            rows.append({"name": entry.name, "absent": str(error)})
            continue
        metrics = language.compare(floats, answers, at)
        rows.append(
            {
                "name": entry.name, "bits": entry.bits, "cost": cost,
                "metrics": {
                    name: {"value": found.value, "standard_error": found.standard_error}
                    for name, found in metrics.items()
                    if "/" not in name
                },
            }
        )
    return rows


def _answers(
    built: Built, entry: Entry, floats: Reduced, place: Path, *, fresh: bool
) -> tuple[Reduced, dict[str, Any]]:
    kept, told = place / "answers.npz", place / "cost.json"
    if fresh or not (kept.is_file() and told.is_file()):
        place.mkdir(parents=True, exist_ok=True)
        load = os.getloadavg()[0]
        replaced, cost = entry.make(place)
        reduced.save(kept, answered(built, replaced, floats))
        told.write_text(json.dumps({**cost, "load_1min_before": load}))
    return reduced.load(kept), json.loads(told.read_text())


def answered(built: Built, replaced: Mapping[str, np.ndarray], floats: Reduced) -> Reduced:
    """Return what the float graph answers on the scored windows with some weights replaced."""
    weights = merged(float_weights(built), replaced)
    cases = [case for case in load_cases(built.cases) if case.items]
    graph = onnx_io.load_graph(built.capture / "graph.onnx")
    return calls.reduce(cases, calls.answers(graph, weights, built.spec, cases), floats)


def float_weights(built: Built) -> Weights:
    """Return the captured weights by name."""
    from safetensors.numpy import load_file

    return dict(load_file(built.capture / "weights.safetensors"))


def merged(floats: Mapping[str, np.ndarray], replaced: Mapping[str, np.ndarray]) -> Weights:
    """Put replaced weights in the place of the float ones; raise SystemExit for a name or a shape that is not there."""
    for name, value in replaced.items():
        if name not in floats or floats[name].shape != value.shape:
            have = floats[name].shape if name in floats else "nothing"
            raise SystemExit(f"the weight {name} has shape {value.shape}, where the graph has {have}")
    return {**floats, **replaced}


def own(name: str, found: Quantised) -> Entry:
    """Return the entry of one of hwc's schemes."""

    def make(_: Path) -> tuple[Weights, dict[str, Any]]:
        return own_weights(found.folder), {**found.cost, "settings": found.method, "versions": {}}

    return Entry(name=name, key=found.key, bits=own_bits(found.folder), make=make)


def _body(folder: Path) -> Iterator[tuple[Any, codes.Codes]]:
    """Yield every quantised linear with its codes; embeddings and the head are left out."""
    coded = codes.load(folder / quantise.CODES)
    for linear in quantise.read_layers(folder):
        if linear.role == "linear":
            yield linear, coded[linear.layer]


def own_weights(folder: Path) -> Weights:
    """Return the float32 weights that a quantise step's codes stand for, in the layout of the captured graph."""
    found = {}
    for linear, coded in _body(folder):
        matrix = codes.dequantise(coded)
        found[linear.weight] = np.ascontiguousarray(matrix if linear.transposed else matrix.T)
    changed = quantise.read_overrides(folder)
    return {**found, **{name.removesuffix(ADJUSTED): value for name, value in changed.items()}}


def own_bits(folder: Path) -> float:
    """Return the stored bits a weight of linears: codes, scales and zero points."""
    bits = weights = 0
    for linear, coded in _body(folder):
        width = 4 if coded.kind == "int4" else 8
        extra = [part for part in (coded.scales, coded.offsets) if part is not None]
        bits += linear.parameters * width + sum(8 * part.nbytes for part in extra)
        bits += 0 if coded.zeros is None else width * coded.zeros.size
        weights += linear.parameters
    return bits / weights


def onnxruntime(built: Built, method: str, bits: float, windows: int) -> Entry:
    """Return the entry of a method of ONNX Runtime's MatMulNBits quantiser; GPTQ sees the first ``windows``."""
    import onnx
    import onnxruntime as ort

    def make(place: Path) -> tuple[Weights, dict[str, Any]]:
        kept = [linear.weight for linear, _ in _body(next(iter(built.quantised.values())).folder)]
        (place / "kept.json").write_text(json.dumps(kept))
        graph = onnx_io.attach(onnx_io.load_graph(built.capture / "graph.onnx"), float_weights(built))
        onnx.save(graph, place / "float.onnx")
        del graph
        feeds = [case.feeds for case in load_cases(built.calibration)[:windows]]
        named = {f"{at}/{name}": value for at, one in enumerate(feeds) for name, value in one.items()}
        save_arrays(place / "cases.npz", named)
        out, cost = place / "weights.safetensors", place / "cost.json"
        script = (sys.executable, str(PEERS / "onnxruntime_nbits.py"))
        files = [str(place / name) for name in ("float.onnx", "kept.json", "cases.npz")]
        return _child((*script, method, *files, str(out), str(cost), str(GROUP)), place, str)

    key = f"{ort.__version__} {GROUP} {windows if method == 'gptq' else 0}"
    return Entry(name=f"ONNX Runtime, {method}", key=key, bits=bits, make=make)


def llmcompressor(built: Built, environments: Path) -> Entry:
    """Return the entry of llmcompressor's GPTQ on the very windows that hwc calibrates with."""

    def make(place: Path) -> tuple[Weights, dict[str, Any]]:
        python = environment.make(environment.LLMCOMPRESSOR, environments)
        gguf.to_folder(built.gguf, place / "model")
        ids = np.concatenate([case.feeds["input_ids"] for case in load_cases(built.calibration)])
        np.save(place / "ids.npy", ids)
        out, cost = place / "weights.safetensors", place / "cost.json"
        argv = (str(python), str(PEERS / "llmcompressor_gptq.py"), str(place / "model"), str(place / "ids.npy"))
        weights, told = _child((*argv, str(out), str(cost), str(GROUP)), place, lambda name: f"model.{name}")
        return {name: np.ascontiguousarray(value.T) for name, value in weights.items()}, told

    return Entry(
        name=f"llmcompressor GPTQ, symmetric, groups of {GROUP}", key=" ".join(environment.LLMCOMPRESSOR.packages),
        bits=4 + 16 / GROUP, make=make,
    )


def _child(argv: Sequence[str], place: Path, rename: Callable[[str], str]) -> tuple[Weights, dict[str, Any]]:
    """Run a quantiser on one thread and read what it wrote; remove its files, which are large."""
    from safetensors.numpy import load_file

    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    try:
        run(argv, log=place / "log", env=variables)
    except SystemExit as error:
        raise Unavailable(str(error).strip().splitlines()[-1][:200]) from error
    weights = {rename(name): value for name, value in load_file(place / "weights.safetensors").items()}
    told = json.loads((place / "cost.json").read_text())
    for path in [path for path in place.rglob("*") if path.is_file() and path.name != "log"]:
        path.unlink()
    return weights, told


def own_shipped(built: Built, scheme: str) -> dict[str, Any]:
    """Return mean KL of a scheme as its bundle holds it, embeddings and head as the model's specification says."""
    started = time.perf_counter()
    scored = calls.load_scored(built.cases)
    count = len(scored.domains) * scored.positions_per_window
    at = language.places(scored.domains, scored.positions_per_window)
    floats, other = (
        calls.part(reduced.load(folder / "expected.npz"), 0, count)
        for folder in (built.cases, built.quantised[scheme].reference)
    )
    found = language.compare(floats, other, at)
    return {
        "scheme": scheme, "wall_s": time.perf_counter() - started,
        "metrics": {name: {"value": row.value, "standard_error": row.standard_error} for name, row in found.items()},
    }
