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
_FIRST, _FIELDS = 2, 3
"""Words of 64 bits in front of the rows of a counters' file, and words a row; see lower/emulator/wire.h."""


class Chip:
    """The twin of one shipped module.

    Raises MachineError where the emulator is missing or plays another core than the code was made for.
    """

    def __init__(self, code: bytes, emulator: EmulatedChip, where: str) -> None:
        self.twin = emulate.twin(code, emulator, cache_home(os.environ), where)
        self._memory = mmap.mmap(-1, len(self.twin.code))  # aligned, as the runtime asks
        self._memory[:] = self.twin.code
        self._counters = os.memfd_create("hwc-counters")  # nothing is left behind, however this process ends
        weakref.finalize(self, os.close, self._counters)
        os.environ[COUNTS_VARIABLE] = f"/proc/self/fd/{self._counters}"  # read by the stand-in when it is loaded

    @property
    def code(self) -> memoryview:
        """The twin, for the runtime to load."""
        return memoryview(self._memory)

    def counts(self) -> dict[str, Any]:
        """Return what the control core executed since it was loaded, per dispatch, the most instructions first.

        Exact for the code that was compiled: the emulator counts instructions, not time. Of a module with more than
        one executable nothing is told: they would share the counters.
        """
        names = self.twin.dispatches[0] if len(self.twin.dispatches) == 1 else ()
        words = os.pread(self._counters, 8 * (_FIRST + _FIELDS * len(names)), 0)
        rows = []
        for number, name in enumerate(names):
            at = 8 * (_FIRST + _FIELDS * number)
            if at + 8 * _FIELDS > len(words):
                break
            calls, workgroups, instructions = struct.unpack_from("<3Q", words, at)
            if calls:
                rows.append(
                    {"dispatch": name, "calls": calls, "workgroups": workgroups, "instructions": instructions}
                )
        return {
            "executables": [one.sha256 for one in self.twin.executables],
            "instructions": sum(row["instructions"] for row in rows),
            "dispatches": sorted(rows, key=lambda row: -row["instructions"]),
            "method": "counted by the emulator, block by block; the control core's instructions, not a time",
        }
