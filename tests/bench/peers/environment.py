"""Environments of peers: packages that hwc does not install, beside those that it does, so that no second torch comes.

An environment is a virtual environment that also sees the packages of the one this runs in. pip therefore takes torch
and numpy as installed and adds only what is missing or too old, where it stays out of hwc's own environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DONE = "installed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a peer needs."""

    name: str
    packages: tuple[str, ...]
    """Requirements for pip, at exact versions."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """For pip: what a package that is compiled reads."""
    takes: str = "a minute"


LLMCOMPRESSOR = Environment(name="llmcompressor", packages=("llmcompressor==0.14.0.1",))
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""With AMX, llama.cpp ends by a segmentation fault in its first product of SmolLM2 on a virtual Sapphire Rapids."""
LLAMA_CPP = Environment(
    name="llama-cpp", packages=("llama-cpp-python==0.3.36",),
    variables={
        "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF "
        f"'-DCMAKE_C_FLAGS={WITHOUT_AMX}' '-DCMAKE_CXX_FLAGS={WITHOUT_AMX}'",
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()),
    },
    takes="10 minutes and more: it is compiled",
)
ONNXRUNTIME_GENAI = Environment(
    name="onnxruntime-genai", packages=("onnxruntime-genai==0.18.0", "transformers==5.17.0"),
    takes="a minute; its model builder wants a newer transformers than hwc",
)
ZIGZAG = Environment(name="zigzag", packages=("zigzag-dse==3.9.1", "six>=1.16"))  # it imports six and does not say so


class Unavailable(Exception):
    """An environment could not be made; the text says why, for the page."""


def make(environment: Environment, folder: Path) -> Path:
    """Return the Python of an environment under ``folder``, made if it is not whole there.

    Raises Unavailable with pip's last words.
    """
    place = folder / environment.name
    python, done = place / "bin" / "python", place / DONE
    wanted = json.dumps([environment.packages, {**environment.variables}, sys.version])
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"making the environment {environment.name} (takes {environment.takes})", file=sys.stderr, flush=True)
    log = folder / f"{environment.name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(place)], log, {})
    below = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (below / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
    kept = ("--no-cache-dir",) if environment.variables else ()  # a wheel that pip kept may be of other flags
    _run([*pip, *kept, *environment.packages], log, environment.variables)
    done.write_text(wanted)
    return python


def _run(argv: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
    with log.open("a") as out:
        status = subprocess.run(argv, stdout=out, stderr=out, env={**os.environ, **variables}, check=False).returncode
    if status != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"`{' '.join(argv[-2:])}` exited {status}: {' '.join(last)[:200]} (see {log})")
