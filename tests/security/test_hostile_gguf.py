"""GGUF files from strangers: each lie in a header is refused before it costs memory or time, and names what lies."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_parts import SMALL, Raw, RawFile, entry, text, tiny_config, tiny_model, write_model
from hwc import gguf_file
from hwc.capture.arrived import write
from hwc.capture.gguf import arrived, to_folder
from hwc.errors import HwcError, IntegrityError, UsageError
from hwc.spec.from_gguf import describe

HUGE = 2**63 - 1


def written(folder: Path, payload: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(payload)
    return path


def refusal(path: Path) -> IntegrityError:
    """The error for a file, which is the same however it is read."""
    with pytest.raises(IntegrityError) as caught:
        describe([path])
    with pytest.raises(IntegrityError) as again:
        to_folder([path], path.parent / "out")
    assert str(again.value) == str(caught.value)
    assert not (path.parent / "out").exists()
    return caught.value


def test_the_honest_file_is_read(tmp_path: Path) -> None:
    facts = describe([written(tmp_path, RawFile().packed())])
    assert (facts.architecture, facts.parameters, facts.vocabulary) == ("llama", 128, 4)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": b"GGML"}, "not a GGUF file"),
    "version 1": ({"version": 1}, "version 1 is unknown"),
    "version of the future": ({"version": 4}, "version 4 is unknown"),
    "more entries than there are": ({"entry_count": 4}, "damaged GGUF header"),
    "absurdly many entries": ({"entry_count": HUGE}, "claims"),
    "more tensors than there are": ({"tensor_count": 2}, "damaged GGUF header"),
    "absurdly many tensors": ({"tensor_count": HUGE}, "claims"),
    "no tensors": ({"tensors": ()}, "no tensor `token_embd.weight`"),
    "data cut off": ({"data_bytes": 511}, "`token_embd.weight` reaches past the end"),
    "no data": ({"data_bytes": 0}, "`token_embd.weight` reaches past the end"),
    "offset past the end": ({"tensors": [Raw(offset=1 << 40)]}, "`token_embd.weight` reaches past the end"),
    "offset that wraps": ({"tensors": [Raw(offset=2**64 - 32)]}, "`token_embd.weight` reaches past the end"),
    "offset out of line": ({"tensors": [Raw(dims=(8, 4), offset=8)]}, "`token_embd.weight` is not aligned"),
    "size that wraps": ({"tensors": [Raw(dims=(2**32, 2**32))]}, "reaches past the end"),
    "no axes": ({"tensors": [Raw(dims=())]}, "`token_embd.weight` has 0 axes"),
    "many axes": ({"tensors": [Raw(dims=(1,) * 5)]}, "`token_embd.weight` has 5 axes"),
    "an empty axis": ({"tensors": [Raw(dims=(32, 0))]}, "`token_embd.weight` of type F32 has shape"),
    "half a block": ({"tensors": [Raw(dims=(48, 4), type=8)]}, r"Q8_0 has shape \[4, 48\]"),
    "unknown type": ({"tensors": [Raw(type=99)]}, "`token_embd.weight` is of unknown type 99"),
    "retired type": ({"tensors": [Raw(type=4)]}, "`token_embd.weight` is of unknown type 4"),
    "a tensor twice": ({"tensors": [Raw(dims=(8,)), Raw(dims=(8,), offset=32)]}, "`token_embd.weight` appears twice"),
    "tensors that share bytes": ({"tensors": [Raw(), Raw(name="b")]}, "overlaps"),
    "a name of megabytes": ({"tensors": [Raw(name=b"x" * 5000)], "data_bytes": 9000}, "string of 5000 bytes"),
    "a name that is no text": ({"tensors": [Raw(name=b"\xff\xfe")]}, "not UTF-8"),
}


@pytest.mark.parametrize(("lie", "message"), LIES.values(), ids=LIES.keys())
def test_a_lie_about_the_file_is_refused(tmp_path: Path, lie: dict[str, Any], message: str) -> None:
    assert_said(refusal(written(tmp_path, RawFile(**lie).packed())), message)


def assert_said(error: HwcError, message: str) -> None:
    assert re.search(message, error.what), error.what


ENTRIES: dict[str, tuple[bytes, str]] = {
    "unknown type": (entry("k", struct.pack("<I", 13)), "`k` is of unknown type 13"),
    "array of unknown type": (entry("k", struct.pack("<IIQ", 9, 13, 1)), "`k` is an array of unknown type 13"),
    "array of arrays": (entry("k", struct.pack("<IIQ", 9, 9, 1)), "`k` is an array of unknown type 9"),
    "absurdly long array": (entry("k", struct.pack("<IIQ", 9, 4, HUGE)), "claims 9223372036854775807 numbers"),
    "absurdly many strings": (entry("k", struct.pack("<IIQ", 9, 8, HUGE)), "claims 9223372036854775807 strings"),
    "array longer than the file": (entry("k", struct.pack("<IIQ", 9, 12, 500)), "claims 500 numbers"),
    "absurdly long string": (entry("k", struct.pack("<IQ", 8, HUGE)), "a string of 9223372036854775807 bytes"),
    "string longer than the file": (entry("k", struct.pack("<IQ", 8, 5000)), "the file ends inside it"),
    "string that is no text": (entry("k", struct.pack("<I", 8) + text(b"\xc3\x28")), "not UTF-8"),
    "a boolean of 2": (entry("k", struct.pack("<IB", 7, 2)), "a boolean of value 2"),
    "a key twice": (entry("general.architecture", "llama"), "`general.architecture` appears twice"),
    "alignment 0": (entry("general.alignment", 0), "`general.alignment` is 0"),
    "alignment 48": (entry("general.alignment", 48), "`general.alignment` is 48"),
    "alignment of gigabytes": (entry("general.alignment", 1 << 31), "`general.alignment` is 2147483648"),
    "alignment that is text": (entry("general.alignment", "32"), "`general.alignment` is 32"),
}


@pytest.mark.parametrize(("added", "message"), ENTRIES.values(), ids=ENTRIES.keys())
def test_a_lie_in_the_metadata_is_refused(tmp_path: Path, added: bytes, message: str) -> None:
    honest = [entry(key, value) for key, value in SMALL.items()]
    assert_said(refusal(written(tmp_path, RawFile(entries=[*honest, added]).packed())), message)


@pytest.mark.parametrize(
    ("key", "value"),
    [("general.architecture", 3), ("llama.context_length", "long"), ("llama.block_count", True)],
)
def test_metadata_of_another_type_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    given = [entry(*item) for item in {**SMALL, key: value}.items()]
    with pytest.raises(IntegrityError, match=key):
        describe([written(tmp_path, RawFile(entries=given).packed())])


def test_missing_metadata_is_refused_by_name(tmp_path: Path) -> None:
    assert "`general.architecture`" in refusal(written(tmp_path, RawFile(entries=[]).packed())).what


def test_a_header_beyond_every_vocabulary_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    count = 1 << 22  # zeros, in a file that takes no disk space
    with path.open("wb") as stream:
        stream.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 64))
        for number in range(64):
            stream.write(text(f"k{number}") + struct.pack("<IIQ", 9, 4, count))
            stream.seek(4 * count, os.SEEK_CUR)
        stream.truncate()
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match=r"claims|longer than"):
            describe([path])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200e6


def test_an_unknown_architecture_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    given = [entry(*item) for item in {**SMALL, "general.architecture": "mamba"}.items()]
    path = written(tmp_path, RawFile(entries=given).packed())
    for read in (lambda: describe([path]), lambda: to_folder([path], tmp_path / "out")):
        with pytest.raises(UsageError, match="mamba") as caught:
            read()
        assert all(name in caught.value.hint for name in ("gemma3", "llama", "qwen2", "qwen3"))


def test_a_big_endian_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="big-endian"):
        describe([written(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))])


@pytest.mark.parametrize(
    "payload", [b"", b"G", b"GGUF", b"GGUF\x03\0\0\0", b"text, no model\n" * 9, b"PK\x03\x04" * 99, b"\0" * 999],
    ids=["empty", "one byte", "magic alone", "version alone", "text", "zip", "zeros"],
)
def test_a_file_that_is_no_gguf_is_refused_as_such(tmp_path: Path, payload: bytes) -> None:
    refusal(written(tmp_path, payload))


def test_a_pipe_is_refused_without_waiting_and_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(IntegrityError, match="regular file"):
        describe([tmp_path / "pipe.gguf"])
    with pytest.raises(IntegrityError, match="regular file"):
        describe([tmp_path])
    with pytest.raises(UsageError, match=r"missing\.gguf"):
        describe([tmp_path / "missing.gguf"])
    with pytest.raises(UsageError, match="no GGUF file"):
        describe([])


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "tiny.gguf"
    return write_model(tiny_model(tiny_config("llama")), path, kind="Q4_1").read_bytes()


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, honest: bytes) -> None:
    last = max(gguf_file.read([written(tmp_path, honest)]).tensors.values(), key=lambda tensor: tensor.offset_bytes)
    end = last.offset_bytes + last.stored_bytes
    for length in [*np.linspace(0, end - 1, 150).astype(int).tolist(), end - 1]:
        with pytest.raises(IntegrityError):
            describe([written(tmp_path, honest[:length])])


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_refused_or_harmless_but_never_a_crash(tmp_path: Path, honest: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        payload = bytearray(honest)
        for place in rng.integers(0, 10_000, 3):  # the header ends near there
            payload[place] = rng.integers(0, 256)
        path = written(tmp_path, payload)
        with contextlib.suppress(IntegrityError, UsageError):
            describe([path])
            to_folder([path], tmp_path / "out")
            write(arrived([path]), tmp_path)


def test_a_part_that_is_missing_is_told_as_a_truncated_file(tmp_path: Path, honest: bytes) -> None:
    (tmp_path / "a").write_bytes(honest[:20_000])
    (tmp_path / "b").write_bytes(honest[20_000:40_000])
    (tmp_path / "c").write_bytes(honest[40_000:])
    describe([tmp_path / name for name in "abc"])
    with pytest.raises(IntegrityError, match="past the end"):
        describe([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(IntegrityError):
        describe([tmp_path / "b", tmp_path / "a"])


def test_a_file_that_shrinks_while_it_is_read_is_told_as_truncated(tmp_path: Path, honest: bytes) -> None:
    path = written(tmp_path, honest)
    file = gguf_file.read([path])
    path.write_bytes(honest[:-4096])
    with pytest.raises(IntegrityError, match="truncated"):
        file.parts.read(len(honest) - 64, 64)


def test_every_lie_stays_a_lie_in_version_2(tmp_path: Path) -> None:
    describe([written(tmp_path, RawFile(version=2).packed())])
    bad = dataclasses.replace(RawFile(version=2), data_bytes=0)
    assert_said(refusal(written(tmp_path, bad.packed())), "past the end")
