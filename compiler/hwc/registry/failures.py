"""What can go wrong with a registry, told so that one knows what to do; no secret and no query ever in a message."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, RegistryError

if TYPE_CHECKING:
    import httpx

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others a moment later."""
_MAX_TOLD_BYTES = 8192
_HINTS = {
    400: "the registry did not understand the request; a proxy in between may have changed it",
    403: "the account may not do this in this repository",
    404: "check the host, the repository and the tag; `hwc list oci://HOST/REPO` shows what there is",
    413: "a proxy before the registry limits the size of uploads; raise its limit",
    429: "the registry limits requests; try again later, or log in for a higher limit",
}
_UNREACHABLE = "check the host, the port and the network; HTTPS_PROXY and NO_PROXY are honoured"
_TLS_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "SSL_CERT_FILE=ca.pem trusts a certificate authority of your own",
    "WRONG_VERSION_NUMBER": "the registry may speak plain HTTP: --plain-http, on a network that you trust",
    "RECORD_LAYER_FAILURE": "the registry may speak plain HTTP: --plain-http, on a network that you trust",
}


class Passing(RegistryError):
    """A failure that may pass when the same is tried again."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.retry_after_s = retry_after_s


class Unreachable(Passing):
    """Nobody answered at all; unlikely to pass soon."""


class Cut(Passing):
    """The connection ended inside a body."""

    def __init__(self, what: str, *, where: str, truncated: bool) -> None:
        super().__init__(what, where=where, hint="run the same command again: it goes on from here")
        self.truncated = truncated

    def settled(self) -> RegistryError | IntegrityError:
        """Return what the failure comes to when trying again did not help."""
        if self.truncated:
            return IntegrityError(self.what, where=self.where, hint="the registry sends less than it promises")
        return self


def place(url: httpx.URL) -> str:
    """Return an address for people: what stands after ``?`` may hold a secret, as may a user in it."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"


def unreachable(error: httpx.HTTPError, url: httpx.URL) -> RegistryError:
    """Say why no answer came."""
    import httpx

    where = place(url)
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return Passing("the registry did not answer in time", where=where, hint=_UNREACHABLE)
    if "SSL" in text or "CERTIFICATE" in text:
        hint = next((hint for part, hint in _TLS_HINTS.items() if part in text), "")
        return RegistryError(f"no secure connection: {text[:200]}", where=where, hint=hint)
    if isinstance(error, httpx.ConnectError):
        return Unreachable(f"cannot reach the registry: {text[:200]}", where=where, hint=_UNREACHABLE)
    return Passing(f"the connection failed: {text[:200]}", where=where, hint=_UNREACHABLE)


def cut(error: httpx.TransportError, url: httpx.URL) -> Cut:
    """Say that the connection ended inside a body: closed where more was promised, or broken."""
    import httpx

    truncated = isinstance(error, httpx.RemoteProtocolError)
    told = "the body ended before its length" if truncated else f"the connection broke: {error or type(error).__name__}"
    return Cut(told[:300], where=place(url), truncated=truncated)


def refused(response: httpx.Response) -> RegistryError:
    """Say what the registry answered; reads its words, which are shown in part."""
    code = response.status_code
    told = _told(response)
    what = f"the registry answered {code} {response.reason_phrase}".rstrip() + (f": {told}" if told else "")
    where = f"{response.request.method} {place(response.request.url)}"
    hint = _HINTS.get(code, "")
    if code in PASSING:
        wait_s = retry_after_s(response.headers.get("retry-after", ""), now_s=time.time())
        return Passing(what, where=where, hint=hint or "the registry has a fault of its own", retry_after_s=wait_s)
    return RegistryError(what, where=where, hint=hint)


def unauthorised(host: str, *, had_credentials: bool) -> RegistryError:
    """Say that a registry wants credentials, or other ones."""
    if had_credentials:
        return RegistryError(
            "the registry refused the credentials",
            where=host,
            hint=f"log in again (`docker login {host}`); they come from config.json in DOCKER_CONFIG or ~/.docker",
        )
    return RegistryError(
        "the registry wants credentials, and there are none for it",
        where=host,
        hint=f"`docker login {host}`, or name a folder with a config.json in DOCKER_CONFIG",
    )


def retry_after_s(text: str, *, now_s: float) -> float | None:
    """Parse ``Retry-After``: seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (TypeError, ValueError):
        return None


def _told(response: httpx.Response) -> str:
    """Return the registry's own words in at most 200 printable characters."""
    import httpx

    payload = b""
    try:
        for chunk in response.iter_raw():
            payload += chunk
            if len(payload) > _MAX_TOLD_BYTES:
                break
    except httpx.TransportError:
        return ""
    try:
        first = json.loads(payload)["errors"][0]
        text = f"{first.get('code', '')} {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return "".join(letter for letter in text if letter.isprintable()).strip()[:200]
