"""A few jobs at once, which all stop when one fails or the user asks for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

Stop = threading.Event
Job = Callable[[Stop], None]
_LEAVE_S = 2.0


class Stopped(Exception):
    """Another job failed, so this one left off."""


def check(stop: Stop) -> None:
    """Raise Stopped if the jobs are to end."""
    if stop.is_set():
        raise Stopped


def stoppable(chunks: Iterator[bytes], stop: Stop) -> Iterator[bytes]:
    """Yield chunks until the jobs are to end."""
    for chunk in chunks:
        check(stop)
        yield chunk


def run(jobs: Sequence[Job], *, workers: int) -> None:
    """Run all jobs; raise what the first that failed raised.

    The threads are daemons: one that waits for a silent registry does not keep an interrupted process from ending.
    """
    stop, ended = Stop(), queue.SimpleQueue[BaseException | None]()
    waiting = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    job = next(waiting, None)
                if job is None:
                    break
                job(stop)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            if (error := ended.get()) is not None:
                raise error
    finally:
        stop.set()
        for thread in threads:
            thread.join(_LEAVE_S)
