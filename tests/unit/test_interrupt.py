"""Ctrl-C while steps run sets a flag: it breaks nothing of what the main thread is about, and ends what runs."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwc.events import Event, silent
from hwc.pipeline import run
from hwc.pipeline.interrupt import flagged
from hwc.pipeline.run import run_steps
from hwc.pipeline.step import Stage, Step, make_step
from hwc.pipeline.store import Store


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as a terminal's foreground does, whatever started these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def steps(count: int) -> list[Step]:
    stage = Stage(name="capture", version=1, tools=(), function=lambda job: None)
    return [make_step(stage, f"step {number}", {"number": number}, {}, {}) for number in range(count)]


def test_the_first_press_sets_the_flag_and_the_second_raises() -> None:
    stop = threading.Event()
    with flagged(stop):
        press()
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    with flagged(stop):
        press()
    assert not stop.is_set()


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def look() -> None:
        with flagged(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_press_while_a_thread_is_started_breaks_no_lock_and_starts_no_further_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    start = threading.Thread.start

    def pressed(thread: threading.Thread) -> None:
        press()  # an exception here is what left a lock of `threading` unlocked
        start(thread)
        told.append("started")

    def listen(event: Event) -> None:
        told.append(f"{event.kind} {event.step}")

    monkeypatch.setattr(threading.Thread, "start", pressed)
    monkeypatch.setattr(run._Runner, "_make", lambda *_: told.append("made"))
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps(3), Store(tmp_path), listen, jobs=1, timeout_s=60, memory_bytes=1 << 30)
    assert "started" in told
    assert not any("step 1" in line or "step 2" in line for line in told)


def test_a_press_ends_the_children_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwc import child

    def sleeping(runner: run._Runner, step: Step, folder: Path) -> None:
        call = child.Call(argv=("sleep", "60"), cwd=folder, timeout_s=120, memory_bytes=1 << 30)
        child.run(call, stop=runner.stop, tell=lambda _: None)

    def press_soon() -> None:
        subprocess.run(["sleep", "1"], check=True)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    monkeypatch.setattr(run._Runner, "_make", sleeping)
    threading.Thread(target=press_soon).start()
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps(2), Store(tmp_path), silent, jobs=2, timeout_s=60, memory_bytes=1 << 30)
