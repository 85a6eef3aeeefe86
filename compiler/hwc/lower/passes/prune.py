"""Prune: drop parameters, and the loads and casts that lead to them, which nothing uses any more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_TOKEN = re.compile(r'%[\w$.-]+|@"[^"]+"|@[\w$.-]+')
_DROPPABLE = (
    re.compile(r"^\s*(%[\w$.-]+) = torch_c\.from_builtin_tensor "),
    re.compile(r"^\s*(%[\w$.-]+) = util\.global\.load "),
    re.compile(r'^\s*util\.global private (@"[^"]+"|@[\w$.-]+) = #\w+\.parameter\.named<'),
)
"""In the order of use: a cast uses a load, a load uses a global."""


def prune(lines: Sequence[str]) -> list[str]:
    """Return the lines without unused parameter globals, loads and casts; comments count as no use."""
    kept = list(lines)
    for pattern in _DROPPABLE:
        uses = Counter(token for line in kept if not _comment(line) for token in _TOKEN.findall(line))
        kept = [line for line in kept if (found := pattern.match(line)) is None or uses[found[1]] > 1]
    return kept


def _comment(line: str) -> bool:
    return line.lstrip().startswith("//")
