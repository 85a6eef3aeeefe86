"""One engine with one model in a process of its own: it waits for a line of JSON and answers with one.

    runner.py CONFIG.json          {"prompt": [ids], "tokens": 32}  →  {"tokens": [...], "seconds": [...]}
                                   {"memory": true}                 →  {"peak_rss_bytes": ..., ...}

The first of ``seconds`` is the time to the first token: the prompt's prefill and the choice of the likeliest token. The
others are of one token each. What an engine prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Greedy = Callable[[Sequence[int], int], Iterator[tuple[int, float]]]
"""Yields tokens and what each took, in seconds, from a prompt's ids and a number of tokens; no token ends it."""


def main(config: Mapping[str, Any]) -> None:
    """Load the engine, say so, and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-config["threads"] :])
    before = memory()
    started = time.perf_counter()
    greedy = ENGINES[config["engine"]](config)
    print(json.dumps({"load_s": time.perf_counter() - started, "before_load": before}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        if "memory" in asked:
            print(json.dumps(memory()), file=answers)
            continue
        found = list(greedy(asked["prompt"], asked["tokens"]))
        print(json.dumps({"tokens": [row[0] for row in found], "seconds": [row[1] for row in found]}), file=answers)


def memory() -> dict[str, int]:
    """Return the process's memory: its peak, and what is resident now, of its own and of mapped files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    told = {"peak_rss_bytes": "VmHWM", "anonymous_bytes": "RssAnon", "file_bytes": "RssFile"}
    return {name: int(rows[key].split()[0]) * 1024 for name, key in told.items()}


def steps(prefill: Callable[[Sequence[int]], np.ndarray], decode: Callable[[int, int], np.ndarray]) -> Greedy:
    """Return the greedy loop over two functions that return logits [vocabulary]; ``decode`` gets a token's position."""

    def greedy(prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        started = time.perf_counter()
        token = int(prefill(prompt).argmax())
        yield token, time.perf_counter() - started
        for place in range(len(prompt), len(prompt) + count - 1):
            started = time.perf_counter()
            token = int(decode(token, place).argmax())
            yield token, time.perf_counter() - started

    return greedy


def hwc(config: Mapping[str, Any]) -> Greedy:
    """Open a bundle's variant as `hwc run` does."""
    from dataclasses import replace

    from hwc.api import find_variant
    from hwc.bundle.program import program_of
    from hwc.runtime.generate import Generator
    from hwc.runtime.session import Session

    variant = find_variant(config["bundle"], store=Path(config["store"]))
    program = program_of(variant)
    program = replace(program, device=replace(program.device, threads=config["threads"]))
    generator = Generator(
        Session(program), program.functions, context_tokens=config["context_tokens"], eos_ids=(), batch=1
    )

    def greedy(prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        for step in generator.stream([prompt], max_new_tokens=count):
            yield int(step.tokens[0] or 0), step.wall_s

    return greedy


def onnxruntime(config: Mapping[str, Any]) -> Greedy:
    """Open hwc's own graph; the cache is bound once as input and as output, so that it is written where it lies."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = config["threads"], 1
    options.log_severity_level = 3
    session = ort.InferenceSession(config["graph"], options, providers=["CPUExecutionProvider"])
    caches = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("cache.")}
    sizes = {"batch": 1, "context": config["context_tokens"]}
    held = {
        name: ort.OrtValue.ortvalue_from_numpy(np.zeros([sizes.get(dim, dim) for dim in shape], np.float32))
        for name, shape in caches.items()
    }
    logits = np.empty((1, 1, config["vocabulary"]), np.float32)
    bound = session.io_binding()
    for name, value in held.items():
        bound.bind_ortvalue_input(name, value)
        bound.bind_ortvalue_output("next." + name.removeprefix("cache."), value)
    result = ort.OrtValue.ortvalue_from_numpy(logits)
    bound.bind_ortvalue_output("logits", result)

    def call(ids: Sequence[int], start: int) -> np.ndarray:
        feeds = {
            "input_ids": np.array([ids], np.int64), "start": np.array([start], np.int64),
            "logit_index": np.array([[len(ids) - 1]], np.int64),
        }
        for name, value in feeds.items():
            bound.bind_cpu_input(name, value)
        session.run_with_iobinding(bound)
        return np.asarray(result.numpy()[0, 0])

    return steps(lambda prompt: call(prompt, 0), lambda token, place: call([token], place))


def llama_cpp(config: Mapping[str, Any]) -> Greedy:
    """Open a GGUF file with llama.cpp; prompts in one batch, logits of the last token alone."""
    import llama_cpp as binding

    model = binding.Llama(
        config["gguf"], n_ctx=config["context_tokens"], n_batch=512, n_ubatch=512, n_threads=config["threads"],
        n_threads_batch=config["threads"], logits_all=False, verbose=False,
    )

    def call(ids: Sequence[int]) -> np.ndarray:
        model.eval(ids)
        found = binding.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(found, (config["vocabulary"],))

    def prefill(prompt: Sequence[int]) -> np.ndarray:
        model.reset()
        return call(prompt)

    return steps(prefill, lambda token, _: call([token]))


ENGINES: Mapping[str, Callable[[Mapping[str, Any]], Greedy]] = {
    "hwc": hwc, "onnxruntime": onnxruntime, "llama_cpp": llama_cpp,
}

if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
