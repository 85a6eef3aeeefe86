"""The only caller of IREE's tools: import, compile, and ask the compiler what the host CPU is."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from hwc import child
from hwc.errors import MachineError, StepError, UsageError

INPUT_NAME = "module.mlir"
"""The compiler writes its input's name into the artefact: one fixed relative name keeps builds bit-identical."""
IMPORT_MEMORY_BYTES = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one compiler run."""

    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCpu:
    """What LLVM calls a CPU."""

    name: str
    features: tuple[str, ...]
    """Sorted, enabled ones only, as ``+avx2``."""


def compiler_path() -> Path:
    """Return the path of ``iree-compile``; raise MachineError if the compiler is not installed."""
    spec = importlib.util.find_spec("iree.compiler")
    locations = list(spec.submodule_search_locations or []) if spec else []
    for location in locations:
        path = Path(location) / "_mlir_libs" / "iree-compile"
        if path.is_file():
            return path
    raise MachineError("IREE's compiler is not installed", hint="pip install iree-base-compiler")


def import_graph(graph: Path, *, inputs: int | None, work: Path, limits: Limits) -> str:
    """Import a detached graph to MLIR text; graph inputs from position ``inputs`` on become named parameters.

    ``inputs`` None: none does. Raises StepError with the importer's own words.
    """
    mlir = work / f"{graph.stem}.mlir"
    argv = [
        *(sys.executable, "-m", "iree.compiler.tools.import_onnx", str(graph), "-o", str(mlir)),
        *("--large-model", "--externalize-params", "--no-save-params"),
        *(() if inputs is None else ("--externalize-inputs-threshold", str(inputs))),
        *("--params-scope", "model"),
        *("--num-elements-threshold", str(2**62)),  # what is not a weight input stays a constant of the code
    ]
    outcome = child.run(
        child.Call(argv=argv, cwd=work, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes)
    )
    if outcome.returncode != 0:
        last = (outcome.stderr.strip().splitlines() or ["no output"])[-1]
        raise StepError(f"IREE cannot import the graph: {last} ({outcome.describe()})", where=graph.name)
    return mlir.read_text()


def compile_module(
    mlir: str, flags: tuple[str, ...], *, work: Path, limits: Limits, programs: tuple[Path, ...] = ()
) -> tuple[Path, child.Outcome]:
    """Compile MLIR text; return the artefact's path and how the compiler ran.

    ``programs`` are folders of commands that flags name. The full diagnostics stay in ``work/iree-compile.log``.
    Raises CompileFailed.
    """
    (work / INPUT_NAME).write_text(mlir)
    argv = [str(compiler_path()), INPUT_NAME, "-o", "module.vmfb", *flags]
    path = os.pathsep.join([*(str(folder.absolute()) for folder in programs), os.environ.get("PATH", os.defpath)])
    outcome = child.run(
        child.Call(
            argv=argv, cwd=work, timeout_s=limits.timeout_s, memory_bytes=limits.memory_bytes,
            env={"PATH": path, "TMPDIR": str(work.absolute())},  # it leaves what a vendor's tool wrote there
        )
    )
    (work / "iree-compile.log").write_text(outcome.stderr)
    _refuse_unknown_names(outcome.stderr)
    if outcome.returncode != 0 or not (work / "module.vmfb").is_file():
        raise CompileFailed(outcome, mlir)
    return work / "module.vmfb", outcome


ELIDED = "--mlir-elide-elementsattrs-if-larger=64"
"""Constants that are not needed to tell what work is done are left out of the text."""


def flow_text(mlir: str, flags: tuple[str, ...], *, work: Path, limits: Limits) -> str:
    """Return a module as the compiler divides it into dispatches, before it makes code of them."""
    path, _ = compile_module(mlir, (*flags, "--compile-to=flow", ELIDED), work=work, limits=limits)
    return path.read_text()


def _refuse_unknown_names(stderr: str) -> None:
    """Raise UsageError if LLVM did not know a CPU or feature: it only warns, and makes code for something else."""
    found = re.search(r"'([^']+)' is not a recognized (feature|processor)", stderr)
    if found:
        raise UsageError(
            f"LLVM does not know the {found[2]} {found[1]!r} of this target",
            where="[lowering] cpu, cpu_features",
            hint="`llc -mcpu=help` lists the names; `cpu = \"host\"` detects them",
        )


class CompileFailed(StepError):
    """The compiler refused the module, crashed, or ran into a limit."""

    def __init__(self, outcome: child.Outcome, mlir: str) -> None:
        self.outcome = outcome
        self.mlir = mlir
        self.line = _error_line(outcome.stderr)
        first = next((line for line in outcome.stderr.splitlines() if "error:" in line), "")
        message = first.partition("error:")[2].strip() or "no diagnostic"
        super().__init__(f"iree-compile {outcome.describe()}: {message}")

    def onnx_op(self) -> tuple[str, str, int] | None:
        """Return (function, ONNX op type, its occurrence in the function) at the failing line, if it is one."""
        lines = self.mlir.splitlines()
        if not 0 < self.line <= len(lines):
            return None
        found = _ONNX_OP.search(lines[self.line - 1])
        if found is None:
            return None
        occurrence, function = 0, ""
        for line in reversed(lines[: self.line - 1]):
            if header := _FUNCTION.search(line):
                function = header[1]
                break
            if (other := _ONNX_OP.search(line)) and other[1] == found[1]:
                occurrence += 1
        return function, found[1], occurrence


_ONNX_OP = re.compile(r'torch\.operator "onnx\.([A-Za-z0-9]+)"')
_FUNCTION = re.compile(r"func\.func (?:public |private )?@\"?([A-Za-z0-9_.$-]+)")


def _error_line(stderr: str) -> int:
    found = re.search(rf"{re.escape(INPUT_NAME)}:(\d+):\d+: error:", stderr)
    return int(found[1]) if found else 0


def probe_cpu(flags: tuple[str, ...], work: Path) -> HostCpu:
    """Ask the compiler which CPU name and enabled features a set of flags comes to.

    Raises MachineError if it does not answer.
    """
    told = probe_target(flags, work)
    name = re.search(r'\bcpu = "([^"]*)"', told)
    features = re.search(r'\bcpu_features = "([^"]*)"', told)
    if features is None:
        raise MachineError("IREE's compiler does not tell the target CPU", hint="hwc doctor")
    return HostCpu(name=name[1] if name else "", features=enabled_features(features[1]))


def probe_target(flags: tuple[str, ...], work: Path) -> str:
    """Ask the compiler for the ``#hal.executable.target<…>`` that a set of flags comes to.

    Raises MachineError if it does not answer.
    """
    (work / "probe.mlir").write_text(
        "func.func @f(%a: tensor<4xf32>) -> tensor<4xf32> {\n"
        "  %0 = arith.addf %a, %a : tensor<4xf32>\n  return %0 : tensor<4xf32>\n}\n"
    )
    argv = (str(compiler_path()), "probe.mlir", "-o", "-", "--compile-to=executable-sources", *flags)
    outcome = child.run(child.Call(argv=argv, cwd=work, timeout_s=60, memory_bytes=4 << 30))
    _refuse_unknown_names(outcome.stderr)
    found = re.search(r"#hal\.executable\.target<.*?\}>(?=\]>)", outcome.stdout)
    if outcome.returncode != 0 or found is None:
        raise MachineError(f"IREE's compiler does not tell its target: it {outcome.describe()}", hint="hwc doctor")
    return found[0]


def enabled_features(listing: str) -> tuple[str, ...]:
    """Return the features a comma-separated LLVM list leaves enabled: a later entry overrides an earlier one."""
    state: dict[str, bool] = {}
    for entry in filter(None, listing.split(",")):
        state[entry[1:]] = entry[0] == "+"
    return tuple(f"+{feature}" for feature in sorted(state) if state[feature])


def try_target(flags: tuple[str, ...], work: Path) -> child.Outcome:
    """Compile one multiplication to an artefact with a target's flags; return how the compiler ran, well or ill.

    Raises MachineError if the compiler is not installed.
    """
    (work / INPUT_NAME).write_text(
        "func.func @f(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {\n"
        "  %0 = arith.mulf %a, %a : tensor<8x16xf32>\n  return %0 : tensor<8x16xf32>\n}\n"
    )
    argv = (str(compiler_path()), INPUT_NAME, "-o", "module.vmfb", *flags)
    return child.run(child.Call(argv=argv, cwd=work, timeout_s=60, memory_bytes=4 << 30))
