"""The emulator and what stands around it: our agent, driver and counter, compiled at first use and kept by digest."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hwc import child, digest
from hwc.errors import InternalError, MachineError
from hwc.files import locked
from hwc.program import EmulatedChip

SOURCES = Path(__file__).parent / "emulator"
C_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(SOURCES))
AGENT = ("agent.c", "elf_load.c", "core_probe.c")
DRIVER = ("driver.c", "mirror.c", "child.c", "confine.c")
COUNTER = "count.c"
FAULTS = {
    "decode_save_opc: Assertion": "it is a fault of QEMU before 8.1, none of the code: install a newer qemu-user; on "
    "Debian 12: apt-get install -t bookworm-backports qemu-user",
}
"""What an emulator says as it ends by a fault of its own, and what helps."""
_CPU = re.compile(r"[A-Za-z0-9_.,=+-]{1,256}")
_TIMEOUT_S, _MEMORY_BYTES = 120.0, 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What executes one architecture here, by Debian's names."""

    cross_compiler: str
    cross_packages: str


ARCHITECTURES = {
    "qemu-riscv64": Architecture(
        cross_compiler="riscv64-linux-gnu-gcc", cross_packages="gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"
    ),
}
"""By emulator. A bundle names its emulator: nothing else is ever started on its word."""
LIBRARY_FORMATS = {"x86_64": "system-elf-x86_64", "aarch64": "system-elf-arm_64"}
"""By host: what IREE's runtime calls shared libraries of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """An emulator that is there, with what hwc compiled for it."""

    emulator: Path
    version: str
    host_compiler: Path
    folder: Path
    counts: bool
    """Whether it takes plugins, by which instructions are counted; Debian builds QEMU 10's user mode without."""

    @property
    def agent(self) -> Path:
        """Runs on the emulated core."""
        return self.folder / "agent"

    @property
    def counter(self) -> Path:
        """Plugin of the emulator that counts instructions."""
        return self.folder / "count.so"

    @property
    def objects(self) -> tuple[Path, ...]:
        """The driver, to be linked with an executable."""
        return tuple(self.folder / Path(name).with_suffix(".o") for name in DRIVER)

    def command(self, chip: EmulatedChip, *arguments: str, counted: bool = False) -> tuple[str, ...]:
        """Return the command that runs the agent on the chip's core."""
        plugin = ("-plugin", str(self.counter)) if counted and self.counts else ()
        return (str(self.emulator), "-cpu", chip.cpu, *plugin, str(self.agent), *arguments)


def require(chip: EmulatedChip) -> tuple[Path, str]:
    """Return the emulator and its version; raise MachineError, naming the package, if it is not there."""
    architecture = ARCHITECTURES.get(chip.program)
    if architecture is None or not _CPU.fullmatch(chip.cpu):
        raise MachineError(
            f"hwc does not run code under {chip.program!r} with cpu {chip.cpu!r}",
            hint=f"it knows {', '.join(sorted(ARCHITECTURES))}",
        )
    if platform.machine() not in LIBRARY_FORMATS:
        raise MachineError(f"hwc does not emulate chips on {platform.machine()}", hint="use an x86-64 or Arm machine")
    _tool(architecture.cross_compiler, architecture.cross_packages)
    _tool("gcc", "gcc libc6-dev")
    emulator = _tool(chip.program, "qemu-user")
    version = _version(emulator)
    if _numbers(version) < _numbers(chip.min_version):
        raise MachineError(
            f"{chip.program} {version} is too old for this chip, which needs {chip.min_version}", where=str(emulator),
            hint="install a newer qemu-user",
        )
    return emulator, version


def how_to_get(cross_compiler: str) -> str:
    """Tell how a cross compiler is installed; empty for one that is not known here."""
    known = {one.cross_compiler: one.cross_packages for one in ARCHITECTURES.values()}
    return f"Debian: apt-get install {known[cross_compiler]}" if cross_compiler in known else ""


