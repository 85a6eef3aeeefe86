"""Debian's own docker-registry and skopeo, from the system or unpacked from their packages into a cache folder."""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PACKAGES = ("docker-registry", "skopeo")
ABSENT = "Debian's docker-registry and skopeo are not installed, and `apt-get download` cannot get them"
HTPASSWD = "ann:$2b$04$BrBwRmzRJZB5d13IKnmtS.UENSwk8wH0w4sEeF536KBxl8EoygEIW\n"
"""The password is ``open-sesame``; bcrypt, the one hash that docker-registry takes, at its lowest cost."""
_LIBRARIES = re.compile(r"^lib(?:gpgme|assuan|devmapper|gpg-error)[\w.+-]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    registry: str
    skopeo: str
    libraries: str
    """Folders of the unpacked libraries; empty where the system's own are used."""

    def run_skopeo(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "LD_LIBRARY_PATH": self.libraries} if self.libraries else dict(os.environ)
        return subprocess.run(
            [self.skopeo, "--insecure-policy", *arguments], env=env, capture_output=True, timeout=60, check=False
        )


@functools.cache
def tools() -> Tools | None:
    """Return the tools, None where they cannot be had."""
    registry, skopeo = shutil.which("docker-registry"), shutil.which("skopeo")
    if registry and skopeo:
        return Tools(registry=registry, skopeo=skopeo, libraries="")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "hwc-tests" / "debian"
    if not (folder / "done").exists() and not _unpack(folder):
        return None
    libraries = sorted({str(path.parent) for path in folder.rglob("*.so.*")})
    return Tools(
        registry=str(folder / "usr/bin/docker-registry"), skopeo=str(folder / "usr/bin/skopeo"),
        libraries=":".join(libraries),
    )


def _unpack(folder: Path) -> bool:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    walk = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks",
            "--no-replaces", "--no-enhances", "skopeo"]
    known = subprocess.run(walk, capture_output=True, text=True, check=False).stdout
    wanted = [*PACKAGES, *sorted(set(_LIBRARIES.findall(known)))]
    got = subprocess.run(["apt-get", "download", "-q", *wanted], cwd=folder, capture_output=True, check=False)
    if got.returncode != 0:
        return False
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        package.unlink()
    (folder / "done").touch()
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A running docker-registry."""

    host: str
    folder: Path
    config: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def collect_garbage(self) -> None:
        found = tools()
        assert found is not None
        argv = [found.registry, "garbage-collect", "--delete-untagged", str(self.config)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def running(folder: Path, *, password: bool = False) -> Iterator[Registry]:
    """Run a docker-registry on a free loopback port, with one user (ann) or open to all."""
    found = tools()
    assert found is not None
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n" if password else ""
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}", secret: fixed}}\n{auth}'
    )
    registry = Registry(host=f"127.0.0.1:{port}", folder=folder, config=config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([found.registry, "serve", str(config)], stdout=log, stderr=log)
    try:
        _await(registry, process)
        yield registry
    finally:
        process.kill()
        process.wait()


def _await(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            with urlopen(f"{registry.url}/v2/", timeout=1):
                return
        except URLError as error:
            if getattr(error, "code", 0) == 401:
                return
        assert process.poll() is None, (registry.folder / "log").read_text()
        time.sleep(0.05)
    raise AssertionError("docker-registry did not start")
