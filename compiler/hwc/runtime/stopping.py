"""Stop texts: a generation ends before any of them, however they are spread over the pieces that come."""

from __future__ import annotations

from collections.abc import Sequence

from hwc.errors import UsageError


class StopTexts:
    """Passes text on until a stop text is complete; what may still become one is held back."""

    def __init__(self, texts: Sequence[str]) -> None:
        if not all(texts):
            raise UsageError("a stop text is empty", hint="give at least one character")
        self._texts = tuple(texts)
        self._held = ""
        self.hit: str | None = None
        """The stop text that ended it."""

    def take(self, piece: str) -> str:
        """Return the text that is certain to come before any stop text."""
        if self.hit is not None:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at, stop) for stop in self._texts if (at := text.find(stop)) >= 0]
        if ends:  # the one that is complete first: the answer does not depend on how text came in pieces
            _, at, self.hit = min(ends)
            self._held = ""
            return text[:at]
        kept = max((_overlap(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> str:
        """Return what was held back: no stop text came of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text with which the stop text begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
