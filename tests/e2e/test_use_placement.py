"""A chip that does not do everything, and chips side by side: what a user is told, and what runs where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from command import Cli, Ran

HEAD = """name = "{name}"
title = "A chip to try things with"
kind = "asic"
hardware_status = "software"
{price}
[execution]
driver = "local-sync"
functional_only = {functional}

[encoding]
int4 = "{int4}"
"""
ONE = """
[lowering]
backend = "vmvx"
opt_level = "O1"

[formats.int4]
group_sizes = [32]

[[legality]]
ops = ["matmul"]
at_least = {{ m = 2 }}
action = "native"

[[legality]]
ops = ["matmul"]
action = "{action}"
reason = "the array starts at two rows"
"""
PAIR = """
[lowering]
backend = "llvm-cpu"
cpu = "x86-64-v3"
opt_level = "O2"
shards = 2

[hardware.system]
chips = 2

[hardware.links.board]
peer = "chip"
bytes_per_s = 1e10
latency_s = 1e-6

[sources]
hardware = { kind = "assumed" }
"""
LINK_BYTES = 4 * (256 + 512 + 512 + 5)
"""Of one row: the input out, the second layer's product back, its sum out again, and half of the logits back."""


@pytest.fixture(scope="module")
def chips(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A command line whose working folder describes three chips beside the shipped ones."""
    cli = shared_mlp.copied_to(tmp_path_factory.mktemp("chips"))
    folder = cli.cwd / "targets"
    folder.mkdir()
    head = {"price": "", "functional": "true", "int4": "u8-nibbles"}
    for name, action in (("fussy", "host"), ("strict", "reject")):
        (folder / f"{name}.toml").write_text(HEAD.format(name=name, **head) + ONE.format(action=action))
    head = {"price": 'price = "cpu-2core-slice"', "functional": "false", "int4": 'i4-grouped"\nfp8 = "e4m3-bits'}
    (folder / "pair.toml").write_text(HEAD.format(name="pair", **head) + PAIR)
    (cli.cwd / "hwc.toml").write_text('targets_dir = "targets"\n')
    return cli


def told(ran: Ran) -> dict[str, dict[str, Any]]:
    return {shape["bucket"]: shape for shape in json.loads(ran.stdout)}


def test_coverage_is_told_by_shape_and_fails_under_the_gate_with_the_modules(chips: Cli) -> None:
    ran = chips("targets", "check", "fussy", "--model", "mlp", "--format", "json")
    assert ran.code == 3
    shapes = told(ran)
    assert (shapes["b16"]["covered"]["flops"], shapes["b16"]["passed"]) == (1.0, True)
    assert (shapes["b1"]["covered"]["flops"], shapes["b1"]["passed"]) == (0.0, False)
    (blocker,) = shapes["b1"]["blockers"]
    assert (blocker["op"], blocker["action"], blocker["reason"]) == ("matmul", "host", "the array starts at two rows")
    assert len(blocker["dispatches"]) == 3
    assert blocker["shares"]["flops"] == 1.0
    assert "the array starts at two rows" in ran.stderr


def test_a_scheme_that_the_packing_does_not_hold_is_refused_before_any_work(chips: Cli) -> None:
    checked = chips("targets", "check", "fussy", "--model", "mlp", "-q", "w4a16-g128")
    built = chips("build", "mlp", "-t", "fussy", "-q", "w4a16-g128")
    assert (checked.code, built.code) == (3, 2)
    for ran in (checked, built):
        assert "int4 has groups of 128; the chip's packing holds groups of 32" in ran.stderr


def test_what_falls_back_is_built_runs_on_the_host_and_passes_the_gates(chips: Cli) -> None:
    built = chips("build", "mlp", "-t", "fussy", "-q", "fp32", "--smoke", "--format", "json").ok().json()[0]
    (variant,) = built["variants"]
    assert variant["status"] == "verified"
    assert variant["fanout"]["peer"] == "host"
    facts = chips("inspect", "mlp:dev#fussy/fp32", "--format", "json").ok().json()["facts"]
    lowered = facts["fussy/fp32"]["lower"]
    assert len(lowered["placement"]["b1"]["on_host"]) == 3
    assert lowered["beside"][0]["driver"] == "local-sync"


def test_what_nothing_runs_fails_the_build_by_operation_module_and_bucket(chips: Cli) -> None:
    ran = chips("build", "mlp", "-t", "strict", "-q", "fp32", "--smoke")
    assert ran.code == 5
    assert "nothing runs matmul of float32 by float32 weights: the array starts at two rows" in ran.stderr
    assert "bucket b1" in ran.stderr
    assert chips("targets", "check", "strict", "--model", "mlp").code == 3


def test_two_chips_answer_as_one_and_tell_what_passes_between_them(chips: Cli) -> None:
    built = chips("build", "mlp", "-t", "pair", "-q", "fp32", "--smoke", "--format", "json").ok().json()[0]
    (variant,) = built["variants"]
    assert (variant["status"], variant["target"]["count"], variant["fanout"]["chips"]) == ("verified", 2, 2)
    cells = {cell["bucket"]: cell for cell in variant["fanout"]["cells"]}
    assert cells["b16"]["link_bytes"] == 16 * cells["b1"]["link_bytes"] == 16 * LINK_BYTES
    assert "2 such devices" in variant["cost"]["assumptions"]


def test_quantised_linears_are_split_like_those_in_float_and_pass_the_gates(chips: Cli) -> None:
    ran = chips("build", "mlp", "-t", "pair", "-q", "w4a16", "-q", "fp8", "--smoke", "--format", "json").ok()
    (built,) = ran.json()
    for variant in built["variants"]:
        assert variant["status"] == "verified"
        cells = {cell["bucket"]: cell["link_bytes"] for cell in variant["fanout"]["cells"]}
        assert cells["b16"] == 16 * cells["b1"] == 16 * LINK_BYTES  # whatever is stored
    facts = chips("inspect", f"{built['variants'][0]['identity']['bundle_id']}#pair/w4a16", "--format", "json").json()
    assert facts["facts"]["pair/w4a16"]["lower"]["sharding"]["functions"]["b1"]["rows"]
