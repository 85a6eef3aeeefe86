"""Where a build's time went: of steps that ran, as they were measured, with the compiler's own part."""

from __future__ import annotations

import json
from pathlib import Path

from hwc.job import Job
from hwc.pipeline.spent import spent
from hwc.pipeline.step import Stage, make_step
from hwc.pipeline.store import Artifact


def _nothing(_: Job) -> None:
    pass


def test_steps_that_ran_tell_their_cost_and_reused_ones_none(tmp_path: Path) -> None:
    """A step whose figures are gone is left out, not told as free."""
    stage = Stage(name="lower", version=1, tools=(), function=_nothing)
    steps = [make_step(stage, name, {"name": name}) for name in ("ran", "reused", "lost")]
    done = {}
    for step in steps:
        folder = tmp_path / step.label
        folder.mkdir()
        if step.label != "lost":
            usage = {"wall_s": 3.0, "cpu_s": 2.5, "peak_rss_bytes": 1 << 20}
            (folder / "usage.json").write_text(json.dumps(usage))
        (folder / "timing.json").write_text(json.dumps({"compile_wall_s": 1.5}))
        done[step.key] = Artifact(kind="lower", key=step.key, digest="", path=folder, sha256={})

    (one,) = spent(steps, done, ["ran", "lost"])

    assert (one.step, one.stage, one.wall_s, one.cpu_s, one.compiler_s) == ("ran", "lower", 3.0, 2.5, 1.5)
