"""What tests share: an isolated home, the real command line as a subprocess, one built model for a session."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "property"))  # strategies.py, which unit tests use too
HWC = Path(sys.executable).with_name("hwc")
RUN_TIMEOUT_S = 900


def clean_environment(home: Path) -> dict[str, str]:
    """Return this process's environment without any HWC_* setting, with homes that belong to one test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HWC_")}
    for name in ("SOURCE_DATE_EPOCH", "NO_COLOR", "COLUMNS", "PYTHONPATH"):
        kept.pop(name, None)
    return {**kept, "HWC_HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "COLUMNS": "190"}


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings, caches and bundles out of every test, and every test out of them."""
    for name in [name for name in os.environ if name.startswith("HWC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HWC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended and what it said."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Parse the whole of stdout: it holds the result alone."""
        return json.loads(self.stdout)

    def ok(self) -> Ran:
        """Return the same if the command succeeded."""
        assert self.code == 0, f"{self.argv} exited {self.code}\n{self.stderr}"
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    """The real ``hwc``, run in a process of its own with a home and a bundle store of its own."""

    home: Path
    store: Path
    cwd: Path

    def argv(self, *arguments: str | Path) -> list[str]:
        return [str(HWC), "--store", str(self.store), *map(str, arguments)]

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**clean_environment(self.home), **(env or {})}

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Ran:
        """Run to the end; a traceback on stderr fails the test at once unless it was asked for."""
        argv = self.argv(*arguments)
        done = subprocess.run(
            argv, cwd=self.cwd, env=self.environment(env), capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False,
        )
        if "--debug" not in arguments:
            assert "Traceback" not in done.stderr, f"{argv}\n{done.stderr}"
        return Ran(argv=tuple(map(str, arguments)), code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command and return at once; its output is piped."""
        return subprocess.Popen(
            self.argv(*arguments), cwd=self.cwd, env=self.environment(env), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def tags(self) -> dict[str, str]:
        """Return every tag of the bundle store with the digest it points at."""
        from hwc.oci_layout import Layout

        if not (self.store / "index.json").is_file():
            return {}
        return {tag: descriptor.digest for tag, descriptor in Layout(self.store).tags().items()}

    def outputs(self) -> dict[str, str]:
        """Return stage and key of every stage output in the cache with its digest."""
        from hwc.pipeline.store import Store

        found = {}
        for kind, folder, _, _ in Store(self.home).entries():
            found[f"{kind}/{folder.name}"] = json.loads((folder / "artifact.json").read_text())["digest"]
        return found

    def copied_to(self, folder: Path) -> Cli:
        """Return the same with home and store copied, so that a test may damage them."""
        copy = Cli(home=folder / "home-copy", store=folder / "store-copy", cwd=folder)
        shutil.copytree(self.home, copy.home)
        if self.store.is_dir():
            shutil.copytree(self.store, copy.store)
        return copy


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with an empty home and an empty store."""
    return Cli(home=tmp_path / "home", store=tmp_path / "store", cwd=tmp_path)


@pytest.fixture(scope="session")
def shared_mlp(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron, built once in fp32 for this CPU. Shared by all tests: read it, never change it."""
    folder = tmp_path_factory.mktemp("mlp")
    cli = Cli(home=folder / "home", store=folder / "store", cwd=folder)
    cli("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32").ok()
    return cli


@pytest.fixture(scope="session")
def shared_quantised_mlp(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron in every quantised scheme, beside fp32. Shared by all tests: read it, never change it."""
    cli = shared_mlp.copied_to(tmp_path_factory.mktemp("quantised"))
    cli(
        "build", "mlp", "-t", "llvm-cpu-host", "-q", "fp8", "-q", "w4a16", "-q", "w4a16-asym", "--smoke"
    ).ok()
    return cli


@pytest.fixture
def warm(shared_mlp: Cli, tmp_path: Path) -> Cli:
    """A copy of the built perceptron's home and store, to be changed at will."""
    return shared_mlp.copied_to(tmp_path)


@functools.cache
def vulkan_devices() -> tuple[str, ...]:
    """Return the names of the Vulkan devices on this machine."""
    from hwc.pipeline.targets import devices

    return tuple(devices("vulkan"))


VULKAN_ABSENT = "no Vulkan device: install libvulkan1 and mesa-vulkan-drivers (lavapipe will do)"
_SKIPPED_VULKAN: list[str] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a Vulkan device where there is none, and say so again at the end of the run."""
    if item.get_closest_marker("vulkan") and not vulkan_devices():
        _SKIPPED_VULKAN.append(item.nodeid)
        pytest.skip(VULKAN_ABSENT)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not tested."""
    if _SKIPPED_VULKAN:
        said = f"NOT TESTED on Vulkan: {len(_SKIPPED_VULKAN)} tests; {VULKAN_ABSENT}"
        terminalreporter.write_line(said, red=True, bold=True)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[Any]]]:
    """Processes a test started, which are killed at its end."""
    started: list[subprocess.Popen[Any]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
