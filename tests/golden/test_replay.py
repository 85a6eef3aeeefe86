"""Replay yesterday's outputs: a stage whose bytes changed must have a new version."""

import json
import os
from pathlib import Path

import pytest

from hwc import digest
from hwc.events import silent
from hwc.pipeline import stages
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.run import run_steps
from hwc.pipeline.step import tool_version
from hwc.pipeline.store import Store
from hwc.spec.project import find_model, open_project

GOLDEN = Path(__file__).with_name("replay.json")
WRITE = os.environ.get("HWC_GOLDEN") == "write"  # read here: tests run without any HWC_* setting
FILES = {
    "capture": ("graph.onnx", "weights.safetensors"),
    "simplify": ("b1.onnx", "b16.onnx"),
    "calibration": ("cases.npz", "calibration.json"),
    "quantise": ("codes.safetensors", "layers.json"),
    "encode": ("float.irpa", "linears.irpa", "graph.onnx"),
    "lower": ("module.vmfb", "lower.json"),
}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Build a small model from a plain .onnx for a fixed CPU level and digest what every stage wrote."""
    home = tmp_path_factory.mktemp("home")
    project = open_project(Path(__file__).parent, env={**os.environ, "HWC_HOME": str(home)})
    request = Request(
        found=find_model(project, "linear-onnx"), targets=("x86-64-v3",), schemes=("w4a16",), jobs=2, smoke=True
    )
    plan = plan_build(project, request)
    wanted = [step for step in plan.steps() if step.stage.name in FILES]
    done = run_steps(wanted, Store(home), silent, jobs=2, timeout_s=600, memory_bytes=8 << 30)
    return {
        step.stage.name: {
            "version": step.stage.version,
            "tools": {tool: tool_version(tool) for tool in step.stage.tools},
            "digests": {name: digest.of_file(done[step.key].path / name) for name in FILES[step.stage.name]},
        }
        for step in wanted
    }


def test_the_golden_file_is_written_on_request(replayed):
    if WRITE:
        GOLDEN.write_text(json.dumps(replayed, indent=1, sort_keys=True) + "\n")
    assert set(json.loads(GOLDEN.read_text())) == set(FILES)


@pytest.mark.parametrize("stage", sorted(FILES))
def test_a_stage_of_the_same_version_and_tools_writes_the_same_bytes(stage, replayed):
    golden = json.loads(GOLDEN.read_text())[stage]
    assert replayed[stage]["version"] == stages.STAGES[stage].version
    if replayed[stage]["tools"] != golden["tools"]:
        pytest.skip(f"recorded with other tools: {golden['tools']}")
    if replayed[stage]["version"] == golden["version"]:
        assert replayed[stage]["digests"] == golden["digests"], "bump the stage's version, then run `make golden`"
    else:
        pytest.fail(f"version {replayed[stage]['version']} is not recorded yet: run `make golden`")
