"""The workflow in the docs does what it says: its shell steps run, gates fail it, and it reports to GitHub's files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from command import HWC, ROOT, clean_environment

WORKFLOW = yaml.safe_load((ROOT / "docs" / "how-to" / "hwc-ci.yml").read_text())
STEPS = {step["name"]: step["run"] for step in WORKFLOW["jobs"]["build"]["steps"] if "run" in step}
INSTALLS = "Install"


class Runner:
    """Runs steps as GitHub's runner does: ``bash -eo pipefail``, and $GITHUB_ENV read after each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"GITHUB_ENV": str(folder / "env"), "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
        named = {key: value for key, value in WORKFLOW["env"].items() if "${{" not in value}
        path = f"{HWC.parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**clean_environment(folder / ".hwc"), **named, **own, "PATH": path}

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]]
        done = subprocess.run(shell, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=900)
        file = Path(self.env["GITHUB_ENV"])
        for line in file.read_text().splitlines() if file.is_file() else []:
            key, _, value = line.partition("=")
            self.env[key] = value
        return done

    @property
    def summary(self) -> str:
        return Path(self.env["GITHUB_STEP_SUMMARY"]).read_text()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A project with a model of its own, on whose main branch the workflow ran once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "models").mkdir()
    for name in ("mlp.toml", "mlp.py"):
        (folder / "models" / name).write_bytes((ROOT / "models" / name).read_bytes())
    made = Runner(folder)
    for name in STEPS:
        if name in (INSTALLS, "Tell what changed"):
            continue
        done = made.run(name)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    return made


def test_the_first_run_has_no_baseline_and_leaves_one(runner: Runner):
    assert "BASELINE" not in runner.env
    listed = subprocess.run([str(HWC), "inspect", "mlp:main"], cwd=runner.folder, env=runner.env, capture_output=True)
    assert listed.returncode == 0


def test_gates_are_told_as_junit_and_in_the_jobs_summary(runner: Runner):
    suite = ET.parse(runner.folder / "gates.xml").getroot().find("testsuite")
    assert int(suite.get("tests")) >= 4
    assert suite.get("failures") == "0"
    assert "### hwc mlp" in runner.summary


def test_a_missed_gate_fails_the_step_and_names_itself_in_both_reports(runner: Runner, tmp_path: Path):
    again = Runner(runner.folder)
    again.env |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "GITHUB_ENV": str(tmp_path / "env")}
    assert again.run("Keep what main has as the baseline").returncode == 0
    assert again.env["BASELINE"] == "--baseline mlp:main"
    spec = runner.folder / "models" / "mlp.toml"
    before = spec.read_text()
    try:
        spec.write_text(before.replace("[gates.w4a16]\n", "[gates.w4a16]\nbits_per_parameter_max = 1.0\n"))
        done = again.run("Build, check and hold the gates")
    finally:
        spec.write_text(before)
    assert done.returncode == 3
    failure = ET.parse(runner.folder / "gates.xml").getroot().find(".//failure")
    assert "bits per parameter, at most 1" in failure.get("message")
    assert "❌" in again.summary
    told = again.run("Tell what changed")
    assert told.returncode == 0
    assert "mlp:main → mlp:dev" in again.summary
