"""The wheel alone, in an empty folder, builds: it carries the models, the targets and the prices."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from command import Cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this tree, with what is installed here."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("NOT TESTED: hatchling is not installed (pip install -e .[dev]), so no wheel can be built")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(folder), str(ROOT)],
        check=True, capture_output=True, timeout=300,
    )
    return next(folder.glob("hwc_compiler-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)],
        check=True, capture_output=True, timeout=300,
    )
    return folder


def test_the_wheel_carries_every_model_target_price_and_evaluation_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        for kind in ("models", "targets"):
            files = [file for file in facts_dir(kind).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
            assert len(files) >= 8
            for file in files:
                name = file.relative_to(facts_dir(kind)).as_posix()
                assert packed.read(f"hwc/facts/{kind}/{name}") == file.read_bytes()
    assert "hwc/py.typed" in names
    assert any(name.endswith("entry_points.txt") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_an_installed_wheel_builds_from_an_empty_folder(installed: Path, cli: Cli, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment = {**cli.environment(), "PYTHONPATH": str(installed)}
    python = [sys.executable, "-m", "hwc"]
    where = subprocess.run(
        [sys.executable, "-c", "import hwc; print(hwc.__file__)"], cwd=work, env=environment, capture_output=True,
        text=True, check=True, timeout=60,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = subprocess.run(
        [*python, "build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32"], cwd=work, env=environment,
        capture_output=True, text=True, check=False, timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in work.iterdir()] == ["artifacts"]
    assert (work / "artifacts" / "oci-layout").is_file()
    shown = subprocess.run(
        [*python, "inspect", "mlp"], cwd=work, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "llvm-cpu-host/fp32" in shown.stdout
    assert "verified" in shown.stdout


def test_the_module_form_says_the_same_as_the_script(installed: Path, cli: Cli, tmp_path: Path) -> None:
    environment = {**cli.environment(), "PYTHONPATH": str(installed)}
    by_module = subprocess.run(
        [sys.executable, "-m", "hwc", "models", "list", "--format", "json"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=True, timeout=60,
    )
    assert by_module.stdout == cli("models", "list", "--format", "json").ok().stdout
