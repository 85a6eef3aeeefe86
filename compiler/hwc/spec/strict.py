"""Strict TOML: parse a file into a pydantic record, or say which key on which line is wrong."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hwc.errors import UsageError

MAX_TOML_BYTES = 1 << 20


class Record(BaseModel):
    """Base of every record parsed from a file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)


RecordT = TypeVar("RecordT", bound=Record)
_HEADER = re.compile(r"^\s*\[\[?\s*(?P<path>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_PART = re.compile(r"""\s*("[^"]*"|'[^']*'|[^.]+)""")
_KEY = re.compile(r"^\s*(?P<key>[A-Za-z0-9_.\"'-]+?)\s*=")


def load(path: Path, record: type[RecordT]) -> RecordT:
    """Parse one TOML file; raise UsageError naming the file, the line and the nearest known key."""
    return parse(read_text(path), record, where=str(path))


def read_text(path: Path) -> str:
    """Read a TOML file of at most 1 MiB as UTF-8; raise UsageError if that is not what it is."""
    try:
        with path.open("rb") as stream:
            payload = stream.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path.name}: {error.strerror}", where=str(path)) from error
    if len(payload) > MAX_TOML_BYTES:
        raise UsageError(f"{path.name} is larger than 1 MiB, the most a TOML file may be here", where=str(path))
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 at byte {error.start}", where=str(path)) from error


def parse(text: str, record: type[RecordT], *, where: str) -> RecordT:
    """Parse TOML text into a record; ``where`` names the file in messages."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML: {error}", where=where) from error
    except RecursionError as error:
        raise UsageError("not valid TOML here: values are nested too deeply", where=where) from error
    return from_table(table, record, where=where, text=text)


def from_table(table: dict[str, typing.Any], record: type[RecordT], *, where: str, text: str = "") -> RecordT:
    """Validate a parsed table; ``text`` is its source, for line numbers."""
    try:
        return record.model_validate(table)
    except ValidationError as error:
        raise _explain(error, record, where=where, text=text) from error


def _explain(error: ValidationError, record: type[BaseModel], *, where: str, text: str) -> UsageError:
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    loc = [part for part in first["loc"] if not str(part).startswith("<")]  # marks of a union are no keys
    dotted = ".".join(str(part) for part in loc)
    line = locate(text, loc)
    place = f"{where}:{line}" if line else where
    if first["type"] == "extra_forbidden":
        key = str(loc[-1])
        known = known_keys(record, loc[:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else "known here: " + ", ".join(sorted(known))
        return UsageError(f"unknown key `{dotted}`", where=place, hint=hint)
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        return UsageError(f"missing key `{dotted}`", where=place, hint=f"add `{loc[-1]} = …`")
    return UsageError(f"`{dotted}`: {message}" if dotted else message, where=place)


def known_keys(record: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """List the keys allowed at a location inside a record; union tags and list indices are stepped over."""
    candidates: list[type[BaseModel]] = [record]
    for part in loc:
        below: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            below += _records_in(field.annotation) if field is not None else []
        candidates = below or [record for record in candidates if part in _tags(record)] or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _tags(record: type[BaseModel]) -> tuple[typing.Any, ...]:
    """Return the tags by which a record is told from others of a union: the values its ``kind`` may have."""
    kind = record.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind is not None else ()


def _records_in(annotation: typing.Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _records_in(argument)]


def locate(text: str, loc: Sequence[int | str]) -> int:
    """Return the 1-based line where a key (or its nearest written parent) stands, or 0 if none does."""
    names = [str(part) for part in loc if not isinstance(part, int)]
    positions = _positions(text)
    while names:
        tried = set()
        for drop in range(len(names)):  # a tagged union puts its tag into the location
            shorter = tuple(names[:drop] + names[drop + 1 :]) if drop else tuple(names)
            tried.add(shorter)
            if shorter in positions:
                return positions[shorter]
        names.pop()
    return 0


def _positions(text: str) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split(header["path"])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_split(key["key"])), number)
            for inner in re.findall(r"[{,]\s*([A-Za-z0-9_-]+)\s*=", line):
                found.setdefault((*table, *_split(key["key"]), inner), number)
    return found


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in _PART.findall(dotted))
