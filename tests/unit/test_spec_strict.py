"""Strict TOML: a mistake in a specification is told with its key, its line and the nearest known key."""

from pathlib import Path

import pytest

from hwc.errors import UsageError
from hwc.spec import strict
from hwc.spec.model import ModelSpec
from hwc.spec.project import find_model, find_target, open_project
from hwc.spec.target import TargetSpec

MODEL = """\
name = "tiny"
outputs = ["y"]
buckets = [{ batch = 1 }]

[source]
kind = "onnx"
path = "tiny.onnx"

[inputs.x]
dtype = "float32"
shape = ["batch", 4]

[gates.fp32]
max_abs = 1e-5
"""
TARGET = """\
name = "chip"
title = "A chip"
kind = "cpu"
hardware_status = "available"

[lowering]
backend = "llvm-cpu"
cpu = "generic"

[execution]
driver = "none"

[encoding]
int4 = "i4-grouped"

[hardware.core]
isa = "rv64gc"
count = 2

[sources]
"hardware.core" = { kind = "assumed" }
"""


def refused(text: str, record: type[strict.Record] = ModelSpec) -> UsageError:
    with pytest.raises(UsageError) as caught:
        strict.parse(text, record, where="file.toml")
    return caught.value


def test_the_sample_files_are_accepted() -> None:
    assert strict.parse(MODEL, ModelSpec, where="m").name == "tiny"
    assert strict.parse(TARGET, TargetSpec, where="t").hardware.core.count == 2


@pytest.mark.parametrize(
    ("written", "mistaken", "line", "meant"),
    [
        ('outputs = ["y"]', 'output = ["y"]', 2, "outputs"),
        ('path = "tiny.onnx"', 'pth = "tiny.onnx"', 7, "path"),
        ("shape = [", "shapes = [", 11, "shape"),
        ("max_abs = 1e-5", "max_ab = 1e-5", 14, "max_abs"),
    ],
)
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_known_one(
    written: str, mistaken: str, line: int, meant: str
) -> None:
    error = refused(MODEL.replace(written, mistaken))
    assert error.what.startswith("unknown key `")
    assert mistaken.split()[0] in error.what
    assert error.where == f"file.toml:{line}"
    assert error.hint == f"did you mean `{meant}`?"


def test_an_unknown_key_like_no_other_lists_the_known_ones_of_its_own_kind_of_source() -> None:
    error = refused(MODEL.replace('path = "tiny.onnx"', 'path = "tiny.onnx"\nzzzzzz = 1'))
    assert error.where == "file.toml:8"
    assert error.hint == "known here: kind, path"


def test_a_missing_key_is_named_with_the_line_of_its_table() -> None:
    error = refused(MODEL.replace('dtype = "float32"\n', ""))
    assert error.what == "missing key `inputs.x.dtype`"
    assert error.where == "file.toml:9"


@pytest.mark.parametrize(
    ("written", "mistaken", "line", "told"),
    [
        ('"float32"', '"float23"', 10, "float32"),
        ('["batch", 4]', '["batch", 0]', 11, "greater than or equal to 1"),
        ('["batch", 4]', '["batch size", 4]', 11, "letters, digits and _"),
        ("{ batch = 1 }", "{ batch = 0 }", 3, "greater than or equal to 1"),
        ("max_abs = 1e-5", "max_abs = 0", 14, "greater than 0"),
        ("max_abs = 1e-5", "max_abs = nan", 14, "finite"),
        ('name = "tiny"', 'name = "../tiny"', 1, "pattern"),
    ],
)
def test_a_bad_value_is_told_with_its_line(written: str, mistaken: str, line: int, told: str) -> None:
    error = refused(MODEL.replace(written, mistaken))
    assert told in error.what
    assert error.where == f"file.toml:{line}"


def test_a_bucket_must_fix_exactly_the_named_dimensions() -> None:
    assert "exactly these dimensions: ['batch']" in refused(MODEL.replace("batch = 1", "sequence = 1")).what


def test_a_range_must_not_be_empty() -> None:
    assert "`low` < `high`" in refused(MODEL.replace("shape = [", "low = 2\nshape = [")).what


def test_evaluation_data_without_a_digest_is_refused() -> None:
    assert "pinned by digest" in refused(MODEL + '\n[evaluation]\nfile = "text.txt"\n').what


def test_a_figure_without_a_source_is_refused() -> None:
    assert "`hardware.core.count` = 2 has no entry" in refused(TARGET.partition("[sources]")[0], TargetSpec).what


def test_a_descriptor_that_was_dumped_whole_is_read_back() -> None:
    spec = strict.parse(TARGET, TargetSpec, where="t")
    assert TargetSpec.model_validate(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_a_source_for_no_figure_is_refused() -> None:
    assert "`hardware.coer`" in refused(TARGET + '"hardware.coer" = { kind = "assumed" }\n', TargetSpec).what


def test_a_datasheet_figure_must_name_the_datasheet_and_its_line_is_found_under_a_quoted_key() -> None:
    error = refused(TARGET.replace('"assumed"', '"datasheet"'), TargetSpec)
    assert "needs `where`" in error.what
    assert error.where == "file.toml:21"


@pytest.mark.parametrize(
    ("written", "mistaken", "told"),
    [
        ('cpu = "generic"', "", "`lowering.cpu` is needed"),
        ('backend = "llvm-cpu"', 'backend = "vulkan-spirv"', "`lowering.gpu` is needed"),
        ('driver = "none"', 'driver = "none"\ndevice_match = "("', "not a regular expression"),
        ('cpu = "generic"', 'cpu = "generic"\ncpu_features = ["avx2"]', "pattern"),
    ],
)
def test_a_target_that_would_leave_the_compiler_guessing_is_refused(written: str, mistaken: str, told: str) -> None:
    assert told in refused(TARGET.replace(written, mistaken), TargetSpec).what


def test_broken_toml_is_told_with_the_parsers_own_position() -> None:
    assert "line 2" in refused('name = "tiny"\nname = "tiny"\n').what


def test_values_nested_too_deeply_are_refused_rather_than_exhausting_the_stack() -> None:
    assert "nested too deeply" in refused("name = " + "[" * 100_000).what


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'title = "caf\xe9"')
    with pytest.raises(UsageError, match="not UTF-8 at byte 12"):
        strict.load(path, ModelSpec)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (strict.MAX_TOML_BYTES + 1))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        strict.load(path, ModelSpec)


def test_an_endless_file_is_refused_without_reading_it_to_its_end() -> None:
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        strict.load(Path("/dev/zero"), ModelSpec)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read none\.toml"):
        strict.load(tmp_path / "none.toml", ModelSpec)


def test_a_file_whose_name_differs_from_the_models_is_refused(tmp_path: Path) -> None:
    for kind, text in (("models", MODEL), ("targets", TARGET)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "other.toml").write_text(text)
    project = open_project(tmp_path, env={})
    with pytest.raises(UsageError, match='name = "tiny"` differs'):
        find_model(project, "other")
    with pytest.raises(UsageError, match='name = "chip"` differs'):
        find_target(project, "other")
