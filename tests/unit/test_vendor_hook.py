"""A vendor's tool that hangs, crashes or writes nonsense is told as that, and leaves no artefact."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from compiled_parts import LIMITS
from vendor_parts import with_kernels

from hwc.errors import StepError
from hwc.lower import iree
from hwc.lower.hook import Hook
from hwc.spec.legality import Vendor

ADD = """module {
  func.func @add(%a: tensor<64xf32>, %b: tensor<64xf32>) -> tensor<64xf32> {
    %0 = arith.addf %a, %b : tensor<64xf32>
    return %0 : tensor<64xf32>
  }
}
"""
NAME = "add_dispatch_0"
BAD_TOOLS = {
    "hangs": ("import time; time.sleep(60)", "it stopped at its time limit"),
    "crashes": (
        "import os, sys; sys.stderr.write('core dumped\\n'); sys.stderr.flush(); os.kill(os.getpid(), 11)",
        "it crashed with signal SIGSEGV\ncore dumped",
    ),
    "fails": ("import sys; sys.exit('acme: unsupported op')", "it exited with status 1\nacme: unsupported op"),
    "says nothing": ("pass", "it wrote nothing"),
    "writes bytes": (
        "import sys; sys.stdout.buffer.write(bytes(range(128, 256)))", "it wrote 128 bytes that are no text",
    ),
    "writes prose": ("print('done, all good')", "it wrote no hal.executable, but 'done, all good'"),
    "writes another": ("print('hal.executable private @other {}')", "it wrote another executable: other"),
    "drops an export": (
        "import sys; print(sys.stdin.read().replace('executable.export public @', 'executable.export public @x_'))",
        "it wrote other exports: x_",
    ),
    "writes broken MLIR": (
        "import sys; print(sys.stdin.read().replace('builtin.module {', 'builtin.module { %0p = nonsense', 1))",
        "it wrote what is no MLIR for the compiler",
    ),
    "names an object that is not there": (
        "import sys; print(sys.stdin.read(), '// hal.executable.object<{path = \"gone.o\"}>')",
        "is not in \\$HWC_OBJECTS",
    ),
    "names an object outside": (
        "import sys; print(sys.stdin.read(), '// hal.executable.object<{path = \"/bin/true\"}>')",
        "lies outside \\$HWC_OBJECTS",
    ),
    "gives an object for another instruction set": (
        "import os, sys; head = bytearray(b'\\x7fELF\\x02\\x01\\x01' + bytes(57)); head[16] = 1; head[18] = 243\n"
        "open(os.environ['HWC_OBJECTS'] + '/a.o', 'wb').write(head)\n"
        "print(sys.stdin.read(), '// hal.executable.object<{path = \"a.o\"}>')",
        "another instruction set: riscv64, the target's is x86_64",
    ),
}


def hooked(code: str, folder: Path, timeout_s: float = 60.0) -> Hook:
    (folder / "tool.py").write_text(textwrap.dedent(code))
    own = with_kernels(
        folder, {}, vendor=Vendor(executable_hook=(sys.executable, "tool.py"), timeout_s=timeout_s)
    )
    return Hook(own, "x86_64", folder)


@pytest.mark.parametrize("name", BAD_TOOLS)
def test_a_tool_that_fails_names_the_executable_and_keeps_what_it_said(name, tmp_path: Path):
    code, words = BAD_TOOLS[name]
    hook = hooked(code, tmp_path, timeout_s=1.0 if name == "hangs" else 60.0)
    flags = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu", *hook.flags)
    with pytest.raises(iree.CompileFailed) as failed:
        iree.compile_module(
            ADD, (*flags, "--iree-llvmcpu-target-cpu=x86-64-v3"), work=tmp_path, limits=LIMITS, programs=(hook.folder,)
        )
    with pytest.raises(StepError, match=f"the vendor's tool on executable `{NAME}`") as caught:
        hook.raise_failure(failed.value.outcome.stderr)
    with pytest.raises(StepError, match=words):
        raise caught.value
    assert not (tmp_path / "module.vmfb").exists()
    hook.keep_log(tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert name not in ("crashes", "fails") or words.partition("\n")[2] in said


def test_a_tool_that_passes_all_through_is_told_to_have_changed_nothing(tmp_path: Path):
    hook = hooked("import sys; sys.stderr.write('seen\\n'); sys.stdout.write(sys.stdin.read())", tmp_path)
    flags = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu", *hook.flags)
    iree.compile_module(
        ADD, (*flags, "--iree-llvmcpu-target-cpu=x86-64-v3"), work=tmp_path, limits=LIMITS, programs=(hook.folder,)
    )
    hook.keep_log(tmp_path / "log")
    passed = hook.passed()
    assert (passed.executables, passed.changed, passed.objects) == ((NAME,), (), ())
    assert (tmp_path / "log").read_text() == f"== {NAME}\nseen\n\n"
