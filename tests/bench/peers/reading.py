"""Reading memory past the last cache: what bounds any product with weights that no cache holds.

    {"case": ..., "warm": 0, "calls": 3}  →  {"seconds": [...]}: of reading the buffer of ``facts["bytes"]`` once
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread")
LEAST_BYTES = 512 << 20
CACHES = 8
"""The buffer is at least this many last-level caches long, so that next to none of it is found there again."""


def prepare(_config: Mapping[str, Any]) -> None:
    """Nothing is shared with other engines."""


def buffer_bytes(cache_bytes: int) -> int:
    """Return how long the buffer is, a whole number of MiB."""
    return max(LEAST_BYTES, CACHES * cache_bytes) >> 20 << 20


def opened(config: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], dict[str, Any]]:
    """Compile the reader, or take numpy where there is no compiler, and fill the buffer."""
    words = aligned(buffer_bytes(last_cache_bytes()) // 8)
    words[:] = np.arange(len(words), dtype=np.uint64)
    read, how = reader(Path(config["source"]), Path(config["work"]), config["threads"])
    wanted = int(words.sum(dtype=np.uint64))

    def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
        took = []
        for _ in range(asked["calls"]):
            started = time.perf_counter()
            found = read(words)
            took.append(time.perf_counter() - started)
            if found != wanted:
                raise SystemExit(f"the reader's sum is {found}, not {wanted}: it did not read everything")
        return {"seconds": took}

    return answer, {"bytes": words.nbytes, "how": how}


def aligned(count: int) -> np.ndarray:
    """Return uint64 words that begin at a multiple of 64 bytes."""
    raw = np.empty(count + 8, np.uint64)
    start = -raw.ctypes.data % 64 // 8
    return raw[start : start + count]


def last_cache_bytes() -> int:
    """Return the size of the largest cache that Linux tells of; 0 if it tells of none."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes), default=0)


def reader(source: Path, work: Path, threads: int) -> tuple[Callable[[np.ndarray], int], str]:
    """Return what sums an array of uint64 by reading it once, and how it does."""
    library = work / f"read_bandwidth-{threads}.so"
    argv = ("cc", *FLAGS, str(source), "-o", str(library))
    try:
        made = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        return _numpy(threads, str(error))
    if made.returncode != 0:
        return _numpy(threads, made.stderr.strip().splitlines()[-1] if made.stderr else f"exit {made.returncode}")
    function = ctypes.CDLL(str(library)).read_all
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return lambda words: int(function(words.ctypes.data, words.nbytes, threads)), f"C, cc {' '.join(FLAGS)}"


def _numpy(threads: int, why: str) -> tuple[Callable[[np.ndarray], int], str]:
    if threads > 1:
        raise SystemExit(f"no C compiler ({why}), and numpy sums on one thread")
    return lambda words: int(words.sum(dtype=np.uint64)), f"numpy's sum, which may be slower than memory; no cc: {why}"
