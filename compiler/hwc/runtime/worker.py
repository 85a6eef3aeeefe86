"""A clean process that loads one artefact, runs or times it, and reports: ``python -m hwc.runtime.worker FOLDER``.

The folder holds ``request.json`` (and ``cases.npz``, ``cases.json`` to run); the worker writes ``report.json``
(and ``outputs.npz``), or ``error.json``. What a device's code does to the process stays in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwc import machine, told
from hwc.errors import HwcError
from hwc.program import Program, from_json


def main(folder: Path) -> int:
    """Serve one request; return the process's exit status."""
    request = json.loads((folder / "request.json").read_text())
    verbs: dict[str, Callable[[Path, Program, dict[str, Any]], dict[str, Any]]] = {
        "run": _run, "score": _score, "time": _time,
    }
    try:
        report = verbs[request["verb"]](folder, from_json(json.dumps(request["program"])), request)
    except HwcError as error:
        told.tell(folder, error)
        return error.exit_code
    (folder / "report.json").write_text(json.dumps(report))
    return 0


def _load(program: Program) -> tuple[Any, dict[str, Any]]:
    import iree.runtime  # noqa: F401  (its own memory is not the artefact's)
    import numpy as np  # noqa: F401

    from hwc.runtime.session import Session

    rss_before, private_before = machine.rss_bytes(), machine.private_bytes()
    started = time.perf_counter()
    session = Session(program)
    facts = {
        "load_s": time.perf_counter() - started,
        "rss_before_load_bytes": rss_before,
        "rss_after_load_bytes": machine.rss_bytes(),
        "private_before_load_bytes": private_before,
        "private_after_load_bytes": machine.private_bytes(),
    }
    return session, facts


def _memory(facts: dict[str, Any]) -> None:
    facts["rss_after_run_bytes"] = machine.rss_bytes()
    facts["private_after_run_bytes"] = machine.private_bytes()
    facts["peak_rss_bytes"] = machine.peak_rss_bytes()


def _run(folder: Path, program: Program, request: dict[str, Any]) -> dict[str, Any]:
    from hwc.capture.golden import load_cases, save_numbered
    from hwc.program import Function

    session, facts = _load(program)
    by_bucket: dict[str, Function] = {json.dumps(entry.bucket, sort_keys=True): entry for entry in program.functions}
    results = []
    for case in load_cases(Path(request["cases"])):
        entry = by_bucket[json.dumps(case.bucket, sort_keys=True)]
        results.append(session.call(entry.name, case.feeds))
    _memory(facts)
    save_numbered(folder / "outputs.npz", results)
    return {**facts, **_executed(session)}


def _score(folder: Path, program: Program, request: dict[str, Any]) -> dict[str, Any]:
    """Make a language model's calls in order and write its golden text; both are reduced at once: logits are large."""
    from hwc.capture import calls, greedy, reduced
    from hwc.capture.golden import load_cases

    session, facts = _load(program)
    by_bucket = {json.dumps(entry.bucket, sort_keys=True): entry for entry in program.functions}
    cases_folder = Path(request["cases"])
    cases = load_cases(cases_folder)
    logits = (
        session.call(by_bucket[json.dumps(case.bucket, sort_keys=True)].name, case.feeds)["logits"] for case in cases
    )
    reduced.save(folder / "outputs.npz", calls.reduce(cases, logits, reduced.load(cases_folder / "expected.npz")))
    most = int(request["greedy_tokens"])
    found = _write_golden(session, program, greedy.load(cases_folder), int(request["context_tokens"]), most)
    _memory(facts)
    return {**facts, **found, **_executed(session)}


def _executed(session: Any) -> dict[str, Any]:
    """Tell what an emulated chip's core executed; nothing of any other device."""
    told = session.executed()
    return {} if told is None else {"executed": told}


class _Heard:
    """Passes calls on, and keeps the logits that each gave for the first row."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.logits: list[Any] = []

    def call(self, function: str, feeds: Any, /) -> Any:
        """Call the artefact."""
        found = self._session.call(function, feeds)
        self.logits.append(found["logits"][0, 0].copy())
        return found


def _write_golden(session: Any, program: Program, told: Any, context_tokens: int, most: int) -> dict[str, Any]:
    """Generate greedily after the golden prompt; compare logits as long as the tokens are the model's own."""
    import numpy as np

    from hwc.capture import calls, reduced
    from hwc.runtime.generate import Generator

    heard = _Heard(session)
    batch = min(entry.bucket["batch"] for entry in program.functions)
    generator = Generator(heard, program.functions, context_tokens=context_tokens, eos_ids=(), batch=batch)
    count = min(len(told.tokens), generator.room(len(told.prompt_ids)), most)
    steps = generator.stream([told.prompt_ids], max_new_tokens=count)
    tokens = [token for step in steps if (token := step.tokens[0]) is not None]
    equal = next((at for at, pair in enumerate(zip(tokens, told.tokens, strict=False)) if pair[0] != pair[1]), count)
    alike = min(equal + 1, count)  # the logits of the first other token still follow the same text
    due = calls.part(told.logits, 0, alike)
    found = reduced.at(np.stack(heard.logits[-count:][:alike]), due, np.asarray(told.tokens[:alike]))
    worst = float(np.max(np.abs((due.logprobs + due.lse[:, None]) - (found.logprobs + found.lse[:, None]))))
    return {"greedy_tokens": tokens, "greedy_logits_max_abs": worst}


def _time(_folder: Path, program: Program, request: dict[str, Any]) -> dict[str, Any]:
    """Time every function on its first case, or a language model on the grid of prompts and fills of its cache."""
    from hwc.capture.golden import load_cases
    from hwc.runtime import grid, timing

    session, facts = _load(program)
    if (context_tokens := request["context_tokens"]) is None:
        cases = load_cases(Path(request["cases"]))
        feeds = {json.dumps(case.bucket, sort_keys=True): case.feeds for case in cases}
        series = timing.single(program.functions, feeds)
    else:
        series = grid.series(program.functions, int(context_tokens), composed=bool(request["composed"]))
    how = timing.Rounds(
        warmup=int(request["warmup"]), min_rounds=int(request["min_rounds"]), rounds=int(request["rounds"]),
        budget_s=float(request["budget_s"]),
    )
    facts |= timing.measure(session, series, how, warm=lambda: _memory(facts))
    return {**facts, "series": [{"function": one.name, **one.facts} for one in series]}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
