"""Tuning as it is used: candidates are made, held to their parity, measured, chosen, kept, told, and obeyed again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from command import ROOT, Cli

BUILD = ("build", "mlp", "-t", "tried", "-q", "fp32")
CANDIDATES = """
[[tune]]
name = "plain"
opt_level = "O0"

[[tune]]
name = "same"
flags = ["--iree-llvmcpu-stack-allocation-limit=131072"]

[[tune]]
name = "unknown"
flags = ["--no-such-flag"]

[[tune]]
name = "wrong"
flags = [
    "--iree-global-opt-demote-contraction-inputs-type=bf16",
    "--iree-global-opt-demote-contraction-inputs-operations=all",
]
"""


def _target(folder: Path) -> None:
    shipped = (ROOT / "targets" / "llvm-cpu-host.toml").read_text()
    kept = [part for part in shipped.split("\n\n") if not part.lstrip("# ").startswith(("[[tune]]", "What `hwc build"))]
    text = "\n\n".join(part for part in kept if "[kernels" not in part and "[vendor]" not in part)
    text = text.replace('"llvm-cpu-host"', '"tried"').replace('calibration = "', '# "')
    (folder / "targets").mkdir()
    (folder / "targets" / "tried.toml").write_text(text + CANDIDATES)
    (folder / "hwc.toml").write_text("")


@pytest.mark.slow
def test_tuning_leaves_out_what_is_wrong_and_its_choice_is_obeyed_without_measuring(
    shared_mlp: Cli, tmp_path: Path
) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    _target(cli.cwd)
    first = cli(*BUILD, "--smoke", "--format", "json").ok().json()[0]

    ran = cli(*BUILD, "--tune", "--tune-budget-s", "60", "--tuned", "tuned.json", "--format", "json").ok()

    rows = cli("inspect", "mlp:dev", "--format", "json").ok().json()["serving"]
    (row,) = [one for one in rows if one["identity"]["variant_id"] == "tried/fp32"]
    told = cli("inspect", "mlp:dev").ok().stdout
    chosen = json.loads((cli.cwd / "tuned.json").read_text())["choices"]["mlp"]["tried/fp32"]
    assert chosen in ("default", "plain")
    assert "candidate `same` is left out: makes the same code as `default`" in ran.stderr
    assert "candidate `unknown` is left out: iree-compile" in ran.stderr
    assert "candidate `wrong` is left out: max abs" in ran.stderr
    assert f"tuned: made by `{chosen}`" in told
    assert "plain: " in told
    assert "wrong: left out: max abs" in told
    again = cli(*BUILD, "--smoke", "--tuned", "tuned.json", "--tag", "obeyed", "--format", "json").ok()
    assert [one["identity"]["content_sha256"] for one in again.json()[0]["variants"]] == [
        row["identity"]["content_sha256"]
    ]
    assert "tune " not in again.stderr
    untuned = cli(*BUILD, "--smoke", "--tag", "untuned", "--format", "json").ok().json()[0]
    content = [one["variants"][0]["identity"]["content_sha256"] for one in (first, untuned)]
    assert content[0] == content[1]


def test_a_choice_that_the_descriptor_does_not_have_is_refused(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    _target(cli.cwd)
    told = {"schema": 1, "choices": {"mlp": {"tried/fp32": "gone"}}}
    (cli.cwd / "tuned.json").write_text(json.dumps(told))

    ran = cli(*BUILD, "--smoke", "--tuned", "tuned.json")

    assert ran.code == 2
    assert "`tried` has no candidate `gone`" in ran.stderr


@pytest.mark.slow
def test_an_interrupted_tune_tags_nothing_and_goes_on_from_what_was_made(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    _target(cli.cwd)
    before = cli.tags()
    running = cli.start(*BUILD, "--tune", "--tune-budget-s", "60", "--tag", "tuned")
    assert running.stderr is not None
    assert any("lower mlp tried/fp32 by plain" in line for line in iter(running.stderr.readline, ""))
    running.send_signal(signal.SIGINT)
    assert "nothing half-done is visible" in running.communicate(timeout=120)[1]
    assert (running.returncode, cli.tags()) == (130, before)

    again = cli(*BUILD, "--tune", "--tune-budget-s", "60", "--tag", "tuned").ok()
    assert "= lower mlp tried/fp32" in again.stderr
    assert "tuned: made by" in cli("inspect", "mlp:tuned").ok().stdout
