"""Fetching a Bearer token from where a registry's challenge points.

Source: distribution specification, "Token Authentication" and "Authenticate using OAuth2".
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

from hwc.errors import RegistryError
from hwc.registry import failures
from hwc.registry.auth import Scopes, Token
from hwc.registry.challenge import Challenge
from hwc.registry.credentials import Credentials

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 1 << 20
DEFAULT_LIFE_S = 60.0
EXPIRY_MARGIN_S = 5.0
"""A token is given up this long before it expires, so that it lives when it arrives."""


def fetch(
    client: httpx.Client, challenge: Challenge, scopes: Scopes, credentials: Credentials | None, *, plain_http: bool
) -> Token:
    """Return a token for what the challenge asks and ``scopes`` add; raise RegistryError if none is given."""
    import httpx

    try:
        url = httpx.URL(challenge.realm)
    except httpx.InvalidURL as error:
        raise RegistryError("the registry names no address for tokens", where=challenge.realm[:200]) from error
    if url.scheme != "https" and not (plain_http and url.scheme == "http"):
        raise RegistryError(
            "the registry asks for credentials over an insecure connection",
            where=failures.place(url),
            hint="--plain-http allows it, on a network that you trust",
        )
    wanted = tuple(sorted({*challenge.scopes, *scopes}))
    request = _request(client, url, challenge.service, wanted, credentials)
    try:
        with contextlib.closing(client.send(request, stream=True)) as response:
            return _token(response, had_credentials=credentials is not None)
    except httpx.TransportError as error:
        raise failures.unreachable(error, url) from error


def _request(
    client: httpx.Client, url: httpx.URL, service: str, scopes: Scopes, credentials: Credentials | None
) -> httpx.Request:
    import httpx

    if credentials is not None and credentials.identity_token:
        form = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": "hwc"}
        return client.build_request("POST", url, data={**form, "service": service, "scope": " ".join(scopes)})
    headers = {} if credentials is None else {"authorization": credentials.basic()}
    pairs = [("service", service)] * bool(service) + [("scope", scope) for scope in scopes]
    query = httpx.QueryParams(tuple(pairs))
    return client.build_request("GET", url.copy_merge_params(query), headers=headers)


def _token(response: httpx.Response, *, had_credentials: bool) -> Token:
    if response.status_code in (400, 401, 403):
        host = response.request.url.netloc.decode()
        raise failures.unauthorised(host, had_credentials=had_credentials)
    if response.status_code != 200:
        raise failures.refused(response)
    payload = b""
    for chunk in response.iter_raw():
        payload += chunk
        if len(payload) > MAX_ANSWER_BYTES:
            break
    try:
        told = json.loads(payload)
        text = told.get("token") or told.get("access_token")
        life_s = float(told.get("expires_in") or DEFAULT_LIFE_S)
    except (ValueError, AttributeError, TypeError, RecursionError):
        text, life_s = None, 0.0
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise RegistryError("the registry's token service gave no token", where=failures.place(response.request.url))
    return Token(text=text, until_s=time.monotonic() + max(life_s - EXPIRY_MARGIN_S, life_s / 2))