def known_fault(said: str) -> str:
    """Return what helps against a fault of the emulator that its last words tell; empty for any other words."""
    return next((helps for words, helps in FAULTS.items() if words in said), "")


def ready(chip: EmulatedChip, home: Path) -> Tools:
    """Return the tools, compiled if these sources were not yet; raise MachineError if something is missing."""
    emulator, version = require(chip)
    architecture = ARCHITECTURES[chip.program]
    host = _tool("gcc", "gcc libc6-dev")
    cross = _tool(architecture.cross_compiler, architecture.cross_packages)
    facts = {
        "sources": {path.name: digest.of_file(path) for path in sorted(SOURCES.iterdir())},
        "compilers": [_first_line(host), _first_line(cross)], "flags": C_FLAGS[:-1],
    }
    folder = home / "emulator" / digest.short(digest.of_json(facts))
    with locked(home / "locks" / f"emulator-{folder.name}"):
        if not folder.is_dir():
            _compile(host, cross, folder)
    return Tools(
        emulator=emulator, version=version, host_compiler=host, folder=folder, counts=takes_plugins(emulator)
    )


def probe(tools: Tools, chip: EmulatedChip) -> tuple[int, tuple[str, ...]]:
    """Return the vector length and the extensions of the emulated core, found by executing instructions on it."""
    outcome = call(tools.command(chip, "probe"), tools.folder)
    try:
        told = json.loads(outcome.stdout)
        return int(told["vlen_bits"]), tuple(told["extensions"])
    except (ValueError, KeyError, TypeError) as error:
        last = (outcome.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MachineError(
            f"{chip.program} -cpu {chip.cpu} {outcome.describe()}: {last}",
            hint="[execution.emulator] cpu names the core",
        ) from error


def call(argv: tuple[str, ...], cwd: Path) -> child.Outcome:
    """Run a short tool in bounds."""
    return child.run(child.Call(argv=argv, cwd=cwd, timeout_s=_TIMEOUT_S, memory_bytes=_MEMORY_BYTES))


def compile_c(argv: tuple[str, ...], cwd: Path) -> None:
    """Run a C compiler; raise InternalError with its words, since the sources are our own."""
    outcome = call(argv, cwd)
    if outcome.returncode != 0:
        raise InternalError(f"{Path(argv[0]).name} {outcome.describe()}: {outcome.stderr.strip()[:500]}")


def _compile(host: Path, cross: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder.parent) as text:
        work = Path(text) / "made"
        work.mkdir()
        sources = [str(SOURCES / name) for name in AGENT]
        compile_c((str(cross), *C_FLAGS, "-static", "-o", str(work / "agent"), *sources), work)
        shared = (str(host), *C_FLAGS, "-fPIC", "-fvisibility=hidden")
        compile_c((*shared, "-shared", "-o", str(work / "count.so"), str(SOURCES / COUNTER)), work)
        for name in DRIVER:
            compile_c((*shared, "-c", "-o", str(work / Path(name).with_suffix(".o")), str(SOURCES / name)), work)
        os.replace(work, folder)


def _tool(name: str, packages: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise MachineError(
            f"{name} is not installed, without which emulated chips do not run",
            hint=f"Debian: apt-get install {packages}",
        )
    return Path(found)


def _first_line(tool: Path) -> str:
    return (call((str(tool), "--version"), Path.cwd()).stdout.splitlines() or [""])[0]


def _version(emulator: Path) -> str:
    found = re.search(r"version (\d+(?:\.\d+)+)", _first_line(emulator))
    if found is None:
        raise MachineError("the emulator does not tell its version", where=str(emulator), hint="install qemu-user")
    return found[1]


def takes_plugins(emulator: Path) -> bool:
    """Tell whether an emulator was built with plugins."""
    told = call((str(emulator), "-help"), Path.cwd())
    return re.search(r"^-plugin\b", told.stdout + told.stderr, re.MULTILINE) is not None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version else ()
