"""An OCI image layout keeps its blobs and tags whole through races, crashes and full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwc import digest as digests
from hwc import oci_gc
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.oci_layout import Layout
from hwc.oci_manifest import EMPTY_PAYLOAD, EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest

PUSH = """
import sys
from pathlib import Path
from hwc.oci_layout import Layout
layout = Layout(Path(sys.argv[1])).create()
layout.tag(sys.argv[2], layout.put_bytes(sys.argv[2].encode(), "text/plain"))
"""


def push(folder: Path, name: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUSH, str(folder), name],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
    )


def temporaries(folder: Path) -> list[Path]:
    return [*folder.glob(".ingest/blob-*"), *folder.glob(".*.tmp")]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store").create()


def test_stored_bytes_come_back_and_are_named_by_their_digest(layout: Layout) -> None:
    blob = layout.put_bytes(b"payload", "text/plain")
    assert blob == Descriptor(media_type="text/plain", digest=digests.of_bytes(b"payload"), size_bytes=7)
    assert layout.read_bytes(blob) == b"payload"
    assert layout.blob_path(blob.digest).read_bytes() == b"payload"


def test_a_file_is_stored_under_the_digest_of_its_bytes(layout: Layout, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"x" * 3_000_000)
    blob = layout.put_file(source, "application/octet-stream")
    assert blob.digest == digests.of_file(source)
    assert digests.of_file(layout.blob_path(blob.digest)) == blob.digest


def test_bytes_that_are_here_are_not_written_again(layout: Layout) -> None:
    blob = layout.put_bytes(b"payload", "text/plain")
    before = layout.blob_path(blob.digest).stat()
    layout.put_bytes(b"payload", "text/plain")
    after = layout.blob_path(blob.digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_truncated_blob_is_replaced_by_the_next_put(layout: Layout) -> None:
    blob = layout.put_bytes(b"payload", "text/plain")
    layout.blob_path(blob.digest).write_bytes(b"pay")
    layout.put_bytes(b"payload", "text/plain")
    assert layout.read_bytes(blob) == b"payload"


def test_a_stream_with_other_bytes_than_promised_leaves_nothing(layout: Layout) -> None:
    promised = Descriptor(media_type="text/plain", digest=digests.of_bytes(b"good"), size_bytes=4)
    with pytest.raises(IntegrityError, match="expected 4 bytes"), layout.writer(promised) as blob:
        blob.write(b"evil")
    assert layout.blob_files() == []
    assert temporaries(layout.path) == []


@pytest.mark.parametrize("altered", [b"Payload", b"pay", b"payload and more"])
def test_an_altered_blob_is_refused(layout: Layout, altered: bytes) -> None:
    blob = layout.put_bytes(b"payload", "text/plain")
    layout.blob_path(blob.digest).write_bytes(altered)
    with pytest.raises(IntegrityError):
        layout.read_bytes(blob)
    with pytest.raises(IntegrityError):
        layout.read_bytes(blob.digest)


def test_no_more_than_the_bound_is_read(layout: Layout) -> None:
    blob = layout.put_bytes(b"x" * 101, "text/plain")
    assert len(layout.read_bytes(blob, 101)) == 101
    with pytest.raises(IntegrityError, match="larger than the 100 bytes"):
        layout.read_bytes(blob, 100)


def test_a_blob_that_is_a_link_is_refused(layout: Layout, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"payload")
    layout.blob_path(digests.of_bytes(b"payload")).symlink_to(secret)
    assert not layout.has(digests.of_bytes(b"payload"))
    with pytest.raises(IntegrityError, match="cannot be read"):
        layout.read_bytes(digests.of_bytes(b"payload"))


def test_a_pipe_in_place_of_a_blob_is_refused_without_waiting(layout: Layout) -> None:
    digest = digests.of_bytes(b"payload")
    os.mkfifo(layout.blob_path(digest))
    with pytest.raises(IntegrityError, match="not a regular file"):
        layout.read_bytes(digest)


def test_tags_move_and_go_and_tell_whether_anything_changed(layout: Layout) -> None:
    one, two = layout.put_bytes(b"1", "text/plain"), layout.put_bytes(b"2", "text/plain")
    assert layout.tag("m:dev", one)
    assert not layout.tag("m:dev", one)
    assert layout.tag("m:dev", two)
    assert {name: found.digest for name, found in layout.tags().items()} == {"m:dev": two.digest}
    assert layout.untag("m:dev")
    assert not layout.untag("m:dev")
    assert layout.tags() == {}


def test_a_tag_cannot_point_at_a_missing_blob(layout: Layout) -> None:
    missing = Descriptor(media_type="text/plain", digest=digests.of_bytes(b"nowhere"), size_bytes=7)
    with pytest.raises(IntegrityError, match="missing"):
        layout.tag("m:dev", missing)
    assert layout.tags() == {}


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 300, "new\nline", ".hidden"])
def test_a_bad_tag_is_refused(layout: Layout, name: str) -> None:
    blob = layout.put_bytes(b"1", "text/plain")
    with pytest.raises(UsageError, match="not a tag"):
        layout.tag(name, blob)


def test_what_another_tool_wrote_into_the_index_is_kept(layout: Layout) -> None:
    blob = layout.put_bytes(b"1", "text/plain")
    foreign = {**blob.to_json(), "platform": {"architecture": "arm64", "os": "linux"}}
    index = layout.path / "index.json"
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [foreign]}))
    layout.tag("m:dev", blob)
    assert foreign in json.loads(index.read_text())["manifests"]


def test_eight_parallel_pushes_keep_all_eight_tags(tmp_path: Path) -> None:
    names = [f"m{number}:dev" for number in range(8)]
    running = [push(tmp_path / "store", name) for name in names]
    assert [(process.wait(timeout=120), process.communicate()[1]) for process in running] == [(0, "")] * 8
    layout = Layout(tmp_path / "store")
    assert sorted(layout.tags()) == names
    assert [layout.read_bytes(layout.tags()[name]) for name in names] == [name.encode() for name in names]


RACE = """
import multiprocessing, sys, tempfile
from pathlib import Path
from hwc.oci_layout import Layout

