"""Files are written whole or not at all, names stay in their folder, and locks exclude."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwc import digest
from hwc.errors import IntegrityError, MachineError
from hwc.files import confined, explain_os_error, locked, remove_tree, try_lock, write_atomic


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "../x", "a/../../x", "a\0b", "a\\b", "..\\x", "."])
def test_a_name_that_is_no_plain_relative_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="leaves its folder"):
        confined(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b", "a/b.c", "a..b", "...", "ü/ß"])
def test_a_plain_relative_name_is_joined(tmp_path: Path, name: str) -> None:
    assert confined(tmp_path, name) == tmp_path / name


def test_a_name_through_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "out").symlink_to("/etc")
    with pytest.raises(IntegrityError, match="through a link"):
        confined(tmp_path / "inner", "out/passwd")


def test_a_link_to_a_sibling_folder_that_shares_the_prefix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model-secrets").mkdir()
    (tmp_path / "model" / "out").symlink_to(tmp_path / "model-secrets")
    with pytest.raises(IntegrityError, match="through a link"):
        confined(tmp_path / "model", "out/key")


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    write_atomic(tmp_path / "f", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir() if path.is_file()] == [("f", b"new")]


WRITE = (
    "import sys; from pathlib import Path; from hwc.files import write_atomic\n"
    "write_atomic(Path(sys.argv[1]), b'new')"
)


@pytest.mark.parametrize(
    ("point", "left"),
    [("file.before-write", b"old"), ("file.before-rename", b"old"), ("file.after-rename", b"new")],
)
@pytest.mark.parametrize("action", ["kill", "interrupt", "enospc"])
def test_a_write_stopped_anywhere_leaves_the_old_bytes_or_the_new(
    tmp_path: Path, point: str, action: str, left: bytes
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "f")], env={**os.environ, "HWC_FAIL_AT": f"{point}:{action}"},
        capture_output=True, check=False,
    )
    assert done.returncode != 0
    assert (done.returncode == -signal.SIGKILL) == (action == "kill")
    assert (tmp_path / "f").read_bytes() == left
    if action != "kill":
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["f"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free disk space"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_an_error_of_the_system_says_what_to_do(code: int, advice: str) -> None:
    told = explain_os_error(OSError(code, os.strerror(code), "/some/file"), "cannot write")
    assert isinstance(told, MachineError)
    assert (told.what, told.where) == (f"cannot write: {os.strerror(code)}", "/some/file")
    assert advice in told.hint


def test_a_lock_is_held_by_one_and_the_waiting_one_may_give_up(tmp_path: Path) -> None:
    class GaveUpError(Exception):
        pass

    def give_up() -> None:
        raise GaveUpError

    with locked(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock") is None
        with pytest.raises(GaveUpError), locked(tmp_path / "lock", waiting=give_up):
            raise AssertionError("both hold it")
    handle = try_lock(tmp_path / "lock")
    assert handle is not None
    os.close(handle)


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from hwc.files import try_lock\n"
        "assert try_lock(Path(sys.argv[1])) is not None\nprint('held', flush=True)\ntime.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert try_lock(tmp_path / "lock") is None
    holder.kill()
    holder.communicate()
    handle = try_lock(tmp_path / "lock")
    assert handle is not None
    os.close(handle)


def test_removing_a_tree_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "top").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "top")
    remove_tree(tmp_path / "absent")
    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "kept" / "file").read_text() == "x"


def test_a_hash_beside_the_stream_is_the_hash_of_the_stream() -> None:
    chunks = [bytes([number]) * (number * 997) for number in range(40)]
    hasher = digest.StreamHash()
    for chunk in chunks:
        hasher.update(chunk)
    assert "sha256:" + hasher.hexdigest() == digest.of_bytes(b"".join(chunks))
    assert "sha256:" + hasher.hexdigest() == digest.of_bytes(b"".join(chunks))
    hasher.close()
