"""A calibration killed at any moment goes on where it was, and gives the bytes that an undisturbed one gives."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calibration_parts import capture, deep, rows, save_cases

from hwc.pipeline.store import Store
from hwc.quantise.finished import STATE

BLOCKS = 4
LAYERS = 3 * BLOCKS
QUANTISE = """
import sys
from pathlib import Path
from hwc.quantise.quantise import quantise
from hwc.quantise.scheme import SCHEMES
folder = Path(sys.argv[1])
(folder / sys.argv[2]).mkdir(exist_ok=True)
scheme = SCHEMES["w4a16"].of_model("float")
quantise(scheme, (), folder / "captured", folder / sys.argv[2], folder / "cases", folder / "work")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a captured model, its cases, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("model")
    capture(folder / "captured", deep(BLOCKS, width=128, hidden=256))
    save_cases(folder / "cases", rows(16, sequence=48, width=128))
    _, told = (process := start(folder, "whole")).communicate()  # on one thread, as any: OpenBLAS sums otherwise on two
    assert process.returncode == 0, told
    shutil.rmtree(folder / "work")
    return folder


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", QUANTISE, str(folder), out], stderr=subprocess.PIPE, text=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )


def solved(line: str) -> int:
    """Return the number of the layer that a line of progress tells."""
    found = re.match(r"progress: layer (\d+) of", line)
    return int(found[1]) if found else 0


def kill_after(folder: Path, layers: int) -> None:
    process = start(folder, "killed")
    assert process.stderr is not None
    for line in process.stderr:
        if solved(line) == layers:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL


def finish(folder: Path) -> list[int]:
    """Run to the end; return the layers that were solved on the way."""
    process = start(folder, "killed")
    _, told = process.communicate()
    assert process.returncode == 0, told
    return [number for number in map(solved, told.splitlines()) if number]


def is_as_undisturbed(folder: Path, out: str = "killed") -> bool:
    whole = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    return whole == {path.name: path.read_bytes() for path in (folder / out).iterdir()}


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """Return a folder of a test's own that reads the same model."""
    for name in ("captured", "cases", "whole"):
        (tmp_path / name).symlink_to(model / name)
    return tmp_path


@pytest.mark.parametrize("layers", [1, 5, LAYERS - 1])
def test_what_was_solved_before_a_kill_is_not_solved_again_and_the_bytes_are_the_same(copy: Path, layers: int) -> None:
    kill_after(copy, layers)
    again = finish(copy)
    assert again == list(range(LAYERS - len(again) + 1, LAYERS + 1))
    assert len(again) <= LAYERS - layers
    assert is_as_undisturbed(copy)


def test_one_may_be_killed_again_and_again(copy: Path) -> None:
    for layers in (3, 6, 9):
        kill_after(copy, layers)
    assert min(finish(copy)) > 9
    assert is_as_undisturbed(copy)


def test_after_a_power_cut_cases_run_again_through_the_layers_that_are_kept(copy: Path) -> None:
    kill_after(copy, 7)
    state = copy / "work" / "layers" / STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), "boot": "another"}))
    for file in (copy / "work" / "live").iterdir():
        file.write_bytes(b"")
    assert min(finish(copy)) > 7
    assert is_as_undisturbed(copy)


def test_two_that_share_a_folder_do_the_work_once(copy: Path) -> None:
    both = [start(copy, name) for name in ("first", "second")]
    told = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(1 for lines in told for line in lines.splitlines() if solved(line)) == LAYERS
    assert is_as_undisturbed(copy, "first")
    assert is_as_undisturbed(copy, "second")


def test_unfinished_work_goes_with_its_output_with_forget_and_with_age(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "home"), "sha256:" + "0" * 64
    work = store.work_path("stage", key)

    def leave(_: Path) -> None:
        work.mkdir(parents=True)
        (work / "half").write_bytes(b"x" * 1000)

    store.produce("stage", key, leave)
    assert not work.exists()
    leave(work)
    store.forget("stage", key)
    assert not work.exists()
    leave(work)
    assert store.collect(older_than_s=3600) == 0
    assert work.exists()
    time.sleep(0.01)
    assert store.collect(older_than_s=0) >= 1000
    assert not work.exists()
