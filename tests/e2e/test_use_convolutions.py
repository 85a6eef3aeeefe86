"""A convolutional network for this machine's CPU: its convolutions are the kernel's, and the bundle says so."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command import Cli


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64-v3 is for x86-64")
def test_the_convolutions_of_a_verified_network_are_calls_of_the_kernel(cli: Cli):
    built = cli("build", "cnn", "-t", "x86-64-v3", "-q", "fp32", "--smoke", "--format", "json").ok().json()
    assert [variant["status"] for variant in built[0]["variants"]] == ["verified"]
    told = cli("inspect", "cnn#x86-64-v3/fp32", "--format", "json").ok().json()
    kernel = told["facts"]["x86-64-v3/fp32"]["lower"]["vendor"]["kernels"]["conv2d"]
    assert kernel["linked"]
    assert kernel["matched"] == {"b1": 2, "b8": 2}
