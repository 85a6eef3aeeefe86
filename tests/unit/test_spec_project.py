"""The search path: which file wins, and where a project's settings come from."""

from pathlib import Path

import pytest

from hwc.errors import UsageError
from hwc.spec.project import Project, cache_home, facts_dir, find_model, find_target, names_on, open_project

TARGET = """\
name = "llvm-cpu-host"
title = "@"
kind = "cpu"
hardware_status = "available"
lowering = { backend = "llvm-cpu", cpu = "generic" }
execution = { driver = "none" }
encoding = {}
"""


def add_target(folder: Path, title: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "llvm-cpu-host.toml").write_text(TARGET.replace("@", title))
    return folder


def title(project: Project) -> str:
    return find_target(project, "llvm-cpu-host").title


def test_each_folder_of_the_search_path_hides_the_ones_after_it(tmp_path: Path) -> None:
    root, user = tmp_path / "project", tmp_path / "user"
    root.mkdir()
    env = {"XDG_CONFIG_HOME": str(user)}
    assert title(open_project(root, env=env)) == "This machine's CPU"
    add_target(user / "hwc" / "targets", "user's")
    assert title(open_project(root, env=env)) == "user's"
    add_target(root / "targets", "project's")
    assert title(open_project(root, env=env)) == "project's"
    env["HWC_TARGETS_DIR"] = str(add_target(tmp_path / "environment", "environment's"))
    assert title(open_project(root, env=env)) == "environment's"
    option = add_target(tmp_path / "option", "option's")
    assert title(open_project(root, env=env, targets_dir=option)) == "option's"


def test_an_overlay_hides_one_name_and_leaves_the_others_visible(tmp_path: Path) -> None:
    add_target(tmp_path / "targets", "project's")
    known = names_on(open_project(tmp_path, env={}).targets_path)
    assert known["llvm-cpu-host"].parent == tmp_path / "targets"
    assert known["vulkan-lavapipe"].parent == facts_dir("targets")


def test_a_folder_asked_for_by_name_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder of targets"):
        open_project(tmp_path, env={}, targets_dir=tmp_path / "typo")
    with pytest.raises(UsageError, match="no such folder of models"):
        open_project(tmp_path, env={"HWC_MODELS_DIR": str(tmp_path / "typo")})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("hwc.toml", 'targets_dir = "chips"\nstore = "out"\njobs = 3\n'),
        ("pyproject.toml", '[tool.hwc]\ntargets_dir = "chips"\nstore = "out"\njobs = 3\n'),
    ],
)
def test_settings_come_from_the_nearest_project_file_above(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    add_target(tmp_path / "chips", "project's")
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    project = open_project(inside, env={})
    assert (project.root, project.store, project.spec.jobs) == (tmp_path, tmp_path / "out", 3)
    assert title(project) == "project's"


def test_hwc_toml_wins_over_pyproject_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "hwc.toml").write_text("jobs = 1\n")
    (tmp_path / "pyproject.toml").write_text("[tool.hwc]\njobs = 2\n")
    assert open_project(tmp_path, env={}).spec.jobs == 1


def test_a_pyproject_without_a_table_for_hwc_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "hwc.toml").write_text("jobs = 4\n")
    inside = tmp_path / "package"
    inside.mkdir()
    (inside / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert open_project(inside, env={}).spec.jobs == 4


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("hwc.toml", "job = 4\n", "unknown key `job`"),
        ("pyproject.toml", "[tool.hwc]\njob = 4\n", "unknown key `job`"),
        ("pyproject.toml", "[tool]\nhwc = 4\n", "valid dictionary"),
        ("pyproject.toml", "[tool.hwc\n", "not valid TOML"),
        ("hwc.toml", "jobs = 0\n", "greater than or equal to 1"),
    ],
)
def test_a_mistake_in_a_project_file_is_told_and_names_the_file(
    tmp_path: Path, file: str, text: str, told: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        open_project(tmp_path, env={})
    assert file in caught.value.where


def test_the_store_is_taken_from_option_then_environment_then_project(tmp_path: Path) -> None:
    (tmp_path / "hwc.toml").write_text('store = "own"\n')
    env = {"HWC_STORE": str(tmp_path / "environment")}
    assert open_project(tmp_path, env={}).store == tmp_path / "own"
    assert open_project(tmp_path, env=env).store == tmp_path / "environment"
    assert open_project(tmp_path, env=env, store=tmp_path / "option").store == tmp_path / "option"


def test_the_cache_lies_in_hwc_home_then_xdg_then_the_home_folder() -> None:
    assert cache_home({"HWC_HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/h")
    assert cache_home({"XDG_CACHE_HOME": "/x"}) == Path("/x/hwc")
    assert cache_home({}) == Path.home() / ".cache" / "hwc"


def test_an_unknown_name_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    project = open_project(tmp_path, env={})
    with pytest.raises(UsageError, match="unknown model `minilmm`") as caught:
        find_model(project, "minilmm")
    assert "did you mean `minilm`?" in caught.value.hint
    with pytest.raises(UsageError, match="unknown target `vulkan-amper`") as caught:
        find_target(project, "vulkan-amper")
    assert "did you mean `vulkan-ampere`?" in caught.value.hint


def test_a_model_file_given_by_path_need_not_be_on_the_search_path(tmp_path: Path) -> None:
    text = (facts_dir("models") / "mlp.toml").read_text()
    (tmp_path / "elsewhere.toml").write_text(text)
    found = find_model(open_project(tmp_path, env={}), str(tmp_path / "elsewhere.toml"))
    assert (found.spec.name, found.folder, found.inferred) == ("mlp", tmp_path, False)
