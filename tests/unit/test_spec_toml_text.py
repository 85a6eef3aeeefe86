"""A specification written as TOML parses back to itself."""

from pathlib import Path

import pytest

from hwc.spec import strict
from hwc.spec.infer import to_toml
from hwc.spec.model import ModelSpec
from hwc.spec.project import facts_dir, find_model, names_on, open_project


@pytest.mark.parametrize("name", sorted(names_on((facts_dir("models"),))))
def test_what_is_written_parses_back_to_the_same_specification(tmp_path: Path, name: str) -> None:
    spec = find_model(open_project(tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)}), name).spec
    assert strict.parse(to_toml(spec), ModelSpec, where="written") == spec


def test_awkward_strings_survive_being_written() -> None:
    spec = ModelSpec.model_validate(
        {
            "name": "x",
            "title": 'a "quoted" \\ tab\t newline\n del\x7f nul\x00 ü 🙂 # ] = ',
            "source": {"kind": "onnx", "path": "x.onnx"},
            "inputs": {"onnx::x.1 \"'": {"dtype": "float32", "shape": [1], "low": -1e-300, "high": 1e22}},
            "outputs": ["é"],
            "buckets": [{}],
            "gates": {"w4.16": {"metrics_min": {"user metric": 0.5}}},
        }
    )
    assert strict.parse(to_toml(spec), ModelSpec, where="written") == spec
