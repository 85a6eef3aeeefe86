"""A fault that an emulator is known for is told with its remedy, and not as one of the code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from emulated_parts import chip, program

from hwc.errors import HwcError, MachineError, StepError
from hwc.runtime import clean

QEMU = "qemu-riscv64: ../../target/riscv/translate.c:213: decode_save_opc: Assertion `ctx->insn_start != NULL' failed."


@pytest.mark.parametrize(("said", "error"), [(QEMU, MachineError), ("qemu-riscv64: something else", StepError)])
def test_the_emulators_last_words_decide_whose_fault_it_is(
    said: str, error: type[HwcError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends as a child of QEMU's does; the words are those of Debian's 7.2.22."""
    worker = tmp_path / "worker.py"
    worker.write_text(f"import sys\nsys.stderr.write({said!r})\nsys.exit(1)\n")
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} {worker}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(error, match="the artefact's process exited with status 1: qemu-riscv64: ") as ended:
        clean.serve(tmp_path, program(b"", tmp_path, chip()), "check", timeout_s=60, memory_bytes=1 << 30)
    assert ("bookworm-backports" in ended.value.hint) == (error is MachineError)
