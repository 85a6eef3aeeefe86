"""Measure `hwc push` and `hwc pull` of one large blob beside a raw streaming client with hashing, in one run.

Both run as processes of their own against one docker-registry on loopback, in turns, start of Python included. The raw
client is httpx with sha256 and, for a pull, a file and one fsync: nothing that can be left out. ``base`` is `hwc push`
of a bundle of kilobytes. Peak memory is VmHWM: ru_maxrss would be this process's own peak, which fork hands down.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import summary

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import registry_debian  # noqa: E402
from registry_parts import TAG, blob_of, small_store  # noqa: E402

HWC = Path(sys.executable).with_name("hwc")
TARGET_RATIO = 1.2
TARGET_OVER_BASE_MB = 64
RAW_PUSH = """
import hashlib, sys, httpx
url, path, digest, size = sys.argv[1:]
def chunks():
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
            yield chunk
    assert "sha256:" + hasher.hexdigest() == digest
with httpx.Client(timeout=60) as client:
    location = client.post(url + "/blobs/uploads/").headers["location"]
    answer = client.put(location + "&digest=" + digest, content=chunks(), headers={"content-length": size})
    assert answer.status_code == 201, answer.text
"""
RAW_PULL = """
import hashlib, os, sys, httpx
url, path, digest, size = sys.argv[1:]
hasher = hashlib.sha256()
with httpx.stream("GET", url + "/blobs/" + digest, timeout=60) as answer, open(path, "wb", buffering=0) as stream:
    for chunk in answer.iter_raw():
        hasher.update(chunk)
        stream.write(chunk)
    os.fsync(stream.fileno())
assert "sha256:" + hasher.hexdigest() == digest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


def run(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end and return its cost; its peak memory is read every 5 ms."""
    with log.open("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen(argv, env={**os.environ, **(env or {})}, stdout=out, stderr=out)
        peak_kib = 0
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak_kib = int(found[1]) if found else peak_kib
            time.sleep(0.005)
        wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode != 0:
        raise SystemExit(f"{argv} exited {process.returncode}\n{log.read_text()[-2000:]}")
    return Cost(wall_s=wall_s, cpu_s=ended[2].ru_utime + ended[2].ru_stime, peak_rss_bytes=peak_kib * 1024)


def main() -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the blob")
    parser.add_argument("--rounds", type=int, default=3, help="pushes and pulls of each kind")
    arguments = parser.parse_args()
    facts = measure(arguments.mebibytes, arguments.rounds)
    if facts is None:
        raise SystemExit(registry_debian.ABSENT)
    print(json.dumps(facts, indent=1))
    return 0


def measure(mebibytes: int = 1024, rounds: int = 5) -> dict[str, Any] | None:
    """Return the figures; None where Debian's docker-registry cannot be had."""
    if registry_debian.tools() is None:
        return None
    with tempfile.TemporaryDirectory(prefix="hwc-bench-") as name:
        folder = Path(name)
        with registry_debian.running(folder / "registry") as registry:
            return _measure(folder, registry.host, mebibytes, rounds)


def _measure(folder: Path, host: str, mebibytes: int, rounds: int) -> dict[str, Any]:
    large = small_store(folder / "large", weight_bytes=mebibytes << 20)
    small = small_store(folder / "small")
    digest = blob_of(large)
    path = large.blob_path(digest)
    told = (digest, str(path.stat().st_size))
    costs: dict[str, list[Cost]] = {kind: [] for kind in ("raw push", "push", "raw pull", "pull", "base")}
    for at in range(rounds):
        raw, own, tiny = (f"{kind}{at}/minilm" for kind in ("raw", "own", "tiny"))
        url = f"http://{host}/v2/{raw}"
        costs["raw push"].append(_python(RAW_PUSH, folder, url, str(path), *told))
        costs["push"].append(_hwc(folder, "push", f"oci:{large.path}:{TAG}", f"oci://{host}/{own}"))
        costs["base"].append(_hwc(folder, "push", f"oci:{small.path}:{TAG}", f"oci://{host}/{tiny}"))
        fetched = folder / "fetched"
        costs["raw pull"].append(_python(RAW_PULL, folder, url, str(fetched), *told))
        fetched.unlink()
        store = folder / "pulled"
        costs["pull"].append(_hwc(folder, "pull", f"oci://{host}/{own}:1.2.0", f"oci:{store}"))
        shutil.rmtree(store)
    return _facts(costs, mebibytes)


def _python(program: str, folder: Path, *arguments: str) -> Cost:
    return run((sys.executable, "-c", program, *arguments), folder / "log")


def _hwc(folder: Path, *arguments: str) -> Cost:
    argv: Sequence[str] = (str(HWC), *arguments, "--plain-http")
    return run(argv, folder / "log", env={"HWC_HOME": str(folder / "home"), "DOCKER_CONFIG": str(folder)})


def _facts(costs: dict[str, list[Cost]], mebibytes: int) -> dict[str, Any]:
    base_mb = min(cost.peak_rss_bytes for cost in costs["base"]) / 1e6
    facts: dict[str, Any] = {
        "mebibytes": mebibytes, "load_1min_after": os.getloadavg()[0], "target_ratio": TARGET_RATIO,
        "target_over_base_mb": TARGET_OVER_BASE_MB, "base_rss_mb": base_mb,
        "base_wall_s": summary([cost.wall_s for cost in costs["base"]]),
        "base_cpu_s": summary([cost.cpu_s for cost in costs["base"]]),
    }
    for kind in ("push", "pull"):
        pairs = list(zip(costs[kind], costs[f"raw {kind}"], strict=True))
        facts[kind] = {
            "ratio": summary([own.wall_s / raw.wall_s for own, raw in pairs]),
            "cpu_s": summary([own.cpu_s for own, _ in pairs]),
            "raw_cpu_s": summary([raw.cpu_s for _, raw in pairs]),
            "wall_s": summary([own.wall_s for own, _ in pairs]),
            "raw_wall_s": summary([raw.wall_s for _, raw in pairs]),
            "rss_over_base_mb": summary([own.peak_rss_bytes / 1e6 - base_mb for own, _ in pairs]),
            "raw_rss_mb": summary([raw.peak_rss_bytes / 1e6 for _, raw in pairs]),
        }
    return facts


if __name__ == "__main__":
    sys.exit(main())
