"""Interrupt: Ctrl-C as a flag that a run looks at, rather than an exception wherever it meets the main thread."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def flagged(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C set ``stop`` and no more; a second one raises KeyboardInterrupt at once.

    Raised in the main thread while it starts another, KeyboardInterrupt breaks the lock that it holds ("release
    unlocked lock"). Does nothing in another thread, and where Ctrl-C does not raise, as in a shell's background.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    signal.signal(signal.SIGINT, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
