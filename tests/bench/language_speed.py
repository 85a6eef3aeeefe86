"""Speed, memory and rightness of language models beside their peers; a prompt's length is a case.

A turn is a prompt's prefill, with the choice of a token, and some tokens behind it: so the cache of every case is used
as far as the case's name says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import built as building
import language_built
import numpy as np
import predicted
import turns
from contestants import Contestant
from fixed import READ, Asked, reading
from judging import judge_tokens
from language_built import FLOAT, Built
from language_peers import Cases, genai, llama_cpp, onnxruntime, vocabulary
from measured import spread
from networks import PRECISIONS
from peers import environment
from peers.environment import Unavailable

from hwc.capture import greedy
from hwc.capture.golden import load_cases
from hwc.runtime import prefill

DECODED = 6
"""Tokens of a turn behind the first."""
LENGTHS = (16, 128, 512, 1016)
"""Of prompts; the longest leaves room for the tokens behind it in a cache of 1024."""
FULL = tuple(map(str, LENGTHS))
CASES = Cases(full=FULL, some=("16", "128", "512"), one=("128",))
LEAST_ROUNDS = 3
READ_CALLS = 3
CHECKED = 24
"""Greedy tokens of the float model that everyone is fed and judged by."""
WARMED = ("16", "512")
"""The first call of a shape allocates; a third of the time would go into warming the others too."""
SCHEMES = (FLOAT, "w4a16", "w4a8-rtn")
"""Quality is measured elsewhere: codes that are rounded to nearest take the time of fitted ones."""
CODED = "w4a16"
TWIN = "w4a16-rtn"
"""Rounded to nearest: the same artefact but for the numbers, so that two lengths of cache take a minute each."""
HEAD = "w4a16-rtn-e4"
"""The twin with its table, which is the head as well, in int4, as onnxruntime-genai has it."""
LONGER = 4096
NOTES = (
    "The head: hwc and ONNX Runtime store it as the model's specification says (int8, groups of 32), "
    f"`{HEAD}` in int4; onnxruntime-genai in int4; llama.cpp as the GGUF file has it, with its cache in float16.",
    f"`{TWIN}` is `w4a16` with other numbers in the same places.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One model with everyone who runs it."""

    built: Built
    contestants: tuple[Contestant, ...]
    absent: Mapping[str, str]
    predicted: Mapping[str, Mapping[str, Any]]
    """By contestant, milliseconds by function."""
    lengths: tuple[int, ...]
    """Prompt lengths that hwc has compiled."""
    cache_bytes: int
    versions: Mapping[str, str]
    notes: tuple[str, ...]


def prepare(model: str, cache: Path, store: Path, work: Path, options: Sequence[str] = ()) -> Prepared:
    """Build a model and its peers' forms of it; ``options`` are further ones of `hwc build`."""
    absent: dict[str, str] = {}
    built = language_built.build(model, [*SCHEMES[1:], HEAD], store, options)
    context = built.spec.generation.context_tokens
    common = {"kind": "generating", "context_tokens": context, "vocabulary": vocabulary(built)}
    found = [_own(name, built.made.bundle(name), common, store) for name in SCHEMES]
    found += [
        _own(HEAD, built.made.bundle(HEAD), common, store, cases=("128",)),
        *onnxruntime(built, CODED, common, CASES, work),
    ]
    notes = [built.made.told(name, f"hwc {name}") for name in (*SCHEMES, HEAD)]
    for tokens, label in ((context, ""), (LONGER, f", cache of {LONGER}")):
        made = building.make(building.twin(model, tokens, cache / "models"), [TWIN], store, options)
        notes.append(made.told(TWIN, f"hwc {TWIN}{label}"))
        asked = {**common, "context_tokens": tokens}
        found.append(_own(TWIN, made.bundle(TWIN), asked, store, cases=("128",), label=label))
    for name, make in {
        "llama.cpp": lambda: llama_cpp(built, common, CASES, cache / "peers", work),
        "onnxruntime-genai": lambda: genai(built, common, CASES, cache),
    }.items():
        try:
            found.append(make())
        except Unavailable as error:
            absent[name] = str(error)
    buckets = built.spec.buckets
    return Prepared(
        built=built, contestants=(*found, reading(work)), absent=absent,
        predicted={f"hwc {name}": predicted.of_variant(built.made, name, cache / "predicted") for name in SCHEMES},
        lengths=tuple(one["sequence"] for one in buckets if one["batch"] == 1 and one.get("logits", 1) == 1),
        notes=tuple(notes), cache_bytes=_cache_bytes(built), versions={"llama.cpp": environment.LLAMA_CPP.packages[0],
        "onnxruntime-genai": environment.ONNXRUNTIME_GENAI.packages[0],
        "llama.cpp was built with": environment.LLAMA_CPP.variables["CMAKE_ARGS"]},
    )


def _own(
    scheme: str, bundle: str, common: Mapping[str, Any], store: Path, *, cases: tuple[str, ...] | None = None,
    label: str = "",
) -> Contestant:
    precision = PRECISIONS.get(scheme, "4 bits")
    asked = CASES.full if precision == "4 bits" else CASES.some
    config = {**common, "engine": "hwc", "bundle": bundle, "store": str(store)}
    return Contestant(
        name=f"hwc {scheme}{label}", own=True, precision=precision, cases=cases or asked, config=config, weights=scheme
    )


