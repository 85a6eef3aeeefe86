"""HTML by functions: text becomes markup in one place, where it is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAX_TEXT = 600
"""Characters of one untrusted text that are shown."""
# Control characters, halves of surrogate pairs (which UTF-8 cannot hold) and marks that turn the direction of text
# around: a name may not look like another one.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_VOID = frozenset({"meta", "br"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | Html | Iterable["str | Html"]


def escaped(text: str) -> Html:
    """Return text as markup; markup is returned as it is."""
    if isinstance(text, Html):
        return text
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return Html(html.escape(_UNSHOWN.sub("\ufffd", cut), quote=True))


def joined(parts: Iterable[str | Html]) -> Html:
    """Return parts one after another, each escaped unless it is markup."""
    return Html("".join(escaped(part) for part in parts))


def element(name: str, content: Content = "", attributes: Mapping[str, str] | None = None) -> Html:
    """Return one element; text and the values of attributes are escaped."""
    inside = escaped(content) if isinstance(content, str) else joined(content)
    told = "".join(f' {key}="{escaped(value)}"' for key, value in (attributes or {}).items())
    return Html(f"<{name}{told}>" if name in _VOID else f"<{name}{told}>{inside}</{name}>")


def of_class(name: str, classes: str, content: Content = "") -> Html:
    """Return one element with a class."""
    return element(name, content, {"class": classes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's head: what, in which unit, by which method."""

    title: str
    unit: str = ""
    """Unit and method, as ``ms · measured``."""
    number: bool = True


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str | Html]]) -> Html:
    """Return a table that scrolls sideways on narrow screens; the first cell of a row heads it."""
    heads = [
        element(
            "th",
            [column.title, of_class("span", "unit", column.unit)] if column.unit else column.title,
            {"scope": "col", "class": "num" if column.number else "text"},
        )
        for column in columns
    ]
    body = [_row(columns, row) for row in rows]
    drawn = element(
        "table",
        [element("caption", caption), element("thead", element("tr", heads)), element("tbody", body)],
    )
    return element("div", drawn, {"class": "scroll", "role": "region", "aria-label": caption, "tabindex": "0"})


def _row(columns: Sequence[Column], row: Sequence[str | Html]) -> Html:
    first = element("th", row[0], {"scope": "row"})
    pairs = zip(columns[1:], row[1:], strict=True)
    return element("tr", [first, *(of_class("td", "num" if column.number else "text", cell) for column, cell in pairs)])


def details(summary: str | Html, content: Content, *, is_open: bool = False) -> Html:
    """Return a part that the reader opens."""
    inside = content if isinstance(content, str) else joined(content)
    return element("details", [element("summary", summary), escaped(inside)], {"open": ""} if is_open else None)


def listing(pairs: Iterable[tuple[str, str | Html]]) -> Html:
    """Return names and what they stand for; pairs without content are left out."""
    rows = [element("div", [element("dt", name), element("dd", value)]) for name, value in pairs if value]
    return element("dl", rows)


def number(value: float | None, digits: int = 3, suffix: str = "") -> str:
    """Return a number with significant digits and without exponents where it is readable so; a dash for none."""
    if value is None:
        return "–"
    if value == 0:
        return f"0{suffix}"
    if 1e3 <= abs(value) < 1e15:
        return f"{value:,.0f}{suffix}"
    if abs(value) < 1e-4 or abs(value) >= 1e15:
        return f"{value:.{digits - 1}e}{suffix}"
    return f"{float(f'{value:.{digits}g}'):.15g}{suffix}"
