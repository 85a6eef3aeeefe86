"""A project's own models, targets and settings: found from any folder inside it, and overridden in one known order."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from use_parts import linear_onnx

from command import HWC
from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from command import Cli, Ran

MODEL = """
name = "own"
outputs = ["y"]
buckets = [{ batch = 2 }]

[source]
kind = "onnx"
path = "linears.onnx"

[inputs.x]
dtype = "float32"
shape = ["batch", 64]
low = -1.0
"""


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A project with a model and a target of its own, and settings in ``hwc.toml``; the folder inside is the work's."""
    root = cli.cwd / "project"
    for name in ("nets", "chips", "src"):
        (root / name).mkdir(parents=True)
    (root / "hwc.toml").write_text('models_dir = "nets"\ntargets_dir = "chips"\nstore = "shelf"\n')
    (root / "nets" / "own.toml").write_text(MODEL)
    linear_onnx(root / "nets" / "linears.onnx")
    target = (facts_dir("targets") / "x86-64-v3.toml").read_text()
    (root / "chips" / "own-chip.toml").write_text(target.replace('name = "x86-64-v3"', 'name = "own-chip"'))
    shutil.copytree(facts_dir("targets") / "kernels", root / "chips" / "kernels")  # which the descriptor names
    return type(cli)(home=cli.home, store=cli.store, cwd=root / "src")


def plain(cli: Cli, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``hwc`` without the --store that tests otherwise give."""
    return subprocess.run(
        [str(HWC), *map(str, arguments)], cwd=cli.cwd, env=cli.environment(env), capture_output=True, text=True,
        check=False, timeout=600, stdin=subprocess.DEVNULL,
    )


def names(ran: Ran) -> set[str]:
    return {row["name"] for row in ran.ok().json()}


BUILD = ("build", "own", "-t", "own-chip", "-q", "fp32", "--smoke")


def test_a_project_builds_its_own_model_for_its_own_target_into_its_own_store(project: Cli) -> None:
    done = plain(project, *BUILD)
    assert done.returncode == 0, done.stderr
    root = project.cwd.parent
    assert (root / "shelf" / "oci-layout").is_file()
    assert not (project.cwd / "artifacts").exists()
    shown = plain(project, "inspect", "own:dev#own-chip/fp32")
    assert (shown.returncode, "own-chip/fp32" in shown.stdout) == (0, True)
    # A setting nearer to the call wins: option, then variable, then the project's file.
    by_variable, by_option = root / "by-variable", root / "by-option"
    assert plain(project, *BUILD, env={"HWC_STORE": str(by_variable)}).returncode == 0
    assert plain(project, "--store", by_option, *BUILD, env={"HWC_STORE": str(root / "unused")}).returncode == 0
    assert [(folder / "oci-layout").is_file() for folder in (by_variable, by_option)] == [True, True]
    assert not (root / "unused").exists()


def test_own_facts_are_listed_beside_the_built_in_ones(project: Cli) -> None:
    assert names(project("models", "list", "--format", "json")) >= {"own", "mlp", "minilm"}
    assert names(project("targets", "list", "--format", "json")) >= {"own-chip", "x86-64-v3"}


def test_own_facts_hide_built_in_ones_of_the_same_name(project: Cli) -> None:
    nets = project.cwd.parent / "nets"
    (nets / "mlp.toml").write_text(MODEL.replace('name = "own"', 'name = "mlp"\ntitle = "mine"'))
    assert project("models", "show", "mlp", "--format", "json").ok().json()["title"] == "mine"


def test_settings_in_pyproject_mean_the_same(project: Cli) -> None:
    root = project.cwd.parent
    (root / "hwc.toml").unlink()
    (root / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.hwc]\nmodels_dir = "nets"\nstore = "shelf"\n')
    assert "own" in names(project("models", "list", "--format", "json"))
    assert "own-chip" not in names(project("targets", "list", "--format", "json"))


def test_a_pyproject_without_a_table_is_no_project(project: Cli) -> None:
    root = project.cwd.parent
    (root / "hwc.toml").rename(root.parent / "hwc.toml")
    (root / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (root.parent / "nets").mkdir()
    (root.parent / "nets" / "outer.toml").write_text(MODEL.replace('name = "own"', 'name = "outer"'))
    assert "outer" in names(project("models", "list", "--format", "json"))


@pytest.mark.parametrize("by", ["option", "variable"])
def test_folders_given_in_the_call_come_before_the_projects(by: str, project: Cli, tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "own.toml").write_text(MODEL.replace('name = "own"', 'name = "own"\ntitle = "first"'))
    env: dict[str, Any] = {"HWC_MODELS_DIR": str(first)} if by == "variable" else {}
    option = ["--models-dir", str(first)] if by == "option" else []
    assert project(*option, "models", "show", "own", "--format", "json", env=env).ok().json()["title"] == "first"


def test_an_option_wins_over_the_variable(project: Cli, tmp_path: Path) -> None:
    for name in ("by-option", "by-variable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.toml").write_text(MODEL.replace('name = "own"', f'name = "own"\ntitle = "{name}"'))
    shown = project(
        "--models-dir", tmp_path / "by-option", "models", "show", "own", "--format", "json",
        env={"HWC_MODELS_DIR": str(tmp_path / "by-variable")},
    )
    assert shown.ok().json()["title"] == "by-option"


def test_a_wrong_setting_is_named_with_its_file(project: Cli) -> None:
    (project.cwd.parent / "hwc.toml").write_text('modelsdir = "nets"\n')
    ran = project("models", "list")
    assert ran.code == 2
    assert "models_dir" in ran.stderr
    assert "hwc.toml" in ran.stderr
