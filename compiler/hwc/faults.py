"""Fail points: named places around every write and rename at which a test can stop the process.

``HWC_FAIL_AT=<point>:<kill|interrupt|enospc>`` makes the named point kill the process with SIGKILL,
raise KeyboardInterrupt, or raise ENOSPC. Unset, a fail point costs one dictionary look-up.
"""

from __future__ import annotations

import errno
import os
import signal

POINTS = frozenset(
    {
        "file.before-write",
        "file.before-rename",
        "file.after-rename",
        "store.before-rename",
        "store.after-rename",
        "layout.before-blob",
        "layout.before-index",
        "layout.after-index",
        "child.started",
    }
)


def fail_point(name: str) -> None:
    """Fail here if the environment asks for it."""
    wanted = os.environ.get("HWC_FAIL_AT")
    if not wanted:
        return
    point, _, action = wanted.partition(":")
    if point != name:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "interrupt":
        raise KeyboardInterrupt
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
