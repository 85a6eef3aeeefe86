"""The user's credentials, as ``docker login`` keeps them: config.json, and the helpers it names."""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwc.errors import MachineError, RegistryError, UsageError

_MAX_CONFIG_BYTES = 1 << 20
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_TIMEOUT_S = 60
_KEYS = {"docker.io": "index.docker.io"}
"""Hosts that config.json knows under another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user's secret for one registry; its repr shows nothing of it."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token, instead of a password."""

    def basic(self) -> str:
        """Return the value of a Basic ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find(host: str, env: Mapping[str, str]) -> Credentials | None:
    """Return the credentials for a registry, None if there are none.

    As docker does: the helper of this host, else the helper of all, else what config.json holds itself. Raises
    UsageError for a config.json that cannot be read, MachineError or RegistryError for a helper that fails.
    """
    folder = Path(env["DOCKER_CONFIG"]) if env.get("DOCKER_CONFIG") else Path.home() / ".docker"
    path = folder / "config.json"
    config = _config(path)
    host = _KEYS.get(host, host)
    helpers = _table(config, "credHelpers", path)
    helper = helpers.get(host) or config.get("credsStore")
    if helper and (found := _from_helper(helper, host, env, path)):
        return found
    by_host = {_host(key): entry for key, entry in _table(config, "auths", path).items()}
    entry = by_host.get(host)
    return _from_entry(entry, path) if isinstance(entry, dict) else None


def _host(key: str) -> str:
    """Return the host of a key of ``auths``, which may be an address: https://index.docker.io/v1/."""
    return key.removeprefix("https://").removeprefix("http://").split("/", 1)[0]


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            payload = stream.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read docker's configuration: {error.strerror}", where=str(path)) from error
    try:
        config = json.loads(payload) if len(payload) <= _MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None  # the parser's own words would show a piece of the file
    if not isinstance(config, dict):
        raise UsageError("docker's configuration is no JSON object", where=str(path), hint="`docker login` writes it")
    return config


def _table(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise UsageError(f"`{key}` is not a table", where=str(path))
    return value


def _from_entry(entry: dict[str, Any], path: Path) -> Credentials | None:
    token = str(entry.get("identitytoken") or entry.get("registrytoken") or "")
    encoded = entry.get("auth")
    if not encoded:
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    else:
        try:
            username, _, password = base64.b64decode(str(encoded), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise UsageError(
                "an `auth` is not base64 of USER:PASSWORD", where=str(path), hint="log in again"
            ) from None
    if not (token or username):
        return None
    return Credentials(username=username, password=password.rstrip("\0"), identity_token=token)


def _from_helper(name: object, host: str, env: Mapping[str, str], path: Path) -> Credentials | None:
    """Ask ``docker-credential-NAME get``: the host on its stdin, JSON on its stdout."""
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise UsageError(f"not a credential helper's name: {name!r:.70}", where=str(path))
    program = f"docker-credential-{name}"
    asked = f"https://{host}/v1/" if host == _KEYS["docker.io"] else host
    try:
        done = subprocess.run(
            [program, "get"], input=asked, capture_output=True, text=True, timeout=_HELPER_TIMEOUT_S, env=dict(env),
            check=False,
        )
    except OSError as error:
        raise MachineError(
            f"cannot run the credential helper {program}: {error.strerror}", where=str(path), hint="install it"
        ) from error
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{program} did not answer within {_HELPER_TIMEOUT_S} s", where=host) from None
    if done.returncode != 0:
        if "not found" in done.stdout + done.stderr:
            return None
        raise RegistryError(f"{program} failed with status {done.returncode}", where=host, hint="log in again")
    return _from_answer(done.stdout, program, host)


def _from_answer(answer: str, program: str, host: str) -> Credentials | None:
    try:
        told = json.loads(answer)
        username, secret = str(told["Username"]), str(told["Secret"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RegistryError(f"{program} did not answer as credential helpers do", where=host) from None
    if not secret:
        return None
    if username == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret)
