"""The conformance kit's probes: whether compiler, emulator and vendor tools do what a descriptor asks of them.

A tool that is not installed leaves a question open; one that answers otherwise contradicts the descriptor.
"""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hwc import child
from hwc.errors import HwcError, IntegrityError, MachineError, StepError, UsageError
from hwc.files import confined
from hwc.lower import emulator_tools, iree, isa, kernel_objects
from hwc.lower.flags import HOST_FLAGS, compiler_flags
from hwc.lower.vendor import Door
from hwc.program import EmulatedChip
from hwc.quantise import tiles
from hwc.quantise.encodings import ENCODINGS
from hwc.spec.finding import Finding, fails, idle, ok
from hwc.spec.legality import VendorKernel
from hwc.spec.target import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is probed, and where."""

    target: TargetSpec
    folder: Path
    """Where the descriptor lies, and its kernels beside it."""
    home: Path
    """Cache that the emulator's agent is compiled into."""


EXECUTED = frozenset({"m", "a", "f", "d", "c", "v", "zba", "zbb", "zbs", "zfhmin", "zfh"})
"""Extensions that the emulator's agent tries an instruction of; of others it says nothing."""
Probe = Callable[[Bench], Iterator[Finding]]
COMPLAINTS: tuple[tuple[str, str, str], ...] = (
    (r"'([^']+)' is not a recognized feature", "lowering.cpu_features", "the compiler knows no feature `{}`"),
    (r"'([^']+)' is not a recognized processor", "lowering.cpu", "the compiler knows no CPU `{}`"),
    (r"'([^']+)' is not a recognized ABI", "lowering.abi", "the compiler knows no ABI `{}`"),
    (r"note: (.*) ABI can't be used", "lowering.abi", "{} ABI needs a feature that `lowering.cpu_features` leaves out"),
    (r"createTargetMachine\(([^)]*)\) failed", "lowering.triple", "the compiler has no code generator for {}"),
    (r"(missing GPU target|Unknown .* target '[^']*')", "lowering.gpu", "the compiler does not know it: {}"),
    (r"undefined symbol: (\S+)", "lowering.cpu_features", "the code calls {}, a routine for what the features lack"),
)
"""What the compiler says, the key it is about, and what is told; LLVM only warns of most of these."""


def probe(bench: Bench) -> tuple[Finding, ...]:
    """Return every probe's findings, in order."""
    return tuple(replace(finding, check=name) for name, ask in PROBES.items() for finding in ask(bench))


def compiler(bench: Bench) -> Iterator[Finding]:
    """Make code with the descriptor's flags, and listen to what the compiler warns of."""
    lowering = bench.target.lowering
    if lowering is None:
        yield idle(f"no [lowering]: {bench.target.not_built}")
        return
    flags = HOST_FLAGS if lowering.cpu == "host" else compiler_flags(lowering)
    try:
        with tempfile.TemporaryDirectory(prefix="hwc-probe-") as work:
            outcome = iree.try_target(flags, Path(work))
    except MachineError as error:
        yield absent("lowering.backend", error)
        return
    told = [lowering.backend, lowering.triple, lowering.abi, lowering.cpu or lowering.gpu, *lowering.cpu_features]
    yield from _complaints(outcome) or [ok(f"makes code for {' '.join(filter(None, told))}", "lowering")]


def _complaints(outcome: child.Outcome) -> list[Finding]:
    found = {
        (key, text.format(name)): None
        for pattern, key, text in COMPLAINTS for name in re.findall(pattern, outcome.stderr)
    }
    if not found and outcome.returncode != 0:
        first = next((line for line in outcome.stderr.splitlines() if line.strip()), "it says nothing")
        found = {("lowering", f"the compiler {outcome.describe()}: {first}"): None}
    return [fails(key, text) for key, text in found]


def emulator(bench: Bench) -> Iterator[Finding]:
    """Start the emulator, and ask its core by executing instructions what it has."""
    told, lowering = bench.target.execution.emulator, bench.target.lowering
    if told is None or lowering is None:
        yield idle("no emulator executes its code")
        return
    chip = EmulatedChip(program=told.program, cpu=told.cpu, min_version=told.min_version, format=lowering.format)
    try:
        tools = emulator_tools.ready(chip, bench.home)
    except MachineError as error:
        yield absent("execution.emulator.program", error)
        return
    try:
        vlen_bits, extensions = emulator_tools.probe(tools, chip)
    except MachineError as error:
        yield fails("execution.emulator.cpu", str(error.what))
        return
    if lowering.vlen_bits is not None and vlen_bits != lowering.vlen_bits:
        text = f"its core has vectors of {vlen_bits} bits; `lowering.vlen_bits` is {lowering.vlen_bits}"
        yield fails("execution.emulator.cpu", text)
    for feature in (name.removeprefix("+") for name in lowering.cpu_features if name.startswith("+")):
        if feature in EXECUTED and feature not in extensions:
            yield fails("execution.emulator.cpu", f"its core does not execute {feature}, which code is made with")
    yield ok(f"{chip.program} {tools.version}: {vlen_bits} bits, {' '.join(extensions)}", "execution.emulator")


