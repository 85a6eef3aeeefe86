"""A user runs and times an artefact on two threads: the same answers, and a measurement that says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hwc.api import find_variant
from hwc.bundle.export_dir import chosen_measurement

if TYPE_CHECKING:
    from command import Cli

VARIANT = "mlp:dev#llvm-cpu-host/fp32"
TWO = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="NOT TESTED: this process has one processor")


@pytest.fixture
def cli(shared_mlp: Cli, tmp_path: Any) -> Cli:
    """Return a copy of the built perceptron to measure."""
    return shared_mlp.copied_to(tmp_path / "threads")


def outputs(cli: Cli, *options: str) -> dict[str, Any]:
    given, found = cli.cwd / "in.npz", cli.cwd / "out.npz"
    np.savez(given, features=np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32))
    cli("run", VARIANT, "--input", given, "--output", found, *options).ok()
    with np.load(found) as arrays:
        return dict(arrays)


@TWO
def test_two_threads_give_the_answers_of_one(cli: Cli) -> None:
    one, two = outputs(cli), outputs(cli, "--threads", "2")
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-6, atol=1e-6)


@TWO
def test_a_profile_on_two_threads_stands_beside_that_on_one_and_is_not_served_by(cli: Cli) -> None:
    (row,) = cli("profile", VARIANT, "--threads", "2", "--format", "json").ok().json()
    assert (row["profile"]["conditions"]["threads"], row["profile"]["conditions"]["driver"]) == (2, "local-task")
    variant = find_variant(VARIANT, store=cli.store)
    told = {one.method: one.parsed_serving().profile.conditions.threads for one in variant.measurements}
    assert told == {"build": 1, "profile-threads-2": 2}
    chosen = chosen_measurement(variant)
    assert chosen is not None
    assert chosen.method == "build"


def test_more_threads_than_processors_are_refused_and_nothing_is_measured(cli: Cli) -> None:
    before = cli.tags()
    ran = cli("profile", VARIANT, "--threads", str(len(os.sched_getaffinity(0)) + 1))
    assert ran.code == 4
    assert "processor" in ran.stderr
    assert (ran.stdout, cli.tags()) == ("", before)


def test_no_threads_are_no_number_of_threads(cli: Cli) -> None:
    ran = cli("check", VARIANT, "--threads", "0")
    assert ran.code == 2
    assert "--threads" in ran.stderr
