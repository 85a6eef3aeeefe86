"""A vendor's door while one artefact is lowered: what is linked, what passes through, and whether it arrived."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hwc import told
from hwc.errors import InternalError
from hwc.lower import isa, kernel_objects
from hwc.lower.hook import LOG, Hook
from hwc.lower.passes.kernel_attention import rewrite_attention
from hwc.lower.passes.kernel_convolutions import rewrite_convolutions
from hwc.lower.passes.kernel_linears import Product, Seen, declared, rewrite_plain
from hwc.lower.vendor import Door
from hwc.spec.target import Lowering


class Opened:
    """The door of one lowering.

    Objects are made at once, so that a kernel that does not compile is told first; where kernels may be left out, of
    those that compute something.
    """

    def __init__(self, door: Door, lowering: Lowering, work: Path) -> None:
        self.door, self.work = door, work
        self._architecture = lowering.triple.partition("-")[0] or platform.machine()
        self._features = isa.features(lowering, work)
        self.objects = {} if door.vendor.optional else self._made(door.kernels)
        self.hook = Hook(door, self._architecture, work, self._features) if door.vendor.executable_hook else None
        self._seen: dict[str, list[Seen]] = {}

    def _made(self, names: Iterable[str]) -> dict[str, str]:
        return kernel_objects.make(self.door, self._architecture, self.work, self._features, sorted(names))

    def note(self, function: str, seen: tuple[Seen, ...]) -> None:
        """Take note of a function's quantised linears."""
        self._seen.setdefault(function, []).extend(seen)

    def plain(self, function: str, mlir: str) -> str:
        """Rewrite a function's float linears, attentions and convolutions to calls of kernels; return its module."""
        rewritten, seen = rewrite_plain(mlir, self.door.chosen)
        rewritten, attentions = rewrite_attention(rewritten, self.door.chosen)
        rewritten, convolutions = rewrite_convolutions(rewritten, self.door.chosen)
        self.note(function, (*seen, *attentions, *convolutions))
        return rewritten

    def takes(self, product: Product) -> bool:
        """Tell whether a kernel computes a product."""
        return self.door.chosen(product) is not None

    def declared(self, mlir: str) -> str:
        """Return the whole module with the executables of its calls."""
        return declared(mlir, self._all_seen)

    def complete(self) -> None:
        """Make the objects of kernels that are called and have none yet."""
        called = {one.call.kernel.name for one in self._all_seen if one.call is not None}
        self.objects |= self._made(called - self.objects.keys())

    @property
    def _all_seen(self) -> list[Seen]:
        return [one for rows in self._seen.values() for one in rows]

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags for the compiler; paths in them are relative to its folder, so that they are the same everywhere."""
        search = (f"--iree-hal-executable-object-search-path={kernel_objects.FOLDER}",)
        return (*search, *(self.hook.flags if self.hook else ()))

    @property
    def programs(self) -> tuple[Path, ...]:
        """Folders of programs that the compiler calls."""
        return (self.hook.folder,) if self.hook else ()

    def failed(self, diagnostics: str) -> None:
        """Raise what the vendor's tool failed with, if it was what ended the compiler."""
        if self.hook:
            self.hook.raise_failure(diagnostics)

    def keep_log(self, out: Path) -> None:
        """Keep what the vendor's tool said."""
        if self.hook:
            self.hook.keep_log(out / LOG)

    def facts(self, code: bytes, out: Path) -> dict[str, Any]:
        """Return what the artefact holds of the vendor's; raise unless every kernel that was matched is in it.

        Raises StepError for a kernel that matches nothing though the model has linears of its pattern.
        """
        counts, note = kernel_objects.matches(self.door, self._seen)
        if note:
            told.warn(out, note)
        linked = {name: kernel for name, kernel in self.door.kernels.items() if any(counts[name].values())}
        kernel_objects.require_linked(code, [kernel.symbol for kernel in linked.values()])
        found: dict[str, Any] = {
            "kernels": {
                name: {
                    "pattern": kernel.pattern, "symbol": kernel.symbol,
                    "matched": counts[name], "linked": name in linked,
                    **({"object_sha256": self.objects[name]} if name in self.objects else {}),
                    **({"activation_bits": kernel.activation_bits} if kernel.activation_bits else {}),
                }
                for name, kernel in self.door.kernels.items()
            }
        }
        if self.hook:
            passed = self.hook.passed()
            if passed.objects and not passed.symbols & kernel_objects.defined(code):
                raise InternalError("objects that the vendor's tool gave are not in the artefact")
            found["hook"] = {
                "executables": list(passed.executables), "changed": list(passed.changed),
                "objects": list(passed.objects),
            }
        return {"vendor": found}
