"""IREE reads parameters out of a blob of the layout: in place, without extraction and without a copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwc.bundle import weight_tar
from hwc.errors import IntegrityError
from hwc.runtime.parameters import load_index

MIB = 1 << 20

MEASURE = """
import sys
from pathlib import Path
import iree.runtime, numpy as np
from hwc.runtime.parameters import load_index

def resident_kib(kind):
    rows = dict(row.split(":", 1) for row in open("/proc/self/status"))
    return int(rows[kind].split()[0])

before = resident_kib("VmRSS"), resident_kib("RssAnon")
index = load_index(Path(sys.argv[1]), 4096, int(sys.argv[2]))
loaded = resident_kib("VmRSS")
total = sum(int(np.array(entry.file_view, copy=False).sum(dtype=np.int64)) for _, entry in index.items())
print(loaded - before[0], resident_kib("VmRSS") - before[0], resident_kib("RssAnon") - before[1], total)
"""


def archived(folder: Path, values: dict[str, np.ndarray]) -> tuple[Path, int]:
    import iree.runtime as rt

    plain, archive = folder / "float.irpa", folder / "blob"
    rt.save_archive_file(values, plain)
    with archive.open("wb") as stream:
        stream.writelines(weight_tar.chunks(plain, "models/weights/float.irpa"))
    return archive, plain.stat().st_size


def test_parameters_load_from_the_slice_of_a_blob(tmp_path: Path) -> None:
    values = {"one": np.arange(1000, dtype=np.uint8), "two": np.arange(7, dtype=np.uint8)}
    archive, length = archived(tmp_path, values)
    entries = dict(load_index(archive, weight_tar.DATA_OFFSET_BYTES, length).items())
    assert sorted(entries) == ["one", "two"]
    for name, expected in values.items():
        np.testing.assert_array_equal(np.array(entries[name].file_view), expected)


def test_two_archives_load_into_one_index(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = archived(tmp_path / "a", {"one": np.ones(8, dtype=np.uint8)})
    second = archived(tmp_path / "b", {"two": np.ones(8, dtype=np.uint8)})
    index = load_index(first[0], 4096, first[1])
    assert load_index(second[0], 4096, second[1], into=index) is index
    assert sorted(name for name, _ in index.items()) == ["one", "two"]


def test_loading_takes_no_memory_and_touching_takes_no_private_memory(tmp_path: Path) -> None:
    weights = np.full(64 * MIB, 3, dtype=np.uint8)
    archive, length = archived(tmp_path, {"weights": weights})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(archive), str(length)], capture_output=True, text=True, check=True
    )
    loaded_kib, touched_kib, private_kib, total = map(int, done.stdout.split())
    assert total == int(weights.sum(dtype=np.int64))
    assert loaded_kib < 4 * 1024
    assert touched_kib > 60 * 1024, "the measure itself must see the pages that were read"
    assert private_kib < 4 * 1024


def test_a_slice_past_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    archive, length = archived(tmp_path, {"one": np.ones(8, dtype=np.uint8)})
    with pytest.raises(IntegrityError, match="do not lie in a file"):
        load_index(archive, 4096, length + MIB)


def test_bytes_that_are_no_parameter_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"noise" * 4096)
    with pytest.raises(IntegrityError, match="not a parameter archive"):
        load_index(path, 0, 8192)
