"""An emulated chip executes the shipped code, counts it, and refuses what it would compute wrongly."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from emulated_parts import (
    CPU,
    MATMUL,
    chip,
    compiled,
    described,
    executable,
    feeds,
    needs_emulator,
    program,
    with_executable,
    with_flipped_instruction,
)

from hwc import digest
from hwc.errors import IntegrityError, MachineError
from hwc.lower import emulate, emulator_tools, isa
from hwc.runtime.session import Session

pytestmark = needs_emulator
counts_instructions = pytest.mark.skipif(
    not emulator_tools.takes_plugins(Path(shutil.which("qemu-riscv64") or "/bin/true")),
    reason="qemu-riscv64 takes no plugins, by which instructions are counted",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the agent and the driver are compiled, once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def one_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWC_HOME", str(home))


def test_a_matmul_on_the_chip_equals_numpy(code: bytes, tmp_path: Path) -> None:
    found = Session(program(code, tmp_path, chip())).call("mm", feeds())["r"]
    np.testing.assert_allclose(found, feeds()["a"] @ feeds()["b"], atol=1e-5)


@counts_instructions
def test_every_call_executes_as_many_instructions(code: bytes, tmp_path: Path) -> None:
    session, seen = Session(program(code, tmp_path, chip())), []
    for _ in range(3):
        session.call("mm", feeds())
        told = session.executed()
        assert told is not None
        seen.append(told["instructions"])
    assert seen == [seen[0], 2 * seen[0], 3 * seen[0]]
    assert seen[0] > 64 * 4  # one multiply-add of vectors for each of 64 products and 4 rows, at least
    assert told["dispatches"][0]["calls"] == 3


@counts_instructions
def test_counts_of_several_executables_are_told_together(tmp_path: Path) -> None:
    """Two products, the first one of 4×64×32 and its result by itself: each in an ELF of its own, and in one."""
    second = MATMUL.replace(
        "return %r : tensor<4x32xf32>",
        "%t = linalg.transpose ins(%r : tensor<4x32xf32>) outs(%te : tensor<32x4xf32>) permutation = [1, 0]\n"
        "    %s = linalg.matmul ins(%r, %t : tensor<4x32xf32>, tensor<32x4xf32>) outs(%ze : tensor<4x4xf32>) -> "
        "tensor<4x4xf32>\n    return %s : tensor<4x4xf32>",
    ).replace("-> tensor<4x32xf32> {\n    %zero", "-> tensor<4x4xf32> {\n    %zero").replace(
        "%sums =",
        "%te = tensor.empty() : tensor<32x4xf32>\n    %e4 = tensor.empty() : tensor<4x4xf32>\n"
        "    %ze = linalg.fill ins(%zero : f32) outs(%e4 : tensor<4x4xf32>) -> tensor<4x4xf32>\n    %sums =",
    )
    told = []
    for apart in (False, True):
        work = tmp_path / str(apart)
        work.mkdir()
        code = compiled(work, text=second, apart=apart)
        session = Session(program(code, work, chip(), result=(4, 4)))
        for _ in range(2):
            product = feeds()["a"] @ feeds()["b"]
            np.testing.assert_allclose(session.call("mm", feeds())["r"], product @ product.T, rtol=1e-4)
        told.append(session.executed())
    together, several = told
    assert together is not None
    assert several is not None
    assert (len(together["executables"]), len(several["executables"])) == (1, len(together["dispatches"]))
    assert len(several["executables"]) > 1
    assert sorted(row["dispatch"] for row in together["dispatches"]) == sorted(
        row["dispatch"] for row in several["dispatches"]
    )
    assert all(row["calls"] == 2 and row["instructions"] > 0 for row in several["dispatches"])
    assert several["instructions"] == sum(row["instructions"] for row in several["dispatches"])


def test_an_emulator_without_plugins_runs_and_tells_no_instructions(
    code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's QEMU 10, whose user mode is built without plugins, here as the emulator at hand less that option."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qemu-riscv64").write_text(
        f'#!/bin/sh\n[ "$1" = -help ] && exit\nfor word; do [ "$word" = -plugin ] && exit 9; done\n'
        f'exec {shutil.which("qemu-riscv64")} "$@"\n'
    )
    (tmp_path / "bin" / "qemu-riscv64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    session = Session(program(code, tmp_path, chip()))
    session.call("mm", feeds())
    told = session.executed()
    assert told is not None
    assert told["instructions"] is None
    assert [(row["calls"], "instructions" in row) for row in told["dispatches"]] == [(1, False)]
    assert "takes no plugins" in told["method"]


@counts_instructions
def test_the_counter_counts_every_instruction_of_a_loop(home: Path, tmp_path: Path) -> None:
    source = """int main(int n, char **a) {
      long i = __builtin_atoi(a[1]); __asm__ volatile("1: addi %0, %0, -1\\n bnez %0, 1b" : "+r"(i)); return 0; }"""
    (tmp_path / "loop.c").write_text("#include <stdlib.h>\n" + source.replace("__builtin_atoi", "atoi"))
    tools = emulator_tools.ready(chip(), home)
    emulator_tools.compile_c(("riscv64-linux-gnu-gcc", "-O1", "-static", "-o", "loop", "loop.c"), tmp_path)

    def counted(rounds: int) -> int:
        counters = tmp_path / "counters"
        counters.write_bytes(bytes(1 << 20))
        command = [str(tools.emulator), "-plugin", str(tools.counter), "./loop", str(rounds)]
        with counters.open("r+b") as stream:
            subprocess.run(
                ["bash", "-c", 'exec 6<>"$0" "$@"', str(counters), *command], cwd=tmp_path, check=True, timeout=60
            )
            return int.from_bytes(stream.read(8), "little")

    assert counted(51_000) - counted(11_000) == 2 * 40_000


def test_the_chip_executes_the_shipped_bytes(code: bytes, home: Path) -> None:
    shipped = executable(code)[1]
    twin = emulate.twin(code, chip(), home)
    assert [one.sha256 for one in twin.executables] == [digest.of_bytes(shipped)]
    assert [one.sha256 for one in isa.executables(code)] == [digest.of_bytes(shipped)]
    assert shipped in twin.code


def test_a_flipped_instruction_changes_the_result(code: bytes, tmp_path: Path) -> None:
    flipped = with_flipped_instruction(code)
    assert isa.executables(flipped)[0].sha256 != isa.executables(code)[0].sha256
    found = Session(program(flipped, tmp_path, chip())).call("mm", feeds())["r"]
    assert np.max(np.abs(found - feeds()["a"] @ feeds()["b"])) > 0.1


def test_the_stock_runtime_refuses_the_shipped_module_by_its_format(code: bytes, tmp_path: Path) -> None:
    import iree.runtime as rt

    (tmp_path / "shipped.vmfb").write_bytes(code)
    with pytest.raises(RuntimeError, match="text-book-chip-v1"):
        rt.load_vm_flatbuffer_file(str(tmp_path / "shipped.vmfb"), driver="local-sync")


@pytest.mark.parametrize("vlen", [128, 512])
def test_another_vector_length_is_refused(code: bytes, home: Path, vlen: int) -> None:
    with pytest.raises(MachineError, match=f"registers of 256 bits, the core's have {vlen}") as refusal:
        emulate.twin(code, chip(vlen), home)
    assert refusal.value.exit_code == 4


def test_the_agent_itself_refuses_another_vector_length(home: Path) -> None:
    tools = emulator_tools.ready(chip(), home)
    ours, theirs = socket.socketpair()
    command = tools.command(chip(128), "serve", "256")
    with subprocess.Popen(
        ["bash", "-c", 'exec 4<&"$0" && exec "$@"', str(theirs.fileno()), *command],
        pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True,
    ) as agent:
        theirs.close()
        status, vlen_bits = np.frombuffer(ours.recv(16), np.uint32)[:2]
        _, said = agent.communicate(timeout=60)
    assert (status, vlen_bits) == (1, 128)
    assert "made for 256-bit vector registers, the core's have 128" in said
    assert agent.returncode == 1


def test_a_core_without_an_extension_is_refused(home: Path, tmp_path: Path) -> None:
    code = compiled(tmp_path, "+zfh")
    with pytest.raises(MachineError, match=r"lacks extensions .*zfh"):
        emulate.twin(code, chip(), home)
    emulate.twin(code, chip(cpu=CPU.format(vlen=256) + ",Zfh=true"), home)


def test_what_every_core_has_is_not_asked_of_it(home: Path, tmp_path: Path) -> None:
    code = compiled(tmp_path, "+zifencei")
    assert "zifencei" in emulate.twin(code, chip(), home).executables[0].extensions


def test_without_the_emulator_the_package_is_named(
    code: bytes, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gcc", "riscv64-linux-gnu-gcc"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="qemu-riscv64 is not installed") as refusal:
        emulate.twin(code, chip(), home)
    assert "apt-get install qemu-user" in refusal.value.hint


def test_an_older_emulator_is_refused(code: bytes, home: Path) -> None:
    with pytest.raises(MachineError, match=r"too old for this chip, which needs 99.0"):
        emulate.twin(code, chip(min_version="99.0"), home)


@pytest.mark.parametrize("changed", [{"program": "sh"}, {"program": "/bin/sh"}, {"cpu": "rv64 -plugin /tmp/x.so"}])
def test_a_bundle_cannot_name_another_program(code: bytes, home: Path, changed: dict[str, str]) -> None:
    with pytest.raises(MachineError, match="hwc does not run code under"):
        emulate.twin(code, chip(**changed), home)


def test_a_module_without_code_for_the_chip_is_refused(code: bytes, home: Path) -> None:
    with pytest.raises(IntegrityError, match="no executable in the format other-chip"):
        emulate.twin(code, chip(format="other-chip"), home)


def _agents() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"qemu-riscv64" in (entry / "cmdline").read_bytes().split(b"\0")[0]:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_emulator_ends_with_whoever_started_it(code: bytes, tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "held.py").write_text(
        "import sys, time; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from emulated_parts import chip, program; from hwc.runtime.session import Session\n"
        "work = Path(sys.argv[1]); held = Session(program((work / 'code').read_bytes(), work, chip()))\n"
        "print('ready', flush=True); time.sleep(600)\n"
    )
    (tmp_path / "code").write_bytes(code)
    argv = [sys.executable, str(tmp_path / "held.py"), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        mine = {pid for pid in _agents() if _parent(pid) == holder.pid}
        assert mine
        os.kill(holder.pid, sent)
    ends = time.monotonic() + 20
    while mine & _agents() and time.monotonic() < ends:
        time.sleep(0.05)
    assert not mine & _agents()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_code_that_crashes_ends_the_emulator_alone(code: bytes, tmp_path: Path) -> None:
    elf = bytearray(executable(code)[1])
    at = bytes(elf).index(b"\x07\x6c\x05\x02")  # vle32.v v24, (a0)
    elf[at : at + 4] = b"\x00\x00\x00\x00"  # an illegal instruction
    session = Session(program(with_executable(code, bytes(elf)), tmp_path, chip()))
    with pytest.raises(RuntimeError):
        session.call("mm", feeds())


def test_the_agent_describes_a_sound_executable(code: bytes, home: Path, tmp_path: Path) -> None:
    assert described(executable(code)[1], tmp_path, home)[0] == 0
