"""An emulated chip under IREE's stock runtime: its module's twin, and what its control core executed."""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from typing import Any

from hwc.lower import emulate
from hwc.program import EmulatedChip
from hwc.spec.project import cache_home

COUNTS_VARIABLE = "HWC_EMULATED_COUNTS"
_REGIONS_AT, _REGION_BYTES = 65536, 131072
_FIRST, _FIELDS = 2, 3
"""Words of 64 bits in front of a region's rows, and words a row; all as in lower/emulator/wire.h."""

_COUNTS = ("calls", "workgroups", "instructions")
COUNTED = (
    "counted by the emulator, block by block; the control core's instructions, those of code in a unit's place with "
    "them; not a time"
)
NOT_COUNTED = "this emulator takes no plugins, by which instructions are counted"


class Chip:
    """The twin of one shipped module.

    Raises MachineError where the emulator is missing or plays another core than the code was made for.
    """

    def __init__(self, code: bytes, emulator: EmulatedChip, where: str) -> None:
        self.twin = emulate.twin(code, emulator, cache_home(os.environ), where)
        self._memory = mmap.mmap(-1, len(self.twin.code))  # aligned, as the runtime asks
        self._memory[:] = self.twin.code
        self._counters = os.memfd_create("hwc-counters")  # nothing is left behind, however this process ends
        os.ftruncate(self._counters, _REGIONS_AT)
        weakref.finalize(self, os.close, self._counters)
        os.environ[COUNTS_VARIABLE] = f"/proc/self/fd/{self._counters}"  # read by the stand-in when it is loaded

    @property
    def code(self) -> memoryview:
        """The twin, for the runtime to load."""
        return memoryview(self._memory)

    def counts(self) -> dict[str, Any]:
        """Return what the control core executed since it was loaded, per dispatch, the most instructions first.

        Exact for the code that was compiled: the emulator counts instructions, not time. No instructions are told
        where the emulator cannot count them.
        """
        rows = [row for executable in self._executed().values() for row in executable if row["calls"]]
        if not self.twin.counted:
            rows = [{key: value for key, value in row.items() if key != "instructions"} for row in rows]
        most = "instructions" if self.twin.counted else "calls"
        return {
            "executables": [one.sha256 for one in self.twin.executables],
            "instructions": sum(row["instructions"] for row in rows) if self.twin.counted else None,
            "dispatches": sorted(rows, key=lambda row: -row[most]),
            "method": COUNTED if self.twin.counted else NOT_COUNTED,
        }

    def _executed(self) -> dict[int, list[dict[str, Any]]]:
        """Return each executable's dispatches, in its order; one that was loaded twice has the sum of both."""
        named = {
            emulate.identity(code): names
            for code, names in zip(self.twin.executables, self.twin.dispatches, strict=True)
        }
        found: dict[int, list[dict[str, Any]]] = {
            number: [{"dispatch": name, **dict.fromkeys(_COUNTS, 0)} for name in names]
            for number, names in named.items()
        }
        (regions,) = struct.unpack("<Q", os.pread(self._counters, 8, 0))
        for region in range(regions):
            words = os.pread(self._counters, _REGION_BYTES, _REGIONS_AT + region * _REGION_BYTES)
            rows = found.get(struct.unpack_from("<Q", words)[0], []) if len(words) == _REGION_BYTES else []
            for number, row in enumerate(rows):
                told = struct.unpack_from("<3Q", words, 8 * (_FIRST + _FIELDS * number))
                for key, value in zip(_COUNTS, told, strict=True):
                    row[key] += value
        return found
