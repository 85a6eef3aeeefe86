"""What `hwc build` promises about repeating itself: once, together with others, after a change, and elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from command import ROOT, RUN_TIMEOUT_S, Cli

BUILD = ("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32")


def own_model(folder: Path, *changes: tuple[str, str]) -> None:
    """Write mlp.py and mine.toml into a folder, with changes to the text."""
    shutil.copyfile(ROOT / "models" / "mlp.py", folder / "mlp.py")
    text = (ROOT / "models" / "mlp.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "mine.toml").write_text(text)


def test_a_second_build_does_nothing_and_says_so(warm: Cli) -> None:
    before, tags = warm.outputs(), warm.tags()
    again = warm(*BUILD).ok()
    assert "nothing to do: up to date (0 steps run, 8 reused" in again.stderr
    assert (warm.outputs(), warm.tags()) == (before, tags)


def test_the_result_alone_is_on_stdout_and_json_parses(warm: Cli) -> None:
    (built,) = warm(*BUILD, "--format", "json").ok().json()
    assert (built["changed"], built["steps_run"], built["steps_reused"]) == (False, 0, 8)
    assert built["variants"][0]["status"] == "verified"
    assert built["variants"][0]["identity"]["variant_id"] == "llvm-cpu-host/fp32"
    inspected = warm("inspect", "mlp:dev", "--format", "json").ok()
    assert inspected.json()["digest"] == built["digest"]
    assert inspected.stderr == ""


def test_a_table_names_the_variant_and_no_progress_is_in_it(warm: Cli) -> None:
    table = warm(*BUILD).ok().stdout
    assert "llvm-cpu-host/fp32" in table
    assert not any(mark in table for mark in "✓…✗⏳") or "…" not in table.replace("sha256", "")
    assert "steps run" not in table


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "mlp", "-t", "llvm-cpu-host", "-q", "fp32"), ("why", "mlp", "-t", "llvm-cpu-host", "-q", "fp32"),
        ("doctor",), ("cache", "du"), ("models", "list"), ("targets", "list"), ("schemes", "list"),
        ("models", "show", "mlp"), ("targets", "show", "llvm-cpu-host"), ("schemes", "show", "w4a16"),
    ],
    ids=" ".join,
)
def test_every_listing_is_json_on_request_and_changes_nothing(warm: Cli, command: tuple[str, ...]) -> None:
    before, tags = warm.outputs(), warm.tags()
    warm(*command, "--format", "json").ok().json()
    assert warm(*command).ok().stdout
    assert (warm.outputs(), warm.tags()) == (before, tags)


def test_a_plan_of_what_is_built_is_all_done_and_runs_nothing(warm: Cli) -> None:
    rows = warm("plan", *BUILD[1:], "--format", "json").ok().json()
    assert len(rows) == 8
    assert all(row["done"] for row in rows)
    assert warm("why", *BUILD[1:]).ok().stdout == "nothing to run: every step is done\n"


def test_plan_and_why_of_an_empty_cache_run_nothing(cli: Cli) -> None:
    rows = cli("plan", *BUILD[1:], "--format", "json").ok().json()
    assert not any(row["done"] for row in rows)
    reasons = cli("why", *BUILD[1:], "--format", "json").ok().json()
    assert {row["because"] for row in reasons} == {"it never ran here"}
    assert cli.outputs() == {}


@pytest.mark.parametrize(
    ("change", "named", "stages"),
    [
        (("seed = 20261122", "seed = 7"), "evaluation.seed", {"cases", "check", "profile"}),
        (('evaluator = "classification"', 'evaluator = "vector"'), "evaluation.evaluator", {"check", "profile"}),
        (("max_abs = 1e-5", "max_abs = 1e-4"), "", set()),
        (('licence = "Apache-2.0"', 'licence = "MIT"'), "", set()),
    ],
    ids=["seed", "evaluator", "gate", "licence"],
)
def test_why_names_the_field_that_changed_and_only_its_readers_run(
    warm: Cli, change: tuple[str, str], named: str, stages: set[str]
) -> None:
    own_model(warm.cwd, change)
    command = ("mine.toml", "-t", "llvm-cpu-host", "-q", "fp32")
    planned = warm("plan", *command, "--format", "json").ok().json()
    assert {row["stage"] for row in planned if not row["done"]} == stages
    reasons = warm("why", *command, "--format", "json").ok().json()
    assert len(reasons) == len(stages)
    assert sum(named in row["because"] for row in reasons) >= bool(stages)


def test_why_says_when_an_output_was_removed(warm: Cli) -> None:
    shutil.rmtree(warm.home / "store" / "encode")
    (row,) = warm("why", *BUILD[1:], "--format", "json").ok().json()
    assert row["because"] == "its output was removed from the cache"


def test_refreshing_a_stage_runs_it_and_nothing_else(warm: Cli) -> None:
    (built,) = warm(*BUILD, "--smoke", "--refresh", "check", "--format", "json").ok().json()
    assert (built["steps_run"], built["steps_reused"]) == (1, 6)


def test_a_damaged_output_is_found_by_verify_and_made_again(warm: Cli) -> None:
    before, contents_before = warm.outputs(), contents(warm)
    (archive,) = (warm.home / "store" / "encode").glob("*/linears.irpa")
    payload = bytearray(archive.read_bytes())
    payload[len(payload) // 2] ^= 0x10
    archive.write_bytes(payload)
    assert warm("cache", "verify").ok().stdout == "1 damaged output(s) removed\n"
    assert warm("cache", "verify").ok().stdout == "every output is whole\n"
    assert "1 steps run" in warm(*BUILD, "--smoke").ok().stderr
    assert set(warm.outputs()) == set(before)
    assert contents(warm) == contents_before


def test_damage_in_the_cache_never_reaches_a_bundle(warm: Cli) -> None:
    """An output altered in the cache, its size kept, is not packed: its recorded digest is part of the identity."""
    shutil.rmtree(warm.store)
    (archive,) = (warm.home / "store" / "encode").glob("*/linears.irpa")
    payload = bytearray(archive.read_bytes())
    payload[len(payload) // 2] ^= 0x10
    archive.write_bytes(payload)
    refused = warm(*BUILD)
    assert refused.code == 6, refused.stderr
    assert "cache verify" in refused.stderr
    assert warm.tags() == {}
    warm("cache", "verify").ok()
    warm(*BUILD).ok()
    assert list(warm.tags()) == ["mlp:dev"]


def test_deleting_the_cache_leaves_the_bundle_usable(warm: Cli) -> None:
    shutil.rmtree(warm.home)
    assert warm("inspect", "mlp:dev").code == 0
    checked = warm("check", "mlp:dev", "--format", "json").ok().json()
    assert checked[0]["check"]["parity"]["max_abs"] < 5e-5


def test_collecting_everything_makes_the_next_build_start_over(warm: Cli) -> None:
    warm("cache", "gc", "--older-than-days", "0").ok()
    assert warm.outputs() == {}
    assert warm("cache", "du", "--format", "json").ok().json() == {}


def contents(cli: Cli) -> dict[str, str]:
    inspected = cli("inspect", "mlp:dev", "--format", "json").ok().json()
    return {row["identity"]["variant_id"]: row["identity"]["content_sha256"] for row in inspected["serving"]}


def test_two_builds_of_the_same_at_once_do_the_work_once_and_both_succeed(cli: Cli, shared_mlp: Cli) -> None:
    started = [cli.start(*BUILD, "--smoke", "--format", "json") for _ in range(2)]
    said = [process.communicate(timeout=RUN_TIMEOUT_S) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    built = [json.loads(stdout)[0] for stdout, _ in said]
    assert built[0]["steps_run"] + built[1]["steps_run"] == 7
    assert built[0]["steps_reused"] + built[1]["steps_reused"] == 7
    assert any("another build is making it" in stderr for _, stderr in said)
    assert list(cli.tags()) == ["mlp:dev"]
    assert contents(cli) == contents(shared_mlp), "a build in another folder and home gives the same content"


def test_a_model_given_from_another_folder_has_the_same_steps(warm: Cli, tmp_path: Path) -> None:
    own_model(warm.cwd)
    planned = warm("plan", "mine.toml", "-t", "llvm-cpu-host", "-q", "fp32", "--format", "json").ok().json()
    assert all(row["done"] for row in planned)


@pytest.mark.slow
def test_quantised_builds_in_another_folder_have_the_same_content(shared_quantised_mlp: Cli, cli: Cli) -> None:
    cli(
        "build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "-q", "fp8", "-q", "w4a16", "-q", "w4a16-asym", "--smoke",
        "-j", "1",
    ).ok()
    assert contents(cli) == contents(shared_quantised_mlp)
    assert len(set(contents(cli).values())) == 4


def test_the_number_of_jobs_does_not_change_the_plan(warm: Cli) -> None:
    one, two = (warm(*BUILD, "-j", jobs, "--format", "json").ok().json()[0] for jobs in ("1", "2"))
    assert one["digest"] == two["digest"]
    assert one["steps_run"] == two["steps_run"] == 0


def test_closing_the_readers_end_is_no_error(warm: Cli) -> None:
    process = subprocess.Popen(
        warm.argv("models", "list"), cwd=warm.cwd, env=warm.environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 0
