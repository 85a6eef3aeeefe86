"""Speed and memory of language models: hwc's bundle, ONNX Runtime on hwc's own graph, and llama.cpp on the GGUF file.

Every runner is a process of its own, pinned to as many cores as it has threads. They take turns, in an order shuffled
anew each round, and wait while another is measured.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from language_built import FLOAT, Built
from measured import summary
from peers import environment
from peers.environment import Unavailable
from tokenizers import Tokenizer

from hwc import onnx_io
from hwc.capture import greedy
from hwc.capture.golden import load_cases
from hwc.quantise import codes, quantise
from hwc.quantise.graph import apply, onnx_tensors

PROMPTS = (16, 128, 512)
DECODED = 32
DECODED_AFTER = 128
CHECKED = 32
LEAST_ROUNDS = 3
ACCURACY = {1: "f32 inside", 4: "int8 inside"}
RUNNER = Path(__file__).parent / "peers" / "runner.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One runner: an engine with a model."""

    name: str
    weights: str
    """Runners with the same weights are expected to say the same."""
    python: str
    config: Mapping[str, Any]


class Runner:
    """A candidate that was started; it is stopped while nothing is asked, so that no waiting thread spins."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.loaded = self._answer()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question and return the answer."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            os.write(self._process.stdin.fileno(), json.dumps(question).encode() + b"\n")
        except BrokenPipeError as error:
            raise Unavailable(f"the process ended with exit code {self._process.wait()}") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"the process ended with exit code {self._process.wait()}")
        self._process.send_signal(signal.SIGSTOP)
        found: dict[str, Any] = json.loads(line)
        return found


def candidates(built: Built, schemes: Sequence[str], environments: Path, work: Path) -> tuple[list[Candidate], dict]:
    """Return the runners of one model, and why those that are missing are."""
    common = {"context_tokens": built.spec.generation.context_tokens, "vocabulary": _vocabulary(built)}
    found, absent = [], {}
    for scheme in (FLOAT, *schemes):
        config = {**common, "engine": "hwc", "bundle": built.bundle(scheme), "store": str(built.store)}
        found.append(Candidate(name=f"hwc {scheme}", weights=scheme, python=sys.executable, config=config))
    for scheme, level in [(FLOAT, None), *((scheme, level) for scheme in schemes for level in ACCURACY)]:
        graph = _graph(built, scheme, level, work)
        if graph is None:
            absent[f"ONNX Runtime {scheme}"] = "it has no kernels for this scheme on CPUs, only a reference"
            continue
        name = f"ONNX Runtime {scheme}" + (f", accuracy {level} ({ACCURACY[level]})" if level else "")
        config = {**common, "engine": "onnxruntime", "graph": str(graph)}
        found.append(Candidate(name=name, weights=scheme, python=sys.executable, config=config))
    try:
        python = environment.make(environment.LLAMA_CPP, environments)
        config = {**common, "engine": "llama_cpp", "gguf": str(_gguf(built, work))}
        found.append(Candidate(name="llama.cpp, the same GGUF file", weights="gguf", python=str(python), config=config))
    except Unavailable as error:
        absent["llama.cpp"] = str(error)
    return found, absent


def _vocabulary(built: Built) -> int:
    return int(json.loads((built.capture / "capture.json").read_text())["language"]["vocab_size"])


def _gguf(built: Built, work: Path) -> Path:
    """Return the GGUF file in one piece."""
    if len(built.gguf) == 1:
        return built.gguf[0]
    whole = work / "model.gguf"
    with whole.open("wb") as stream:
        for part in built.gguf:
            stream.write(part.read_bytes())
    return whole


def _graph(built: Built, scheme: str, level: int | None, work: Path) -> Path | None:
    """Write the captured graph in a scheme, weights beside it as ONNX Runtime maps them; None if there are no kernels.

    ``level`` is MatMulNBits' accuracy level.
    """
    import onnx
    from safetensors.numpy import load_file

    weights = dict(load_file(built.capture / "weights.safetensors"))
    model = onnx_io.load_graph(built.capture / "graph.onnx")
    if scheme != FLOAT:
        folder = built.quantised[scheme].folder
        layers, coded = quantise.read_layers(folder), codes.load(folder / quantise.CODES)
        model = apply(layers, model, where="graph.onnx")
        for linear in layers:
            weights.update(onnx_tensors(linear, coded[linear.layer]))
        weights.update(quantise.read_overrides(folder))
        products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
        if not any(entry.i == 4 for node in products for entry in node.attribute if entry.name == "bits"):
            return None
        for node in products:
            for entry in node.attribute:
                if entry.name == "accuracy_level":
                    entry.i = level or 0
    whole = onnx_io.attach(model, {name: weights[name] for name in onnx_io.weight_names(model)})
    place = work / f"{scheme}-{level or 0}"
    place.mkdir()
    onnx.save_model(
        whole, place / "model.onnx", save_as_external_data=True, all_tensors_to_one_file=True, location="weights",
        size_threshold=1024,
    )
    return place / "model.onnx"


@contextmanager
def _running(candidate: Candidate, threads: int, work: Path) -> Iterator[Runner]:
    config = work / f"{candidate.name.replace(' ', '-').replace('/', '-')}-{threads}.json"
    config.write_text(json.dumps({**candidate.config, "threads": threads}))
    variables = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with config.with_suffix(".log").open("w") as log, subprocess.Popen(
        (candidate.python, str(RUNNER), str(config)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        text=True, env={**os.environ, **variables},
    ) as process:  # fmt: skip
        try:
            yield Runner(process)
        finally:
            process.kill()


def measure(
    built: Built, found: Sequence[Candidate], *, threads: int, seconds: float, work: Path
) -> list[dict[str, Any]]:
    """Return a row for every candidate: milliseconds by prompt and token, memory, and the text it writes.

    Rounds go on for ``seconds``, at least three.
    """
    golden = greedy.load(built.capture)
    text = np.concatenate([case.feeds["input_ids"][0] for case in load_cases(built.cases) if case.items])
    prompts = {tokens: text[:tokens].tolist() for tokens in PROMPTS}
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        running: dict[str, Runner] = {}
        for candidate in found:
            try:
                runner = stack.enter_context(_running(candidate, threads, work))
                said = runner.ask({"prompt": golden.prompt_ids, "tokens": CHECKED})["tokens"]
            except Unavailable as error:
                rows[candidate.name] = {"absent": str(error)}
                continue
            running[candidate.name] = runner
            rows[candidate.name] = {"weights": candidate.weights, "tokens": said, "load_s": runner.loaded["load_s"]}
        samples = _rounds(running, prompts, seconds)
        for name, runner in running.items():
            rows[name] |= {
                "memory": runner.ask({"memory": True}), "before_load": runner.loaded["before_load"],
                "ms": {key: summary(values) for key, values in samples[name].items()},
            }
    named = [{"name": name, "threads": threads, **row} for name, row in rows.items()]
    return _compared(named, golden.tokens, Tokenizer.from_file(str(built.capture / "tokenizer" / "tokenizer.json")))


def _rounds(
    running: Mapping[str, Runner], prompts: Mapping[int, Sequence[int]], seconds: float
) -> dict[str, dict[str, list[float]]]:
    order = random.Random(0)
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in running}
    for prompt in prompts.values():  # warm: the first call of a shape allocates
        for runner in running.values():
            runner.ask({"prompt": prompt, "tokens": 2})
    deadline, done = time.monotonic() + seconds, 0
    while done < LEAST_ROUNDS or time.monotonic() < deadline:
        for name in order.sample(list(running), len(running)):
            for length, prompt in prompts.items():
                count = DECODED + 1 if length == DECODED_AFTER else 1
                first, *others = running[name].ask({"prompt": prompt, "tokens": count})["seconds"]
                samples[name].setdefault(f"ttft_{length}", []).append(first * 1e3)
                if others:
                    samples[name].setdefault("itl", []).append(sum(others) / len(others) * 1e3)
        done += 1
    return samples


def _compared(rows: list[dict[str, Any]], torch_tokens: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Add what each says as text, and how many tokens as PyTorch does, and as hwc does with the same weights."""
    own = {row["weights"]: row["tokens"] for row in rows if "tokens" in row and row["name"].startswith("hwc ")}
    for row in rows:
        if "tokens" in row:
            row["text"] = tokenizer.decode(row["tokens"])
            row["as_torch"] = leading(row["tokens"], torch_tokens)
            row["as_hwc"] = leading(row["tokens"], own[row["weights"]]) if row["weights"] in own else None
    return rows


def leading(found: Sequence[int], expected: Sequence[int]) -> int:
    """Return how many tokens are equal before the first that is not."""
    pairs = zip(found, expected, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
