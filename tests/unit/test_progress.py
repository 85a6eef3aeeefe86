"""How far a long step is can be seen while it runs: from its stderr, through the pipeline, to a screen or a log."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from calibration_parts import deep, linears

from hwc import child, onnx_io, render
from hwc.events import PROGRESS, Event
from hwc.quantise.codes import int4
from hwc.quantise.finished import Solved
from hwc.quantise.progress import LOG, Progress
from hwc.quantise.segments import cut

SLOW = """
import sys, time
for number in range(3):
    print("line", number, file=sys.stderr, flush=True)
    time.sleep(0.3)
sys.stderr.write("no end of line")
"""


def test_each_line_of_a_child_is_told_while_it_runs(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    outcome = child.run(
        child.Call(argv=(sys.executable, "-c", SLOW), cwd=tmp_path, timeout_s=60, memory_bytes=1 << 30),
        tell=lambda line: told.append((line, time.monotonic())),
    )
    ended = time.monotonic()
    assert [line for line, _ in told] == ["line 0", "line 1", "line 2"]
    assert ended - told[0][1] > 0.5
    assert outcome.stderr == "line 0\nline 1\nline 2\nno end of line"


def test_a_log_gets_progress_now_and_then_and_only_of_what_runs_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    with render.Progress() as progress:
        progress(Event(kind="start", step="quantise"))
        for second in range(0, 100, 5):
            now[0] = float(second)
            progress(Event(kind="progress", step="quantise", text=f"{second} of 100"))
        progress(Event(kind="done", step="quantise", wall_s=100.0))
    assert capsys.readouterr().err.splitlines() == [
        "… quantise", "… quantise  30 of 100", "… quantise  60 of 100", "… quantise  90 of 100",
        "✓ quantise  100.0 s",
    ]


def test_a_calibration_counts_its_layers_and_tells_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    model = deep(2)
    weights = onnx_io.detach(model)
    segments = cut(model, linears(model))
    progress = Progress(segments)
    groups = [group for segment in segments for group in segment.groups]
    progress.skip(next(segment for segment in segments if segment.groups))
    with caplog.at_level("INFO", logger=LOG.name):
        for group in groups[1:]:
            for linear in group.linears:
                codes = int4(weights[linear.weight].T.copy(), group_size=32, symmetric=True)
                progress.solved(linear, Solved(codes=codes, relative_error=0.5))
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(PROGRESS) for line in lines)
    assert lines[0].startswith(f"{PROGRESS}layer 3 of 6, ")
    assert lines[-1].startswith(f"{PROGRESS}layer 6 of 6, 0 s left ({groups[-1].linears[-1].layer}: relative")
