"""Requests to one registry: signed, redirected with care, repeated where that may help, explained when they fail."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, RegistryError
from hwc.registry import failures, tokens
from hwc.registry.auth import Authenticator, Scopes
from hwc.registry.credentials import Credentials
from hwc.registry.failures import Cut, Passing
from hwc.registry.patience import Patience

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request."""

    method: str
    url: str
    """A path, or a whole address that the registry told."""
    expected: frozenset[int] = frozenset({200})
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Iterable[bytes]] | None = None
    """Makes the body; called again when the request is sent again."""
    body_bytes: int = 0
    scopes: Scopes = ()
    repeatable: bool = True
    """Whether it may be sent again after a failure that may pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer, read into memory."""

    status: int
    headers: Mapping[str, str]
    payload: bytes
    where: str


class Wire:
    """Connections to one registry; to be closed. Thread-safe."""

    def __init__(
        self, host: str, *, plain_http: bool, credentials: Credentials | None, patience: Patience | None = None
    ) -> None:
        import httpx

        self.patience = patience or Patience()
        self._plain_http = plain_http
        self._base = httpx.URL(f"{'http' if plain_http else 'https'}://{host}")
        timeout = httpx.Timeout(self.patience.read_s, connect=self.patience.connect_s, pool=None)
        agent = {"user-agent": "hwc", "accept-encoding": "identity"}
        self._client = httpx.Client(timeout=timeout, headers=agent, follow_redirects=False)
        self._auth = Authenticator(
            host,
            credentials,
            lambda challenge, scopes, known: tokens.fetch(
                self._client, challenge, scopes, known, plain_http=plain_http
            ),
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def read(self, ask: Ask, max_bytes: int) -> Answer:
        """Return a whole answer; raise IntegrityError for a body larger than ``max_bytes`` or cut short."""
        for tried in itertools.count(1):
            try:
                with self.stream(ask) as response:
                    payload = _limited(response, max_bytes)
                    where = failures.place(response.request.url)
                    return Answer(
                        status=response.status_code, headers=response.headers, payload=payload, where=where
                    )
            except Cut as failure:
                wait_s = self.patience.wait_s(tried, failure) if ask.repeatable else None
                if wait_s is None:
                    raise failure.settled() from failure
                time.sleep(wait_s)
        raise AssertionError

    @contextmanager
    def stream(self, ask: Ask) -> Iterator[httpx.Response]:
        """Give an answer whose body is read in the block; a connection that ends there raises Cut."""
        import httpx

        response = self._expected(ask)
        try:
            yield response
        except httpx.TransportError as error:
            raise failures.cut(error, response.request.url) from error
        finally:
            response.close()

    def _expected(self, ask: Ask) -> httpx.Response:
        for tried in itertools.count(1):
            try:
                response = self._authorised(ask)
                if response.status_code in ask.expected:
                    return response
                try:
                    raise failures.refused(response)
                finally:
                    response.close()
            except Passing as failure:
                wait_s = self.patience.wait_s(tried, failure) if ask.repeatable else None
                if wait_s is None:
                    raise
                time.sleep(wait_s)
        raise AssertionError

    def _authorised(self, ask: Ask) -> httpx.Response:
        sent = self._auth.header(ask.scopes)
        response = self._followed(ask, sent)
        if response.status_code != 401 or not self._is_own(response.request.url):
            return response
        offered = response.headers.get_list("www-authenticate")
        response.close()
        self._auth.answer(offered, ask.scopes, sent)
        response = self._followed(ask, self._auth.header(ask.scopes))
        if response.status_code == 401:
            response.close()
            raise self._auth.hopeless()
        return response

    def _followed(self, ask: Ask, authorization: str) -> httpx.Response:
        """Send a request and follow where it leads; only the registry itself ever gets the ``Authorization``."""
        url = self._base.join(ask.url)
        for _ in range(MAX_REDIRECTS + 1):
            self._refuse_downgrade(url)
            response = self._send(ask, url, authorization if self._is_own(url) else "")
            if response.status_code not in _REDIRECTS or ask.method not in ("GET", "HEAD"):
                return response
            response.close()
            url = self._target(url, response.headers.get("location", ""))
        raise RegistryError(f"more than {MAX_REDIRECTS} redirects", where=failures.place(self._base.join(ask.url)))

    def _send(self, ask: Ask, url: httpx.URL, authorization: str) -> httpx.Response:
        import httpx

        headers = dict(ask.headers)
        if authorization:
            headers["authorization"] = authorization
        if ask.body is not None:
            headers["content-length"] = str(ask.body_bytes)
        try:
            request = self._client.build_request(
                ask.method, url, headers=headers, content=None if ask.body is None else ask.body()
            )
            return self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise failures.unreachable(error, url) from error

    def _target(self, url: httpx.URL, location: str) -> httpx.URL:
        import httpx

        try:
            return url.join(location)
        except httpx.InvalidURL as error:
            raise RegistryError("the registry redirects to no address", where=failures.place(url)) from error

    def _is_own(self, url: httpx.URL) -> bool:
        return (url.scheme, url.host, _port(url)) == (self._base.scheme, self._base.host, _port(self._base))

    def _refuse_downgrade(self, url: httpx.URL) -> None:
        if url.scheme == "https" or (url.scheme == "http" and self._plain_http):
            return
        raise RegistryError(
            "the registry leads to an insecure connection", where=failures.place(url), hint="use a registry with TLS"
        )


def _port(url: httpx.URL) -> int:
    return url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _limited(response: httpx.Response, max_bytes: int) -> bytes:
    """Read a body of at most ``max_bytes``, as it came over the wire: nothing is ever decompressed."""
    refuse_encoded(response)
    payload = bytearray()
    for chunk in response.iter_raw():
        payload += chunk
        if len(payload) > max_bytes:
            where = failures.place(response.request.url)
            raise IntegrityError(f"the registry sends more than the {max_bytes} bytes that are read", where=where)
    return bytes(payload)


def refuse_encoded(response: httpx.Response) -> None:
    """Raise IntegrityError for a compressed body: none was asked for, and it may be a bomb."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise IntegrityError(
            f"the registry sends a body encoded as {encoding!r:.40}, which was not asked for",
            where=failures.place(response.request.url),
        )
