"""The only loop: run a plan's steps, each in a child process of its own, hits first, measurements alone at the end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from hwc import child, told
from hwc.errors import HwcError, InternalError, StepError
from hwc.events import PROGRESS, Event, Listener
from hwc.files import locked
from hwc.pipeline.interrupt import flagged
from hwc.pipeline.step import Step
from hwc.pipeline.store import Artifact, Store

REQUEST = ".request.json"
POLL_S = 0.2
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Sums of floats depend on how many threads share them: codes are the same to the bit on any number of cores."""
FINISHED = ".finished"
"""Written by the step's process as its last act: an exit status of 0 alone could come from a user's code."""


def run_steps(
    steps: Sequence[Step],
    store: Store,
    listen: Listener,
    *,
    jobs: int,
    timeout_s: float,
    memory_bytes: int,
    refresh: frozenset[str] = frozenset(),
) -> dict[str, Artifact]:
    """Run steps (each after those it reads) and return their outputs by key.

    ``jobs`` steps run at once; volatile ones run alone, after all others, with the machine to themselves.
    ``refresh`` names stages whose outputs are made again. The first failure stops the start of new steps, lets
    running ones end, and is raised. Ctrl-C ends the running ones, and raises KeyboardInterrupt once they have ended.
    """
    runner = _Runner(store, listen, timeout_s=timeout_s, memory_bytes=memory_bytes, refresh=refresh)
    steady = [step for step in steps if not step.stage.volatile]
    with flagged(runner.stop):
        runner.parallel(steady, jobs)
        for step in steps:
            if step.stage.volatile:
                waiting = _Wait(listen, step, runner.stop, "another build is measuring")
                with locked(store.home / "locks" / "machine", waiting=waiting):
                    runner.one(step)
                runner.go_on()
    return runner.done


