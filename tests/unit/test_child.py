"""A child process is bounded in time, memory and output, and neither it nor what it starts outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hwc import child
from hwc.errors import MachineError

PLENTY = 4 << 30
FOREVER_S = 300.0
"""A bound that is met only when something hangs."""


def call(
    folder: Path, code: str, *, timeout_s: float = FOREVER_S, memory_bytes: int = PLENTY, **env: str
) -> child.Call:
    return child.Call(
        argv=(sys.executable, "-c", code), cwd=folder, timeout_s=timeout_s, memory_bytes=memory_bytes, env=env
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + FOREVER_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_child_that_ends_well_tells_its_status_output_and_use(tmp_path: Path) -> None:
    outcome = child.run(call(tmp_path, "import os, sys; print(os.getcwd(), os.environ['X']); sys.exit(3)", X="y"))
    assert (outcome.returncode, outcome.stopped_by, outcome.crashed) == (3, "", False)
    assert outcome.stdout.split() == [str(tmp_path), "y"]
    assert outcome.describe() == "exited with status 3"
    assert outcome.peak_rss_bytes > 1 << 20
    assert outcome.cpu_s > 0


def test_a_child_reads_no_terminal(tmp_path: Path) -> None:
    assert child.run(call(tmp_path, "import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


def test_a_child_is_stopped_at_its_time_limit(tmp_path: Path) -> None:
    outcome = child.run(call(tmp_path, "import time; time.sleep(600)", timeout_s=0.5))
    assert (outcome.stopped_by, outcome.crashed) == ("time", False)
    assert "time limit" in outcome.describe()


def test_a_child_is_stopped_at_its_memory_limit(tmp_path: Path) -> None:
    outcome = child.run(call(tmp_path, "import time; b = b'x' * (300 << 20); time.sleep(600)", memory_bytes=150 << 20))
    assert (outcome.stopped_by, outcome.crashed) == ("memory", False)
    assert outcome.peak_rss_bytes > 150 << 20
    assert "memory limit" in outcome.describe()


def test_memory_of_grandchildren_counts(tmp_path: Path) -> None:
    inner = "import time; b = b'x' * (300 << 20); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    assert child.run(call(tmp_path, outer, memory_bytes=200 << 20)).stopped_by == "memory"


def test_a_crash_is_told_by_its_signal(tmp_path: Path) -> None:
    outcome = child.run(call(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert (outcome.returncode, outcome.crashed) == (-signal.SIGSEGV, True)
    assert outcome.describe() == "crashed with signal SIGSEGV"


def test_output_is_kept_in_part_however_much_there_is(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.stdout.write('first')\nfor _ in range(40): sys.stdout.write('x' * (1 << 20))\n"
        "sys.stdout.write('last')"
    )
    outcome = child.run(call(tmp_path, code))
    assert outcome.returncode == 0
    assert len(outcome.stdout) <= child.OUTPUT_CAP_BYTES + 100
    assert outcome.stdout.startswith("first")
    assert outcome.stdout.endswith("last")
    assert "[... cut ...]" in outcome.stdout


def test_output_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    assert child.run(call(tmp_path, r"import sys; sys.stderr.buffer.write(b'\xff\xfe ok')")).stderr.endswith("ok")


@pytest.mark.parametrize("ending", ["", "time.sleep(600)"], ids=["it ends", "it is stopped"])
def test_what_a_child_leaves_running_in_its_group_is_killed_and_does_not_hold_the_output_open(
    tmp_path: Path, ending: str
) -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"print(p.pid, flush=True)\n{ending}"
    )
    outcome = child.run(call(tmp_path, code, timeout_s=2.0 if ending else FOREVER_S))
    assert outcome.stopped_by == ("time" if ending else "")
    wait_for(lambda: not alive(int(outcome.stdout)), "the grandchild lives on")


def test_an_exception_in_the_parent_kills_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWC_FAIL_AT", "child.started:interrupt")
    code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        child.run(call(tmp_path, code))
    left = tmp_path / "pid"
    assert not left.exists() or not alive(int(left.read_text()))


def test_another_thread_can_stop_a_child(tmp_path: Path) -> None:
    stop, ended = threading.Event(), []
    code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"

    def work() -> None:
        try:
            child.run(call(tmp_path, code), stop=stop)
        except KeyboardInterrupt:
            ended.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()), "the child did not start")
    stop.set()
    thread.join(FOREVER_S)
    assert ended == ["stopped"]
    assert not alive(int((tmp_path / "pid").read_text()))


def test_children_and_their_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    innermost = "import os, pathlib, time; pathlib.Path('inner').write_text(str(os.getpid())); time.sleep(600)"
    nest = (
        "import sys; from pathlib import Path; from hwc import child\n"
        "child.run(child.Call(argv=(sys.executable, '-c', {code!r}), cwd=Path('.'), timeout_s=600, "
        "memory_bytes=1 << 34))"
    )
    middle = "import os, pathlib; pathlib.Path('middle').write_text(str(os.getpid()))\n" + nest.format(code=innermost)
    parent = subprocess.Popen([sys.executable, "-c", nest.format(code=middle)], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "inner").exists() and bool((tmp_path / "inner").read_text()), "it did not start")
    pids = [int((tmp_path / name).read_text()) for name in ("middle", "inner")]
    assert all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), "orphans live on")


def test_a_program_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    missing = child.Call(argv=("/no/such/program",), cwd=tmp_path, timeout_s=1, memory_bytes=PLENTY)
    with pytest.raises(MachineError, match="cannot start /no/such/program"):
        child.run(missing)


def test_a_childs_peak_is_its_own_and_not_what_it_was_forked_from(tmp_path: Path) -> None:
    ballast = bytearray(200 << 20)
    ballast[:: 4096] = b"x" * len(ballast[:: 4096])
    script = "import time; time.sleep(0.3)"
    call = child.Call(argv=(sys.executable, "-c", script), cwd=tmp_path, timeout_s=60, memory_bytes=1 << 30)
    outcome = child.run(call)
    assert outcome.peak_rss_bytes < len(ballast) // 2
