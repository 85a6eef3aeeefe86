"""Make the text on which language models are evaluated and calibrated: models/data/language-*.jsonl.

Each line is one passage, ``{"domain": …, "text": …}``. Four domains take turns, so that the first N lines of a file
hold them alike. Sources (see models/data/README.md for their licences), each pinned by the SHA-256 below:

* ``scripture``: the King James Bible, printed as tools/make_eval_text.py tells;
* ``novel``: Jane Austen's six novels, from Debian's package r-cran-janeaustenr 1.0.0-1::

      apt-get download r-cran-janeaustenr
      dpkg-deb -x r-cran-janeaustenr*.deb austen    # austen/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb

* ``documentation``: ``pydoc_data/topics.py`` of CPython 3.11.7;
* ``code``: modules of the standard library of CPython 3.11.7.

A document (a book of the Bible, a novel, a topic, a module) serves one file alone, and no passage shares a run of
eight words with another one, of either file. Choice and order follow a fixed seed, so::

      python tools/make_language_text.py kjv.txt Rdata.rdb .../lib/python3.11 models/data

writes the same bytes again; the digests it prints belong into models/*.toml.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import itertools
import json
import random
import re
import textwrap
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from make_eval_text import KJV_SHA256, TOPICS_SHA256, pinned_text

SEED = 20261124
AUSTEN_SHA256 = "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21"
MODULES_SHA256 = "08dfd59b92b8c4fcd2ee5903834910a55a95f3665096147ad57a9aa2a3114d73"
"""Of the modules' bytes, one after the other."""
MODULES = """
argparse bdb calendar cgi cmd compileall configparser contextlib copy csv dataclasses datetime difflib dis doctest enum
filecmp fileinput fractions ftplib gettext graphlib gzip heapq imaplib inspect linecache locale mailbox mimetypes os
pathlib pdb pickle plistlib posixpath pprint pydoc random sched selectors shelve shlex shutil smtplib statistics string
tempfile threading tokenize traceback typing uuid warnings weakref webbrowser zipfile
"""
"""None of them carries a copyright notice of its own."""
EVALUATED_SHARE = 3
"""One document in so many serves evaluation."""
SHARED_WORDS = 8
_CHARSXP = b"\x00\x04\x00\x09"
"""A string in R's serialisation (R Internals, section 1.8): these flags, its length, its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many passages a domain gives, and how many characters one has."""

    passages: int
    least: int
    most: int


EVALUATION = Size(passages=24, least=700, most=900)
"""About 160 tokens or more: one window of 128."""
CALIBRATION = Size(passages=32, least=1400, most=2200)
"""About 320 tokens or more: one window of 256, or two of 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text in the units a passage may begin and end with."""

    units: tuple[str, ...]
    joint: str
    begins: str
    """Pattern of a unit that a passage may begin with."""


def scripture(text: str) -> Iterator[Document]:
    """Yield each book, verse by verse, without the references."""
    rows = [re.match(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line) for line in text.splitlines()]
    for _, verses in itertools.groupby((row for row in rows if row), key=lambda row: row[1]):
        yield Document(units=tuple(row[2].strip() for row in verses), joint=" ", begins=r"[A-Z]")


def novels(database: bytes) -> Iterator[Document]:
    """Yield each novel, paragraph by paragraph: an R database is a row of (length, zlib stream)."""
    while database:
        stream = zlib.decompressobj()
        book = stream.decompress(database[4:])
        lines, place = list[str](), book.index(_CHARSXP)
        while book[place : place + 4] == _CHARSXP:
            end = place + 8 + int.from_bytes(book[place + 4 : place + 8], "big")
            lines.append(book[place + 8 : end].decode())
            place = end
        paragraphs = "\n".join(lines).split("\n\n")
        yield Document(
            units=tuple(" ".join(part.split()) for part in paragraphs if part.strip()),
            joint="\n\n",
            begins=r"[\"A-Z].{60}",  # not a chapter's title
        )
        database = stream.unused_data


