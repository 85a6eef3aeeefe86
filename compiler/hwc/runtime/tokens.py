"""Tokens and text: what a language model's own tokenizer makes of a prompt, and of each token as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
"""What a tokenizer gives for bytes that are no character, or not yet."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokens:
    """A tokenizer as it lies in a folder (``tokenizer.json``)."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError("the model has no tokenizer, so it generates no text", where=str(folder))
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise IntegrityError(f"not a tokenizer: {error}", where=str(file)) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        decoder = json.loads(file.read_bytes()).get("decoder")
        self._falls_back_to_bytes = "ByteFallback" in json.dumps(decoder)
        added = self._tokenizer.get_added_tokens_decoder()
        self._silent = frozenset(token for token, entry in added.items() if entry.special)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return a text's token ids, with the tokens the model wants around a text if ``special``.

        Raises UsageError for a text that is not Unicode, as command lines give for bytes that are no UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid UTF-8: {error.reason} at {error.start}") from error
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def require_within(self, vocabulary: int) -> None:
        """Raise IntegrityError if there is a token that a model of this vocabulary cannot take."""
        entries = self._tokenizer.get_vocab(with_added_tokens=True)
        largest = max(entries.values(), default=0)
        if largest >= vocabulary:
            raise IntegrityError(
                f"the tokenizer does not belong to the model: it has token {largest}, the model {vocabulary} tokens",
                hint="build the bundle again from a model with its own tokenizer",
            )

    def is_silent(self, token: int) -> bool:
        """Tell whether the token is a special one, which ``decode`` leaves out."""
        return token in self._silent

    def is_open(self, token: int) -> bool:
        """Tell whether the token is one byte of a run that is only read together: the next may change its text."""
        return self._falls_back_to_bytes and bool(_BYTE.fullmatch(self._tokenizer.id_to_token(token) or ""))


class Detokeniser:
    """Gives text as tokens come: whole characters only, and together exactly ``decode`` of all tokens.

    A token's text depends on those before it (a leading space is kept or not), so the tokens of the last piece are
    decoded again with the new ones, and what they gave alone is cut off.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._window: list[int] = []
        self._told = 0
        """How many tokens of the window have been given out."""

    def take(self, token: int) -> str:
        """Return the text that is certain now; it may be empty."""
        if self._tokens.is_silent(token):
            return ""
        self._window.append(token)
        if self._tokens.is_open(token):
            return ""
        text, before = self._tokens.decode(self._window), self._tokens.decode(self._window[: self._told])
        if text.endswith(REPLACEMENT) or len(text) <= len(before):
            return ""
        self._window, self._told = self._window[self._told :], len(self._window) - self._told
        return text[len(before) :]

    def close(self) -> str:
        """Return what was held back: bytes that never became a character are told as the tokenizer tells them."""
        text, before = self._tokens.decode(self._window), self._tokens.decode(self._window[: self._told])
        self._told = len(self._window)
        return text[len(before) :]