def _cache_bytes(built: Built) -> int:
    """Return the bytes of the KV cache in float32, as the captured graph declares it."""
    from hwc import onnx_io

    sizes = {"batch": 1, "context": built.spec.generation.context_tokens}
    graph = onnx_io.load_graph(built.capture / "graph.onnx").graph
    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name.startswith("cache.")]
    return 4 * sum(int(np.prod([dim.dim_value or sizes[dim.dim_param] for dim in shape])) for shape in shapes)


def measure(prepared: Prepared, *, threads: int, seconds: float, work: Path) -> dict[str, Any]:
    """Return rows of times to the first token and of tokens, memory and load, and who is missing."""
    built, asked = prepared.built, Asked()
    text = np.concatenate([case.feeds["input_ids"][0] for case in load_cases(built.cases) if case.items])
    prompts = {case: text[: int(case)].tolist() for case in FULL}

    def turn(name: str, case: str) -> Sequence[float]:
        question = {"prompt": prompts[case], "tokens": DECODED + 1} if case != READ else _READ_QUESTION
        return list(asked.ask(name, question).get("seconds", ()))

    with ExitStack() as stack:
        asked.start(prepared.contestants, threads, work, stack)
        present = [one for one in prepared.contestants if one.name in asked.running]
        checks = _checked(built, present, asked, work)
        cases = {
            case: [one.name for one in present if case in one.cases and one.name not in asked.absent]
            for case in (*FULL, READ)
        }
        for case in WARMED:
            for name in cases[case]:
                turn(name, case)
        samples = turns.take(cases, turn, seconds=seconds, least=LEAST_ROUNDS)
        there = [one for one in present if one.name not in asked.absent]
        told = [_told(one, samples, prepared, threads, asked, checks) for one in there]
    facts = {name: one.loaded["facts"] for name, one in asked.running.items() if one.loaded["facts"]}
    rows = [row for rows in told for row in rows]
    absent, notes = {**prepared.absent, **asked.absent}, [*NOTES, *prepared.notes]
    return {"rows": rows, "absent": absent, "facts": facts, "notes": notes}


_READ_QUESTION = {"case": READ, "warm": 0, "calls": READ_CALLS}


def _checked(built: Built, present: Sequence[Contestant], asked: Asked, work: Path) -> dict[str, dict[str, Any]]:
    """Feed everyone what the float model says in PyTorch, and judge whether they find it likeliest too."""
    golden = greedy.load(built.capture)
    logits: dict[str, np.ndarray] = {}
    for one in present:
        saved = work / "logits.npy"
        saved.unlink(missing_ok=True)
        question = {"prompt": golden.prompt_ids, "forced": golden.tokens[: CHECKED - 1], "save": str(saved)}
        if one.name != READ and asked.ask(one.name, question) == {} and saved.is_file():
            logits[one.name] = np.load(saved)
    floats = logits.get("ONNX Runtime f32")
    return {
        one.name: judge_tokens(logits[one.name], golden.tokens[:CHECKED], one.precision, floats)
        if one.name in logits else {"agreed": None, "kl": None, "right": False}
        for one in present if one.name != READ
    }


def _told(
    one: Contestant, samples: turns.Samples, prepared: Prepared, threads: int, asked: Asked,
    checks: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    head = {"contestant": one.name, "own": one.own, "precision": one.precision, "threads": threads}
    if one.name == READ:
        return [{**head, "case": READ, **_times(samples[READ, READ])}]
    loaded, now = asked.running[one.name].loaded, asked.ask(one.name, {"memory": True})
    head["check"] = checks[one.name]
    head["load"] = {"seconds": loaded["load_s"], "before": loaded["before_load"], "after": loaded["after_load"],
                    "used": now, "cache_bytes": prepared.cache_bytes}
    if one.own:
        head["weight_bytes"] = building.weight_bytes(one.config["bundle"], Path(one.config["store"]))
    functions = prepared.predicted.get(one.name, {}) if threads == 1 else {}
    rows = []
    for case in one.cases:
        rounds = samples[one.name, case]
        first, others = [taken[:1] for taken in rounds], [taken[1:] for taken in rounds]
        for name, part in ((f"prefill {case}", first), (f"decode at {case}", others)):
            rows.append({**head, "case": name, **_times(part), "predicted": _predicted(name, functions, prepared)})
    return rows


def _times(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    return {
        "ms": spread([taken for turn in rounds for taken in turn]),
        "rounds_ms": [float(f"{spread(turn)['median']:.5g}") for turn in rounds],
    }


def _predicted(
    case: str, functions: Mapping[str, Mapping[str, float]], prepared: Prepared
) -> dict[str, float] | None:
    """Return the prediction of the calls that a case is made of."""
    by_length = {int(name.split("_s")[1].split("_")[0]): found for name, found in functions.items() if "b1_s" in name}
    if case.startswith("decode"):
        calls = [1]
    else:
        context = prepared.built.spec.generation.context_tokens
        calls = [one.length for one in prefill.plan(int(case.split()[1]), prepared.lengths, context)]
    if not all(length in by_length for length in calls):
        return None
    return {key: sum(by_length[length][key] for length in calls) for key in by_length[calls[0]]}
