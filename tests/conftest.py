"""What tests share: an isolated home, the real command line as a subprocess, one built model for a session."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import ROOT, Cli

sys.path.insert(0, str(ROOT / "tests" / "property"))  # strategies.py, which unit tests use too


# A shell starts its background jobs with Ctrl-C ignored, and what they start inherits that. Tests send Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings, caches and bundles out of every test, and every test out of them."""
    for name in [name for name in os.environ if name.startswith("HWC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HWC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


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
