"""Finished: what a calibration has done so far, in a folder from which another process can go on after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.files import write_atomic
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes
from hwc.quantise.join import join
from hwc.quantise.linears import ADJUSTED, Linear
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np

STATE = "state.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")
_ERROR = "relative_error"
_SCALE = ".scale"
_LARGEST = "largest_input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What became of one linear."""

    codes: Codes
    changed: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Float weights that change with the codes, such as a bias: name to new value."""
    scale: np.ndarray | None = None
    """float32 [K]: the codes are of the weight times this scale, for inputs over it; None is 1 (see awq.py)."""
    relative_error: float | None = None
    """Squared error of the outputs on the calibration data over their squared size; None where nothing was measured."""
    largest_input: float = 0.0
    """Largest size of a number in the inputs, on the calibration data."""


class Finished:
    """Solved layers, two files each, and how far the cases have run.

    A layer is on disk when ``keep`` returns. The values that cases carry on are not flushed to it: after a power cut
    the cases run again from the beginning, through the layers that were kept.
    """

    def __init__(self, folder: Path, linears: Sequence[Linear]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._numbers = {linear.layer: number for number, linear in enumerate(linears)}

    def _codes(self, layer: str) -> Path:
        return self._folder / f"{self._numbers[layer]:05d}.codes.safetensors"

    def _beside(self, layer: str) -> Path:
        return self._folder / f"{self._numbers[layer]:05d}.beside.safetensors"

    def keep(self, layer: str, solved: Solved) -> None:
        """Write one layer; its codes come last, and tell that it is whole."""
        from safetensors.numpy import save

        beside = {name + ADJUSTED: value for name, value in solved.changed.items()}
        if solved.scale is not None:
            beside[_SCALE] = solved.scale
        told = {_ERROR: json.dumps(solved.relative_error), _LARGEST: json.dumps(solved.largest_input)}
        write_atomic(self._beside(layer), save(beside, told))
        part = self._codes(layer).with_suffix(".part")
        canonical.save({layer: solved.codes}, part)
        os.replace(part, self._codes(layer))

    def has(self, layer: str) -> bool:
        """Tell whether a layer was kept."""
        return self._codes(layer).is_file()

    def read(self, layer: str) -> Solved:
        """Read back what was kept of a layer."""
        beside = Weights(self._beside(layer))
        return Solved(
            codes=canonical.load(self._codes(layer))[layer],
            changed={name.removesuffix(ADJUSTED): beside[name] for name in beside if name != _SCALE},
            scale=next((beside[name] for name in beside if name == _SCALE), None),
            relative_error=json.loads(beside.metadata[_ERROR]),
            largest_input=json.loads(beside.metadata[_LARGEST]),
        )

    def join(self, codes: Path, changed: Path, *, folded: Mapping[str, Solved]) -> None:
        """Write all codes to one file and, where there are any, all changed float weights to another.

        ``folded`` holds layers that are not to be written as they were kept.
        """
        import numpy as np
        from safetensors.numpy import save_file

        none, values = self._folder / "none.safetensors", dict[str, np.ndarray]()
        canonical.save({}, none)  # a scheme that stores nothing has a file of codes all the same
        parts = [none]
        for layer in sorted(self._numbers):
            parts.append(self._codes(layer))
            if layer in folded:
                parts[-1] = self._codes(layer).with_suffix(".folded")
                canonical.save({layer: folded[layer].codes}, parts[-1])
            solved = folded.get(layer) or self.read(layer)
            values |= {name + ADJUSTED: np.array(value) for name, value in solved.changed.items()}
        join(parts, codes)
        if values:
            save_file(dict(sorted(values.items())), changed)

    def ran(self, segments: int, live: Mapping[str, Any]) -> None:
        """Note how many segments the cases have run through, and the values that they carry on."""
        state = {"boot": _boot(), "segments": segments, "live": live}
        write_atomic(self._folder / STATE, json.dumps(state).encode())

    def state(self) -> tuple[int, dict[str, Any]]:
        """Return what was last noted; nothing, if that was before the machine started."""
        path = self._folder / STATE
        state = json.loads(path.read_text()) if path.is_file() else {}
        return (state["segments"], state["live"]) if state.get("boot") == _boot() else (0, {})


def _boot() -> str:
    return BOOT.read_text().strip()