def documentation(source: str) -> Iterator[Document]:
    """Yield each topic of the language reference, block by block."""
    assignment = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    for _, topic in sorted(ast.literal_eval(assignment.value).items()):
        yield Document(units=_blocks(topic), joint="\n\n", begins=r"[A-Z].{40}")


def code(folder: Path) -> Iterator[Document]:
    """Yield each module, block by block; a passage begins with a definition."""
    payloads = [(folder / f"{name}.py").read_bytes() for name in MODULES.split()]
    found = hashlib.sha256(b"".join(payloads)).hexdigest()
    if found != MODULES_SHA256:
        raise SystemExit(f"the modules in {folder} have sha256 {found}, not {MODULES_SHA256}")
    for payload in payloads:
        yield Document(units=_blocks(payload.decode()), joint="\n\n", begins=r" *(def |class |async def |@)")


def _blocks(text: str) -> tuple[str, ...]:
    return tuple(block.strip("\n") for block in re.split(r"\n[ \t]*\n", text) if block.strip())


def passages(document: Document, size: Size) -> Iterator[str]:
    """Yield passages of the right length from the beginning of a document to its end; none overlaps another."""
    first = 0
    while first < len(document.units):
        last, text = first, ""
        while last < len(document.units) and len(text) < size.least:
            last += 1
            text = textwrap.dedent(document.joint.join(document.units[first:last]))
        fits = size.least <= len(text) <= size.most and re.match(document.begins, document.units[first])
        if fits:
            yield text
        first = last if fits else first + 1


def runs(text: str) -> set[tuple[str, ...]]:
    """Return every run of eight words, in lower case."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + SHARED_WORDS]) for at in range(len(words) - SHARED_WORDS + 1)}


def choose(documents: Iterable[Document], size: Size, rng: random.Random, taken: set[tuple[str, ...]]) -> list[str]:
    """Take passages from each document in turn, none of which shares a run of words with one already taken."""
    offered = [list(passages(document, size)) for document in documents]
    for group in offered:
        rng.shuffle(group)
    chosen: list[str] = []
    for text in (text for turn in itertools.zip_longest(*offered) for text in turn if text is not None):
        if len(chosen) < size.passages and not (found := runs(text)) & taken:
            taken |= found
            chosen.append(text)
    if len(chosen) < size.passages:
        raise SystemExit(f"{len(chosen)} passages found, {size.passages} needed")
    return chosen


def write(path: Path, chosen: dict[str, list[str]]) -> None:
    """Write one file, the domains taking turns, and print its digest."""
    rows = [{"domain": domain, "text": text} for turn in zip(*chosen.values(), strict=True)
            for domain, text in zip(chosen, turn, strict=True)]  # fmt: skip
    payload = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(payload)
    print(f"{path.name}: {len(rows)} passages, {len(payload)} bytes, sha256:{hashlib.sha256(payload).hexdigest()}")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kjv", "austen", "library", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    austen = given.austen.read_bytes()
    if hashlib.sha256(austen).hexdigest() != AUSTEN_SHA256:
        raise SystemExit(f"{given.austen} is not the pinned one: the passages would differ")
    domains = {
        "scripture": list(scripture(pinned_text(given.kjv, KJV_SHA256))),
        "novel": list(novels(austen)),
        "documentation": list(documentation(pinned_text(given.library / "pydoc_data" / "topics.py", TOPICS_SHA256))),
        "code": list(code(given.library)),
    }
    rng, taken = random.Random(SEED), set[tuple[str, ...]]()
    for documents in domains.values():
        rng.shuffle(documents)
    evaluated = {name: found[::EVALUATED_SHARE] for name, found in domains.items()}
    others = {name: [one for at, one in enumerate(found) if at % EVALUATED_SHARE] for name, found in domains.items()}
    for file, split, size in (("eval", evaluated, EVALUATION), ("calibration", others, CALIBRATION)):
        chosen = {name: choose(documents, size, rng, taken) for name, documents in split.items()}
        write(given.out / f"language-{file}.jsonl", chosen)


if __name__ == "__main__":
    main()