class _Runner:
    def __init__(
        self, store: Store, listen: Listener, *, timeout_s: float, memory_bytes: int, refresh: frozenset[str]
    ) -> None:
        self.store, self.listen, self.refresh = store, listen, refresh
        self.timeout_s, self.memory_bytes = timeout_s, memory_bytes
        self.done: dict[str, Artifact] = {}
        self.stop = threading.Event()

    def parallel(self, steps: Sequence[Step], jobs: int) -> None:
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                failure = self._dispatch(pool, list(steps), jobs)
            except BaseException:  # the others end their children when they see this
                self.stop.set()
                raise
        if failure is not None:
            raise failure
        self.go_on()

    def go_on(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.stop.is_set():
            raise KeyboardInterrupt

    def _dispatch(self, pool: ThreadPoolExecutor, pending: list[Step], jobs: int) -> BaseException | None:
        running: dict[Future[None], Step] = {}
        failure: BaseException | None = None
        while True:
            if failure is not None or self.stop.is_set():
                pending.clear()
            if not (pending or running):
                return failure
            ready = [step for step in pending if all(p.key in self.done for p in step.inputs.values())]
            for step in ready[: jobs - len(running)]:
                pending.remove(step)
                if not self._hit(step):
                    running[pool.submit(self.one, step)] = step
            if not running:
                if not ready and pending:
                    raise InternalError(f"{pending[0].label} waits for a step that is not in the plan")
                continue
            # Woken again and again: a signal that the system gives to another thread is seen only when this one runs.
            finished, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                running.pop(future)
                failure = failure or future.exception()
                if isinstance(failure, KeyboardInterrupt):
                    self.stop.set()

    def _hit(self, step: Step) -> bool:
        if step.stage.name in self.refresh:
            return False
        found = self.store.lookup(step.stage.name, step.key)
        if found is None:
            return False
        self.done[step.key] = found
        self.listen(Event(kind="hit", step=step.label))
        self._warn(step, found)
        return True

    def _warn(self, step: Step, artifact: Artifact) -> None:
        for text in told.warnings(artifact.path):
            self.listen(Event(kind="warn", step=step.label, text=text))

    def one(self, step: Step) -> None:
        if self._hit(step):
            return
        if step.stage.name in self.refresh:
            self.store.forget(step.stage.name, step.key)
        started = time.monotonic()
        self.listen(Event(kind="start", step=step.label))
        try:
            artifact, made = self.store.produce(
                step.stage.name,
                step.key,
                lambda folder: self._make(step, folder),
                waiting=_Wait(self.listen, step, self.stop, "another build is making it"),
            )
        except HwcError as error:
            self.listen(Event(kind="fail", step=step.label, text=error.what, wall_s=time.monotonic() - started))
            raise
        self.done[step.key] = artifact
        self.store.note(step.label, json.dumps({"key": step.key, **step.ingredients()}))
        self.listen(Event(kind="done" if made else "hit", step=step.label, wall_s=time.monotonic() - started))
        self._warn(step, artifact)

    def _told(self, step: Step, line: str) -> None:
        """Pass on a line of progress; the others are for the log alone."""
        if line.startswith(PROGRESS):
            self.listen(Event(kind="progress", step=step.label, text=line.removeprefix(PROGRESS)))

    def _make(self, step: Step, folder: Path) -> None:
        request = {
            "stage": step.stage.name,
            "params": dict(step.params),
            "local": dict(step.local),
            "inputs": {role: str(self.done[parent.key].path) for role, parent in step.inputs.items()},
            "work": str(self.store.work_path(step.stage.name, step.key)),
        }
        (folder / REQUEST).write_text(json.dumps(request))
        outcome = child.run(
            child.Call(
                argv=(sys.executable, "-m", "hwc.pipeline.work", str(folder)),
                cwd=folder,
                timeout_s=self.timeout_s,
                memory_bytes=self.memory_bytes,
                env={"HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", **ONE_THREAD},
            ),
            stop=self.stop,
            tell=lambda line: self._told(step, line),
        )
        (folder / "step.log").write_text(outcome.stdout + outcome.stderr)
        log = str(self.store.failed_path(step.stage.name, step.key) / "step.log")
        try:
            told.raise_told(folder)
        except HwcError as error:
            error.hint = f"{error.hint}\n         log: {log}".strip() if isinstance(error, StepError) else error.hint
            raise
        if outcome.stopped_by:
            hint = "raise step_timeout_s or step_memory_bytes in hwc.toml"
            raise StepError(f"{step.label}: {outcome.describe()}", where=log, hint=hint)
        if outcome.returncode < 0:
            raise StepError(f"{step.label}: its process {outcome.describe()}", where=log, hint="the log tells more")
        if outcome.returncode != 0:
            raise InternalError(f"{step.label}: its process {outcome.describe()}", where=log, hint="please report this")
        if not (folder / FINISHED).is_file():
            raise StepError(
                f"{step.label}: its process ended before the step was done", where=log,
                hint="code of the model or its evaluator may have called exit(); the log tells more",
            )
        (folder / FINISHED).unlink()
        (folder / REQUEST).unlink()
        usage = {"wall_s": outcome.wall_s, "cpu_s": outcome.cpu_s, "peak_rss_bytes": outcome.peak_rss_bytes}
        (folder / "usage.json").write_text(json.dumps(usage))


class _Wait:
    """Tells once what is waited for, and leaves the wait when this build is stopped."""

    def __init__(self, listen: Listener, step: Step, stop: threading.Event, text: str) -> None:
        self.listen, self.step, self.stop, self.text, self.told = listen, step, stop, text, False

    def __call__(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if not self.told:
            self.listen(Event(kind="wait", step=self.step.label, text=self.text))
            self.told = True


def inputs_of(step: Step, done: Mapping[str, Artifact]) -> dict[str, Path]:
    """Return the output folders of the steps that a step reads."""
    return {role: done[parent.key].path for role, parent in step.inputs.items()}
