"""Token windows: text by domain, cut into runs of one length on which language models are scored and calibrated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hwc import digest
from hwc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np

PLAIN_DOMAIN = "text"
"""Domain of the passages of a plain text file, which names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of running text and the kind of text it is."""

    domain: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive tokens of one passage, int64 [tokens], begun as the tokenizer begins a text."""

    domain: str
    ids: np.ndarray


class Encoding(Protocol):
    """What a tokenizer makes of a text."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 where the tokenizer added the token, 0 where it stands for text."""


class Tokenizer(Protocol):
    """The part of ``tokenizers.Tokenizer`` that is used; it must neither truncate nor pad."""

    def encode(self, text: str, /) -> Encoding:
        """Return the tokens of a text, with the special ones around it."""


def open_tokenizer(folder: Path, *, vocabulary: int | None = None) -> Tokenizer:
    """Load ``tokenizer.json`` without truncation and padding.

    Raises UsageError if it is absent, IntegrityError if it is damaged or has a token that a model of ``vocabulary``
    tokens does not have.
    """
    from tokenizers import Tokenizer as Loaded

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UsageError(
            "the model has no tokenizer, so no text can be scored", where=str(file),
            hint="save_pretrained() of a fast tokenizer writes it",
        )
    try:
        tokenizer = Loaded.from_file(str(file))
    except Exception as error:
        raise IntegrityError(f"not a tokenizer: {error}", where=str(file)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if vocabulary is not None and largest >= vocabulary:
        raise IntegrityError(
            f"the tokenizer does not belong to the model: it has token {largest}, the model {vocabulary} tokens",
            where=str(file), hint="put the model's own tokenizer.json beside its weights",
        )
    loaded: Tokenizer = tokenizer
    return loaded


def read_passages(path: Path, sha256: str | None) -> list[Passage]:
    """Read passages, after checking the file's digest where one is given.

    A ``.jsonl`` file has one ``{"domain": …, "text": …}`` a line; any other file is UTF-8 text whose paragraphs,
    between empty lines, are the passages. Raises UsageError for a file that cannot be read so, IntegrityError for
    another digest.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the text: {error.strerror}", where=str(path)) from error
    if sha256 is not None and digest.of_bytes(payload) != sha256:
        raise IntegrityError(
            "the text is not what the specification pins",
            where=str(path),
            hint=f"it has {digest.of_bytes(payload)}; put that into the specification if the change is meant",
        )
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the text is not UTF-8: byte {error.start}", where=str(path)) from error
    if path.suffix == ".jsonl":
        rows = enumerate(text.split("\n"), start=1)  # str.splitlines would also cut at U+2028 inside a string
        return [_passage(line, f"{path}:{number}") for number, line in rows if line.strip()]
    return [Passage(domain=PLAIN_DOMAIN, text=part.strip("\n")) for part in text.split("\n\n") if part.strip()]


def _passage(line: str, where: str) -> Passage:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}", where=where) from error
    if not isinstance(row, dict) or set(row) != {"domain", "text"} or not all(isinstance(v, str) for v in row.values()):
        raise UsageError('not a passage: {"domain": "…", "text": "…"} is asked for', where=where)
    return Passage(domain=row["domain"], text=row["text"])


def windows(
    passages: Sequence[Passage], tokenizer: Tokenizer, *, tokens: int, count: int = 1, purpose: str = "calibration"
) -> list[Window]:
    """Cut passages into at least ``count`` whole windows of exactly ``tokens`` ids.

    Each window begins with the special tokens that the tokenizer puts before a text, such as BOS, and goes on with text
    of one passage alone; what is left at a passage's end, and special tokens after it, are dropped. First come the
    first windows of all passages, in their order, then the second ones: the first N windows hold the domains as the
    first N passages do. Raises UsageError if ``tokens`` leaves no room for text or the text is too short.
    """
    cut = [_cut(passage, tokenizer.encode(passage.text), tokens) for passage in passages]
    deepest = max((len(row) for row in cut), default=0)
    found = [row[turn] for turn in range(deepest) for row in cut if turn < len(row)]
    if len(found) < count:
        held = sum(len(window.ids) for window in found)
        raise UsageError(
            f"{purpose} text too short: {held} tokens in windows of {tokens}, {count * tokens} needed",
            hint=f"{len(found)} of {count} windows could be filled; give more or longer passages",
        )
    return found


def _cut(passage: Passage, encoding: Encoding, tokens: int) -> list[Window]:
    import numpy as np

    marks = encoding.special_tokens_mask
    text_begins = marks.index(0) if 0 in marks else len(marks)
    prefix = encoding.ids[:text_begins]
    text = [token for token, special in zip(encoding.ids, marks, strict=True) if not special]
    room = tokens - len(prefix)
    if room < 1:
        raise UsageError(f"a window of {tokens} tokens has no room for text", hint=f"{len(prefix)} tokens are special")
    return [
        Window(domain=passage.domain, ids=np.asarray(prefix + text[start : start + room], np.int64))
        for start in range(0, len(text) - room + 1, room)
    ]
