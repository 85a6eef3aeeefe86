"""Contestants: an engine with a model in a process of its own, pinned to as many cores as it has threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peers.environment import Unavailable

RUNNER = Path(__file__).parent / "peers" / "runner.py"
Precision = Literal["float", "8 bits", "4 bits"]
"""Of the weights: only contestants of one precision are compared as equals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One engine with one form of a model, or of several."""

    name: str
    own: bool = False
    """Whether it is hwc's."""
    precision: Precision
    cases: tuple[str, ...]
    """Cases it takes part in."""
    config: Mapping[str, Any]
    """What peers/runner.py is told; ``threads`` comes on top."""
    python: str = sys.executable
    weights: str = ""
    """Contestants with the same weights are expected to say the same."""


class Runner:
    """A contestant that was started; it is stopped while nothing is asked, so that no waiting thread spins."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.loaded = self._answer()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question and return the answer; raise Unavailable if the process ended."""
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


@contextmanager
def running(contestant: Contestant, threads: int, work: Path) -> Iterator[Runner]:
    """Start a contestant, and kill it at the end; raise Unavailable, with its last words, if it does not load."""
    name = "".join(letter if letter.isalnum() else "-" for letter in contestant.name)
    config = work / f"{name}-{threads}.json"
    config.write_text(json.dumps({**contestant.config, "threads": threads}))
    variables = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    log = config.with_suffix(".log")
    with log.open("w") as out, subprocess.Popen(
        (contestant.python, str(RUNNER), str(config)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
        text=True, env={**os.environ, **variables},
    ) as process:  # fmt: skip
        try:
            yield _started(process, log)
        finally:
            process.kill()


def _started(process: subprocess.Popen[str], log: Path) -> Runner:
    try:
        return Runner(process)
    except Unavailable as error:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(last[0][:300] if last else str(error)) from error
