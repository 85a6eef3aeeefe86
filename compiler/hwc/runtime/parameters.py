"""Parameter archives, mapped into memory where they lie."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from hwc.errors import IntegrityError


def load_index(path: Path, offset: int = 0, length: int | None = None, *, into: Any = None) -> Any:
    """Return an ``iree.runtime.ParameterIndex`` over ``length`` bytes at ``offset`` of a file, read only, not copied.

    Without a length the archive reaches to the file's end; with ``into`` its entries are added to that index. Pages
    are read when they are first used and shared by every process that maps the file; the index keeps them mapped.
    Raises IntegrityError if the file is shorter or holds no parameter archive.
    """
    import iree.runtime as rt

    # The system maps from multiples of its page size, which is 64 KiB on some aarch64 kernels: start before and skip.
    skipped = offset % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as stream:
        found_bytes = os.fstat(stream.fileno()).st_size
        length = found_bytes - offset if length is None else length
        if offset < 0 or length <= 0 or offset + length > found_bytes:
            raise IntegrityError(f"{length} bytes at {offset} do not lie in a file of {found_bytes}", where=str(path))
        mapped = mmap.mmap(stream.fileno(), length + skipped, access=mmap.ACCESS_READ, offset=offset - skipped)
    handle = rt.FileHandle.wrap_memory(memoryview(mapped)[skipped:], readable=True, writable=False)
    index = rt.ParameterIndex() if into is None else into
    try:
        index.load_from_file_handle(handle, "irpa")
    except (ValueError, RuntimeError) as error:
        raise IntegrityError(f"not a parameter archive: {error}", where=str(path)) from error
    return index
