"""Stopped at any moment and in any way, a build leaves nothing half-written to see, and the next one goes through."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from command import RUN_TIMEOUT_S, Cli
from hwc import faults, oci_gc
from hwc.bundle.open import open_bundle
from hwc.bundle.reference import parse
from hwc.oci_layout import Layout
from hwc.pipeline.store import Store

BUILD = ("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke")
EXIT_CODE = {"kill": -signal.SIGKILL, "interrupt": 130, "enospc": 4}


def all_is_whole(cli: Cli) -> None:
    """Every stage output in the cache and every bundle that a tag names is complete, byte for byte."""
    assert Store(cli.home).verify() == []
    for tag in cli.tags():
        bundle = open_bundle(Layout(cli.store), parse(f"oci:{cli.store}:{tag}", default_store=str(cli.store)))
        for variant in bundle.variants:
            variant.verify()


def leavings(cli: Cli) -> list[Path]:
    """Return what a dead process left in the folders of work in progress."""
    return [
        *(path for path in (cli.home / "tmp").glob("*")), *cli.store.glob(".index.json.*.tmp"),
        *cli.store.glob(".ingest/blob-*"),
    ]


def forget(cli: Cli, stage: str) -> None:
    """Make the next build run a stage again."""
    shutil.rmtree(cli.home / "store" / stage)


@pytest.mark.parametrize("action", ["kill", "interrupt", "enospc"])
@pytest.mark.parametrize("point", sorted(faults.POINTS))
def test_a_build_stopped_at_any_write_leaves_old_or_new_and_the_next_one_repairs(
    warm: Cli, point: str, action: str
) -> None:
    forget(warm, "encode")  # one step of a second to make, and a bundle to pack under a tag that is not there yet
    before = warm.tags()
    stopped = warm(*BUILD, "--tag", "next", env={"HWC_FAIL_AT": f"{point}:{action}"})
    assert stopped.code == EXIT_CODE[action], f"not stopped, or in another way: {stopped.stderr}"
    assert stopped.stdout == ""
    assert {tag: digest for tag, digest in warm.tags().items() if tag in before} == before
    all_is_whole(warm)
    assert set(warm.tags()) - set(before) <= ({"mlp:next"} if point == "layout.after-index" else set())
    again = warm(*BUILD, "--tag", "next", "--format", "json").ok().json()
    assert again[0]["tag"] == "mlp:next"
    all_is_whole(warm)
    assert leavings(warm) == []
    oci_gc.collect(Layout(warm.store))
    all_is_whole(warm)


def descendants(pid: int) -> set[int]:
    """Return the processes below a process."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= {int(child), *descendants(int(child))}
    except OSError:
        pass
    return found


def running(pids: set[int]) -> set[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "X"

    return {pid for pid in pids if state(pid) not in "ZX"}


def frozen_step(stage: str, *builds: subprocess.Popen[str]) -> int:
    """Wait until one of some builds makes a stage, stop that process where it stands, and return its id."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < deadline:
        for build in builds:
            assert build.poll() is None, build.communicate()
            for pid in descendants(build.pid):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_text()
                except OSError:
                    continue
                if "hwc.pipeline.work" in command and f"/{stage}." in command:
                    os.kill(pid, signal.SIGSTOP)
                    return pid
        time.sleep(0.01)
    raise AssertionError(f"no build made {stage}")


SIGNALS = [
    pytest.param(stage, sent, id=f"{stage}-{sent.name}", marks=[] if quick else [pytest.mark.slow])
    for stage, sent, quick in (
        ("simplify", signal.SIGINT, True), ("simplify", signal.SIGTERM, True), ("lower", signal.SIGKILL, True),
        ("simplify", signal.SIGKILL, False), ("lower", signal.SIGINT, False), ("lower", signal.SIGTERM, False),
        ("check", signal.SIGINT, False), ("check", signal.SIGKILL, False), ("check", signal.SIGTERM, False),
    )
]


@pytest.mark.parametrize(("stage", "sent"), SIGNALS)
def test_a_signal_in_the_middle_of_a_stage_ends_all_of_it_and_keeps_what_was_finished(
    warm: Cli, children: list[subprocess.Popen[str]], sent: signal.Signals, stage: str
) -> None:
    forget(warm, stage)
    before, tags = warm.outputs(), warm.tags()
    process = warm.start(*BUILD, "--tag", "next")
    children.append(process)
    frozen = frozen_step(stage, process)  # it cannot end by itself: a build that waited for it would hang here
    below = {frozen, *descendants(process.pid)}
    os.kill(process.pid, sent)
    stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in stderr
    assert stdout == ""
    assert ("interrupted" in stderr) == (sent == signal.SIGINT)
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while running(below):
        assert time.monotonic() < deadline, "children of a dead build live on"
        time.sleep(0.02)
    assert warm.tags() == tags
    assert warm.outputs() == before
    all_is_whole(warm)
    again = warm(*BUILD, "--tag", "next", "--format", "json").ok().json()
    assert again[0]["steps_reused"] >= 4
    assert leavings(warm) == []
    all_is_whole(warm)


def test_ctrl_c_while_waiting_for_another_build_ends_the_wait(
    warm: Cli, children: list[subprocess.Popen[str]]
) -> None:
    forget(warm, "simplify")
    first, second = warm.start(*BUILD), warm.start(*BUILD)
    children += [first, second]
    frozen = frozen_step("simplify", first, second)
    maker, waiter = (first, second) if frozen in descendants(first.pid) else (second, first)
    assert waiter.stderr is not None
    said = iter(waiter.stderr.readline, "")
    assert any("another build is making it" in line for line in said)
    os.kill(waiter.pid, signal.SIGINT)
    waiter.communicate(timeout=RUN_TIMEOUT_S)
    assert waiter.returncode == 130
    os.kill(frozen, signal.SIGCONT)
    maker.communicate(timeout=RUN_TIMEOUT_S)
    assert maker.returncode == 0
    all_is_whole(warm)
