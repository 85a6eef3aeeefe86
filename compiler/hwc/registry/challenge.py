"""What a registry asks for in ``WWW-Authenticate``: Basic credentials or a Bearer token.

Source: RFC 9110, section 11.6.1; distribution specification, "Token Authentication".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_CHARS = 4096
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*,*\s*({_TOKEN})(?:\s+|\s*,|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way in that a registry offers."""

    scheme: str
    """``basic`` or ``bearer``, in lower case."""
    realm: str = ""
    """For Bearer, the address that gives tokens."""
    service: str = ""
    scopes: tuple[str, ...] = ()


def choose(headers: Iterable[str]) -> Challenge | None:
    """Return the way to take of those offered: Bearer before Basic; None if there is neither."""
    offered = [challenge for header in headers for challenge in parse(header)]
    by_scheme = {challenge.scheme: challenge for challenge in reversed(offered)}
    bearer = by_scheme.get("bearer")
    return bearer if bearer is not None and bearer.realm else by_scheme.get("basic")


def parse(header: str) -> list[Challenge]:
    """Return the challenges of one header; what cannot be read ends the list."""
    rest, found = header[:_MAX_CHARS], []
    while (scheme := _SCHEME.match(rest)) is not None:
        rest = rest[scheme.end() :]
        values: dict[str, str] = {}
        while (pair := _PARAMETER.match(rest)) is not None:
            name, quoted, plain = pair.groups()
            values.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            rest = rest[pair.end() :]
        found.append(
            Challenge(
                scheme=scheme[1].lower(),
                realm=values.get("realm", ""),
                service=values.get("service", ""),
                scopes=tuple(values.get("scope", "").split()),
            )
        )
    return found