def vendor_tools(bench: Bench) -> Iterator[Finding]:
    """Find the programs that [vendor] names, beside the descriptor or on the path."""
    vendor, found = bench.target.vendor, False
    commands = {"vendor.compiler": vendor.compiler, "vendor.executable_hook": vendor.executable_hook}
    for key, command in commands.items():
        if not command:
            continue
        found = True
        there = shutil.which(command[0]) or (bench.folder / command[0]).is_file()
        missing = MachineError(f"{command[0]} is neither on the path nor beside the descriptor")
        yield ok(f"{command[0]} is there", key) if there else absent(key, missing)
    if any(kernel.source for kernel in bench.target.kernels.values()) and not vendor.compiler:
        found = True
        yield fails("vendor.compiler", "absent, but [kernels] have sources to compile")
    if not found:
        yield idle("[vendor] names no tools")


def kernels(bench: Bench) -> Iterator[Finding]:
    """Find each kernel's file, the symbol in it, and for an object the instruction set it is for."""
    if not bench.target.kernels or bench.target.lowering is None:
        yield idle("no [kernels], or no [lowering] to link them into")
        return
    for name, kernel in bench.target.kernels.items():
        yield _kernel(bench, name, kernel)


def _kernel(bench: Bench, name: str, kernel: VendorKernel) -> Finding:
    """Take or compile one kernel as a build would."""
    target, file = bench.target, kernel.source or kernel.object
    key = f"kernels.{name}.{'source' if kernel.source else 'object'}"
    try:
        text = confined(bench.folder, file).read_bytes()
    except (OSError, IntegrityError) as error:
        told = error.what if isinstance(error, IntegrityError) else f"there is no file {file} beside the descriptor"
        return fails(key, told)
    if kernel.source and not re.search(rf"\b{kernel.symbol}\b".encode(), text):
        return fails(f"kernels.{name}.symbol", f"{file} does not mention `{kernel.symbol}`")
    door = Door(
        kernels={name: kernel}, vendor=target.vendor, rules=(), placement=target.placement, folder=bench.folder
    )
    architecture = target.code().triple.partition("-")[0] or platform.machine()
    try:
        with tempfile.TemporaryDirectory(prefix="hwc-kernel-") as work:
            kernel_objects.make(door, architecture, Path(work), isa.features(target.code(), Path(work)))
    except MachineError as error:
        return absent("vendor.compiler", error)
    except (StepError, UsageError) as error:
        return fails(key, error.what)
    place = f"; it is in the place of {kernel.unit}, which is modelled" if kernel.executes == "model" else ""
    return ok(f"{file} comes to an object for {architecture} that defines {kernel.symbol}{place}", key)


def encodings(bench: Bench) -> Iterator[Finding]:
    """Find each encoding among those that hwc can write."""
    known: dict[str, tuple[str, ...]] = {**dict(ENCODINGS.items()), tiles.KIND: (tiles.ENCODING,)}
    for kind, name in bench.target.encoding.items():
        if kind not in known:
            yield fails(f"encoding.{kind}", f"there are no codes of this kind; known: {', '.join(known)}")
        elif name not in known[kind]:
            yield fails(f"encoding.{kind}", f"{name!r} is no encoding of {kind}; known: {', '.join(known[kind])}")
        else:
            yield ok(name, f"encoding.{kind}")
    if not bench.target.encoding:
        yield idle("no [encoding]: quantised models are not built for it")


def calibration(bench: Bench) -> Iterator[Finding]:
    """Find the file of fitted efficiencies."""
    name = bench.target.calibration
    if not name:
        yield idle("no `calibration`: predictions are not fitted to this device")
    elif not confined(bench.folder, name).is_file():
        yield fails("calibration", f"there is no file {name} beside the descriptor")
    else:
        yield ok(f"{name} is there", "calibration")


def absent(key: str, error: HwcError) -> Finding:
    """Return that a tool is not installed: a warning, unless the user is strict."""
    reason = f"{error.what}; {error.hint}" if error.hint else str(error.what)
    return Finding(verdict="warning", key=key, reason=reason, missing_tool=True)


PROBES: Mapping[str, Probe] = {
    "compiler": compiler, "emulator": emulator, "vendor-tools": vendor_tools, "kernels": kernels,
    "encodings": encodings, "calibration": calibration,
}
