"""The real tritonserver that PyPI's nvidia-pytriton carries, installed with pip into a cache and run on loopback."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = {"server": "nvidia-pytriton==0.7.0", "numpy1": "numpy==1.26.4"}
"""The server's Python stub predates NumPy 2, which it reads wrongly."""
START_S = 90
DATATYPES = {"float32": "FP32", "int64": "INT64"}


class CannotRunError(Exception):
    """This machine cannot run the server; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Where the server and its NumPy lie."""

    server: Path
    numpy1: Path
    backends: Path

    @property
    def python_path(self) -> str:
        """Folders for the exported model: NumPy 1.26 first, then what this Python has."""
        return os.pathsep.join([str(self.numpy1), sysconfig.get_path("purelib"), *sys.path[1:]])


def install(cache: Path) -> Installed:
    """Install by name what is not in the cache yet; raise CannotRunError where that is impossible."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.version_info >= (3, 13):
        raise CannotRunError("nvidia-pytriton and NumPy 1.26 need Linux on x86-64 and Python 3.12 or older")
    for name, requirement in PACKAGES.items():
        if not (cache / name).is_dir():
            _install(requirement, cache / name)
    found = Installed(server=cache / "server", numpy1=cache / "numpy1", backends=cache / "backends")
    triton, python = found.server / "pytriton" / "tritonserver", found.backends / "python"
    stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    shutil.copytree(triton / "backends" / "python", python, dirs_exist_ok=True)
    shutil.copy(triton / stub, python)
    for file in (python / "triton_python_backend_stub", triton / "bin" / "tritonserver"):
        file.chmod(0o755)
        linked = subprocess.run(["ldd", file], env=_environment(found, ""), capture_output=True, text=True, check=False)
        if "not found" in linked.stdout:
            missing = linked.stdout.partition("=> not found")[0].split()[-1]
            raise CannotRunError(f"a shared library is missing: {missing}")
    return found


def _install(requirement: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--target", str(work)]
    done = subprocess.run([*argv, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise CannotRunError(f"pip cannot install {requirement}: {reason}")
    work.rename(folder)


def _environment(found: Installed, python_path: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    libraries = [str(found.server / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {
        **kept, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "HWC_TRITON_PATH": python_path,
        "PATH": os.pathsep.join([str(Path(sys.base_prefix) / "bin"), os.environ["PATH"]]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that has answered; its models may have failed to load."""

    url: str

    def post(self, path: str, document: Any = None) -> Any:
        """Return the JSON answer, an error's too."""
        request = urllib.request.Request(self.url + path, data=json.dumps(document or {}).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def states(self) -> dict[str, tuple[str, str]]:
        """Return every model's state and the reason for it."""
        rows = self.post("/v2/repository/index")
        return {row["name"]: (row.get("state", ""), row.get("reason", "")) for row in rows}

    def infer(self, model: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a model's outputs; raise ValueError with the server's own words for a refused request."""
        inputs = [
            {
                "name": name, "datatype": DATATYPES[str(value.dtype)], "shape": value.shape,
                "data": value.ravel().tolist(),
            }
            for name, value in feeds.items()
        ]
        answer = self.post(f"/v2/models/{model}/infer", {"inputs": inputs})
        if "error" in answer:
            raise ValueError(answer["error"])
        return {
            row["name"]: np.array(row["data"], np.float32).reshape(row["shape"]) for row in answer["outputs"]
        }


@contextmanager
def serving(
    found: Installed, repository: Path, *, python_path: str, log: Path, extra_backends: Sequence[Path] = ()
) -> Iterator[Server]:
    """Run the server over a repository until the block ends; it listens on loopback alone."""
    backends = log.with_suffix(".backends")
    backends.mkdir()
    for folder in (found.backends / "python", *extra_backends):
        (backends / folder.name).symlink_to(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [
        str(found.server / "pytriton" / "tritonserver" / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={backends}", "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false",
        "--allow-metrics=false", "--exit-on-error=false",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(argv, env=_environment(found, python_path), stdout=stream, stderr=stream)
        try:
            yield _wait(Server(url=f"http://127.0.0.1:{port}"), process, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> Server:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            urllib.request.urlopen(server.url + "/v2/health/live", timeout=2).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")
