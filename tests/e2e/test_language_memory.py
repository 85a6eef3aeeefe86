"""The cache is written where it lies: a token takes no memory beside one cache, however long that is."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from test_planted_faults import made

from command import Cli
from hwc import machine
from hwc.job import Job
from hwc.pipeline.stages import program
from hwc.pipeline.step import Step
from hwc.runtime.session import Session

CONTEXT = 131_072
CACHE_BYTES = 2 * 2 * 2 * 16 * 4 * CONTEXT
"""Keys and values of two layers, two heads of 16 float32 each: 64 MiB, against half a MiB of weights."""
PAGE_BYTES = 4096
CALLS = 20
DECODE = {"batch": 1, "sequence": 1, "logits": 1}


def run(step: Step, inputs: Mapping[str, Path], out: Path) -> Path:
    """Run a step of the plan for the decode alone, with a long cache."""
    spec = {**step.params["spec"], "buckets": [DECODE]}
    spec["generation"] = {**spec["generation"], "context_tokens": CONTEXT}
    out.mkdir()
    step.stage.function(
        Job(params={**step.params, "spec": spec}, local=step.local, inputs=inputs, out=out, work=out / "work")
    )
    return out


def decoder(language: Cli, folder: Path) -> Session:
    """Return the small language model's decode; it holds one cache and no second."""
    case = made(language, str(language.cwd / "tiny-llama"), "fp32")
    kept = {name: case.path(getattr(case.variant, name)) for name in ("capture", "quantise", "encode")}
    graphs = run(case.variant.simplify, kept, folder / "graphs")
    lowered = run(case.variant.lower, {**kept, "simplify": graphs}, folder / "lowered")
    before = machine.private_bytes()
    session = Session(program(kept["encode"], lowered, case.variant.target.device))
    generate(session, 0, 3)
    assert machine.private_bytes() - before < 1.2 * CACHE_BYTES, "a second copy of the cache is held"
    return session


def generate(session: Session, first: int, count: int) -> None:
    for at in range(first, first + count):
        feeds = {"input_ids": [[7]], "start": [at], "logit_index": [[0]]}
        session.call("b1_s1_l1", {name: np.array(value, np.int64) for name, value in feeds.items()})


def test_a_token_touches_no_new_memory_of_the_caches_size(
    language: Cli, built_language: Mapping[str, Any], tmp_path: Path
) -> None:
    """A copy into a fresh buffer would fault in all its pages; one into a kept buffer would hold two caches."""
    assert built_language
    session = decoder(language, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    generate(session, 3, CALLS)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults / CALLS < 0.01 * CACHE_BYTES / PAGE_BYTES
