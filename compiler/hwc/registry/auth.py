"""The ``Authorization`` of requests to one registry: Basic, or a Bearer token that is fetched and fetched anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hwc.errors import RegistryError
from hwc.registry import challenge as challenges
from hwc.registry import failures
from hwc.registry.challenge import Challenge
from hwc.registry.credentials import Credentials

Scopes = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A Bearer token and the time until which it is used."""

    text: str = field(repr=False)
    until_s: float
    """On the monotonic clock."""


Fetch = Callable[[Challenge, Scopes, Credentials | None], Token]


class Authenticator:
    """Knows how to sign requests to one registry; learns it from the registry's first refusal. Thread-safe."""

    def __init__(self, host: str, credentials: Credentials | None, fetch: Fetch) -> None:
        self._host = host
        self._credentials = credentials
        self._fetch = fetch
        self._lock = threading.RLock()
        self._basic = ""
        self._tokens: dict[Scopes, Token] = {}

    def header(self, scopes: Scopes) -> str:
        """Return the ``Authorization`` to send, empty for none; a token about to expire is not used."""
        with self._lock:
            token = self._tokens.get(scopes)
            if token is not None and time.monotonic() < token.until_s:
                return f"Bearer {token.text}"
            return self._basic

    def answer(self, offered: Iterable[str], scopes: Scopes, sent: str) -> None:
        """Learn from a 401 to what was ``sent``; raise RegistryError if there is nothing else to try."""
        with self._lock:
            if self.header(scopes) not in ("", sent):
                return  # another thread has learnt it meanwhile
            way = challenges.choose(offered)
            if way is not None and way.scheme == "bearer":
                self._tokens[scopes] = self._fetch(way, scopes, self._credentials)
            elif way is not None and self._credentials is not None and not sent:
                self._basic = self._credentials.basic()
            else:
                raise self.hopeless()

    def hopeless(self) -> RegistryError:
        """Return the error that the registry cannot be entered."""
        return failures.unauthorised(self._host, had_credentials=self._credentials is not None)
