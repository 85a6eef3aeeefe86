"""The vendor's compiler hook: each executable passes through the vendor's tool, and what it says is kept.

IREE runs a command for each executable and does not show its stderr, so it runs ours (hook_run.py), which bounds the
vendor's tool, keeps what it says, and checks what it gives back.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwc import told
from hwc.errors import MachineError, StepError
from hwc.lower import isa, vendor
from hwc.lower.kernel_objects import FOLDER, check
from hwc.lower.vendor import Door

COMMAND = "hwc-hook"
SETTINGS = "settings.json"
STDERR = ".stderr"
LOG = "vendor-hook.log"
OBJECTS_VARIABLE = "HWC_OBJECTS"
TOOL_MEMORY_BYTES = 4 << 30
ANSWER_BYTES = 256 << 20
"""Longest answer of a tool."""


_UNREAD = re.compile(r"failed to preprocess executable `([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What the hook came to."""

    executables: tuple[str, ...]
    changed: tuple[str, ...]
    """Executables that came back otherwise than they went."""
    objects: tuple[str, ...]
    """Objects that were linked for them."""
    symbols: frozenset[str]
    """Global symbols of these objects."""


class Hook:
    """The hook of one compilation."""

    def __init__(self, door: Door, architecture: str, work: Path, features: Sequence[str] = ()) -> None:
        self.folder, self.architecture, self.objects = work / "hook", architecture, work / FOLDER
        self.features = features
        self.argv = vendor.command(door.vendor.executable_hook, door.folder)
        if shutil.which(self.argv[0]) is None:
            raise MachineError(
                f"the vendor's tool is not installed: {self.argv[0]}", where="[vendor] executable_hook",
                hint="install it, or put it beside the descriptor",
            )
        self.folder.mkdir()
        self.objects.mkdir(exist_ok=True)
        settings = {
            "argv": self.argv, "timeout_s": door.vendor.timeout_s, "memory_bytes": TOOL_MEMORY_BYTES,
            "answer_bytes": ANSWER_BYTES, "architecture": architecture, "objects": str(self.objects.absolute()),
        }
        (self.folder / SETTINGS).write_text(json.dumps(settings))
        command = self.folder / COMMAND
        parts = (sys.executable, "-m", "hwc.lower.hook_run", str(self.folder.absolute()))
        command.write_text(f"#!/bin/sh\nexec {shlex.join(parts)}\n")
        command.chmod(0o755)

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags for the compiler, which looks for the command on its PATH."""
        return (f"--iree-hal-preprocess-executables-with={COMMAND}",)

    def keep_log(self, path: Path) -> None:
        """Write what the tool said of each executable."""
        parts = [
            f"== {file.name.removesuffix(STDERR)}\n{file.read_text(errors='replace')}\n"
            for file in sorted(self.folder.glob(f"*{STDERR}"))
        ]
        path.write_text("".join(parts))

    def raise_failure(self, diagnostics: str) -> None:
        """Raise what went wrong with the first executable the tool failed on, if it did.

        ``diagnostics`` are the compiler's: what the tool wrote may look like an executable and yet be none.
        """
        for failed in sorted(self.folder.glob("*.failed")):
            told.raise_told(failed)
        if found := _UNREAD.search(diagnostics):
            words = diagnostics.partition("error: ")[2].splitlines() or ["it does not say why"]
            raise StepError(
                f"the vendor's tool on executable `{found[1]}`: it wrote what is no MLIR for the compiler: {words[0]}",
                where="[vendor] executable_hook",
            )

    def passed(self) -> Passed:
        """Return what went through; raise StepError if nothing did, or objects are for more than the target has."""
        answers = sorted(self.folder.glob("*.out.mlir"))
        if not answers:
            raise StepError(
                "no executable passed through the vendor's tool", where="[vendor] executable_hook",
                hint="the model may have no work for the device",
            )
        names = [answer.name.removesuffix(".out.mlir") for answer in answers]
        changed = [
            name for name, answer in zip(names, answers, strict=True)
            if answer.read_bytes() != (self.folder / f"{name}.in.mlir").read_bytes()
        ]
        objects = sorted({line for file in self.folder.glob("*.objects") for line in file.read_text().splitlines()})
        symbols: set[str] = set()
        for name in objects:
            data, what = (self.objects / name).read_bytes(), f"the object {name} of the vendor's tool"
            symbols |= check(data, self.architecture, what=what).defined
            isa.require_within(data, self.features, what)
        return Passed(
            executables=tuple(names), changed=tuple(changed), objects=tuple(objects), symbols=frozenset(symbols)
        )
