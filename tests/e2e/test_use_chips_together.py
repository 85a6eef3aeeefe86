"""Emulated chips beside their host and beside each other, and a language model over two chips: each in one artefact."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from command import ROOT, Cli

sys.path.insert(0, str(ROOT / "tests" / "unit"))  # emulated_parts.py

from emulated_parts import needs_emulator

pytestmark = pytest.mark.slow
TO_HOST = """[[legality]]
ops = ["matmul"]
at_least = { k = 512 }
action = "host"
reason = "long reductions go to the host"

"""


def derived(cli: Cli, name: str, changes: Mapping[str, str]) -> None:
    """Describe a chip like the shipped one, with some lines changed."""
    text = (ROOT / "targets" / "rv64gcv-npu.toml").read_text()
    for old, new in {'name = "rv64gcv-npu"': f'name = "{name}"', **changes}.items():
        assert old in text
        text = text.replace(old, new, 1)
    (cli.cwd / "targets").mkdir(exist_ok=True)
    (cli.cwd / "targets" / f"{name}.toml").write_text(text)
    shutil.copytree(ROOT / "targets" / "kernels", cli.cwd / "targets" / "kernels")
    (cli.cwd / "hwc.toml").write_text('targets_dir = "targets"\n')


def built(cli: Cli, model: str, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build in float; return serving.json and what lowering told."""
    ran = cli("build", model, "-t", target, "-q", "fp32", "--smoke", "--format", "json").ok()
    (variant,) = ran.json()[0]["variants"]
    name = f"{variant['identity']['bundle_id']}#{target}/fp32"
    facts = json.loads(cli("inspect", name, "--format", "json").ok().stdout)["facts"]
    return variant, facts[f"{target}/fp32"]["lower"]


@needs_emulator
def test_an_emulated_chip_leaves_work_to_the_host_beside_it(shared_mlp: Cli, tmp_path: Any) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    derived(cli, "rv-fussy", {"[[legality]]": TO_HOST + "[[legality]]"})
    variant, lowered = built(cli, "mlp", "rv-fussy")
    assert (variant["status"], variant["fanout"]["peer"], variant["fanout"]["link"]) == ("verified", "host", "pcie")
    assert (lowered["placement"]["b1"]["dispatches"], len(lowered["placement"]["b1"]["on_host"])) == (4, 2)
    assert lowered["placement"]["b1"]["link_bytes_per_call"] == 2048
    assert lowered["executables"][0]["arch"]  # the chip's own code is in it, too


@needs_emulator
def test_two_emulated_chips_share_the_linears(shared_mlp: Cli, tmp_path: Any) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    derived(cli, "rv-pair", {'opt_level = "O3"': 'opt_level = "O3"\nshards = 2'})
    variant, lowered = built(cli, "mlp", "rv-pair")
    assert (variant["status"], variant["fanout"]["chips"], variant["fanout"]["link"]) == ("verified", 2, "neighbours")
    assert lowered["sharding"]["functions"]["b1"]["rows"]
    assert lowered["beside"][0]["emulator"]["program"] == "qemu-riscv64"


PAIR = """name = "pair"
title = "Two CPUs side by side"
kind = "asic"
hardware_status = "software"

[lowering]
backend = "llvm-cpu"
cpu = "x86-64-v3"
opt_level = "O2"
shards = 2

[encoding]
int4 = "i4-grouped"

[execution]
driver = "local-sync"

[hardware.system]
chips = 2

[hardware.links.board]
peer = "chip"
bytes_per_s = 1e10

[sources]
hardware = { kind = "assumed" }
"""


def test_a_language_model_over_two_chips_writes_the_same_tokens(language: Cli, built_language: Any) -> None:
    """A token passes 8 times as 64 floats (out and back, for attention and MLP of two layers), and where it stands."""
    folder = language.cwd / "pair-targets"
    folder.mkdir()
    (folder / "pair.toml").write_text(PAIR)
    ran = language(
        "--targets-dir", folder, "build", "./tiny-llama", "-t", "pair", "-q", "fp32", "-q", "w4a16", "--smoke",
        "--tag", "pair", "--format", "json",
    )
    (built,) = ran.ok().json()
    for variant in built["variants"]:
        told = {row["metric"]: row["value"] for row in variant["quality"]}
        assert told["greedy_tokens"] == 64
        assert told["parity_max_abs"] < 1e-4
        cells = {cell["bucket"]: cell for cell in variant["fanout"]["cells"]}
        assert variant["fanout"]["unit"] == "token"
        assert {cell["link_bytes_per_unit"] for name, cell in cells.items() if name == "b1_s1_l1"} == {8 * 64 * 4 + 8}
