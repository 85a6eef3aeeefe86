"""A bounded child process: argument list, time limit, memory limit, capped output, no orphans."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hwc.errors import MachineError
from hwc.faults import fail_point

OUTPUT_CAP_BYTES = 4 << 20
LINE_CAP_BYTES = 1 << 16
Tell = Callable[[str], None]
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to run and its bounds."""

    argv: Sequence[str]
    cwd: Path
    timeout_s: float
    memory_bytes: int
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: Path | None = None
    """File it reads; nothing where there is none."""
    stdout: Path | None = None
    """File it writes to instead of ``Outcome.stdout``."""
    stdout_bytes: int = 1 << 30
    """Most bytes of that file; a child that writes more is ended by SIGXFSZ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a child process ended and what it used."""

    returncode: int
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    stopped_by: str
    """``""``, ``"time"`` or ``"memory"``: the limit that ended it."""

    @property
    def crashed(self) -> bool:
        """Whether a signal ended the child, other than one sent by its own limits."""
        return self.returncode < 0 and not self.stopped_by

    def describe(self) -> str:
        """Say in a few words how the process ended."""
        if self.stopped_by == "time":
            return f"stopped at its time limit after {self.wall_s:.0f} s"
        if self.stopped_by == "memory":
            return f"stopped at its memory limit, having reached {self.peak_rss_bytes / 2**20:.0f} MiB"
        if self.returncode < 0:
            return f"crashed with signal {signal.Signals(-self.returncode).name}"
        return f"exited with status {self.returncode}"


def _die_with_parent(parent: int) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked to tell
        os._exit(1)


def _tree_rss_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants, read from /proc."""
    total = 0
    pending = [pid]
    while pending:
        current = pending.pop()
        try:
            fields = Path(f"/proc/{current}/statm").read_text().split()
            total += int(fields[1]) * resource.getpagesize()
            for task in Path(f"/proc/{current}/task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, IndexError, ValueError):
            continue
    return total


def _own_peak_bytes(pid: int) -> int:
    """Highest resident bytes of one process since its exec; ``ru_maxrss`` would start from its parent's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


class _Pump(threading.Thread):
    """Reads one pipe to its end, tells each whole line, and keeps the first and last parts."""

    def __init__(self, stream: IO[bytes], tell: Tell) -> None:
        super().__init__(daemon=True)
        self._stream, self._tell = stream, tell
        self._kept, self._begun = bytearray(), b""
        self.start()

    def run(self) -> None:
        while chunk := os.read(self._stream.fileno(), 65536):
            self._kept += chunk
            *lines, self._begun = (self._begun + chunk).split(b"\n")
            self._begun = self._begun[-LINE_CAP_BYTES:]
            for line in lines:
                self._tell(line.decode(errors="replace"))
            if len(self._kept) > OUTPUT_CAP_BYTES:
                half = OUTPUT_CAP_BYTES // 2
                self._kept = self._kept[:half] + b"\n[... cut ...]\n" + self._kept[-half:]

    def text(self) -> str:
        self.join()
        return self._kept.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(call: Call, *, stop: threading.Event | None = None, tell: Tell = lambda _: None) -> Outcome:
    """Run a child process to its end or its first limit; raise MachineError if it cannot start.

    ``tell`` gets each line that the child writes to stderr, while it runs and from another thread.

    The child leads its own process group. All of it is killed when the child has ended, at a limit, and on any
    exception here (Ctrl-C included); the kernel kills the child if this process dies. Once ``stop`` is set, by
    another thread, the child is killed and KeyboardInterrupt is raised.
    """
    started = time.monotonic()
    try:
        process = _start(call)
    except OSError as error:
        raise MachineError(
            f"cannot start {call.argv[0]}: {error.strerror}", hint="run `hwc doctor` to see which tools are missing"
        ) from error
    try:
        fail_point("child.started")
        return _watch(process, call, started, stop, tell)
    except BaseException:
        _kill(process)
        process.wait()
        raise


def _start(call: Call) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def prepare() -> None:
        if call.stdout is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (call.stdout_bytes, call.stdout_bytes))
        _die_with_parent(parent)

    with contextlib.ExitStack() as files:
        given = files.enter_context(call.stdin.open("rb")) if call.stdin else subprocess.DEVNULL
        told = files.enter_context(call.stdout.open("wb")) if call.stdout else subprocess.PIPE
        return subprocess.Popen(
            list(call.argv), cwd=call.cwd, env={**os.environ, **call.env}, stdin=given, stdout=told,
            stderr=subprocess.PIPE, start_new_session=True, preexec_fn=prepare,
        )


def _watch(
    process: subprocess.Popen[bytes], call: Call, started: float, stop: threading.Event | None, tell: Tell
) -> Outcome:
    stdout = _Pump(process.stdout, lambda _: None) if process.stdout else None
    assert process.stderr is not None  # started with a pipe
    stderr = _Pump(process.stderr, tell)
    stopped_by = ""
    peak = 0
    pause_s = 0.005
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        peak = max(peak, _tree_rss_bytes(process.pid), _own_peak_bytes(process.pid))
        if not stopped_by and time.monotonic() - started > call.timeout_s:
            stopped_by = "time"
            _kill(process)
        elif not stopped_by and peak > call.memory_bytes:
            stopped_by = "memory"
            _kill(process)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
    process.returncode = os.waitstatus_to_exitcode(status)
    _kill(process)  # what it left running in its group would hold the pipes open
    return Outcome(
        returncode=process.returncode,
        stdout=stdout.text() if stdout else "",
        stderr=stderr.text(),
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=peak or usage.ru_maxrss * 1024,
        stopped_by=stopped_by,
    )
