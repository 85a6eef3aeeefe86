"""The report of a built store, as a browser shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command import Cli

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1",
)
ABSENT = "NOT TESTED in a browser: no chromium, and no apt-get that this user may install it with"
INSTALL_TIMEOUT_S = 600


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser: as it is found, else installed where this user may do so."""
    if (found := shutil.which("chromium")) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        argv = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(argv, env=env, capture_output=True, check=False, timeout=INSTALL_TIMEOUT_S)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip(ABSENT)
    return found


@pytest.fixture(scope="module")
def mixed(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron for this CPU, and for a GPU that no test machine is: verified and unverified variants."""
    cli = shared_quantised_mlp.copied_to(tmp_path_factory.mktemp("mixed"))
    cli("build", "mlp", "-t", "llvm-cpu-host", "-t", "cuda-sm80", "-q", "fp32", "-q", "w4a16").ok()
    return cli


def browse(chromium: str, folder: Path, *arguments: str) -> str:
    """Open a page and return what the browser printed."""
    argv = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def variants(cli: Cli) -> list[str]:
    return [row["identity"]["variant_id"] for row in cli("inspect", "mlp", "--format", "json").ok().json()["serving"]]


def test_a_browser_shows_every_variant_of_the_store_and_fetches_nothing(
    chromium: str, mixed: Cli, tmp_path: Path
) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"

    assert mixed("report", "-o", page).ok().stdout.strip() == str(page)
    dom = browse(chromium, tmp_path, "--dump-dom", f"file://{page}")
    browse(chromium, tmp_path, f"--screenshot={picture}", "--window-size=1320,2400", f"file://{page}")

    names = variants(mixed)
    assert len(names) >= 4
    assert [name for name in names if name not in dom] == []
    assert "unverified" in dom
    assert dom.count("<circle") >= 2
    assert "GFLOP/s" in dom
    assert "<script" not in dom
    references = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']([^"']*)|url\(([^)]*)""", dom)
    assert [one for one in references if not one[0].startswith("#")] == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000, "an empty page makes a small picture"


def test_one_bundle_or_one_variant_may_be_asked_for(mixed: Cli, tmp_path: Path) -> None:
    mixed("report", "mlp#cuda-sm80/w4a16", "-o", tmp_path / "one.html").ok()
    text = (tmp_path / "one.html").read_text()
    assert "cuda-sm80/w4a16" in text
    assert "llvm-cpu-host/fp32" not in text


def test_the_page_is_the_same_whenever_it_is_written_for_one_source_date(shared_mlp: Cli, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        shared_mlp("report", shared_mlp.store, "-o", tmp_path / name, env={"SOURCE_DATE_EPOCH": "1700000000"}).ok()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert "2023-11-14T22:13:20Z" in (tmp_path / "a.html").read_text()


def test_a_damaged_bundle_does_not_hide_the_others_and_is_told(warm: Cli, tmp_path: Path) -> None:
    from hwc.oci_layout import Layout

    warm("tag", "mlp", "1.0.0").ok()
    warm("build", "mlp", "-t", "cuda-sm80", "-q", "fp32", "--smoke").ok()
    layout = Layout(warm.store)
    descriptor = layout.tags()["mlp:dev"]
    layout.blob_path(descriptor.digest).write_bytes(b"x" * descriptor.size_bytes)

    ran = warm("report", "-o", tmp_path / "report.html")

    assert ran.code == 6
    assert "mlp:dev" in ran.stderr
    text = (tmp_path / "report.html").read_text()
    assert "mlp:1.0.0" in text
    assert "damaged" in text


@pytest.mark.parametrize(("name", "code"), [("mpl", 2), ("./nowhere", 2), ("oci://host/x:1", 2)])
def test_a_name_that_is_no_bundle_writes_no_page(shared_mlp: Cli, tmp_path: Path, name: str, code: int) -> None:
    ran = shared_mlp("report", name, "-o", tmp_path / "report.html")
    assert ran.code == code
    assert "error:" in ran.stderr
    assert not (tmp_path / "report.html").exists()
