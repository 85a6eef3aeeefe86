"""Every way hwc can fail: one class per exit code, each saying what, where and what to do."""

from __future__ import annotations

from typing import ClassVar


class HwcError(Exception):
    """A failure told to the user as what happened, to what, and what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"  where: {self.where}")
        if self.hint:
            parts.append(f"  hint:  {self.hint}")
        return "\n".join(parts)


class InternalError(HwcError):
    """A bug in hwc itself."""

    exit_code = 1


class UsageError(HwcError):
    """An unknown name, a bad option or a bad TOML file."""

    exit_code = 2


class GateError(HwcError):
    """An artefact was built but missed a quality, latency, size, cost or coverage gate."""

    exit_code = 3


class MachineError(HwcError):
    """The machine lacks a device, a tool, a CPU feature, disk space or a permission."""

    exit_code = 4


class StepError(HwcError):
    """A pipeline step failed: an unsupported op, a compiler error, a time or memory limit."""

    exit_code = 5


class IntegrityError(HwcError):
    """Input is damaged or hostile: a digest mismatch, NaN weights, a path that escapes."""

    exit_code = 6


class RegistryError(HwcError):
    """A registry or the network failed."""

    exit_code = 7


class InterruptedBuild(HwcError):
    """The user or the system asked the work to stop."""

    exit_code = 130


BY_NAME: dict[str, type[HwcError]] = {
    cls.__name__: cls
    for cls in (
        InternalError,
        UsageError,
        GateError,
        MachineError,
        StepError,
        IntegrityError,
        RegistryError,
        InterruptedBuild,
    )
}