def push(folder, name, start):
    start.wait()
    layout = Layout(folder).create()
    layout.tag(name, layout.put_bytes(name.encode(), "text/plain"))

fork = multiprocessing.get_context("fork")
for turn in range(int(sys.argv[2])):
    folder, start = Path(sys.argv[1], str(turn)), fork.Barrier(8)
    racers = [fork.Process(target=push, args=(folder, f"m{number}", start)) for number in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 8, turn
    assert len(Layout(folder).tags()) == 8, turn
"""


def test_eight_processes_that_start_at_once_can_all_make_the_layout(tmp_path: Path) -> None:
    # The window is narrow: 60 rounds met it in 2 runs of 5, 20 do more rarely. The next test always does.
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path), "20"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_marker_that_is_listed_but_was_not_found_before_is_not_foreign(tmp_path: Path) -> None:
    # What a process sees when another writes the marker between its two looks; a dangling link stands still so.
    (tmp_path / "oci-layout").symlink_to(tmp_path / "nowhere")
    assert Layout(tmp_path).create().tags() == {}
    assert not (tmp_path / "oci-layout").is_symlink()


@pytest.mark.parametrize(
    "point", ["layout.before-blob", "layout.before-index", "layout.after-index", "file.before-rename"]
)
def test_a_killed_push_leaves_a_layout_that_the_next_push_completes(tmp_path: Path, point: str) -> None:
    killed = push(tmp_path / "store", "m:dev", HWC_FAIL_AT=f"{point}:kill")
    assert killed.wait(timeout=60) == -signal.SIGKILL
    killed.communicate()
    again = push(tmp_path / "store", "m:dev")
    assert (again.wait(timeout=60), again.communicate()[1]) == (0, "")
    layout = Layout(tmp_path / "store")
    assert layout.read_bytes(layout.tags()["m:dev"]) == b"m:dev"
    assert temporaries(layout.path) == []


def test_a_writer_killed_amid_a_blob_leaves_nothing_visible_and_is_cleaned_up_after(layout: Layout) -> None:
    code = PUSH.replace(
        "layout.tag",
        "import os, signal\nfrom hwc.oci_manifest import Descriptor\n"
        "with layout.writer(Descriptor(media_type='a/b', digest='sha256:' + '0' * 64, size_bytes=9)) as blob:\n"
        "    blob.write(b'half'); os.kill(os.getpid(), signal.SIGKILL)\nlayout.tag",
    )
    subprocess.run([sys.executable, "-c", code, str(layout.path), "m:dev"], check=False, timeout=60)
    assert layout.blob_files() == []
    assert len(temporaries(layout.path)) == 1
    layout.put_bytes(b"next", "text/plain")
    assert temporaries(layout.path) == []


def test_a_living_writer_keeps_its_temporary_file_while_another_writes(layout: Layout) -> None:
    blob = Descriptor(media_type="text/plain", digest=digests.of_bytes(b"slow"), size_bytes=4)
    with layout.writer(blob) as slow:
        slow.write(b"sl")
        layout.put_bytes(b"quick", "text/plain")
        slow.write(b"ow")
    assert layout.read_bytes(blob) == b"slow"


@pytest.mark.parametrize("point", ["layout.before-blob", "layout.before-index"])
def test_a_full_disk_is_a_machine_error_and_changes_no_tag(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv("HWC_FAIL_AT", f"{point}:enospc")
    with pytest.raises(MachineError, match="No space left") as caught:
        layout.tag("m:dev", layout.put_bytes(b"1", "text/plain"))
    assert "free disk space" in caught.value.hint
    assert layout.tags() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_store_can_be_read_and_says_why_it_cannot_be_written(layout: Layout) -> None:
    blob = layout.put_bytes(b"1", "text/plain")
    layout.tag("m:dev", blob)
    folders = [layout.path, *(path for path in layout.path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert layout.read_bytes(layout.tags()["m:dev"]) == b"1"
        with pytest.raises(MachineError, match="cannot write"):
            layout.put_bytes(b"2", "text/plain")
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_folder_with_only_a_readme_becomes_a_layout(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("bundles go here")
    assert Layout(tmp_path).create().tags() == {}


def test_creating_again_keeps_the_tags(layout: Layout) -> None:
    layout.tag("m:dev", layout.put_bytes(b"1", "text/plain"))
    (layout.path / "oci-layout").unlink()
    assert list(layout.create().tags()) == ["m:dev"]


def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        Layout(tmp_path).create()
    with pytest.raises(UsageError, match="not an OCI image layout"):
        Layout(tmp_path).tags()


@pytest.mark.parametrize("marker", ['{"imageLayoutVersion": "2.0.0"}', "{}", "[]", "not JSON"])
def test_an_unknown_layout_version_is_refused(layout: Layout, marker: str) -> None:
    (layout.path / "oci-layout").write_text(marker)
    for act in (layout.tags, layout.create, lambda: layout.put_bytes(b"1", "text/plain")):
        with pytest.raises(IntegrityError):
            act()


def tree(layout: Layout, payload: bytes) -> Descriptor:
    leaf = layout.put_bytes(payload, "text/plain")
    config = layout.put_bytes(EMPTY_PAYLOAD, EMPTY_TYPE)
    manifest = layout.put_bytes(Manifest(config=config, layers=(leaf,)).to_bytes(), MANIFEST_TYPE)
    return layout.put_bytes(Index(manifests=(manifest,)).to_bytes(), INDEX_TYPE)


def test_collection_removes_what_no_tag_reaches_and_nothing_else(layout: Layout) -> None:
    layout.tag("kept:1", tree(layout, b"kept"))
    layout.tag("gone:1", tree(layout, b"gone"))
    layout.untag("gone:1")
    doomed = oci_gc.collect(layout, dry_run=True)
    assert len(layout.blob_files()) == 7
    assert oci_gc.collect(layout) == doomed
    assert len(doomed.digests) == 3
    assert digests.of_bytes(b"gone") in doomed.digests
    assert len(layout.blob_files()) == 4
    assert layout.read_bytes(digests.of_bytes(b"kept")) == b"kept"


def test_collection_stops_at_a_damaged_manifest_before_it_removes_anything(layout: Layout) -> None:
    index = tree(layout, b"kept")
    layout.tag("m:1", index)
    layout.put_bytes(b"stray", "text/plain")
    path = layout.blob_path(index.digest)
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"SchemaVersion"))
    with pytest.raises(IntegrityError):
        oci_gc.collect(layout)
    assert layout.has(digests.of_bytes(b"stray"))


def test_collection_waits_for_a_writer_whose_blobs_are_not_tagged_yet(layout: Layout) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom hwc import oci_gc\nfrom hwc.oci_layout import Layout\n"
    code += "oci_gc.collect(Layout(Path(sys.argv[1])))\n"
    with layout.held():
        blob = layout.put_bytes(b"not yet tagged", "text/plain")
        collector = subprocess.Popen([sys.executable, "-c", code, str(layout.path)])
        with pytest.raises(subprocess.TimeoutExpired):
            collector.wait(timeout=1.5)
        layout.tag("m:1", blob)
    assert collector.wait(timeout=60) == 0
    assert layout.read_bytes(blob) == b"not yet tagged"
