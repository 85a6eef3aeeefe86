"""The cache of stage outputs: made once, visible whole or not at all, repaired after crashes, holding no failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwc import digest
from hwc.errors import IntegrityError, MachineError, StepError
from hwc.pipeline.store import Store

KEY = digest.of_bytes(b"key")
OTHER_KEY = digest.of_bytes(b"other key")

PRODUCE = """
import sys, time
from pathlib import Path
from hwc import digest
from hwc.pipeline.store import Store

home, log = Path(sys.argv[1]), Path(sys.argv[2])

def make(folder):
    with log.open("a") as stream:
        stream.write("made\\n")
    (folder / "a.bin").write_bytes(b"a" * 100_000)
    time.sleep(float(sys.argv[3]))
    (folder / "b.bin").write_bytes(b"b" * 100_000)

print("ready", flush=True)
artifact, made = Store(home).produce("stage", digest.of_bytes(b"key"), make)
print(artifact.digest, made)
"""


def produce_elsewhere(home: Path, log: Path, *, pause_s: float = 0.0, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRODUCE, str(home), str(log), str(pause_s)], env={**os.environ, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


def make(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "x.bin").write_bytes(b"x" * 1000)
    (folder / "y.txt").write_text("y")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_an_output_is_made_once_and_found_again(store: Store) -> None:
    artifact, made = store.produce("stage", KEY, make)
    again, made_again = store.produce("stage", KEY, lambda _: pytest.fail("made twice"))
    assert (made, made_again) == (True, False)
    assert artifact == again == store.lookup("stage", KEY)
    assert artifact.sha256["inner/x.bin"] == digest.of_bytes(b"x" * 1000)


def test_an_outputs_digest_is_of_names_and_bytes_alone(store: Store) -> None:
    first, _ = store.produce("stage", KEY, make)
    second, _ = store.produce("stage", OTHER_KEY, make)
    renamed, _ = store.produce("other", KEY, lambda folder: (folder / "z.txt").write_text("y"))
    assert first.digest == second.digest != renamed.digest


def test_nothing_is_visible_while_an_output_is_being_made(store: Store) -> None:
    def look(folder: Path) -> None:
        make(folder)
        assert store.lookup("stage", KEY) is None
        assert list(store.entries()) == []

    store.produce("stage", KEY, look)
    assert store.lookup("stage", KEY) is not None


def test_two_processes_that_want_one_output_make_it_once(store: Store, tmp_path: Path, children: list) -> None:
    log = tmp_path / "log"
    children += [produce_elsewhere(store.home, log, pause_s=0.5) for _ in range(4)]
    said = [process.communicate()[0].split() for process in children]
    assert log.read_text() == "made\n"
    assert len({digest_told for _, digest_told, _ in said}) == 1
    assert sorted(made for _, _, made in said) == ["False", "False", "False", "True"]


def test_the_one_that_waits_is_told_so(store: Store, tmp_path: Path, children: list) -> None:
    log, waited = tmp_path / "log", []
    children.append(produce_elsewhere(store.home, log, pause_s=1.0))
    while not log.exists():
        assert children[0].poll() is None
    _, made = store.produce("stage", KEY, lambda _: pytest.fail("made twice"), waiting=lambda: waited.append(1))
    assert (made, bool(waited)) == (False, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "y.txt").write_text("longer than it was"),
        lambda place: (place / "y.txt").unlink(),
        lambda place: (place / "artifact.json").unlink(),
        lambda place: (place / "artifact.json").write_text('{"files": [{"na'),
        lambda place: (place / "artifact.json").write_text("[]"),
        lambda place: (place / "artifact.json").write_bytes(b"\xff"),
    ],
    ids=["grown", "missing", "no record", "record cut short", "record of another kind", "record is no text"],
)
def test_a_damaged_output_counts_as_none_and_is_made_again(store: Store, damage) -> None:
    before, _ = store.produce("stage", KEY, make)
    damage(before.path)
    assert store.lookup("stage", KEY) is None
    after, made = store.produce("stage", KEY, make)
    assert made
    assert after == before
    assert (after.path / "y.txt").read_text() == "y"


def test_looking_never_removes_what_another_build_is_just_putting_there(store: Store) -> None:
    before, _ = store.produce("stage", KEY, make)
    record = (before.path / "artifact.json").read_bytes()
    (before.path / "artifact.json").unlink()
    assert store.lookup("stage", KEY) is None
    (before.path / "artifact.json").write_bytes(record)
    assert store.lookup("stage", KEY) == before


def test_an_altered_byte_is_found_by_verify_and_the_output_removed(store: Store) -> None:
    damaged, _ = store.produce("stage", KEY, make)
    whole, _ = store.produce("stage", OTHER_KEY, make)
    payload = bytearray((damaged.path / "inner" / "x.bin").read_bytes())
    payload[500] ^= 1
    (damaged.path / "inner" / "x.bin").write_bytes(payload)
    assert store.verify() == [damaged.path]
    assert store.verify() == []
    assert store.lookup("stage", KEY) is None
    assert store.lookup("stage", OTHER_KEY) == whole


def test_verify_finds_a_file_that_was_added(store: Store) -> None:
    artifact, _ = store.produce("stage", KEY, make)
    (artifact.path / "extra").write_text("x")
    assert store.verify() == [artifact.path]


def test_a_failure_is_never_cached_and_its_folder_is_kept_for_its_logs(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "step.log").write_text("why")
        (folder / "weights.bin").write_bytes(b"0" * (9 << 20))
        raise StepError("no")

    for _ in range(2):  # the second failure replaces the first one's folder
        with pytest.raises(StepError, match="no"):
            store.produce("stage", KEY, fail)
        assert store.lookup("stage", KEY) is None
        assert list(store.entries()) == []
        kept = store.failed_path("stage", KEY)
        assert sorted(path.name for path in kept.iterdir()) == ["step.log"]
    assert list((store.home / "tmp").iterdir()) == []
    _, made = store.produce("stage", KEY, make)
    assert made


def test_a_link_in_an_output_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError, match="link"):
        store.produce("stage", KEY, lambda folder: (folder / "x").symlink_to("/etc/passwd"))
    assert store.lookup("stage", KEY) is None


def test_a_full_disk_is_told_as_such_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWC_FAIL_AT", "store.before-rename:enospc")
    with pytest.raises(MachineError, match="No space left") as caught:
        store.produce("stage", KEY, make)
    assert "free disk space" in caught.value.hint
    monkeypatch.delenv("HWC_FAIL_AT")
    assert list(store.entries()) == []
    assert store.produce("stage", KEY, make)[1]


@pytest.mark.parametrize(
    ("point", "visible"),
    [("file.before-write", False), ("file.before-rename", False), ("store.before-rename", False),
     ("store.after-rename", True)],
)
def test_a_killed_process_leaves_an_output_whole_or_absent_and_the_next_one_repairs(
    store: Store, tmp_path: Path, children: list, point: str, visible: bool
) -> None:
    log = tmp_path / "log"
    children.append(produce_elsewhere(store.home, log, HWC_FAIL_AT=f"{point}:kill"))
    children[0].communicate()
    assert children[0].returncode == -signal.SIGKILL
    assert (store.lookup("stage", KEY) is not None) == visible
    assert store.verify() == []
    store.repair()
    assert list((store.home / "tmp").iterdir()) == []
    children.append(produce_elsewhere(store.home, log))
    assert children[1].communicate()[0].split()[-1] == str(not visible)


def test_repair_leaves_the_scratch_of_a_living_process_alone(store: Store) -> None:
    with store.scratch("work") as folder:
        (folder / "file").write_bytes(b"x" * 10)
        assert store.repair() == 0
        assert (folder / "file").exists()
    assert list((store.home / "tmp").iterdir()) == []


def test_repair_removes_scratch_without_a_lock_and_locks_without_scratch(store: Store) -> None:
    (store.home / "tmp" / "capture.abc").mkdir(parents=True)
    (store.home / "tmp" / "capture.abc" / "file").write_bytes(b"x" * 10)
    (store.home / "tmp" / "lower.def.lock").touch()
    assert store.repair() == 10
    assert list((store.home / "tmp").iterdir()) == []


def test_collecting_by_age_frees_old_outputs_and_keeps_new_ones(store: Store) -> None:
    old, _ = store.produce("stage", KEY, make)
    new, _ = store.produce("stage", OTHER_KEY, make)
    os.utime(old.path / "artifact.json", (1_000_000_000, 1_000_000_000))
    assert store.collect(older_than_s=10 * 365 * 86400) > 1000
    assert not old.path.exists()
    assert store.lookup("stage", OTHER_KEY) == new


def test_a_note_is_recalled_and_a_forgotten_output_is_made_again(store: Store) -> None:
    store.note("label", json.dumps({"a": 1}))
    assert store.recall("label") == '{"a": 1}'
    assert store.recall("never noted") is None
    store.produce("stage", KEY, make)
    store.forget("stage", KEY)
    assert store.lookup("stage", KEY) is None
