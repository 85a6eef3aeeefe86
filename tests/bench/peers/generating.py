"""Engines that generate: they are put prompts, and choose the likeliest token.

    {"prompt": [ids], "tokens": 9}                             →  {"tokens": [...], "seconds": [...]}
    {"prompt": [ids], "forced": [ids], "save": "LOGITS.npy"}   →  {}: float32 [1 + forced, vocabulary] were written

The first of ``seconds`` is the time to the first token: the prompt's prefill and the choice of the likeliest token. The
others are of one token each. Forced tokens are fed instead of the likeliest ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Greedy = Callable[[Sequence[int], int], Iterator[tuple[int, float]]]
"""Yields tokens and what each took, in seconds, from a prompt's ids and a number of tokens; no token ends it."""
Prefill = Callable[[Sequence[int]], np.ndarray]
Decode = Callable[[int, int], np.ndarray]
"""Logits [vocabulary] behind a prompt, and behind a token at its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What an engine does with a prompt."""

    greedy: Greedy
    prefill: Prefill
    decode: Decode
    facts: Mapping[str, Any]
    """For the page: versions and features."""


def prepare(config: Mapping[str, Any]) -> None:
    """Import the engine's code, so that loading a model is timed without loading Python's modules."""
    for name in MODULES[config["engine"]]:
        import_module(name)


def opened(config: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], Mapping[str, Any]]:
    """Load the engine."""
    engine = ENGINES[config["engine"]](config)

    def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
        if "save" in asked:
            np.save(asked["save"], forced(engine, asked["prompt"], asked["forced"]))
            return {}
        found = list(engine.greedy(asked["prompt"], asked["tokens"]))
        return {"tokens": [row[0] for row in found], "seconds": [row[1] for row in found]}

    return answer, engine.facts


def forced(engine: Engine, prompt: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
    """Return the logits behind a prompt and behind each of the tokens that follow it."""
    rows = [np.array(engine.prefill(prompt), np.float32)]
    for place, token in enumerate(tokens, len(prompt)):
        rows.append(np.array(engine.decode(token, place), np.float32))
    return np.stack(rows)


def steps(prefill: Prefill, decode: Decode) -> Greedy:
    """Return the greedy loop over two functions that return logits."""

    def greedy(prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        started = time.perf_counter()
        token = int(prefill(prompt).argmax())
        yield token, time.perf_counter() - started
        for place in range(len(prompt), len(prompt) + count - 1):
            started = time.perf_counter()
            token = int(decode(token, place).argmax())
            yield token, time.perf_counter() - started

    return greedy


def hwc(config: Mapping[str, Any]) -> Engine:
    """Open a bundle's variant as `hwc run` does."""
    from own import program

    from hwc.runtime import prefill
    from hwc.runtime.generate import Generator
    from hwc.runtime.session import Session

    opened = program(config["bundle"], Path(config["store"]), config["threads"])
    context = config["context_tokens"]
    session = Session(opened)
    generator = Generator(session, opened.functions, context_tokens=context, eos_ids=(), batch=1)
    lengths = {
        entry.bucket["sequence"]: entry for entry in opened.functions
        if entry.bucket.get("batch") == 1 and entry.bucket.get("logits", 1) == 1
    }

    def greedy(prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        for step in generator.stream([prompt], max_new_tokens=count):
            yield int(step.tokens[0] or 0), step.wall_s

    def call(ids: Sequence[int], start: int, length: int) -> np.ndarray:
        filled = np.zeros((1, length), np.int64)
        filled[0, : len(ids)] = ids
        feeds = {
            "input_ids": filled, "start": np.array([start], np.int64),
            "logit_index": np.array([[len(ids) - 1]], np.int64),
        }
        return session.call(lengths[length].name, feeds)["logits"][0, 0]

    def whole(prompt: Sequence[int]) -> np.ndarray:
        chunks = prefill.plan(len(prompt), lengths, context)
        return [call(prompt[one.start : one.start + one.length], one.start, one.length) for one in chunks][-1]

    return Engine(greedy=greedy, prefill=whole, decode=lambda token, place: call([token], place, 1), facts={})


def onnxruntime(config: Mapping[str, Any]) -> Engine:
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

    def prefill(prompt: Sequence[int]) -> np.ndarray:
        return call(prompt, 0)

    def decode(token: int, place: int) -> np.ndarray:
        return call([token], place)

    return Engine(greedy=steps(prefill, decode), prefill=prefill, decode=decode, facts={})


def llama_cpp(config: Mapping[str, Any]) -> Engine:
    """Open a GGUF file with llama.cpp; prompts in one batch, logits of the last token alone."""
    import llama_cpp as binding

    model = binding.Llama(
        config["gguf"], n_ctx=config["context_tokens"], n_batch=512, n_ubatch=512, n_threads=config["threads"],
        n_threads_batch=config["threads"], logits_all=False, verbose=False,
    )
    facts = {"system_info": " ".join(binding.llama_print_system_info().decode().split())}

    def call(ids: Sequence[int]) -> np.ndarray:
        model.eval(ids)
        found = binding.llama_get_logits_ith(model.ctx, -1)
        return np.ctypeslib.as_array(found, (config["vocabulary"],))

    def prefill(prompt: Sequence[int]) -> np.ndarray:
        model.reset()
        return call(prompt)

    def decode(token: int, _place: int) -> np.ndarray:
        return call([token])

    return Engine(greedy=steps(prefill, decode), prefill=prefill, decode=decode, facts=facts)


def onnxruntime_genai(config: Mapping[str, Any]) -> Engine:
    """Open a folder of ONNX Runtime's own model builder; one generator a prompt, made before its time is taken."""
    import onnxruntime_genai as genai

    model = genai.Model(genai.Config(config["folder"]))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=config["context_tokens"], min_length=0)
    held: list[Any] = [genai.Generator(model, params)]

    def logits(ids: Sequence[int]) -> np.ndarray:
        held[0].append_tokens(np.array([ids], np.int32))
        return np.asarray(held[0].get_logits()).reshape(-1, config["vocabulary"])[-1]

    def fresh() -> None:
        held[0] = genai.Generator(model, params)

    def prefill(prompt: Sequence[int]) -> np.ndarray:
        fresh()
        return logits(prompt)

    def greedy(prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        fresh()
        return steps(logits, lambda token, _: logits([token]))(prompt, count)

    return Engine(greedy=greedy, prefill=prefill, decode=lambda token, _: logits([token]), facts={})


ENGINES: Mapping[str, Callable[[Mapping[str, Any]], Engine]] = {
    "hwc": hwc, "onnxruntime": onnxruntime, "llama_cpp": llama_cpp, "onnxruntime_genai": onnxruntime_genai,
}
MODULES: Mapping[str, tuple[str, ...]] = {
    "hwc": ("own", "iree.runtime", "hwc.runtime.generate", "hwc.runtime.session"), "onnxruntime": ("onnxruntime",),
    "llama_cpp": ("llama_cpp",), "onnxruntime_genai": ("onnxruntime_genai",),
}
