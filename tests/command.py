"""The real ``hwc`` as tests run it: a process of its own, with a home and a bundle store of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HWC = Path(sys.executable).with_name("hwc")
RUN_TIMEOUT_S = 900
"""Met only when something hangs."""


def clean_environment(home: Path) -> dict[str, str]:
    """Return this process's environment without any HWC_* setting, with homes that belong to one test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HWC_")}
    for name in ("SOURCE_DATE_EPOCH", "NO_COLOR", "COLUMNS"):
        kept.pop(name, None)
    return {**kept, "HWC_HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "COLUMNS": "190"}


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
