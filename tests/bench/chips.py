"""The chip that figures are of: the widest vectors that matter to the kernels here, and what its records go by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_FLAGS: Mapping[str, str] = {
    "AVX-512 VNNI": "avx512_vnni", "AVX-512": "avx512f", "AVX-VNNI": "avx_vnni", "AVX2": "avx2",
    "NEON dot product": "asimddp",
}  # fmt: skip
"""Linux's name for each level, the widest first."""
BASELINE = "baseline"
LEVELS = (*_FLAGS, BASELINE)
_DROPPED = re.compile(r"\((?:r|tm|c)\)|[®™©]|\bprocessor\b", re.IGNORECASE)
Row = Mapping[str, Any]


def vectors(flags: frozenset[str]) -> str:
    """Return the widest level of a CPU that reports ``flags``."""
    return next((level for level, flag in _FLAGS.items() if flag in flags), BASELINE)


def slug(section: Row) -> str:
    """Return the name of the files that hold a section: of its CPU's model and vectors."""
    return re.sub(r"[^a-z0-9]+", "-", title(section).lower()).strip("-")


def title(section: Row) -> str:
    """Return the CPU's model, without trademarks, and its vectors, for people."""
    model = " ".join(_DROPPED.sub(" ", section["machine"]["cpu_model"]).split())
    return f"{model}, {section['vectors']}"
