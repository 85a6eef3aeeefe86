"""A registry in memory, on loopback, that tells the truth until a test makes it lie, fail, cut or ask for a token."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "team/minilm"
Lie = Callable[["Handler"], bool]
"""Answers a request in its own way and returns True, or returns False to let the truth be told."""


def sha256(payload: bytes) -> str:
    return "sha256:" + hashlib.sha256(payload).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


@dataclass(slots=True, kw_only=True)
class State:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """By digest and by tag: media type and bytes."""
    uploads: int = 0
    seen: list[Seen] = field(default_factory=list)
    lies: list[Lie] = field(default_factory=list)
    password: str = ""
    bearer: bool = False
    token_uses: int = 1_000_000
    """How many requests a token is good for."""
    tokens: dict[str, int] = field(default_factory=dict)
    knows_referrers: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, payload: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"content-length": str(len(payload))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        told = {"errors": [{"code": code, "message": "as the test wants it"}]}
        self.answer(status, json.dumps(told).encode(), **headers)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        state = self.server.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.seen.append(Seen(method=self.command, path=parts.path, query=parts.query, headers=headers))
        if any(lie(self) for lie in list(state.lies)):
            return
        if parts.path == "/token":
            self.give_token(headers)
        elif self.may_enter(headers):
            self.route(parts.path.removeprefix("/v2/"), parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def give_token(self, headers: dict[str, str]) -> None:
        state = self.server.state
        if state.password and headers.get("authorization") != basic(state.password):
            self.refuse(401, "UNAUTHORIZED")
            return
        token = f"token-{len(state.tokens)}"
        state.tokens[token] = state.token_uses
        self.answer(200, json.dumps({"token": token, "expires_in": 300}).encode())

    def may_enter(self, headers: dict[str, str]) -> bool:
        state = self.server.state
        sent = headers.get("authorization", "")
        if state.bearer:
            token = sent.removeprefix("Bearer ")
            if state.tokens.get(token, 0) > 0:
                state.tokens[token] -= 1
                return True
            self.body()
            way = f'Bearer realm="{self.server.url}/token",service="test",scope="repository:{REPOSITORY}:pull"'
            self.refuse(401, "UNAUTHORIZED", www_authenticate=way)
            return False
        if state.password and sent != basic(state.password):
            self.body()
            self.refuse(401, "UNAUTHORIZED", www_authenticate='Basic realm="test"')
            return False
        return True

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        if found := re.fullmatch(r"(.+)/manifests/([^/]+)", path):
            self.manifest(found[2])
        elif found := re.fullmatch(r"(.+)/blobs/uploads/([0-9]*)", path):
            self.upload(found[1], found[2], query)
        elif found := re.fullmatch(r"(.+)/blobs/([^/]+)", path):
            self.blob(found[2])
        elif path.endswith("/tags/list"):
            names = [name for name in self.server.state.manifests if not name.startswith("sha256:")]
            self.answer(200, json.dumps({"tags": names}).encode())
        elif (found := re.fullmatch(r"(.+)/referrers/([^/]+)", path)) and self.server.state.knows_referrers:
            self.referrers(found[2])
        else:
            self.refuse(404, "NOT_FOUND")

    def manifest(self, point: str) -> None:
        state = self.server.state
        if self.command == "PUT":
            payload, kind = self.body(), self.headers["content-type"]
            subject = json.loads(payload).get("subject")
            with state.lock:
                state.manifests[sha256(payload)] = state.manifests[point] = (kind, payload)
            told = {"oci_subject": subject["digest"]} if subject and state.knows_referrers else {}
            self.answer(201, docker_content_digest=sha256(payload), **told)
        elif point in state.manifests:
            kind, payload = state.manifests[point]
            self.answer(200, payload, content_type=kind, docker_content_digest=sha256(payload))
        else:
            self.refuse(404, "MANIFEST_UNKNOWN")

    def referrers(self, digest: str) -> None:
        rows = []
        for name, (kind, payload) in self.server.state.manifests.items():
            document = json.loads(payload)
            if name.startswith("sha256:") and (document.get("subject") or {}).get("digest") == digest:
                size = {"mediaType": kind, "digest": name, "size": len(payload)}
                rows.append({**size, "artifactType": document["artifactType"]})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": rows}
        self.answer(200, json.dumps(index).encode())

    def upload(self, repository: str, number: str, query: dict[str, list[str]]) -> None:
        state, payload = self.server.state, self.body()
        if self.command == "POST" and query.get("mount", [""])[0] in state.blobs:
            self.answer(201, location="/")
        elif self.command == "POST":
            state.uploads += 1
            self.answer(202, location=f"/v2/{repository}/blobs/uploads/{state.uploads}?_state=x%3D")
        elif sha256(payload) == query["digest"][0]:
            state.blobs[query["digest"][0]] = payload
            self.answer(201, docker_content_digest=query["digest"][0])
        else:
            self.refuse(400, "DIGEST_INVALID")

    def blob(self, digest: str) -> None:
        payload = self.server.state.blobs.get(digest)
        if payload is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if asked is None:
            self.answer(200, payload)
            return
        start, whole = int(asked[1]), len(payload)
        self.answer(206, payload[start:], content_range=f"bytes {start}-{whole - 1}/{whole}")


class Server(ThreadingHTTPServer):
    """The registry; a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = State()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def paths(self, method: str) -> list[str]:
        return [seen.path for seen in self.state.seen if seen.method == method]


def basic(secret: str) -> str:
    return "Basic " + base64.b64encode(secret.encode()).decode()
